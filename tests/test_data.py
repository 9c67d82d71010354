"""Preparing a corpus loses nothing, leaks nothing, and is whole or not there at all."""
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import clean
import data
import ingest
import overlap
from conftest import ROOT, TEXT, one_line
from data import DataConfig, load_corpus, prepare

MESSY = ("\ufeffCafe\u0301 fran\u00e7ais,  \r\nl'\u0153uvre\t\r\n\r\n"
         "  indented\u00a0line \n\U0001f44b\n")
CLEAN = "Caf\u00e9 fran\u00e7ais,\nl'\u0153uvre\n\n  indented\u00a0line\n\U0001f44b"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shakespeare(tmp_path_factory):
    """The default corpus, prepared once."""
    here = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("default"))
    corpus = load_corpus(prepare(DataConfig()))
    os.chdir(here)
    return corpus


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return name


def corpus_of(*source, **settings):
    return load_corpus(prepare(DataConfig(source=source, **settings)))


def decoded(corpus, split):
    return corpus.tokenizer.decode(getattr(corpus, split).tolist())


def cleaned(text):
    return "".join(clean.Cleaner(DataConfig().rules()).clean_stream([text]))


def test_normalise_by_hand():
    assert cleaned(MESSY) == cleaned(CLEAN) == CLEAN


# Split.


def test_one_document_is_cut_once_and_decodes_to_the_clean_text():
    corpus = corpus_of(write("messy.txt", MESSY * 40))
    text = cleaned(MESSY * 40)
    cut = int(len(text) * 0.9)
    assert decoded(corpus, "train") == text[:cut]
    assert decoded(corpus, "val") == text[cut:]
    assert corpus.meta["val"]["bytes"] == len(text[cut:].encode())
    assert corpus.meta["train"]["characters"] == cut
    assert corpus.meta["val"]["unknown"] == 0


def test_many_documents_are_split_whole():
    texts = [f"document {n}\n" + f"line {n} of the text\n" * 20 for n in range(30)]
    for n, text in enumerate(texts):
        write(f"folder/{'deep/' * (n % 2)}{n}.{'md' if n % 3 else 'txt'}", text)
    write("folder/ignored.png", "not text")
    corpus = corpus_of("folder", val_fraction=0.2)
    train, val = (decoded(corpus, s).split("\n\n") for s in ("train", "val"))
    assert sorted(train + val) == sorted(t.strip("\n") for t in texts)
    assert 3 <= len(val) <= 6 and not set(train) & set(val)
    other = decoded(corpus_of("folder", val_fraction=0.2, split_seed=2), "val").split("\n\n")
    assert other != val


def test_each_play_is_whole_in_one_split(shakespeare):
    train, val = decoded(shakespeare, "train"), decoded(shakespeare, "val")
    plays = [cleaned(path.read_text(encoding="utf-8")) for path in ingest.plays()]
    assert len(plays) == 38
    assert all((play in train) + (play in val) == 1 for play in plays)
    assert len(train) + len(val) == sum(map(len, plays)) + 36 * len("\n\n")
    assert "asked for): 4 whole documents\n\n" in "\n".join(data.describe(shakespeare))
    assert 0.08 < len(val) / len(train + val) <= 0.1


def test_the_default_corpus_is_the_one_that_figures_were_recorded_on(shakespeare):
    assert data.corpus_hash(shakespeare) == [
        "fa5d23be71a207b6219d0b51faaf428764f3eb7ba0fbb9b53896a6e648291bb3",
        "b37b6e21fa385a3dedd39e55227dfd63c8ecd876887aa446c4b7b9804d976fb7"]


