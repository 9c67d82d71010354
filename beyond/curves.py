"""
Curves: what a run has measured on its way, drawn, and said in words.

The loop writes one line a step into metrics.jsonl: the step, the tokens and epochs seen so far, the
loss of its batch, the learning rate, the length of the gradient, the speed; and, now and then, the
loss on the validation split, text the model never learns from. Two curves tell most of what one
wants to know:

    both still falling          it could learn more: give it more steps
    training falls, the other   it learns its text by heart (overfitting): what it learns is no
    rises                       longer of use for other text
    both flat, close together   this is all a model of this size can do (underfitting)

    python train.py --plot nano shallow                     # several runs over each other
    python train.py --plot nano shallow --against seconds
"""
import json
import textwrap

import numpy as np

from checkpoint import read_config, write_aside


def read_metrics(folder):
    """The lines of metrics.jsonl, one dict for each step."""
    path = folder / "metrics.jsonl"
    with open(path, encoding="utf-8") as file:
        try:        # a line without its end is one that a crash cut short
            measured = [json.loads(line) for line in file if line.endswith("\n")]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error})") from None
    if not measured:
        raise ValueError(f"{folder} has done no step yet")
    return measured


def cut_metrics(folder, step):
    """Forget what was measured after step, which will be measured again."""
    measured = read_metrics(folder) if step else []
    kept = "".join(json.dumps(m) + "\n" for m in measured if m["step"] <= step)
    write_aside(folder / "metrics.jsonl", lambda path: path.write_text(kept, encoding="utf-8"))


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


def draw_curves(folders, path, against="steps", labels=None):
    """The losses of one run, or of several over each other, and the learning rates below.

    Pale: the batch of each step, noisy because every batch is another text. Through it, the mean
    of the steps around. Dots: the validation split; the number is its lowest. against is steps,
    tokens, or seconds of training (looking at the validation split does not count).
    """
    import matplotlib
    matplotlib.use("Agg")       # draw into files; no window needed
    from matplotlib import pyplot

    pyplot.rc("font", size=12)
    figure, (top, below) = pyplot.subplots(2, 1, figsize=(8.5, 6.5), layout="constrained",
                                           sharex=True, height_ratios=[4, 1])
    lowest, start = [], []
    alone, few = len(folders) == 1, len(folders) <= 4
    for i, (folder, label) in enumerate(zip(folders, labels or differences(folders))):
        measured = read_metrics(folder)
        colour = f"C{i}" if few else pyplot.cm.turbo(i / (len(folders) - 1))
        x = [m[AXES[against]] for m in measured]
        losses = [m["train_loss"] for m in measured]
        cut, mean = smooth(losses)
        if alone:
            top.plot(x, losses, color=colour, alpha=0.15, linewidth=0.8)
        top.plot(x[cut:len(x) - cut], mean, color=colour, linewidth=1.2, alpha=1 if few else 0.4,
                 label=f"{label}: training batches" if alone else None)
        val = [(m[AXES[against]], m["val_loss"]) for m in measured if "val_loss" in m]
        if val:
            best = min(val, key=lambda point: point[1])
            top.plot(*zip(*val), "o-", color=colour, linewidth=2, markersize=6,
                     markeredgecolor="black",
                     label=f"{label}: validation split" if alone else f"{label} ({best[1]:.3f})")
            if few:
                top.annotate(f"{best[1]:.3f}", best, xytext=(0, 9), ha="center",
                             textcoords="offset points", weight="bold", color=colour)
        elif not alone:
            top.plot([], [], color=colour, label=label)
        below.plot(x, [m["lr"] for m in measured], color=colour)
        lowest += list(mean) + [loss for _, loss in val]
        start.append(losses[0])
    floor, height = min(lowest), max(max(start) - min(lowest), 0.01)
    top.set_ylim(floor - 0.1 * height, floor + 1.05 * height)   # no spike on the way counts
    top.set_ylabel("loss (nats per token)")
    top.grid(alpha=0.3)
    top.legend(frameon=False, fontsize=11 if few else 9)
    if alone and against == "steps":
        per_epoch = measured[-1]["step"] / measured[-1]["epoch"]
        epochs = top.secondary_xaxis("top", functions=(lambda step: step / per_epoch,
                                                       lambda epoch: epoch * per_epoch))
        epochs.set_xlabel("epoch")
    below.set_ylabel("learning rate")
    below.set_xlabel({"steps": "step", "tokens": "tokens seen",
                      "seconds": "seconds of training"}[against])
    below.grid(alpha=0.3)
    write_aside(path, lambda aside: figure.savefig(aside, dpi=120, format="png"))
    pyplot.close(figure)


# ------------------------------------------------------------------------------------------
# The words.


def race(folders):
    """A loss that all of these runs reached, and the first look, a dict, at which each had."""
    looks = [[m for m in read_metrics(folder) if "val_loss" in m] for folder in folders]
    for folder, run in zip(folders, looks):
        if not run:
            raise ValueError(f"{folder} has not looked at its validation split yet")
    goal = max(min(m["val_loss"] for m in run) for run in looks)
    return goal, [next(m for m in run if m["val_loss"] <= goal) for run in looks]


RISEN = 0.01        # nats: a validation loss this far above its lowest has risen
FALLING = 0.02      # nats: more than this from one look to the last, and it is still falling
CLOSE = 0.05        # nats: training and validation loss are as good as the same


def verdict(measured):
    """What the curves say, in one or two sentences; None if there are too few looks to tell."""
    looks = [m for m in measured if "val_loss" in m]
    if len(looks) < 2:
        return None
    best, last, before = min(looks, key=lambda m: m["val_loss"]), looks[-1], looks[-2]

    def train_loss(look):       # the mean of the last tenth of the steps up to it
        near = [m["train_loss"] for m in measured
                if 0 <= look["step"] - m["step"] < max(1, look["step"] // 10)]
        return sum(near) / len(near)

    risen, gap = last["val_loss"] - best["val_loss"], last["val_loss"] - train_loss(last)
    if risen > RISEN and train_loss(last) < train_loss(best):
        return (f"Overfitting: since step {best['step']:,} the validation loss has risen by "
                f"{risen:.3f} nats, while the training loss went on falling. best.pt is from "
                "before. More text helps; so do fewer steps, --dropout, or a smaller model.")
    if before["val_loss"] - last["val_loss"] > FALLING:
        return ("Still learning: the validation loss fell by "
                f"{before['val_loss'] - last['val_loss']:.3f} nats between the last two looks. "
                "More --steps will help.")
    if gap < CLOSE:
        return (f"Underfitting: text it learns from and text it has never seen are equally hard "
                f"({train_loss(last):.3f} and {last['val_loss']:.3f} nats), so there is no harm "
                "in learning more: a larger model (--n-embd, --n-layer) or more --steps.")
    return None
