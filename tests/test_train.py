"""The loop learns, survives, and says what is wrong; runs are folders that stay whole."""
import dataclasses
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import train
from batches import draw, every_window
from conftest import ROOT, SMALL, inside, one_line, run
from data import load_corpus
from model import ARCHS, SHAPES, GPT, GPTConfig, score
from train import TrainConfig, learning_rate, make_optimizers

KEYS = {"step", "tokens", "epoch", "train_loss", "lr", "grad_norm", "tokens_per_second", "seconds"}
VAL_KEYS = {"val_loss", "val_accuracy", "val_bits_per_byte"}


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)["model"]


def test_a_run_is_a_whole_folder(trained):
    from PIL import Image
    folder = trained / "runs/first"
    assert {p.name for p in folder.iterdir()} - {"eval.png"} == {       # eval.py draws that
        "config.json", "tokenizer.json", "metrics.jsonl", "loss.png", "best.pt", "last.pt"}
    lines = metrics(folder)
    assert [m["step"] for m in lines] == list(range(1, 31))
    assert all(set(m) == KEYS | (VAL_KEYS if m["step"] % 10 == 0 else set()) for m in lines)
    assert lines[-1]["tokens"] == 30 * 4 * 16 and lines[-1]["val_loss"] < lines[9]["val_loss"]
    best = torch.load(folder / "best.pt", weights_only=True)
    assert best["val_loss"] == min(m["val_loss"] for m in lines if "val_loss" in m)
    picture = Image.open(folder / "loss.png")
    assert picture.size[0] > 600 and len(picture.convert("RGB").getcolors(1 << 20)) > 100


def test_what_is_printed(trained, tmp_path):
    text = trained / "text.txt"
    stdout = inside("train.py", "--source", text, "--steps", 20, *SMALL, cwd=tmp_path)
    assert "on cpu" in stdout and "val loss" in stdout and "python sample.py runs/nano" in stdout
    written = stdout.split("That model writes:\n\n")[1].split("\n\nThe curve is in")[0]
    for says in ("tokens to learn from", "muon, float32, 1 process", "FLOPs a token", "MiB",
                 "Still learning"):
        assert says in stdout
    assert 250 <= len(written) <= 301


def test_best_is_kept_when_the_model_gets_worse(tmp_path):
    """It learns that b follows a, ever more surely; in the validation text a follows a."""
    (tmp_path / "text.txt").write_text("ab" * 900 + "aabb" * 50)
    inside("train.py", "--source", "text.txt", "--steps", 60, *SMALL, "--learning-rate", 0.01,
        "--warmup-steps", 5, cwd=tmp_path)
    folder = tmp_path / "runs/nano"
    seen = {m["step"]: m["val_loss"] for m in metrics(folder) if "val_loss" in m}
    best = torch.load(folder / "best.pt", weights_only=True)
    assert best["val_loss"] == min(seen.values()) == seen[best["step"]] and best["step"] < 60
    last = torch.load(folder / "last.pt", weights_only=True)
    assert last["best"] == best["val_loss"] and last["step"] == 60


