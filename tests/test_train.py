"""The loop learns what plain PyTorch learns, however a step is worked out; no end harms a run."""
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.run import get_args_parser
from torch.nn.parallel import DistributedDataParallel

import data
import train
from conftest import ENVIRONMENT, SMALL, call, command, inside, one_line
from model import ARCHS, GPT, GPTConfig
from train import PRESETS, TrainConfig, learning_rate, make_optimizers

LONG = [*SMALL, "--steps", 40, "--eval-every", 8, "--dropout", 0.1, "--accumulate", 2]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):       # they take longer than a short run; other processes draw them
    monkeypatch.setattr(train, "draw_curve", lambda *_: None)


def new_run(trained, cwd, name, *flags):
    inside("train.py", "--source", trained / "text.txt", "--name", name, *SMALL, *flags, cwd=cwd)
    return cwd / "runs" / name


def load(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


def read(file):
    """The JSON in a file; of metrics.jsonl, a list, without what differs from time to time."""
    objects = list(map(json.loads, file.read_text().splitlines() if file.suffix == ".jsonl" else
                       [file.read_text()]))
    for measured in objects:
        measured.pop("seconds", None), measured.pop("tokens_per_second", None)
    return objects if file.suffix == ".jsonl" else objects[0]


def same_bits(ours, theirs):
    for name in ("best.pt", "last.pt"):
        a, b = load(ours, name), load(theirs, name)
        assert a["step"] == b["step"]
        torch.testing.assert_close(a["model"], b["model"], rtol=0, atol=0)
    for one, two in zip(a["optimizers"], b["optimizers"], strict=True):
        torch.testing.assert_close(one["state"], two["state"], rtol=0, atol=0)
    assert read(ours / "metrics.jsonl") == read(theirs / "metrics.jsonl")


def same_curve(ours, theirs, loss=1e-5, norm=1e-4):
    for key, rel in (("train_loss", loss), ("val_loss", loss), ("grad_norm", norm)):
        a, b = ([m.get(key, 0) for m in read(run / "metrics.jsonl")] for run in (ours, theirs))
        assert a == pytest.approx(b, rel=rel), key


def test_a_run_is_a_whole_folder(trained):
    from PIL import Image
    folder, n = trained / "runs/first", 30 * 4 * 16
    assert {p.name for p in folder.iterdir()} >= {
        "config.json", "tokenizer.json", "metrics.jsonl", "loss.png", "best.pt", "last.pt"}
    assert read(folder / "config.json").keys() == {"data", "model", "train", "corpus"}
    last = load(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert last.keys() == {"model", "step", "optimizers", "history"} and last["history"] == lines
    keys = {"step", "tokens", "epoch", "train_loss", "lr", "grad_norm", "tokens_per_second", "seconds"}
    val = {"val_loss", "val_accuracy", "val_bits_per_byte"}
    assert [m["step"] for m in lines] == list(range(1, 31))
    assert all(m.keys() == keys | (val if m["step"] % 10 == 0 else set()) for m in lines)
    n_train = read(next(trained.glob("corpora/*/meta.json")))["train"]["tokens"]
    assert (lines[-1]["tokens"], lines[-1]["epoch"]) == (n, n / n_train)
    assert lines[-1]["val_loss"] < lines[9]["val_loss"] < lines[0]["train_loss"]
    assert all(0 < a["seconds"] < b["seconds"] for a, b in zip(lines, lines[1:]))
    picture = Image.open(folder / "loss.png")
    assert picture.size[0] > 600 and len(picture.convert("RGB").getcolors(1 << 20)) > 100


def test_best_is_kept_when_the_model_gets_worse(tmp_path):
    """It learns that b follows a, ever more surely; in the validation text a follows a."""
    (tmp_path / "text.txt").write_text("ab" * 900 + "aabb" * 50)
    inside("train.py", "--source", "text.txt", "--steps", 40, *SMALL, "--eval-every", 5,
           "--warmup-steps", 5, cwd=tmp_path)
    seen = {m.get("val_loss", 9): m["step"] for m in read(tmp_path / "runs/nano/metrics.jsonl")}
    assert load(tmp_path / "runs/nano", "best.pt")["step"] == seen[min(seen)] < 40
    assert load(tmp_path / "runs/nano")["step"] == 40


def test_what_is_printed_and_names(trained, tmp_path):
    """Runs are numbered; a name that is taken, or is none for a folder, is refused."""
    text = ["--source", trained / "text.txt", *SMALL, "--steps", 20]
    stdout, _ = (inside("train.py", *text, cwd=tmp_path) for _ in range(2))
    m, weights = read(tmp_path / "runs/nano/metrics.jsonl")[-1], load(tmp_path / "runs/nano")["model"]
    rows = {row.split()[0]: row.split() for row in stdout.splitlines() if row}
    assert rows["20"][2:5] == [f"{m[key]:.3f}" for key in
                               ("train_loss", "val_loss", "val_bits_per_byte")]
    for says in (f"{sum(map(torch.numel, weights.values())):,} parameters", "ln(28) = 3.332",
                 "val loss", "\n      1 ", "writes:\n\n", "python sample.py nano"):
        assert stdout.count(says) == 1
    for name in ("nano", "..", ".", "a/b", tmp_path / "c"):
        assert "--resume" in one_line("train.py", *text, "--name", name, cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["nano", "nano-2"]


def test_the_loop_against_one_in_plain_pytorch(trained, tmp_path):
    folder = new_run(trained, tmp_path, "ours", *"--arch gpt2 --optimizer adamw --decay cosine "
                     "--learning-rate 0.01 --warmup-steps 4 --grad-clip 0.5 --steps 20".split())
    config = read(folder / "config.json")
    corpus = data.load_corpus(tmp_path / config["corpus"]["folder"])
    torch.manual_seed(1)
    model = GPT(GPTConfig(**config["model"]))
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step, m in enumerate(read(folder / "metrics.jsonl")):
        ids, targets = data.batch(corpus.train, 4, 16, 1, step)
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1, 0.5 / norm)
        lr = (step + 1) / 400 if step < 4 else 0.0055 + 0.0045 * math.cos(math.pi * (step - 4) / 15)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert [m["train_loss"], m["lr"]] == pytest.approx([loss.item(), lr], rel=1e-5)
        assert m["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    val, nats, correct = torch.tensor(corpus.val.astype(int)), 0.0, 0
    for start in range(0, len(val) - 1, 16):
        targets = val[start + 1:start + 17]
        logits = model(val[None, start:start + len(targets)])[0]
        nats += F.cross_entropy(logits, targets, reduction="sum").item() / (len(val) - 1)
        correct += (logits.argmax(dim=-1) == targets).sum().item()
    assert m["val_loss"] == pytest.approx(nats, rel=1e-5)
    assert m["val_accuracy"] == correct / (len(val) - 1)
    assert m["val_bits_per_byte"] == pytest.approx(
        nats / math.log(2) * (len(val) - 1) / corpus.meta["val"]["bytes"], rel=1e-5)


def test_learning_rate_by_hand():
    c = TrainConfig(steps=201, warmup_steps=100, learning_rate=1.0, decay="cosine")
    at = lambda *steps: pytest.approx([learning_rate(step, c) for step in steps])
    assert at(0, 49, 99, 100) == [0.01, 0.5, 1.0, 1.0]
    assert at(125, 150, 200, 999) == [0.1 + 0.9 * (1 + 0.5 ** 0.5) / 2, 0.55, 0.1, 0.1]
    c.decay = "linear"
    assert at(99, 100, 125, 150, 200, 999) == [1.0, 1.0, 0.75, 0.5, 0, 0]
    c.steps = 50                                                # fewer than its warm-up has
    assert at(0, 24, 49) == [0.01, 0.25, 0.5]


def test_optimizers():
    """Each weight in one group: decay for matrices, Muon for those inside blocks, whose steps it
    makes as long as AdamW's, and nearly as long in each direction. What is frozen stays.
    """
    torch.manual_seed(1)
    model = GPT(GPTConfig(n_embd=32, ngram_rows=50, norm="layernorm", bias=True, zero_init=False,
                          position="learned"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inner = [f"blocks.{i}.{W}" for i in (0, 1) for W in ("W_qkv", "W_out", "W_up", "W_down")]
    vectors = [name for name, p in before.items() if p.dim() == 1]
    outer = [name for name in before if name not in inner + vectors]
    assert (len(vectors), len(outer)) == (2 * 8 + 2, 4)         # 3 tables and W_vocab
    for name, expected in (("adamw", [inner + outer, vectors]), ("muon", [outer, vectors, inner])):
        optimizers = make_optimizers(model, TrainConfig(optimizer=name, weight_decay=0.3))
        groups = [group for each in optimizers for group in each.param_groups]
        assert [sorted(map(id, group["params"])) for group in groups] == [
            sorted(id(model.get_parameter(name)) for name in names) for names in expected]
        assert [group["weight_decay"] for group in groups] == [0.3, 0, 0.3][:len(groups)]
    for p in (*model.blocks[0].parameters(), model.token_table):
        p.requires_grad = False
    ids = torch.randint(1024, (4, 17))
    F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    for optimizer in optimizers:
        optimizer.param_groups[0] |= {"lr": 0.01, "weight_decay": 0.0}
        optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    step = (model.blocks[1].W_up - before["blocks.1.W_up"]).detach()            # (32, 128)
    stretch = torch.linalg.svdvals(step) / (0.01 * 0.2 * math.sqrt(128))
    assert stretch.median() == pytest.approx(0.9, abs=0.25) and stretch.max() < 1.3
    assert step.std().item() == pytest.approx(0.2 * 0.01, rel=0.25)


def test_the_same_curve_however_a_step_is_worked_out(trained, tmp_path):
    whole, again, two, four, raw, half = (
        new_run(trained, tmp_path, str(i), "--steps", 20, "--eval-every", 20, *flags.split())
        for i, flags in enumerate(("", "--activation-checkpointing", "--accumulate 2",
                                   "--accumulate 4", "--kernels raw", "--dtype bfloat16")))
    same_bits(again, whole)
    for other in (two, four, raw):
        same_curve(other, whole)
    same_curve(half, whole, loss=0.01, norm=0.1)
    with pytest.raises(AssertionError):
        same_curve(half, whole)
    assert all(w.dtype == torch.float32 for w in load(half)["model"].values())


def test_an_evaluation_is_capped_and_evenly_spread():
    val, read = torch.randint(64, (50_000,)).numpy(), []
    model = GPT(GPTConfig(64, context_length=16, n_layer=1, n_embd=8, ngram=1, dropout=0.5))
    model.register_forward_pre_hook(lambda _, x: read.append((model.training, x[0][0].tolist())))
    corpus = SimpleNamespace(val=val, meta={"val": {"bytes": 50_000}})
    train.evaluate(model, corpus, TrainConfig(eval_tokens=10_000))
    assert read == [(False, val[s:s + 16].tolist()) for s in (0, 20_480, 40_960)]
    train.evaluate(model, corpus, TrainConfig(eval_tokens=0))
    assert model.training and len(read) == 3 + math.ceil(49_999 / 4096) + 1     # one is short


def test_the_loop_trains_what_it_is_given(tmp_path, monkeypatch):
    """Any model, DDP around it, which sends gradients once a step; last.pt is saved when old."""
    clock, x, sent, saved = iter(range(0, 10 ** 6, 601)), torch.randn(64, 2), [], []
    monkeypatch.setattr(train.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(train, "write_whole", lambda path, _: saved.append(path.name))
    monkeypatch.setattr(train, "WORLD", 2)      # of which the other rank is as one with this one
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    net = DistributedDataParallel(torch.nn.Linear(2, 1))
    net.register_comm_hook(sent, lambda sent, bucket: (
        sent.append(1), torch.futures.collect_all([]).then(lambda _: bucket.buffer()))[1])
    history = train.train(
        net, lambda *which: (x, x @ torch.tensor([3.0, -2.0]) + 1),
        lambda net, x, y: ((net(x)[:, 0] - y) ** 2).mean(),
        lambda model: {"val_loss": (model.weight[0, 0] - 3).abs().item()}, tmp_path,
        TrainConfig(steps=100, accumulate=2, learning_rate=0.2, weight_decay=0.0), 64)
    dist.destroy_process_group()
    assert len(history) == 100 and history[-1]["val_loss"] < 0.2
    assert saved == ["last.pt"] * 99 + ["best.pt", "last.pt"] and len(sent) == 100


def test_presets_are_whole_and_every_setting_is_a_flag(tmp_path):
    known = {f.name for c in (data.DataConfig, TrainConfig, GPTConfig) for f in fields(c)}
    assert all(set(preset) <= known | {"arch"} for preset in PRESETS.values())
    with torch.device("meta"):
        gpt2 = GPT(data.checked(GPTConfig, PRESETS["gpt2"] | ARCHS["gpt2"] | {"vocab_size": 50_257}))
    assert sum(p.numel() for p in gpt2.parameters()) == 124_439_808     # Hugging Face's count
    shown = {w.strip(",.") for w in inside("train.py", "--help", cwd=tmp_path).split()}
    flags = {w for w in shown if w[:2] == "--" and w[:5] != "--no-"} - {"--help"}
    assert flags >= {"--" + name.replace("_", "-") for name in known} and len(flags) <= 46
    theirs = get_args_parser()._option_string_actions   # torchrun would take --run as --run-path
    assert not [flag for flag in flags if any(other.startswith(flag) for other in theirs)]


# ---- Stopped, killed, resumed.

@pytest.fixture(scope="module")
def unbroken(trained, tmp_path_factory):
    return new_run(trained, tmp_path_factory.mktemp("unbroken"), "whole", *LONG)


@pytest.mark.parametrize("signum, harm", [
    (signal.SIGINT, lambda file: file.unlink()),
    (signal.SIGTERM, lambda file: file.write_bytes(b'{"step": 1\xff\n\n'))])
def test_a_stopped_run_goes_on(signum, harm, trained, tmp_path, unbroken, monkeypatch):
    """To the same bits: dropout draws the same again. Its metrics are harmed in between."""
    plain, handler, broken = data.batch, signal.getsignal(signum), tmp_path / "runs/broken"
    monkeypatch.setattr(data, "batch", lambda tokens, B, T, seed, step, *part: (
        step == 12 and signal.raise_signal(signum), plain(tokens, B, T, seed, step, *part))[1])
    code, stdout, stderr = call("train.py", "--source", trained / "text.txt", *LONG, "--name",
                                "broken", cwd=tmp_path)
    assert code == 130 and not stderr and "step 13: --name broken --resume" in stdout
    assert load(broken)["step"] == len(read(broken / "metrics.jsonl")) == 13
    assert signal.getsignal(signum) == handler          # after the loop, Ctrl-C ends the program
    harm(broken / "metrics.jsonl")
    inside("train.py", "--resume", cwd=tmp_path)
    same_bits(broken, unbroken)


def launch(*arguments, cwd, ranks=0, **more):
    """Start train.py as a process of its own, or in several by torchrun."""
    start = command("train.py", *arguments)
    if ranks:
        start[1:1] = f"-m torch.distributed.run --standalone --nproc_per_node {ranks}".split()
    return subprocess.Popen(start, cwd=cwd, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True, **more)


def until(step, child, folder):
    file = folder / "metrics.jsonl"
    while not (file.exists() and file.read_bytes().count(b"\n") >= step):
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 20))])
def test_a_run_killed_at_any_moment_goes_on(seed, trained, tmp_path, unbroken):
    chance, broken = random.Random(seed), tmp_path / "runs/broken"
    child = launch("--source", trained / "text.txt", *LONG, "--name", "broken", cwd=tmp_path)
    until(chance.randrange(9, 32), child, broken)       # it saves after steps 8, 16, 24 ...
    time.sleep(0.2 * chance.random())
    child.kill()
    child.communicate()
    inside("train.py", "--resume", cwd=tmp_path)
    same_bits(broken, unbroken)


def test_resume_takes_all_but_steps_from_the_run(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    folder, resume = tmp_path / "runs/first", ["train.py", "--resume", "--steps"]
    for flags in ("--n-layer 2", "--preset nano", "--init first", "--bias", "--data corpora"):
        assert flags.split()[0][2:].replace("-", "_") in one_line(*resume, 40, *flags.split(), cwd=tmp_path)
    assert "no run nobody" in one_line(*resume, 40, "--name", "nobody", cwd=tmp_path)
    for steps in (20, 30):                  # it is at its end, or past it: nothing is left to do
        assert "writes:" in inside(*resume, steps, cwd=tmp_path)
    same_bits(folder, trained / "runs/first")
    inside(*resume, 34, "--name", "first", cwd=tmp_path)
    assert {s["step"].item() for s in load(folder)["optimizers"][0]["state"].values()} == {34}
    assert "steps" in one_line(*resume, 0, cwd=tmp_path)
    whole = (folder / "last.pt").read_bytes()
    for damaged in (whole[:-1000], b"", whole[:2000] + bytes(2000) + whole[4000:]):
        (folder / "last.pt").write_bytes(damaged)
        assert "last.pt" in one_line(*resume, 50, cwd=tmp_path)
    assert len(read(folder / "metrics.jsonl")) == 34 == read(folder / "config.json")["train"]["steps"]


def test_init_starts_from_the_weights_shape_and_tokenizer_of_a_run(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "new.txt").write_text("Ten green öre, standing in the hall. " * 60)
    (tmp_path / "caps.txt").write_text((trained / "text.txt").read_text().upper())
    start = "--init first --source new.txt --device cpu --steps 1 --learning-rate 0 --name".split()
    inside("train.py", *start, "tuned", cwd=tmp_path)
    tuned, first = tmp_path / "runs/tuned", tmp_path / "runs/first"
    torch.testing.assert_close(load(tuned)["model"], load(first, "best.pt")["model"], rtol=0, atol=0)
    assert read(tuned / "tokenizer.json") == read(first / "tokenizer.json")
    assert read(tuned / "config.json")["model"] == read(first / "config.json")["model"]
    for wrong in ("--n-embd 32", "--source caps.txt --tokenizer char"):     # 28 characters as well
        one_line("train.py", *start, "wrong", *wrong.split(), cwd=tmp_path)
        assert not (tmp_path / "runs/wrong").exists()


# ---- What goes wrong.

@pytest.mark.parametrize("flags, says", [
    ("--source nowhere", "nowhere"), ("--source empty.txt", "no text"), ("--data gone", "gone"),
    ("--source short.txt", "--context-length 16"), ("--preset nanoo", "nano"), ("--arch bert", "bert"),
    ("--n-layers 3", "--n-layers"), ("--n-embd 17", "n_embd 17"), ("--steps 0", "steps"),
    ("--steps many", "many"), ("--batch-size 5 --accumulate 2", "--batch-size 5"),
    (f"--seed {2 ** 64}", "seed"), ("--learning-rate nan", "learning_rate"), ("--dropout 1", "dropout"),
    ("--device tpu", "tpu"), ("--tokenizer bbpe", "bbpe"), ("--init nobody", "no run nobody")])
def test_bad_input_is_one_line_and_leaves_no_run(flags, says, tmp_path):
    for name, text in (("empty", ""), ("short", "To be or not to be."), ("text", "To be. " * 300)):
        (tmp_path / f"{name}.txt").write_text(text)
    start = ["train.py", "--source", "text.txt", *SMALL]
    assert says in one_line(*start, *flags.split(), cwd=tmp_path)
    assert not (tmp_path / "runs").exists() and not list(tmp_path.glob("corpora/*unfinished*"))


@pytest.mark.parametrize("step", [12, 16])      # the next step meets it, or an evaluation
def test_a_loss_that_is_not_finite_is_never_saved(step, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "learning_rate", lambda n, c: math.inf if n == step - 1 else 1e-3)
    said = one_line("train.py", "--source", trained / "text.txt", *LONG, cwd=tmp_path)
    assert "nan" in said and "--learning-rate" in said
    assert {load(tmp_path / "runs/nano", name)["step"] for name in ("last.pt", "best.pt")} == {8}


@pytest.mark.parametrize("ranks, room", [(0, 6_200), (2, 20_000)])  # for metrics, for a checkpoint
def test_a_full_disk_leaves_the_old_checkpoint(ranks, room, trained, tmp_path):
    """One line says so, and ranks that cannot save what they have done end together."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "runs/first/last.pt").read_bytes()
    child = launch("--resume", "--steps", 1000, ranks=ranks, cwd=tmp_path, preexec_fn=lambda: (
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))))
    _, stderr = child.communicate(timeout=100)
    lines = [line for line in stderr.splitlines() if line.startswith("train.py: ") or not ranks]
    assert child.returncode and len(lines) in (1, ranks) and lines[0].startswith("train.py: ")
    assert (tmp_path / "runs/first/last.pt").read_bytes() == before
    assert not list(tmp_path.glob("runs/first/*unfinished*"))


# ---- Several ranks train the model that one would.

def finish(child):
    stdout, stderr = child.communicate(timeout=200)
    assert child.returncode == 0, stdout + stderr
    assert stdout.count("writes:") == stdout.count("\nmodel ") == 1     # one rank prints


def test_two_ranks_are_one_process_and_stop_and_resume_together(trained, tmp_path):
    alone = new_run(trained, tmp_path, "alone", "--steps", 30, "--accumulate", 2)
    two, then_one = tmp_path / "runs/two", tmp_path / "runs/then-one"
    child = launch("--source", trained / "text.txt", *SMALL, "--steps", 30, "--name", "two",
                   ranks=2, cwd=tmp_path)
    until(11, child, two)
    os.killpg(child.pid, signal.SIGINT)     # as a terminal does on Ctrl-C: to everyone
    stdout, _ = child.communicate(timeout=100)
    assert child.returncode and f"after step {load(two)['step']}: --name two --resume" in stdout
    assert 11 <= load(two)["step"] == len(read(two / "metrics.jsonl")) < 30
    shutil.copytree(two, then_one)
    inside("train.py", "--resume", "--name", "then-one", cwd=tmp_path)
    finish(launch("--resume", "--name", "two", ranks=2, cwd=tmp_path))
    same_curve(two, alone)
    same_curve(then_one, alone)


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["", "--optimizer adamw --activation-checkpointing"])
def test_four_ranks(flags, trained, tmp_path):
    flags = ["--batch-size", 8, "--steps", 20, *flags.split()]
    alone = new_run(trained, tmp_path, "alone", *flags)
    finish(launch("--source", trained / "text.txt", *SMALL, *flags, "--accumulate", 2,
                  "--name", "four", ranks=4, cwd=tmp_path))
    same_curve(tmp_path / "runs/four", alone)
