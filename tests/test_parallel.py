"""Several processes train the model that one would: same curve, same weights, one clear end."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from conftest import ROOT, SMALL, run
from test_train import metrics

STEPS = ["--steps", 20, "--batch-size", 8]


def torchrun(n, *arguments, cwd, **more):
    """Start train.py in n processes. The `--` keeps torchrun from taking --run for its own flag."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n),
         "--", ROOT / "train.py", *map(str, arguments)], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(processes):
    stdout, stderr = processes.communicate(timeout=200)
    assert processes.returncode == 0, stdout + stderr
    return stdout


def curve(folder, key="train_loss"):
    return [m[key] for m in metrics(folder) if key in m]


@pytest.fixture(scope="module", params=["adamw", "muon"])
def alone(request, trained, tmp_path_factory):
    """The same run in one process, once for each optimiser: its folder and the flags it took."""
    cwd = tmp_path_factory.mktemp(request.param)
    flags = ["--source", trained / "text.txt", *SMALL, *STEPS, "--optimizer", request.param]
    run("train.py", *flags, "--run", "alone", cwd=cwd)
    return cwd, flags


def same_curve(cwd, name):
    for key, rel in (("train_loss", 1e-5), ("val_loss", 1e-5), ("grad_norm", 1e-3)):
        assert curve(cwd / "runs" / name, key) == pytest.approx(
            curve(cwd / "runs/alone", key), rel=rel), key
    return True


def test_two_processes_and_accumulation(trained, tmp_path):
    flags = ["--source", trained / "text.txt", *SMALL, *STEPS]
    run("train.py", *flags, "--run", "alone", cwd=tmp_path)
    stdout = finish(torchrun(2, *flags, "--accumulate", 2, "--run", "two", cwd=tmp_path))
    assert same_curve(tmp_path, "two")
    assert stdout.count("2 processes (ddp)") == stdout.count("That model writes") == 1
    assert stdout.count("val loss") == 1        # one process prints


@pytest.mark.slow
@pytest.mark.parametrize("n, more", [
    (4, ["--accumulate", 2]), (2, ["--activation-checkpointing"])])
def test_data_parallel(n, more, alone):
    cwd, flags = alone
    name = "-".join(["ddp", str(n), *map(str, more)]).replace("--", "")
    finish(torchrun(n, *flags, *more, "--run", name, cwd=cwd))
    assert same_curve(cwd, name)


@pytest.mark.slow
@pytest.mark.parametrize("n, more", [
    (4, []), (2, ["--accumulate", 4, "--activation-checkpointing"])])
def test_fully_sharded(n, more, alone):
    """Muon's products run in 16 bits, and sharded, they add up in another order: 5e-5 there."""
    cwd, flags = alone
    name = "-".join(["fsdp", str(n), *map(str, more)]).replace("--", "")
    finish(torchrun(n, *flags, "--parallel", "fsdp", *more, "--run", name, cwd=cwd))
    rel = 5e-5 if "muon" in flags else 1e-5
    for key in ("train_loss", "val_loss"):
        assert curve(cwd / "runs" / name, key) == pytest.approx(curve(cwd / "runs/alone", key),
                                                                 rel=rel)
    ours, theirs = (torch.load(cwd / "runs" / run / "last.pt", weights_only=True)
                    for run in (name, "alone"))
    assert ours.keys() == theirs.keys()
    for k, whole in theirs["model"].items():        # plain tensors of the whole shape
        assert type(ours["model"][k]) is torch.Tensor and ours["model"][k].shape == whole.shape
    assert str(cwd / "runs") and run("eval.py", f"runs/{name}", cwd=cwd)


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["muon"], indirect=True)
@pytest.mark.parametrize("first, then", [("fsdp", None), (None, "fsdp")])
def test_a_run_goes_on_with_another_number_of_processes(first, then, alone):
    """Stopped at step 10 in two processes and resumed in one, or the other way round."""
    cwd, flags = alone
    name = f"{first}-then-{then}"
    begin = [*flags, "--run", name, "--steps", 20, "--save-minutes", 1e-9]
    if first:
        processes = torchrun(2, *begin, "--parallel", first, cwd=cwd)
    else:
        processes = subprocess.Popen([sys.executable, ROOT / "train.py", *map(str, begin)], cwd=cwd,
                                     env=os.environ | {"OMP_NUM_THREADS": "1"})
    file = cwd / "runs" / name / "metrics.jsonl"
    while processes.poll() is None and not (file.exists() and file.read_text().count("\n") >= 8):
        time.sleep(0.002)
    processes.terminate()
    processes.communicate(timeout=100)
    assert 8 <= len(metrics(cwd / "runs" / name)) < 20
    if then:
        finish(torchrun(2, "--run", name, "--resume", "--parallel", then, cwd=cwd))
    else:
        run("train.py", "--run", name, "--resume", cwd=cwd)
    assert curve(cwd / "runs" / name) == pytest.approx(curve(cwd / "runs/alone"), rel=5e-5)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_one_line(trained, tmp_path):
    flags = ["--source", trained / "text.txt", *SMALL, "--steps", 100_000, "--run", "long"]
    processes = torchrun(2, *flags, cwd=tmp_path)
    last = tmp_path / "runs/long/last.pt"
    while processes.poll() is None and not last.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    workers = subprocess.run(["pgrep", "-P", str(processes.pid)], capture_output=True,
                             text=True).stdout.split()
    killed = time.monotonic()
    os.kill(int(workers[1]), signal.SIGKILL)
    stdout, stderr = processes.communicate(timeout=60)
    assert time.monotonic() - killed < 60 and processes.returncode != 0
    assert stderr.count("ends, as another one has gone; runs/long holds what was saved") == 1
    torch.load(last, weights_only=True)
    assert json.loads((tmp_path / "runs/long/metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_a_mistake_is_said_once(trained, tmp_path):
    processes = torchrun(2, "--source", "nowhere", *SMALL, cwd=tmp_path)
    _, stderr = processes.communicate(timeout=100)
    assert processes.returncode != 0 and stderr.count("no file or folder") == 1


def test_gradients_are_sent_once_a_step(tmp_path):
    """Of three parts of a batch, only the last sends; and then what the three add up to."""
    import torch.distributed as dist
    from model import GPT, GPTConfig
    from parallel import send_gradients
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0,
                            world_size=1)
    try:
        model = GPT(GPTConfig(n_layer=1, n_embd=16, ngram_rows=50))
        net = torch.nn.parallel.DistributedDataParallel(model)
        sent = []

        def hook(state, bucket):
            sent.append(bucket.buffer().clone())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        net.register_comm_hook(None, hook)
        for part in range(3):
            send_gradients(net, part == 2)
            logits = net(torch.full((1, 4), part))
            model.ops.cross_entropy(logits, torch.ones(1, 4).long()).backward()
            assert bool(sent) == (part == 2)
    finally:
        dist.destroy_process_group()
