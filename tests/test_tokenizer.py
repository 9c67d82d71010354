"""
What tokenizer.py promises, held against things we did not write: tiktoken's ids, GPT-2's own
files, and, where there is nothing else, the slowest and plainest way of saying the same.
"""
import io
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken

import tokenizer as tk
from conftest import ROOT, SHARED
from tokenizer import EOT, BPETokenizer, CharTokenizer, PublishedTokenizer, WordTokenizer

CACHE = SHARED / "tiktoken_cache"
if CACHE.is_dir():
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(CACHE))
CACHE = Path(os.environ.get("TIKTOKEN_CACHE_DIR", CACHE))
VOCAB_BPE = CACHE / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"      # names tiktoken gives them
ENCODER_JSON = CACHE / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"
needs_gpt2 = pytest.mark.skipif(not VOCAB_BPE.exists(), reason="GPT-2's files are not here")

BYTES = {byte: bytes([byte]) for byte in range(256)}
SAMPLES = {
    "english": "It's a truth universally acknowledged, that they'll've seen 1,234.56 things!\n",
    "french": "Aujourd'hui l'élève a reçu « vingt-deux » œufs, ça alors… où ça?",
    "chinese": "你好,世界。人工智能正在改變我們的生活!第3章",
    "arabic": "مرحبا بالعالم، كيف حالُك؟ ١٢٣",
    "hindi": "नमस्ते दुनिया, क्षत्रिय ज्ञान १२३",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷 ok☺️",
    "code": "def f(x):\n    if x:\n\t\treturn x**2  # why\n\n\n    y = {'a': [1, 22, 333]}\n",
    "crlf": "one\r\ntwo\r\n\r\n  three \r four\n\r\n",
    "spaces": " " * 10_000,
    "spaces then a word": "a" + " " * 10_000 + "b",
    "empty": "",
    "odd": "\x00\x1c\x85\u00a0\u2028\u200b\ufeffſ's 'S 'LL 'ſ\U0010ffff",
}

@pytest.fixture(scope="module")
def gpt2_files():
    """GPT-2's own vocabulary and merges, in its own spelling, through our constructor."""
    ids = json.loads(ENCODER_JSON.read_text(encoding="utf-8"))
    merges = VOCAB_BPE.read_text(encoding="utf-8").splitlines()[1:]
    return BPETokenizer({i: tk.unspell(token)[0] for token, i in ids.items()},
                        list(map(tk.unspell, merges)), [EOT])


CORPUS = "".join(SAMPLES[name] * 3 for name in SAMPLES if "spaces" not in name) + (
    "the thing that the others thought of, then; there they are: o'er the hills, isn't it? " * 20)


@pytest.fixture(scope="module")
def trained():
    return BPETokenizer.train([CORPUS], 700, ["<|endoftext|>", "<|end"], progress=False)


@pytest.fixture(scope="module")
def everyone(trained):
    kinds = [CharTokenizer.train([CORPUS]), WordTokenizer.train([CORPUS]), trained,
             BPETokenizer.train([CORPUS], 500, pattern="gpt4", progress=False)]
    return kinds + ([PublishedTokenizer("gpt2")] if VOCAB_BPE.exists() else [])


# ------------------------------------------------------------------------------------------
# Byte pairs: encoding, against tiktoken.


@needs_gpt2
@pytest.mark.parametrize("name", SAMPLES)
def test_gpt2_ids(gpt2_files, name):
    """Built from GPT-2's files, both paths give tiktoken's ids; so does the published one."""
    theirs = tiktoken.get_encoding("gpt2").encode(SAMPLES[name])
    gpt2_files.kernels = "raw"
    assert gpt2_files.encode(SAMPLES[name]) == theirs
    gpt2_files.kernels = "fused"
    assert gpt2_files.encode(SAMPLES[name]) == theirs
    assert PublishedTokenizer("gpt2").encode(SAMPLES[name]) == theirs
    assert gpt2_files.decode(theirs) == SAMPLES[name]


