"""With pytest --mine=FILE: the functions of a reader's file stand in the place of ours, and the
tests that prove ours judge them. One function at a time is the reader's; what else that file calls
is ours meanwhile, so that a mistake is counted where it was made."""
import inspect
import textwrap
import traceback
from collections import Counter
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch

from beyond.exercises import EXERCISES, FILE, ORIGINAL, ROAD
from conftest import ROOT
from model import FUSED, RAW

MINE, DONE = ModuleType("mine"), {}                 # the reader's file, and the functions in it
PASSED, FAILED, COMPARED = Counter(), {}, []        # FAILED: what was first wrong with a function


def load(path):
    """Run the reader's file, and find the functions in it that are no stubs."""
    try:
        exec(compile(Path(path).read_bytes(), path, "exec"), vars(MINE))
    except (Exception, SystemExit) as error:
        raise pytest.UsageError(f"--mine={path} cannot be run: {explain(error, path)}") from None
    for name, f in vars(MINE).items():
        if inspect.isfunction(f) and f.__module__ == "mine" and name[0] != "_":
            if name not in EXERCISES:
                raise pytest.UsageError(f"--mine={path}: {name} is no exercise. python -m beyond."
                                        "exercises lists them; a helper is called _helper")
            if "NotImplementedError" not in inspect.unwrap(f).__code__.co_names:
                DONE[name] = f


def pytest_configure(config):
    load(config.option.mine)
    tests = dict.fromkeys(f"{ROOT}/tests/test_{FILE[name]}.py::{test}"
                          for name in DONE for test in EXERCISES[name][1].split())
    config.args[:] = tests
    config.option.reportchars = ""                  # the table says it
    if config.option.tbstyle == "auto":
        config.option.tbstyle = "no"


def pytest_generate_tests(metafunc):
    """A test runs once for each function that it proves."""
    names = [n for n in DONE if metafunc.function.__name__ in EXERCISES[n][1].split()]
    metafunc.parametrize("in_place_of_ours", names, indirect=True)


def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if "-fused" not in item.name]    # those twins are PyTorch's


@pytest.fixture(autouse=True)
def in_place_of_ours(request, monkeypatch):
    name = request.param
    COMPARED.clear()
    for other in EXERCISES.keys() - {name}:
        monkeypatch.setattr(MINE, other, ORIGINAL[other], raising=False)
    for place in (*ROAD.values(), RAW, FUSED, request.module):
        for key, value in list(vars(place).items()):
            if value is ORIGINAL[name]:
                monkeypatch.setattr(place, key, DONE[name])
    monkeypatch.setattr(EXERCISES[name][0], name, DONE[name])       # of a class, too


def pytest_assertrepr_compare(op, left, right):
    COMPARED[:] = (left, right) if op == "==" else ()


def differ(got, expected):
    try:
        return torch.testing.assert_close(got, expected, check_dtype=False) is not None
    except AssertionError:
        return True
    except TypeError:       # neither numbers nor tensors
        return not (type(got) is type(expected) and got == expected)


def shown(x):
    if torch.is_tensor(x) and x.dim():
        return f"{x.dtype} of shape {tuple(x.shape)}"
    x = x.item() if torch.is_tensor(x) else x
    length = f" ({len(x)} long)" if isinstance(x, (list, tuple)) else ""
    return f"{x:.7g}" if isinstance(x, float) else f"{x!r:.99}{length}"


def first_difference(got, expected, where=""):
    """Where in two values is the first that differs, and in what?"""
    got, expected = (getattr(x, "expected", x) for x in (got, expected))        # of approx()
    both = lambda *kinds: isinstance(got, kinds) and isinstance(expected, kinds)
    keys = ()
    if both(torch.Tensor) and got.shape == expected.shape != ():
        keys = range(len(got))
        where += "" if "shape" in where else f" of shape {tuple(got.shape)}, at "
    elif both(list, tuple):
        keys = range(min(len(got), len(expected)))
    elif both(dict):
        keys = [key for key in got if key in expected]
    for key in keys:
        if differ(got[key], expected[key]):
            return first_difference(got[key], expected[key], f"{where}[{key!r}]")
    return f"{where}: expected {shown(expected)}, got {shown(got)}".lstrip(": ")


def explain(error, path):
    """What is wrong, in a line: the first difference, if values were compared, or the error and
    the line of the reader's file that it comes from."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "assert_close":
            return first_difference(frame.f_locals["actual"], frame.f_locals["expected"])
    if isinstance(error, AssertionError):
        return first_difference(*COMPARED) if COMPARED else "does not hold"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    at = "".join(f" (line {n})" for n in lines[-1:])
    return f"{type(error).__name__}: {error}".split("\n")[0] + at


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report, name = (yield), item.callspec.params["in_place_of_ours"]
    if report.failed and name not in FAILED:
        error = call.excinfo.value
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        frames = traceback.extract_tb(error.__traceback__)
        asked = [f.line for f in frames if f.name == item.originalname][-1:]    # the test's line
        FAILED[name] = [item.name, *asked, explain(error, item.config.option.mine)]
    PASSED[name] += report.when == "call" and report.passed
    return report


def pytest_terminal_summary(terminalreporter):
    say = terminalreporter.write_line
    terminalreporter.section("your functions in the place of ours")
    for name in DONE:
        if name in FAILED:
            said = "\n".join(textwrap.fill(line, 82) for line in FAILED[name])
            say(f"{name:14}no  " + textwrap.indent(said, " " * 18).lstrip())
        else:
            say(f"{name:14}" + (f"yes {PASSED[name]:2} passed" if PASSED[name] else
                                "?   no test ran: pip install -r tests/requirements.txt"))
    todo = [name for name in EXERCISES if name not in DONE]
    say(textwrap.fill(f"still to do: {', '.join(todo) or 'nothing'}", 100))
