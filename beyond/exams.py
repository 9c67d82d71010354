"""
Exams: what can a run do? MMLU, MATH and HumanEval, one after the other, in one report.

    mmlu        what does it know? Four answers to choose from, so that a guess is right in 25 %
    maths       can it work something out? It writes, and what it puts into a box is compared
    humaneval   can it write a program? What it writes is run, within walls (see beyond.sandbox)

Other questions would have given another mark. So each has its 95 % interval, and says whether
guessing does as well; two runs whose intervals share much may be equally good. And a mark says
little if the model learned from the questions: those that stand in its training text are listed.

    python -m beyond.exams nano --questions 100         # of questions that are fetched once
    python -m beyond.exams nano smollm2 --data folder --exams mmlu maths --plot

In a folder of one's own the questions are in mmlu/dev and mmlu/test, in math or MATH/test, and in
humaneval; an exam whose questions are not there is left out. All runs are asked the same. After
Ctrl-C the same command goes on where it stopped. Each exam is a chapter of its own, which takes
more settings, and shows more.
"""
import json
import sys
from pathlib import Path

from beyond.answers import interval, mark
from beyond.curves import picture
from beyond.humaneval import sit as sit_humaneval
from beyond.maths import sit as sit_maths
from beyond.mmlu import sit as sit_mmlu
from beyond.overlap import leaks
from sample import find_run, pick_device
from tokenizer import Parser, clear_errors, write_whole

from matplotlib.figure import Figure

EXAMS = {       # how a run sits it, and where in --data its questions may be
    "mmlu": (sit_mmlu, "mmlu"), "maths": (sit_maths, "math", "MATH/test"),
    "humaneval": (sit_humaneval, "humaneval")}


def hold(exam, run, folder, **how):
    """What came of an exam: a dict."""
    sit, *names = EXAMS[exam]
    there = [path for name in names if folder and (path := Path(folder) / name).exists()]
    if folder and not there:
        raise ValueError(f"{folder}/{names[0]} is not there; without --data, questions are fetched")
    return sit(run, there[0] if folder else None, **how)


def words(found):
    """The lines of an exam in the report."""
    n, unfit = found["questions"], found["not_askable"]
    yield mark(found["right"], n, found["chance"]) if n else "no question could be asked"
    if unfit:
        yield f"{unfit:,} more questions do not fit into its context"
    yield leaks(found["seen"])


def draw(results, path):
    """Marks and intervals; a dotted line where guessing is."""
    figure = Figure(figsize=(8, 1 + 0.4 * len(results)), layout="constrained")
    at = figure.subplots()
    for y, found in enumerate(results):
        right, n = found["right"], found["questions"]
        low, high = interval(right, n)
        at.plot([low, high], [y, y], color="tab:blue")
        at.plot(right / n, y, "o", color="tab:blue")
        if found["chance"]:
            at.plot([found["chance"]] * 2, [y - 0.4, y + 0.4], ":", color="black")
    at.set_yticks(range(len(results)), [f"{f['exam']}, {Path(f['run']).name}" for f in results])
    at.set_ylim(len(results) - 0.5, -0.5)
    at.set_xlim(left=0)
    at.xaxis.set_major_formatter("{x:.0%}")
    at.set_xlabel("right, with the 95 % interval")
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


def main():
    parser = Parser("Hold exams: MMLU, MATH, HumanEval.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="name or folder (default: newest)")
    parser.add_argument("--data", metavar="FOLDER", help="in which are mmlu, math and humaneval "
                        "(default: fetch them, once)")
    parser.add_argument("--exams", nargs="+", choices=EXAMS, default=[*EXAMS], metavar="EXAM",
                        help=f"some of {', '.join(EXAMS)} (default: all)")
    parser.add_argument("--questions", type=int, default=0, metavar="N",
                        help="how many of each, drawn (default: 0, all)")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other questions")
    parser.add_argument("--plot", action="store_true", help="also draw it: exams.png")
    parser.add_argument("--json", action="store_true", help="print JSON, one object an exam")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    o = parser.parse_args()
    with clear_errors():
        if min(o.questions, o.seed) < 0:
            raise ValueError("--questions and --seed take a number from 0 on")
        device, path = pick_device(o.device), picture("exams.png") if o.plot else None
        results = []
        for run in dict.fromkeys(map(find_run, o.runs or [None])):
            for exam in dict.fromkeys(o.exams):
                try:
                    found = hold(exam, run, o.data, questions=o.questions, seed=o.seed,
                                 device=device)
                except (ValueError, OSError) as error:
                    print(f"{parser.prog}: {exam} of {run} is left out: {error}", file=sys.stderr)
                    continue
                results.append(found)
                if o.json:
                    print(json.dumps(found))
                else:
                    print(f"{run}, {exam}\n    " + "\n    ".join(words(found)), flush=True)
        if not results:
            sys.exit(2)
        if o.plot:
            draw([found for found in results if found["questions"]], path)
            print("drew exams.png", file=sys.stderr)


if __name__ == "__main__":
    main()
