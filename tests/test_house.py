"""The house: six files that import only what was read before them, and beyond/, which may burn down."""
import ast
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, SMALL, TEXT

ROAD = ["tokenizer", "data", "model", "sample", "train", "eval"]        # in reading order
MAY_IMPORT = {name: set(ROAD[:i]) for i, name in enumerate(ROAD)} | {
    "model": set(), "eval": set(ROAD) - {"train", "eval"}}
CHAPTERS = {path.stem for path in ROOT.glob("beyond/*.py")}
FILES = [*ROOT.glob("*.py"), *ROOT.glob("beyond/*.py")]
TESTS = [ROOT / "tests/conftest.py", *ROOT.glob("tests/**/test_*.py")]


def count(paths):
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def imports(path):
    """What a file imports of ours, such as data or beyond.curves; all at its top, before any def."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    defs = [node.lineno for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    for node in ast.walk(tree):
        names = [node.module or "."] if isinstance(node, ast.ImportFrom) else [
            alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        ours = {name for name in names if name.split(".")[0] in (*ROAD, "beyond", "conftest", "")}
        assert not ours or node in tree.body and node.lineno < min(defs), (path.name, ours)
        assert getattr(node, "id", "") not in ("__import__", "importlib", "exec"), path.name
        found |= ours
    return found


def test_imports_of_the_road_go_back_in_reading_order():
    assert {path.stem for path in ROOT.glob("*.py")} == set(ROAD)
    for name in ROAD:
        assert imports(ROOT / f"{name}.py") <= MAY_IMPORT[name], name


def test_imports_of_chapters_and_tests():
    for path in ROOT.glob("beyond/*.py"):
        assert imports(path) <= {*ROAD, *(f"beyond.{name}" for name in CHAPTERS - {path.stem})}
    for path in ROOT.glob("tests/*.py"):
        assert not any(name.startswith("beyond") for name in imports(path)), path.name


def test_sizes():
    lines = {path.name: count([path]) for path in ROOT.glob("*.py")}
    assert sum(lines.values()) <= 1600 and max(lines.values()) <= 350, lines
    assert count(TESTS) <= count(FILES)
    long = [(path.name, line) for path in FILES for line in path.read_text(encoding="utf-8").splitlines()
            if len(line) > 100]
    assert not long


def test_each_chapter_is_listed():
    if CHAPTERS:
        listed = (ROOT / "beyond/README.md").read_text(encoding="utf-8")
        assert not [name for name in CHAPTERS if name not in listed]


def test_the_model_is_of_raw_tensors():
    """nn holds weights and nothing more; PyTorch's own maths is in the fused twins alone."""
    tree = ast.parse((ROOT / "model.py").read_text(encoding="utf-8"))
    twins = {id(node) for part in tree.body if getattr(part, "name", "") == "fused_attention"
             for node in ast.walk(part)}
    ...
