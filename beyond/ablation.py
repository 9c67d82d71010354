"""
Ladder: from GPT-2 to today, one change at a time, and what each is worth.

The first rung trains GPT-2's model as GPT-2 was trained. Each rung above it changes one thing and
keeps the changes below: same text, same steps, same seed, so that what a curve gains on the one
before it is what that change gained. Prints a table, and draws all the curves in one picture.

    python ladder.py                                # some two minutes a rung on two CPU cores
    python ladder.py --steps 200 --source my.txt    # any other flag goes to train.py as it is

One seed is one throw of the dice: two rungs closer than 0.01 nats may well change places with
another --seed. And some changes were made for larger models, or for speed, and have little to
show here.
"""
import subprocess
import sys
from pathlib import Path

from checkpoint import RUNS, load_checkpoint, read_config
from cli import Parser, clear_errors
from curves import draw_curves, read_metrics

RUNGS = (       # what changes, why, and the flags that change it
    ("gpt2", "as in 2019", "--arch gpt2 --optimizer adamw --decay cosine --learning-rate 1e-3"
                           " --min-learning-rate 1e-4 --warmup-steps 100"),
    ("no-bias", "norms scale anyway; one thing less to learn", "--no-bias"),
    ("rmsnorm", "scaling helps, centring does not", "--norm rmsnorm"),
    ("rotary", "a place is an angle: attention sees distances", "--position rotary"),
    ("qk-norm", "no question matches a key too well", "--qk-norm"),
    ("relu2", "a simpler switch in the MLP", "--mlp relu2"),
    ("zero-init", "blocks fade in, where they help", "--zero-init"),
    ("untied", "reading and writing a token are two tasks", "--no-tie-embeddings"),
    ("ngram", "which letters follow which is looked up", "--ngram 4"),
    ("muon", "the whole matrix takes the step", "--optimizer muon"),
    ("schedule", "higher, and in a line down to zero",
     "--learning-rate 5e-3 --min-learning-rate 0 --decay linear --warmup-steps 20"),
)


def climb(extra):
    """Train every rung: a finished one is left alone, a stopped one goes on. Returns the runs.

    The flags in extra are for the first rung; the others have its config.json to start from.
    """
    flags, folders = [], []
    for i, (name, _, change) in enumerate(RUNGS):
        folder = RUNS / f"ladder-{i:02}-{name}"
        folders.append(folder)
        if i == 0:
            how = [*change.split(), *extra]
        else:
            flags += change.split()         # of a flag given twice, the later counts
            how = ["--config", folders[0] / "config.json", *flags]
        if folder.exists():
            if i == 0 and extra:
                raise ValueError(f"there is a ladder already, {folder} is its first rung: without "
                                 "flags, ladder.py goes on with it; delete it to start another")
            if is_done(folder):
                continue
            how = ["--resume"]
        print(f"\n--- rung {i} of {len(RUNGS) - 1}: {name}", flush=True)
        train = Path(__file__).with_name("train.py")
        child = subprocess.Popen([sys.executable, train, "--run", folder.name, *map(str, how)])
        try:
            code = child.wait()
        except KeyboardInterrupt:       # train.py has heard it too, and saves
            code = child.wait()
        if code:
            sys.exit(code)              # train.py has said why
    return folders


def is_done(folder):
    """Has this run taken all its steps?"""
    last = folder / "last.pt"
    return last.exists() and load_checkpoint(last)["step"] == read_config(folder)["train"]["steps"]


def table(folders):
    """One row a rung: its last validation loss, and what it gained on the rung below."""
    rows, below = [], None
    for folder, (name, why, _) in zip(folders, RUNGS):
        last = read_metrics(folder)[-1]
        gain = "" if below is None else f"{last['val_loss'] - below:+.3f}"
        rows.append(f"| {name} | {why} | {last['val_loss']:.3f} | {gain} |")
        below = last["val_loss"]
    return "\n".join(["| rung | what changes | loss | by |", "|---|---|---:|---:|", *rows])


def main():
    parser = Parser("Train GPT-2's model, then change one thing at a time, and print what each is "
                    "worth. Other flags (--steps, --source, --seed ...) go to train.py.")
    parser.add_argument("--out", metavar="FILE", default="ladder.png",
                        help="where the picture goes (default: ladder.png)")
    options, extra = parser.parse_known_args()
    with clear_errors():
        taken = ({"--run", "--resume", "--config", "--init", "--preset", "--arch"}
                 & {flag.split("=")[0] for flag in extra})
        if taken:
            raise ValueError(f"{taken.pop()} is for the ladder to say: leave it out")
        folders = climb(extra)
        draw_curves(folders, Path(options.out), labels=[folder.name for folder in folders])
        print(f"\nvalidation loss in nats per token\n\n{table(folders)}\n\ndrew {options.out}")


if __name__ == "__main__":
    main()