def test_a_book_among_notes_gives_its_end_and_the_report_says_so():
    lengths = np.array([1000] * 4 + [1_000_000] + [1000] * 5)
    learned = overlap.split(lengths, 0.1, 1)
    assert learned.tolist() == [0] * 4 + [908_100] + [0] * 5        # 100,900 are a tenth
    for n, length in enumerate(lengths // 20):
        write(f"notes/{n}.txt", (f"note {n}: " * (length // 4))[:length])
    said = "\n".join(data.describe(corpus_of("notes", duplicates=False)))
    assert ("validation is 10.0% of the characters (10.0% was asked for): 9 whole documents and "
            "the end of 1\na document that was cut counts in both rows" in said)


# What is prepared.


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
    assert prepare(DataConfig(source=["b/a.txt"], nfc=False)) != folder
    Path("b/a.txt").rename("b/a.jsonl")
    with pytest.raises(ValueError, match="not JSON"):               # the same, but read otherwise
        prepare(DataConfig(source=["b/a.jsonl"]))
    write("b/a.txt", TEXT.replace("green", "brown"))
    assert prepare(DataConfig(source=["b/a.txt"])) != folder        # edited under the same name


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_every_tokenizer_gives_the_text_back(kind):
    """Separators aside, and words that only the validation split has."""
    special_as_text = "" if kind == "word" else "<|endoftext|>"
    texts = [f"one two\n\nthree {special_as_text}", "four \U0001f44b", "five one"]
    for n, text in enumerate(texts * 4):
        write(f"{n}.txt", text + f" {n} " + "one two three four five\n" * 9)
    corpus = corpus_of(*(f"{n}.txt" for n in range(12)), tokenizer=kind,
                       vocab_size=300 * (kind != "char"))
    documents = [cleaned(Path(f"{n}.txt").read_text()) for n in range(12)]
    between = corpus.tokenizer.decode(corpus.tokenizer.separator)
    assert between == ("\n\n" if kind == "char" else "<|endoftext|>")
    learned = overlap.split([len(text) for text in documents], 0.1, 1)
    train = [text for text, n in zip(documents, learned) if n]
    val = [text for text, n in zip(documents, learned) if not n]
    assert 0 < len(val) < 3 and decoded(corpus, "train") == between.join(train)
    if corpus.tokenizer.eot is not None:        # one between two documents, none inside them
        assert corpus.train.tolist().count(corpus.tokenizer.eot) == len(train) - 1
    assert corpus.meta["train"]["bytes"] == sum(len(text.encode()) for text in train)
    if kind != "word":
        assert decoded(corpus, "val") == between.join(val)
    else:
        assert corpus.meta["val"]["unknown"] == decoded(corpus, "val").count("\ufffd") > 0


def test_lines_of_json_stay_documents_though_none_has_a_line_end():
    write("a.jsonl", "\n".join(json.dumps({"text": f"line {n}"}) for n in range(50)))
    corpus = corpus_of("a.jsonl")
    assert sorted((decoded(corpus, "train") + "\n\n" + decoded(corpus, "val")).split("\n\n")) == \
        sorted(f"line {n}" for n in range(50))


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_the_same_bytes_whatever_the_blocks_and_processes(kind, monkeypatch):
    rng = random.Random(1)
    words = ["d'œuvre", "you", "👋", "the", "thou", "\n", "2024", "<|endoftext|>", "a\u0301"]
    for n in range(9):                          # more than are under way at a time
        write(f"{n}.txt", " ".join(rng.choices(words, k=1500)))
    config = DataConfig(source=[f"{n}.txt" for n in range(9)], tokenizer=kind, vocab_size=0)
    expected = data.corpus_hash(load_corpus(prepare(config)))
    monkeypatch.setattr(data, "CORPORA", Path("others"))
    monkeypatch.setattr(data, "PARALLEL", 0)
    monkeypatch.setattr(data, "n_cores", lambda: 2)
    monkeypatch.setattr(data, "batches_of",
                        lambda texts, of=data.batches_of: of(texts, size=1000))
    for module in (ingest, overlap):
        monkeypatch.setattr(module, "MEGABYTE", 777)
    assert data.corpus_hash(load_corpus(prepare(config))) == expected


def test_of_many_characters_those_are_kept_that_are_frequent_in_training():
    texts = ["abcd" * 50 + "x" * n for n in range(12)]
    for n, text in enumerate(texts):
        write(f"{n}.txt", text)
    learned = overlap.split([len(text) for text in texts], 0.1, 1)
    val, = np.flatnonzero(learned == 0)
    write(f"{val}.txt", "z" * len(texts[val]))              # more than any training character
    corpus = corpus_of(*(f"{n}.txt" for n in range(12)), vocab_size=6)
    assert decoded(corpus, "val") == "\ufffd" * len(texts[val])
    assert set("abcdx") == set(corpus.tokenizer.alphabet)


def test_file_names_are_shown_as_they_are_though_examples_are_masked():
    write("notes/empty.txt", " \n")
    write("notes/full.txt", "Write to anna@example.org. " * 9)
    report = corpus_of("notes", redact=True).meta["cleaned"]
    assert report["empty_documents"]["example"] == "notes/empty.txt"
    assert "anna" not in json.dumps(report) and "xxxx@xxxxxxx.xxx" in report["email"]["example"]


def test_large_ids_take_four_bytes():
    for n, dtype in ((2 ** 16 - 1, np.uint16), (2 ** 16, np.uint32)):
        alphabet = "".join(chr(0x10000 + i) for i in range(n))
        tokens = data.tokenizer.CharTokenizer(alphabet)         # and <unk> makes one more
        ids = data.encode(tokens, [(False, alphabet[-1]), (True, "a")])
        assert ids.dtype == dtype and ids.tolist() == [n, 0]


def test_words_are_learned_from_parts_spread_over_a_large_text(monkeypatch):
    """Of 11 chunks of text, each with a word of its own, every third."""
    write("a.txt", "".join(f"{chr(97 + n // 9000)}words " for n in range(99_000)))
    config = DataConfig(source="a.txt", tokenizer="word", vocab_size=50)
    assert len(load_corpus(prepare(config)).tokenizer.words) == 10 + 1
    monkeypatch.setattr(data, "CORPORA", Path("others"))
    monkeypatch.setattr(data, "LEARN_FROM", 250_000)
    known = load_corpus(prepare(config)).tokenizer.words
    assert {"awords", "jwords"} <= set(known) and len(known) < 10 + 1


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    corpus = corpus_of("-")
    assert decoded(corpus, "train") + decoded(corpus, "val") == TEXT
    assert corpus.folder.name.startswith("stdin-char-")
    recorded = {"folder": str(corpus.folder), "sha256": data.corpus_hash(corpus)}
    assert data.reopen(recorded, corpus.meta["config"]).folder == corpus.folder
    corpus.folder.rename("gone")
    with pytest.raises(ValueError, match="is gone, .* standard input cannot"):
        data.reopen(recorded, corpus.meta["config"])


def test_a_pattern_gives_the_folder_a_name_that_any_system_takes():
    write("x/a b.txt", TEXT)
    assert corpus_of("x/*.txt").folder.name.startswith("text-char-")
    assert corpus_of("x/a b.txt").folder.name.startswith("a_b-char-")


def test_a_file_that_grows_while_it_is_read_is_known_by_what_was_read(monkeypatch):
    """Between the first look and the reading of it, and again while it is read."""
    write("log.txt", TEXT)
    gather = ingest.gather

    def grow_and_gather(*args, **more):
        with open("log.txt", "a") as log:
            log.write("\none line more")
        return gather(*args, **more)

    monkeypatch.setattr(ingest, "gather", grow_and_gather)
    corpus = corpus_of("log.txt")
    monkeypatch.setattr(ingest, "gather", gather)
    assert (decoded(corpus, "train") + decoded(corpus, "val")).endswith("one line more")
    assert prepare(DataConfig(source="log.txt")) == corpus.folder       # found by what it holds
    assert corpus.meta["fingerprint"] == data.fingerprint(
        DataConfig(source="log.txt"), ingest.find(["log.txt"]), [data.sha256("log.txt")])


# Clean, as it is reported.


def test_duplicates_are_dropped_and_reported():
    rng = random.Random(1)
    texts = [" ".join(rng.choices(["row", "your", "boat", "gently", "down"], k=200))
             for _ in range(20)]
    near = texts[3].replace("gently", "Gently", 1) + " the end"
    write("a.jsonl", "\n".join(json.dumps({"text": t})
                               for t in [*texts, texts[5] + " \n", "", near]))
    corpus = corpus_of("a.jsonl")
    assert corpus.meta["train"]["documents"] + corpus.meta["val"]["documents"] == 21
    report = corpus.meta["cleaned"]
    assert report["duplicates"] == {"count": 1, "example": texts[5][:60]}
    assert report["empty_documents"] == {"count": 1, "example": "a.jsonl, line 22"}
    assert "near_duplicates" not in report
    corpus = corpus_of("a.jsonl", near_duplicates=True)
    assert corpus.meta["cleaned"]["near_duplicates"]["count"] == 1
    assert corpus.meta["cleaned"]["near_duplicates"]["example"] == near[:60]
    assert near not in decoded(corpus, "train") + decoded(corpus, "val")
    corpus = corpus_of("a.jsonl", duplicates=False)
    assert corpus.meta["train"]["documents"] + corpus.meta["val"]["documents"] == 22


def test_what_is_redacted_is_nowhere_in_the_folder():
    lines = [f"{n}: anna{n}@example.org, 192.0.2.{n}, costs 1,234.{n:02}" for n in range(90)]
    corpus = corpus_of(write("a.txt", "\n".join(lines)), redact=True, redact_except=["ip"])
    assert corpus.meta["cleaned"]["email"]["count"] == 90
    assert "ip" not in corpus.meta["cleaned"]
    assert "switched off: mojibake, ip, boilerplate" in "\n".join(data.describe(corpus))
    text = decoded(corpus, "train")
    assert text.startswith("0: [EMAIL], 192.0.2.0, costs 1,234.00\n")
    for path in corpus.folder.iterdir():
        assert b"anna" not in path.read_bytes() and b"example.org" not in path.read_bytes()


@pytest.mark.parametrize("name", ["control_characters", "blank_lines", "nfc", "trailing_spaces",
                                  "line_ends", "mojibake", "boilerplate"])
def test_every_rule_has_its_switch(name):
    mess = ("a\x07b\n\n\n\n\n\n\nCafe\u0301 \r\ncafÃ©\n" + "Copyright by the author\n" * 9) * 9
    on, off = (corpus_of(write("a.txt", mess), **{name: value}) for value in (True, False))
    assert on.meta["cleaned"][name]["count"] > 0 and name not in off.meta["cleaned"]
    assert decoded(on, "train") != decoded(off, "train")


# Faults.


def test_a_failed_preparation_leaves_nothing(monkeypatch):
    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(data, "store", fail)
    with pytest.raises(OSError):
        prepare(DataConfig(source=[write("a.txt", TEXT)]))
    assert list(Path("corpora").iterdir()) == []


def test_an_encoder_that_is_killed_is_an_error_not_a_silence(monkeypatch):
    monkeypatch.setattr(data, "PARALLEL", 0)
    monkeypatch.setattr(data, "n_cores", lambda: 2)
    monkeypatch.setattr(data, "encode", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(OSError, match="stopped from outside"):
        prepare(DataConfig(source=[write("a.txt", TEXT)]))
    assert list(Path("corpora").iterdir()) == []


def test_what_killed_runs_left_is_cleared_away_and_what_others_do_is_not():
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    names = [f"unfinished-{host}-{dead.pid}", f"unfinished-{host}-{os.getppid()}",
             f"unfinished-elsewhere-{dead.pid}", f"unfinished-{host}-2-{dead.pid}"]
    for name in names:
        write(f"corpora/{name}/train.bin", "half")
    folder = prepare(DataConfig(source=[write("a.txt", TEXT)]))
    assert sorted(os.listdir("corpora")) == sorted([*names[1:], folder.name])
    for name in names:
        write(f"corpora/{name}/train.bin", "half")
    prepare(DataConfig(source=["a.txt"]))               # also where there is nothing to prepare
    assert sorted(os.listdir("corpora")) == sorted([*names[1:], folder.name])


def test_another_process_may_be_faster(monkeypatch):
    config = DataConfig(source=[write("a.txt", TEXT)])
    store, inside = data.store, []

    def store_and_be_overtaken(*args):
        if not inside:
            inside.append(True)
            folder = data.CORPORA / f"unfinished-{socket.gethostname()}-{os.getpid()}"
            folder.rename("mine")
            prepare(config)
            Path("mine").rename(folder)
        return store(*args)

    monkeypatch.setattr(data, "store", store_and_be_overtaken)
    folder = prepare(config)
    assert load_corpus(folder) and os.listdir("corpora") == [folder.name]


@pytest.fixture
def prepared():
    return prepare(DataConfig(source=[write("a.txt", TEXT)]))


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "meta.json"])
def test_damage_is_refused(prepared, name):
    path = prepared / name
    whole, rng = path.read_bytes(), random.Random(1)
    for place in rng.sample(range(len(whole)), 40):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        if name == "meta.json":
            try:
                if json.loads(flipped) == json.loads(whole):    # white space says nothing
                    continue
            except ValueError:
                pass
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=str(prepared)):
            load_corpus(prepared)
    for damaged in (whole[:-1], whole[:len(whole) // 2], whole + b"x", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(prepared)):
            load_corpus(prepared)
    path.unlink()
    with pytest.raises(ValueError, match="not a whole corpus.*" + (
            "no meta.json" if name == "meta.json" else "delete it")):       # it may be no corpus
        load_corpus(prepared)
    path.write_bytes(whole)
    load_corpus(prepared)


def test_swapped_files_are_refused(prepared):
    other = prepare(DataConfig(source=[write("a.txt", TEXT.replace("green", "quiet"))]))
    for name in ("train.bin", "val.bin", "tokenizer.json"):
        os.rename(prepared / name, "aside")
        os.rename(other / name, prepared / name)
        with pytest.raises(ValueError, match="not what was stored"):
            load_corpus(prepared)
        os.rename(prepared / name, other / name)
        os.rename("aside", prepared / name)
    os.rename(prepared / "train.bin", "aside")
    os.rename(prepared / "val.bin", prepared / "train.bin")
    os.rename("aside", prepared / "val.bin")
    with pytest.raises(ValueError, match="train.bin is not as long"):
        load_corpus(prepared)


def test_a_folder_prepared_otherwise_is_not_taken_for_this_one(prepared):
    other = prepare(DataConfig(source=["a.txt"], val_fraction=0.3))
    meta = (other / "meta.json").read_bytes()
    for path in prepared.iterdir():
        path.write_bytes((other / path.name).read_bytes())
    with pytest.raises(ValueError, match="from other text or with other settings"):
        prepare(DataConfig(source=["a.txt"]))
    assert (other / "meta.json").read_bytes() == meta


def test_a_large_split_is_read_through_only_on_request(prepared, capsys, monkeypatch):
    raw = bytearray((prepared / "train.bin").read_bytes())
    raw[100] ^= 1
    monkeypatch.setattr("sys.argv", ["data.py", "--check", str(prepared)])
    data.main()
    assert "is whole" in capsys.readouterr().out
    (prepared / "train.bin").write_bytes(raw)
    load_corpus(prepared, verified=len(raw) - 1)
    assert "train.bin is not what was stored" in one_line(
        "data.py", "--check", prepared.resolve(), cwd=Path())


@pytest.mark.parametrize("make, says", [
    (lambda: "nowhere.txt", "no file or folder"),
    (lambda: "*.text", "no file or folder"),
    (lambda: "shakespere", "did you mean 'shakespeare'"),
    (lambda: write("empty.txt", ""), "no text"),
    (lambda: write("blank.txt", " \n\n \t\n"), "no text"),
    (lambda: write("zeros.bin", bytes(5000)), "no text"),
    (lambda: write("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256))), "0x89 at offset 0"),
    (lambda: write("short.txt", "To be."), "one window takes 129.*--context-length"),
    (lambda: write("latin1.txt", "caf\u00e9".encode("latin-1")), "0xe9 at offset 3 is not UTF-8"),
    (lambda: Path("bare").mkdir() or "bare", "no text file in the folder bare"),
])
def test_bad_sources_are_one_line(make, says):
    with pytest.raises(ValueError, match=says) as error:
        load_corpus(prepare(DataConfig(source=[make()])), 128)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings, says", [
    (dict(tokenizer="chars"), "choose char, word"), (dict(val_fraction=2), "val_fraction is 2"),
    (dict(encoding="base64"), "no text encoding"), (dict(undecodable="drop"), "refuse or replace"),
    (dict(redact_except=["mail"]), "'mail'; choose from key, email"),
    (dict(source=()), "source is empty"), (dict(vocab_size=-1), "vocab_size is -1"),
    (dict(vocab_size=9, tokenizer="gpt2"), "0 for a published"),
])
def test_bad_settings_are_one_line(settings, says):
    with pytest.raises(ValueError, match=says):
        DataConfig(**settings)


# The report.


def test_the_script_describes_and_reuses(monkeypatch, capsys):
    write("notes.txt", TEXT + "  \n\nWrite to me@example.org")
    arguments = ["--source", "notes.txt", "--redact", "--plot"]
    monkeypatch.setattr("sys.argv", ["data.py", *arguments])
    data.main()
    first = capsys.readouterr().out
    for words in ("green bottle", "tokens per byte", "trailing spaces", "xx@xxxxxxx.xxx",
                  "email ", "leak check: ", "most frequent tokens", "drew corpora"):
        assert words in first, words
    assert "me@example.org" not in first
    data.main()
    assert capsys.readouterr().out == first
    meta, = Path("corpora").glob("*/meta.json")
    assert json.loads(meta.read_text())["train"]["documents"] == 1
    assert (meta.parent / "corpus.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_leak_is_warned_of(shakespeare):
    sentence = "It was the best of times, it was the worst of times, {}.\n"
    text = "".join(sentence.format(n) for n in range(500))
    said = "\n".join(data.describe(corpus_of(write("a.txt", text))))
    assert "WARNING" in said and "--near-duplicates" in said
    said = "\n".join(data.describe(shakespeare))
    assert "leak check: 0.0" in said and "WARNING" not in said


def test_tokens_and_lengths_are_counted():
    ids = np.random.default_rng(1).integers(5, size=1000, dtype=np.uint16)
    counts = data.count_tokens(ids, 7, block=64)
    assert dict(enumerate(counts.tolist())) == {i: Counter(ids.tolist())[i] for i in range(7)}
    assert data.histogram(np.array([1, 9, 10, 99, 1000, 1000])) == {
        "0": 1, "9": 1, "10": 1, "19": 1, "30": 2}


# The long ones: what happens at the size of real corpora, and in the middle of things.

SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
import data
data.n_cores = lambda: {cores}
folder = data.prepare(data.DataConfig(**json.loads(sys.argv[1])))
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak[0]) // 1024, folder)
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")


def start(cores=1, **settings):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(root=str(ROOT), cores=cores), json.dumps(settings)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(process):
    """Peak memory of the process in MiB (getrusage would count its parent's), and the folder."""
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    memory, folder = said.split()
    return int(memory), folder


def hashes(folder):
    return [data.sha256(Path(folder) / name) for name in (
        "train.bin", "val.bin", "tokenizer.json", "meta.json")]


def plays(n_megabytes):
    text = "\n".join(path.read_text(encoding="utf-8") for path in ingest.plays())
    return (text.replace("\n", "\r\n") * (n_megabytes // 5 + 1))[:n_megabytes << 20]


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("cores, kind, n_megabytes", [(1, "word", 3), (2, "char", 20)])
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_bytes(
        cores, kind, n_megabytes):
    settings = dict(cores=cores, source=write("a.txt", plays(n_megabytes)), tokenizer=kind)
    began = time.perf_counter()
    expected = hashes(finish(start(**settings))[1])
    took = time.perf_counter() - began
    folder, = Path("corpora").iterdir()
    folder.rename("undisturbed")
    rng, killed, half_done = random.Random(cores), 0, 0
    while killed < 5:
        began, process = time.perf_counter(), start(**settings)
        try:
            process.wait(rng.uniform(0.3, 0.95) * took)
            took = min(took, time.perf_counter() - began)       # too late: it was done
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.communicate()
        for path in Path("corpora").glob("*"):
            if "unfinished" in path.name:
                half_done += 1
            else:                                               # whole, or not there
                assert hashes(path) == expected
                path.rename(f"undisturbed-{rng.random()}")
    assert half_done >= 2
    assert hashes(finish(start(**settings))[1]) == expected
    assert os.listdir("corpora") == [folder.name]               # nothing is left behind


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("what, small, large", [
    ("one line", 20, 200), ("many lines", 10, 50), ("one word", 8, 24), ("many documents", 4, 20)])
def test_memory_is_bounded_whatever_the_size_of_the_text(what, small, large):
    """Ten, or five, times the text takes at most 60 MiB more, and at most 600 MiB in all."""
    peak = {}
    for n in (small, large):
        text = "\u4f60ab" * (n << 18) if what == "one word" else plays(n)
        name = write("a.txt", text.replace("\r\n", " ") if what == "one line" else text)
        if what == "many documents":
            lines = (json.dumps({"text": part}) + "\n" for part in text.split("\r\n\r\n"))
            name = write("a.jsonl", "".join(lines))
        peak[n], *_ = finish(start(source=name, tokenizer="char"))
    assert peak[large] < 600 and peak[large] - peak[small] < 60, peak
