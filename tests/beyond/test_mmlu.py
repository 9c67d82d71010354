"""MMLU against the formulas of EleutherAI's lm-evaluation-harness, computed with transformers."""
import csv
import json
import random

import numpy as np
import pytest
import torch

from beyond import mmlu
from beyond.export import export
from beyond.mmlu import GROUPS, SCORES, Question, load, prompt, read, show, sit
from conftest import SHARED, inside, one_line
from sample import load_run
from test_export import bpe, make_run

transformers = pytest.importorskip("transformers")
WORDS = "green bottle bottles hanging on the wall if one should fall naïve café 99 12".split()


def make_quiz(folder, n=30, header=(True, False)):
    """n questions in each of two subjects; a file with a header has indices, not letters."""
    draw = random.Random(1)
    for subject, indices in zip(("anatomy", "formal_logic"), header):
        for part, many in (("dev", 5), ("test", n)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            with open(folder / part / f"{subject}_{part}.csv", "w", newline="") as file:
                out = csv.writer(file)
                if indices:
                    out.writerow("question choice0 choice1 choice2 choice3 answer".split())
                for i in range(many):
                    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(5)]
                    key = draw.randrange(4)
                    out.writerow([f'{i}: "{texts[0]}",\nor what?', *texts[1:],
                                  key if indices else "ABCD"[key]])
    return folder


