"""Preparing a corpus loses nothing and leaks nothing; batches are what they promise to be."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from conftest import TEXT, one_line, run
from data import DataConfig, draw, every_window, load_corpus, prepare, windows_per_epoch

MESSY = ("\ufeffCafe\u0301 fran\u00e7ais,  \r\nl'\u0153uvre\t\r\n\r\n"
         "  indented\u00a0line \n\U0001f44b\n")
CLEAN = "Caf\u00e9 fran\u00e7ais,\nl'\u0153uvre\n\n  indented\u00a0line\n\U0001f44b"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, text):
    Path(name).write_bytes(text.encode("utf-8"))
    return name


def decoded(corpus, split):
    return corpus.tokenizer.decode(getattr(corpus, split).tolist())


def test_normalise_by_hand():
    assert data.normalise(data.decode_utf8("f", MESSY.encode())) == CLEAN
    assert data.normalise(CLEAN) == CLEAN


def test_one_document_is_cut_once_and_decodes_to_the_clean_text():
    write("messy.txt", MESSY * 40)
    corpus = load_corpus(prepare(DataConfig(source=["messy.txt"])))
    clean = data.normalise((MESSY * 40).replace("\ufeffC", "C", 1))
    cut = int(len(clean) * 0.9)
    assert decoded(corpus, "train") == clean[:cut]
    assert decoded(corpus, "val") == clean[cut:]
    assert corpus.meta["val"]["bytes"] == len(clean[cut:].encode())
    assert corpus.meta["val"]["unknown"] == 0


def test_many_documents_are_split_whole():
    Path("folder/deep").mkdir(parents=True)
    texts = [f"document {n}\n" + f"line {n} of the text\n" * 20 for n in range(30)]
    for n, text in enumerate(texts):
        write(f"folder/{'deep/' * (n % 2)}{n}.{'md' if n % 3 else 'txt'}", text)
    write("folder/ignored.png", "not text")
    corpus = load_corpus(prepare(DataConfig(source=["folder"], val_fraction=0.2)))
    train, val = (decoded(corpus, s).split("\n\n") for s in ("train", "val"))
    assert sorted(train + val) == sorted(t.strip("\n") for t in texts)
    assert 3 <= len(val) <= 6 and not set(train) & set(val)


def test_each_play_is_whole_in_one_split():
    corpus = load_corpus(prepare(DataConfig()))
    train, val = decoded(corpus, "train"), decoded(corpus, "val")
    plays = [data.normalise(data.decode_utf8(name, raw)) for name, raw in data.plays()]
    assert len(plays) == 38
    assert all((play in train) + (play in val) == 1 for play in plays)
    assert len(train) + len(val) == sum(map(len, plays)) + 36 * len("\n\n")
    assert 0.08 < len(val) / len(train + val) <= 0.1


def test_prepared_once_by_content_not_by_name():
    folder = prepare(DataConfig(source=[write("a.txt", TEXT)]))
    made = (folder / "train.bin").stat().st_mtime_ns
    assert prepare(DataConfig(source=["a.txt"])) == folder
    assert (folder / "train.bin").stat().st_mtime_ns == made
    Path("a.txt").rename("sub")
    Path("b").mkdir()
    Path("sub").rename("b/a.txt")
    assert prepare(DataConfig(source=["b/a.txt"])) == folder        # moved: the same text
    assert prepare(DataConfig(source=["b/a.txt"], val_fraction=0.2)) != folder
    write("b/a.txt", TEXT.replace("green", "brown"))
    assert prepare(DataConfig(source=["b/a.txt"])) != folder        # edited under the same name


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_every_tokenizer_gives_the_text_back(kind):
    """Separators aside, and words that only the validation split has."""
    special_as_text = "" if kind == "word" else "<|endoftext|>"
    texts = [f"one two\n\nthree {special_as_text}", "four \U0001f44b", "five one"]
    for n, text in enumerate(texts * 4):
        write(f"{n}.txt", text + f" {n} " + "one two three four five\n" * 9)
    config = DataConfig(source=[f"{n}.txt" for n in range(12)], tokenizer=kind, vocab_size=300)
    corpus = load_corpus(prepare(config))
    documents = [data.normalise(Path(f"{n}.txt").read_text()) for n in range(12)]
    between = corpus.tokenizer.decode(corpus.tokenizer.separator)
    assert between == ("\n\n" if kind == "char" else "<|endoftext|>")
    train, val = data.split(documents, 0.1, 1)
    assert decoded(corpus, "train") == between.join(train)
    if corpus.tokenizer.eot is not None:        # one between two documents, none inside them
        assert corpus.train.tolist().count(corpus.tokenizer.eot) == len(train) - 1
    assert corpus.meta["train"]["bytes"] == sum(len(text.encode()) for text in train)
    if kind != "word":
        assert decoded(corpus, "val") == between.join(val)
    else:
        assert corpus.meta["val"]["unknown"] == decoded(corpus, "val").count("\ufffd") > 0


def test_a_failed_preparation_leaves_nothing(monkeypatch):
    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(data, "store", fail)
    with pytest.raises(OSError):
        prepare(DataConfig(source=[write("a.txt", TEXT)]))
    assert list(Path("corpora").iterdir()) == []


def test_damaged_corpus_is_refused():
    folder = prepare(DataConfig(source=[write("a.txt", TEXT)]))
    with open(folder / "val.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="val.bin is not as long"):
        load_corpus(folder)
    (folder / "val.bin").unlink()
    with pytest.raises(ValueError, match="not a whole corpus"):
        load_corpus(folder)


@pytest.mark.parametrize("make, says", [
    (lambda: "nowhere.txt", "no file or folder"),
    (lambda: "shakespere", "did you mean 'shakespeare'"),
    (lambda: write("empty.txt", ""), "no text"),
    (lambda: write("blank.txt", " \n\n \t\n"), "no text"),
    (lambda: write("short.txt", "To be."), "one window takes 129"),
    (lambda: Path("latin1.txt").write_bytes("caf\u00e9".encode("latin-1")) and "latin1.txt",
     "0xe9 at offset 3 is not UTF-8"),
    (lambda: Path("bare").mkdir() or "bare", "no .md or .txt file"),
])
def test_bad_sources_are_one_line(make, says, tmp_path):
    with pytest.raises(ValueError, match=says) as error:
        load_corpus(prepare(DataConfig(source=[make()])), 128)
    assert "\n" not in str(error.value)


def tokens(n):
    return np.arange(n, dtype=np.uint16)


def test_targets_are_one_token_later():
    ids, targets = draw(tokens(1000), 5, 16, seed=1, step=3)
    assert ids.shape == targets.shape == (5, 16) and ids.dtype == torch.int64
    assert torch.equal(ids + 1, targets)


def test_a_batch_depends_on_seed_and_step_alone():
    first = [draw(tokens(1000), 5, 16, seed=1, step=s)[0] for s in range(40)]
    again = [draw(tokens(1000), 5, 16, seed=1, step=s)[0] for s in reversed(range(40))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again)))
    assert not torch.equal(first[0], draw(tokens(1000), 5, 16, seed=2, step=0)[0])


@pytest.mark.parametrize("n, T", [(1000, 16), (33, 16), (17, 16), (100, 7), (2, 1)])
def test_an_epoch_uses_each_window_once_and_starts_elsewhere_each_time(n, T):
    n_windows = windows_per_epoch(n, T)
    ids = torch.cat([draw(tokens(n), 1, T, seed=1, step=s)[1] for s in range(8 * n_windows)])
    starts = []
    for epoch in ids.view(8, n_windows, T):
        used = epoch.flatten().tolist()
        assert len(set(used)) == len(used)              # no token is asked for twice
        assert sorted(used) == list(range(min(used), max(used) + 1))    # nor left out between
        assert max(used) < n and len(used) >= min(n - 1, n - 2 * T)
        starts.append(min(used))
    assert len(set(starts)) > 1 or n_windows * T == n - 1


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_what_the_ranks_draw_together_is_the_batch(ranks, accumulation):
    """At steps within an epoch and across two: 1,000 tokens are 61 windows of 16."""
    for step in range(8):
        whole = draw(tokens(1000), 16, 16, seed=1, step=step)
        parts = [draw(tokens(1000), 16, 16, 1, step, a * ranks + r, ranks * accumulation)
                 for a in range(accumulation) for r in range(ranks)]
        assert torch.equal(torch.cat([ids for ids, _ in parts]), whole[0])
        assert torch.equal(torch.cat([targets for _, targets in parts]), whole[1])


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="batch of 6 windows cannot be cut into 4 equal parts"):
        draw(tokens(1000), 6, 16, seed=1, step=0, part=0, parts=4)


def test_a_batch_may_span_epochs():
    ids, _ = draw(tokens(50), 40, 16, seed=1, step=0)
    single = torch.cat([draw(tokens(50), 1, 16, seed=1, step=s)[0] for s in range(40)])
    assert torch.equal(ids, single)


@pytest.mark.parametrize("n, T, B", [
    (1000, 16, 4), (17, 16, 4), (18, 16, 4), (64, 16, 1), (5, 16, 2)])
def test_validation_asks_for_each_token_once_in_order(n, T, B):
    batches = list(every_window(tokens(n), B, T))
    assert torch.cat([y.flatten() for _, y in batches]).tolist() == list(range(1, n))
    assert torch.cat([x.flatten() for x, _ in batches]).tolist() == list(range(n - 1))
    assert all(x.shape[0] <= B and x.shape[1] <= T for x, _ in batches)


def test_the_script_describes_and_reuses(tmp_path):
    write("notes.txt", TEXT)
    first, _ = run("data.py", "--source", "notes.txt", cwd=tmp_path)
    assert "green bottle" in first and "tokens per byte" in first
    assert run("data.py", "--source", "notes.txt", cwd=tmp_path)[0] == first
    meta, = Path("corpora").glob("*/meta.json")
    assert json.loads(meta.read_text())["train"]["documents"] == 1


def test_unknown_flags_name_the_near_one(tmp_path):
    assert "--source" in one_line("data.py", "--sorce", "x", cwd=tmp_path)
    assert "choose char, word" in one_line("data.py", "--tokenizer", "chars", cwd=tmp_path)
    assert "val_fraction" in one_line("data.py", "--val-fraction", "2", cwd=tmp_path)


def test_a_bool_is_two_flags(monkeypatch):
    from model import GPTConfig
    parser = data.Parser("")
    data.add_flags(parser, GPTConfig)
    monkeypatch.setattr("sys.argv", ["x", "--no-qk-norm", "--bias", "--n-head", "3"])
    assert data.chosen(parser.parse_args(), GPTConfig) == {"qk_norm": False, "bias": True,
                                                           "n_head": 3}
