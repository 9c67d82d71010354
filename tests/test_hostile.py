"""Bad input ends in exit code 2 and one line that begins with the script's name; no file changes.

A row is a command, and behind -> what its line must say; or damage to a file, the commands that
meet it, and what they must say. In a row's folder are a trained run, its corpus, and the FILES.
"""
import functools
import gzip
import hashlib
import json
import operator
import os
import pickle
import shlex
import shutil
import signal
import warnings

import pytest
import tiktoken
import torch

import data
import tokenizer
from conftest import SMALL, TEXT, inside, one_line

FILES = {
    "empty.txt": "", "blank.txt": " \n\t\n", "one.txt": "a", "short.txt": "To be or not to be.",
    "latin.txt": b"caf\xe9", "binary.bin": bytes(range(256)), "no.txt.gz": "not zipped",
    "cut.txt.gz": gzip.compress(TEXT.encode())[:-9], "rot.txt.gz": b"\x1f\x8b\x08\0" + b"\xff" * 99,
    "no.jsonl": '{"text": "x"}\n{"text": ', "none.jsonl": '{"body": "x"}', "list.jsonl": '["x"]',
    "number.jsonl": '{"text": 7}', "null.jsonl": '{"text": null}', "deep.jsonl": "[" * 200_000,
    "half.jsonl": '{"text": "\\ud83d"}', "blank.jsonl": "\n\n", "no.json": "{", "list.json": "[]",
    "deep.json": "[" * 200_000, "kind.json": '{"kind": "letters"}', "empty/picture.png": b"\x89PNG",
    "bad/a.txt": "good", "bad/b.txt": b"\xff\xfe", "no-meta/train.bin": b"\0\0",
    "runs/file": "a file has this name", "runs/bare/notes.txt": "this is no run"}
ELSEWHERE = "mps" if torch.cuda.is_available() else "cuda"      # a device that is not here
MANY = 10 ** 12
SHAPE = " ".join(SMALL).replace("--tokenizer char ", "")
WORDS = {       # what stands for several words in a row
    "NEW": f"train.py --name new --steps 1 --source text.txt --tokenizer char {SHAPE}",
    "DATA": f"train.py --name new --steps 1 --data corpus {SHAPE}",
    "INIT": "train.py --name new --steps 1 --init first --source text.txt --device cpu",
    "RESUME": "train.py --name first --steps 40 --resume --device cpu"}


