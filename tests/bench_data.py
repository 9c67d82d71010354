"""
How fast a corpus is prepared, in what memory; and how fast a batch is drawn.

    python tests/bench_data.py [--source my.txt]    # 50 MB, by each tokenizer; about three minutes
    python tests/bench_data.py --megabytes 1        # does it run? The figures mean little

The corpus is the documents of --source over and over, in a temporary folder. Each preparation runs
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
from itertools import cycle, islice

from bench_tokenizer import data, race
from model import GPTConfig
from tokenizer import Parser, clear_errors
from train import PRESETS, TrainConfig


def prepare(tokenizer):
    """The corpus's folder, the seconds, and this process's peak memory in MiB."""
    start = time.perf_counter()
    folder = data.prepare(data.DataConfig(("corpus.jsonl",), tokenizer))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss       # KiB, but bytes on a Mac
    return folder, seconds, peak / 2 ** (20 if sys.platform == "darwin" else 10)


def main():
    parser = Parser("Measure how fast a corpus is prepared, and a batch drawn.")
    parser.add_argument("--source", default="shakespeare", help="text that is repeated")
    parser.add_argument("--megabytes", type=float, default=50, help="how long it gets (50)")
    options = parser.parse_args()
    with clear_errors():
        texts = [text for _, text in data.documents([options.source])]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        megabytes = sum(len(text.encode()) for text in texts) / len(texts) / 1e6    # a document
        n = max(1, round(options.megabytes / megabytes))
        with open("corpus.jsonl", "w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in islice(cycle(texts), n))
        print(f"{n} documents\n\n| preparing with | seconds | MB/s | peak MiB |\n|---|--:|--:|--:|")
        for tokenizer in ("char", "word", "bpe", "gpt2"):
            with (ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
                  contextlib.suppress(ValueError)):         # where gpt2 cannot be downloaded
                path, seconds, peak = pool.submit(prepare, tokenizer).result()
                corpus = data.load_corpus(path)
                size = sum(corpus.meta[split]["bytes"] for split in ("train", "val")) / 1e6
                print(f"| {tokenizer}, {size:.1f} MB | {seconds:.1f} | {size / seconds:.1f} | "
                      f"{peak:.0f} |", flush=True)
        runs = {}
        for name, preset in PRESETS.items():
            B = preset.get("batch_size", TrainConfig.batch_size)
            T = preset.get("context_length", GPTConfig.context_length)
            runs[f"{name}, {B} x {T}"] = lambda B=B, T=T: [     # 1000: seconds are ms a batch
                data.batch(corpus.train, B, T, 1, step) for step in range(1000)]
        race(f"a batch of {len(corpus.train):,} tokens", runs, 5, [*runs][0], unit="ms")


if __name__ == "__main__":
    main()
