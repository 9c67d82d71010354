r"""
Maths: can a model work something out? Problems of school competitions, each with one answer.

MATH has 12,500 problems in seven subjects and five levels, with worked solutions, in which the
answer stands in a \boxed{}. The model reads some problems with their solutions, then one without,
and goes on (greedily: always the most probable token). The last \boxed{} that it writes is its
answer; beyond.latex decides whether that is the right one. Guessing does not help here: a small
model gets next to none.

    python -m beyond.maths smollm2 --questions 100 --shots 2 --show 5   # of 500 that are fetched
    python -m beyond.maths smollm2 --data MATH/test         # the authors' files, one a problem
    python -m beyond.maths smollm2 --data math.jsonl        # or one problem a line

The 500 are those that Lightman et al. (2023) drew from the 5,000 of the test set. A problem is a
JSON object with problem, solution, type and level, as its authors have it; or with question,
solution, answer, subject and level. Eight, drawn by the seed, are never asked: the shortest of them
are the examples. Of the others --questions are asked. Examples that do not fit are left out,
and then problems that do not fit even alone. What a run writes is kept in its folder, in
exams/maths.jsonl: an exam that was stopped goes on, and a short one becomes a longer one.

Paper: Measuring Mathematical Problem Solving With the MATH Dataset (Hendrycks et al., 2021).
"""
import hashlib
import json
import re
from pathlib import Path

from beyond.answers import mark, write
from beyond.download import download
from beyond.latex import comparer
from beyond.overlap import leaks, seen
from beyond.sheet import sheet, weights_of
from sample import SampleConfig, find_run, load_run, pick_device, picker, stream
from tokenizer import Parser, clear_errors

import numpy as np
from tqdm import tqdm

KEPT = 8        # problems, for examples


def boxed(text):
    """What stands in the last whole \\boxed{} of a text; "" if there is none."""
    for begin in reversed([*re.finditer(r"\\(boxed|fbox)\s*", text)]):
        depth, start = 0, begin.end()
        if text[start:start + 1] != "{":        # \boxed 5: up to a space
            return re.match(r"[^\s$.]*", text[start:])[0]
        for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                return text[start + 1:start + brace.start()].strip()
    return ""


def problem(row, where):
    """A problem of either shape, as one."""
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no JSON object")
    found = {"question": row.get("problem", row.get("question")), "solution": row.get("solution"),
             "subject": row.get("type", row.get("subject", "all")),
             "level": str(row.get("level", "?")).removeprefix("Level ")}
    if missing := [key for key, text in found.items() if not isinstance(text, str) or not text]:
        raise ValueError(f"{where} has no {missing[0]}")
    answer = row.get("answer")
    found["answer"] = boxed(found["solution"]) if answer in (None, "") else str(answer)
    if not found["answer"]:
        raise ValueError(f"{where} has no answer: its solution has no \\boxed{{}}")
    return found | {"id": hashlib.sha256(found["question"].encode()).hexdigest()[:16]}


