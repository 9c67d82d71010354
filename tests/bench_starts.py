"""Does every start under torchrun end? Two ranks train for three steps, again and again.

    python tests/bench_starts.py        # 300 starts, some six seconds each
"""
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("--source text --tokenizer char --n-layer 1 --n-embd 16 --n-head 2 --context-length 16 "
         "--batch-size 4 --ngram 1 --steps 3 --device cpu").split()


def start(folder, name):
    """Seconds that a start took, and how it ended: None if it had to be killed."""
    torchrun = [sys.executable, *"-m torch.distributed.run --standalone --nproc_per_node 2".split()]
    began = time.monotonic()
    try:
        ended = subprocess.run([*torchrun, ROOT / "train.py", *FLAGS, "--name", name], cwd=folder,
                               capture_output=True, timeout=120)
        return time.monotonic() - began, ended.returncode
    except subprocess.TimeoutExpired:
        return time.monotonic() - began, None


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text").write_text("To be, or not to be. " * 200)
        took, codes = zip(*[start(folder, f"run-{i}") for i in tqdm(range(n), unit=" starts")])
    print(f"{n} starts, {codes.count(0)} ended well, {codes.count(None)} never; "
          f"median {sorted(took)[n // 2]:.1f} s, longest {max(took):.1f} s")


if __name__ == "__main__":
    main()
