"""The figures of eval.py against direct computations."""
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from conftest import inside, one_line
from data import load_corpus
from eval import log_probs, measure
from sample import load_run, read_config
from test_model import lively
from train import TrainConfig, evaluate


def rows_of(*arguments, cwd):
    """The rows of --json, by the name of the model, in order."""
    lines = inside("eval.py", *arguments, "--json", cwd=cwd).splitlines()
    return {row["model"]: row for row in map(json.loads, lines)}


@pytest.mark.parametrize("n", [2, 17, 18, 4500])
def test_log_probs_window_by_window(n):
    """Each token but the first is a target once, and sees of its window what came before it."""
    model, ids = lively(context_length=16).eval(), torch.randint(11, (n,))
    log_p, targets = map(torch.cat, zip(*log_probs(model, ids.numpy())))
    with torch.no_grad():
        logits = [model(ids[None, i:i + 16][:, :n - 1 - i])[0] for i in range(0, n - 1, 16)]
    torch.testing.assert_close(log_p, F.log_softmax(torch.cat(logits), dim=-1))
    assert torch.equal(targets, ids[1:])


def test_figures_by_hand():
    """Three tokens of probability 1/2, 1/8 and 1/16: the first, the second, the sixth in rank."""
    p = torch.tensor([[8, 2, 2, 2, 1, 1], [2, 11, 1, 1, 1, 0.01], [4, 3.5, 3, 2.5, 2, 1]]) / 16
    batches = [(p[:1].log(), torch.tensor([0])), (p[1:].log(), torch.tensor([0, 5]))]
    assert measure(iter(batches), SimpleNamespace(bytes=4, characters=2)) == pytest.approx({
        "loss": 8 / 3 * math.log(2), "perplexity": 2 ** (8 / 3), "bits_per_byte": 2,
        "bits_per_character": 4, "top1_accuracy": 1 / 3, "top5_accuracy": 2 / 3})


def test_the_same_as_training_measured(trained):
    """On the validation split: as metrics.jsonl has it, and as evaluate() finds it on all of it."""
    row, (model, _) = rows_of(cwd=trained)["runs/first"], load_run(trained / "runs/first")
    corpus = load_corpus(trained / read_config(trained / "runs/first")["corpus"]["folder"])
    history = map(json.loads, (trained / "runs/first/metrics.jsonl").read_text().splitlines())
    best = min((m for m in history if "val_loss" in m), key=lambda m: m["val_loss"])
    for m in (best, evaluate(model, corpus, TrainConfig(eval_tokens=0))):
        assert [row["loss"], row["top1_accuracy"], row["bits_per_byte"]] == pytest.approx(
            [m["val_loss"], m["val_accuracy"], m["val_bits_per_byte"]], rel=1e-5)
    assert row["bits_per_byte"] == row["bits_per_character"]        # it has no other characters


def test_several_runs_on_a_text_of_ones_own(trained, tmp_path):
    """Sorted, each as if alone; a model whose logits are all 0 makes a uniform guess."""
    for name in ("first", "flat"):
        shutil.copytree(trained / "runs/first", tmp_path / "runs" / name)
    saved = torch.load(tmp_path / "runs/flat/best.pt")["model"] | {"W_vocab": torch.zeros(16, 28)}
    torch.save({"model": saved}, tmp_path / "runs/flat/best.pt")
    text, ask = "9 green café bottles,\nhanging 🙂", ["--text", "mine.txt"]
    (tmp_path / "mine.txt").write_bytes(text.replace("\n", "\r\n").encode())
    rows = rows_of("flat", "runs/first", "first", *ask, cwd=tmp_path)
    bits = [row["bits_per_byte"] for row in rows.values()]
    assert bits == sorted(bits) and rows["runs/first"] == rows_of(
        "first", *ask, cwd=tmp_path)["runs/first"]
    bits = (len(text) - 1) * math.log2(28)
    assert rows["runs/flat"] == pytest.approx(rows["runs/flat"] | dict(
        text="mine.txt", loss=math.log(28), perplexity=28,
        bits_per_byte=bits / len(text.encode()), bits_per_character=bits / len(text)))
    table = " ".join(inside("eval.py", "flat", "first", *ask, cwd=tmp_path).split())
    for name, row in rows.items():
        assert f"{name} {row['loss']:.4f} {row['perplexity']:.3f}" in table
    assert "corpora/" in one_line("eval.py", cwd=tmp_path)      # of which there are none here


def test_a_mistake_is_one_line(trained, tmp_path):
    (tmp_path / "one.txt").write_text("9")
    for said, *arguments in (
            ("one.txt has 1 ", "--text", tmp_path / "one.txt"), ("nowhere", "--text", "nowhere"),
            ("third", "first", "third"), ("--jsn", "--jsn"), ("device 'x'", "--device", "x")):
        assert said in one_line("eval.py", *arguments, cwd=trained)
    assert "no run" in one_line("eval.py", cwd=tmp_path)
