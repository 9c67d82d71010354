"""
MMLU: what does a model know? Questions from 57 subjects, with four answers to choose from.

Nothing is written. The model reads the question as the authors put it, after up to five others of
the subject with their answers; and the letter that it finds the most probable next is its answer:

    The following are multiple choice questions (with answers) about anatomy.

    Which of these bones is not in the foot?
    A. Talus
    B. Ulna
    C. Cuboid
    D. Calcaneus
    Answer:

That takes a model which knows what a letter in a list stands for; a small one has a favourite. So
each question is asked in a second way, too: without the list, how probable is the text of each
answer? Of that there are three scores, and they disagree:

    sum         ln p of the whole text. Each further token costs something: short answers win
    per token   the sum by the number of tokens. But the end of a rare word, once begun, is nearly
                certain: a name in many pieces looks good
    per byte    the sum by the text's length, however it is cut: long frequent words look good

    python -m beyond.mmlu smollm2 --questions 200
    python -m beyond.mmlu nano --shots 0        # all of the 14,042 questions

Examples that do not fit are left out, from the last on. An exam broken off goes on from the answers
in RUN/exams/mmlu.jsonl. Measuring Massive Multitask Language Understanding (Hendrycks et al., 2021)
"""
import csv
import hashlib
import json
import os
import random
from collections import Counter, defaultdict, namedtuple
from pathlib import Path

from beyond.answers import choose, mark
from beyond.download import unpacked
from beyond.overlap import leaks, seen
from beyond.sheet import sheet, weights_of
from sample import find_run, load_run, pick_device
from tokenizer import Parser, clear_errors

from tqdm import tqdm

GROUPS = {"STEM": """abstract_algebra astronomy college_biology college_chemistry
    college_computer_science college_mathematics college_physics computer_security
    conceptual_physics electrical_engineering elementary_mathematics high_school_biology
    high_school_chemistry high_school_computer_science high_school_mathematics high_school_physics
    high_school_statistics machine_learning""".split(), "humanities": """formal_logic
    high_school_european_history high_school_us_history high_school_world_history international_law
    jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory
    professional_law world_religions""".split(), "social sciences": """econometrics
    high_school_geography high_school_government_and_politics high_school_macroeconomics
    high_school_microeconomics high_school_psychology human_sexuality professional_psychology
    public_relations security_studies sociology us_foreign_policy""".split()}   # all else: other
LETTERS, SCORES = "ABCD", ("letter", "sum", "per token", "per byte")
Question = namedtuple("Question", "id group subject text choices answer")   # the answer: 0 to 3


def read(path):
    """The questions of a CSV file. The answer is A to D, or 0 to 3; a header may stand first."""
    found, subject = [], path.stem.rsplit("_", 1)[0]
    group = next((name for name in GROUPS if subject in GROUPS[name]), "other")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file):
                if not found and row[-1:] == ["answer"]:
                    continue
                if len(row) != 6 or row[5] not in tuple("ABCD0123"):
                    raise ValueError(f"question {len(found) + 1} is no text, 4 answers, A-D or 0-3")
                found.append(Question(f"{subject}/{len(found)}", group, subject, row[0].strip(),
                                      tuple(row[1:5]), "ABCD0123".index(row[5]) % 4))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return found


def load(data, shots):
    """The questions of a folder, or of the authors' archive, and `shots` examples a subject."""
    data = Path(data or unpacked("mmlu") / "data")
    questions = [q for path in sorted(data.glob("test/*_test.csv")) for q in read(path)]
    if not questions:
        raise ValueError(f"no question in {data}/test/*_test.csv; without --data, they are fetched")
    return questions, {s: read(data / f"dev/{s}_dev.csv")[:shots] if shots else []
                       for s in dict.fromkeys(q.subject for q in questions)}


def asked(question, way):
    """A question and its answers. "text" is what EleutherAI's harness calls mmlu_continuation."""
    if way == "text":
        return f"Question: {question.text}\nAnswer:", question.choices
    listed = map("{}. {}".format, LETTERS, question.choices)
    return "\n".join([question.text, *listed, "Answer:"]), LETTERS


def prompt(question, examples, way):
    kind = "questions" if way == "text" else "multiple choice questions"
    about = f"The following are {kind} (with answers) about {question.subject.replace('_', ' ')}."
    worked = [f"{text} {answers[q.answer]}" for q in examples for text, answers in [asked(q, way)]]
    return "\n\n".join([about, *worked, asked(question, way)[0]])


