"""Kneser-Ney against fractions worked out by hand, against NLTK, and against its own promises."""
import json
import math
import sys

import numpy as np
import pytest

import ngram
from conftest import given, one_line, settings, st
from data import load_corpus
from ngram import NGram, count_keys

A, B, C = range(3)


def every_distribution(model, tokens, order=None):
    """The distribution after each place of tokens, its end included: (n + 1, V)."""
    return list(model.distributions(model.places(tokens)))[(order or model.order) - 1]


def test_one_order_by_hand():
    """abab has a twice and b twice. No token came once, so D is a half."""
    p = every_distribution(NGram([A, B, A, B], 3, 1), [])[0]
    assert p == pytest.approx([1.5 / 4 + 0.25 / 3, 1.5 / 4 + 0.25 / 3, 0.25 / 3])


def test_two_orders_by_hand():
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
    assert model.probabilities([A, B, A])[1] == pytest.approx([below[A], after_a[B], after_b[A]])


texts = st.integers(1, 6).flatmap(lambda V: st.tuples(
    st.just(V), st.lists(st.integers(0, V - 1), min_size=1, max_size=60),
    st.lists(st.integers(0, V - 1), max_size=20)))


@settings(max_examples=150, deadline=None)
@given(texts, st.integers(1, 6))
def test_every_context_has_one_unit_of_probability(text, order):
    """Contexts that were seen, and others; nothing impossible; each order as if asked alone."""
    V, train, other = text
    order = min(order, len(train))
    model = NGram(train, V, order)
    for tokens in (train, other):
        answers = model.probabilities(tokens)
        for k in range(1, order + 1):
            p = every_distribution(model, tokens, k)
            assert p.sum(axis=1) == pytest.approx(1, abs=1e-12) and (p > 0).all()
            assert answers[k - 1] == pytest.approx(p[np.arange(len(tokens)), tokens], rel=1e-9)
            assert p == pytest.approx(every_distribution(NGram(train, V, k), tokens), rel=1e-9)


def test_against_nltk():
    """NLTK's lowest order counts continuations and neither discounts nor mixes in 1 / V.

    Take our D from the others and that order as theirs, and all contexts of a text agree. (Where
    a context stands at the very beginning of the text, and nowhere else, NLTK counts a follower
    that our continuations do not; such a text would differ there.)
    """
    lm = pytest.importorskip("nltk.lm")
    from nltk.util import everygrams
    words = "the cat sat on the mat the cat ate the rat on the mat and the cat sat the rat".split()
    names = sorted(set(words))
    ids = [names.index(word) for word in words]
    V = len(names)
    for order in (2, 3):
        theirs = lm.KneserNeyInterpolated(order, discount=0.4)
        theirs.fit([everygrams(words, max_len=order)], names)
        ours = NGram(ids, V, order, D=0.4)
        counts = np.bincount(np.unique(np.array([ids[:-1], ids[1:]]), axis=1)[1], minlength=V)
        ours.continued[1].share[:-1] = counts / counts.sum()
        ours.continued[1].rest[:] = 0
        for end in range(order - 1, len(words)):
            context = words[end - order + 1:end]
            p = every_distribution(ours, ids[end - order + 1:end])[-1]
            for i, name in enumerate(names):
                assert p[i] == pytest.approx(theirs.score(name, context))


@given(st.lists(st.integers(0, 50), min_size=1))
def test_counted_as_numpy_counts(keys):
    keys = np.array(keys, dtype=np.int64)
    ours, theirs = count_keys(keys), np.unique(keys, return_inverse=True, return_counts=True)
    assert all((a == b).all() for a, b in zip(ours, theirs))


def test_what_it_writes_follows_its_distributions():
    """Chi-squared, 3 degrees of freedom: above 16.3 once in a thousand seeds."""
    model = NGram([A, B, A, C, A, B], 4, 2)
    ids = np.array(list(model.generate(4000, 2, np.random.default_rng(1))))
    after_a = np.bincount(ids[1:][ids[:-1] == A], minlength=4)
    expected = every_distribution(model, [A])[1] * after_a.sum()
    assert ((after_a - expected) ** 2 / expected).sum() < 16.3
    first = list(model.generate(50, 2, np.random.default_rng(1)))
    assert first == ids[:50].tolist()


def test_it_runs_by_itself(trained, monkeypatch, capsys):
    """Its table against its own probabilities, longer contexts better on a text this regular."""
    monkeypatch.chdir(trained)

    def said(*arguments):
        ask = ["ngram.py", "--source", "text.txt", "--order", "3", "--tokens", "30", *arguments]
        monkeypatch.setattr(sys, "argv", ask)
        ngram.main()
        return capsys.readouterr().out

    out = said()
    corpus = load_corpus(next((trained / "corpora").iterdir()))
    nats = -np.log(NGram(corpus.train, corpus.tokenizer.vocab_size, 3).probabilities(corpus.val))
    loss = nats[:, 1:].mean(axis=1)
    assert loss[0] > loss[1] > loss[2]
    rows = [line.split() for line in out.splitlines() if line[:5].strip().isdigit()][:3]
    assert [row[4] for row in rows] == [f"{x:.4f}" for x in loss]
    n, n_bytes = len(corpus.val) - 1, corpus.meta["val"]["bytes"]
    assert rows[2][6] == f"{loss[2] * n / math.log(2) / n_bytes:.4f}"
    assert "--- order 3 writes" in out
    found = json.loads(said("--json"))["rows"]
    assert [f"{r['loss']:.4f} {r['grams']:,}" for r in found] == [f"{r[4]} {r[1]}" for r in rows]


def test_bad_input_is_one_line(trained):
    assert "the order is 7" in one_line("ngram.py", "--order", 7, cwd=trained)
    assert "0 or more" in one_line("ngram.py", "--tokens", -1, cwd=trained)
    assert "nowhere" in one_line("ngram.py", "--source", "nowhere", cwd=trained)
    with pytest.raises(ValueError, match="no gram of 3 tokens"):
        NGram([A, B], 2, 3)
