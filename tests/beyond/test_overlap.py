"""Signatures and leaks, held against the sets of runs of characters that they stand for."""
import json
import random

import numpy as np
import pytest

import data
from beyond import overlap
from beyond.overlap import SHINGLE, distinct, gram_hashes, leak_check, signature
from conftest import inside


def some_text(n, seed):
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=n))


def with_mistakes(text, n, seed):
    changed = random.Random(seed).sample(range(len(text)), n)
    return "".join("#" if i in changed else c for i, c in enumerate(text))


def grams(text, n):
    return [text[i:i + n] for i in range(len(text) - n + 1)]


def shared(train, val):
    """What leak_check measures, by brute force."""
    known, runs = ([run for t in texts for run in grams(t, 50)] for texts in (train, val))
    return sum(map(set(known).__contains__, runs)) / len(runs)


@pytest.mark.parametrize("n", [1, 2, 3, 16, 50])
def test_equal_runs_have_equal_hashes_and_no_others(n):
    text = some_text(400, 1) * 2 + "\U0001f44b\u4f60" * 40
    pairs = set(zip(grams(text, n), gram_hashes(text, n).tolist(), strict=True))
    assert len(pairs) == len({gram for gram, _ in pairs}) == len({number for _, number in pairs})
    assert gram_hashes(text[:n], n).shape == (1,) and gram_hashes(text[:n - 1], n).shape == (0,)


@pytest.mark.parametrize("mistakes", [0, 5, 20, 60, 200])
def test_signatures_estimate_jaccards_resemblance(mistakes):
    """Of 64 numbers the standard error is at most sqrt(1/4 / 64) = 0.06, of 20 such 0.014."""
    errors = []
    for seed in range(20):
        text = some_text(3000, seed)
        other = with_mistakes(text, mistakes, seed)
        a, b = set(grams(text, SHINGLE)), set(grams(other, SHINGLE))
        errors.append((signature(text) == signature(other)).mean() - len(a & b) / len(a | b))
    assert abs(np.mean(errors)) < 0.042 and np.abs(errors).max() < 0.25


def test_of_documents_that_are_the_same_or_nearly_the_first_stays():
    texts = [some_text(2000, n) for n in range(40)]
    texts[17] = with_mistakes(texts[3], 2, 1)                   # resemblance 0.97
    texts[29] = texts[3].upper() + " the end"
    texts[30:35] = [with_mistakes(texts[n], 30, n) for n in range(5, 10)]       # 0.6: not alike
    texts[35:40] = texts[17], "short", "short", "caf\u00e9\none", "cafe\u0301\r\none \n"
    report = {}
    assert [n for n, _ in distinct(enumerate(texts), False, {})] == [*range(35), 36, 38]
    assert [n for n, _ in distinct(enumerate(texts), True, report)] == [
        n for n in range(40) if n not in (17, 29, 35, 37, 39)]
    assert report["nearly the same"] == (2, f"17: {texts[17][:60]!r}")
    assert report["the same"] == (3, f"35: {texts[17][:60]!r}")
    a = some_text(4000, 1)      # b is like a, and dropped; c is like b, but no longer like a
    b = a[:3660] + some_text(340, 101)
    c = b[340:] + some_text(340, 201)
    similar = [(signature(x) == signature(y)).mean() for x, y in ((a, b), (b, c), (a, c))]
    assert similar[0] >= 0.8 <= similar[1] and similar[2] < 0.8
    assert list(distinct(zip("ABC", (a, b, c)), True, {})) == [("A", a), ("C", c)]


def test_the_leak_is_the_share_of_runs_that_training_has(monkeypatch):
    train = [some_text(3000, 1), some_text(2000, 2)]
    val = [some_text(700, 3) + train[0][100:400] + some_text(200, 4), train[1][:30], "x" * 80]
    for size in (7, 64, 10_000):
        monkeypatch.setattr(overlap.pieces, "__defaults__", (size,))
        assert leak_check(train, val, 1310) == pytest.approx(shared(train, val))
    assert 0.2 < shared(train, val) < 0.3 and leak_check(["x" * 49], ["x" * 50], 50) == 0
    monkeypatch.setattr(overlap, "SAMPLE", 2000)                # a sample of the runs estimates it
    train, val = some_text(60_000, 1), some_text(20_000, 2) + some_text(60_000, 1)[5000:15_000]
    found = leak_check([train], [val], len(val))
    assert found == pytest.approx(10_000 / 30_000, abs=0.05) and found != 9951 / 29_951


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_leaks_of_a_prepared_corpus_are_those_of_its_documents(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [some_text(900 + n, n) + " \U0001f44b" for n in range(20)]
    texts[10:] = [text[:300] + texts[n][300:600] for n, text in enumerate(texts[10:])]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    folder = data.prepare(data.DataConfig(source=("a.jsonl",), tokenizer=tokenizer))
    corpus = data.load_corpus(folder)
    train, val = (list(overlap.texts_of(ids, corpus.tokenizer, block=7))
                  for ids in (corpus.train, corpus.val))
    assert train and val and sorted(train + val) == sorted(texts)
    said = inside("beyond.overlap", "--leaks", folder, cwd=tmp_path)
    assert said.startswith(f"{shared(train, val):.2%} of the runs of 50 ") and "WARNING" in said


def test_questions_that_were_read_in_training_are_named(trained, monkeypatch):
    """One was, one half, one less than that; one stands in the validation split, one nowhere."""
    monkeypatch.chdir(trained)
    text, run = (trained / "text.txt").read_text(), trained / "runs/first"
    other = some_text(200, 1)
    questions = {"whole": text[300:400], "mostly": text[300:400] + other[:40],
                 "hardly": text[300:400] + other[:180], "held out": text[-100:],
                 "nowhere": other, "short": text[300:340]}
    assert overlap.seen(questions.items(), run) == ["whole", "mostly"]
    assert overlap.seen([], run) == [] == overlap.seen([("short", "a")], run)
    assert overlap.leaks(["a", "b"]).endswith(": a, b") and overlap.leaks([]).startswith("0 of")
    assert overlap.leaks(list("abcdefghijk")).endswith("a, b, c, d, e, f, g, h, i ...")


def test_the_script_reports_writes_and_shows_what_it_measures(tmp_path):
    for name, text in (("a", "word " * 300), ("b", "word " * 300), ("c", some_text(500, 1))):
        (tmp_path / f"{name}.txt").write_text(text)
    said = inside("beyond.overlap", "a.txt", "b.txt", "c.txt", "--near", "-o", "out", cwd=tmp_path)
    assert said.startswith("1 left out, the same as an earlier one, such as b.txt: 'word word ")
    assert len([*data.documents([str(tmp_path / "out")])]) == 2 and "2 documents, 2,000" in said
    assert inside("beyond.overlap", cwd=tmp_path).splitlines()[1].split() == ["0", *["1.000"] * 3]
