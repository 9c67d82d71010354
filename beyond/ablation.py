"""
Ablation: from GPT-2's model to today's default, one change at a time, and what each is worth.

The first run trains GPT-2's model as GPT-2 was trained. Each run after it changes one thing and
keeps the changes before it (a cumulative ablation): same text, same steps, same seed, so that what
a curve gains on the one before it is what that change gained. Prints a table, and draws all the
curves in one picture.

    python -m beyond.ablation                                   # some two minutes a run, two cores
    python -m beyond.ablation --steps 200 --source my.txt       # other flags go to train.py

The runs are runs/ablation-00-gpt2 and so on. Stopped with Ctrl-C, the same command goes on: what
is finished is kept. One seed is one throw of the dice: two runs closer than 0.01 nats may well
change places with another --seed. And some changes were made for larger models, or for speed, and
have little to show here.
"""
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import train
from beyond.curves import draw_curves
from data import DataConfig, add_flags, chosen
from model import ARCHS, GPTConfig
from sample import RUNS, read_config
from tokenizer import Parser, clear_errors

CHANGES = (     # its name, why, and the flags that make it
    ("gpt2", "as in 2019", "--arch gpt2 --optimizer adamw --decay cosine --learning-rate 1e-3"
                           " --warmup-steps 100"),
    ("no-bias", "one thing less to learn", "--no-bias"),
    ("rmsnorm", "scaling helps, centring does not", "--norm rmsnorm"),
    ("rotary", "a position is an angle: attention sees distances", "--position rotary"),
    ("qk-norm", "no query matches a key too well", "--qk-norm"),
    ("relu2", "a simpler activation function in the MLP", "--mlp relu2"),
    ("zero-init", "blocks fade in, where they help", "--zero-init"),
    ("untied", "reading and writing a token are two tasks", "--no-tie-embeddings"),
    ("ngram", "which letters follow which is looked up", "--ngram 4"),
    ("muon", "the whole matrix takes the step", "--optimizer muon"),
    ("schedule", "higher, and in a line down to zero",
     "--learning-rate 5e-3 --decay linear --warmup-steps 20"),
)
TAKEN = {flag.replace("--no-", "--") for _, _, change in CHANGES for flag in change.split()} | {
    "--name", "--resume", "--preset", "--init", "--data"}


def settings(flags):
    """What train.py starts a run with, given these flags: every setting, by name."""
    parser = Parser("")
    parser.add_argument("--arch", choices=ARCHS)
    add_flags(parser, DataConfig)
    add_flags(parser, train.TrainConfig)
    add_flags(parser, GPTConfig, [f.name for f in fields(GPTConfig) if f.name != "vocab_size"])
    given, _ = parser.parse_known_args(flags)
    data, c = DataConfig(**chosen(given, DataConfig)), train.TrainConfig(
        **chosen(given, train.TrainConfig))
    shape = GPTConfig(**ARCHS[given.arch] | chosen(given, GPTConfig) | {"vocab_size": 1})
    return asdict(shape) | asdict(c) | asdict(data)     # vocab_size is the tokenizer's, asked for


def same(folder, flags):
    """Is this run one with these flags? Raises ValueError if not; else, has it done all its steps?"""
    config, wanted = read_config(folder), settings(flags)
    found = config["model"] | config["train"] | asdict(DataConfig(**config["data"]))
    differs = [name for name in wanted if found[name] != wanted[name]]
    if differs:
        raise ValueError(f"{folder} was trained with {differs[0]} {found[differs[0]]}, not "
                         f"{wanted[differs[0]]}: give the flags it was started with, or delete it")
    return [m["step"] for m in train.read_metrics(folder)][-1:] == [wanted["steps"]]


def run_all(extra):
    """Train every model: a finished one is left alone, a stopped one goes on. Returns the runs."""
    flags, folders = [], []
    for i, (name, _, change) in enumerate(CHANGES):
        flags += change.split()             # of a flag given twice, the later counts
        folder = RUNS / f"ablation-{i:02}-{name}"
        folders.append(folder)
        how = [*flags, *extra]
        if folder.exists():
            if same(folder, how):
                continue
            how = ["--resume"]
        print(f"\n--- {i} of {len(CHANGES) - 1}: {name}", flush=True)
        child = subprocess.Popen([sys.executable, train.__file__, "--name", folder.name, *how])
        try:
            code = child.wait()
        except KeyboardInterrupt:           # train.py has heard it too, and saves
            code = child.wait()
        if code:
            sys.exit(code)                  # train.py has said why
    return folders


def table(folders):
    """One row a run: its last validation loss, and what that gained on the run before."""
    rows, before = ["| run | what changes | loss | by |", "|---|---|---:|---:|"], None
    for folder, (name, why, _) in zip(folders, CHANGES):
        loss = train.read_metrics(folder)[-1]["val_loss"]
        gain = "" if before is None else f"{loss - before:+.3f}"
        rows.append(f"| {name} | {why} | {loss:.3f} | {gain} |")
        before = loss
    return "\n".join(rows)


def main():
    parser = Parser("Train GPT-2's model, then change one thing at a time, and print what each "
                    "is worth. Other flags (--steps, --source, --seed ...) go to train.py.")
    parser.add_argument("--out", metavar="FILE", default="ablation.png",
                        help="where the picture goes (default: ablation.png)")
    options, extra = parser.parse_known_args()
    with clear_errors():
        taken = TAKEN & {flag.split("=")[0].replace("--no-", "--") for flag in extra}
        if taken:
            raise ValueError(f"{taken.pop()} is for the ablation to say: leave it out")
        folders = run_all(extra)
        draw_curves([train.read_metrics(folder) for folder in folders],
                    [folder.name for folder in folders], Path(options.out))
    print(f"\nvalidation loss in nats per token\n\n{table(folders)}\n\ndrew {options.out}")


if __name__ == "__main__":
    main()
