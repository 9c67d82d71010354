"""
How fast data.py turns text into tokens, and tokens into batches, all in one run.

    python tests/bench_data.py                      # 200 MB, on all cores: several minutes
    python tests/bench_data.py --megabytes 20       # an impression

The text is the default corpus over and over, one character in a thousand replaced, so that no
copy is quite like another; it and what becomes of it lie in a temporary folder. Each preparation
is a process of its own, so that its peak memory is its own (or
this one's, where that is larger: Linux hands it down). The last table says what share of a
training step goes into drawing its batch, where this machine has trained that shape: give the
seconds a step takes with --step-seconds nano=0.07.
"""
import argparse
import json
import os
import random
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np                                      # noqa: E402
import data                                             # noqa: E402
import ingest                                           # noqa: E402
from model import SHAPES, GPTConfig                     # noqa: E402
from train import PRESETS, TrainConfig                  # noqa: E402

PREPARE = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import data
start = time.perf_counter()
folder = data.prepare(data.DataConfig(**json.loads(sys.argv[2])))
seconds = time.perf_counter() - start
meta = json.loads((folder / "meta.json").read_text())
print(json.dumps({"seconds": seconds, "folder": str(folder), "tokens": meta["train"]["tokens"],
                  "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                  "workers": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}))
"""


def write_noisy(path, megabytes):
    """The plays, again and again, with other letters in other places each time."""
    rng, text, written = random.Random(1), "\n".join(p.read_text() for p in ingest.plays()), 0
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            noisy = list(text[:megabytes * 1_000_000 - written])
            for i in rng.choices(range(len(noisy)), k=len(noisy) // 1000):
                noisy[i] = rng.choice(string.ascii_lowercase)
            written += file.write("".join(noisy))


def prepare(**settings):
    done = subprocess.run([sys.executable, "-c", PREPARE, str(Path(data.__file__).parent),
                           json.dumps(settings)], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout)


def batches_per_second(tokens, B, T, seconds=2.0):
    """Batches that draw alone gives in a second, its first one left out."""
    data.draw(tokens, B, T, 1, 0)
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        n += 1
        data.draw(tokens, B, T, 1, n)
    return n / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--tokenizers", nargs="+", default=["char", "word", "bpe", "gpt2"])
    parser.add_argument("--step-seconds", nargs="*", default=[], metavar="PRESET=SECONDS")
    options = parser.parse_args()
    steps = dict(pair.split("=") for pair in options.step_seconds)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_noisy("noisy.txt", options.megabytes)
        size = os.path.getsize("noisy.txt") / 1e6
        print(f"{size:.0f} MB on {data.n_cores()} cores, everything on\n\n"
              "| tokenizer | seconds | MB/s | peak memory | the largest of its workers |\n"
              "|---|---:|---:|---:|---:|")
        corpus = None
        for kind in options.tokenizers:
            done = prepare(source="noisy.txt", tokenizer=kind)
            if isinstance(done, str):
                print(f"| {kind} | {done} |")
                continue
            corpus = data.load_corpus(done["folder"])
            print(f"| {kind} | {done['seconds']:.1f} | {size / done['seconds']:.1f} | "
                  f"{done['memory']:.0f} MiB | {done['workers']:.0f} MiB |", flush=True)
        tokens = corpus.train if corpus else np.zeros(10_000_000, np.uint16)
        print(f"\nfrom {len(tokens):,} tokens:\n\n| preset | batch | batches/s | ms a batch | "
              "share of a step |\n|---|---:|---:|---:|---:|")
        for name in ("nano", "baby", "gpt2"):
            B = PRESETS[name].get("batch_size", TrainConfig.batch_size)
            T = SHAPES[name].get("context_length", GPTConfig.context_length)
            rate = batches_per_second(tokens, B, T)
            share = f"{1 / rate / float(steps[name]):.2%}" if name in steps else "-"
            print(f"| {name} | {B} x {T} | {rate:,.0f} | {1000 / rate:.3f} | {share} |")


if __name__ == "__main__":
    main()
