"""Signatures and leaks, held against the sets of runs of characters that they stand for."""
import random

import numpy as np
import pytest

import overlap
from conftest import given, st
from overlap import SHINGLE, gram_hashes, leak_check, near_duplicates, signature

LETTERS = "abcdefghijklmnopqrstuvwxyz "


def some_text(n, seed):
    return "".join(random.Random(seed).choices(LETTERS, k=n))


def with_mistakes(text, n, seed):
    rng, characters = random.Random(seed), list(text)
    for i in rng.sample(range(len(text)), n):
        characters[i] = "#"
    return "".join(characters)


def grams(text, n):
    return {text[i:i + n] for i in range(len(text) - n + 1)}


@pytest.mark.parametrize("n", [1, 3, 50])
def test_equal_runs_have_equal_hashes_and_no_others(n):
    text = some_text(400, 1) * 2 + "\U0001f44b\u4f60" * 40
    hashes = gram_hashes(text, n)
    assert hashes.shape == (len(text) - n + 1,)
    of = {}
    for i, number in enumerate(hashes.tolist()):
        assert of.setdefault(text[i:i + n], number) == number
    assert len(set(of.values())) == len(of) == len(grams(text, n))


def test_a_text_shorter_than_a_run_has_none():
    assert gram_hashes("abc", 4).shape == (0,) and gram_hashes("", 1).shape == (0,)
    assert gram_hashes("abcd", 4).shape == (1,)


def test_hashes_are_spread_evenly():
    """A sample is the hashes below a limit: as many as the limit says, of honest text."""
    hashes = gram_hashes(some_text(40_000, 2), 20)
    for share in (0.5, 0.1, 0.01):
        assert (hashes <= np.uint64(share * 2 ** 64)).mean() == pytest.approx(share, rel=0.2)
        assert (hashes % np.uint64(1000) < 1000 * share).mean() == pytest.approx(share, rel=0.2)


@pytest.mark.parametrize("mistakes", [0, 5, 20, 60, 200])
def test_signatures_estimate_the_resemblance(mistakes):
    """64 numbers: the standard error of a share is at most sqrt(1/4 / 64) = 0.06; allow 3."""
    text = some_text(3000, mistakes)
    other = with_mistakes(text, mistakes, 1)
    a, b = grams(text, SHINGLE), grams(other, SHINGLE)
    estimate = (signature([text]) == signature([other])).mean()
    assert estimate == pytest.approx(len(a & b) / len(a | b), abs=0.19)


def test_of_documents_that_are_nearly_the_same_the_first_stays():
    texts = [some_text(2000, n) for n in range(40)]
    texts[17] = with_mistakes(texts[3], 2, 1)                   # resemblance 0.97
    texts[29] = texts[3].upper() + " the end"
    for n in range(5, 10):                                      # 0.6: compared, and not alike
        texts[n + 25] = with_mistakes(texts[n], 30, n)
    texts[37] = texts[38] = "short"                             # too short to tell
    signatures = np.stack([signature([text[:700], text[700:]]) for text in texts])
    found = near_duplicates(signatures)
    assert {i: j for i, j in enumerate(found.tolist()) if j >= 0} == {17: 3, 29: 3}


def test_what_is_like_a_dropped_document_alone_stays():
    """B is like A, and dropped; C is like B, but no longer like A; E is like D, which stays."""
    a = some_text(4000, 1)
    b = a[:3660] + some_text(340, 101)
    c = b[340:] + some_text(340, 201)
    d = some_text(4000, 301)
    similar = [(signature([x]) == signature([y])).mean() for x, y in ((a, b), (b, c), (a, c))]
    assert similar[0] >= 0.8 <= similar[1] and similar[2] < 0.8
    signatures = np.stack([signature([text]) for text in (a, b, c, d, d)])
    assert near_duplicates(signatures).tolist() == [-1, 0, -1, -1, 3]


def test_no_documents_have_no_duplicates():
    assert near_duplicates(np.empty((0, overlap.N_HASHES), np.uint32)).shape == (0,)


def test_a_split_of_documents_too_large_for_validation_cuts_one():
    lengths = np.array([100] * 12)
    assert overlap.split(lengths, 0.05, 1).tolist() == [40] + [100] * 11
    learned = overlap.split(lengths, 0.2, 1)
    assert sorted(learned.tolist()) == [0] * 2 + [100] * 10
    assert overlap.split(np.array([7, 1]), 0.1, 1).tolist() == [6, 0]


@given(st.lists(st.integers(1, 10_000), min_size=10, max_size=60), st.floats(0.01, 0.9),
       st.integers(0, 9))
def test_validation_is_about_as_large_as_asked_for(lengths, val_fraction, seed):
    learned, wanted = overlap.split(lengths, val_fraction, seed), val_fraction * sum(lengths)
    assert all(0 <= n <= length for n, length in zip(learned, lengths))
    assert wanted / 2 - 1 <= sum(lengths) - learned.sum() <= wanted + 1
    assert sum(0 < n < length for n, length in zip(learned, lengths)) <= 1


@pytest.mark.parametrize("n", [0, 1, 5, 9])
def test_characters_are_found_among_bytes(n, monkeypatch, tmp_path):
    monkeypatch.setattr(overlap, "MEGABYTE", 3)
    text = "a\u00e9\u4f60\U0001f44bb\u0153c\u4f60d."
    path = tmp_path / "text"
    path.write_bytes(b"xyz" + text.encode())
    assert overlap.byte_offset(path, 3, n) == 3 + len(text[:n].encode())
    with pytest.raises(OSError, match="fewer characters"):
        overlap.byte_offset(path, 3, len(text) + n)


def pieces(*texts, size):
    return [[t[i:i + size] for i in range(0, len(t), size)] for t in texts]


@pytest.mark.parametrize("size", [7, 64, 10_000])
def test_the_leak_is_the_share_of_runs_that_training_has(size):
    train = [some_text(3000, 1), some_text(2000, 2)]
    val = [some_text(700, 3) + train[0][100:400] + some_text(200, 4), train[1][:30], "x" * 80]
    known = set().union(*(grams(t, 50) for t in train))
    runs = [t[i:i + 50] for t in val for i in range(len(t) - 49)]
    expected = sum(run in known for run in runs) / len(runs)
    found = leak_check(pieces(*train, size=size), pieces(*val, size=size), 1310)
    assert found == pytest.approx(expected) and 0.2 < found < 0.3


def test_a_sample_of_the_runs_estimates_it(monkeypatch):
    monkeypatch.setattr(overlap, "SAMPLE", 2000)
    train, val = some_text(60_000, 1), some_text(20_000, 2) + some_text(60_000, 1)[5000:15_000]
    found = leak_check([[train]], [[val]], len(val))
    assert found == pytest.approx(10_000 / 30_000, abs=0.05) and found != 9951 / 29_951


def test_validation_without_a_run_of_fifty_has_no_leak_to_measure():
    assert leak_check([["x" * 90]], [["x" * 49], ["x" * 49]], 98) is None
    assert leak_check([["x" * 49]], [["x" * 50]], 50) == 0


def test_the_script_compares_estimates_with_what_they_estimate(capsys):
    overlap.main()
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "characters" and len(rows) == 6
    assert rows[0].split() == ["0", "1.000", "1.000", "1.000"]
