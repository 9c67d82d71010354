"""Sharded, the curve and the weights are those of one process, and any number can go on."""
import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from conftest import ENVIRONMENT, SMALL, run

pytestmark = pytest.mark.slow
# So few tokens are evaluated that not every rank has a batch. No learning rate depends on --steps.
FLAGS = [*SMALL, "--batch-size", 12, "--grad-clip", 0.5, "--eval-tokens", 600,
         "--warmup-steps", 1000, "--learning-rate", 0.3]


def torchrun(ranks, *flags, cwd, rc=0, stop_when=None):
    """Run the chapter; it must end by itself, after Ctrl-C as well, sent when a file is there."""
    processes = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
         str(ranks), "-m", "beyond.sharded", *map(str, flags)], cwd=cwd, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while stop_when and not stop_when.exists() and processes.poll() is None:
        time.sleep(0.1)
    if stop_when:
        processes.send_signal(signal.SIGINT)
    try:
        said = "".join(processes.communicate(timeout=200))
    finally:
        processes.terminate()       # and with it the ranks, if they hang
    assert processes.returncode == rc, said
    return said


def curve(folder, key="train_loss"):
    return [m[key] for m in map(json.loads, open(folder / "metrics.jsonl")) if key in m]


@pytest.mark.parametrize("optimizer, close", [("adamw", 1e-5), ("muon", 5e-5)])
def test_the_same_as_one_process(optimizer, close, trained, tmp_path):
    shape = [flag for flag in FLAGS if flag not in ("--tokenizer", "char")]     # --init has its own
    flags = ["--source", trained / "text.txt", *shape, "--optimizer", optimizer, "--dropout", 0.1,
             "--init", trained / "runs/first", "--steps", 20]
    run("train.py", *flags, "--accumulate", 4, "--name", "1", cwd=tmp_path)
    for ranks, more in ((4, []), (2, ["--accumulate", 2, "--activation-checkpointing"])):
        said = torchrun(ranks, *flags, *more, "--name", ranks, cwd=tmp_path)
        ours, alone = tmp_path / f"runs/{ranks}", tmp_path / "runs/1"
        for key in ("train_loss", "val_loss", "val_accuracy", "grad_norm", "lr", "epoch", "tokens"):
            assert curve(ours, key) == pytest.approx(curve(alone, key), rel=close), key
        saved, expected = (torch.load(folder / "last.pt") for folder in (ours, alone))
        for part in ("model", "optimizers", "step"):
            torch.testing.assert_close(saved[part], expected[part], atol=1e-4, rtol=1e-3)
        n = sum(map(torch.numel, saved["model"].values())) / ranks
        kept = int(re.search("keeps ([0-9,]+)", said)[1].replace(",", ""))
        assert kept == pytest.approx(n, rel=0.02)
        assert {path.name for path in ours.iterdir()} == {path.name for path in alone.iterdir()}


def test_a_run_goes_on_with_another_number_of_ranks(trained, tmp_path):
    def start(ranks, *flags):       # 0 ranks: train.py
        flags = [*flags, "--name", name]
        torchrun(ranks, *flags, cwd=tmp_path) if ranks else run("train.py", *flags, cwd=tmp_path)

    flags, name = ["--source", trained / "text.txt", *FLAGS, "--steps"], "whole"
    start(0, *flags, 20)
    whole = curve(tmp_path / "runs/whole")
    for first, then in ((2, 3), (3, 0), (0, 2)):
        name = f"{first}-{then}"
        start(first, *flags, 10)
        start(then, "--resume", "--steps", 20)
        assert curve(tmp_path / "runs" / name) == pytest.approx(whole, rel=1e-6), name


def test_it_ends(trained, tmp_path):
    """After Ctrl-C, and what was saved goes on; and at a mistake, before anything is on disk."""
    flags, last = ["--source", trained / "text.txt", *FLAGS], tmp_path / "runs/long/last.pt"
    torchrun(2, *flags, "--steps", 9999, "--name", "long", cwd=tmp_path, rc=1, stop_when=last)
    steps = torch.load(last)["step"] + 1
    torchrun(2, "--name", "long", "--resume", "--steps", steps, cwd=tmp_path)
    assert len(curve(last.parent)) == steps
    said = torchrun(2, *flags, "--batch-size", 3, "--name", "odd", cwd=tmp_path, rc=1)
    assert "a multiple of --accumulate" in said and not last.parents[1].joinpath("odd").exists()
