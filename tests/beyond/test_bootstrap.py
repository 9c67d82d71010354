"""Figures against numbers worked out by hand, intervals against simulated truth."""
import math
import sys

import numpy as np
import pytest

import bootstrap
import tokenizer
from bootstrap import (BINS, TRUTH, add_up, coverage, figures, interval, resample, simulate,
                       stretches)
from conftest import TEXT, one_line


def test_figures_by_hand():
    judged = np.array([[1.0, 1, 1, 0.95], [2.0, 0, 1, 0.95], [0.5, 1, 1, 0.5], [4.5, 0, 0, 1.0]])
    f = figures(add_up(judged, np.array([0, 0, 1, 2])).sum(axis=0), 8, 5)
    assert f["loss"] == 2 and f["perplexity"] == pytest.approx(math.e ** 2)
    assert f["bits_per_byte"] == pytest.approx(8 / math.log(2) / 8)
    assert f["bits_per_character"] == pytest.approx(8 / math.log(2) / 5)
    assert (f["accuracy"], f["top5_accuracy"]) == (0.5, 0.75)
    # Three guesses in the last bin, 2.9 sure, one right; one in the bin of 0.5, right.
    assert f["calibration_error"] == pytest.approx((abs(1 - 2.9) + abs(1 - 0.5)) / 4)


def test_calibration_error_as_guo_defines_it():
    rng = np.random.default_rng(1)
    sure = rng.random(5000)
    judged = np.stack([sure, rng.random(5000) < sure ** 2, sure, sure], axis=1)
    expected = 0
    for m in range(15):
        here = (sure >= m / 15) & (sure < (m + 1) / 15)
        gap = abs(judged[here, 1].mean() - sure[here].mean())
        expected += here.sum() / 5000 * gap
    f = figures(add_up(judged, np.arange(5000) // 100).sum(axis=0), 1, 1)
    assert BINS == 15 and f["calibration_error"] == pytest.approx(expected)


@pytest.mark.parametrize("n_stretches", [50, pytest.param(20, marks=pytest.mark.slow)])
def test_intervals_cover_the_truth_at_their_stated_rate(n_stretches):
    """95 % of 500 texts, give or take 1 %: below 92 % or above 98 % three times in a thousand.

    The calibration error is a sum of absolute values, rough where one is near 0: somewhat less.
    """
    covered = coverage(simulate(500, 10_000, np.random.default_rng(1)), n_stretches)
    assert set(covered) == set(TRUTH)
    for key, rate in covered.items():
        assert (0.89 if key == "calibration_error" else 0.92) <= rate <= 0.98, (key, rate)


def test_single_tokens_seem_surer_than_they_are():
    assert coverage(simulate(60, 200, np.random.default_rng(1)), 200)["loss"] < 0.8


def test_few_stretches_give_no_interval():
    assert interval(1.0, np.ones(1000), 19) is None and interval(1.0, np.ones(1000), 20) == [1, 1]
    assert interval(float("nan"), np.ones(1000), 100) is None


def test_an_interval_leans_the_other_way_than_the_resamples():
    low, high = interval(1.0, np.linspace(0.9, 1.5, 1001), 10 ** 9)
    assert (low, high) == (pytest.approx(2 - 1.485), pytest.approx(2 - 0.915))


def test_a_difference_is_surer_than_what_it_is_between():
    """Two models on the same texts, the second 0.02 nats worse wherever it is asked."""
    rng, stretch = np.random.default_rng(1), np.arange(5000) * 50 // 5000
    covered, widths = 0, []
    for judged in simulate(100, 5000, rng):
        worse = judged.copy()
        worse[:, 0] += 0.02 + 0.1 * rng.normal(size=len(worse))
        a, b = (resample(add_up(x, stretch))[:, 0] / 5000 for x in (judged, worse))
        low, high = interval((worse - judged)[:, 0].mean(), b - a, 50)
        alone = interval(judged[:, 0].mean(), a, 50)
        covered += low <= 0.02 <= high
        widths.append((high - low) / (alone[1] - alone[0]))
    assert 0.88 <= covered / 100 <= 0.99 and max(widths) < 0.2


def test_resampling_repeats_and_keeps_the_mean():
    sums = np.random.default_rng(2).random((100, 3))
    assert (resample(sums) == resample(sums)).all()
    assert resample(sums).shape == (1000, 3)
    assert resample(sums).mean(axis=0) == pytest.approx(sums.sum(axis=0), rel=0.01)
    assert resample(sums)[:, 0].std() == pytest.approx(10 * sums[:, 0].std(), rel=0.1)
    assert (resample(sums, seed=2) != resample(sums)).any()


def test_every_tokenizer_cuts_the_text_at_the_same_places():
    """The k-th of n stretches ends after k n-ths of the bytes, give or take a token."""
    text = TEXT * 3 + "\u00e9t\u00e9 " * 1000
    n_bytes = len(text.encode())
    n = n_bytes // 1000
    for name, size in (("char", None), ("bpe", 257), ("bpe", 300), ("word", None)):
        tokens = tokenizer.build(name, [text], size)
        ids, longest = tokens.encode(text), max(map(len, tokens.tokens))
        stretch = stretches(ids, tokens, n_bytes)
        assert len(stretch) == len(ids) - 1 and set(stretch) == set(range(n))
        assert (np.diff(stretch) >= 0).all()
        for k in range(1, n):
            before = ids[:1 + int((stretch < k).sum())]
            assert abs(len(tokens.decode(before).encode()) - k * n_bytes / n) <= longest


def test_a_separator_is_no_text_and_a_long_text_has_100_stretches():
    tokens = tokenizer.build("word", ["a b"])
    a, eot = tokens.encode("a")[0], tokens.eot
    assert stretches([a] * 1000 + [eot] * 1000 + [a] * 1000, tokens, 2000).tolist() == (
        [0] * 1999 + [1] * 1000)
    assert set(stretches([a] * 10 ** 6, tokens, 10 ** 6)) == set(range(100))
    assert set(stretches([eot] * 5, tokens, 0)) == {0}


def test_it_runs_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--texts", "3"])
    bootstrap.main()
    out = capsys.readouterr().out
    assert "3 texts" in out and "1,000" in out
    assert "--texts" in one_line("bootstrap.py", "--texts", 0, cwd=tmp_path)
