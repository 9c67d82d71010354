"""What the walls stop: each attempt is bounded, and does no harm where nothing stops it."""
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beyond import sandbox
from conftest import ENVIRONMENT, ROOT, call

try:
    WALLS = sandbox.walls()
except ValueError:      # no Linux, or root's Python is closed to nobody
    WALLS = {}
ROOT_USER = WALLS and os.getuid() == 0
BOTH = [pytest.param(name, marks=[] if name in WALLS else pytest.mark.skip(f"no {name} here"))
        for name in ("bubblewrap", "limits alone")]


@pytest.fixture
def left(monkeypatch):
    """A function: how many processes are left that these tests started. A limit marks them. On a
    busy machine one that was killed takes a moment to end; 5 seconds are enough."""
    monkeypatch.setitem(sandbox.LIMITS, "CORE", mark := 10 ** 6 + os.getpid())
    def count():
        found, until = 1, time.monotonic() + 5
        while found and time.monotonic() < until:
            found = alive()
        return found

    def alive():
        found = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):      # it has ended meanwhile
                found += str(mark).encode() in path.read_bytes()
        return found
    return count


@pytest.mark.parametrize("name", BOTH)
def test_what_stops_each_attempt(name, left):
    stopped_by = {
        "loops for ever": "more than 1 CPU seconds", "takes 10 GB of memory": "MemoryError",
        "starts 200 processes": "BlockingIOError", "prints for ever": "it printed too much",
        "writes 100 MB": "OSError: [Errno 28]", "writes to the home": "Error: [Errno ",
        "signals its parent": "ProcessLookupError", "connects to a port": "ConnectionRefusedError",
        "leaves with code 0": "it left with exit code 0"}
    if name == "limits alone":      # these cannot stop all: what the docstring admits
        stopped_by |= {"writes 100 MB": "", "connects to a port": ""}
        stopped_by["signals its parent"] = "PermissionError" if ROOT_USER else ""
        stopped_by["writes to the home"] = "PermissionError" if ROOT_USER else ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        programs = sandbox.attempts(server.getsockname()[1])
        assert {*programs} == {*stopped_by, "sleeps for ever"}
        for what, says in stopped_by.items():
            why, text = sandbox.run(programs[what], WALLS[name], cpu=1)
            assert says in why if says else not why, (what, why)
            assert len(text) <= 2 ** 20
    assert not left() and not list(Path.home().glob("sandbox-*"))


@pytest.mark.parametrize("name", [BOTH[0], pytest.param(*BOTH[1].values, marks=[
    pytest.mark.slow, *BOTH[1].marks])])
def test_the_clock_ends_a_child_too(name, monkeypatch, left):
    """If there could be one: limits alone find it in its parent's group, bubblewrap anywhere."""
    monkeypatch.delitem(sandbox.LIMITS, "NPROC")
    leave = "os.setsid()" if name == "bubblewrap" else "0"
    why, text = sandbox.run(f"import os, time\nos.fork() or {leave}\nprint('two')\n"
                            "time.sleep(30)", WALLS[name], clock=3)
    assert (why, text) == ("longer than 3 seconds", "two\ntwo\n") and not left()


@pytest.mark.skipif(not WALLS, reason="no walls here")
def test_a_process_that_kills_its_parent():
    """For real, from a parent that may die. Limits alone leave the user's processes in reach."""
    for name in WALLS:
        parent = ("from beyond import sandbox as s; s.run('import os; os.kill(os.getppid(), 9)', "
                  f"s.walls()[{name!r}]); print('alive')")
        done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True,
                              env=ENVIRONMENT, cwd=ROOT)
        assert (done.stdout == "alive\n") == (name == "bubblewrap" or ROOT_USER), done


@pytest.mark.parametrize("name", BOTH)
def test_what_a_program_sees(name, monkeypatch):
    """No input, no environment, no user's rights; a folder to write in, and behind bubblewrap no
    other file than the system's. What it says, and why it ended, comes back."""
    monkeypatch.setenv("SECRET", "x")
    look = ("import os, sys\nprint(repr(sys.stdin.read()), 'SECRET' in os.environ, os.getuid(), "
            f"os.path.exists({__file__!r}), open('new', 'w').write('é你'))")
    uid = sandbox.NOBODY if ROOT_USER else os.getuid()
    there = name == "limits alone" and os.access(ROOT, os.R_OK)
    why, text = sandbox.run(look, WALLS[name])
    assert not why and text in [f"'' False {uid} {seen} 2\n" for seen in {False, there}]
    refused = "Read-only file system" if name == "bubblewrap" else "Permission denied"
    for program, why, text in (
            ("open('/new', 'w')", refused, None), ("open('/usr/new', 'w')", refused, None),
            ("print('é你')", "", "é你\n"), ("", "", ""), ("1 / 0", "ZeroDivisionError: ", None),
            ("x ===", "SyntaxError: ", None), ("import sys\nsys.exit()", "exit code 0", ""),
            ("raise SystemExit('done')", "exit code 1", "done\n"),
            ("import os\nos.kill(os.getpid(), 11)", "exit code ", ""),
            ("def f(): f()\nf()", "RecursionError: ", None)):
        found = sandbox.run(program, WALLS[name])
        assert (why in found[0] if why else not found[0]) and text in (None, found[1]), found


@pytest.mark.skipif(not WALLS, reason="no walls here")
def test_the_command(tmp_path):
    (tmp_path / "fine.py").write_text("print(6 * 7)")
    (tmp_path / "wrong.py").write_text("print(6 * seven)")
    code, stdout, stderr = call("beyond.sandbox", "fine.py", cwd=tmp_path)
    assert (code, stdout) == (0, "42\n") and next(iter(WALLS)) in stderr
    code, stdout, stderr = call("beyond.sandbox", "wrong.py", cwd=tmp_path)
    assert code == 1 and "NameError" in stderr and "Traceback" in stdout


def test_where_no_walls_hold_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox, "run", lambda *_: ("refused", ""))
    with pytest.raises(ValueError, match="no program can be run here"):
        sandbox.walls.__wrapped__()


@pytest.mark.slow
@pytest.mark.skipif(not WALLS, reason="no walls here")
def test_the_table_of_what_stops_what(tmp_path):
    _, stdout, _ = call("beyond.sandbox", cwd=tmp_path)
    rows = stdout.splitlines()
    assert len(rows) == 11 and rows[0].split("...")[1].split() == " ".join(WALLS).split()
    assert "longer than 10 seconds" in stdout and max(map(len, rows)) <= 96
