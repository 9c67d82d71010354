"""A reader's functions are judged as ours are: what is right passes, and each mistake is found."""
import hashlib
import inspect
import math
import re
import subprocess
import sys
import textwrap
from types import ModuleType

import pytest
import torch

import teacher
from beyond.exercises import DOC, EXERCISES, EXPERIMENTS, FILE, ORIGINAL, RUN, START
from conftest import ENVIRONMENT, ROOT, inside, one_line
from train import TrainConfig

WRONG = {       # of each exercise: what a piece of our code may not be
    "encode": [("self.unk", "self.eot"), ("self.split(text)", "text")],
    "learn_merges": [("count[p] += times[w]", "count[p] += 1"), ("(-n, pair)", "(-n, pair[::-1])")],
    "encode_word": [("min(merged", "max(merged"),
                    ("merged.index(first)", "len(merged) - 1 - merged[::-1].index(first)")],
    "split": [("len(lengths) >= 10", "len(lengths) >= 2"), ("room -= lengths[i]", "room -= 0")],
    "batch": [("windows[:, 1:]", "windows[:, :-1]"), ("seed, i // n)", "seed, 0)")],
    "every_window": [("ids[1:whole + 1]", "ids[:whole]"), ("if whole < len(ids) - 1", "if False")],
    "softmax": [("x - x.max(dim=-1, keepdim=True).values", "x"), ("sum(dim=-1", "sum(dim=0")],
    "cross_entropy": [("logits - logits.max(dim=-1, keepdim=True).values", "logits"),
                      (".mean()", ".sum()")],
    "layer_norm": [("x - x.mean(dim=-1, keepdim=True)", "x"), (" + eps", "")],
    "rotary": [("x.shape[-1] // 2", "1"), ("+ partner", "- partner")],
    "ngram_hash": [("ids + 1", "ids"), ("(k - 1) * rows", "k * rows")],
    "attention": [(" / math.sqrt(q.shape[-1])", ""), (".tril(S - T)", ".tril(S - T + 1)")],
    "top_k": [("logits < least", "logits <= least"), ("min(k, logits.shape[-1])", "k")],
    "top_p": [("dim=-1) - probabilities", "dim=-1)"),
              ("scatter(-1, order, ordered)", "copy_(ordered)")],
    "min_p": [("min(p, 1) * probabilities.max(dim=-1, keepdim=True).values", "p"),
              ("probabilities < least", "probabilities <= least")],
    "generate": [("L // 2 + 1:], None", "L // 2 + 1:], cache"), ("if cache is None", "if True")],
    "learning_rate": [("(step + 1)", "step"), ("0.55 - 0.45", "0.5 - 0.5")],
    "step": [("range(5)", "range(4)"), ("0.2 * lr", "0.1 * lr")],
    "measure": [("log_p > chosen", "log_p >= chosen"), ("text.bytes", "text.characters")]}


def source(name, old="", new=""):
    code = textwrap.dedent(inspect.getsource(ORIGINAL[name]))
    assert not old or old in code
    return code.replace(old, new) if old else code


def judge(tmp_path, *functions):
    """The exit code of pytest --mine on a file of these functions, and its table, without spaces
    at the ends of its lines: name -> what it says; and all that it printed."""
    hashes = lambda: [hashlib.sha256(path.read_bytes()).digest() for path in ROOT.glob("*.py")]
    path, before = tmp_path / "my.py", hashes()
    heap = "from heapq import heapify, heappop, heappush"
    path.write_text("\n\n".join([START, heap, *functions]))
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
                           f"--mine={path}"], cwd=ROOT, capture_output=True, text=True,
                          env=ENVIRONMENT)
    assert hashes() == before and "Traceback" not in done.stdout + done.stderr
    rows = re.findall(r"(?m)^(\w+) +(yes|no|[?]) +(.*(?:\n {18}.*)*)", done.stdout)
    return done.returncode, {name: f"{passed} {' '.join(said.split())}"
                             for name, passed, said in rows}, done.stdout + done.stderr


def test_the_table(tmp_path):
    """attention is right, though it calls a softmax that is not; a stub is no mistake."""
    code, table, said = judge(
        tmp_path, source("softmax", *WRONG["softmax"][1]), source("attention"),
        source("every_window", *WRONG["every_window"][0]), "def _helper():\n    pass",
        "def top_k(logits, k):\n    raise NotImplementedError", "from sample import min_p",
        "def cross_entropy(logits, targets):\n    return logits.no_such_method()")
    assert code == 1 and list(table) == ["softmax", "attention", "every_window", "cross_entropy"]
    assert re.fullmatch(
        r"no test_each_function_equals_pytorchs\[.*\] same\(model.softmax\(x\), F.softmax\(x, "
        r"dim=-1\), x\) of shape \(5, 6\), at \[0\]\[0\]: expected 0\.\d+, got 0\.\d+",
        table["softmax"])
    assert table["attention"] == "yes 12 passed"
    assert "no_such_method' (line " in table["cross_entropy"]
    assert "expected 1, got 0" in table["every_window"]
    assert "still to do: encode, learn_merges" in said and "min_p" in said.split("to do: ")[1]


