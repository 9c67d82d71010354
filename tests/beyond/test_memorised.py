"""The index against a plain sort, the longest copy against a plain search."""
import io
import json
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest

import memorised
from conftest import example, given, one_line, settings, st
from memorised import honest_lengths, longest_copy, report, suffix_array

few_letters = st.lists(st.sampled_from([0, 97, 98, 255]), max_size=80).map(bytes)


@settings(max_examples=200, deadline=None)
@given(few_letters)
@example(b"")
@example(b"a")
@example(b"a" * 100)
@example(b"\0" * 40)
@example(b"to be or not to be " * 20)
def test_the_index_is_the_sorted_suffixes(text):
    assert suffix_array(text).tolist() == sorted(range(len(text)), key=lambda i: text[i:])


@settings(max_examples=200, deadline=None)
@given(few_letters, few_letters)
@example(b"abcab", b"abc" * 30)
def test_the_longest_copy_is_the_longest(passage, text):
    stretch, where = longest_copy(passage, text, suffix_array(text))
    assert text[where:where + len(stretch)] == stretch and stretch in passage
    longest = max((j - i for i in range(len(passage)) for j in range(i, len(passage) + 1)
                   if passage[i:j] in text), default=0)
    assert len(stretch) == longest


TEXT = "Il était une fois un roi, et une reine qui était sa femme. Ils vivaient au château. "


def test_a_copied_passage_is_found_and_told_from_honest_text():
    text, val = (TEXT * 3).encode(), ("Tout autre chose: " * 80).encode()
    order = suffix_array(text)
    r = report("Voici: une reine qui était sa femme!".encode(), val, text, order)
    assert r["copied"] == " une reine qui était sa femme" and r["copied_characters"] == 29
    assert r["before"].endswith("roi, et") and r["after"].startswith(". Ils vivaient")
    assert r["characters"] == 36 and r["copied_characters"] > r["honest_longest"] >= 1
    assert "it copies" in memorised.describe(r)
    r = report(val[:60], val, text, order)
    assert r["copied_characters"] <= r["honest_longest"]
    assert "it copies" not in memorised.describe(r)


def test_there_is_no_verdict_on_little_honest_text():
    """20 passages as long as the text, side by side, or none."""
    text, passage = (TEXT * 3).encode(), b"une reine qui"
    order = suffix_array(text)
    for n, said in ((20, "it copies"), (19, "19 passages as long, too few"), (0, "0 passages")):
        r = report(passage, b"x" * len(passage) * n, text, order)
        assert r["honest_passages"] == n and said in memorised.describe(r)
        assert ("it copies" in memorised.describe(r)) == (n == 20)
    assert r["honest_longest"] is None and r["honest_median"] is None


@given(st.integers(1, 50), st.integers(0, 2000))
def test_honest_passages_do_not_overlap(size, n_bytes):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorised, "longest_copy", lambda passage, *index: (seen.append(passage), 0))
        patch.setattr(memorised, "characters", lambda stretch: 1)
        val = np.arange(n_bytes)
        honest_lengths(size, val, b"", [])
    assert len(seen) == min(200, n_bytes // size) and all(len(part) == size for part in seen)
    assert all(a[-1] < b[0] for a, b in zip(seen, seen[1:]))


def test_whole_characters_are_counted_and_shown():
    """The longest stretch of bytes may end within a character: \u00e9 and \u00e8 begin alike."""
    text = "caf\u00e9".encode()
    r = report("caf\u00e8".encode(), b"z", text, suffix_array(text))
    assert (r["copied"], r["copied_characters"]) == ("caf", 3)


def test_honest_passages_come_from_all_of_the_split():
    text = b"the end of the split stands in the training text"
    val = b"x" * 5000 + text
    lengths = honest_lengths(len(text), val, text, suffix_array(text), n=50)
    assert len(lengths) == 50 and lengths[0] == 1 and lengths[-1] == len(text)


def said(*arguments, cwd, monkeypatch):
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["memorised.py", *map(str, arguments)])
    with redirect_stdout(io.StringIO()) as out:
        memorised.main()
    return out.getvalue()


def test_it_runs_by_itself(trained, monkeypatch, tmp_path):
    out = said("and 17 green bottles hanging there", "--source", "text.txt", cwd=trained,
               monkeypatch=monkeypatch)
    assert "There are 34 characters." in out and "[17 green bottles hanging ]on the wall" in out
    (tmp_path / "mine.txt").write_text("12 green bottles", encoding="utf-8")
    assert "[12 green bottles]" in said("--file", tmp_path / "mine.txt", "--source", "text.txt",
                                        cwd=trained, monkeypatch=monkeypatch)
    found = said("12 green bottles", "--json", "--source", "text.txt", cwd=trained,
                 monkeypatch=monkeypatch)
    assert json.loads(found)["copied"] == "12 green bottles"


def test_bad_input_is_one_line(trained, tmp_path):
    assert "no text" in one_line("memorised.py", "", cwd=trained)
    assert "nowhere" in one_line("memorised.py", "--file", "nowhere", cwd=trained)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert "not UTF-8" in one_line("memorised.py", "--file", tmp_path / "latin", cwd=trained)
