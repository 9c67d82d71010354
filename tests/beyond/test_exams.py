"""One report: what can be held is held, what cannot is said, and what was read before is listed."""
import json

import pytest

from beyond import exams
from beyond.answers import interval
from beyond.overlap import seen
from conftest import inside, one_line
from test_export import bpe, make_run
from test_mmlu import make_quiz


def stand_in(exam, right, n, chance, texts, *names):
    """An exam of EXAMS that has been held before one asks."""
    def sit(run, data, questions, seed, device):
        if data.name == "broken":
            raise ValueError("its file is broken")
        return {"exam": exam, "run": str(run), "questions": questions or n, "right": right,
                "chance": chance, "not_askable": 2, "asked": [questions, seed, device],
                "seen": seen(texts, run)}
    return sit, *names


@pytest.fixture
def held(copied, monkeypatch):
    text = (copied / "text.txt").read_text()
    monkeypatch.setattr(exams, "EXAMS", {
        "mmlu": stand_in("mmlu", 30, 100, 0.25, [("a/1", text[500:600]), ("a/2", "?" * 99)], "."),
        "maths": stand_in("maths", 5, 100, 0.0, [], "math", "runs"),
        "humaneval": stand_in("humaneval", 0, 100, 0.0, [], "broken")})
    (copied / "broken").mkdir(exist_ok=True)
    return copied


def test_the_report(held):
    said = inside("beyond.exams", "first", "--data", ".", "--plot", cwd=held)
    low, high = interval(30, 100)
    assert (f"runs/first, mmlu\n    30 of 100 right: 30.0% (95 % interval {low:.1%} to {high:.1%}),"
            " not to be told from guessing (25%)\n    2 more questions do not fit into its context\n"
            "    1 of the questions stand in the text it was last trained on: a/1\n") in said
    assert "runs/first, maths\n    5 of 100 right: 5.0% (95 % interval 2.2% to 11.2%)\n" in said
    assert "humaneval" not in said and (held / "exams.png").stat().st_size > 5000
    rows = [json.loads(line) for line in inside(
        "beyond.exams", "first", "first", "--json", "--questions", 50, "--seed", 3, "--device",
        "cpu", "--exams", "maths", "mmlu", "--data", ".", cwd=held).splitlines()]
    assert [row["exam"] for row in rows] == ["maths", "mmlu"]
    assert rows[1]["asked"] == [50, 3, "cpu"] and rows[1]["seen"] == ["a/1"]


def test_what_cannot_be_held_is_said(held):
    assert "its file is broken" in one_line(
        "beyond.exams", "--data", ".", "--exams", "humaneval", cwd=held)
    (held / "empty").mkdir(exist_ok=True)
    said = one_line("beyond.exams", "--data", "empty", "--exams", "maths", cwd=held)
    assert "empty/math is not there; without --data, questions are fetched" in said


def test_a_real_exam(tmp_path):
    """The chapters' own functions; the corpus of this run is not here."""
    make_run(tmp_path, "llama", bpe(), context_length=1024)
    make_quiz(tmp_path / "mmlu", 4)
    said = inside("beyond.exams", "--data", ".", "--exams", "mmlu", "maths", "--questions", 5,
                  cwd=tmp_path)
    assert "of 5 right" in said and "cannot be known" in said and "maths" not in said
