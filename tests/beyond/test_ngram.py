"""Kneser-Ney against fractions worked out by hand, against NLTK, and against its own promises."""
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from beyond.ngram import NGram, accuracies, rows_of
from conftest import given, inside, one_line, settings, st
from data import load_corpus
from sample import read_config

A, B, C = range(3)


def every_distribution(model, tokens, order=None):
    """The distribution at each position of tokens, its end included: (n + 1, V)."""
    return list(model.distributions(model.find(tokens)))[order or model.order]


def test_by_hand():
    """The text is abacab, the vocabulary abcd.

    Pairs: ab twice; ba, ac, ca once: n1 = 3, n2 = 1, D = 3/5. Tokens that came before a: b and c;
    before b: a; before c: a. So n1 = 2, n2 = 1, D = 2/4, of 4 pairs in all, with 3 endings.
    """
    model = NGram([A, B, A, C, A, B], 4, 2)
    assert (model.seen[2].D, model.continued[1].D) == (3 / 5, 1 / 2)
    below = np.array([1.5, 0.5, 0.5, 0]) / 4 + (0.5 * 3 / 4) / 4
    after_a = np.array([0, 1.4, 0.4, 0]) / 3 + (0.6 * 2 / 3) * below
    after_b = np.array([0.4, 0, 0, 0]) / 1 + (0.6 * 1 / 1) * below
    got = every_distribution(model, [A, B, 3])
    assert got == pytest.approx(np.array([below, after_a, after_b, below]))
    assert model.probabilities([A, B, A])[2] == pytest.approx([below[A], after_a[B], after_b[A]])
    p = every_distribution(NGram([A, B, A, B], 3, 1), [])[0]        # none came once: D is a half
    assert p == pytest.approx([1.5 / 4 + 0.25 / 3, 1.5 / 4 + 0.25 / 3, 0.25 / 3])


@settings(max_examples=100)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60),
       st.lists(st.integers(0, 5), max_size=20), st.integers(1, 6))
def test_every_context_has_one_unit_of_probability(train, other, order):
    """Contexts that were seen, and others; nothing impossible; each order as if asked alone."""
    V, order = 6, min(order, len(train))
    model = NGram(train, V, order)
    for tokens in (train, other):
        by_order = model.probabilities(tokens)
        assert (by_order[0] == 1 / V).all() and len(by_order) == order + 1
        for k in range(1, order + 1):
            p = every_distribution(model, tokens, k)
            assert p.sum(axis=1) == pytest.approx(1, abs=1e-12) and (p > 0).all()
            assert by_order[k] == pytest.approx(p[np.arange(len(tokens)), tokens], rel=1e-9)
            assert p == pytest.approx(every_distribution(NGram(train, V, k), tokens), rel=1e-9)


def test_against_nltk():
    """NLTK's lowest order neither discounts nor mixes in 1 / V; with that order, all agree."""
    lm = pytest.importorskip("nltk.lm")
    from nltk.util import everygrams
    words = "the cat sat on the mat the cat ate the rat on the mat and the cat sat the rat".split()
    names = sorted(set(words))
    ids = [names.index(word) for word in words]
    for order in (2, 3):
        theirs = lm.KneserNeyInterpolated(order, discount=0.4)
        theirs.fit([everygrams(words, max_len=order)], names)
        ours = NGram(ids, len(names), order, D=0.4)
        counts = np.bincount([b for _, b in set(zip(ids, ids[1:]))], minlength=len(names))
        ours.continued[1].share[:-1] = counts / counts.sum()
        ours.continued[1].backoff[:] = 0
        for end in range(order - 1, len(words)):
            p = every_distribution(ours, ids[end - order + 1:end])[-1]
            assert p == pytest.approx([theirs.score(name, words[end - order + 1:end])
                                       for name in names])


def test_what_it_writes_follows_its_distributions():
    """Chi-squared, 3 degrees of freedom: above 16.3 once in a thousand seeds."""
    model, rng = NGram([A, B, A, C, A, B], 4, 2), np.random.default_rng(1)
    ids = np.array(list(model.generate([A], 4000, 2, rng)))
    after_a = np.bincount(ids[1:][ids[:-1] == A], minlength=4)
    expected = every_distribution(model, [A])[1] * after_a.sum()
    assert ((after_a - expected) ** 2 / expected).sum() < 16.3
    firsts = [next(model.generate([B], 1, 2, rng)) for _ in range(200)]
    assert 116 < firsts.count(A) < 156      # after b 68 in 100 are a, elsewhere 47


def test_accuracies_share_ranks_among_equals():
    """Of abcabc... the next token is certain; the uniform baseline, and a new letter, draw lots."""
    top = accuracies(NGram([A, B, C] * 50, 8, 2), np.array([A, B, C] * 10 + [7]))
    assert top[0] == pytest.approx([1 / 8, 5 / 8])
    assert top[2] == pytest.approx([29 / 30, 29.4 / 30])    # 7 is one of 5 equals, after abc
    for V, n in ((2048, 1), (2049, math.nan)):              # of a larger vocabulary, no ranks
        ngram, text = NGram(np.arange(V), V, 2), SimpleNamespace(ids=np.arange(100), bytes=300)
        assert rows_of(ngram, text)[2]["top1_accuracy"] == pytest.approx(n, nan_ok=True)


def test_its_table_beside_a_run(trained):
    """Against its own probabilities and eval.py; longer contexts better on a text this regular."""
    out = inside("beyond.ngram", "--run", "first", "--order", 3, cwd=trained)
    rows = {line[:24].strip(): line[24:].split() for line in out.splitlines() if "%" in line}
    assert set(rows) == {"runs/first", "uniform baseline", "1-gram", "2-gram", "3-gram"}
    folder = read_config(trained / "runs/first")["corpus"]["folder"]
    corpus = load_corpus(trained / folder)
    ngram = NGram(corpus.train, corpus.tokenizer.vocab_size, 3)
    nats = -np.log(ngram.probabilities(corpus.val))[:, 1:]
    for k in (1, 2, 3):
        bits = nats[k].sum() / math.log(2) / corpus.meta["val"]["bytes"]
        assert rows[f"{k}-gram"][:5] == [f"{x:{form}}" for x, form in (
            (len(ngram.keys[k]), ","), (ngram.seen[k].D, ".3f"), (nats[k].mean(), ".4f"),
            (math.exp(nats[k].mean()), ".3f"), (bits, ".4f"))]
    assert nats[1].mean() > nats[2].mean() > nats[3].mean()
    theirs = map(json.loads, inside("eval.py", "first", "--json", cwd=trained).splitlines())
    for ours, row in zip(("runs/first", "uniform baseline"), theirs):
        shown = "{loss:.4f} {perplexity:.3f} {bits_per_byte:.4f} {top1_accuracy:.2%}".format(**row)
        assert rows[ours][2:] == [*shown.split(), f"{row['top5_accuracy']:.2%}"]
    # The same corpus by the name of its folder, and by the flags that describe it.
    for same in ([folder], ["--source", "text.txt", "--tokenizer", "char"]):
        other = inside("beyond.ngram", *same, "--order", 3, cwd=trained)
        assert other.endswith(out[out.index("--- the 3-gram writes"):]) and len(other) > 600
    for said, *arguments in (("order is 7", folder, "--order", 7), ("nowhere", "nowhere"),
                             ("not both", folder, "--run", "first"), ("no run", "--run", "none")):
        assert said in one_line("beyond.ngram", *arguments, cwd=trained)
