"""
Data: a pile of text becomes batches of token ids.

Everything a language model knows, it reads off the text it is trained on, so the text comes
first: read it, take out what does not belong there, keep a part aside that the model never learns
from (the validation split, which tells learning from memorising), turn it into token ids, and
store those in a folder that can be read a window at a time, however large it is:

    ingest -> clean, redact, normalise -> split -> tokenise -> store    then, every step:  draw
    ingest.py         clean.py          overlap.py      here                        batches.py

    python data.py                            # prepare Shakespeare's plays and describe them
    python data.py --source my_notes/ a.txt   # the same for your own files and folders
    python data.py --source mails.jsonl --field body --redact --near-duplicates --plot
    python data.py --check corpora/NAME       # is it still what was stored?

No step holds more than a few megabytes of the text in memory, and the folder appears only when it
is whole: preparation can be interrupted at any moment, and started again.
"""
import functools
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import threading
from array import array
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import clean
import ingest
import overlap
import tokenizer
from batches import draw
from cli import Parser, add_flags, chosen, clear_errors
from ingest import MEGABYTE, progress, read

CORPORA = Path("corpora")       # prepared corpora are kept here, one folder each


@dataclass
class DataConfig:
    """Which text, and how it is prepared. A trailing comment is the flag's --help."""
    source: tuple = ("shakespeare",)  # shakespeare, tinyshakespeare, files, folders, '*.txt', or -
    field: str = "text"               # the field of a .jsonl line, or column of a .csv, to read
    encoding: str = "utf-8"           # of the files: utf-8, utf-16, latin-1, cp1252, shift_jis ...
    undecodable: str = "refuse"       # bytes that are not in that encoding: refuse, or replace
    mojibake: bool = False            # repair what a wrong encoding did, such as Ã© for é
    control_characters: bool = True   # drop characters that were meant for a machine
    blank_lines: bool = True          # of more than three blank lines in a row keep three
    boilerplate: bool = False         # drop a long line from the fourth time on
    duplicates: bool = True           # keep one of documents that are the same
    near_duplicates: bool = False     # keep one of documents that are nearly the same
    redact: bool = False              # private data becomes [EMAIL], [PHONE], [IBAN], [KEY] ...
    redact_except: tuple = ()         # but leave alone: key, email, iban, card, ip, phone
    nfc: bool = True                  # one character for a letter and its accent
    line_ends: bool = True            # one kind of line end
    trailing_spaces: bool = True      # no spaces at the end of a line
    val_fraction: float = 0.1         # share of the text kept aside for validation
    split_seed: int = 1               # picks the documents kept aside, where there are many
    tokenizer: str = "char"           # char, word, bpe, or a published one: gpt2, cl100k_base ...
    vocab_size: int = 0               # tokens to learn; 0: every character, 8192 words, 1024 bpe

    def __post_init__(self):
        self.source = (self.source,) if isinstance(self.source, str) else tuple(self.source)
        self.redact_except = tuple(self.redact_except)
        if not self.source:
            raise ValueError("source is empty; it must name at least one text")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; it must lie between 0 and 1")
        if self.tokenizer not in tokenizer.NAMES:
            raise ValueError(f"there is no tokenizer {self.tokenizer!r}; "
                             f"choose {', '.join(tokenizer.NAMES)}")
        if self.vocab_size < 0 or self.vocab_size and self.tokenizer in tokenizer.PUBLISHED:
            raise ValueError(f"vocab_size is {self.vocab_size}; it must be 0 or more, and 0 for a "
                             "published tokenizer, which has its own")
        if self.undecodable not in ("refuse", "replace"):
            raise ValueError(f"undecodable is {self.undecodable!r}; choose refuse or replace")
        for kind in self.redact_except:
            if kind not in clean.PRIVATE:
                raise ValueError(f"redact_except names {kind!r}; choose from "
                                 f"{', '.join(clean.PRIVATE)}")
        try:
            io.TextIOWrapper(io.BytesIO(), self.encoding)
        except LookupError:
            raise ValueError(f"there is no text encoding {self.encoding!r}") from None

    def rules(self):
        """The names of clean.py's rules that are on."""
        private = [kind for kind in clean.PRIVATE if self.redact and kind not in self.redact_except]
        others = [name for name in clean.RULES if name not in clean.PRIVATE]
        return private + [name for name in others if getattr(self, name)]   # a field for each


