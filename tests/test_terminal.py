"""At the terminal: one writer a run, and every end is a quiet one."""
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

import data
from conftest import ENVIRONMENT, SMALL, command, inside, one_line


def start(script, *arguments, cwd, **more):
    return subprocess.Popen(command(script, *arguments), cwd=cwd, env=ENVIRONMENT, text=True, **{
        "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})


@pytest.mark.slow
def test_one_writer_a_run(trained, tmp_path):
    """The second is told who the first is; a lock ends with its process, however that ends."""
    flags = ["--source", trained / "text.txt", *SMALL]
    first = start("train.py", *flags, "--steps", 10 ** 6, "--name", "a b", cwd=tmp_path)
    while not (tmp_path / "runs/a b/last.pt").exists():
        assert first.poll() is None, first.communicate()
    half = tmp_path / "runs/a b/loss.png.7.unfinished"
    half.touch()
    said = one_line("train.py", "--resume", cwd=tmp_path)
    assert f"runs/a b is being trained by process {first.pid}" in said and half.exists()
    first.kill()
    first.communicate()
    second = start("train.py", "--resume", cwd=tmp_path)
    while half.exists():                        # what a killed process left half-written goes
        assert second.poll() is None, second.communicate()
    while "seconds" not in second.stdout.readline():
        pass                                    # from here on, Ctrl-C is train()'s
    second.send_signal(signal.SIGINT)
    stdout, stderr = second.communicate(timeout=60)
    assert (second.returncode, stderr) == (130, "") and "--name 'a b' --resume goes on" in stdout


def test_a_start_that_failed_leaves_its_name_free(trained, tmp_path):
    """Here because the disk is full: at the first file, or at the first checkpoint."""
    for room in (1000, 20_000):
        child = start("train.py", "--source", trained / "text.txt", *SMALL, cwd=tmp_path,
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
        _, stderr = child.communicate()
        assert child.returncode == 2 and stderr.count("\n") == 1 and "File too large" in stderr
        assert room == 1000 or not list(tmp_path.glob("runs/*"))
    (tmp_path / "runs/left").mkdir(parents=True)
    (tmp_path / "runs/left/config.json").write_bytes(
        (trained / "runs/first/config.json").read_bytes())
    assert "before its first step" in one_line("train.py", "--resume", "--name", "left",
                                               cwd=tmp_path)


@pytest.mark.parametrize("script", ["tokenizer.py", "data.py", "train.py", "sample.py", "eval.py"])
def test_nobody_reads_on(script, trained, tmp_path):
    """As behind "| head -1": exit code 0, nothing on stderr; train.py has saved."""
    flags = {"data.py": ["--source", trained / "text.txt"], "sample.py": [trained / "runs/first"],
             "eval.py": [trained / "runs/first"], "train.py": [
                 "--source", trained / "text.txt", *SMALL, "--steps", 10 ** 6]}.get(script, [])
    child = start(script, *flags, cwd=trained if script == "eval.py" else tmp_path)
    if script == "train.py":
        while "      1 " not in child.stdout.readline():
            assert child.poll() is None, child.communicate()
    child.stdout.close()
    assert (child.wait(60), child.stderr.read()) == (0, "")
    assert script != "train.py" or (tmp_path / "runs/nano/last.pt").exists()


@pytest.mark.parametrize("more", [0, 0.1, 0.2, 0.4])
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_ctrl_c_while_torch_is_imported(more, tmp_path):
    child = start("train.py", "--source", "nowhere", cwd=tmp_path)
    while "libtorch" not in Path(f"/proc/{child.pid}/maps").read_text():
        assert child.poll() is None
    time.sleep(more)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate()
    assert child.returncode in (2, -signal.SIGINT) and "Traceback" not in stderr, stderr


def test_a_terminal_without_utf_8(tmp_path):
    done = subprocess.run(command("tokenizer.py", "né 你"), capture_output=True, cwd=tmp_path,
                          env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"})
    assert b"n??? ??" in done.stdout and b"Traceback" not in done.stderr


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("notes/a.txt", "notes/private/b.txt", "notes/.hidden/c.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("text")
    for name in ("private", ".hidden"):
        os.chmod(f"notes/{name}", 0)
    root = os.geteuid() == 0
    os.chmod(tmp_path, 0o755)
    try:
        os.seteuid(65534) if root else None     # whom permissions bind
        with pytest.raises(OSError, match="Permission denied: 'notes/private'"):
            data.find(["notes"])
    finally:
        os.seteuid(0) if root else None
        os.chmod("notes/private", 0o755)
        os.chmod("notes/.hidden", 0o755)
