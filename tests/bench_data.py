"""
How fast a corpus is prepared, in what memory; and how fast a batch is drawn.

    python tests/bench_data.py [--source my.txt]    # 50 MB, by each tokenizer; about three minutes
    python tests/bench_data.py --megabytes 1        # does it run? The figures mean little

The corpus is the documents of --source, all of them as often as it takes. Each preparation runs
once, as a process of its own, whose peak memory includes what Python and PyTorch take.
"""
import contextlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

from bench_tokenizer import data, race
from model import GPTConfig
from tokenizer import Parser, clear_errors
from train import PRESETS, TrainConfig


def prepare(tokenizer):
    """The corpus's folder, the seconds, and this process's peak memory in MiB."""
    start = time.perf_counter()
    folder = data.prepare(data.DataConfig(("corpus.jsonl",), tokenizer))
    took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return folder, took, peak / 2 ** (20 if sys.platform == "darwin" else 10)   # a Mac gives bytes


def main():
    parser = Parser("Measure how fast a corpus is prepared, and a batch drawn.")
    parser.add_argument("--source", default="shakespeare", help="text that is repeated")
    parser.add_argument("--megabytes", type=float, default=50, help="about how much (default: 50)")
    options = parser.parse_args()
    with clear_errors():
        texts = [text for _, text in data.documents([options.source])]
    texts *= max(1, round(1e6 * options.megabytes / len("".join(texts).encode())))
    size = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        with open("corpus.jsonl", "w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        print(f"| preparing {size:.1f} MB | seconds | MB/s | peak MiB |\n|---|---:|---:|---:|")
        for name in ("char", "word", "bpe", "gpt2"):
            with (ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
                  contextlib.suppress(ValueError)):         # where gpt2 cannot be downloaded
                path, took, peak = pool.submit(prepare, name).result()
                print(f"| {name} | {took:.1f} | {size / took:.1f} | {peak:.0f} |", flush=True)
        tokens, runs = data.load_corpus(path).train, {}
        for name, preset in PRESETS.items():
            B = preset.get("batch_size", TrainConfig.batch_size)
            T = preset.get("context_length", GPTConfig.context_length)
            runs[f"{name}, {B} x {T}"] = lambda B=B, T=T: [     # 1000: seconds are ms a batch
                data.batch(tokens, B, T, 1, step) for step in range(1000)]
        race(f"a batch of {len(tokens):,} tokens", runs, 5, [*runs][0], unit="ms")


if __name__ == "__main__":
    main()
