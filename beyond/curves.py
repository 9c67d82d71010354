"""
Curves: several runs drawn over each other, their race, and what each curve says.

A run's metrics.jsonl has the loss of each step's batch and, at every evaluation, the loss on the
validation split, text the model never learns from. These two curves tell most about a run:

    both still falling          it could learn more: give it more steps
    training falls, validation  overfitting: it memorises its text, and what it learns no longer
    rises                       helps with other text; the generalisation gap opens
    both flat, close together   underfitting: this is all a model of this size can do

    python -m beyond.curves nano shallow                        # two runs, into curves.png
    python -m beyond.curves nano shallow --against seconds      # which is the faster learner?
    python -m beyond.curves runs/ablation-* --out ablation.png

Losses are nats per token. Where the runs' tokenizers differ, a token is not the same amount of
text for all, and the losses are drawn and compared in bits per byte instead.
"""
import json
import math
import os
import textwrap
from itertools import chain
from pathlib import Path

from sample import find_run, read_config
from tokenizer import Parser, clear_errors, write_whole

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

# ------------ Runs that can be compared.

MEASURED = ("step", "tokens", "seconds", "lr", "train_loss")    # at every step; others now and then


def read_metrics(folder):
    """The lines of metrics.jsonl, a dict for each step; one that a crash cut short is left out."""
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        metrics = [dict.fromkeys(MEASURED, "missing") | json.loads(line) for line in lines]
        for value in chain.from_iterable(m.values() for m in metrics):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"a figure is {value!r:.40}")
        return metrics
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def read_runs(folders):
    """The metrics of each run, and the unit that all their losses are in."""
    runs, factors = [read_metrics(folder) for folder in folders], []
    for folder, run in zip(folders, runs):
        evaluated = next((m for m in run if "val_loss" in m), None)
        if evaluated is None:
            raise ValueError(f"{folder} has not been evaluated on its validation split yet")
        # Bits per byte for one nat per token: how long a token is depends on the tokenizer.
        factors.append(evaluated.get("val_bits_per_byte", 0) / (evaluated["val_loss"] or 1))
    if max(factors) - min(factors) < 1e-6 or not all(factors):
        return runs, "nats per token"
    return [[m | {name: m[name] * factor for name in ("train_loss", "val_loss") if name in m}
             for m in run] for run, factor in zip(runs, factors)], "bits per byte"


def differences(folders, width=70):
    """A label for each run: its name, and the settings, those that fit, in which they differ."""
    flat = [c["data"] | c["model"] | c["train"] for c in map(read_config, folders)]
    differ = [name for name in flat[0] if any(f.get(name) != flat[0][name] for f in flat)]
    labels = (f"{folder.name}: " + ", ".join(f"{name} {f.get(name)}" for name in differ)
              for folder, f in zip(folders, flat))
    return [textwrap.shorten(label, width, placeholder=" ...").rstrip(": ") for label in labels]


# ------------ The picture.

def picture(path):
    """A path to draw to. What cannot be drawn to is refused before the work, not after it."""
    path = Path(path)
    if path.suffix != ".png" or path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path} is no .png, or in no folder that may be written to")
    return path


AXES = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}      # and their metrics


def smooth(losses):
    """The mean of each loss and those around it, a fiftieth of the curve; the ends stay out."""
    width = len(losses) // 100 * 2 + 1
    return width // 2, np.convolve(losses, np.ones(width) / width, mode="valid")


