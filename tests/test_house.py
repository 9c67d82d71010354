"""The house: six files that import only what comes before them, and beyond/, which may go away."""
import ast
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, SMALL

ROAD = ["tokenizer", "data", "model", "sample", "train", "eval"]        # in reading order
TOP = [path for path in ROOT.glob("*.py") if path.name != "my.py"]     # that is a reader's own
CODE = [*TOP, *ROOT.glob("beyond/*.py")]
TESTS = [*ROOT.glob("tests/conftest.py"), *ROOT.glob("tests/**/test_*.py")]
TEXTS = {path: path.read_text(encoding="utf-8") for path in CODE + TESTS}
CHAPTERS = [f"beyond.{path.stem}" for path in ROOT.glob("beyond/*.py")]


def imports(path):
    """What a file imports of ours, such as data or beyond.curves; first what is at its top."""
    top, inside, tree = set(), set(), ast.parse(TEXTS[path])
    for node in ast.walk(tree):
        names = [node.module or "."] if isinstance(node, ast.ImportFrom) else [
            alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        ours = {name for name in names if name.split(".")[0] in (*ROAD, "beyond", "tests", "")}
        first = min(n.lineno for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)))
        (top if node in tree.body and node.lineno < first else inside).update(ours)
    return top, inside


def test_imports_go_back_in_reading_order():
    assert {path.stem for path in TOP} == set(ROAD)
    may = {name: ROAD[:i] for i, name in enumerate(ROAD)} | {"model": [], "eval": ROAD[:4]}
    for path in CODE:
        top, inside = imports(path)
        assert top <= set(may.get(path.stem, ROAD + CHAPTERS)) and not inside, path
        assert "import_module" not in TEXTS[path] and "__import__" not in TEXTS[path], path
    for path in ROOT.glob("tests/test_*.py"):
        assert not [name for name in set.union(*imports(path)) if name[:6] == "beyond"], path


def test_sizes():
    road, code, tests = ({path.name: TEXTS[path].count("\n") for path in paths}
                         for paths in (TOP, CODE, TESTS))
    assert sum(road.values()) <= 1600 and max(road.values()) <= 350, road
    assert sum(n for name, n in tests.items() if "hostile" not in name) <= sum(code.values())
    assert not [line for path in CODE for line in TEXTS[path].splitlines() if len(line) > 100]


def test_each_chapter_is_listed():
    listed = (ROOT / "beyond/README.md").read_text(encoding="utf-8") if CHAPTERS else ""
    assert not [name for name in CHAPTERS if f"({name[7:]}.py)" not in listed]


def test_the_model_is_of_raw_tensors():
    for part in ast.parse(TEXTS[ROOT / "model.py"]).body:   # ready-made maths: fused twins alone
        fused = (getattr(part, "name", "") or ast.unparse(part)).lower().startswith("fused")
        for x in {ast.unparse(node) for node in ast.walk(part) if isinstance(node, ast.Attribute)}:
            ready = x.startswith(("nn.", "F.", "torch.nn")) or x.endswith(("softmax", "logsumexp"))
            assert not ready or x in ("nn.Module", "nn.Parameter", "nn.ModuleList") or fused, x


@pytest.mark.slow
def test_the_road_is_whole_without_beyond(tmp_path):
    left_out = shutil.ignore_patterns("beyond", ".*", "runs", "corpora")
    there = shutil.copytree(ROOT, tmp_path / "gpt", ignore=left_out)
    environment = os.environ | {"PYTHONPATH": ""}
    for command in (["train.py", "--source", "README.md", *SMALL, "--steps", "5"], ["sample.py"],
                    ["eval.py"], ["-m", "pytest", "-q", "-k", "imports"]):
        subprocess.run([sys.executable, *command], cwd=there, env=environment, check=True)
