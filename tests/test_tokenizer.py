"""Tokenizers, held against what we did not write, or against the slowest way of saying the same."""
import json
import os
from collections import Counter

import pytest
import regex
import tiktoken

import tokenizer as tk
from conftest import SHARED, TEXT, call, example, given, one_line, st
from tokenizer import EOT, BPETokenizer, CharTokenizer, WordTokenizer

CACHE = SHARED / "tiktoken_cache"
if CACHE.is_dir():
    os.environ["TIKTOKEN_CACHE_DIR"] = str(CACHE)
SAMPLES = """It's a truth universally acknowledged, they'll've seen 1,234.56 things!<|endoftext|>\r
Aujourd'hui l'élève d'aujourd’hui a reçu « vingt-deux » œufs, o'er e\u0301te\u0301… où ça?
你好,世界。第3章\tمرحبا، كيف حالُك؟ ١٢٣ नमस्ते क्षत्रिय १२३ 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷 ok☺️
def f(x):\n\t\treturn x**2  # why\n\n\n   y = {'a': 22}  \x00\x1c\x85\xa0\u2028\u200b\ufeffſ's 'S"""
LEARNED = [kind.train([SAMPLES * 3 + "the thing that the others thought of; there they are. " * 20])
           for kind in (CharTokenizer, WordTokenizer, BPETokenizer)]
BPE = [LEARNED[2], *([tk.build("gpt2")] if CACHE.is_dir() else [])]
TRICKY = st.lists(st.sampled_from([*"abé \n\r\t'’sl12,.!中/_-", EOT, "'ll", "  ", "\u0301"]),
                  max_size=60).map("".join)
# Characters assigned long ago: the regular expressions of Python and of tiktoken both know them.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60) | TRICKY


def test_merges_by_hand():
    """Sennrich's words. Of the pairs that are equally frequent, the older is merged first."""
    texts = ["low"] * 5 + ["lower"] * 2 + ["widest"] * 3 + ["newest"] * 6
    tokenizer = BPETokenizer.train(texts, 1000)
    assert [token.decode() for token in tokenizer.vocab[256:]] == [
        *"es est lo low ew new newest dest idest widest er lower".split(), EOT]
    assert (tokenizer.vocab_size, tokenizer.eot) == (269, 268)
    assert tokenizer.encode("lowest newer") == [259, 257, 32, 261, 266]


@given(st.dictionaries(st.text("ab", max_size=20) | st.text("abé ", max_size=20),   # ties abound
                       st.integers(1, 9), max_size=8))
def test_learning_is_counting_all_pairs_again_and_again(word_counts):
    words = [(list(word.encode()), n) for word, n in word_counts.items()]
    for new, learned in enumerate(tk.learn_merges(word_counts), start=256):
        counts = Counter(pair for ids, n in words for pair in [*zip(ids, ids[1:])] * n)
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        assert learned == (best, counts[best])
        for ids, _ in words:
            for i in range(len(ids)):
                if tuple(ids[i:i + 2]) == best:
                    ids[i:i + 2] = [new]
    assert all(len(ids) <= 1 for ids, _ in words)           # until no pair is left


def test_hugging_face_learns_and_encodes_the_same():
    hf, path = pytest.importorskip("tokenizers"), SHARED / "tinyshakespeare.txt"
    text = (path.read_text(encoding="utf-8") if path.exists() else TEXT * 9)[:100_000]  # ASCII
    theirs = hf.Tokenizer(hf.models.BPE())
    theirs.pre_tokenizer = hf.pre_tokenizers.Split(hf.Regex(tk.GPT2_PATTERN), "isolated")
    theirs.train_from_iterator([text], hf.trainers.BpeTrainer(
        vocab_size=799, initial_alphabet=list(map(chr, range(256))), show_progress=False))
    ours, vocab = BPETokenizer.train([text], 800), theirs.get_vocab()
    assert [t.decode("latin-1") for t in ours.vocab[:-1]] == sorted(vocab, key=vocab.get)
    assert ours.encode(text) == theirs.encode(text).ids


@given(TEXTS, st.binary(min_size=1, max_size=40), st.lists(st.text("abc ", max_size=40)))
@example(SAMPLES, b"\xff" * 120 + b"the thing \xe4\xbd", [])    # tiktoken has two ways: from 100 on
@example("", EOT.encode(), [])
def test_any_text_is_encoded_word_by_word_or_in_pieces_and_comes_back(text, odd, texts):
    learned = [BPETokenizer.train(texts), CharTokenizer.train([text]), WordTokenizer.train([text])]
    for tokenizer in (*BPE, learned[0]):
        for words in (text, *texts):
            assert tokenizer.encode(words) == [
                i for word in regex.findall(tokenizer.pattern, words)
                for i in tokenizer.encode_word(word.encode())]
        assert tokenizer.encode_word(odd) == tokenizer.tiktoken._encode_single_piece(odd)
        assert tokenizer.decode(tokenizer.encode_word(odd)) == odd.decode(errors="replace")
    for gpt2 in BPE[1:]:
        assert regex.findall(gpt2.pattern, text) == regex.findall(tk.GPT2_PATTERN, text)
        assert gpt2.encode(text) == tiktoken.get_encoding("gpt2").encode_ordinary(text)
    for tokenizer in (*learned, *BPE):
        ids, special = tokenizer.encode(text), {tokenizer.eot, getattr(tokenizer, "unk", -1)}
        assert tokenizer.decode(ids) == text and tokenizer.decode([tokenizer.eot]) == EOT
        assert not special & set(ids)                       # though EOT was typed
        for cut in (match.start() for match in tk.BOUNDARY.finditer(text)):
            assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == ids


