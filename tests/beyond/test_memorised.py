"""The index against a plain sort, the longest copy against a plain search, the gap by hand."""
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beyond import memorised
from beyond.memorised import gap, longest_copy, report, suffix_array, windows_trained_on
from conftest import example, given, inside, one_line, settings, st
from data import batch, epoch_order, load_corpus
from sample import generate, load_run, read_config

few_letters = st.lists(st.sampled_from([0, 97, 98, 255]), max_size=80).map(bytes)


@settings(max_examples=200)
@given(few_letters, few_letters)
@example(b"abcab", b"abc" * 30)
@example(b"", b"\0" * 100)
def test_the_index_is_the_sorted_suffixes_and_the_longest_copy_the_longest(written, text):
    index = suffix_array(text)
    assert index.tolist() == sorted(range(len(text)), key=lambda i: text[i:])
    copy, where = longest_copy(written, text, index)
    assert text[where:where + len(copy)] == copy and copy in written
    assert len(copy) == max((j - i for i in range(len(written)) for j in range(i, len(written) + 1)
                             if written[i:j] in text), default=0)


TEXT = "Il était une fois un roi, et une reine qui était sa femme. Ils vivaient au château. "


def test_a_copied_passage_is_found_and_told_from_honest_text():
    text, val = (TEXT * 3).encode(), ("Tout autre chose: " * 80).encode()
    said = report("Voici: une reine qui était sa femme!".encode(), text, val)
    assert "Of 36 characters" in said and "has 29:" in said and "this is copied" in said
    assert "roi, et[ une reine qui était sa femme]. Ils vivaient" in said
    said = report(val[:60], text, val)
    assert "no more than honest text" in said and "copied" not in said
    for n, verdict in ((20, "copied"), (19, "has 19 passages as long, too few"), (0, "0 passages")):
        assert verdict in report(b"une reine qui", text, b"x" * len(b"une reine qui") * n)
    assert "no more than" in report(b"une reine qui", text, b"x" * 13 * 29 + b"une reine qui")
    # The longest passage of bytes may end within a character: é and è begin alike.
    assert "has 3:\n\n[caf]" in report("cafè".encode(), "café".encode(), b"z")


@given(st.integers(1, 50), st.integers(0, 2000))
def test_honest_passages_are_of_all_of_the_split_and_do_not_overlap(size, n_bytes):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorised, "longest_copy", lambda passage, *index: (seen.append(passage), 0))
        patch.setattr(memorised, "shown", lambda passage: "")
        memorised.honest_lengths(size, np.arange(n_bytes), b"", [])
    assert len(seen) == min(200, n_bytes // size) and all(len(part) == size for part in seen)
    assert all(a[-1] < b[0] for a, b in zip(seen, seen[1:]))
    assert len(seen) < 2 or (seen[0][0], seen[-1][-1]) == (0, n_bytes - 1)


def test_only_windows_that_training_has_drawn_are_measured():
    """With the run's seed, and of its steps only: all of an epoch, and a part of the second."""
    tokens, T, train = np.arange(1000), 10, {"seed": 7, "batch_size": 6}
    drawn = np.append(*(epoch_order(1000, T, 7, epoch) for epoch in (0, 1)))[:120].reshape(20, 6)
    for n, steps in ((10 ** 6, range(20)), (200, (0, 6, 12, 19))):
        batches = list(windows_trained_on(tokens, T, train, 20, n))
        assert [ids[:, 0].tolist() for ids, _ in batches] == drawn[list(steps)].tolist()
        assert all((targets == ids + 1).all() for ids, targets in batches)


def test_the_gap_and_its_interval_by_hand():
    level = np.random.default_rng(1).normal(2, 0.5, 100)    # of blocks, in two texts by chance
    val, trained = np.repeat(level, 200), np.repeat(level - 1, 200)
    half = 1.96 * math.sqrt(2 * level.var(ddof=1) / 100)
    assert gap(trained, val) == pytest.approx((1, half))
    assert gap(val, trained) == pytest.approx((-1, half))
    assert gap(val[:3999], val)[1] == gap(val, val[:3999])[1] == math.inf > gap(val[:4000], val)[1]


def test_a_run(trained, tmp_path):
    """Its losses against PyTorch's and eval.py's; what it writes; without best.pt."""
    folder = trained / "runs/first"
    out = inside("beyond.memorised", "--run", "first", "--tokens", 300, cwd=trained)
    model, tokenizer = load_run(folder)
    corpus = load_corpus(trained / read_config(folder)["corpus"]["folder"])
    n = len(corpus.val) - 1
    steps = np.linspace(0, 29, min(30, math.ceil(n / 64))).astype(int).tolist()
    with torch.no_grad():
        ids, targets = map(torch.cat, zip(*(batch(corpus.train, 4, 16, 1, step) for step in steps)))
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    val_loss = json.loads(inside("eval.py", "first", "--json", cwd=trained).splitlines()[0])["loss"]
    shown = [float(x) for x in re.findall(r"[-+]?\d\.\d{4}", out)[:3]]
    assert shown == pytest.approx([loss.item(), val_loss, val_loss - loss.item()], abs=1e-4)
    assert f"on {64 * len(steps):,} tokens" in out and f"on {n:,} of the validation split" in out
    rng = torch.Generator().manual_seed(1)      # it draws from the model's own probabilities
    pick = lambda logits: logits.double().softmax(-1).multinomial(1, generator=rng)[:, 0]
    written = tokenizer.decode([i for i, in generate(model, [[tokenizer.eot]], 300, pick)])
    text, val = (tokenizer.decode(ids).encode() for ids in (corpus.train, corpus.val))
    assert out.endswith(report(written.encode(), text, val) + "\n")
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    last = torch.load(folder / "last.pt", weights_only=True) | {"step": 7}
    torch.save(last, tmp_path / "runs/first/last.pt")
    for said in ("after 30 steps", f"on {7 * 64} tokens"):
        out = inside("beyond.memorised", "12 green bottles", "--run", "first", cwd=tmp_path)
        assert said in out and "[12 green bottles]" in out
        (tmp_path / "runs/first/best.pt").unlink(missing_ok=True)


def test_texts_of_a_person(trained, tmp_path):
    (tmp_path / "mine.txt").write_text("and 17 green bottles hanging there")
    for text in (["and 17 green bottles hanging there"], ["--file", tmp_path / "mine.txt"]):
        out = inside("beyond.memorised", *text, "--source", "text.txt", cwd=trained)
        assert "Of 34 characters" in out and "[17 green bottles hanging ]on the wall" in out
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for said, *arguments in (("no text", ""), ("latin.txt", "--file", tmp_path / "latin.txt"),
                             ("--tokens", "--tokens", 0), ("no run", "--run", "none")):
        assert said in one_line("beyond.memorised", *arguments, cwd=trained)
