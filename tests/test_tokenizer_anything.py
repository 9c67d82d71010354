"""
What tokenizer.py promises of any text at all, tried on texts that hypothesis thinks up:
pip install -r tests/requirements.txt, or these are skipped.
"""
import pytest

pytest.importorskip("hypothesis")
from collections import Counter                                                 # noqa: E402
from itertools import islice                                                    # noqa: E402

import numpy as np                                                              # noqa: E402
import regex                                                                    # noqa: E402
import tiktoken                                                                 # noqa: E402
from hypothesis import HealthCheck, given, settings                             # noqa: E402
from hypothesis import strategies as st                                         # noqa: E402

import tokenizer as tk                                                          # noqa: E402
from test_tokenizer import (BYTES, everyone, gpt2_files, merged, needs_gpt2,    # noqa: E402, F401
                            slow_merges, trained)
from tokenizer import (EOT, BPETokenizer, CharTokenizer, PublishedTokenizer,    # noqa: E402
                       WordTokenizer)

# Symbols assigned long enough ago for both regular-expression engines to know what they are.
OLD_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=80)
ANY_TEXT = st.text(max_size=80)             # never a lone surrogate: hypothesis leaves them out
TRICKY = st.lists(st.sampled_from([*"abé \n\r\t'sl1,.!中/_-", EOT, "<|end", "'ll", "  ", "a b"]),
                  max_size=60).map("".join)
relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))


@needs_gpt2
@relaxed
@given(ANY_TEXT | TRICKY)
def test_gpt2_ids_of_any_text(gpt2_files, text):
    gpt2_files.kernels = "fused"
    theirs = tiktoken.get_encoding("gpt2").encode(text, allowed_special="all")
    assert gpt2_files.encode(text) == theirs == PublishedTokenizer("gpt2").encode(text)
    assert gpt2_files.decode(theirs) == text


@needs_gpt2
@relaxed
@given(st.binary(min_size=1, max_size=60))
def test_gpt2_ids_of_any_bytes(gpt2_files, data):
    """What is decoded from random bytes, and each stretch of bytes by itself."""
    text = data.decode("utf-8", errors="replace")
    gpt2 = tiktoken.get_encoding("gpt2")
    assert gpt2_files.encode(text) == gpt2.encode(text, allowed_special="all")
    assert gpt2_files.encode_word(data) == gpt2._encode_single_piece(data)


@relaxed
@given(OLD_TEXT | TRICKY)
def test_raw_and_fused_agree(everyone, text):
    for tokenizer in everyone:
        if tokenizer.kind == "bpe":
            tokenizer.kernels = "raw"
            raw = tokenizer.encode(text)
            tokenizer.kernels = "fused"
            assert tokenizer.twin and tokenizer.encode(text) == raw
            assert tokenizer.decode(raw) == text


merge_lists = st.lists(st.tuples(st.text("abc", min_size=1, max_size=3),
                                 st.text("abc", min_size=1, max_size=3)), max_size=7)


@relaxed
@given(merge_lists, st.lists(st.text("abc", max_size=12), max_size=8), st.randoms())
def test_merges_made_by_hand(merges, texts, random):
    """Whatever the merges and however their ids are ordered, the default is the written-out way:
    the pair of lowest rank, everywhere from the left, until none is left."""
    merges = list(dict.fromkeys((a.encode(), b.encode()) for a, b in merges))
    tokens = list(dict.fromkeys(t for a, b in merges for t in (a, b, a + b) if len(t) > 1))
    if random.random() < 0.5:
        random.shuffle(tokens)
    tokenizer = BPETokenizer(dict(enumerate([*BYTES.values(), *tokens])), merges)
    for text in texts:
        word = [bytes([b]) for b in text.encode()]
        while found := [pair for pair in merges if pair in zip(word, word[1:])]:
            word = merged(word, found[0])
        ids = [tokenizer.tokens.index(token) for token in word]
        assert tokenizer.encode_written_out(text) == ids == tokenizer.encode(text)


@settings(relaxed, max_examples=400)
@given(st.text("ab", max_size=60) | st.text("aab ", max_size=80)
       | st.text("ab\xe9\xff ", max_size=80))
def test_training_is_recounting(text):
    """Two letters: ties and overlapping pairs abound."""
    counts = tk.count_words([text], regex.compile(tk.PATTERNS["gpt2"]), ())
    assert list(islice(tk.learn_merges(counts), 60)) == list(slow_merges(text, 60))


@relaxed
@given(st.lists(st.text("abc ", max_size=30), max_size=5), st.text("abc ", max_size=30))
def test_what_was_learned_has_a_twin(texts, text):
    """After training, tiktoken's way and ours are the same, on any text."""
    counts = tk.count_words(texts, regex.compile(tk.PATTERNS["gpt2"]), ())
    merges = [(a, b) for a, b, times in tk.learn_merges(counts)]
    tokens = [*BYTES.values(), *(a + b for a, b in merges)]
    tokenizer = BPETokenizer(dict(enumerate(tokens)), merges)
    assert tokenizer.twin and tokenizer.encode(text) == tokenizer.encode_written_out(text)


@relaxed
@given(ANY_TEXT | TRICKY)
def test_text_seen_in_training_comes_back(text):
    for kind in CharTokenizer, WordTokenizer:
        tokenizer = kind.train([text])
        assert tokenizer.decode(tokenizer.encode(text, unknown="raise")) == text


@relaxed
@given(OLD_TEXT | TRICKY, st.integers(1, 9),
       st.sampled_from(["allow", "text"]), st.randoms(use_true_random=False))
def test_a_stream_gives_the_ids_of_the_whole(everyone, text, size, special, random):
    """However the stream is cut up, and however small the chunks it is regrouped into."""
    cuts = sorted(random.randrange(len(text) + 1) for _ in range(random.randrange(20)))
    texts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    small, tk.independent_chunks.__defaults__ = tk.independent_chunks.__defaults__, (size,)
    try:
        for tokenizer in everyone:
            whole = tokenizer.encode(text, special=special)
            assert list(tokenizer.encode_iterable(texts, special=special)) == whole
    finally:
        tk.independent_chunks.__defaults__ = small


@relaxed
@given(st.data())
def test_decoding_anything(everyone, data):
    """Any ids decode, to what Python makes of their bytes; an id out of range is an error."""
    for tokenizer in everyone:
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
        joined = b"".join(map(tokenizer.token_bytes, ids))
        assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids, dtype=np.uint32)) \
            == joined.decode("utf-8", errors="replace")
    for tokenizer in everyone:
        for id in -1, tokenizer.vocab_size:
            with pytest.raises(ValueError, match=f"no token {id} .* of {tokenizer.vocab_size}"):
                tokenizer.decode([0, id])
