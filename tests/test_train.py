"""The loop learns, survives, and says what is wrong; runs are folders that stay whole."""
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import train
from conftest import ROOT, SMALL, one_line, run
from model import ARCHS, SHAPES, GPT, GPTConfig
from train import TrainConfig, learning_rate, make_optimizer

KEYS = {"step", "tokens", "epoch", "train_loss", "lr", "grad_norm", "tokens_per_second", "seconds"}
VAL_KEYS = {"val_loss", "val_accuracy", "val_bits_per_byte"}


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)["model"]


def test_a_run_is_a_whole_folder(trained):
    from PIL import Image
    folder = trained / "runs/first"
    assert {p.name for p in folder.iterdir()} == {
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
    stdout, _ = run("train.py", "--source", text, "--steps", 20, *SMALL, cwd=tmp_path)
    assert "on cpu" in stdout and "val loss" in stdout and "python sample.py runs/nano" in stdout
    written = stdout.split("It writes:\n\n")[1].split("\n\nThe curve is in")[0]
    assert 250 <= len(written) <= 301


def test_best_is_kept_when_the_model_gets_worse(tmp_path):
    """It learns that b follows a, ever more surely; in the validation text a follows a."""
    (tmp_path / "text.txt").write_text("ab" * 900 + "aabb" * 50)
    run("train.py", "--source", "text.txt", "--steps", 60, *SMALL, "--learning-rate", 0.01,
        "--warmup-steps", 5, cwd=tmp_path)
    folder = tmp_path / "runs/nano"
    seen = {m["step"]: m["val_loss"] for m in metrics(folder) if "val_loss" in m}
    best = torch.load(folder / "best.pt", weights_only=True)
    assert best["val_loss"] == min(seen.values()) == seen[best["step"]] and best["step"] < 60


def test_a_taken_name_is_numbered_or_refused(trained, tmp_path):
    text = ["--source", trained / "text.txt"]
    for _ in range(2):
        run("train.py", *text, "--steps", 2, *SMALL, cwd=tmp_path)
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


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_bits(signum, trained, tmp_path, unbroken):
    """Dropout is on, so the random state has to survive too."""
    rc, stdout = start_and_signal(signum, 113, *LONG, "--source", trained / "text.txt",
                                  "--run", "broken", cwd=tmp_path)
    broken = tmp_path / "runs/broken"
    assert 113 <= len(metrics(broken)) < 400
    if signum == signal.SIGKILL:        # the last checkpoint is older than the last metrics
        assert rc == -signum
    else:
        assert rc == 128 + signum and "python train.py --run broken --resume" in stdout
        assert (broken / "loss.png").exists() and weights(broken)
    run("train.py", *LONG, "--n-kv-head", 0, "--run", "broken", "--resume", cwd=tmp_path)
    for name in ("last.pt", "best.pt"):
        ours, theirs = weights(broken, name), weights(unbroken, name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for key in ("step", "train_loss", "lr", "grad_norm", "val_loss"):
        assert [m.get(key) for m in metrics(broken)] == [m.get(key) for m in metrics(unbroken)]
    assert "has done all its 400 steps" in one_line("train.py", "--resume", cwd=tmp_path)


LONG = [*SMALL, "--steps", 400, "--eval-every", 50, "--dropout", 0.1]


@pytest.fixture(scope="module")
def unbroken(trained):
    run("train.py", "--source", "text.txt", *LONG, "--run", "unbroken", cwd=trained)
    return trained / "runs/unbroken"


def test_resume_refuses_another_configuration(trained):
    said = one_line("train.py", "--run", "first", "--resume", "--n-layer", 3, cwd=trained)
    assert "n_layer 2, not 3" in said
    said = one_line("train.py", "--run", "first", "--resume", "--init", "gpt2", cwd=trained)
    assert "--init starts a run" in said


def test_resume_refuses_a_damaged_checkpoint(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "runs/first/last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    assert "last.pt is not a whole checkpoint" in one_line(
        "train.py", "--run", "first", "--resume", cwd=tmp_path)
    last.unlink()
    assert "no checkpoint" in one_line("train.py", "--run", "first", "--resume", cwd=tmp_path)
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
    train.save_checkpoint(path, model, step=1)
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
    try:
        with pytest.raises(OSError, match="what was there is untouched"):
            train.save_checkpoint(path, model, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_plot_lays_runs_over_each_other(trained, tmp_path, unbroken):
    run("train.py", "--plot", trained / "runs/first", unbroken, cwd=tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_schedule_by_hand():
    c = TrainConfig(steps=201, warmup_steps=100, learning_rate=1.0, min_learning_rate=0.1)
    at = lambda step: pytest.approx(learning_rate(step, c))
    assert at(0) == 0.01 and at(49) == 0.5 and at(99) == 1.0        # the rise
    assert at(100) == 1.0 and at(150) == 0.55 and at(200) == 0.1    # the fall: top, middle, last
    assert at(125) == 0.1 + 0.9 * (1 + 0.5 ** 0.5) / 2              # cos(pi / 4)


def test_schedule_of_a_run_as_short_as_its_warm_up():
    c = TrainConfig(steps=100, warmup_steps=100)
    assert all(0 < learning_rate(step, c) <= c.learning_rate for step in range(100))
    assert learning_rate(0, TrainConfig(steps=1, warmup_steps=0)) > 0


def test_weight_decay_is_for_matrices():
    model = GPT(GPTConfig(n_layer=1, n_embd=16))
    decayed, free = make_optimizer(model, TrainConfig()).param_groups
    assert decayed["weight_decay"] > 0 and all(p.dim() == 2 for p in decayed["params"])
    assert free["weight_decay"] == 0 and all(p.dim() == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_presets_name_real_settings():
    known = {f.name for config in (train.DataConfig, TrainConfig)
             for f in dataclasses.fields(config)}
    assert all(set(preset) <= known for preset in train.PRESETS.values())
    assert train.PRESETS.keys() == SHAPES.keys()
    with torch.device("meta"):
        gpt2 = GPT(GPTConfig(**ARCHS["gpt2"] | SHAPES["gpt2"]))
    assert gpt2.n_parameters() == 124_439_808       # Hugging Face's count for gpt2


def test_vocab_size_is_the_tokenizers(trained, tmp_path):
    flags = ["--source", trained / "text.txt", "--tokenizer", "bpe", "--vocab-size", 280, *SMALL]
    run("train.py", *flags, "--steps", 1, cwd=tmp_path)
    config = json.loads((tmp_path / "runs/nano/config.json").read_text())
    assert config["data"]["vocab_size"] == config["model"]["vocab_size"] == 280
    stdout, _ = run("sample.py", "--prompt", "green", "--tokens", 5, cwd=tmp_path)
    assert stdout.startswith("green")


def test_help_has_a_line_for_every_setting(tmp_path):
    stdout, _ = run("train.py", "--help", cwd=tmp_path)
    for config in (train.DataConfig, GPTConfig, TrainConfig):
        for field in dataclasses.fields(config):
            assert field.name == "vocab_size" or "--" + field.name.replace("_", "-") in stdout
