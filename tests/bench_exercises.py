"""The experiments of beyond/exercises.py, each run as it says, in a copy of the project; the figures
and pictures of docs/experiments.md. It takes the run nano, and some twenty minutes on one core.

    python tests/bench_exercises.py FOLDER      # copies and runs are kept there; docs/ gets pictures
"""
import re
import shutil
import subprocess
import sys
import time
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
    """What a command prints, and the seconds it takes, where a piece of code is another."""
    tree = OUT / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "runs", "corpora", "tests"))
    for name in ("runs", "corpora"):
        (tree / name).symlink_to(OUT / name)
    code = (tree / f"{file}.py").read_text(encoding="utf-8")
    (tree / f"{file}.py").write_text(code.replace(old, new) if old else code, encoding="utf-8")
    command = command.removeprefix("time ").split()
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *command[1:]], cwd=tree, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    print(f"\n$ {' '.join(command)}    # {file}.py: {old} -> {new}\n{done.stdout}{done.stderr}",
          flush=True)
    return done.stdout, seconds


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

figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
spelling, greedy, cache = EXPERIMENTS["sample"]
heat = (0.2, 0.5, 0.8, 1.0, 1.5, 2.0)
known = [float(re.search(r"([\d.]+)% of them", run(spelling[3].replace("1.5", str(t)))[0])[1])
         for t in heat]
left.plot(heat, known, "o-", label="words that are words")
texts = [run(greedy[3].replace("temperature 0", f"temperature {t}"))[0] for t in (0, *heat)]
lines = [[line for line in text.splitlines() if line] for text in texts]
left.plot((0, *heat), [100 * len(set(x)) / len(x) for x in lines], "o-", label="lines that are new")
left.set(xlabel="temperature", ylabel="%")
for label, change in (("with the cache", ()), ("without", ("sample", *cache[1:3]))):
    n = (50, 100, 150, 200, 250)
    right.plot(n, [run(cache[3].replace("250", str(k)), *change)[1] for k in n], "o-", label=label)
    print(label, right.lines[-1].get_ydata())
right.set(xlabel="tokens written", ylabel="seconds, with the start")
print("sample", known, [line.get_ydata() for line in left.lines])
for axes in (left, right):
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
save(figure, "sample")

figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
window, english, rank = EXPERIMENTS["eval"]
Ts, ks = (1, 4, 16, 64, 256), (1, 5, 50, 200, 500)
left.plot(Ts, [column(3, window[3], "eval", window[1], window[2].replace("16", str(T)))
               for T in Ts], "o-", label="plays it has never seen")
left.axhline(column(3, english[3]), color="C1", label="README.md, window of 256")
left.set(xlabel="window, in tokens", ylabel="bits per byte", xscale="log")
right.plot(ks, [column(6, rank[3], "eval", rank[1], rank[2].replace("50", str(k))) for k in ks],
           "o-", label="the token is among the first k")
right.set(xlabel="k", ylabel="%", xscale="log")
print("eval", [line.get_ydata() for axes in (left, right) for line in axes.lines])
for axes in (left, right):
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
save(figure, "eval")
