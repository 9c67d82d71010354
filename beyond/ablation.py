"""
Ablation: from GPT-2's model to today's default, one change at a time, and what each is worth.

First comes GPT-2's model, trained as in 2019; each run after it makes one more change (a cumulative
ablation). Text, steps and seed are the same, so that what its curve gains is what the change gains.

    python -m beyond.ablation                               # some two minutes a run on two cores
    python -m beyond.ablation --steps 200 --source my.txt   # other flags go to train.py

The runs are runs/ablation-00-gpt2 and so on; after Ctrl-C the same command goes on, and keeps what
is finished. Runs closer than 0.01 nats may well change places with another --seed, and some changes
were made for larger models, or for speed: they have little to show here.
"""
import contextlib
import subprocess
import sys
from dataclasses import asdict

import train
from beyond.curves import draw_curves, picture, read_metrics
from data import DataConfig, add_flags, checked, prepare
from model import ARCHS, GPTConfig
from sample import RUNS, pick_device, read_config
from tokenizer import Parser, clear_errors

CHANGES = (     # its name, why, and the flags that make it
    ("gpt2", "as in 2019", "--arch gpt2 --optimizer adamw --decay cosine --learning-rate 1e-3"
                           " --warmup-steps 100"),
    ("no-bias", "one thing less to learn", "--no-bias"),
    ("rmsnorm", "scaling helps, centring does not", "--norm rmsnorm"),
    ("rotary", "a position is an angle: attention sees distances", "--position rotary"),
    ("qk-norm", "no query matches a key too well", "--qk-norm"),
    ("relu2", "a simpler function in the MLP", "--activation relu2"),
    ("zero-init", "blocks fade in, where they help", "--zero-init"),
    ("untied", "reading and writing a token are two tasks", "--no-tie-embeddings"),
    ("ngram", "which letters follow which is looked up", "--ngram 4"),
    ("muon", "the whole matrix takes the step", "--optimizer muon"),
    ("schedule", "higher, and in a line down to zero",
     "--learning-rate 3e-3 --decay linear --warmup-steps 20"),
)


def settings(flags):
    """What train.py starts a run with, given these flags: every setting, by name."""
    parser = Parser(description="")
    parser.add_argument("--arch", choices=ARCHS)
    add_flags(parser, DataConfig, train.TrainConfig, GPTConfig)
    given = vars(parser.parse_args(flags))
    return {name: value for part in (GPTConfig, train.TrainConfig, DataConfig)
            for name, value in asdict(checked(part, ARCHS[given["arch"]] | given)).items()}


def is_done(folder, flags):
    """Has this run, started with these flags, taken all its steps? ValueError: with others."""
    config, wanted = read_config(folder), settings(flags)
    found = config["model"] | config["train"] | asdict(checked(DataConfig, config["data"]))
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(f"{folder} was trained with {name} {found.get(name)}, not {value}: "
                             "give that ablation's flags, or delete its runs to start another")
    return [m["step"] for m in read_metrics(folder)][-1:] == [wanted["steps"]]


def run_all(extra, device):
    """Train every model: a finished one is left alone, a stopped one goes on. Returns the runs."""
    flags, folders = [], [RUNS / f"ablation-{i:02}-{c[0]}" for i, c in enumerate(CHANGES)]
    for folder, (_, _, change) in zip(folders, CHANGES):
        flags += change.split()             # of a flag given twice, the later counts
        if folder.exists() and is_done(folder, [*flags, *extra]):
            continue
        how = ["--resume"] if folder.exists() else [*flags, *extra]
        print(f"\n--- {folder.name}", flush=True)
        child = subprocess.Popen([sys.executable, train.__file__, "--name", folder.name,
                                  "--device", device, *how])
        with contextlib.suppress(KeyboardInterrupt):    # train.py has heard it too, and saves
            child.wait()
        if child.wait():
            sys.exit(child.returncode)      # train.py has said why
    return folders


def table(folders):
    """One row a run: its last validation loss, and what that gained on the run before."""
    losses = [read_metrics(folder)[-1]["val_loss"] for folder in folders]
    gains = ["", *(f"{loss - before:+.3f}" for before, loss in zip(losses, losses[1:]))]
    return "\n".join(["| run | what changes | loss | by |", "|---|---|---:|---:|", *(
        f"| {name} | {why} | {loss:.3f} | {gain} |"
        for (name, why, _), loss, gain in zip(CHANGES, losses, gains))])


def main():
    parser = Parser(description="From GPT-2 to the default, step by step. Other flags: train.py's.")
    parser.add_argument("--out", metavar="FILE", default="ablation.png", help="the picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    options, extra = parser.parse_known_args()
    ours = {"--name", "--resume", "--preset", "--init", "--data", *" ".join(
        change for _, _, change in CHANGES).replace("--no-", "--").split()}
    with clear_errors():
        for flag in (word.split("=")[0] for word in extra if word.startswith("--")):
            if flag.replace("--no-", "--") in ours:
                raise ValueError(f"{flag} is for the ablation to say: leave it out")
        path, device, wanted = picture(options.out), pick_device(options.device), settings(
            [*CHANGES[0][2].split(), *extra])       # what train.py would refuse is refused here
        prepare(checked(DataConfig, wanted))        # once: each run will find its corpus there
        folders = run_all(extra, device)
        draw_curves([read_metrics(folder) for folder in folders],
                    [folder.name for folder in folders], path)
        print(f"\nvalidation loss in nats per token\n\n{table(folders)}\n\ndrew {path}")


if __name__ == "__main__":
    main()