def read_text(path, config=None):
    """The text of one file, cleaned as a corpus with these settings would be (the defaults)."""
    config = config or DataConfig()
    cleaner = clean.Cleaner(config.rules())
    with open(path, "rb") as file:
        documents = ingest.documents(str(path), file, config.field, config.encoding,
                                     config.undecodable)
        return "\n\n".join("".join(cleaner.clean_stream(texts)) for _, texts in documents)


# ------------------------------------------------------------------------------------------
# Tokenise.

LEARN_FROM = 32 * MEGABYTE      # of more text than that, words and byte pairs are learned from
#                                 evenly spread parts
LONGEST = 4 * MEGABYTE          # characters; a word longer than that is cut


def chunks(texts):
    """A stream of text in chunks that can be encoded one by one."""
    return tokenizer.independent_chunks(texts, (tokenizer.EOT,), longest=LONGEST)


def learn(config, path, documents, train):
    """The tokenizer. Words and byte pairs are learned from the training split alone.

    So is an alphabet of the most frequent characters. One of all characters gives nothing of the
    validation text away, so it is read off all of the text, and none is unknown.
    """
    if config.tokenizer in tokenizer.PUBLISHED:
        return tokenizer.build(config.tokenizer)
    if config.tokenizer == "char":
        texts = chain.from_iterable(
            read(path, train if config.vocab_size else ingest.spans(documents)))
        if not config.vocab_size:       # all are kept, so their number does not matter
            texts = map(set, texts)
        if len(documents.start) > 1:    # what stands between documents has to be in it
            texts = chain(texts, ["\n"])
    else:
        texts = chain.from_iterable(map(chunks, read(path, train)))
        n_bytes = int((train[:, 1] - train[:, 0]).sum())
        texts = islice(texts, 0, None, n_bytes // LEARN_FROM + 1)
    return tokenizer.build(config.tokenizer, texts, config.vocab_size)


def batches_of(documents, size=MEGABYTE):
    """All chunks of all documents, some at a time, each as (is a document before it?, text)."""
    batch, n = [], 0
    for i, texts in enumerate(documents):
        later = i > 0
        for chunk in chunks(texts):
            batch.append((later, chunk))
            later, n = False, n + len(chunk)
            if n >= size:
                yield batch
                batch, n = [], 0
    if batch:
        yield batch


def encode(tokens, batch):
    """The ids of such a batch, with a separator between two documents."""
    ids = array("I")
    for later, text in batch:
        if later:
            ids.extend(tokens.separator)
        ids.extend(tokens.encode(text, special="text"))
    return np.array(ids, dtype=id_type(tokens))


def id_type(tokens):
    return np.uint16 if tokens.vocab_size <= 2 ** 16 else np.uint32


def start_worker(path):
    """What each process does first: load the tokenizer, and never outlive its parent."""
    global encode_here
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is the parent's business
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)),
                     daemon=True).start()
    encode_here = functools.partial(encode, tokenizer.load(path))


def work(batch):
    return encode_here(batch)


PARALLEL = 16 * MEGABYTE        # less text is encoded before other processes have started


def n_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def encode_all(batches, tokens, path, n_bytes):
    """The ids of every batch, in order; on all cores if there is much to do.

    path is where the tokenizer is saved. At most a few batches are under way at any time.
    """
    workers = n_cores()
    if workers == 1 or n_bytes < PARALLEL:
        yield from map(functools.partial(encode, tokens), batches)
        return
    pool, waiting = ProcessPoolExecutor(workers, None, start_worker, (path,)), deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise OSError("a process that encodes could not start, or was stopped from outside, "
                      "perhaps because memory ran out: run again") from None
    finally:
        pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------
# Store. A prepared corpus is a folder:
#     train.bin, val.bin   token ids, one after the other, 2 bytes each (4 if the ids need it)
#     tokenizer.json       what the ids mean
#     meta.json            where they come from, how many there are, fingerprints


def fingerprint(config, files, digests):
    """A name for exactly these files, prepared with these settings by this code."""
    digest = hashlib.sha256(json.dumps(asdict(config) | {"source": None}).encode())
    code = [Path(module.__file__).read_bytes() for module in (ingest, clean, overlap, tokenizer)]
    code += Path(__file__).read_bytes().partition(b"\n# Open.\n")[:1]        # the rest only reads
    digest.update(b"".join(code))                   # so that a line you edit prepares anew
    digest.update(repr([(*ingest.form(name), d) for (name, _), d in zip(files, digests)]).encode())
    return digest.hexdigest()


def folder_of(config, mark):
    first = config.source[0]
    name = "stdin" if ingest.is_stream(first) else Path(first).resolve().stem
    name = re.sub(r"[^\w.-]+", "_", name).strip("_.") or "text"
    return CORPORA / f"{name}-{config.tokenizer}-{mark[:8]}"


