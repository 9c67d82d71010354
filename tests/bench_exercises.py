"""The experiments of beyond/exercises.py, each run as it says, in a copy of the project: the
figures and pictures of docs/experiments.md. It takes the run nano, and half an hour on one core.

    python tests/bench_exercises.py FOLDER      # where runs are kept, and not made again
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from beyond.curves import draw_curves, read_runs
from beyond.exercises import EXPERIMENTS, RUN
from matplotlib.figure import Figure

OUT = Path(sys.argv[1]).absolute()
OUT.mkdir(exist_ok=True)
if not (OUT / "corpora").exists():
    shutil.copytree(ROOT / "corpora", OUT / "corpora")
    (OUT / "runs").mkdir()
    (OUT / "runs/nano").symlink_to((ROOT / "runs/nano").resolve())


def run(command, file="eval", old="", new=""):
    """What a command prints, and the seconds of CPU it takes, where a piece of code is another."""
    tree = OUT / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "runs", "corpora", "tests"))
    for name in ("runs", "corpora"):
        (tree / name).symlink_to(OUT / name)
    code = (tree / f"{file}.py").read_text(encoding="utf-8")
    (tree / f"{file}.py").write_text(code.replace(old, new) if old else code, encoding="utf-8")
    command, before = command.removeprefix("time ").split(), os.times()
    done = subprocess.run([sys.executable, *command[1:]], cwd=tree, capture_output=True, text=True)
    after = os.times()
    print(f"\n$ {' '.join(command)}    # {file}.py: {old} -> {new}\n{done.stdout}{done.stderr}",
          flush=True)
    return done.stdout, after.children_user + after.children_system - (
        before.children_user + before.children_system)


def trained(command, *change):
    folder = OUT / "runs" / re.search(r"--name (\S+)", command)[1]
    if not (folder / "best.pt").exists() or folder.name not in (OUT / "done").read_text().split():
        run(command, *change)
        with open(OUT / "done", "a") as file:
            print(folder.name, file=file)
    return folder


def save(figure, file):
    figure.savefig(ROOT / f"docs/experiments-{file}.png", dpi=100)


def column(n, *experiment):
    """A column of eval.py's table."""
    return float(run(*experiment)[0].splitlines()[1].split()[n].rstrip("%"))


(OUT / "done").touch()
for file in ("model", "train", "data", "tokenizer"):
    folders = [trained(RUN + "base")]
    folders += [trained(command, file, old, new) for _, old, new, command in EXPERIMENTS[file]]
    runs, unit = read_runs(folders)
    for folder, metrics in zip(folders, runs):
        print(f"{file:12}{folder.name:16}{unit}", [round(m["val_loss"], 3) for m in metrics
                                                   if "val_loss" in m], metrics[-1]["seconds"])
    draw_curves(runs, [folder.name for folder in folders], ROOT / f"docs/experiments-{file}.png",
                unit=unit)

def panels(file, labels):
    """Two axes of the picture of a file, and how to be done with them."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (x, y) in zip(figure.subplots(1, 2), labels):
        axes.set(xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)

    def done():
        for axes in figure.axes:
            axes.legend(frameon=False)
            print(file, [(line.get_label(), line.get_xdata(), line.get_ydata())
                         for line in axes.lines])
        figure.savefig(ROOT / f"docs/experiments-{file}.png", dpi=100)
    return *figure.axes, done


left, right, done = panels("sample", [
    ("temperature", "%"), ("tokens written", "seconds of CPU, with the start")])
(*_, spell), (*_, greedy), (_, *change, write) = EXPERIMENTS["sample"]
heat, n = (0.2, 0.5, 1.0, 1.5, 2.0), (100, 400, 700, 1000)
said = [run(spell.replace("1.5", str(t)))[0] for t in heat]
left.plot(heat, [float(re.search(r"([\d.]+)% of them", text)[1]) for text in said], "o-",
          label="words that are words")
lines = [[line for line in run(greedy.replace("temperature 0", f"temperature {t}"))[0].splitlines()
          if line] for t in (0, *heat)]
left.plot((0, *heat), [100 * len(set(x)) / len(x) for x in lines], "o-", label="different lines")
for label, how in (("with the cache", ()), ("without", ("sample", *change))):
    right.plot(n, [run(write.replace("1000", str(k)), *how)[1] for k in n], "o-", label=label)
done()

left, right, done = panels("eval", [("window, in tokens", "bits per byte"), ("k", "%")])
(_, *window, measure), (*_, english), (_, *rank, _) = EXPERIMENTS["eval"]


def row(command, *change):
    """The figures of eval.py: loss, perplexity, bits per byte and character, top-1 and top-5."""
    return [float(x.rstrip("%")) for x in run(command, "eval", *change)[0].splitlines()[1].split()[
        1:7]]


usual, Ts, ks = row(measure), (4, 16, 64), (50, 500)
bits = [row(measure, window[0], window[1].replace("16", str(T)))[2] for T in Ts]
left.plot((*Ts, 256), [*bits, usual[2]], "o-", label="plays it has never seen")
print("README.md", row(english))
top = [row(measure, rank[0], rank[1].replace("50", str(k)))[5] for k in ks]
right.plot((1, 5, *ks), [*usual[4:], *top], "o-", label="the token is among the first k")
for axes in (left, right):
    axes.set_xscale("log")
done()
