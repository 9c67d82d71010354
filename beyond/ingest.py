"""
Ingest: whatever text a person has becomes documents that data.py reads.

People keep text as folders of notes, tables, a million lines of JSON, an old file in Latin-1, all
of it compressed. A model wants one form. Here that is a file of JSON lines, {"text": "..."} each,
in a folder that the next command can take as its source:

    python -m beyond.ingest notes/ mails.csv --field body           # what documents are there?
    zcat book.gz | python -m beyond.ingest - --encoding latin-1 -o mine     # mine/documents.jsonl
    python -m beyond.clean mine -o cleaned                          # and so on, up to data.py

Text that cannot be read is refused: a program that skips what it does not understand trains on
something else than you think. A document is a line of a .jsonl, a row of a .csv, or the whole of
any other file, which is plain text. One of them at a time is in memory.
"""
import csv
import glob
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import data
from tokenizer import Parser, clear_errors, write_whole

from tqdm import tqdm


@dataclass
class ReadConfig:
    """How files are read. A trailing comment is the flag's --help."""
    field: str = "text"             # the field of a .jsonl line, or column of a .csv, with the text
    encoding: str = "utf-8"         # of the files: utf-8, utf-16, latin-1, cp1252, shift_jis ...
    undecodable: Literal["refuse", "replace"] = "refuse"    # bytes not in it, or put � there


# ---- From names to files.