def draw_curves(runs, labels, path, against="steps", unit="nats per token"):
    """The losses of the runs over each other, and their learning rates below.

    Lines: the training batches, each the mean of the steps around it, because every batch is
    another text. Dots: the validation split; the number is its lowest.
    """
    few = len(runs) <= 4
    figure = Figure(figsize=(8.5, 6.5), layout="constrained")
    top, below = figure.subplots(2, sharex=True, height_ratios=[4, 1])
    lowest, start = [], []
    for i, (measured, label) in enumerate(zip(runs, labels)):
        colour = f"C{i}" if few else colormaps["turbo"](i / (len(runs) - 1))
        x = [m[AXES[against]] for m in measured]
        cut, mean = smooth([m["train_loss"] for m in measured])
        top.plot(x[cut:len(x) - cut], mean, color=colour, linewidth=1, alpha=0.6 if few else 0.3)
        val = [(m[AXES[against]], m["val_loss"]) for m in measured if "val_loss" in m]
        best = min(loss for _, loss in val)
        top.plot(*zip(*val), "o-", color=colour, linewidth=2, markersize=6 if few else 4,
                 markeredgecolor="black", label=f"{label} ({best:.3f})")
        below.plot(x, [m["lr"] for m in measured], color=colour)
        lowest += [mean.min(), best]
        start.append(measured[0]["train_loss"])
    floor, height = min(lowest), max(max(start) - min(lowest), 0.01)
    top.set(ylim=(floor - 0.1 * height, floor + 1.05 * height),     # whatever spikes there were
            ylabel=f"loss ({unit})")
    top.legend(frameon=False, fontsize=10 if few else 8, title="dots: validation, lines: training")
    below.set(ylabel="learning rate", xlabel=AXES[against])
    for axes in (top, below):
        axes.grid(alpha=0.3)
    write_whole(path, lambda file: figure.savefig(file, dpi=120, format="png"))


# ------------ The words.


def race(runs):
    """A loss that all runs reached, and of each run the first evaluation, a dict, that did."""
    evaluated = [[m for m in run if "val_loss" in m] for run in runs]
    goal = max(min(m["val_loss"] for m in run) for run in evaluated)
    return goal, [next(m for m in run if m["val_loss"] <= goal) for run in evaluated]


RISEN, FALLING = 0.01, 0.02     # above its lowest, and from one evaluation to the next
CLOSE = 0.05                    # training and validation loss are as good as the same


def verdict(measured):
    """What the curves say, in one or two sentences; None if they say neither this nor that."""
    evaluated = [m for m in measured if "val_loss" in m]
    if len(evaluated) < 2:
        return None
    best, before, last = min(evaluated, key=lambda m: m["val_loss"]), *evaluated[-2:]

    def train_loss(at):         # the mean of the last tenth of the steps up to an evaluation
        return np.mean([m["train_loss"] for m in measured
                        if 0 <= at["step"] - m["step"] < max(1, at["step"] // 10)])

    risen, fell = last["val_loss"] - best["val_loss"], before["val_loss"] - last["val_loss"]
    if risen > RISEN and train_loss(last) < train_loss(best):
        return (f"Overfitting: since step {best['step']:,} the validation loss has risen by "
                f"{risen:.3f}, while the training loss went on falling. best.pt is from then. "
                "More text helps; so do fewer steps, --dropout, or a smaller model.")
    if fell > FALLING:
        return (f"Still learning: the validation loss fell by {fell:.3f} between the last two "
                "evaluations. More --steps will help.")
    if last["val_loss"] - train_loss(last) < CLOSE:
        return ("Underfitting: text it learns from and text it has never seen are equally hard "
                f"({train_loss(last):.3f} and {last['val_loss']:.3f}), so there is no harm in "
                "learning more: a larger model (--n-embd, --n-layer) or more --steps.")
    return None


def main():
    parser = Parser(description="Draw the curves of several runs, and say what they say.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="name or folder of a run")
    parser.add_argument("--against", choices=AXES, default="steps", help="(default: steps)")
    parser.add_argument("--out", metavar="FILE", default="curves.png", help="(default: curves.png)")
    options = parser.parse_args()
    with clear_errors():
        path, folders = picture(options.out), [find_run(run) for run in options.runs]
        runs, unit = read_runs(folders)
        draw_curves(runs, differences(folders), path, options.against, unit)
        goal, reached = race(runs)
        print(f"drew {path}. A validation loss of {goal:.3f} {unit} was reached by\n\n"
              f"{'run':30}{'seconds':>10}{'steps':>9}{'tokens':>14}")
        for folder, m in sorted(zip(folders, reached), key=lambda pair: pair[1]["seconds"]):
            print(f"{folder.name:30}{m['seconds']:10.1f}{m['step']:9,}{m['tokens']:14,}")
        for folder, measured in zip(folders, runs):
            if said := verdict(measured):
                print("\n" + textwrap.fill(f"{folder.name}: {said}", 98, subsequent_indent="    "))


if __name__ == "__main__":
    main()
