"""The loop learns what plain PyTorch learns, however a step is worked out; no end harms a run."""
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo        # what an optimiser imports takes seconds: once for all that are killed
import torch.nn.functional as F
from torch.distributed.run import get_args_parser
from torch.testing._internal.distributed.fake_pg import FakeStore     # gloo may hang at its end

import data
import train
from conftest import ENVIRONMENT, SMALL, call, command, inside, one_line
from model import GPT, GPTConfig
from train import PRESETS, TrainConfig, learning_rate, make_optimizers

LONG = [*SMALL, "--steps", 40, "--eval-every", 8, "--dropout", 0.1, "--accumulate", 2]
SLOW = pytest.mark.slow
read = lambda file: json.loads(file.read_text())
metrics = lambda folder: list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
load = lambda folder, name="last.pt": torch.load(folder / name, weights_only=True)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):       # they take longer than a short run; other processes draw them
    monkeypatch.setattr(train, "draw_curve", lambda *_: None)


def new_run(trained, cwd, name, *flags):
    inside("train.py", "--source", trained / "text.txt", "--name", name, *SMALL, *flags, cwd=cwd)
    return cwd / "runs" / name


def same_bits(*folders):
    def content(folder):
        best, last = load(folder, "best.pt"), load(folder)
        lines = [m | {"seconds": 0, "tokens_per_second": 0} for m in metrics(folder)]
        return best, last["model"], last["step"], [o["state"] for o in last["optimizers"]], lines
    torch.testing.assert_close(*map(content, folders), rtol=0, atol=0)


def same_curve(ours, theirs, loss=1e-5, norm=1e-4):
    for key, rel in (("train_loss", loss), ("val_loss", loss), ("grad_norm", norm), ("tokens", 0)):
        a, b = ([m.get(key, 0) for m in metrics(run)] for run in (ours, theirs))
        assert a == pytest.approx(b, rel=rel), key


def test_a_run_is_a_whole_folder(trained):
    from PIL import Image
    folder, val = trained / "runs/first", {"val_loss", "val_accuracy", "val_bits_per_byte"}
    keys = set("step tokens epoch train_loss lr grad_norm tokens_per_second seconds".split())
    assert load(folder, "best.pt").keys() == {"model", "step"} and read(folder / "tokenizer.json")
    assert read(folder / "config.json").keys() == {"data", "model", "train", "corpus"}
    lines, last = metrics(folder), load(folder)
    assert last.keys() == {"model", "step", "optimizers", "history"} and last["history"] == lines
    assert [m["step"] for m in lines] == list(range(1, 31))
    assert all(m.keys() == keys | (val if m["step"] % 10 == 0 else set()) for m in lines)
    n_train = len(data.load_corpus(trained / read(folder / "config.json")["corpus"]["folder"]).train)
    assert (m := lines[-1])["tokens"] == 30 * 4 * 16 == pytest.approx(m["epoch"] * n_train)
    assert m["val_loss"] < lines[9]["val_loss"] < lines[0]["train_loss"]
    assert all(0 < a["seconds"] < b["seconds"] for a, b in zip(lines, lines[1:]))
    assert len(Image.open(folder / "loss.png").convert("RGB").getcolors(1 << 20)) > 100


