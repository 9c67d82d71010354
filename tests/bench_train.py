"""
How soon has the default learned what the recipe of GPT-2 learns in all its steps?

    python tests/bench_train.py [--source my.txt]   # tinyshakespeare; three minutes on two cores
    python tests/bench_train.py --quick             # does it run? The figures mean nothing

Trains the preset baseline, then the default, on the same characters; what they print goes to
stderr. Both are evaluated on the same 32,768 tokens or fewer; seconds are of training alone.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_tokenizer import data
from tokenizer import Parser, clear_errors


def main():
    parser = Parser("Tell when the default is as good as the baseline is in the end.")
    parser.add_argument("--source", default="tinyshakespeare", help="text that both learn from")
    parser.add_argument("--quick", action="store_true", help="40 steps each")
    options, evaluated = parser.parse_args(), {}
    with (clear_errors((ValueError, OSError, subprocess.CalledProcessError)),
          tempfile.TemporaryDirectory() as folder):
        train = [sys.executable, Path(data.__file__).with_name("train.py"), "--tokenizer", "char",
                 "--eval-tokens", "32768", *["--steps", "40"] * options.quick,
                 "--source", *[path.resolve() for path in data.find([options.source])]]
        for preset, steps in (("baseline", "2000"), ("nano", "20")):    # between evaluations
            command = [*train, "--preset", preset, "--eval-every", steps]
            subprocess.run(command, cwd=folder, stdout=sys.stderr, check=True)
            with open(Path(folder, "runs", preset, "metrics.jsonl")) as lines:
                evaluated[preset] = [m for m in map(json.loads, lines) if "val_loss" in m]
    goal, default = evaluated["baseline"][-1], evaluated["nano"]
    as_good = [m for m in default if m["val_loss"] <= goal["val_loss"]][:1]
    print("| run | validation loss | step | tokens | seconds | share |\n|---|--:|--:|--:|--:|--:|")
    for name, m in [("baseline, whole", goal), *(("default, as good", m) for m in as_good),
                    ("default, whole", default[-1])]:
        print(f"| {name} | {m['val_loss']:.3f} | {m['step']:,} | {m['tokens']:,} | "
              f"{m['seconds']:.1f} | {m['seconds'] / goal['seconds']:.3f} |")


if __name__ == "__main__":
    main()
