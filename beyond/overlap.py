"""
Overlap: which documents are the same, and what training and validation may share.

The same page is on the web a hundred times, and each time a little different. A model that reads
it a hundred times learns it by heart; a model that has read in training what it is asked in
validation seems better than it is. Both are questions about runs of characters that two texts
share, and there are too many of those to keep. So keep numbers that stand for them:

    gram_hashes         a 64-bit number for every n characters in a row
    signature           64 numbers that stand for a document, however long
    near_duplicates     which documents have nearly the same signature
    drop_...            documents that are like an earlier one are left out
    split               what the model learns from, and what it is only ever tested on
    leak_check          how much of validation has been seen in training all the same

    python overlap.py                   # a text, its copies with more and more mistakes, measured

Paper: On the Resemblance and Containment of Documents (MinHash; Broder, 1997).
"""
import random
import string
import tempfile
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ingest import MEGABYTE, read, spans

BASE = np.uint64(0x9E3779B97F4A7C15)                        # odd, so that it has an inverse
INVERSE = np.uint64(pow(int(BASE), -1, 2 ** 64))


@lru_cache(maxsize=4)
def powers(base, n):
    return np.cumprod(np.full(n, base)) * (INVERSE if base == BASE else BASE)       # 1, base, ...


def gram_hashes(text, n):
    """A hash of every n characters in a row: (len(text) - n + 1,) uint64, empty if that is < 1.

    A window's hash is sum c_i BASE^(i - start) modulo 2^64. That sum is the difference of two
    running sums, over BASE^start; so it takes no longer however many characters a window has.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    size = len(codes)
    if size < n:
        return np.empty(0, np.uint64)
    length = 1 << size.bit_length()
    sums = np.zeros(size + 1, np.uint64)
    np.cumsum(codes * powers(BASE, length)[:size], out=sums[1:])
    hashes = (sums[n:] - sums[:-n]) * powers(INVERSE, length)[:size - n + 1]
    hashes ^= hashes >> np.uint64(32)                       # let the high bits stir the low ones
    hashes *= BASE
    return hashes ^ (hashes >> np.uint64(29))


# ------------------------------------------------------------------------------------------
# Nearly the same. Two documents resemble each other if they share many runs of characters, called
# shingles. The measure is Jaccard's: shingles in both, over shingles in either. Give each shingle
# a random number: the probability that the smallest number of one document is also the smallest of
# the other is just that. So the smallest numbers, for N_HASHES ways to give them, are a signature
# of fixed size from which the resemblance of documents of any length can be read.

SHINGLE = 16            # characters
N_HASHES = 64
BANDS = 16              # of 4 hashes each: documents are compared with the first that has the same
RESEMBLANCE = 0.8       # from here on, two documents are nearly the same
NONE = np.uint32(2 ** 32 - 1)
MULTIPLY, ADD = np.random.default_rng(0).integers(2 ** 32, size=(2, N_HASHES, 1), dtype=np.uint32)
MULTIPLY |= np.uint32(1)


def signature(texts):
    """The (N_HASHES,) smallest numbers of a document that comes in pieces; NONE if it is short."""
    smallest = np.full(N_HASHES, NONE)
    for text in texts:
        shingles = (gram_hashes(text.lower(), SHINGLE) >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(shingles), 4096):         # small enough to stay in the cache
            numbers = MULTIPLY * shingles[start:start + 4096] + ADD         # (N_HASHES, 4096)
            smallest = np.minimum(smallest, numbers.min(axis=1))
    return smallest


def near_duplicates(signatures):
    """For each of n documents an earlier one that it resembles, or -1: (n,).

    The earlier one is itself like no other: if C is like B and B like A, but C is not like A, then
    C stays. signatures (n, N_HASHES) may lie on disk: a band at a time is in memory.
    """
    n, pairs = len(signatures), [np.empty(0, np.int64)]     # a pair (i, j) as the number i * n + j
    for band in np.split(np.arange(N_HASHES), BANDS):
        rows = signatures[:, band].astype(np.uint64)                        # (n, 4)
        key = (rows * BASE ** np.arange(1, 5, dtype=np.uint64)).sum(axis=1)
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
        leader = first[group]                       # the first document with the same band
        alike = np.flatnonzero((leader < np.arange(n)) & (rows[:, 0] != NONE))
        for some in np.array_split(alike, len(alike) // 10_000 + 1):
            agree = (signatures[some] == signatures[leader[some]]).mean(axis=1)
            some = some[agree >= RESEMBLANCE]
            pairs.append(some * n + leader[some])
    original = [-1] * n
    for pair in np.unique(np.concatenate(pairs)).tolist():  # document by document, i > j
        i, j = divmod(pair, n)
        if original[i] == original[j] == -1:
            original[i] = j
    return np.array(original, dtype=np.int64)


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
            file.write(signature(texts).tobytes())
        file.flush()
        signatures = np.memmap(file, np.uint32, "r").reshape(-1, N_HASHES)
        nearly = near_duplicates(signatures) >= 0
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
        longest = lengths.argmax()              # longer than room: else, all would have fitted
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
# Leaks.

GRAM = 50               # characters in a row that are hardly the same by chance
SAMPLE = 100_000        # about as many of validation's are looked for
LEAK = 0.05             # above this share a person should look why


def leak_check(train, val, n_val):
    """The share of validation's runs of 50 characters that also occur in training.

    train and val are iterables of documents, each an iterable of pieces of text; n_val is about
    how many characters val has. If those are many, a sample is looked for: the runs whose hash is
    small, the same ones wherever they occur. Returns None if validation has no such run.
    """
    limit = np.uint64((2 ** 64 - 1) // max(1, n_val // SAMPLE))

    def sampled(documents):
        for texts in documents:
            tail = ""
            for text in texts:
                hashes = gram_hashes(tail + text, GRAM)
                yield hashes[hashes <= limit]
                tail = (tail + text)[1 - GRAM:]

    wanted, times = np.unique(np.concatenate([np.empty(0, np.uint64), *sampled(val)]),
                              return_counts=True)
    if not len(wanted):
        return None
    found = np.zeros(len(wanted), dtype=bool)
    for hashes in sampled(train):
        place = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
        found[place[wanted[place] == hashes]] = True
    return float(times[found].sum() / times.sum())


# ------------------------------------------------------------------------------------------
# See it at work.


def main():
    rng = random.Random(1)
    text = "".join(rng.choices(string.ascii_lowercase + " ", k=3000))
    print("characters changed   resemblance   read off signatures   runs of 50 still there")
    for n in (0, 3, 10, 30, 100, 300):
        other = list(text)
        for i in rng.sample(range(len(text)), n):
            other[i] = rng.choice("0123456789")
        other = "".join(other)
        a, b = ({t[i:i + SHINGLE] for i in range(len(t) - SHINGLE + 1)} for t in (text, other))
        estimate = (signature([text]) == signature([other])).mean()
        share = leak_check([[text]], [[other]], len(other))
        print(f"{n:18}{len(a & b) / len(a | b):14.3f}{estimate:22.3f}{share:25.3f}")


if __name__ == "__main__":
    main()
