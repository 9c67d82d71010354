"""What the tests share: a short text, a way to run a script as a person does, one trained run."""
import contextlib
import importlib
import io
import os
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
sys.path.insert(0, str(ROOT))

TEXT = "\n".join(f"{n} green bottle{'s' * (n != 1)} hanging on the wall," for n in range(300))
SMALL = ["--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--context-length", "16",
         "--batch-size", "4", "--eval-every", "10", "--ngram-rows", "200", "--device", "cpu"]


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: a longer proof; pytest alone leaves it out, "
                                       "pytest -m slow runs it")
    if not config.option.markexpr and not any("::" in arg for arg in config.args):
        config.option.markexpr = "not slow"


def run(script, *arguments, cwd, rc=0):
    """Run a script of the project in the folder cwd; return its output, stdout then stderr."""
    done = subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], cwd=cwd,
                          capture_output=True, text=True, encoding="utf-8",
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == rc, done.stdout + done.stderr
    return done.stdout, done.stderr


def inside(script, *arguments, cwd, rc=0):
    """The same within this process, without the seconds that importing torch takes; its stdout."""
    stdout, argv, here = io.StringIO(), sys.argv, Path.cwd()
    sys.argv = [script, *map(str, arguments)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(stdout), pytest.raises(SystemExit) as stopped:
            importlib.import_module(Path(script).stem).main()
            sys.exit(0)
    finally:
        os.chdir(here)
        sys.argv = argv
    assert (stopped.value.code or 0) == rc, stdout.getvalue()
    return stdout.getvalue()


def one_line(script, *arguments, cwd):
    """main() of a script that must refuse its input; return the one line it says on stderr."""
    stderr, argv, here = io.StringIO(), sys.argv, Path.cwd()
    sys.argv = [script, *map(str, arguments)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as stopped:
            importlib.import_module(Path(script).stem).main()
    finally:
        os.chdir(here)
        sys.argv = argv
    said = stderr.getvalue()
    assert stopped.value.code == 2 and said.count("\n") == 1 and said.startswith(script), said
    return said


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with text.txt and runs/first, a tiny model trained on it for 30 steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    run("train.py", "--source", "text.txt", "--run", "first", "--steps", 30, *SMALL, cwd=folder)
    return folder