def ask(model, tokenizer, questions, examples, way):
    """How probable is each answer to each question? Yield rows of the sheet, in any order: ln p of
    the four answers, and of how many tokens; no row for a question that does not fit."""
    groups = defaultdict(list)      # those with a subject and examples in common begin alike
    for q in questions:
        ids = [tokenizer.encode(" " + answer) for answer in asked(q, way)[1]]
        for k in range(len(examples[q.subject]), -1, -1):
            text = tokenizer.encode(prompt(q, examples[q.subject][:k], way))
            if len(text) + max(map(len, ids)) <= model.config.context_length:
                groups[q.subject, k].append((q.id, text, ids))
                break
    for (_, k), group in groups.items():
        names, texts, ids = zip(*group)
        shared = min(len(os.path.commonprefix(texts)), min(map(len, texts)) - 1)    # lists, too
        for i, found in choose(model, texts[0][:shared], [t[shared:] for t in texts], ids):
            yield {"id": names[i], "way": way, "shots": k, "tokens": list(map(len, found)),
                   "ln_p": [p.sum().item() for p in found]}


def picks(question, letter, text):
    """The answer, 0 to 3, that each of SCORES finds best, given the rows of both ways."""
    values = (letter["ln_p"], text["ln_p"], [p / n for p, n in zip(text["ln_p"], text["tokens"])],
              [p / max(1, len(c.encode())) for p, c in zip(text["ln_p"], question.choices)])
    return {score: max(range(4), key=v.__getitem__) for score, v in zip(SCORES, values)}


def sit(run, data, questions=0, seed=1, device="cpu", shots=5):
    """Ask a run (a folder) that many questions, drawn by seed, or all; what came of it, a dict."""
    if questions < 0:
        raise ValueError("--questions takes a number from 0 on")
    every, examples = load(data, shots)
    drawn = random.Random(seed).sample(every, len(every))[:questions or None]
    model, tokenizer = load_run(run, device)
    rows, add = sheet(Path(run) / "exams/mmlu.jsonl", {
        "exam": "mmlu", "weights": weights_of(run), "shots": shots,
        "data": hashlib.sha256(repr((every, examples)).encode()).hexdigest()},
        {"id": "", "way": "", "shots": 0, "tokens": [0] * 4, "ln_p": [0.0] * 4})
    found = {(row["id"], row["way"]): row for row in rows}
    for way in ("letter", "text"):
        left = [q for q in drawn if (q.id, way) not in found]
        for row in tqdm(ask(model, tokenizer, left, examples, way), f"mmlu, {way}", len(left),
                        unit="question", leave=False, disable=None):
            found[row["id"], way] = row
            add(row)
    both = {q: [found.get((q.id, way)) for way in ("letter", "text")] for q in drawn}
    fit = sorted((q for q in drawn if all(both[q])), key=lambda q: (q.group, q.subject))
    if not fit:
        raise ValueError(f"no question fits into the {model.config.context_length} tokens of {run}")
    table, says = defaultdict(Counter), {who: [0] * 4 for who in ("key", *SCORES)}
    for q in fit:
        for who, i in {"key": q.answer, **picks(q, *both[q])}.items():
            says[who][i] += 1
            for name in ("all", q.group, q.subject):
                table[name][who] += i == q.answer
    return {"exam": "mmlu", "run": str(run), "questions": len(fit), "chance": 0.25,
            "right": table["all"]["letter"], "not_askable": len(drawn) - len(fit),
            "shots": sum(both[q][0]["shots"] for q in fit) / len(fit),
            "seen": seen([(q.id, q.text) for q in fit], run), "table": table, "says": says}


def show(result):
    n, says = result["questions"], result["says"]
    print(f"{'':36}questions" + "".join(f"{score:>11}" for score in SCORES))
    for name, row in result["table"].items():
        indent = " " * (name != "all") * (2 if name in (*GROUPS, "other") else 4)
        print(f"{indent + name:36}{row['key']:9,}"
              + "".join(f"{row[score] / row['key']:11.1%}" for score in SCORES))
    print(f"\n{'picked':36}{'A':>9}{'B':>9}{'C':>9}{'D':>9}")
    for who, counts in says.items():
        print(f"  {who:34}" + "".join(f"{count / n:9.1%}" for count in counts))
    i = max(range(4), key=says["letter"].__getitem__)
    print(f"\nIt picks {LETTERS[i]} in {says['letter'][i] / n:.1%}; always picking that would be "
          f"right in {says['key'][i] / n:.1%}.\nOn average {result['shots']:.1f} examples first; "
          f"{result['not_askable']:,} questions do not fit.\n{leaks(result['seen'])}\n")
    for score in SCORES:
        print(f"{score:10}{mark(result['table']['all'][score], n, 0.25)}")


def main():
    parser = Parser("Ask a run the questions of MMLU.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--data", help="folder of dev/ and test/ (default: fetch them, 166 MB)")
    parser.add_argument("--questions", type=int, default=0, help="how many (default: 0, all)")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other questions")
    parser.add_argument("--shots", type=int, default=5, choices=range(6), help="usual: 5")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    o = parser.parse_args()
    with clear_errors():
        result = sit(find_run(o.run), o.data, o.questions, o.seed, pick_device(o.device), o.shots)
        print(json.dumps(result)) if o.json else show(result)


if __name__ == "__main__":
    main()
