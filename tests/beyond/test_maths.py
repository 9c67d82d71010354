r"""MATH: what is taken out of a box, who is asked what, and how it is marked."""
import json

import pytest

from beyond import latex, maths
from conftest import SHARED, inside, one_line
from sample import load_run
from test_export import chat_bpe, make_run


def problems(cwd, n=12, theirs=False):
    """n problems in a file, or, as their authors have them, in a folder."""
    for i in range(n):
        row = {"problem": f"{i}+{i}?", "solution": f"It is $\\boxed{{{2 * i}}}$.",
               "type": ["Algebra", "Geometry"][i % 2], "level": f"Level {1 + i % 3}"}
        ours = {"question": row["problem"], "solution": row["solution"], "answer": 2 * i,
                "subject": row["type"], "level": 1 + i % 3, "unique_id": f"test/{i}"}
        path = cwd / (f"MATH/test/{row['type'].lower()}/{i}.json" if theirs else "math.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(json.dumps(row if theirs else ours) + "\n")
    return cwd / ("MATH/test" if theirs else "math.jsonl")


def test_boxes():
    for text, inside_it in (
            (r"so $\boxed{5}$.", "5"), (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
            (r"\boxed{1} then \boxed{\frac{1}{2", "1"), (r"\fbox{a{b}c{}}", "a{b}c{}"),
            (r"$\boxed 5$", "5"), ("none", ""), (r"\boxed{}", ""), (r"\boxed", ""),
            (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"), (r"\boxed{ 7 }", "7"),
            (r"\boxed{\text{a \} b}}", r"\text{a \} b}")):
        assert maths.boxed(text) == inside_it, text


@pytest.mark.skipif(not SHARED.exists(), reason="needs MATH's problems")
def test_every_solution_of_math_is_right():
    """The answers were taken out of the solutions by somebody else; most are more than text."""
    rows = [json.loads(line) for line in open(SHARED / "math/math300.jsonl", encoding="utf-8")]
    found = maths.read(SHARED / "math")
    assert len(found) == 300 == len(rows)
    same, read = latex.comparer(), 0
    for row in rows:
        assert same(maths.boxed(row["solution"]), row["answer"]), row["answer"]
        try:
            read += bool(latex.parse(latex.normalise(row["answer"])) is not None)
        except (ValueError, SyntaxError):
            assert row["answer"] == r"\cot x", row["answer"]
    assert read == 299


def test_both_shapes_are_the_same_exam(tmp_path):
    ours, theirs = (maths.read(problems(tmp_path, theirs=shape)) for shape in (False, True))
    assert list(ours) != list(theirs) and ours == theirs and len(ours) == 12
    assert {p["subject"] for p in ours.values()} == {"Algebra", "Geometry"}
    assert {p["level"] for p in ours.values()} == {"1", "2", "3"}


def test_examples_that_fit_stand_before_the_problem():
    class Words:
        encode = staticmethod(str.split)
    example = {"question": "a b", "solution": "c d"}        # six words, with the headings
    asked = {"question": "e", "solution": "secret"}         # three
    for room, n in ((100, 2), (15, 2), (14, 1), (9, 1), (8, 0), (3, 0)):
        found = maths.prompt([example] * 2, asked, Words, room)
        words = n * "Problem: a b Solution: c d".split() + "Problem: e Solution:".split()
        assert found == (n, words)
    assert maths.prompt([example], asked, Words, 2) is None


def test_an_exam_is_marked_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """A stand-in that writes right solutions, but for each third, and stops after two at first."""
    data, asked = problems(tmp_path, 17), []
    make_run(tmp_path, "llama", chat_bpe(), context_length=400)
    tokenizer = load_run(tmp_path / "runs/x")[1]

    def write(model, prompts, n_tokens, pick, done):
        for i, ids in enumerate(prompts):
            text = tokenizer.decode(ids)
            first = int(text.split("Problem:\n")[-1].split("+")[0])
            asked.append(first)
            new = tokenizer.encode(f"So $\\boxed{{{2 * first + (first % 3 == 0)}.0}}$\n")
            assert done(new) and not done(new[:-3]) and len(ids) + n_tokens <= 400
            yield i, new
            if stop and i == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(maths, "write", write)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        maths.sit(tmp_path / "runs/x", data, 5, tokens=60)
    stop = False
    short = maths.sit(tmp_path / "runs/x", data, 5, tokens=60)
    assert short["questions"] == 5 == len(set(asked)) == len(asked)
    whole = maths.sit(tmp_path / "runs/x", data, tokens=60)
    assert len(asked) == 9 == len(set(asked)) == whole["questions"]     # 8 are kept for examples
    right = sum(first % 3 != 0 for first in asked)
    assert whole["right"] == right and whole["boxed"] == 9 and whole["not_askable"] == 0
    for key in ("subject", "level"):
        assert sum(a for a, _ in whole["by"][key].values()) == right
        assert sum(n for _, n in whole["by"][key].values()) == 9
    assert maths.sit(tmp_path / "runs/x", data, 3, tokens=50) and len(asked) == 12  # begins anew
    said = inside("beyond.maths", "x", "--data", data, "--tokens", 60, "--show", 2, cwd=tmp_path)
    assert f"{right} of 9 right" in said and said.count("; it is ") == 2 and "Geometry" in said
    with open(tmp_path / "runs/x/exams/maths.jsonl", "a") as file:
        file.write("7\n")
    assert "maths.jsonl is damaged" in one_line("beyond.maths", "x", "--data", data, "--tokens", 60,
                                                cwd=tmp_path)


def test_a_real_run_writes_and_small_ones_say_what_does_not_fit(tmp_path):
    data, flags = problems(tmp_path, 20), ("--tokens", 20, "--json", "--questions", 4)
    make_run(tmp_path, "llama", chat_bpe(), context_length=60)
    found = json.loads(inside("beyond.maths", "x", "--data", data, *flags, cwd=tmp_path))
    assert (found["exam"], found["questions"], found["chance"]) == ("maths", 4, 0.0)
    assert all(a["written"] for a in found["answers"]) and found["right"] <= found["boxed"]
    assert found == json.loads(inside("beyond.maths", "x", "--data", data, *flags, cwd=tmp_path))
    with open(data, "a") as file:
        for i in range(9):
            file.write(json.dumps({"problem": f"{i} " * 200, "solution": "\\boxed{1}"}) + "\n")
    found = json.loads(inside("beyond.maths", "x", "--data", data, *flags[:3], cwd=tmp_path))
    assert 0 < found["not_askable"] <= 9 and found["questions"] + found["not_askable"] == 21
    assert found["shots"] < 4
    make_run(tmp_path / "small", "llama", chat_bpe(), context_length=12)
    assert "none of 21 problems fits into the 12" in one_line(
        "beyond.maths", "x", "--data", data, cwd=tmp_path / "small")
