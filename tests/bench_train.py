"""
How soon does the default learn what the recipe of 2019 learns? Two runs, one after the other.

    python tests/bench_train.py --source tinyshakespeare        # needs a few minutes, and quiet
    python tests/bench_train.py --source my.txt --keep folder

Trains the preset baseline to its end, then the default, looking at the validation split often, and
says after how many seconds of training the default was as good as the baseline in the end. Draws
both curves against seconds.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description="Time the default against the baseline.")
    parser.add_argument("--source", default="tinyshakespeare", help="text both learn from")
    parser.add_argument("--keep", metavar="DIR", help="where the runs and the picture stay")
    parser.add_argument("--share", type=float, default=1, help="of the steps, for a rehearsal")
    options = parser.parse_args()
    if Path(options.source).exists():
        options.source = Path(options.source).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary).resolve()
        folder.mkdir(exist_ok=True)

        def train(*flags):
            subprocess.run([sys.executable, ROOT / "train.py", *map(str, flags)], cwd=folder,
                           check=True)

        text = ["--source", options.source, "--eval-tokens", 0]
        train("--preset", "baseline", "--run", "baseline", *text, "--eval-every", 200,
              "--steps", int(2000 * options.share))
        train("--run", "default", *text, "--eval-every", 20, "--steps", int(1000 * options.share))
        train("--plot", "baseline", "default", "--against", "seconds")
        looks = {name: [m for m in map(json.loads, open(folder / "runs" / name / "metrics.jsonl"))
                        if "val_loss" in m] for name in ("baseline", "default")}
    goal = looks["baseline"][-1]
    first = next((m for m in looks["default"] if m["val_loss"] <= goal["val_loss"]), None)
    print("\n| run | validation loss | steps | tokens | seconds | share |\n"
          "|---|---:|---:|---:|---:|---:|")
    for name, m in (("baseline, whole", goal), ("default, as good", first),
                    ("default, whole", looks["default"][-1])):
        if m:
            print(f"| {name} | {m['val_loss']:.3f} | {m['step']:,} | {m['tokens']:,} | "
                  f"{m['seconds']:.1f} | {m['seconds'] / goal['seconds']:.3f} |")


if __name__ == "__main__":
    main()
