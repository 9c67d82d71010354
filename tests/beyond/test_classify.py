"""Sorting texts by label: against scikit-learn, and text by text."""
import json

import numpy as np
import pytest
import torch

from beyond.bag import bag, logistic_regression
from beyond.classify import encode, figures, logits_of, stacked, with_labels
from beyond.tweets import read_task
from conftest import inside, one_line
from sample import load_run

FLAGS = ["beyond.classify", "first", "--task", "bottles.csv", "--name", "sorted", "--steps", 20,
         "--batch-size", 8, "--eval-every", 10, "--window", 14, "--learning-rate", 1e-2]


@pytest.fixture
def bottles(copied):
    rows = [f"{n} bottle{'s' * (n % 2)},{'many' if n % 2 else 'one'}" for n in range(1, 200)]
    (copied / "bottles.csv").write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    return copied


def test_logistic_regression_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x, y = rng.poisson(0.3, (200, 12)), rng.integers(3, size=200)
    theirs = linear_model.LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(x, y)
    W, b = logistic_regression(torch.tensor(x).float().to_sparse(), torch.tensor(y), 3, decay=2.0)
    np.testing.assert_allclose(W.T, theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(b - b.mean(), theirs.intercept_ - theirs.intercept_.mean(),
                               atol=2e-3)


def test_figures_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    truth = rng.integers(3, size=400)
    said = np.where(rng.random(400) < 0.6, truth, rng.integers(3, size=400))
    found = figures(truth, said, 3)
    assert found["confusion"] == metrics.confusion_matrix(truth, said).tolist()
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found["accuracy"] == metrics.accuracy_score(truth, said)
    low, high = found["f1_interval"]
    assert low < found["macro_f1"] < high and 0.05 < high - low < 0.15


def test_figures_by_hand():
    found = figures(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2)
    assert found["confusion"] == [[2, 1], [0, 1]] and found["right"] == 3
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_bag():
    x = bag(["to be, or not to be", "", "Be!"], {"be": 0, "to": 1, "!": 2}).to_dense()
    assert x.tolist() == [[2, 2, 0], [0, 0, 0], [1, 0, 1]]


@torch.no_grad()
def test_padding_changes_nothing(bottles):
    model, words = load_run(bottles / "runs/first")
    task = read_task(bottles / "bottles.csv")
    net = with_labels(model, 2)
    examples, cut = encode(words, task, task.held_out, 14)
    assert cut == len(examples) and all(len(ids) == 14 for ids, _ in examples)
    examples = [(ids[:3 + i % 9], label) for i, (ids, label) in enumerate(examples)]
    ids, last, labels = stacked(examples)
    alone = torch.stack([net(torch.tensor([ids]))[0, -1] for ids, _ in examples])
    torch.testing.assert_close(logits_of(net, ids, last), alone, rtol=1e-4, atol=1e-5)
    assert labels.tolist() == [label for _, label in examples]


def test_as_a_person_does(bottles):
    ways = ["--ways", "majority", "words", "scratch", "full", "lora"]
    said = inside(*FLAGS, *ways, cwd=bottles)
    assert "beginnings are cut" in said and "macro-F1" in said
    assert "many" in inside("beyond.bag", "--task", "bottles.csv", cwd=bottles)
    rows = {row["way"]: row for row in map(json.loads, inside(
        *FLAGS, *ways, "--json", cwd=bottles).splitlines()[-5:])}
    model = load_run(bottles / "runs/first")[0]
    n = sum(p.numel() for p in model.parameters()) - model.W_vocab.numel() + 2 * 16
    assert rows["full"]["learned"] == rows["scratch"]["learned"] == n > rows["lora"]["learned"]
    held_out = read_task(bottles / "bottles.csv").held_out
    assert rows["words"]["questions"] == len(held_out)
    assert rows["words"]["right"] > rows["majority"]["right"]       # "bottle" or "bottles"
    for way in ("scratch", "full", "lora"):
        assert (bottles / "runs/sorted" / way / "loss.png").exists()
    for arguments, says in ((["--ways", "guess"], "--ways"), (["--name", "first"], "taken"),
                            (["--window", 0], "--window"), (["--task", "none.csv"], "none.csv"),
                            (["--ways", "full", "--learning-rate", "0.5"], "other settings")):
        assert says in one_line(*FLAGS, *arguments, cwd=bottles), says
