"""
Curves: several runs drawn over each other, their race, and what each curve says.

train.py writes one line a step into metrics.jsonl: the loss of the step's batch and, at every
evaluation, the loss on the validation split, text the model never learns from. Two curves tell
most of what one wants to know of a run:

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
import textwrap
from pathlib import Path

import numpy as np

from sample import find_run, read_config
from tokenizer import Parser, clear_errors, write_whole
from train import read_metrics

# ------------------------------------------------------------------------------------------
# Runs that can be compared.


def read_runs(folders):
    """The metrics of each run, and the unit that train_loss and val_loss are in."""
    runs = [read_metrics(folder) for folder in folders]
    bits_per_nat = []           # bits per byte, for one nat per token: it depends on the tokenizer
    for folder, run in zip(folders, runs):
        evaluated = [m for m in run if "val_loss" in m]
        if not evaluated:
            raise ValueError(f"{folder} has not been evaluated on its validation split yet")
        bits_per_nat.append(evaluated[0]["val_bits_per_byte"] / evaluated[0]["val_loss"])
    if max(bits_per_nat) - min(bits_per_nat) < 1e-6:
        return runs, "nats per token"
    for run, factor in zip(runs, bits_per_nat):
        for m in run:
            m |= {name: m[name] * factor for name in ("train_loss", "val_loss") if name in m}
    return runs, "bits per byte"


def differences(folders, width=70):
    """A label for each run: its name, and the settings, those that fit, in which they differ."""
    flat = []
    for folder in folders:
        config = read_config(folder)
        flat.append({name: value for part in ("data", "model", "train")
                     for name, value in config[part].items()})
    differ = [name for name in flat[0] if any(f.get(name) != flat[0][name] for f in flat)]
    labels = []
    for folder, settings in zip(folders, flat):
        label = ", ".join(f"{name} {settings.get(name)}" for name in differ)
        label = textwrap.shorten(f"{folder.name}: {label}", width, placeholder=" ...")
        labels.append(label.rstrip(": "))
    return labels


# ------------------------------------------------------------------------------------------
# The picture.

AXES = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}      # and their metrics


def smooth(losses):
    """The mean of each loss and those around it, a fiftieth of the curve; the ends stay out."""
    width = len(losses) // 100 * 2 + 1
    return width // 2, np.convolve(losses, np.ones(width) / width, mode="valid")


def draw_curves(runs, labels, path, against="steps", unit="nats per token"):
    """The losses of the runs over each other, and their learning rates below.

    Lines: the training batches, each the mean of the steps around it, because every batch is
    another text. Dots: the validation split; the number is its lowest. against is steps, tokens,
    or seconds of training.
    """
    import matplotlib
    matplotlib.use("Agg")       # draw into files; no window needed
    from matplotlib import pyplot

    few = len(runs) <= 4
    figure, (top, below) = pyplot.subplots(2, 1, figsize=(8.5, 6.5), layout="constrained",
                                           sharex=True, height_ratios=[4, 1])
    lowest, start = [], []
    for i, (measured, label) in enumerate(zip(runs, labels)):
        colour = f"C{i}" if few else pyplot.cm.turbo(i / (len(runs) - 1))
        x = [m[AXES[against]] for m in measured]
        cut, mean = smooth([m["train_loss"] for m in measured])
        top.plot(x[cut:len(x) - cut], mean, color=colour, linewidth=1, alpha=0.6 if few else 0.3)
        val = [(m[AXES[against]], m["val_loss"]) for m in measured if "val_loss" in m]
        best = min(val, key=lambda point: point[1])
        top.plot(*zip(*val), "o-", color=colour, linewidth=2, markersize=6 if few else 4,
                 markeredgecolor="black", label=f"{label} ({best[1]:.3f})")
        below.plot(x, [m["lr"] for m in measured], color=colour)
        lowest += [mean.min(), best[1]]
        start.append(measured[0]["train_loss"])
    floor, height = min(lowest), max(max(start) - min(lowest), 0.01)
    top.set_ylim(floor - 0.1 * height, floor + 1.05 * height)   # a spike on the way does not count
    top.set_ylabel(f"loss ({unit})")
    top.legend(frameon=False, fontsize=11 if few else 9, title="validation: dots, training: lines")
    below.set_ylabel("learning rate")
    below.set_xlabel({"steps": "step", "tokens": "tokens seen",
                      "seconds": "seconds of training"}[against])
    for axes in (top, below):
        axes.grid(alpha=0.3)
    write_whole(path, lambda aside: figure.savefig(aside, dpi=120, format="png"))
    pyplot.close(figure)


# ------------------------------------------------------------------------------------------
# The words.


def race(runs):
    """A loss that all runs reached, and of each run the first evaluation, a dict, that did."""
    evaluated = [[m for m in run if "val_loss" in m] for run in runs]
    goal = max(min(m["val_loss"] for m in run) for run in evaluated)
    return goal, [next(m for m in run if m["val_loss"] <= goal) for run in evaluated]


RISEN = 0.01        # a validation loss this far above its lowest has risen
FALLING = 0.02      # more than this from one evaluation to the last, and it is still falling
CLOSE = 0.05        # training and validation loss are as good as the same


def verdict(measured):
    """What the curves say, in one or two sentences; None if they say neither this nor that."""
    evaluated = [m for m in measured if "val_loss" in m]
    if len(evaluated) < 2:
        return None
    best, before, last = min(evaluated, key=lambda m: m["val_loss"]), *evaluated[-2:]

    def train_loss(at):         # the mean of the last tenth of the steps up to an evaluation
        near = [m["train_loss"] for m in measured
                if 0 <= at["step"] - m["step"] < max(1, at["step"] // 10)]
        return sum(near) / len(near)

    risen, fell = last["val_loss"] - best["val_loss"], before["val_loss"] - last["val_loss"]
    if risen > RISEN and train_loss(last) < train_loss(best):
        return (f"Overfitting: since step {best['step']:,} the validation loss has risen by "
                f"{risen:.3f}, while the training loss went on falling. best.pt is from before. "
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
    parser = Parser("Draw the curves of several runs over each other, and say what they say.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or its name")
    parser.add_argument("--against", choices=AXES, default="steps",
                        help="what to draw the losses against (default: steps)")
    parser.add_argument("--out", metavar="FILE", default="curves.png",
                        help="where the picture goes (default: curves.png)")
    options = parser.parse_args()
    with clear_errors():
        folders = [find_run(run) for run in options.runs]
        runs, unit = read_runs(folders)
        draw_curves(runs, differences(folders), Path(options.out), options.against, unit)
    goal, reached = race(runs)
    print(f"drew {options.out}. A validation loss of {goal:.3f} {unit} was reached by\n\n"
          f"{'run':30}{'seconds':>10}{'steps':>9}{'tokens':>14}")
    for folder, m in sorted(zip(folders, reached), key=lambda pair: pair[1]["seconds"]):
        print(f"{folder.name:30}{m['seconds']:10.1f}{m['step']:9,}{m['tokens']:14,}")
    for folder, measured in zip(folders, runs):
        if said := verdict(measured):
            print(f"\n{folder.name}\n" + textwrap.fill(said, 98, initial_indent="    ",
                                                      subsequent_indent="    "))


if __name__ == "__main__":
    main()