@pytest.mark.slow
@pytest.mark.parametrize("i", [0, 1])
def test_each_mistake_is_counted_where_it_was_made(i, tmp_path):
    assert WRONG.keys() == EXERCISES.keys()
    code, table, said = judge(tmp_path, *(source(name, *WRONG[name][i]) for name in WRONG))
    assert code == 1 and list(table) == list(WRONG)
    assert [name for name in table if table[name][:2] != "no"] == [], said


@pytest.mark.slow
def test_ours_pass_every_exercise(tmp_path):
    code, table, said = judge(tmp_path, *map(source, EXERCISES))
    assert code == 0 and list(table) == list(EXERCISES) and "still to do: nothing" in said
    assert [name for name in table if table[name][:2] == "no"] == [], said


@pytest.mark.parametrize("text, says", [
    ("def softmax(x)\n", "SyntaxError.*line 1"), ("x = 1 / 0", "ZeroDivisionError.*line 1"),
    ("import nowhere", "No module named 'nowhere'"), ("exit(3)", "SystemExit"), (None, "my.py"),
    ("def sofmax(x):\n    return x", "sofmax is no exercise.*beyond.exercises")])
def test_a_file_that_cannot_be_judged_is_one_line(text, says, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "MINE", ModuleType("mine"))
    path = tmp_path / "my.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(pytest.UsageError, match=says) as error:
        teacher.load(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("got, expected, says", [
    (torch.ones(2, 2), torch.eye(2), "of shape (2, 2), at [0][1]: expected 0, got 1"),
    (torch.ones(2), torch.ones(3),
     "expected torch.float32 of shape (3,), got torch.float32 of"),
    (torch.ones(3).long(), torch.ones(3),
     "expected torch.float32 of shape (3,), got torch.int"),
    (None, torch.ones(3), "expected torch.float32 of shape (3,), got None"),
    ((torch.ones(1), torch.zeros(1)), (torch.ones(1),) * 2,
     "[1] of shape (1,), at [0]: expected 1"),
    ([1.0, 2], pytest.approx([1, 3]), "[1]: expected 3, got 2"),
    ({"a": 1, "b": 2}, pytest.approx({"a": 1, "b": math.pi}), "['b']: expected 3.141593, got 2"),
    ([1, 2], [1], "expected [1] (1 long), got [1, 2] (2 long)"), ("a", "b", "expected 'b', got 'a'")])
def test_the_first_difference(got, expected, says):
    assert says in teacher.first_difference(got, expected)


def test_a_start_has_our_signatures_and_is_never_written_over(tmp_path):
    said, mine = inside("beyond.exercises", "--start", "my.py", cwd=tmp_path), {}
    exec((tmp_path / "my.py").read_text(), mine)
    assert f"{len(EXERCISES)} functions" in said
    for name, ours in ORIGINAL.items():
        assert inspect.signature(mine[name]) == inspect.signature(ours)
        assert inspect.cleandoc(mine[name].__doc__) == DOC[name]
        with pytest.raises(NotImplementedError):
            mine[name](*[None] * len(inspect.signature(ours).parameters))
    (tmp_path / "my.py").write_text("mine")
    assert "stays as it is" in one_line("beyond.exercises", "--start", "my.py", cwd=tmp_path)
    assert (tmp_path / "my.py").read_text() == "mine"
    inside("beyond.exercises", "train", "--start", "t.py", cwd=tmp_path)
    assert re.findall(r"def (\w+)", (tmp_path / "t.py").read_text()) == ["learning_rate", "step"]


def test_what_is_listed_is_there(tmp_path):
    """Every test that is named, every line to change, once, and every flag of a run."""
    said = inside("beyond.exercises", cwd=tmp_path)
    for name, (_, tests, hint) in EXERCISES.items():
        text = (ROOT / f"tests/test_{FILE[name]}.py").read_text()
        assert all(f"def {test}(" in text for test in tests.split()), name
        assert f"\n{name}{inspect.signature(ORIGINAL[name])}" in said and hint[:40] in said
    assert [len(experiments) for experiments in EXPERIMENTS.values()] == [3] * 6
    for file, experiments in EXPERIMENTS.items():
        lines = (ROOT / f"{file}.py").read_text().splitlines()
        for question, old, new, command in experiments:
            assert question in said and command in said
            if old:
                numbers = [n for n, line in enumerate(lines, start=1) if old in line]
                assert len(numbers) == 1 and f"{file}.py, line {numbers[0]}:  {old}\n" in said
    flags = [word[2:].replace("-", "_") for word in RUN.split() if word[:2] == "--"]
    assert {"steps", "batch_size", "eval_every", "eval_tokens"} <= set(flags) & set(
        TrainConfig.__match_args__)