def test_a_taken_name_is_numbered_or_refused(trained, tmp_path):
    text = ["--source", trained / "text.txt"]
    for _ in range(2):
        inside("train.py", *text, "--steps", 2, *SMALL, cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["nano", "nano-2"]
    before = (tmp_path / "runs/nano/last.pt").read_bytes()
    assert "--resume" in one_line("train.py", *text, "--run", "nano", *SMALL, cwd=tmp_path)
    assert (tmp_path / "runs/nano/last.pt").read_bytes() == before


def start_and_signal(signum, at_step, *arguments, cwd):
    """Run train.py, send it a signal once it has done at_step steps; return code and output."""
    child = subprocess.Popen([sys.executable, ROOT / "train.py", *map(str, arguments)], cwd=cwd,
                             env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    file = cwd / "runs" / arguments[arguments.index("--run") + 1] / "metrics.jsonl"
    while child.poll() is None and not (file.exists() and file.read_text().count("\n") >= at_step):
        time.sleep(0.002)
    child.send_signal(signum)
    stdout, stderr = child.communicate()
    assert "Traceback" not in stderr
    return child.returncode, stdout


@pytest.mark.parametrize("signum", [
    signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_bits(signum, trained, tmp_path, unbroken):
    """Dropout is on: what it draws has to come again too."""
    rc, stdout = start_and_signal(signum, 63, *LONG, "--source", trained / "text.txt",
                                  "--run", "broken", cwd=tmp_path)
    broken = tmp_path / "runs/broken"
    assert 63 <= len(metrics(broken)) < 200
    if signum == signal.SIGKILL:        # the last checkpoint is older than the last metrics
        assert rc == -signum
    else:
        assert rc == 128 + signum and "python train.py --run broken --resume" in stdout
        assert (broken / "loss.png").exists() and weights(broken)
    inside("train.py", *LONG, "--n-kv-head", 0, "--run", "broken", "--resume", cwd=tmp_path)
    for name in ("last.pt", "best.pt"):
        ours, theirs = weights(broken, name), weights(unbroken, name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for key in ("step", "train_loss", "lr", "grad_norm", "val_loss"):
        assert [m.get(key) for m in metrics(broken)] == [m.get(key) for m in metrics(unbroken)]
    assert "has done all its 200 steps" in one_line("train.py", "--resume", cwd=tmp_path)


@pytest.mark.slow
def test_killed_at_ten_random_steps(trained, tmp_path, unbroken):
    """One run, killed and resumed ten times, ends with the bits of the one left alone."""
    flags = ["--source", trained / "text.txt", *LONG, "--run", "broken"]
    for step in sorted(random.Random(1).sample(range(20, 195), 10)):
        start_and_signal(signal.SIGKILL, step, *flags, cwd=tmp_path)
        flags = ["--run", "broken", "--resume"]
    run("train.py", *flags, cwd=tmp_path)
    ours, theirs = weights(tmp_path / "runs/broken"), weights(unbroken)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert [m["step"] for m in metrics(tmp_path / "runs/broken")] == list(range(1, 201))


LONG = [*SMALL, "--steps", 200, "--eval-every", 25, "--dropout", 0.1]


@pytest.fixture(scope="module")
def unbroken(trained):
    inside("train.py", "--source", "text.txt", *LONG, "--run", "unbroken", cwd=trained)
    return trained / "runs/unbroken"


def test_resume_refuses_another_configuration(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "other.txt").write_text("To be, or not to be, that is the question. " * 40)
    inside("data.py", "--source", "other.txt", cwd=tmp_path)
    other = next(tmp_path.glob("corpora/other-*"))
    for flags, says in ((["--n-layer", 3], "n_layer 2, not 3"),
                        (["--init", "gpt2"], "with init , not gpt2"),
                        (["--arch", "gpt2"], "--config, --preset and --arch start a run"),
                        (["--optimizer", "adamw"], "optimizer muon, not adamw"),
                        (["--batch-size", 8], "batch_size 4, not 8"),
                        (["--steps", 40, "--data", other], "is not the corpus")):
        assert says in one_line("train.py", "--run", "first", "--resume", *flags, cwd=tmp_path)


def test_resume_says_what_changed_and_whether_it_matters(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    said = inside("train.py", "--run", "first", "--resume", "--steps", 40, "--accumulate", 2,
                  cwd=tmp_path)
    assert "since step 30: steps was 30 and is 40: from here on, the curve is not" in said
    assert "accumulate was 1 and is 2: the curve stays the same" in said
    assert [m["step"] for m in metrics(tmp_path / "runs/first")] == list(range(1, 41))
    config = json.loads((tmp_path / "runs/first/config.json").read_text())
    assert config["train"]["steps"] == 40 and config["train"]["accumulate"] == 2


def test_a_changed_setting_takes_effect(trained, tmp_path):
    """The optimiser goes on with its memory and the settings it is given; float16 may begin."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    said = inside("train.py", "--run", "first", "--resume", "--steps", 35, "--weight-decay", 0.3,
                  "--momentum", 0.8, "--dtype", "float16", cwd=tmp_path)
    assert said.count("the curve is not the one it would have been") == 4
    states = torch.load(tmp_path / "runs/first/last.pt", weights_only=True)["optimizers"]
    groups = [group for state in states for group in state["param_groups"]]
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert {group.get("momentum") for group in groups} == {None, 0.8}
    steps = {k["step"].item() for k in states[0]["state"].values()}
    assert steps <= {float(n) for n in range(31, 36)}       # on top of the 30 it remembers


def test_accumulation_with_dropout_is_another_curve(trained, tmp_path):
    text = ["--source", trained / "text.txt"]
    inside("train.py", *text, *SMALL, "--steps", 10, "--dropout", 0.1, "--run", "a", cwd=tmp_path)
    said = inside("train.py", "--run", "a", "--resume", "--steps", 12, "--accumulate", 2,
                  cwd=tmp_path)
    assert said.count("the curve is not the one it would have been") == 2


def test_a_run_moves_to_a_folder_of_another_name(trained, tmp_path):
    """Its corpus with it: --data says where."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    shutil.copytree(next(trained.glob("corpora/text-*")), tmp_path / "elsewhere")
    inside("train.py", "--run", "first", "--resume", "--steps", 32, "--data", "elsewhere",
           cwd=tmp_path)


def test_config_alone_makes_the_run_again(trained, tmp_path):
    shutil.copy(trained / "text.txt", tmp_path)
    inside("train.py", "--config", trained / "runs/first/config.json", "--run", "again",
           cwd=tmp_path)
    again, first = tmp_path / "runs/again", trained / "runs/first"
    assert all(torch.equal(a, b) for a, b in zip(weights(again).values(), weights(first).values()))
    assert json.loads((again / "config.json").read_text())["train"] == json.loads(
        (first / "config.json").read_text())["train"]
    inside("train.py", "--config", first / "config.json", "--run", "shorter", "--steps", 5,
           cwd=tmp_path)
    assert len(metrics(tmp_path / "runs/shorter")) == 5
    inside("train.py", "--config", first / "config.json", "--steps", 1, "--n-embd", 32,
           cwd=tmp_path)
    wide = weights(tmp_path / "runs/first")     # named after the run it is made from
    assert wide["blocks.0.mlp.W_up"].shape == (32, 128)     # 4 n_embd follows
    (tmp_path / "text.txt").write_text("Another text. " * 900)
    shutil.rmtree(tmp_path / "corpora")
    assert "is not the corpus" in one_line("train.py", "--config", first / "config.json", "--run",
                                           "other", cwd=tmp_path)


def test_the_loop_against_one_written_here(trained, tmp_path):
    """PyTorch's AdamW and loss on the same windows, nothing else: the same 20 losses."""
    inside("train.py", "--source", trained / "text.txt", *SMALL, "--arch", "gpt2", "--optimizer",
           "adamw", "--steps", 20, "--learning-rate", 0.01, "--decay", "cosine", "--warmup-steps",
           4, "--beta2", 0.99, "--grad-clip", 0.5, "--run", "ours", cwd=tmp_path)
    corpus = load_corpus(next((tmp_path / "corpora").iterdir()))
    config = json.loads((tmp_path / "runs/ours/config.json").read_text())["model"]
    torch.manual_seed(1)
    model = GPT(GPTConfig(**config))
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
         {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0}],
        betas=(0.9, 0.99))
    for step, m in enumerate(metrics(tmp_path / "runs/ours")):
        lr = (0.01 * (step + 1) / 4 if step < 4 else
              0.005 * (1 + math.cos(math.pi * (step - 4) / 15)))
        ids, targets = draw(corpus.train, 4, 16, 1, step)
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1, 0.5 / norm)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert m["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert m["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert m["lr"] == pytest.approx(lr)
    nats, correct, n = score(model, every_window(corpus.val, 4, 16))
    assert m["val_loss"] == pytest.approx(nats / n, rel=1e-5) and m["val_accuracy"] == correct / n
    assert m["val_bits_per_byte"] == pytest.approx(
        nats / math.log(2) / corpus.meta["val"]["bytes"], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_same_curve_however_a_step_is_worked_out(optimizer, trained, tmp_path):
    """1e-5 relative in float32 over 20 steps; activation checkpointing to the last bit."""
    flags = ["--source", trained / "text.txt", *SMALL, "--steps", 20, "--optimizer", optimizer]
    curve = {}
    for name, more in (("whole", []), ("two", ["--accumulate", 2]), ("four", ["--accumulate", 4]),
                       ("again", ["--activation-checkpointing"]), ("raw", ["--kernels", "raw"])):
        inside("train.py", *flags, *more, "--run", name, cwd=tmp_path)
        curve[name] = [m["train_loss"] for m in metrics(tmp_path / "runs" / name)]
    assert curve["again"] == curve["whole"]
    for name in ("two", "four", "raw"):
        assert curve[name] == pytest.approx(curve["whole"], rel=1e-5), name
    assert "multiple of 3" in one_line(
        "train.py", *flags, "--accumulate", 3, cwd=tmp_path)


@pytest.mark.parametrize("dtype, rel", [("bfloat16", 0.01), ("float16", 0.002)])
def test_half_precision_learns_nearly_the_same(dtype, rel, trained, tmp_path, monkeypatch):
    flags = ["--source", trained / "text.txt", *SMALL, "--steps", 20]
    plain = torch.amp.GradScaler        # at its usual start, 2^16, the first steps overflow
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: plain(
        device, init_scale=2.0 ** 8, enabled=enabled))
    inside("train.py", *flags, "--run", "full", cwd=tmp_path)
    inside("train.py", *flags, "--run", "half", "--dtype", dtype, cwd=tmp_path)
    for key, rel in (("train_loss", rel), ("grad_norm", 5 * rel)):
        full, half = ([m[key] for m in metrics(tmp_path / "runs" / name)]
                      for name in ("full", "half"))
        assert half != full and half == pytest.approx(full, rel=rel), key
    assert all(w.dtype == torch.float32 for w in weights(tmp_path / "runs/half").values())


def test_an_overflow_in_float16_is_left_out(trained, tmp_path, monkeypatch):
    """The first steps overflow; the scaler halves its factor and leaves them out; it learns on."""
    plain = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: plain(
        device, init_scale=2.0 ** 40, enabled=enabled))
    inside("train.py", "--source", trained / "text.txt", *SMALL, "--steps", 60, "--dtype",
           "float16", "--warmup-steps", 2, cwd=tmp_path)
    lines = metrics(tmp_path / "runs/nano")
    assert not math.isfinite(lines[0]["grad_norm"])
    assert lines[0]["train_loss"] > lines[-1]["train_loss"] + 0.1
    saved = torch.load(tmp_path / "runs/nano/last.pt", weights_only=True)
    assert saved["scaler"]["scale"] < 2.0 ** 40


def test_looks_are_capped_and_evenly_spread(trained):
    corpus = load_corpus(next(trained.glob("corpora/text-*")))
    every = train.validation_windows(corpus, 4, 0)
    assert sum(targets.numel() for _, targets in every) == len(corpus.val) - 1
    corpus.val = np.arange(50_000, dtype=np.uint16)
    few = train.validation_windows(corpus, 4, 10_000)
    assert len(few) == 3 and [ids[0, 0].item() for ids, _ in few] == [0, 20_480, 40_960]


def test_tensorboard_and_a_text_at_each_look(trained, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    inside("train.py", "--source", trained / "text.txt", *SMALL, "--steps", 20, "--tensorboard",
           "--write", 9, cwd=tmp_path)
    events = EventAccumulator(str(tmp_path / "runs/nano"))
    events.Reload()
    seen = [event.value for event in events.Scalars("train_loss")]
    assert seen == pytest.approx([m["train_loss"] for m in metrics(tmp_path / "runs/nano")])


def test_last_is_written_when_it_is_old(trained, tmp_path, monkeypatch):
    saves = []
    plain = train.save_checkpoint
    monkeypatch.setattr(train, "save_checkpoint", lambda path, **content: (
        saves.append((path.name, content["step"])), plain(path, **content)))
    inside("train.py", "--source", trained / "text.txt", *SMALL, "--steps", 6, "--eval-every", 100,
           "--save-minutes", 1e-9, cwd=tmp_path)
    assert [step for name, step in saves if name == "last.pt"] == [1, 2, 3, 4, 5, 6]


def test_resume_refuses_a_damaged_checkpoint(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "runs/first/last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    assert "last.pt is not a whole checkpoint" in one_line(
        "train.py", "--run", "first", "--resume", cwd=tmp_path)
    last.unlink()       # as if it had been stopped before it saved anything, in its first step
    (tmp_path / "runs/first/metrics.jsonl").unlink()
    said = inside("train.py", "--run", "first", "--resume", cwd=tmp_path)
    assert "starts again" in said
    assert [m["step"] for m in metrics(tmp_path / "runs/first")] == list(range(1, 31))
    ours, theirs = weights(tmp_path / "runs/first"), weights(trained / "runs/first")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert "no run" in one_line("train.py", "--run", "nobody", "--resume", cwd=tmp_path)


def test_resume_refuses_a_corpus_that_has_changed(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "corpora")
    (tmp_path / "text.txt").write_text("To be, or not to be. " * 500)
    assert "is not the corpus" in one_line("eval.py", "runs/first", cwd=tmp_path)


@pytest.mark.parametrize("arguments, says", [
    (["--source", "nowhere"], "no file or folder"),
    (["--source", "empty.txt"], "no text"),
    (["--source", "short.txt"], "one window takes 129"),
    (["--preset", "nanoo"], "nano"),
    (["--n-layers", 3], "--n-layer"),
    (["--n-embd", 130], "not a multiple of n_head"),
    (["--steps", 0], "steps"),
    (["--beta2", 1], "below 1"),
    (["--run", "."], "not a name"),
    (["--steps", "many"], "--steps"),
    (["--device", "tpu"], "unknown device"),
    (["--optimizer", "sgd"], "muon or adamw"),
    (["--dtype", "float16", "--parallel", "fsdp"], "use bfloat16"),
    (["--config", "nowhere.json"], "nowhere.json"),
    (["--config", "config.json", "--arch", "gpt2"], "leave them out"),
    (["--data", "nowhere"], "nowhere is not a whole corpus"),
    (["--plot", "runs/nobody"], "nobody"),
])
def test_bad_input_is_one_line_and_leaves_no_run(arguments, says, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("To be, or not to be, that is the question.")
    assert says in one_line("train.py", *arguments, cwd=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_not_finite_stops_the_run(trained, tmp_path):
    said = one_line("train.py", "--source", trained / "text.txt", *SMALL, "--steps", 50,
                    "--learning-rate", 1e9, "--warmup-steps", 30, "--grad-clip", 1e30, cwd=tmp_path)
    assert "is nan at step" in said or "is inf at step" in said
    last = tmp_path / "runs/nano/last.pt"
    assert not last.exists() or all(w.isfinite().all() for w in weights(last.parent).values())


def test_a_full_disk_leaves_the_old_checkpoint(trained, tmp_path):
    model = GPT(GPTConfig(n_layer=1, n_embd=16))
    path = tmp_path / "last.pt"
    train.save_checkpoint(path, model=model.state_dict(), step=1)
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
    try:
        with pytest.raises(OSError, match="what was there is untouched"):
            train.save_checkpoint(path, model=model.state_dict(), step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_is_one_line_and_leaves_the_run_whole(trained, tmp_path):
    """No file may grow beyond 20 kB from step 31 on: the checkpoint of step 30 stays."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "runs/first/last.pt").read_bytes()
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--run", "first", "--resume", "--steps", "60"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "train.py: could not write" in done.stderr and "is untouched" in done.stderr
    assert (tmp_path / "runs/first/last.pt").read_bytes() == before
    assert not list(tmp_path.glob("runs/first/*unfinished*"))


def test_plot_lays_runs_over_each_other(trained, tmp_path, unbroken):
    for against in ("steps", "tokens", "seconds"):
        inside("train.py", "--plot", trained / "runs/first", unbroken, "--against", against,
               "--out", f"{against}.png", cwd=tmp_path)
        assert (tmp_path / f"{against}.png").stat().st_size > 10_000


def test_schedule_by_hand():
    c = TrainConfig(steps=201, warmup_steps=100, learning_rate=1.0, min_learning_rate=0.1,
                    decay="cosine")
    at = lambda step: pytest.approx(learning_rate(step, c))
    assert at(0) == 0.01 and at(49) == 0.5 and at(99) == 1.0        # the rise
    assert at(100) == 1.0 and at(150) == 0.55 and at(200) == 0.1    # the fall: top, middle, last
    assert at(125) == 0.1 + 0.9 * (1 + 0.5 ** 0.5) / 2              # cos(pi / 4)
    c = TrainConfig(steps=201, warmup_steps=100, learning_rate=1.0)
    assert at(99) == 1.0 and at(100) == 1.0 and at(125) == 0.75 and at(150) == 0.5 and at(200) == 0


def test_schedule_of_a_run_as_short_as_its_warm_up():
    c = TrainConfig(steps=100, warmup_steps=100)
    assert all(0 < learning_rate(step, c) <= c.learning_rate for step in range(100))
    assert learning_rate(0, TrainConfig(steps=1, warmup_steps=0)) > 0


def test_groups_of_parameters():
    """Every weight in exactly one group; decay for matrices; Muon for those inside blocks."""
    model = GPT(GPTConfig(n_layer=2, n_embd=16, ngram_rows=50, bias=True))
    names = {id(p): name for name, p in model.named_parameters()}
    grouped = {}
    for kind in ("adamw", "muon"):
        optimizers = make_optimizers(model, TrainConfig(optimizer=kind))
        grouped[kind] = [([names[id(p)] for p in group["params"]], group["weight_decay"], optimizer)
                         for optimizer in optimizers for group in optimizer.param_groups]
        found = [name for group, _, _ in grouped[kind] for name in group]
        assert sorted(found) == sorted(names.values())
    (decayed, decay, _), (free, none, _) = grouped["adamw"]
    assert decay == 0.1 and none == 0
    assert all("gain" in name or ".b" in name or "bias" in name for name in free)
    assert all("W_" in name or "table" in name for name in decayed)
    (tables, decay, _), (free_too, none, _), (hidden, also, muon) = grouped["muon"]
    assert sorted(tables) == ["W_vocab", "ngram_tables", "token_table"] and free_too == free
    assert type(muon) is torch.optim.Muon and decay == also == 0.1 and none == 0
    assert hidden == [f"blocks.{i}.{name}" for i in range(2) for name in (
        "attention.W_qkv", "attention.W_out", "mlp.W_up", "mlp.W_down")]


def test_muon_takes_a_step_of_the_length_of_adamws():
    """No direction of a matrix moves much more than another; a number moves 0.2 lr on average."""
    model = GPT(GPTConfig(n_layer=1, n_embd=32, zero_init=False))
    ids = torch.randint(85, (4, 17))
    before = model.blocks[0].mlp.W_up.detach().clone()
    model.ops.cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
    for optimizer in make_optimizers(model, TrainConfig(learning_rate=0.01, weight_decay=0.0)):
        optimizer.step()
    step = (model.blocks[0].mlp.W_up - before).detach()         # (32, 128)
    stretch = torch.linalg.svdvals(step) / (0.01 * 0.2 * math.sqrt(128))
    assert stretch.median() == pytest.approx(0.9, abs=0.25) and stretch.max() < 1.3
    assert step.std().item() == pytest.approx(0.2 * 0.01, rel=0.25)


def test_presets_name_real_settings():
    known = {f.name for config in (train.DataConfig, TrainConfig)
             for f in dataclasses.fields(config)} | {"arch"}
    assert all(set(preset) <= known for preset in train.PRESETS.values())
    assert train.PRESETS.keys() == SHAPES.keys()
    with torch.device("meta"):
        gpt2 = GPT(GPTConfig(**ARCHS["gpt2"] | SHAPES["gpt2"]))
    assert gpt2.n_parameters() == 124_439_808       # Hugging Face's count for gpt2


def test_vocab_size_is_the_tokenizers(trained, tmp_path):
    flags = ["--source", trained / "text.txt", "--tokenizer", "bpe", "--vocab-size", 280, *SMALL]
    inside("train.py", *flags, "--steps", 1, cwd=tmp_path)
    config = json.loads((tmp_path / "runs/nano/config.json").read_text())
    assert config["data"]["vocab_size"] == config["model"]["vocab_size"] == 280
    stdout = inside("sample.py", "--prompt", "green", "--tokens", 5, cwd=tmp_path)
    assert stdout.startswith("green")


def test_help_has_a_line_for_every_setting(tmp_path):
    stdout, _ = run("train.py", "--help", cwd=tmp_path)
    for config in (train.DataConfig, GPTConfig, TrainConfig):
        for field in dataclasses.fields(config):
            assert field.name == "vocab_size" or "--" + field.name.replace("_", "-") in stdout
