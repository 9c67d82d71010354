"""HumanEval: pass@k counted out, functions cut where they end, the canonical solutions run."""
import gzip
import itertools
import json
import math
from collections import Counter

import pytest

from beyond import humaneval, sandbox
from conftest import SHARED, call, inside
from sample import generate, load_run

PROBLEMS = [{"task_id": f"T/{i}", "entry_point": "f", "prompt": f"{'1' * i}0 green",
             "test": "def check(f): pass", "canonical_solution": ""} for i in range(5)]
try:
    WALL = next(iter(sandbox.walls()))
except ValueError:
    WALL = None
walled = pytest.mark.skipif(not WALL, reason="no walls here")


@pytest.fixture
def data(tmp_path):
    with gzip.open(tmp_path / humaneval.FILE, "wt") as file:
        file.write("".join(json.dumps(p) + "\n" for p in PROBLEMS))
    return tmp_path


def test_pass_at_k_is_counted_out_and_unbiased():
    for n in range(1, 8):
        for k in range(1, n + 1):
            estimate = [humaneval.pass_at(k, n, c) for c in range(n + 1)]
            for c, found in enumerate(estimate):
                ways = [*itertools.combinations([1] * c + [0] * (n - c), k)]
                assert found == pytest.approx(sum(map(any, ways)) / len(ways))
            for p in (0.0, 0.1, 0.5, 0.9):      # its mean over what n samples may give
                mean = sum(math.comb(n, c) * p ** c * (1 - p) ** (n - c) * found
                           for c, found in enumerate(estimate))
                assert mean == pytest.approx(1 - (1 - p) ** k)


def test_a_completion_is_cut_where_the_function_ends():
    for text, body in (
            ("\n    return 1\n\nprint(f(2))", "\n    return 1\n"),
            ("\n    return [\n        1\n]\n# So", "\n    return [\n        1\n]"),
            ("\n    if x:\n\n        y()\n    z()\n```\n", "\n    if x:\n\n        y()\n    z()"),
            ("\n\treturn '#'\ndef g():\n\tpass\nclass", "\n\treturn '#'"),
            (" # the end", " # the end"), ("", ""), ("\nreturn", "")):
        assert humaneval.cut(text) == body


@walled
def test_an_exam_goes_on_where_it_stopped(copied, data, monkeypatch):
    """What is written is what the model writes greedily, alone; what is kept is not written again;
    a longer exam goes on from a shorter one; other weights begin anew."""
    run, asked = copied / "runs/first", []
    monkeypatch.setattr(humaneval, "run_program",
                        lambda program, _: asked.append(program) or ("", ""))
    first = humaneval.sit(run, data, 2, tokens=5)
    rest = humaneval.sit(run, data, tokens=5, batch=2)
    assert (first["questions"], rest["questions"], rest["right"], len(asked)) == (2, 5, 5, 5)
    assert first["walls"] == WALL and rest["pass"] == {1: 1.0} and not rest["stopped_by"]
    model, tokenizer = load_run(run)
    for problem in PROBLEMS:
        ids = tokenizer.encode(problem["prompt"])
        new = tokenizer.decode(i for i, in generate(model, [ids], 5, lambda x: x.argmax(-1)))
        assert humaneval.program(problem, humaneval.cut(new)) in asked
    path = run / "exams/humaneval.jsonl"
    path.write_text(path.read_text()[:-9])
    assert humaneval.sit(run, data, tokens=5)["right"] == 5 and len(asked) == 6
    assert humaneval.sit(run, data, 3, tokens=4)["questions"] == 3 and len(asked) == 9


@walled
def test_samples(copied, data, monkeypatch):
    """Three of each problem, drawn, not all the same; two of them pass."""
    def second_fails(program, _):
        tries[program[:4]] += 1         # the first characters of its prompt
        return "NameError: x" * (tries[program[:4]] == 2), ""

    tries = Counter()
    monkeypatch.setattr(humaneval, "run_program", second_fails)
    found = humaneval.sit(copied / "runs/first", data, samples=3, temperature=1.0, tokens=5)
    rows = [json.loads(line) for line in open(found["sheet"])][1:]
    assert len({row["completion"] for row in rows}) > 5 and len(rows) == 15
    assert found["pass"] == {1: pytest.approx(2 / 3), 2: 1.0, 3: 1.0} and found["right"] == 5
    assert found["stopped_by"] == [("NameError", 5)] and "humaneval-1.jsonl" in found["sheet"]
    assert humaneval.sit(copied / "runs/first", data, samples=2, temperature=1.0, tokens=8)[
        "pass"][2] == 1.0


@walled
def test_the_command(copied, data):
    """Programs run for real. A prompt longer than the context (16) is left out, and counted."""
    long = PROBLEMS[0] | {"task_id": "T/long", "prompt": "green bottles " * 2}
    right = PROBLEMS[1] | {"task_id": "T/right", "prompt": "f = 10  #"}
    with gzip.open(data / humaneval.FILE, "wt") as file:
        file.write(json.dumps(long) + "\n" + json.dumps(right) + "\n" + json.dumps(PROBLEMS[0]))
    arguments = ("beyond.humaneval", "first", "--data", data, "--tokens", 3, "--device", "cpu")
    found = json.loads(inside(*arguments, "--json", cwd=copied))
    assert (found["questions"], found["right"], found["not_askable"]) == (2, 1, 1)
    assert found["stopped_by"] == [["SyntaxError", 1]] and found["pass"] == {"1": 0.5}
    code, said, where = call(*arguments, cwd=copied)
    assert "1 of 2 right: 50.0%" in said and "left out: 1" in said and "SyntaxError (1)" in said
    assert code == 0 and WALL in where


@pytest.mark.skipif(not (SHARED / "humaneval").exists(), reason="needs the problems")
def test_no_canonical_solution_is_cut_short():
    problems = humaneval.read(SHARED)
    assert len(problems) == 164
    for problem in problems:
        solution = "\n" + problem["canonical_solution"].rstrip()
        assert humaneval.cut(f"{solution}\nprint(1)") == solution, problem["task_id"]
        assert humaneval.program(problem, solution).startswith(problem["prompt"] + solution[1:])


@pytest.mark.slow
@walled
@pytest.mark.parametrize("name", sandbox.walls() if WALL else [])
@pytest.mark.skipif(not (SHARED / "humaneval").exists(), reason="needs the problems")
def test_canonical_solutions_pass_and_wrong_ones_fail(name):
    for problem in humaneval.read(SHARED):
        for solution, fails in ((problem["canonical_solution"], False), ("    return [...]", True)):
            program = humaneval.program(problem, f"\n{solution}")
            why, text = sandbox.run(program, sandbox.walls()[name])
            assert bool(why) == fails, (problem["task_id"], why, text)
