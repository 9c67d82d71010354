"""What the tests share: a short text, ways to run a script as a person does, one trained run."""
import contextlib
import importlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

try:
    from hypothesis import assume, example, given, settings, strategies as st      # noqa: F401
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
except ImportError:     # then a test on texts that hypothesis would think up is skipped
    from unittest.mock import MagicMock
    assume, st = MagicMock(), MagicMock()
    example = settings = lambda *_, **__: lambda test: test
    given = lambda *_, **__: pytest.mark.skip("needs hypothesis")

torch.set_num_threads(1)    # the models here are too small to share between cores

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"    # larger real data, where there is any
CACHE = SHARED / "tiktoken_cache"
sys.path.insert(0, str(ROOT))

TEXT = "\n".join(f"{n} green bottle{'s' * (n != 1)} hanging on the wall," for n in range(300))
SMALL = ["--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--context-length", "16",
         "--batch-size", "4", "--eval-every", "10", "--ngram-rows", "200", "--tokenizer", "char",
         "--device", "cpu"]


def pytest_addoption(parser):
    parser.addoption("--mine", metavar="FILE", help="--mine=FILE: judge your functions, not ours")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: a longer proof, which pytest -m slow runs")
    if not config.option.markexpr and not any("::" in arg for arg in config.args):
        config.option.markexpr = "not slow"
    if config.option.mine:
        config.pluginmanager.import_plugin("teacher")


def command(script, *arguments):
    """The command line of train.py, or of a chapter such as beyond.clean."""
    file = [ROOT / script] if script.endswith(".py") else ["-m", script]
    return [sys.executable, *map(str, [*file, *arguments])]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8",
                            "PYTHONPATH": str(ROOT)}


def run(script, *arguments, cwd, rc=0):
    """Run a script in the folder cwd, as a process of its own; return its stdout and its stderr."""
    done = subprocess.run(command(script, *arguments), cwd=cwd, capture_output=True, text=True,
                          encoding="utf-8", env=ENVIRONMENT)
    assert done.returncode == rc, done.stdout + done.stderr
    return done.stdout, done.stderr


def call(script, *arguments, cwd):
    """main() of a script within this process, without the seconds that importing torch takes: its
    exit code, its stdout and its stderr."""
    stdout, stderr = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    argv, here = sys.argv, Path.cwd()
    sys.argv = [script, *map(str, arguments)]
    os.chdir(cwd)
    try:
        with (contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr),
              pytest.raises(SystemExit) as stopped):
            importlib.import_module(script.removesuffix(".py")).main()
            sys.exit(0)
        stdout.flush()
    finally:
        os.chdir(here)
        sys.argv = argv
    return stopped.value.code or 0, stdout.buffer.getvalue().decode(), stderr.getvalue()


def inside(script, *arguments, cwd):
    """The stdout of a script that must succeed."""
    code, stdout, stderr = call(script, *arguments, cwd=cwd)
    assert code == 0, stdout + stderr
    return stdout


def one_line(script, *arguments, cwd):
    """The one line that a script says on stderr as it refuses its input."""
    code, _, said = call(script, *arguments, cwd=cwd)
    assert code == 2 and said.count("\n") == 1 and said.startswith(script), said
    return said


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with text.txt and runs/first, a tiny model trained on it for 30 steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    run("train.py", "--source", "text.txt", "--name", "first", "--steps", 30, *SMALL, cwd=folder)
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """The same folder, to write in."""
    return shutil.copytree(trained, tmp_path / "copied")