def read(path=None):
    """The problems in a file or a folder: id -> problem. A .jsonl has one a line, a .json one."""
    path = Path(path or download("math"))
    there = [path] if path.is_file() else sorted({*path.rglob("*.json"), *path.rglob("*.jsonl")})
    found = {}
    for file in there:
        try:
            text = file.read_text(encoding="utf-8")
            lines = [text] if file.suffix == ".json" else text.split("\n")
            rows = [(n, json.loads(line)) for n, line in enumerate(lines, start=1) if line.strip()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is no JSON ({error!s:.80})") from None
        found |= {new["id"]: new for n, row in rows if (new := problem(row, f"{file}, line {n}"))}
    if len(found) <= KEPT:
        raise ValueError(f"{path} has {len(found)} problems, and {KEPT} are kept for examples: "
                         "without --data, 500 are fetched")
    return found


def prompt(examples, asked, tokenizer, room):
    """How many examples fit, the first ones, and the ids of them and of a problem; or None."""
    texts = [f"Problem:\n{e['question']}\n\nSolution:\n{e['solution']}\n\n" for e in examples]
    for n in range(len(texts), -1, -1):
        text = "".join(texts[:n]) + f"Problem:\n{asked['question']}\n\nSolution:\n"
        if len(ids := tokenizer.encode(text)) <= room:
            return n, ids


def sit(run, data, questions=0, seed=1, device="cpu", shots=4, tokens=400):
    """Write what is not yet written, and mark it all: what exams.py and main() show."""
    problems = read(data)
    order = np.random.default_rng(seed).permutation(sorted(problems)).tolist()
    examples = sorted((problems[i] for i in order[:KEPT]), key=lambda e: len(e["solution"]))[:shots]
    asked = order[KEPT:][:questions or None]
    model, tokenizer = load_run(run, device)
    T = model.config.context_length
    tokens = min(tokens, T // 2)
    prompts = {i: prompt(examples, problems[i], tokenizer, T - tokens) for i in asked}
    if not (askable := [i for i in asked if prompts[i]]):
        raise ValueError(f"none of {len(asked)} problems fits into the {T} tokens of {run}, beside "
                         f"{tokens} for a solution")
    path = Path(run) / "exams" / "maths.jsonl"
    rows, add = sheet(path, {"exam": "maths", "weights": weights_of(run), "tokens": tokens,
                             "examples": examples}, {"id": "", "text": ""})
    written = {row["id"]: row["text"] for row in rows}
    todo = [i for i in askable if i not in written]

    def done(new):
        """Has the text ended, or a line with a closed box in it, or has another problem begun?"""
        text = tokenizer.decode(new)
        return (new[-1] == tokenizer.eot or tokenizer.vocab[new[-1]] == b"<|im_end|>"
                or "Problem:" in text or boxed(text.rpartition("\n")[0]) != "")

    pick = picker(1, SampleConfig(temperature=0))       # greedy: it needs no generator
    texts = write(model, [prompts[i][1] for i in todo], tokens, pick, done)
    for n, new in tqdm(texts, "maths", len(todo), leave=False, disable=None):
        text = "".join(stream(tokenizer, new)).split("Problem:")[0]
        written[todo[n]] = text
        add({"id": todo[n], "text": text})
    same, answers = comparer(), []
    for i in tqdm(askable, "marking", leave=False, disable=None):
        got = boxed(written[i])
        answers.append(problems[i] | {"written": written[i], "got": got, "right": bool(
            got and same(got, problems[i]["answer"]))})
    by = {key: {name: [sum(a["right"] for a in answers if a[key] == name),
                       sum(a[key] == name for a in answers)]
                for name in sorted({a[key] for a in answers})} for key in ("subject", "level")}
    return {"exam": "maths", "run": str(run), "questions": len(answers), "chance": 0.0,
            "right": sum(a["right"] for a in answers), "not_askable": len(asked) - len(askable),
            "boxed": sum(a["got"] != "" for a in answers), "tokens": tokens,
            "shots": sum(prompts[i][0] for i in askable) / len(askable), "by": by,
            "seen": seen([(a["id"], a["question"]) for a in answers], run), "answers": answers}


def main():
    parser = Parser("Let a run solve problems of MATH.")
    parser.add_argument("run", help="name or folder of the run")
    parser.add_argument("--data", help="a folder of .json or .jsonl files, or one file (default: "
                        "fetch 500 problems)")
    parser.add_argument("--questions", type=int, default=0, help="how many, drawn (default: all)")
    parser.add_argument("--shots", type=int, default=4, help=f"worked examples, 0 to {KEPT} "
                        "(default: 4)")
    parser.add_argument("--tokens", type=int, default=400, help="to write, at most; half of the "
                        "context if that is less (default: 400)")
    parser.add_argument("--seed", type=int, default=1, help="draws examples, then questions")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N of the solutions")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no tables")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    o = parser.parse_args()
    with clear_errors():
        if not (0 <= o.shots <= KEPT and o.tokens > 0 and min(o.questions, o.seed, o.show) >= 0):
            raise ValueError(f"--shots takes 0 to {KEPT}, --tokens 1 or more, other numbers 0 or "
                             "more")
        found = sit(find_run(o.run), o.data, o.questions, o.seed, pick_device(o.device),
                    o.shots, o.tokens)
        if o.json:
            return print(json.dumps(found))
        for a in found["answers"][:o.show]:
            print(f"--- {a['subject']}, level {a['level']}: {a['question']}\n\n{a['written']}\n\n"
                  f"{'right' if a['right'] else 'wrong'}: {a['got'] or 'nothing in a box'}; it is "
                  f"{a['answer']}\n")
        for key, rows in found["by"].items():
            print(f"{key:26}right    of")
            for name, (right, n) in rows.items():
                print(f"    {name:22}{right:5,}{n:6,}{right / n:8.1%}")
        print(f"{found['run']}: {mark(found['right'], found['questions'])}.\nIt put "
              f"{found['boxed']:,} answers into a box, having read {found['shots']:.1f} examples.")
        print(leaks(found["seen"]))
        if found["not_askable"]:
            print(f"{found['not_askable']:,} more problems do not fit into its context.")


if __name__ == "__main__":
    main()