def ending(path):
    """.jsonl, .csv or another, without the .gz behind it: it decides how a file is read."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def folders(top):
    """A folder and those in it, but for hidden ones and links, which may go in circles."""
    def refuse(error):
        raise ValueError(f"the folder {error.filename} cannot be searched ({error.strerror})")

    for folder, inside, _ in os.walk(top, onerror=refuse):
        inside[:] = [name for name in inside if not name.startswith(".")]
        yield Path(folder)


def text_files(top):
    """The text files in a folder. A link to nowhere is one, so that opening it will tell."""
    return sorted(path for folder in folders(top) for path in folder.iterdir()
                  if ending(path) in (*data.ENDINGS, ".csv") and not path.name.startswith(".")
                  and (path.is_file() or not path.exists()))


def matches(pattern):
    """What a pattern such as 'notes/*.txt' stands for; **/ is any number of folders."""
    before, stars, after = pattern.partition("**/")
    if not stars:
        return sorted(glob.glob(pattern))
    return [match for top in glob.glob(before or ".") for folder in folders(top)
            for match in matches(os.path.join(glob.escape(str(folder)), after))]


def find(source):
    """The files that the names in source stand for, in order, each once; - is standard input."""
    found = {}
    for name in source:
        tops = ([] if name in data.DOWNLOADS else
                [name] if name == "-" or os.path.exists(name) else matches(name))
        paths = [path for top in tops
                 for path in (text_files(top) if os.path.isdir(top) else [Path(top)])]
        for path in paths or data.find([name]):         # shakespeare, or an error
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


# ---- From files to documents.

NO_TEXT = "\N{REPLACEMENT CHARACTER}"
HALF = re.compile("[\ud800-\udfff]")    # half a character: how Python marks a byte that is no text


def whole(where, text, config):
    """The text without a byte-order mark. Raises ValueError for what could not be decoded."""
    half = HALF.search(text)
    if half is None or config.undecodable == "replace":
        return HALF.sub(NO_TEXT, text).lstrip("\ufeff")
    byte = ord(half[0]) - 0xdc00        # else JSON has spelled it, as "\\ud83d"
    what = f"the byte {byte:#04x}" if 0x80 <= byte <= 0xff else f"half a character, {half[0]!r},"
    hint = ", it looks like utf-16" * text.startswith(("\udcff\udcfe", "\udcfe\udcff"))
    raise ValueError(f"{where}: {what} is not {config.encoding.upper()}; name its --encoding{hint}"
                     ", or leave the file out, or take --undecodable replace")


def records(name, lines, kind, field):
    """What each line of JSON holds, or each row of a table whose first row names the columns."""
    first = 1
    try:
        if kind == ".jsonl":
            for first, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{name}, line {first}", json.loads(line)
        elif kind == ".csv":
            csv.field_size_limit(1 << 27)       # an open quote would make all of it a single field
            rows = csv.DictReader(lines, strict=True)
            columns, first = rows.fieldnames, rows.line_num + 1
            for row in rows:
                if None in row or None in row.values():
                    raise csv.Error(f"it has not {len(columns)} columns, as the first row has")
                yield f"{name}, line {first}", row
                first = rows.line_num + 1
        else:
            yield name, {field: "".join(lines)}
    except (csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name}, what begins in line {first} is not {kind[1:].upper()}: {error}"
                         f"{'; is a quote left open?' * (kind == '.csv')}") from None


def read(path, config):
    """The documents of one file, (name, text)."""
    stdin = str(path) == "-"
    if stdin and sys.stdin is None:
        raise ValueError("standard input is closed")
    name = "standard input" if stdin else os.fsencode(path).decode(errors="backslashreplace")
    try:
        with sys.stdin.buffer if stdin else open(path, "rb") as file:
            texts = io.TextIOWrapper(
                gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file,
                config.encoding, newline="\n",
                errors="replace" if config.undecodable == "replace" else "surrogateescape")
            lines = (whole(f"{name}, line {i}", line, config) for i, line in enumerate(texts, 1))
            for where, record in records(name, lines, ending(path), config.field):
                record = record if type(record) is dict else {"no fields": record}
                if type(text := record.get(config.field)) is not str:
                    has = ", ".join(f"{key}: {type(record[key]).__name__}" for key in [*record][:8])
                    raise ValueError(f"{where}, has no text in a field {config.field!r} (it has "
                                     f"{has}): name the right one with --field")
                yield where, whole(where, text, config)
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"{name} cannot be read as {config.encoding} ({error}); name its "
                         "--encoding, such as latin-1 or utf-16-le") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name} cannot be read ({error})") from None


def documents(source, config):
    """All documents of the files that source names, (name, text), but for those without text."""
    paths = find(source)
    if config.field != "text" and not any(ending(path) in (".jsonl", ".csv") for path in paths):
        raise ValueError(f"--field {config.field} has no use: there is no .jsonl and no .csv file")
    for path in paths:      # data.py knows how the plays are packed
        found = data.documents([str(path)]) if path.suffix == ".whl" else read(path, config)
        yield from ((name, text) for name, text in found if text.strip())


# ---- At the terminal. clean.py and overlap.py use these two, too.


def add_source_flags(parser, nargs):
    parser.add_argument("source", nargs=nargs, metavar="SOURCE", help="a file, a folder, a pattern "
                        "such as 'a/*.txt', - for standard input, shakespeare or tinyshakespeare")
    parser.add_argument("-o", "--output", metavar="DIR", help="write DIR/documents.jsonl")
    data.add_flags(parser, ReadConfig)


def save(documents, source, folder=None, show=False):
    """Write (name, text) pairs to folder/documents.jsonl, if one is given; return what to say."""
    documents = iter(tqdm(documents, "reading", unit=" documents", leave=False, disable=None))
    first, counts = [*islice(documents, 1)], Counter()
    if not first:
        raise ValueError(f"there is no text in {', '.join(source)}")

    def write(file):
        for name, text in chain(first, documents):
            if show:
                tqdm.write(f"{len(text):10,} characters  {name}: {text[:60]!r}")
            file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            counts.update(documents=1, characters=len(text), undecodable=text.count(NO_TEXT))

    if folder is None:
        with open(os.devnull, "wb") as file:
            write(file)
    else:
        path = Path(folder, "documents.jsonl")
        real = Path(os.path.realpath(path))
        taken = map(os.path.realpath, (*find(source), *filter(os.path.isdir, source)))
        if {real, *real.parents} & set(map(Path, taken)) or not folder:
            raise ValueError(f"{path} would be one of the sources: name another folder with -o")
        made = [p for p in path.parents if not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(path, write)
        except BaseException:       # of a source that is refused later on, no folder stays
            for empty in made:
                empty.rmdir()
            raise
    return (", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
            + (f", written to {path}" if folder else "; -o DIR writes them"))


def main():
    parser = Parser("Make documents of any text, for data.py to read. Without -o, list them.")
    add_source_flags(parser, nargs="+")
    options = parser.parse_args()
    with clear_errors():
        found = documents(options.source, data.checked(ReadConfig, vars(options)))
        print(save(found, options.source, options.output, show=not options.output))


if __name__ == "__main__":
    main()