def test_characters_and_words_by_hand():
    chars = CharTokenizer.train(["hello\n", "naïve lh"])
    assert b"".join(chars.vocab[2:]).decode() == "leh\n anovï"          # by count, then by code
    assert (chars.vocab_size, chars.eot, chars.unk) == (12, 1, 0)
    assert chars.encode("hex") == [4, 3, 0] and chars.decode([4, 3, 0]) == "he\ufffd"
    assert CharTokenizer.train(["hello\n", "naïve lh"], 5).vocab[2:] == [b"l", b"e", b"h"]
    text = "L'élève| |d'aujourd’hui|:| |o'er| |42|a| | |(|'|tis|)| |e\u0301te\u0301|\n"
    words = WordTokenizer.train([text.replace("|", "")])
    found = [words.vocab[i].decode() for i in words.encode(text.replace("|", ""))]
    assert found == text.split("|") and words.decode(words.encode("o'er 43")) == "o'er \ufffd"


def test_text_is_cut_where_it_can_be_and_a_million_spaces_all_the_same():
    assert list(tk.chunks("one, two three", 2)) == ["one", ", two", " three"]
    assert list(tk.chunks("o'er" + " " * 5, 1)) == ["o'e", "r", "   ", "  "]
    for tokenizer in BPE:
        for text in (" " * 1_000_000 + "x", "中" * 200_000):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode(SAMPLES * 300) == tokenizer.tiktoken.encode_ordinary(SAMPLES * 300)


def test_saved_and_loaded_it_is_the_same_and_a_person_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: pytest.fail("asked the network"))
    path, text = tmp_path / "tokenizer.json", SAMPLES + "unseen: 42 œ"
    for tokenizer in LEARNED + BPE[1:]:
        tokenizer.save(path)
        for again in (tk.load(path), tk.build(str(path))):
            assert type(again) is type(tokenizer) and again.encode(text) == tokenizer.encode(text)
            assert (again.kind, again.vocab) == (tokenizer.kind, tokenizer.vocab)
    for tokenizer, shown in ((CharTokenizer(["é"]), '"é"'), (LEARNED[2], '\n  " the",\n')):
        tokenizer.save(path)
        assert shown in path.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == [path.name]


def test_a_damaged_file_is_one_error_that_names_it(tmp_path):
    path = tmp_path / "tokenizer.json"
    LEARNED[2].save(path)
    whole = path.read_text(encoding="utf-8")
    vocab = json.loads(whole)["vocab"]
    damaged = [[], {}, None, 3, {"kind": "char", "symbols": 5}, {"kind": "word", "symbols": [1]}]
    damaged += [json.loads(whole) | fields for fields in (
        {"vocab": 5}, {"vocab": vocab[:300]}, {"vocab": [*vocab, 1]}, {"vocab": ["你", *vocab]},
        {"kind": "word"}, {"pattern": "("}, {"vocab": vocab[100:]})]
    for text in ["", whole[:999], "[" * 99_999, "\xff" + whole, *map(json.dumps, damaged)]:
        path.write_bytes(text.encode("latin-1", "replace"))
        with pytest.raises(ValueError, match="tokenizer.json holds no tokenizer, or a dam") as said:
            tk.load(path)
        assert "\n" not in str(said.value) and len(str(said.value)) < 300


def test_the_script_and_what_it_says_of_mistakes(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("hug hug hug pug pug bun")
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: open("no/network"))
    code, said, error = call("tokenizer.py", "hugs €", "--file=a.txt", "--merges=2", cwd=tmp_path)
    for shown in ("bpe (258): 7 tokens h·ug·s· ·\\xe2·\\x82·\\xac", "char (9): 6 tokens h·u·g",
                  "bpe (259): 6 tokens hug·s·"):
        assert shown in " ".join(said.split())
    assert code == 2 and "gpt2 cannot be downloaded" in error and "TIKTOKEN_CACHE_DIR" in error
    for name, size, says in (("bpe", 256, "vocab_size is 256"), ("gpt5", 0, "'gpt5'.*char, word")):
        with pytest.raises(ValueError, match=says):
            tk.build(name, ["to be"], size)
    assert "none.txt" in one_line("tokenizer.py", "--file", "none.txt", cwd=tmp_path)


@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("full"), KeyboardInterrupt()])
def test_the_old_file_stays_when_writing_fails(tmp_path, error):
    def fail(file):
        file.write(b"half")
        raise error

    path = tmp_path / "a.txt"
    tk.write_whole(path, lambda file: file.write(b"old"))
    with pytest.raises((KeyboardInterrupt, OSError)):
        tk.write_whole(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
