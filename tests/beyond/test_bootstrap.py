"""Figures against eval.py and numbers worked out by hand, intervals against simulated truth."""
import json
import math
import shutil

import numpy as np
import pytest
import torch

import tokenizer
from beyond.bootstrap import (add_up, bits_of, block_starts, difference, figures, interval,
                              loss_by_position, resample, score)
from conftest import TEXT, inside, one_line
from data import DataConfig, load_corpus, prepare
from eval import log_probs, open_text
from sample import load_run, read_config

TRUTH = {"loss": 1.0, "perplexity": math.e, "bits_per_byte": 1 / math.log(2), "top1_accuracy": 0.45,
         "top5_accuracy": 2 / 3, "calibration_error": 0.05}     # of the texts that are simulated


def simulate(n_texts, n, alike=0.8):
    """Scores (n_texts, n, 4). A mood that passes from token to token makes the confidence."""
    rng = np.random.default_rng(1)
    mood = rng.normal(size=(n, n_texts))
    for t in range(1, n):
        mood[t] = alike * mood[t - 1] + math.sqrt(1 - alike ** 2) * mood[t]
    sure = torch.special.ndtr(torch.from_numpy(mood.T)).numpy()         # (n_texts, n), uniform
    luck = rng.random(sure.shape)
    return np.stack([-np.log(sure), luck < 0.9 * sure, luck < np.sqrt(sure), sure], axis=-1)


