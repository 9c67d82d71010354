"""The table's figures against a direct computation."""
import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F

from conftest import run
from data import load_corpus
from eval import figures
from sample import load_run


@pytest.fixture(scope="module")
def report(trained):
    return json.loads(run("eval.py", "runs/first", "--json", cwd=trained)[0])


def test_figures_against_pytorch_one_window_at_a_time(trained, report):
    model, _ = load_run(trained / "runs/first")
    folder, = (trained / "corpora").iterdir()
    val = torch.from_numpy(load_corpus(folder).val.astype("int64"))
    nats, correct = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(val) - 1, 16):
            ids, targets = val[start:start + 16], val[start + 1:start + 17]
            logits = model(ids[None, :len(targets)])[0].double()
            nats += F.cross_entropy(logits, targets, reduction="sum").item()
            correct += (logits.argmax(-1) == targets).sum().item()
    n = len(val) - 1
    assert report["loss"] == pytest.approx(nats / n, rel=1e-6)
    assert report["perplexity"] == pytest.approx(math.exp(nats / n), rel=1e-5)
    assert report["accuracy"] == pytest.approx(correct / n)
    n_bytes = len(load_corpus(folder).tokenizer.decode(val.tolist()).encode())
    assert report["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)


def test_the_same_as_training_measured(trained, report):
    last = json.loads((trained / "runs/first/metrics.jsonl").read_text().splitlines()[-1])
    assert report["loss"] == pytest.approx(last["val_loss"], rel=1e-6)
    assert report["bits_per_byte"] == pytest.approx(last["val_bits_per_byte"], rel=1e-6)
    assert report["accuracy"] == pytest.approx(last["val_accuracy"])


def test_table_and_json_agree_and_repeat(trained, report):
    table = run("eval.py", "runs/first", cwd=trained)[0]
    assert table == run("eval.py", "runs/first", cwd=trained)[0]
    assert f"{report['loss']:.4f}" in table and f"{report['bits_per_byte']:.4f}" in table


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary():
    f = figures(nats=1000 * math.log(256), correct=0, n_tokens=1000, n_bytes=1000)
    assert f["bits_per_byte"] == pytest.approx(8) and f["perplexity"] == pytest.approx(256)


def test_a_deleted_corpus_is_prepared_again(trained, report, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "corpora")
    assert json.loads(run("eval.py", "runs/first", "--json", cwd=tmp_path)[0]) == report