def test_the_twin_is_the_default(trained, monkeypatch):
    fresh = BPETokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")])
    monkeypatch.setattr(BPETokenizer, "encode_written_out",
                        lambda *args: pytest.fail("the slow path ran"))
    assert fresh.kernels == "fused" and fresh.encode("abab") == [256, 256]


@pytest.mark.parametrize("merges, ids, has_twin", [
    # tiktoken would join "ab" + "c" because "abc" is a token; no merge says so
    ([(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")], [256, 257, 258], True),
    ([(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")], [256, 257, 258], False),
    # the same merges, but ids in another order: tiktoken would take them for the ranks
    ([(b"a", b"b"), (b"b", b"c")], [257, 256], False),
    # "ab" + "a" before "a" + "b": all "ab" are merged at once here, one by one there
    ([(b"ab", b"a"), (b"a", b"b")], [256, 257], False)])
def test_when_there_is_a_twin(merges, ids, has_twin):
    vocab = BYTES | {id: a + b for id, (a, b) in zip(ids, merges)}
    tokenizer = BPETokenizer(vocab, merges)
    assert (tokenizer.twin is not None) == has_twin
    for text in ("abc", "abab", "bcabcab", "aabbcc"):
        assert tokenizer.encode(text) == tokenizer.encode_written_out(text)


def test_a_merge_given_twice_counts_once():
    tokenizer = BPETokenizer(BYTES | {256: b"ab", 257: b"bc"},
                             [(b"a", b"b"), (b"a", b"b"), (b"b", b"c")])
    assert tokenizer.merges == [(b"a", b"b"), (b"b", b"c")]
    assert tokenizer.encode("abcbc") == tokenizer.encode_written_out("abcbc") == [256, 99, 257]


def test_how_gpt4_splits():
    """By the rules OpenAI published: contractions in any case, digits by threes, white space
    before a line's end with it, one symbol before a word with the word."""
    words = ["it", "'LL", " cost", " ", "123", "456", "7", "!!\n\n", "  \r\n", "  ", " (", "so",
             " many", "$euros", "\n", " "]
    assert regex.findall(tk.PATTERNS["gpt4"], "".join(words)) == words


def test_special_tokens_can_come_first():
    vocab = {0: EOT.encode()} | {id + 1: token for id, token in BYTES.items()} | {257: b"ab"}
    tokenizer = BPETokenizer(vocab, [(b"a", b"b")], [EOT])
    assert tokenizer.vocab_size == 258 and tokenizer.eot == 0 and tokenizer.twin
    assert tokenizer.encode_written_out("ab") == [257]
    assert tokenizer.encode(f"ab{EOT}b") == [257, 0, 99]


@pytest.mark.parametrize("text", ["a" * 1_000_000, " " * 1_000_000, "\n" * 1_000_000 + "x",
                                  "中" * 300_000, " a" * 300_000])
def test_very_long_runs(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text and ids == trained.encode_written_out(text)


@needs_gpt2
def test_too_much_space_for_tiktoken():
    gpt2 = PublishedTokenizer("gpt2")
    assert gpt2.decode(gpt2.encode("a" + " " * 200_000 + "b")) == "a" + " " * 200_000 + "b"
    with pytest.raises(ValueError, match="white space"):
        gpt2.encode("a" + " " * 1_100_000 + "b")


# ------------------------------------------------------------------------------------------
# Byte pairs: training, by hand and against recounting everything.


def merged(word, pair):
    out, i = [], 0
    while i < len(word):
        joins = tuple(word[i:i + 2]) == pair
        out.append(word[i] + word[i + 1] if joins else word[i])
        i += 2 if joins else 1
    return out


def slow_merges(text, n, pattern="gpt2"):
    """The definition: count every pair of the whole text, merge the best one, and again."""
    words = [[bytes([b]) for b in w.encode()] for w in regex.findall(tk.PATTERNS[pattern], text)]
    for _ in range(n):
        counts = Counter(pair for word in words for pair in zip(word, word[1:]))
        if not counts:
            return
        pair = max(counts, key=lambda pair: (counts[pair], pair))
        yield *pair, counts[pair]
        words = [merged(word, pair) for word in words]


def test_training_by_hand():
    """low ×5, lower ×2, widest ×3, newest ×6, each alone in its text, so without a space.

    At first the pairs are, with their counts:
      l o 7, o w 7, w e 2+6 = 8, e r 2, w i 3, i d 3, d e 3, e s 9, s t 9, n e 6, e w 6
    """
    texts = ["low"] * 5 + ["lower"] * 2 + ["widest"] * 3 + ["newest"] * 6
    expected = [
        (b"s", b"t", 9),        # s t and e s have 9: (s, t) is the greater
        (b"e", b"st", 9),       # which took s from e: e st has its 9
        (b"o", b"w", 7),        # l o, o w have 7: o is greater. w e was 8, is 2: newest has w est
        (b"l", b"ow", 7),
        (b"w", b"est", 6),      # n e, e w, w est have 6
        (b"n", b"e", 6),        # n e, e west: n is greater
        (b"ne", b"west", 6),    # newest is one token
        (b"w", b"i", 3),        # w i, i d, d est have 3
        (b"wi", b"d", 3),       # wi d, d est: wi is greater
        (b"wid", b"est", 3),    # widest is one token
        (b"low", b"e", 2),      # low e, e r have 2: low is greater
        (b"lowe", b"r", 2),     # nothing is left
    ]
    counts = tk.count_words(texts, regex.compile(tk.PATTERNS["gpt2"]), ())
    assert list(tk.learn_merges(counts)) == expected
    tokenizer = BPETokenizer.train(texts, 256 + 12 + 1, progress=False)
    assert tokenizer.merges == [(left, right) for left, right, times in expected]
    assert tokenizer.tokens[256:] == [a + b for a, b, times in expected] + [EOT.encode()]
    assert tokenizer.encode("lowest newer" + EOT) == [259, 257, 32, 261, 119, 101, 114, 268]


def test_a_prefix_ties_with_what_it_begins():
    """b"ab" is greater than b"a", as bytes compare: so with equal counts "ab"+"x" is first."""
    counts = {"abx": 2, "ac": 2}
    assert [pair for *pair, times in tk.learn_merges(counts)] == [
        [b"b", b"x"], [b"a", b"c"], [b"a", b"bx"]]
    text = "ab" * 9 + " " + "abz aay " * 4 + "abaz " * 4
    assert list(islice(tk.learn_merges(Counter(regex.findall(tk.PATTERNS["gpt2"], text))), 30)) == \
        list(slow_merges(text, 30))


def test_training_on_real_text():
    corpus = tk.plays()[0][:30_000]
    tokenizer = BPETokenizer.train([corpus], 400, progress=False)
    assert tokenizer.merges == [(a, b) for a, b, times in slow_merges(corpus, 143)]
    gpt4 = BPETokenizer.train([corpus], 300, pattern="gpt4", progress=False)
    assert gpt4.merges == [(a, b) for a, b, times in slow_merges(corpus, 43, "gpt4")]


def test_training_never_sees_special_tokens():
    clean = BPETokenizer.train(["one two", " three one two"], 270, progress=False)
    mixed = BPETokenizer.train([f"one two{EOT} three one two"], 270, progress=False)
    assert mixed.merges == clean.merges and EOT.encode() == mixed.tokens[-1]


def test_training_stops_early_and_says_so(capsys):
    tokenizer = BPETokenizer.train(["aaaa"], 1000, progress=False)
    assert tokenizer.merges == [(b"a", b"a"), (b"aa", b"aa")] and tokenizer.vocab_size == 259
    assert "stopped after 2 merges of 743" in capsys.readouterr().err
    with pytest.raises(ValueError, match="vocab_size 256 is too small"):
        BPETokenizer.train(["aaaa"], 256)


def test_training_reads_a_stream_once():
    texts = (line for line in io.StringIO("to be or not\nto be\n" * 50))
    assert BPETokenizer.train(texts, 262, progress=False).vocab_size == 262


@pytest.mark.parametrize("vocab, merges, specials, pattern, message", [
    ({0: b"a"}, [], None, "gpt2", "lacks b'\\\\x00'"),
    (BYTES, [(b"a", b"b")], None, "gpt2", "lacks b'ab'"),
    (BYTES | {257: b"ab"}, [], None, "gpt2", "0, 1, 2"),
    (BYTES | {256: b"a"}, [], None, "gpt2", "twice"),
    (BYTES, [], [""], "gpt2", "empty"),
    (BYTES, [], None, "gpt3", "gpt2 or gpt4")])
def test_vocabularies_that_cannot_be(vocab, merges, specials, pattern, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer(vocab, merges, specials, pattern)


# ------------------------------------------------------------------------------------------
# Characters and words.


def test_characters():
    tokenizer = CharTokenizer.train(["hello\n", "naïve\t🙂"])
    assert tokenizer.alphabet == "\t\naehlnovï🙂" and tokenizer.vocab_size == 12
    assert tokenizer.encode("hello") == [5, 4, 6, 6, 8]
    assert tokenizer.encode("hex") == [5, 4, 0] and tokenizer.decode([5, 4, 0]) == "he\ufffd"
    with pytest.raises(ValueError, match="'x' at position 2"):
        tokenizer.encode("hexx", unknown="raise")
    assert tokenizer.encode("hell", unknown="raise") == [5, 4, 6, 6]
    assert tokenizer.separator == [2, 2] and tokenizer.eot is None
    assert CharTokenizer.train(["ab"]).separator == []


@pytest.mark.parametrize("kind, expected", [(CharTokenizer, ["b", "c"]),
                                            (WordTokenizer, ["c", "b"])])
def test_the_most_frequent_are_kept(kind, expected):
    reserved = 1 if kind is CharTokenizer else 2
    tokenizer = kind.train(["c,c,c,b,b,a".replace(",", "")] if kind is CharTokenizer
                           else ["c", "c", "c", "b", "b", "a"], reserved + 2)
    assert tokenizer.vocab_size == reserved + 2
    assert [tokenizer.token_bytes(id).decode() for id in (reserved, reserved + 1)] == expected
    with pytest.raises(ValueError, match="too small"):
        kind.train(["abc"], reserved)


def test_words():
    text = "L'élève d'aujourd’hui: o'er 42 rocks  ('tis) e\u0301te\u0301"
    tokenizer = WordTokenizer.train([text])
    assert tk.pieces(tokenizer, tokenizer.encode(text)) == [
        "L'élève", " ", "d'aujourd’hui", ":", " ", "o'er", " ", "42", " ", "rocks", " ", " ", "(",
        "'", "tis", ")", " ", "e\u0301te\u0301"]
    assert tokenizer.encode(f" rocks{EOT}roll") == tokenizer.encode(" rocks") + [1, 0]
    assert tokenizer.unknown_share("rocks and 42 and o'er") == 2 / 9
    with pytest.raises(ValueError, match=f"'roll' at position {9 + len(EOT)} is not"):
        tokenizer.encode(f"rocks 42 {EOT}roll", unknown="raise")


# ------------------------------------------------------------------------------------------
# All of them.


def test_special_tokens_allowed_refused_or_text(everyone):
    for tokenizer in everyone:
        text = f"the{EOT}thing"
        if tokenizer.eot is not None:
            allowed = tokenizer.encode("the") + [tokenizer.eot] + tokenizer.encode("thing")
            assert tokenizer.encode(text) == allowed and tokenizer.separator == [tokenizer.eot]
            with pytest.raises(ValueError, match=regex.escape(EOT)):
                tokenizer.encode(text, special="refuse")
            assert tokenizer.eot not in tokenizer.encode(text, special="text")
            assert tokenizer.decode(allowed) == text
        assert tokenizer.encode("the", special="refuse") == tokenizer.encode("the")
        with pytest.raises(ValueError, match="'perhaps'"):
            tokenizer.encode(text, special="perhaps")


def test_of_two_special_tokens_the_longer(trained):
    longer, shorter = trained.special_ids[EOT], trained.special_ids["<|end"]
    assert trained.encode(f"{EOT}<|end<|endoftext") == [
        longer, shorter, shorter, *trained.encode("oftext")]


def test_a_stream_with_special_tokens_as_text(monkeypatch):
    """Read as text, "<" belongs to the space before it, so it is no place to cut."""
    monkeypatch.setattr(tk.independent_chunks, "__defaults__", (24,))
    tokenizer = BPETokenizer(BYTES | {256: b" <"}, [(b" ", b"<")], [EOT])
    text = f"one two three {EOT} four five six"
    assert 256 in tokenizer.encode(text, special="text")
    for texts in [text], text, [text[:26], text[26:]]:
        for special in "text", "allow":
            whole = tokenizer.encode(text, special=special)
            assert list(tokenizer.encode_iterable(texts, special=special)) == whole


def test_a_stream_of_lines_and_of_blocks(everyone):
    text = (CORPUS + EOT + "one\r\ntwo\n\n\n   three ") * 30
    for tokenizer in everyone:
        whole = tokenizer.encode(text)
        assert list(tokenizer.encode_iterable(io.StringIO(text, newline=""))) == whole
        blocks = [text[i:i + 65536] for i in range(0, len(text), 65536)]
        chunks = list(tokenizer.encode_chunks(blocks))
        assert len(chunks) > 1 and np.concatenate(chunks).tolist() == whole


def test_a_stream_that_cannot_be_cut_is_not_searched_again_and_again(monkeypatch):
    searches = []
    monkeypatch.setattr(tk, "last_cut", lambda text, specials: searches.append(len(text)) or 0)
    assert list(tk.independent_chunks(["x" * 1000] * 1000, (), size=1000)) == ["x" * 1_000_000]
    assert len(searches) < 12


def stream_memory(n_bytes, make_text):
    """Extra megabytes at the peak, in a process of its own: encoding a stream of that size."""
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from tokenizer import BPETokenizer
tokenizer = BPETokenizer.train(["the thing that the others thought of " * 50], 300, progress=False)
tokenizer.encode("warm up")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, text = peak(), {make_text}
n = sum(1 for id in tokenizer.encode_iterable(text for _ in range({n_bytes} // len(text))))
assert n > {n_bytes} // 40
print(peak() - before)"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("make_text", ["'the thing, they thought\\n'", "'x' * 65537 + ' the'"])
def test_a_stream_takes_little_memory(make_text):
    assert stream_memory(8_000_000, make_text) < 15


@pytest.mark.slow
def test_a_long_stream_takes_little_memory():
    assert stream_memory(100_000_000, "'the thing, they thought of it.\\n' * 2000") < 100


def test_lone_surrogates_are_refused(everyone):
    for tokenizer in everyone:
        with pytest.raises(ValueError, match=r"'\\ud83d', at position 3"):
            tokenizer.encode("abc\ud83d")
        with pytest.raises(ValueError, match="lone surrogate"):
            list(tokenizer.encode_iterable(["abc", "\ud83d"]))
    for kind in CharTokenizer, WordTokenizer, BPETokenizer:
        with pytest.raises(ValueError, match="lone surrogate"):
            kind.train(["abc\ud83d"], 300)


def test_pieces_can_be_seen(trained):
    bytewise = BPETokenizer(BYTES, [])
    assert tk.pieces(bytewise, bytewise.encode("a é\n")) == ["a", " ", "\\xc3", "\\xa9", "\\n"]


def test_saved_and_loaded_it_is_the_same(everyone, tmp_path):
    path = tmp_path / "tokenizer.json"
    for tokenizer in everyone:
        tokenizer.save(path)
        assert os.listdir(tmp_path) == ["tokenizer.json"]
        for again in type(tokenizer).load(path), tk.load(path), tk.load(str(path)):
            assert type(again) is type(tokenizer) and again.kind == tokenizer.kind
            assert again.tokens == tokenizer.tokens and again.special_ids == tokenizer.special_ids
            assert again.encode(CORPUS) == tokenizer.encode(CORPUS)
            assert again.separator == tokenizer.separator and again.eot == tokenizer.eot


def test_a_saved_file_can_be_read_by_a_person(tmp_path):
    path = tmp_path / "tokenizer.json"
    BPETokenizer.train([" the" * 9], 260, progress=False).save(path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    assert fields["merges"] == ["t h", "th e", "Ġ the"] and fields["tokens"][256] == "th"
    assert '\n  "Ġthe",\n' in path.read_text(encoding="utf-8")
    tokenizer = BPETokenizer(BYTES, [])
    tokenizer.save(path)
    assert tk.load(path).tokens == [bytes([byte]) for byte in range(256)]


def test_files_that_cannot_be_loaded(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    trained.save(path)
    whole = path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer.json holds .* of kind 'bpe', not char"):
        CharTokenizer.load(path)
    with pytest.raises(ValueError, match="kind 'bpe', not gpt2 or"):
        PublishedTokenizer.load(path)
    fields = json.loads(whole)
    for damaged in ["", whole[:999], "[]", "{}", '{"kind": []}', '{"kind": "bpe"}', "null",
                    '{"kind": "bpe", "tokens": 5}', '{"kind": "char", "alphabet": ["ab"]}',
                    '{"kind": "word", "words": 5}', '{"kind": "new"}', "\ufeff\x00",
                    json.dumps(fields | {"merges": ["a b c"]}),
                    json.dumps(fields | {"merges": [1]}),
                    json.dumps(fields | {"tokens": fields["tokens"][:300]}),
                    json.dumps(fields | {"tokens": fields["tokens"] + ["a"]})]:
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(ValueError, match="tokenizer.json") as error:
            tk.load(path)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        tk.load(tmp_path / "none.json")


def test_build_by_name():
    assert [tk.build(name, ["to be or not"], 300).kind for name in ("char", "word", "bpe")] \
        == ["char", "word", "bpe"]
    with pytest.raises(ValueError, match="'gpt5'"):
        tk.build("gpt5")
    if VOCAB_BPE.exists():
        assert tk.build("gpt2").vocab_size == 50257 and tk.build("gpt2").eot == 50256


# ------------------------------------------------------------------------------------------
# The command line.


def run(*arguments, **environment):
    return subprocess.run([sys.executable, str(ROOT / "tokenizer.py"), *arguments], text=True,
                          capture_output=True, encoding="utf-8", env=os.environ | environment)


def test_main_shows_every_tokenizer(tmp_path):
    offline = {"TIKTOKEN_CACHE_DIR": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = run("the thing, 你", **offline)
    assert done.returncode == 0 and "the· ·thing" in done.stdout
    assert "gpt2 cannot be downloaded" in done.stdout and "Traceback" not in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["char", "85", "12", "1.17"] in rows                 # 14 bytes, 12 characters


def test_main_shows_training(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("hug hug hug pug pug bun")
    done = run("hugs", "--train", str(corpus), "--merges", "3")
    assert done.returncode == 0
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        "6 words, 4 different ones. At first each byte is a token:", "h·u·g·s",
        "1 'u' + 'g' -> 'ug' 5 times, e.g. in ' hug'", "h·ug·s",
        "2 'h' + 'ug' -> 'hug' 3 times, e.g. in ' hug'", "hug·s",
        "3 'p' + 'ug' -> 'pug' 2 times, e.g. in ' pug'"]


@pytest.mark.parametrize("arguments", [
    ("--train", "no such file"), ("--train", str(ROOT)), ("--merges", "0"), ("a\udcff",)])
def test_main_says_what_is_wrong(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and done.stderr.startswith("tokenizer.py: ")
    assert done.stderr.count("\n") == 1