def coverage(texts, n_blocks):
    n, covered = texts.shape[1], dict.fromkeys(TRUTH, 0)
    for scores in texts:
        sums = add_up(scores, np.arange(n_blocks) * n // n_blocks)
        found, resampled = figures(sums.sum(axis=0), n, n), figures(resample(sums), n, n)
        for key, truth in TRUTH.items():
            low, high = interval(found[key], resampled[key], n_blocks)
            covered[key] += (low <= truth <= high) / len(texts)
    return covered


@pytest.mark.parametrize("n_blocks", [50, 20])
@pytest.mark.slow
def test_intervals_cover_the_truth_at_their_stated_rate(n_blocks):
    """Of 500 texts 95 %, give or take 1 %; not if single tokens are the blocks."""
    for key, rate in coverage(simulate(500, 10_000), n_blocks).items():
        assert rate <= 0.98 and rate >= (0.89 if key == "calibration_error" else 0.92), (key, rate)
    assert coverage(simulate(60, 200), 200)["loss"] < 0.8


def test_a_difference_is_surer_than_what_it_is_between():
    """Two models on the same texts, the second 0.02 nats worse wherever it is asked."""
    rng, starts, covered = np.random.default_rng(1), np.arange(50) * 100, 0
    for a in simulate(100, 5000):
        b = a + np.pad(0.02 + 0.1 * rng.normal(size=(5000, 1)), [(0, 0), (0, 3)])
        nats_a, nats_b = (resample(add_up(x, starts))[:, 0] / 5000 for x in (a, b))
        low, high = interval((b - a)[:, 0].mean(), nats_b - nats_a, 50)
        covered += low <= 0.02 <= high
        assert high - low < 0.2 * np.subtract(*interval(a[:, 0].mean(), nats_a, 50)[::-1])
    assert 0.88 <= covered / 100 <= 0.99


def test_scores_figures_and_intervals_by_hand():
    p = torch.tensor([[0.4, 0.3, 0.1, 0.08, 0.07, 0.05]] * 3).log()
    scores = score([(p[:2], torch.tensor([0, 4])), (p[2:], torch.tensor([5]))])
    assert scores[:, 0] == pytest.approx(-p[0, [0, 4, 5]].numpy())
    assert scores[:, 1:] == pytest.approx(np.array([[1, 1, 0.4], [0, 1, 0.4], [0, 0, 0.4]]))
    scores = np.array([[1.0, 0, 1, 0.95], [2.0, 1, 1, 0.91], [0.5, 1, 1, 0.935], [4.5, 0, 0, 1.0]])
    f = figures(add_up(scores, [0, 2, 3]).sum(axis=0), 8, 5)
    assert f["bits_per_byte"] == pytest.approx(1 / math.log(2)) == f["bits_per_character"] * 5 / 8
    assert (f["loss"], f["top1_accuracy"], f["top5_accuracy"]) == (2, 0.5, 0.75)
    assert f["calibration_error"] == pytest.approx((abs(1 - 2.885) + abs(1 - 0.91)) / 4)
    assert interval(1, np.ones(1000), 19) is None and interval(1, np.ones(1000), 20) == [1, 1]
    assert interval(1, np.linspace(0.9, 1.5, 1001), 10 ** 9) == pytest.approx([0.515, 1.085])


def test_every_tokenizer_has_the_same_blocks():
    """The k-th of n blocks begins after k n-ths of the bytes, give or take a token."""
    text = TEXT * 3 + "été " * 1000
    n_bytes = len(text.encode())
    for tok in (tokenizer.build(kind, [text]) for kind in ("char", "bpe", "word")):
        ids, longest = tok.encode(text), max(map(len, tok.vocab))
        starts = block_starts(ids, tok, n_bytes)
        assert len(starts) == n_bytes // 1000 and starts[0] == 0
        for k, start in enumerate(starts[1:], start=1):
            before = tok.decode(ids[:1 + start]).encode()
            assert abs(len(before) - k * n_bytes / len(starts)) <= longest
    a, eot = tok.encode("wall"), [tok.eot]
    assert len(block_starts(a * 10 ** 6, tok, 4 * 10 ** 6)) == 100
    assert block_starts(a * 1000 + eot * 1000 + a * 1000, tok, 2000).tolist() == [0, 1999]


def test_loss_by_position():
    level = np.random.default_rng(1).normal(size=29)                # of 29 windows and a half
    nats = np.append((level[:, None] + np.arange(100)).flatten(), np.full(50, 1e6))
    read, loss, half = loss_by_position(nats, 100)
    assert loss == pytest.approx(read - 1 + level.mean())
    assert read[:3].tolist() == [1, 2, 3] and 80 < read[-1] < 100
    assert half == pytest.approx(1.96 * level.std(ddof=1) / math.sqrt(29))
    assert (loss_by_position(nats[:1900], 100)[2] == 0).all()       # 19 windows say too little
    assert loss_by_position(nats[:7], 100)[0].max() <= 7            # a text below one window


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """first; twin, a copy of it; worse, with other weights; other, on a text of the same size."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    (folder / "long.txt").write_text("\n".join(f"{n * n} bottles on the wall," for n in range(999)))
    (folder / "other.txt").write_text(TEXT.replace("green", "neerg"))
    for name in ("twin", "worse", "other"):
        shutil.copytree(folder / "runs/first", folder / "runs" / name)
    saved = torch.load(folder / "runs/first/best.pt", weights_only=True)
    saved["model"]["W_vocab"] *= -1
    torch.save(saved, folder / "runs/worse/best.pt")
    config = read_config(folder / "runs/first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config["corpus"]["folder"] = str(prepare(DataConfig(("other.txt",), "char")))
    (folder / "runs/other/config.json").write_text(json.dumps(config))
    return folder


def test_the_figures_are_those_of_eval(runs):
    found = json.loads(inside("beyond.bootstrap", "first", "--json", cwd=runs))["runs"][0]
    theirs = json.loads(inside("eval.py", "first", "--json", cwd=runs).splitlines()[0])
    for key in set(found["intervals"]) - {"calibration_error"}:
        assert found[key] == pytest.approx(theirs[key], rel=1e-6), key
    val = load_corpus(runs / read_config(runs / "runs/first")["corpus"]["folder"]).val
    log_p = torch.cat([x for x, _ in log_probs(load_run(runs / "runs/first")[0], val)]).double()
    sure, guess = (x.numpy() for x in log_p.exp().max(-1))
    gaps = np.bincount((sure * 15).astype(int), (guess == val[1:]) - sure)      # Guo's 15 bins
    assert found["calibration_error"] == pytest.approx(abs(gaps).sum() / len(sure), rel=1e-5)
    assert (runs / "runs/first/bootstrap.png").exists()


def test_runs_are_compared_on_the_same_text_only(runs):
    names = ["worse", "first", "twin", "--out", "p.png", "--text", "long.txt"]
    first, twin, worse = json.loads(inside("beyond.bootstrap", *names, "--json", cwd=runs))["runs"]
    out = inside("beyond.bootstrap", *names, cwd=runs)
    for key, (low, high) in worse["intervals"].items():
        form = ".2%" if "accuracy" in key or "error" in key else ",.4f"
        line = f"{key.replace('_', ' ')} {worse[key]:{form}} {low:{form}} to {high:{form}}"
        assert line in " ".join(out.split()) and low < worse[key] < high, key
    d = worse["difference"]
    assert d["bits_per_byte"] == worse["bits_per_byte"] - first["bits_per_byte"]
    assert 0 < d["interval"][0] < d["bits_per_byte"] < d["interval"][1]
    text = open_text(runs / "runs/first", runs / "long.txt")
    more, bounds = difference(*(bits_of(*load_run(runs / "runs" / name), text.ids, text.bytes)
                                for name in ("worse", "first")))
    assert (more, bounds) == (d["bits_per_byte"], pytest.approx(d["interval"]))
    assert twin["difference"] == {"than": "runs/first", "bits_per_byte": 0, "interval": [0, 0]}
    assert f"worse needs {d['bits_per_byte']:+.4f} bits" in out and out.count("chance") == 1
    assert "more than runs/first (+0.0000 to +0.0000: could be chance)" in out
    assert (runs / "p.png").read_bytes()[:4] == b"\x89PNG"
    out = inside("beyond.bootstrap", "first", "other", "worse", cwd=runs)
    assert "other was measured on another text" in out and "worse needs" in out
    for said, *arguments in (("no run", "first", "none"), ("nowhere", "--text", "nowhere"),
                             ("no folder", "--out", "nowhere/x.png")):
        assert said in one_line("beyond.bootstrap", *arguments, cwd=runs)