def harness(folder, questions, examples, way):
    """As lm_eval has it: mmlu's and mmlu_continuation's templates, _encode_pair, loglikelihood,
    and of process_results the picks: acc; or acc, (the sum by its tokens), acc_bytes."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    encode = transformers.AutoTokenizer.from_pretrained(folder).encode
    picked = {}
    for q in questions:
        def template(doc):
            a, b, c, d = doc.choices
            return (f"{doc.text}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:" if way == "letter" else
                    f"Question: {doc.text}\nAnswer:")
        choices = "ABCD" if way == "letter" else q.choices
        kind = "multiple choice questions" if way == "letter" else "questions"
        context = (f"The following are {kind} (with answers) about {q.subject.replace('_', ' ')}."
                   "\n\n")
        for doc in examples[q.subject]:
            target = "ABCD"[doc.answer] if way == "letter" else doc.choices[doc.answer]
            context += template(doc) + " " + target + "\n\n"
        context, lls, lengths = context + template(q), [], []
        for choice in choices:
            whole, start = encode(context + " " + choice), len(encode(context))
            with torch.no_grad():
                log_p = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)     # (T, V)
            lls.append(sum(log_p[i - 1, whole[i]].item() for i in range(start, len(whole))))
            lengths.append(len(whole) - start)
        lls = np.array(lls)
        size = np.array([float(len(choice.encode("utf-8"))) for choice in choices])
        picked[q.id] = [int(np.argmax(x)) for x in (
            [lls] if way == "letter" else [lls, lls / lengths, lls / size])]
    return picked


@pytest.mark.parametrize("arch, shots", [("gpt2", 0), ("llama", 3)])
def test_it_picks_what_the_harness_picks(arch, shots, tmp_path):
    model = make_run(tmp_path, arch, tokenizer := bpe(), context_length=1024)
    (tmp_path / "out").mkdir()
    export(model, tokenizer, tmp_path / "out")
    quiz, same, seen = make_quiz(tmp_path / "quiz", 12), 0, set()
    questions, _ = load(quiz, shots)
    found = sit(tmp_path / "runs/x", quiz, shots=shots)
    theirs = {way: harness(tmp_path / "out", *load(quiz, shots), way) for way in ("letter", "text")}
    rows = [json.loads(line) for line in open(tmp_path / "runs/x/exams/mmlu.jsonl")][1:]
    rows = {(row["id"], row["way"]): row for row in rows}
    right = dict.fromkeys(SCORES, 0)
    for q in questions:
        ours = mmlu.picks(q, rows[q.id, "letter"], rows[q.id, "text"])
        for score, i in zip(SCORES, theirs["letter"][q.id] + theirs["text"][q.id]):
            same += ours[score] == i
            right[score] += i == q.answer
            seen.add((score, i))
    assert same >= 0.99 * 4 * len(questions) and len(seen) > 12      # of 16: no favourite
    assert found["questions"] == 24 and found["shots"] == shots and found["seen"] is None
    for score in SCORES:
        assert abs(found["table"]["all"][score] - right[score]) <= 1


def test_the_authors_prompt():
    q = Question("anatomy/0", "other", "human_aging", "Why?", ("a", "b", "", "d"), 3)
    assert prompt(q, [q], "letter") == (
        "The following are multiple choice questions (with answers) about human aging.\n\n"
        "Why?\nA. a\nB. b\nC. \nD. d\nAnswer: D\n\nWhy?\nA. a\nB. b\nC. \nD. d\nAnswer:")
    assert prompt(q, [q], "text") == (
        "The following are questions (with answers) about human aging.\n\n"
        "Question: Why?\nAnswer: d\n\nQuestion: Why?\nAnswer:")


def test_three_scores_of_a_text_by_hand():
    """The first is short, the second one of easy tokens, the last the longest in bytes alone."""
    q = Question("x/0", "other", "x", "?", ("ab", "abcdefgh", "x" * 40, "é" * 20), 0)
    text = {"ln_p": [-4.0, -6.0, -10.0, -9.0], "tokens": [1, 4, 5, 2]}
    assert mmlu.picks(q, {"ln_p": [-2.0, -1.0, -1.5, -1.0]}, text) == {
        "letter": 1, "sum": 0, "per token": 1, "per byte": 3}       # the first of equals, as argmax


def test_both_shapes_of_a_file_and_the_57_subjects(tmp_path):
    a, b = (make_quiz(tmp_path / str(h), 9, (h, h)) for h in (True, False))
    assert load(a, 5) == load(b, 5) and len(load(a, 5)[0]) == 18
    assert {len(examples) for examples in load(a, 3)[1].values()} == {3}
    assert [len(subjects) for subjects in GROUPS.values()] == [18, 13, 12]      # and 14 others
    if SHARED.exists():
        dev = {path.stem[:-4]: read(path) for path in SHARED.glob("mmlu/dev/*.csv")}
        assert len(dev) == 57 and set(sum(GROUPS.values(), [])) < set(dev)
        assert {len(questions) for questions in dev.values()} == {5}
        assert sum(q.group == "other" for qs in dev.values() for q in qs) == 14 * 5
        assert dev["abstract_algebra"][0].answer == 1


def test_examples_that_do_not_fit_are_dropped(tmp_path):
    """Each question has as many as its context holds, and not one more."""
    make_run(tmp_path, "gpt2", tokenizer := bpe(), context_length=500)
    quiz, run = make_quiz(tmp_path / "quiz"), tmp_path / "runs/x"
    questions, examples = load(quiz, 5)
    long = "x" * 600
    with open(quiz / "test/formal_logic_test.csv", "a") as file:
        file.write(f"{long},a,b,c,d,A\n")
    found = sit(run, quiz)
    assert found["questions"] == 60 and found["not_askable"] == 1 and 0 < found["shots"] < 5
    rows = [json.loads(line) for line in open(run / "exams/mmlu.jsonl")][1:]
    by_id, fits = {q.id: q for q in questions}, set()
    for row in rows:
        if row["id"] in by_id:
            q, k = by_id[row["id"]], row["shots"]
            needs = [len(tokenizer.encode(prompt(q, examples[q.subject][:n], row["way"])))
                     + max(row["tokens"]) for n in range(6)]
            assert k == max(n for n in range(6) if needs[n] <= 500)
            fits.add(k)
    assert len(fits) > 2
    make_run(tmp_path / "small", "gpt2", bpe(), context_length=8)
    with pytest.raises(ValueError, match="no question fits into the 8 tokens"):
        sit(tmp_path / "small/runs/x", quiz)


def test_an_exam_goes_on_where_it_stopped(tmp_path, monkeypatch):
    make_run(tmp_path, "llama", bpe(), context_length=1024)
    quiz, run, asked = make_quiz(tmp_path / "quiz", 8), tmp_path / "runs/x", []
    whole, stop = mmlu.ask, 7

    def watched(*arguments):
        for row in whole(*arguments):
            if len(asked) == stop:
                raise KeyboardInterrupt
            asked.append((row["id"], row["way"]))
            yield row
    monkeypatch.setattr(mmlu, "ask", watched)
    with pytest.raises(KeyboardInterrupt):
        sit(run, quiz, questions=6, shots=1)
    stop = None
    few, n = sit(run, quiz, questions=6, shots=1), len(asked)
    assert n == 12 == len(set(asked))
    every = sit(run, quiz, shots=1)
    assert len(asked) == 32 == len(set(asked)) and few["questions"] == 6
    sheet = run / "exams/mmlu.jsonl"
    sheet.unlink()
    assert sit(run, quiz, shots=1) == every and sit(run, quiz, questions=6, shots=1) == few
    assert {"all", "other", "humanities", "anatomy", "formal_logic"} == set(every["table"])
    sit(run, quiz, shots=0)                                     # other settings: anew
    assert len(open(sheet).readlines()) == 33 and len(asked) == 32 + 32 + 32


def test_who_always_says_the_same_is_shown(tmp_path, monkeypatch, capsys):
    make_run(tmp_path, "gpt2", bpe(), context_length=400)
    quiz = make_quiz(tmp_path / "quiz")

    def always_b(model, prefix, questions, answers):
        for i in range(len(questions)):
            yield i, [torch.full((len(ids),), -1.0 + (ids is answers[i][1])) for ids in answers[i]]
    monkeypatch.setattr(mmlu, "choose", always_b)
    found = sit(tmp_path / "runs/x", quiz, shots=0)
    share = found["says"]["key"][1] / 60
    assert found["says"]["letter"] == [0, 60, 0, 0] and found["right"] == found["says"]["key"][1]
    show(found)
    said = capsys.readouterr().out
    assert f"It picks B in 100.0%; always picking that would be right in {share:.1%}" in said
    assert said.count("not to be told from guessing (25%)") == 4 and "cannot be known" in said


def test_the_command_line(tmp_path):
    make_run(tmp_path, "llama", bpe(), context_length=1024)
    make_quiz(tmp_path / "mmlu", 4)
    said = inside("beyond.mmlu", "x", "--data", "mmlu", "--shots", 1, cwd=tmp_path)
    assert "    formal_logic" in said and "  humanities" in said and "of 8 right" in said
    found = json.loads(inside("beyond.mmlu", "--data", "mmlu", "--questions", 5, "--json",
                              cwd=tmp_path))
    assert found["questions"] == 5 and sum(found["says"]["sum"]) == 5
    (tmp_path / "bad/test").mkdir(parents=True)
    (tmp_path / "bad/test/x_test.csv").write_text("Why?,a,b,c,d,A\nWhy?,a,b,c,d,E\n")
    assert "x_test.csv cannot be read: question 2" in one_line("beyond.mmlu", "--data", "bad",
                                                               cwd=tmp_path)