@pytest.fixture(scope="session")
def template(trained, tmp_path_factory):
    """What each row begins with. The run's corpus has a name of its own: corpus."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copy(trained / "text.txt", folder)
    shutil.copytree(trained / "runs/first", folder / "runs/first")
    config = folder / "runs/first/config.json"
    prepared = json.loads(config.read_text())["corpus"]["folder"]
    config.write_text(config.read_text().replace(prepared, "corpus"))
    for name in ("corpus", prepared):
        shutil.copytree(trained / prepared, folder / name)
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "loop").symlink_to("loop")
    (folder / "lost.txt").symlink_to("nowhere.txt")
    inside("data.py", "--source", "text.txt", "--vocab-size", 300, cwd=folder)
    next(folder.glob("corpora/text-bpe-*")).rename(folder / "other")
    tokenizer.BPETokenizer.train([TEXT], 260).save(folder / "bpe.json")
    inside("data.py", "--source", "text.txt", "--tokenizer", "runs/first/tokenizer.json",
           cwd=folder)      # what INIT would prepare
    return folder


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    """A copy of the template. Nothing is downloaded, and no row takes longer than 20 seconds."""
    def never(*_, **__):
        raise AssertionError("this should have been refused earlier")

    monkeypatch.setattr(data, "download", never)
    monkeypatch.setattr(tiktoken, "get_encoding", never)
    before = signal.signal(signal.SIGALRM, never)
    signal.alarm(20)
    yield shutil.copytree(template, tmp_path / "here", symlinks=True)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def everything(folder):
    """Every path in a folder, with what is there; but a run's lock may name who held it last."""
    return {path: os.readlink(path) if path.is_symlink() else path.is_dir() or path.name == "lock"
            or hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*")}


def spelled(command):
    """The words of a command, where a row can have no line end but ␤."""
    words = shlex.split(" ".join(WORDS.get(part, part) for part in command.split(" ")))
    return [word.replace("␤", "\n") for word in words]


def refused(command, here):
    """The line in which a command is refused."""
    before, loud = everything(here), (UserWarning, RuntimeWarning)      # Python prints these, too
    with warnings.catch_warnings(record=True) as heard:
        for kind in loud:
            warnings.simplefilter("always", kind)
        said = one_line(*spelled(command), cwd=here)
    assert not [str(w.message) for w in heard if issubclass(w.category, loud)]
    assert everything(here) == before, said
    return said


def rows(table):
    """(command, what is said) of each line of a table."""
    return [tuple(line.strip().split(" -> ")) for line in table.strip().split("\n")]


@pytest.mark.parametrize("command, says", rows(f"""
    tokenizer.py --file nowhere.txt -> nowhere.txt
    tokenizer.py --file empty -> empty
    tokenizer.py --file loop -> loop
    tokenizer.py --file "" -> directory
    tokenizer.py --merges many -> --merges
    tokenizer.py --merges 1.5 -> --merges
    tokenizer.py --merges -1 -> merges
    tokenizer.py --merges {MANY} -> merges
    tokenizer.py one two -> two
    tokenizer.py --merge 3 -> --merge
    data.py --source nowhere -> nowhere
    data.py --source -> --source
    data.py --source "" -> ''
    data.py --source - -> '-'
    data.py --source 'no*.md' -> no*.md
    data.py --source loop -> loop
    data.py --source lost.txt -> lost.txt
    data.py --source {"y" * 300} -> yyy
    data.py --source text.txt/inside -> text.txt/inside
    data.py --source empty -> empty
    data.py --source empty.txt -> empty.txt
    data.py --source blank.txt -> blank.txt
    data.py --source blank.jsonl -> blank.jsonl
    data.py --source text.txt nowhere -> nowhere
    data.py --source latin.txt -> latin.txt
    data.py --source bad -> bad/b.txt
    data.py --source text.txt binary.bin -> binary.bin
    data.py --source no.txt.gz -> no.txt.gz
    data.py --source cut.txt.gz -> cut.txt.gz
    data.py --source rot.txt.gz -> rot.txt.gz
    data.py --source no.jsonl -> no.jsonl, line 2
    data.py --source none.jsonl -> none.jsonl, line 1
    data.py --source list.jsonl -> list.jsonl, line 1
    data.py --source number.jsonl -> number.jsonl, line 1
    data.py --source null.jsonl -> null.jsonl, line 1
    data.py --source deep.jsonl -> deep.jsonl, line 1
    data.py --source half.jsonl -> half.jsonl, line 1
    data.py --source one.txt -> too little text
    data.py --source short.txt --tokenizer bbpe -> bbpe
    data.py --source short.txt --tokenizer "" -> ''
    data.py --source short.txt --tokenizer nowhere.json -> nowhere.json
    data.py --source short.txt --tokenizer no.json -> no.json
    data.py --source short.txt --tokenizer list.json -> list.json
    data.py --source short.txt --tokenizer deep.json -> deep.json
    data.py --source short.txt --tokenizer kind.json -> kind.json
    data.py --source short.txt --vocab-size -1 -> vocab_size
    data.py --source short.txt --vocab-size 5 -> 257
    data.py --source short.txt --vocab-size {2 ** 64} -> vocab_size
    data.py --source short.txt --vocab-size nan -> --vocab-size
    data.py --source short.txt --tokenizer gpt2 --vocab-size 5 -> vocab
    data.py --source short.txt --tokenizer corpus/tokenizer.json --vocab-size 5 -> vocab
    data.py --data corpus -> --data
    data.py short.txt -> short.txt
    data.py --sourc short.txt -> --sourc
    data.py --source "a\udcffb" -> a\\udcffb
    train.py text.txt -> text.txt
    train.py --step 5 -> --step
    train.py --preset nan -> --preset
    train.py --compile yes -> yes
    NEW --source nowhere -> nowhere
    NEW --source short.txt bad -> bad/b.txt
    NEW --arch bert -> --arch
    NEW --norm none -> --norm
    NEW --steps 0 -> steps
    NEW --steps -1 -> steps
    NEW --steps 1e3 -> --steps
    NEW --steps {2 ** 64} -> steps
    NEW --seed {2 ** 64} -> seed
    NEW --seed -1 -> seed
    NEW --seed nan -> --seed
    NEW --batch-size 0 -> batch_size
    NEW --batch-size {MANY} -> memory
    NEW --batch-size 5 --accumulate 2 -> --accumulate
    NEW --accumulate 0 -> accumulate
    NEW --eval-every 0 -> eval_every
    NEW --eval-tokens -1 -> eval_tokens
    NEW --warmup-steps -1 -> warmup_steps
    NEW --learning-rate nan -> learning_rate
    NEW --learning-rate -1e-3 -> learning
    NEW --learning-rate 1e400 -> learning_rate
    NEW --weight-decay inf -> weight_decay
    NEW --grad-clip nan -> grad_clip
    NEW --n-embd 0 -> n_embd
    NEW --n-embd 17 -> n_embd
    NEW --n-embd {MANY} -> memory
    NEW --n-embd {10 ** 8} -> memory
    NEW --n-layer {10 ** 8} -> memory
    NEW --ngram {10 ** 9} -> memory
    NEW --n-layer 0 -> n_layer
    NEW --n-layer {MANY} -> memory
    NEW --n-head 3 -> n_head
    NEW --n-head 0 -> n_head
    NEW --n-kv-head 3 -> n_kv_head
    NEW --n-kv-head -1 -> n_kv_head
    NEW --mlp-width -1 -> mlp_width
    NEW --mlp-width {MANY} -> memory
    NEW --context-length 0 -> context_length
    NEW --context-length {MANY} -> memory
    NEW --context-length 100000 -> --context-length
    NEW --ngram 0 -> ngram
    NEW --ngram {MANY} -> memory
    NEW --ngram-rows {MANY} -> memory
    NEW --dropout 1.0 -> dropout
    NEW --dropout -0.1 -> dropout
    NEW --dropout nan -> dropout
    NEW --dropout inf -> dropout
    NEW --norm-eps nan -> norm_eps
    NEW --rotary-base 0 -> rotary_base
    NEW --vocab-size -1 -> vocab_size
    NEW --tokenizer bpe --vocab-size 5 -> 257
    NEW --tokenizer gpt2 --vocab-size 5 -> vocab
    NEW --tokenizer corpus/tokenizer.json --vocab-size 5 -> vocab
    NEW --device tpu -> tpu
    NEW --device cpu:x -> cpu:x
    NEW --device "" -> device
    NEW --device {ELSEWHERE} -> {ELSEWHERE}
    NEW --name first -> first
    NEW --name file -> file
    NEW --name a/b -> a/b
    NEW --name .. -> ..
    NEW --name . -> taken, or no name
    NEW --name {"y" * 300} -> yyy
    NEW --data corpus -> source
    DATA --source short.txt -> source
    DATA --tokenizer char -> tokenizer
    DATA --vocab-size 50 -> vocab_size
    DATA --data nowhere -> nowhere
    DATA --data empty -> empty is no whole corpus
    DATA --data no-meta -> no-meta
    DATA --data text.txt -> text.txt
    DATA --data loop -> loop
    INIT --init nobody -> nobody
    INIT --init bare -> bare
    INIT --init file -> file
    INIT --init text.txt -> text.txt
    INIT --arch llama -> arch
    INIT --tokenizer word -> tokenizer
    INIT --n-embd 32 -> best.pt
    RESUME --n-layer 2 -> n_layer
    RESUME --source text.txt -> source
    RESUME --init first -> init
    RESUME --name nobody -> nobody
    RESUME --name bare -> bare
    RESUME --name file -> file
    RESUME --steps 0 -> steps
    RESUME --steps 30 -> has done its 30 steps
    sample.py nobody -> nobody
    sample.py bare -> bare
    sample.py file -> file
    sample.py text.txt -> text.txt
    sample.py loop -> loop
    sample.py {"y" * 300} -> yyy
    sample.py no␤body -> no
    tokenizer.py --file no␤where -> where
    tokenizer.py --no␤thing -> thing
    data.py --source no␤where -> where
    data.py --source text.txt --tokenizer no␤thing -> thing
    train.py --data no␤where -> where
    train.py --init no␤body -> body
    eval.py --text no␤where -> where
    sample.py first other -> other
    sample.py --tokens 0 -> tokens
    sample.py --tokens -1 -> tokens
    sample.py --temperature -1 -> temperature
    sample.py --temperature nan -> temperature
    sample.py --temperature cold -> --temperature
    sample.py --top-k -1 -> top_k
    sample.py --top-p nan -> top_p
    sample.py --top-p -0.5 -> top_p
    sample.py --min-p inf -> min_p
    sample.py --samples 0 -> samples
    sample.py --seed -1 -> seed
    sample.py --seed {2 ** 64} -> seed
    sample.py --device tpu -> tpu
    sample.py --device {ELSEWHERE} -> {ELSEWHERE}
    sample.py --prompt "a\udcff" -> surrogate
    sample.py --prompt -> --prompt
    eval.py nobody -> nobody
    eval.py first nobody -> nobody
    eval.py bare -> bare
    eval.py --text nowhere.txt -> nowhere.txt
    eval.py --text empty.txt -> empty.txt
    eval.py --text blank.txt -> blank.txt
    eval.py --text one.txt -> one.txt
    eval.py --text binary.bin -> binary.bin
    eval.py --text cut.txt.gz -> cut.txt.gz
    eval.py --text none.jsonl -> none.jsonl
    eval.py --text empty -> empty
    eval.py --text loop -> loop
    eval.py --device cpu:x -> cpu:x
    eval.py --tokens 5 -> --tokens"""))
def test_commands(command, says, here):
    assert says in refused(command, here)


# ---- Damage to a file: bytes in its place, None (it is missing), a folder in its place, or what a
# function makes of it: of the JSON, the checkpoint or the bytes that it holds.

FOLDER, DELETE = "a folder", "deleted"
DEEP = FILES["deep.json"].encode()
CONFIG, BEST, LAST, TOKENS, META = ("runs/first/config.json", "runs/first/best.pt",
    "runs/first/last.pt", "runs/first/tokenizer.json", "corpus/meta.json")
READERS = "sample.py first; eval.py first; INIT; RESUME"        # of config.json
WRITERS = "sample.py first; eval.py first --text text.txt; INIT"    # who need a model that is whole
CORPUS = "DATA; eval.py first; RESUME"                          # who need its corpus


def put(*keys):
    """A function that puts the last of keys at the place that the others name; DELETE: nothing."""
    def change(content):
        *path, key, value = keys
        part = functools.reduce(operator.getitem, path, content)
        part[key] = value
        if value is DELETE:
            del part[key]
        return content
    names = [str(getattr(key, "__name__", key)) for key in keys]
    change.__name__ = ascii(" ".join(names))                # so that pytest shows it
    return change


class Trap:
    """What a checkpoint with code in it would do, were that code to run."""
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def damage(path, how):
    if how in (None, FOLDER):
        path.unlink(missing_ok=True)
        if how:
            path.mkdir()
    elif isinstance(how, bytes):
        path.write_bytes(how)
    elif path.suffix == ".json":
        path.write_text(json.dumps(how(json.loads(path.read_text()))))
    elif path.suffix == ".pt":
        torch.save(how(torch.load(path)), path)
    else:
        path.write_bytes(how(path.read_bytes()))


def table(path, commands, *damages):
    return [(path, how, commands, says) for how, says in damages]


nan, words = float("nan"), lambda tokens: put("symbols", tokens)
@pytest.mark.slow
@pytest.mark.parametrize("path, how, commands, says", [
    *table(CONFIG, READERS, *(
        (how, "config.json") for how in (
            b"", b"{", b"[]", b"7", b"null", b"\xff\xfe", DEEP, b'{"data": 1}',
            put("model", DELETE), put("train", DELETE), put("corpus", DELETE), put("data", DELETE),
            put("model", None), put("train", 3), put("corpus", "corpus"))),
        (FOLDER, "config.json"), (None, "no run first")),
    *table(CONFIG, READERS,
        (put("model", "n_embd", "16"), "n_embd"), (put("model", "n_embd", 16.0), "n_embd"),
        (put("model", "n_embd", -16), "n_embd"), (put("model", "n_embd", True), "n_embd"),
        (put("model", "n_layer", None), "n_layer"), (put("model", "n_layer", 1), ".pt"),
        (put("model", "norm", "none"), "norm"), (put("model", "norm", []), "norm"),
        (put("model", "bias", 1), "bias"), (put("model", "dropout", nan), "dropout"),
        (put("model", "n_head", 3), "n_head"), (put("model", "colour", "red"), "colour"),
        (put("model", "n_embd", 10 ** 8), "memory"), (put("model", "n_layer", MANY), "memory"),
        (put("model", "context_length", 10 ** 12), "memory")),
    *table(CONFIG, "RESUME",
        (put("train", "eval_every", "many"), "eval_every"), (put("train", "seed", -1), "seed"),
        (put("train", "learning_rate", nan), "learning_rate"), (put("train", "colour", 1), "col"),
        (put("train", "optimizer", "sgd"), "optimizer"), (put("train", "batch_size", 0), "batch")),
    *table(CONFIG, "eval.py first; RESUME",
        (put("corpus", {}), "config.json"), (put("corpus", "folder", None), "config.json"),
        (put("corpus", "folder", 7), "config.json"), (put("corpus", "folder", "gone"), "gone"),
        (put("corpus", "folder", "text.txt"), "text.txt"), (put("corpus", "folder", ""), "corpus"),
        (put("corpus", "folder", "a\nb"), "corpus"),
        (put("corpus", "folder", "other"), "other")),
    *((path, how, commands, path) for path, commands in ((BEST, WRITERS), (LAST, "RESUME"))
      for how in (
        b"", b"x" * 999, lambda raw: [raw], lambda raw: {}, lambda raw: 7,
        lambda raw: raw | {"model": []}, lambda raw: raw | {"model": None},
        lambda raw: raw | {"model": {}}, put("model", "blocks.0.W_qkv", DELETE),
        put("model", "colour", torch.ones(1)), put("model", "token_table", torch.ones(2, 2)),
        put("model", "token_table", [1.0]), put("model", "norm.gain", torch.full((16,), nan)),
        put("model", "norm.gain", torch.full((16,), float("inf"))),
        pickle.dumps(Trap(), 2), FOLDER)),
    *table(LAST, "RESUME", (None, "last.pt"), (put("history", DELETE), LAST),
        (put("optimizers", DELETE), LAST), (put("optimizers", [{}]), LAST),
        (put("history", 7), LAST), (put("history", [1, 2]), LAST), (put("optimizers", 7), LAST),
        (put("optimizers", []), LAST), (put("history", [{}]), LAST)),
    *table(TOKENS, WRITERS, *(
        (how, "tokenizer.json") for how in (
            b"", b"{", b"[]", b"7", b"null", DEEP, b"\xff", None, FOLDER, put("kind", DELETE),
            put("kind", "letters"), put("kind", []), put("kind", "bpe"), put("symbols", DELETE),
            words(7), words(None), words("abc"), words(list("ab")), words(list(range(28))),
            lambda t: t | {"symbols": t["symbols"][:-1]}, put("symbols", 0, "two"),
            lambda t: t | {"symbols": [*t["symbols"][:-1], t["symbols"][0]]},
            put("symbols", 0, 7), put("symbols", 0, ""), put("symbols", 0, "\ud83d"),
            put("symbols", 0, ["a"])))),
    *table("bpe.json", "data.py --source text.txt --tokenizer bpe.json", *(
        (how, "bpe.json") for how in (
            put("pattern", "(?"), put("pattern", 7), put("pattern", DELETE), put("pattern", None),
            put("vocab", DELETE), put("vocab", 7), put("vocab", 65, "AA"), put("vocab", 66, "A"),
            put("vocab", 0, 7), put("vocab", -2, "\u0100"), put("vocab", -1, "end"),
            put("vocab", -2, "A")))),
    *table(META, CORPUS, *(
        (how, "corpus") for how in (
            b"", b"{", b"[]", b"7", b"null", DEEP, b"\xff", None, FOLDER, put("dtype", DELETE),
            put("dtype", "object"), put("dtype", "float32"), put("dtype", "O"), put("dtype", 7),
            put("dtype", "u1"), put("dtype", None), put("train", DELETE), put("val", []),
            put("train", "tokens", 3), put("val", "tokens", "3"), put("train", "tokens", None)))),
    *((META, put("val", *change), "eval.py first", "corpus") for change in (
        ("bytes", "many"), ("bytes", 0), ("bytes", DELETE), ("characters", None))),
    *((f"corpus/{name}", how, CORPUS, "corpus") for name in ("train.bin", "val.bin")
      for how in (b"", None, FOLDER, lambda raw: raw[:-2], lambda raw: raw[:-1],
                  lambda raw: raw + raw)),
    ("corpus/train.bin", lambda raw: b"\xff" * len(raw), "DATA; RESUME", "corpus"),
    ("corpus/val.bin", lambda raw: b"\xff" * len(raw), CORPUS, "corpus"),
    ("corpus/tokenizer.json", None, CORPUS, "tokenizer.json"),
    ("corpus/tokenizer.json", FOLDER, CORPUS, "tokenizer.json"),
    ("corpus/tokenizer.json", b"{", CORPUS, "tokenizer.json"),
    ("corpus/tokenizer.json", words(["a"]), CORPUS, "corpus")])
def test_damaged_files(path, how, commands, says, here):
    damage(here / path, how)
    for command in commands.split("; "):
        said = refused(command, here)
        assert says in said and not (here / "trapped").exists(), said
        assert how is not FOLDER or "damaged" not in said and "delete" not in said, said


def test_what_is_whole_is_taken_and_metrics_are_not_needed(here):
    """Else the rows above might be refused for another reason than theirs."""
    (here / "runs/first/metrics.jsonl").write_bytes(b"\xff[")
    for command in (*READERS.split("; "), "eval.py first --text text.txt",
                    "data.py --source text.txt --tokenizer bpe.json", "RESUME --steps 50"):
        inside(*spelled(command), cwd=here)
        (here / "runs/first/metrics.jsonl").unlink(missing_ok=True)
    for name, command in (("new", "DATA --name other"), ("other", "NEW --name third")):
        assert (here / "runs" / name / "last.pt").exists()
        inside(*spelled(command), cwd=here)


@pytest.mark.parametrize("name, command", [
    ("runs", "NEW"), ("runs", "DATA"), ("runs", "sample.py"), ("runs", "eval.py first"),
    ("corpora", "NEW"), ("corpora", "data.py --source text.txt")])
def test_a_file_has_the_name_of_our_folder(name, command, here):
    shutil.rmtree(here / name)
    (here / name).write_text("what somebody wrote")
    assert name in refused(command, here)
