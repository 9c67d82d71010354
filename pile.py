"""
The pile: all documents, clean, one after the other in one file, and which of them to learn from.

The pile may be larger than memory, so it lies on the disk. In memory is only where each document
begins and ends; to leave one out, or to keep the end of one for validation, is to change numbers.

    gather              read and clean all files, write the pile
    drop_duplicates     documents that are like an earlier one are left out
    split               what the model learns from, and what it is only ever tested on

    python pile.py notes/ a.txt         # the documents of some files, and who learns from which
"""
import codecs
import hashlib
import sys
import tempfile
from array import array
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

import clean
import ingest
import overlap

MEGABYTE = 1 << 20


def progress(what, n_bytes):
    """A bar that is seen on a terminal, and only there."""
    return tqdm(desc=what, total=n_bytes, unit="B", unit_scale=True, leave=False, disable=None)


def gather(files, path, cleaner, n_bytes=None, **reading):
    """Read the documents of all files, clean them, and write them to path as UTF-8.

    files as ingest.find gives them, n_bytes long in all; reading: field, encoding, undecodable, as
    for ingest.documents. Returns the documents that are not empty, as arrays (n,): characters,
    start and stop in bytes, and a hash. And the sha256 of each file as it was read: one that
    changes under our eyes is known by what we saw of it.
    """
    cleaner.note("empty_documents", 0, None)
    characters, stops, hashes, digests = array("q"), array("q", [0]), array("Q"), []
    with open(path, "wb") as pile, progress("reading", n_bytes) as bar:
        for name, open_file in files:
            with open_file() as file:
                witness = ingest.Witness(file, bar.update)
                for where, texts in ingest.documents(name, witness, note=cleaner.note, **reading):
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


def without(documents, dropped):
    return SimpleNamespace(**{key: array[~dropped] for key, array in vars(documents).items()})


def beginning(documents, which, path):
    """The first words of the first of these documents: an example for the report."""
    for text in chain.from_iterable(read(path, spans(documents)[np.flatnonzero(which)[:1]])):
        return text[:60]


def drop_duplicates(documents, path, note):
    """The documents without those whose text an earlier one has, too.

    A hash of 64 bits stands for the text: among ten million documents, the probability that any
    two different ones have the same is 1 in 300,000.
    """
    again = np.ones(len(documents.hash), dtype=bool)
    again[np.unique(documents.hash, return_index=True)[1]] = False          # the first of each
    note("duplicates", int(again.sum()), beginning(documents, again, path))
    return without(documents, again)


def drop_near_duplicates(documents, path, note):
    """The documents without those that resemble an earlier one. Signatures wait on the disk."""
    with tempfile.TemporaryFile(dir=Path(path).parent) as file:
        for texts in read(path, spans(documents)):
            file.write(overlap.signature(texts).tobytes())
        file.flush()
        signatures = np.memmap(file, np.uint32, "r").reshape(-1, overlap.N_HASHES)
        nearly = overlap.near_duplicates(signatures) >= 0
    note("near_duplicates", int(nearly.sum()), beginning(documents, nearly, path))
    return without(documents, nearly)


# ------------------------------------------------------------------------------------------
# Split.

MANY = 10   # from this many documents on, validation takes whole ones


def split(lengths, val_fraction, seed):
    """How many characters of each document, from its start on, the model learns from: (n,).

    Of many documents, random whole ones are kept aside, as many as fit val_fraction of the
    characters: a model that has read half of Hamlet finds the other half easier than a play it
    has never met. Where those that fit are less than half of that, as of one book and nine notes,
    the end of the longest document is added. Of few documents, the end of each is kept aside.
    """
    lengths = np.asarray(lengths)
    if len(lengths) < MANY:
        return (lengths * (1 - val_fraction)).astype(np.int64)
    wanted = room = val_fraction * lengths.sum()
    shortest, learned = lengths.min(), lengths.copy()
    for i in np.random.default_rng(seed).permutation(len(lengths)):
        if lengths[i] <= room:
            room -= lengths[i]
            learned[i] = 0
        if room < shortest:
            break
    if room > wanted / 2:
        longest = lengths.argmax()              # longer than room, or it had been taken
        learned[longest] = int(lengths[longest] - room)
    return learned


def byte_offset(path, start, n):
    """Where in a file of UTF-8 the n-th character after the byte start begins."""
    with open(path, "rb") as file:
        file.seek(start)
        while True:
            block = np.frombuffer(file.read(MEGABYTE), dtype=np.uint8)
            if not len(block):
                raise OSError(f"{path} has fewer characters than it had when it was written")
            begins = np.flatnonzero((block & 0b11000000) != 0b10000000)     # of a character
            if n < len(begins):
                return start + begins[n]
            n, start = n - len(begins), start + len(block)


def split_spans(documents, learned, path):
    """The spans of bytes of both splits, empty ones left out."""
    cut = np.where(learned == 0, documents.start, documents.stop)
    for i in np.flatnonzero((learned > 0) & (learned < documents.characters)):
        cut[i] = byte_offset(path, int(documents.start[i]), int(learned[i]))
    train, val = np.stack([documents.start, cut], 1), np.stack([cut, documents.stop], 1)
    return train[train[:, 0] < train[:, 1]], val[val[:, 0] < val[:, 1]]


# ------------------------------------------------------------------------------------------
# See it at work.


def main():
    cleaner = clean.Cleaner(["line_ends", "nfc", "trailing_spaces"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pile"
            documents, _ = gather(ingest.find(sys.argv[1:] or ["shakespeare"]), path, cleaner)
            if not len(documents.start):
                raise ValueError("there is no text")
            documents = drop_duplicates(documents, path, cleaner.note)
            learned = split(documents.characters, val_fraction=0.1, seed=1)
            print("characters  to learn from  begins")
            for i, texts in enumerate(read(path, spans(documents))):
                print(f"{documents.characters[i]:10,}{learned[i]:15,}  {next(texts)[:60]!r}")
    except (OSError, ValueError) as error:
        print(f"pile.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