def is_running(pid):
    if os.name == "nt":         # there, to ask would be to kill
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:     # somebody else's
        pass
    return True


def draft_folder(pid):
    """Where the process pid of this machine prepares a corpus."""
    return CORPORA / f"unfinished-{socket.gethostname()}-{pid}"


def clear_leftovers():
    """Remove what processes have left that were killed, and what an earlier one with our id has."""
    for folder in CORPORA.glob(draft_folder("*").name):
        pid = folder.name.rpartition("-")[2]
        ours = pid.isdigit() and folder.name == draft_folder(pid).name      # and no host-2's
        if ours and (int(pid) == os.getpid() or not is_running(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def prepare(config):
    """Prepare the corpus that config describes, or find it prepared; return its folder.

    Raises ValueError if there is no text, or what is found was prepared otherwise.
    """
    files, digests, n_bytes = ingest.find(config.source, CORPORA), [], 0
    for _, open_file in files:
        with open_file() as file:
            witness = ingest.Witness(file)
            while raw := witness.read():
                n_bytes += len(raw)
        digests.append(witness.digest.hexdigest())
    clear_leftovers()
    mark = fingerprint(config, files, digests)
    folder = folder_of(config, mark)
    if folder.exists():
        if read_meta(folder)["fingerprint"] != mark:
            raise ValueError(f"{folder} was prepared from other text or with other settings: "
                             "delete it, or give it another name")
        return folder
    draft = draft_folder(os.getpid())
    draft.mkdir(parents=True)
    try:
        return build(config, files, n_bytes, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def build(config, files, n_bytes, draft):
    """Prepare a corpus in the folder draft, then give it its name. Returns its folder."""
    path, cleaner = draft / "text", clean.Cleaner(config.rules())
    documents, digests = ingest.gather(files, path, cleaner, n_bytes, field=config.field,
                                     encoding=config.encoding, undecodable=config.undecodable)
    if not len(documents.start):
        names = ["standard input" if name == "-" else name for name in config.source]
        raise ValueError(f"there is no text in {', '.join(names)}")
    if config.duplicates:
        documents = overlap.drop_duplicates(documents, path, cleaner.note)
    if config.near_duplicates:
        documents = overlap.drop_near_duplicates(documents, path, cleaner.note)
    learned = overlap.split(documents.characters, config.val_fraction, config.split_seed)
    spans = dict(zip(("train", "val"), overlap.split_spans(documents, learned, path)))
    tokens = learn(config, path, documents, spans["train"])
    tokens.save(draft / "tokenizer.json")

    characters = {"train": int(learned.sum()), "val": int((documents.characters - learned).sum())}
    n_bytes = {name: int((part[:, 1] - part[:, 0]).sum()) for name, part in spans.items()}
    mark = fingerprint(config, files, digests)      # of what was read just now
    meta = {"fingerprint": mark, "config": asdict(config), "vocab_size": tokens.vocab_size,
            "files": len(files), "cleaned": cleaner.report,
            "lengths": histogram(documents.characters),
            "tokenizer_sha256": sha256(draft / "tokenizer.json")}
    for name, part in spans.items():
        with progress(f"encoding {name}", n_bytes[name]) as bar:
            ids = encode_all(batches_of(read(path, part, bar.update)), tokens,
                             draft / "tokenizer.json", n_bytes[name])
            meta[name] = {"documents": len(part), "characters": characters[name],
                          "bytes": n_bytes[name]} | store(ids, tokens, draft / f"{name}.bin")
    with progress("looking for leaks", sum(n_bytes.values())) as bar:
        meta["leak"] = overlap.leak_check(*(read(path, part, bar.update)
                                            for part in spans.values()), characters["val"])
    meta["checksum"] = checksum(meta)
    (draft / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    path.unlink()
    for made in draft.iterdir():            # on the disk before the folder has its name
        with open(made, "rb+") as file:
            os.fsync(file.fileno())
    folder = folder_of(config, mark)
    try:
        os.rename(draft, folder)
    except OSError:
        if not folder.exists():             # else another process was faster
            raise
    return folder


def store(batches, tokens, path):
    """Write batches of ids into a file; return what was counted, separators and all."""
    digest, n_tokens, n_unknown = hashlib.sha256(), 0, 0
    with open(path, "wb") as file:
        for ids in batches:
            raw = ids.tobytes()
            file.write(raw)
            digest.update(raw)
            n_tokens += len(ids)
            n_unknown += 0 if tokens.unk is None else int((ids == tokens.unk).sum())
    return {"tokens": n_tokens, "unknown": n_unknown, "dtype": np.dtype(id_type(tokens)).name,
            "sha256": digest.hexdigest()}


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(meta):
    rest = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def histogram(lengths):
    """How many documents have 1-9, 10-99, ... in ten finer steps: {"12": n} is 10^1.2 to 10^1.3."""
    steps, counts = np.unique((10 * np.log10(lengths) + 1e-9).astype(int), return_counts=True)
    return dict(zip(map(str, steps.tolist()), counts.tolist()))


# ------------------------------------------------------------------------------------------
# Open.

VERIFIED = 64 * MEGABYTE    # a split up to this size is read through whenever it is opened: less
#                             than a fifth of a second. Larger ones are measured; --check reads them


def read_meta(folder):
    """What meta.json says of a corpus. Raises ValueError if it is not there, or damaged."""
    if not (folder / "meta.json").is_file():
        raise ValueError(f"{folder} is not a whole corpus: there is no meta.json in it")
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["checksum"] != checksum(meta):
            raise ValueError("meta.json is not what was stored")
        return meta
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a whole corpus ({error}); delete it and run "
                         "python data.py again") from None


def load_corpus(folder, context_length=1, verified=VERIFIED):
    """Open a prepared corpus: its two splits as memory-mapped ids, its tokenizer, its meta.json.

    Raises ValueError if the folder is not whole, or a split is too short for one window.
    """
    folder = Path(folder)
    meta, splits = read_meta(folder), {}
    try:
        if sha256(folder / "tokenizer.json") != meta["tokenizer_sha256"]:
            raise OSError("tokenizer.json is not what was stored")
        for name in ("train", "val"):
            path, dtype = folder / f"{name}.bin", np.dtype(meta[name]["dtype"])
            size = path.stat().st_size
            if size != meta[name]["tokens"] * dtype.itemsize:
                raise OSError(f"{path.name} is not as long as meta.json says")
            if size <= verified and sha256(path) != meta[name]["sha256"]:
                raise OSError(f"{path.name} is not what was stored")
            if meta[name]["tokens"] <= context_length:
                raise ValueError(
                    f"its {name} split has {meta[name]['tokens']:,} tokens and one window takes "
                    f"{context_length + 1:,}: use more text"
                    + ", or a smaller --context-length" * (context_length > 1))
            splits[name] = np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
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
    if not folder.exists() and any(map(ingest.is_stream, config["source"])):
        raise ValueError(f"{folder} is gone, and what came on standard input cannot be read again")
    corpus = load_corpus(folder if folder.exists() else prepare(DataConfig(**config)),
                         context_length)
    if corpus_hash(corpus) != recorded["sha256"]:
        raise ValueError(f"{corpus.folder} is not the corpus this run was trained on, {folder}: "
                         "its source, or the code that prepares it, has changed since")
    return corpus


# ------------------------------------------------------------------------------------------
# Describe.


def count_tokens(ids, vocab_size, block=16 * MEGABYTE):
    """How often each id occurs: (vocab_size,), from a split of any length."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(ids), block):
        counts += np.bincount(ids[start:start + block], minlength=vocab_size)
    return counts


def describe(corpus):
    """Lines that tell a person what is in a corpus, and what became of the text on the way."""
    meta, tokens = corpus.meta, corpus.tokenizer
    yield (f"{corpus.folder}: {meta['files']:,} file{'s' * (meta['files'] > 1)}, "
           f"{meta['vocab_size']:,} different tokens\n")
    columns = ("documents", "characters", "bytes", "tokens")
    yield (f"{'split':8}" + "".join(f"{name:>15}" for name in columns)
           + f"{'tokens per byte':>18}{'<unk>':>8}")
    for name in ("train", "val"):
        counts = meta[name]
        yield (f"{name:8}" + "".join(f"{counts[column]:15,}" for column in columns)
               + f"{counts['tokens'] / counts['bytes']:18.3f}"
               + f"{counts['unknown'] / counts['tokens']:8.1%}")
    n_val = meta["val"]["characters"]
    n_documents = sum(meta["lengths"].values())
    n_cut = meta["train"]["documents"] + meta["val"]["documents"] - n_documents
    n_whole = meta["val"]["documents"] - n_cut
    yield (f"validation is {n_val / (n_val + meta['train']['characters']):.1%} of the characters "
           f"({meta['config']['val_fraction']:.1%} was asked for): " + " and ".join(
               [f"{n_whole:,} whole document{'s' * (n_whole > 1)}"] * (n_whole > 0)
               + [f"the end of {n_cut:,}"] * (n_cut > 0)))
    if n_cut:
        yield "a document that was cut counts in both rows: the model learns from its beginning"

    yield "\nwhat was cleaned, how often, and an example" + (
        " (its letters as x: it may be private)" if meta["config"]["redact"] else "")
    yield from clean.report_lines(meta["cleaned"])
    off = [name for name in clean.RULES if name not in meta["cleaned"]
           and (meta["config"]["redact"] or name not in clean.PRIVATE)]
    off += [name for name in ("duplicates", "near_duplicates", "redact")
            if not meta["config"][name]]
    yield "  switched off: " + (", ".join(off).replace("_", " ") or "nothing")

    if meta["leak"] is None:
        yield "\nleak check: validation is too short for one"
    else:
        yield (f"\nleak check: {meta['leak']:.2%} of the runs of {overlap.GRAM} characters in "
               "validation occur in training, too")
        if meta["leak"] > overlap.LEAK:
            yield (f"  WARNING: above {overlap.LEAK:.0%}, validation flatters the model. Are there "
                   "copies in the text?\n  --near-duplicates drops documents that are nearly the "
                   "same, --boilerplate lines that come\n  again and again")

    counts = count_tokens(corpus.train, meta["vocab_size"])
    yield "\nmost frequent tokens: " + "  ".join(
        ("<unk>" if i == tokens.unk else f"'{tokenizer.pieces(tokens, [i])[0]}'")
        + f" {counts[i] / counts.sum():.1%}"
        for i in np.argsort(-counts, kind="stable")[:10] if counts[i])
    yield ("\nthree windows of the training split; at each place, the model sees the first line up "
           "to\nthat place and is asked for the token below it")
    ids, targets = draw(corpus.train, 3, min(48, len(corpus.train) - 1), seed=1, step=0)
    for row, next_row in zip(ids.tolist(), targets.tolist()):
        yield f"\n  sees  {tokens.decode(row)!r}\n  asked {tokens.decode(next_row)!r}"


def plot(corpus, path):
    """Draw how long documents are, and how often tokens occur, by rank.

    In text of any language the n-th most frequent word is about n times rarer than the first, a
    straight line when both axes are logarithms (Zipf, 1935). Characters fall faster.
    """
    import matplotlib
    matplotlib.use("Agg")       # draw into files; no window needed
    from matplotlib import pyplot

    pyplot.rc("font", size=13)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    steps = np.array([int(step) for step in corpus.meta["lengths"]])
    left.bar(10 ** (steps / 10), corpus.meta["lengths"].values(), align="edge", alpha=0.7,
             width=10 ** ((steps + 1) / 10) - 10 ** (steps / 10), edgecolor="white")
    left.set(xscale="log", xlabel="characters in a document", ylabel="documents",
             title="How long are the documents?")
    counts = np.sort(count_tokens(corpus.train, corpus.meta["vocab_size"]))[::-1]
    counts = counts[counts > 0]
    rank = np.arange(1, len(counts) + 1)
    right.loglog(rank, counts, linewidth=2.5, label=f"{corpus.tokenizer.kind} tokens")
    right.loglog(rank, counts[0] / rank, "--", color="grey", label="Zipf: first / rank")
    right.set(xlabel="rank of the token", ylabel="times it occurs", ylim=(0.7, None),
              title="How often do tokens occur?")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    aside = path.with_name(f"{path.name}.unfinished")
    figure.savefig(aside, dpi=120, format="png")
    os.replace(aside, path)
    pyplot.close(figure)


def main():
    parser = Parser("Prepare a corpus, once, and describe it.")
    parser.add_argument("--plot", action="store_true",
                        help="draw document lengths and token frequencies into the corpus' folder")
    parser.add_argument("--check", metavar="FOLDER",
                        help="prepare nothing; read a prepared corpus through and compare it with "
                             "its checksums")
    add_flags(parser, DataConfig)
    options = parser.parse_args()
    with clear_errors():
        if options.check:
            corpus = load_corpus(options.check, verified=float("inf"))
            return print(f"{corpus.folder} is whole: every byte is as it was stored")
        corpus = load_corpus(prepare(DataConfig(**chosen(options, DataConfig))))
        for line in describe(corpus):
            print(line)
        if options.plot:
            plot(corpus, corpus.folder / "corpus.png")
            print(f"\ndrew {corpus.folder / 'corpus.png'}")


if __name__ == "__main__":
    main()
