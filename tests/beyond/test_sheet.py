"""A sheet keeps every answer: cut short anywhere, edited, asked under other settings, or by two."""
import json
import subprocess
import sys

import pytest

from beyond.sheet import alike, sheet, weights_of
from conftest import ENVIRONMENT, inside

LIKE = {"id": "", "log_p": [0.0, 0.0]}
A, B, C = ({"id": id, "log_p": [-1, -2.5]} for id in "aéb")


def test_nothing_is_lost(tmp_path):
    path = tmp_path / "exams/x.jsonl"
    rows, add = sheet(path, {"shots": 1}, LIKE)
    assert rows == []
    add(A), add(B)
    whole = path.read_bytes()
    for n in range(len(whole) + 1):             # cut short anywhere, no whole line is lost
        path.write_bytes(whole[:n])
        rows, add = sheet(path, {"shots": 1}, LIKE)
        assert rows == [A, B][:max(0, whole[:n].count(b"\n") - 1)]
        add(C)
        assert sheet(path, {"shots": 1}, LIKE)[0] == [*rows, C]
    assert sheet(path, {"shots": 2}, LIKE)[0] == []         # another exam; the first is kept
    aside, = path.parent.glob("x-until-*.jsonl")
    assert [*map(json.loads, aside.open())] == [{"shots": 1}, A, B, C]
    assert "shots    2\nanswers  0\n" == inside("beyond.sheet", path, cwd=tmp_path)


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"id": "a"}', '{"id": 1, "log_p": [0, 0]}',
                                  '{"id": "a", "log_p": [0]}', '{"id": "a", "log_p": [0, "b"]}'])
def test_what_was_edited_is_refused_and_stays(line, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{{}}\n{line}\n")
    with pytest.raises(ValueError, match="x.jsonl is damaged"):
        sheet(path, {}, LIKE)
    assert path.read_text() == f"{{}}\n{line}\n" and alike(A | {"more": 1}, LIKE)


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "x.jsonl"
    _, add = sheet(path, {}, LIKE)
    code = ("from beyond.sheet import sheet; from pathlib import Path; "
            f"sheet(Path({str(path)!r}), {{}}, {{}})")
    theirs = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True,
                            text=True)
    assert "x.jsonl is in use by another process" in theirs.stderr
    add(A)
    assert sheet(path, {}, LIKE)[0] == [A]


def test_a_copy_of_a_run_has_the_same_weights(copied):
    assert weights_of(copied / "runs/first") == weights_of(str(copied / "runs/first"))
    before = weights_of(copied / "runs/first")
    (copied / "runs/first").rename(copied / "moved")
    assert weights_of(copied / "moved") == before
    (copied / "moved/best.pt").unlink()         # then last.pt counts
    assert weights_of(copied / "moved") != before