def test_what_is_printed_and_names(trained, tmp_path):
    text, nano = ["--source", trained / "text.txt", *SMALL, "--steps", 20], tmp_path / "runs/nano"
    stdout, _ = (inside("train.py", *text, cwd=tmp_path) for _ in range(2))
    m, printed = metrics(nano)[-1], stdout.split("\n     20 ")[1].split()[1:4]
    assert printed == [f"{m[key]:.3f}" for key in "train_loss val_loss val_bits_per_byte".split()]
    assert [stdout.count(says) for says in ("3.332 = ln(28)", "val loss", "\n      1 ")] == [1] * 3
    for name in ("nano", "..", ".", "a/b", tmp_path / "c"):
        assert "--resume" in one_line("train.py", *text, "--name", name, cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["nano", "nano-2"]


def test_the_loop_against_one_in_plain_pytorch(trained, tmp_path):
    folder = new_run(trained, tmp_path, "ours", *"--arch gpt2 --optimizer adamw --decay cosine "
                     "--learning-rate 0.01 --warmup-steps 4 --grad-clip 0.5 --steps 20".split())
    corpus = data.load_corpus(next(tmp_path.glob("corpora/*")))
    torch.manual_seed(1)
    model = GPT(GPTConfig(**read(folder / "config.json")["model"]))
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.5},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step, m in enumerate(metrics(folder)):
        lr = (step + 1) / 400 if step < 4 else 0.0055 + 0.0045 * math.cos(math.pi * (step - 4) / 15)
        groups[0]["lr"] = groups[1]["lr"] = lr
        ids, targets = data.batch(corpus.train, 4, 16, 1, step)
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        assert [m["train_loss"], m["lr"]] == pytest.approx([loss.item(), lr], rel=1e-5)
        assert m["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    val = torch.tensor(corpus.val.astype(int))
    logits = torch.cat([model(val[None, i:i + 16])[0] for i in range(0, len(val), 16)])[:-1]
    nats, guessed = F.cross_entropy(logits, val[1:]).item(), logits.argmax(dim=-1) == val[1:]
    bits = nats / math.log(2) * (len(val) - 1) / corpus.meta["val"]["bytes"]
    assert [m["val_loss"], m["val_accuracy"], m["val_bits_per_byte"]] == pytest.approx(
        [nats, guessed.double().mean().item(), bits], rel=1e-5)


def test_learning_rate_by_hand():
    c = TrainConfig(steps=201, warmup_steps=100, learning_rate=1.0, decay="cosine")
    at = lambda *steps: pytest.approx([learning_rate(step, c) for step in steps])
    assert at(0, 99, 125, 150, 200, 999) == [0.01, 1, 0.55 + 0.45 * 0.5 ** 0.5, 0.55, 0.1, 0.1]
    c.decay = "linear"
    assert at(99, 100, 125, 150, 200, 999) == [1.0, 1.0, 0.75, 0.5, 0, 0]
    c.steps = 50                                                # fewer than its warm-up has
    assert at(0, 24, 49) == [0.01, 0.25, 0.5]


def test_optimizers(monkeypatch):
    """Decay for matrices, Muon for those inside blocks; it is PyTorch's. What is frozen stays."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)   # so that theirs is exact
    torch.manual_seed(1)
    model = GPT(GPTConfig(n_embd=32, ngram_rows=50, bias=True, zero_init=False, norm="layernorm"))
    weights, optimizers = dict(model.named_parameters()), make_optimizers(model, TrainConfig())
    kinds = [1 if p.dim() == 1 else 2 if "blocks" in name else 0 for name, p in weights.items()]
    assert [kinds.count(kind) for kind in range(3)] == [3, 2 * 8 + 2, 2 * 4]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert [group["weight_decay"] for group in groups] == [0.5, 0, 0.5]
    for p, kind in zip(weights.values(), kinds):
        assert [sum(p is q for q in g["params"]) for g in groups] == [kind == i for i in range(3)]
    model.blocks[0].requires_grad_(False)
    before = {name: p.detach().clone() for name, p in weights.items()}
    pairs = [(p, torch.nn.Parameter(p.detach().clone())) for p in
             (model.blocks[1].W_up, model.blocks[1].W_down)]                    # wide, and tall
    theirs = torch.optim.Muon([b for _, b in pairs], weight_decay=0.5, momentum=0.95,
                              adjust_lr_fn="match_rms_adamw")
    optimizers = [*make_optimizers(model, TrainConfig()), theirs]
    for _ in range(3):
        ids = torch.randint(1024, (4, 17))
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        for a, b in pairs:
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.01
            optimizer.step()
    torch.testing.assert_close(*zip(*pairs), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(p, before[name]) != p.requires_grad for name, p in weights.items())


def test_the_same_curve_however_a_step_is_worked_out(trained, tmp_path):
    whole, again, two, four, raw, half = (
        new_run(trained, tmp_path, str(i), "--steps", 20, "--eval-every", 20, *flags.split())
        for i, flags in enumerate(("", "--activation-checkpointing", "--accumulate 2",
                                   "--accumulate 4", "--kernels raw", "--dtype bfloat16")))
    same_bits(again, whole)
    for other in (two, four, raw):
        same_curve(other, whole)
    same_curve(half, whole, loss=0.001, norm=0.01)
    assert metrics(half)[-1]["grad_norm"] != pytest.approx(metrics(whole)[-1]["grad_norm"], 1e-5)
    assert all(w.dtype == torch.float32 for w in load(half)["model"].values())


def test_an_evaluation_is_capped_and_evenly_spread(monkeypatch):
    val, seen = torch.randint(64, (50_000,)).numpy(), []
    model = GPT(GPTConfig(64, context_length=16, n_layer=1, n_embd=8, ngram=1, dropout=0.5))
    model.register_forward_pre_hook(lambda _, x: seen.append((model.training, x[0][0].tolist())))
    corpus = SimpleNamespace(val=val, meta={"val": {"bytes": 50_000}})
    train.evaluate(model, corpus, TrainConfig(eval_tokens=10_000))
    assert seen == [(False, val[s:s + 16].tolist()) for s in (0, 20_480, 40_960)]
    for name, value in (("RANK", 1), ("WORLD", 2), ("all_reduce", lambda *shares: shares)):
        monkeypatch.setattr(train, name, value)
    train.evaluate(model, corpus, TrainConfig(eval_tokens=0))
    assert model.training and len(seen) == 3 + 14 // 2      # every other of 13, and a short one


def test_the_loop_trains_what_it_is_given(tmp_path, monkeypatch):
    clock, x, sent, saved, drawn = iter(range(0, 10 ** 6, 601)), torch.randn(64, 2), [], [], set()
    monkeypatch.setattr(train.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(train, "write_whole", lambda path, _: saved.append(path.stem))
    monkeypatch.setattr(train, "WORLD", 2)      # of which the other rank is as one with this one
    train.dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
    net.register_comm_hook(sent, lambda sent, bucket: (
        sent.append(1), torch.futures.collect_all([]).then(lambda _: bucket.buffer()))[1])
    history, c = [], TrainConfig(accumulate=2, learning_rate=0.2, warmup_steps=5, eval_every=3)
    for c.steps in (6, 12):
        train.train(
            net, make_optimizers(net.module, c), history,
            lambda *which: (x, x @ torch.tensor([3.0, -2.0]) + 1),
            lambda net, x, y: drawn.add(torch.rand(1).item()) or ((net(x)[:, 0] - y) ** 2).mean(),
            lambda model: {"val_loss": [3, 1, 2, 1.5][len(history) // 3]}, tmp_path, c, 64)
    train.dist.destroy_process_group()
    assert len(history) == len(sent) == len(drawn) / 2 == 12    # each micro-batch its own dropout
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert " ".join(saved) == "last last best last last last best last" + 6 * " last"


def test_presets_are_whole_and_every_setting_is_a_flag(tmp_path):
    known = {name for c in (data.DataConfig, TrainConfig, GPTConfig) for name in c.__match_args__}
    assert all(set(preset) <= known | {"arch"} for preset in PRESETS.values())
    shown = {w.strip(",.") for w in inside("train.py", "--help", cwd=tmp_path).split()}
    flags = {w for w in shown if w[:2] == "--" and w[:5] not in ("--no-", "--hel")}
    assert flags >= {"--" + name.replace("_", "-") for name in known} and len(flags) <= 46
    theirs = get_args_parser()._option_string_actions   # torchrun would take --run as --run-path
    assert not [flag for flag in flags if any(other.startswith(flag) for other in theirs)]


@pytest.fixture(scope="module")
def unbroken(trained, tmp_path_factory):
    return new_run(trained, tmp_path_factory.mktemp("unbroken"), "whole", *LONG)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_bits(signum, trained, tmp_path, unbroken, monkeypatch):
    plain, before, broken = data.batch, signal.signal(signum, print), tmp_path / "runs/nano"
    monkeypatch.setattr(data, "batch", lambda tokens, B, T, seed, step, *part: (
        step == 12 and signal.raise_signal(signum), plain(tokens, B, T, seed, step, *part))[1])
    code, stdout, stderr = call("train.py", "--source", trained / "text.txt", *LONG, cwd=tmp_path)
    assert signal.signal(signum, before) is print       # after the loop, Ctrl-C is not its own
    assert code == 130 and not stderr and "step 13: --name nano --resume" in stdout
    assert load(broken)["step"] == len(metrics(broken)) == 13
    (broken / "metrics.jsonl").write_bytes(b'{"step": 1\xff\n\n')
    inside("train.py", "--resume", cwd=tmp_path)
    same_bits(broken, unbroken)


def launch(*arguments, cwd, ranks=0, **more):
    start = command("train.py", *arguments)
    torchrun = f"-m torch.distributed.run --standalone --nproc_per_node {ranks}".split()
    start[1:1] = torchrun if ranks else []
    return subprocess.Popen(start, cwd=cwd, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True, **more)


def until(step, child, file):
    while not file.exists() or file.read_bytes().count(b"\n") < step:
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)


def undrawn(*start, cwd):
    train.draw_curve = lambda *_: None
    call(*start, cwd=cwd)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=SLOW) for s in range(1, 88))])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(seed, trained, tmp_path, unbroken,
                                                             monkeypatch):
    chance, broken = random.Random(seed), tmp_path / "runs/broken"
    process = multiprocessing.get_context("forkserver")     # which imports torch once for them all
    process.set_forkserver_preload([__name__])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    start = ("train.py", "--source", trained / "text.txt", *LONG, "--name", "broken")
    child = process.Process(target=undrawn, args=start, kwargs={"cwd": tmp_path})
    child.start()
    while not (broken / "last.pt").exists():        # there after the first step
        assert child.is_alive()
    time.sleep(0.5 * chance.random())
    child.kill()
    child.join()
    if load(broken)["step"] < 40:
        inside("train.py", "--resume", cwd=tmp_path)
    same_bits(broken, unbroken)


@pytest.fixture(scope="module")
def unbroken_two(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    child = launch("--source", trained / "text.txt", *LONG, "--name", "two", ranks=2, cwd=folder)
    assert child.communicate() and child.returncode == 0
    return folder / "runs/two"


@pytest.mark.parametrize("seed", [pytest.param(s, marks=SLOW) for s in range(12)])
def test_ranks_killed_at_any_moment_go_on_to_the_same_bits(seed, trained, tmp_path, unbroken_two):
    """Killed are torchrun and all its ranks, or one rank, whereupon torchrun ends the other."""
    chance, broken = random.Random(seed), tmp_path / "runs/broken"
    child = launch("--source", trained / "text.txt", *LONG, "--name", "broken", ranks=2,
                   cwd=tmp_path)
    until(1, child, broken / "last.pt")
    time.sleep(chance.random())
    ranks = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True).stdout
    os.kill(int(chance.choice(ranks.split() or [-child.pid])) if seed % 2 else -child.pid, 9)
    child.communicate(timeout=100)
    if load(broken)["step"] < 40:
        child = launch("--resume", ranks=2, cwd=tmp_path)
        assert child.communicate(timeout=100) and child.returncode == 0
    same_bits(broken, unbroken_two)


def test_resume_takes_all_but_steps_from_the_run(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    folder, resume = tmp_path / "runs/first", ["train.py", "--resume", "--steps"]
    for flags, says in (("--preset nano", "preset"), ("--no-bias", "bias"), ("--name x", "run x")):
        assert says in one_line(*resume, 40, *flags.split(), cwd=tmp_path)
    for steps in (0, 20, 30):
        assert "steps" in one_line(*resume, steps, cwd=tmp_path)
    same_bits(folder, trained / "runs/first")
    os.link(folder / "last.pt", tmp_path / "old")
    inside(*resume, 34, "--name", "first", cwd=tmp_path)
    assert load(tmp_path, "old")["step"] == 30          # renamed into place, not written over
    assert {s["step"].item() for s in load(folder)["optimizers"][0]["state"].values()} == {34}
    whole = (folder / "last.pt").read_bytes()
    for damaged in (whole[:-1000], b"", whole[:2000] + bytes(2000) + whole[4000:]):
        (folder / "last.pt").write_bytes(damaged)
        assert "last.pt" in one_line(*resume, 50, cwd=tmp_path)
    assert read(folder / "config.json")["train"]["steps"] == 34 == len(metrics(folder))


def test_init_starts_from_the_weights_shape_and_tokenizer_of_a_run(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "caps.txt").write_text((trained / "text.txt").read_text().upper())
    start = "--init first --source caps.txt --device cpu --steps 1 --learning-rate 0 --name".split()
    inside("train.py", *start, "new", cwd=tmp_path)
    new, first = tmp_path / "runs/new", tmp_path / "runs/first"
    torch.testing.assert_close(load(new)["model"], load(first, "best.pt")["model"], rtol=0, atol=0)
    assert read(new / "tokenizer.json") == read(first / "tokenizer.json")
    assert read(new / "config.json")["model"] == read(first / "config.json")["model"]
    for wrong in ("--n-embd 32", "--tokenizer char"):       # of another 28 characters
        one_line("train.py", *start, "wrong", *wrong.split(), cwd=tmp_path)
        assert not (tmp_path / "runs/wrong").exists()


@pytest.mark.parametrize("flags", [
    "--source nowhere", "--source empty", "--source short", "--preset nanoo",
    "--arch bert", "--n-layers 7", "--n-embd 17", "--steps 0", "--steps many", f"--seed {2 ** 64}",
    "--accumulate 2 --batch-size 5", "--learning-rate nan", "--dropout 1", "--tokenizer bbpe",
    "--device tpu"])
def test_bad_input_is_one_line_and_leaves_no_run(flags, tmp_path):
    for name, text in (("empty", ""), ("short", "To be or not to be."), ("text", "To be. " * 300)):
        (tmp_path / name).write_text(text)
    start = ["train.py", "--source", "text", *SMALL]
    assert flags.split()[-1] in one_line(*start, *flags.split(), cwd=tmp_path)
    assert not (tmp_path / "runs").exists() and not list(tmp_path.glob("corpora/*unfinished*"))


@pytest.mark.parametrize("step", [12, 16])      # the next step meets it, or an evaluation
def test_a_loss_that_is_not_finite_is_never_saved(step, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "learning_rate", lambda n, c: math.inf if n == step - 1 else 1e-3)
    assert "-rate" in one_line("train.py", "--source", trained / "text.txt", *LONG, cwd=tmp_path)
    assert {load(tmp_path / "runs/nano", name)["step"] for name in ("last.pt", "best.pt")} == {8}


@pytest.mark.parametrize("ranks, room", [       # for metrics, for a checkpoint
    (0, 6_200), pytest.param(2, 20_000, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_old_checkpoint(ranks, room, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "runs/first/last.pt").read_bytes()
    child = launch("--resume", "--steps", 1000, ranks=ranks, cwd=tmp_path, preexec_fn=lambda: (
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))))
    lines = child.communicate(timeout=100)[1].splitlines()
    said = [line for line in lines if "train.py" in line and " FAILED" not in line]
    assert child.returncode and len(said) in (1, ranks) and (ranks or said == lines)
    assert {line[:10] for line in said} == {"train.py: "}       # and no traceback
    assert (tmp_path / "runs/first/last.pt").read_bytes() == before
    assert not list(tmp_path.glob("runs/first/*unfinished*"))


@pytest.mark.parametrize("ranks, flags", [(2, ""), pytest.param(
    4, "--optimizer adamw --activation-checkpointing --accumulate 2", marks=SLOW)])
def test_ranks_are_one_process_and_stop_and_resume_together(ranks, flags, trained, tmp_path):
    flags = ["--steps", 30, "--batch-size", 8, "--eval-every", 5, *flags.split()]
    alone = new_run(trained, tmp_path, "alone", *flags, "--accumulate", ranks)
    many, then_one = tmp_path / "runs/nano", tmp_path / "runs/then-one"
    child = launch("--source", trained / "text.txt", *SMALL, *flags, ranks=ranks, cwd=tmp_path)
    until(6, child, many / "metrics.jsonl")
    pids = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True).stdout
    os.kill(int(pids.split()[-1]) if ranks == 2 else -child.pid, signal.SIGINT)     # one, or all
    stdout, _ = child.communicate(timeout=100)
    assert child.returncode and f"after step {load(many)['step']}: --name nano --resume" in stdout
    assert load(many)["step"] == len(metrics(many)) < 30 and stdout.count("\nmodel ") == 1
    shutil.copytree(many, then_one)
    inside("train.py", "--resume", "--name", "then-one", cwd=tmp_path)
    child = launch("--resume", "--name", "nano", ranks=ranks, cwd=tmp_path)
    assert child.communicate(timeout=100)[0].count("writes:") == 1 and child.returncode == 0
    same_curve(many, alone)
    same_curve(then_one, alone)
