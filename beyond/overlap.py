"""
Overlap: which documents are the same, and what training and validation share.

The same page is on the web a hundred times, each time a little different, and a model that reads it
so often memorises it. One that was trained on what it is evaluated on seems better than it is. Both
are questions about runs of characters that two texts share. There are too many of those to keep, so
keep numbers that stand for them, 64 for a document of any length (MinHash):

    python -m beyond.overlap notes/                     # how many are the same? nothing is written
    python -m beyond.overlap notes/ --near -o distinct  # write distinct/documents.jsonl
    python -m beyond.overlap --leaks corpora/NAME       # of a corpus that data.py has prepared
    python -m beyond.overlap            # a text, its copies with more and more mistakes, measured

In memory are one document, and of each that is kept 100 bytes, with --near about 2,000.
Paper: On the Resemblance and Containment of Documents (Broder, 1997).
"""
import hashlib
import random
import unicodedata

from beyond.ingest import ReadConfig, add_source_flags, documents, save
from data import checked, load_corpus
from sample import read_config
from tokenizer import Parser, clear_errors

import numpy as np
from tqdm import tqdm

MIX = np.uint64(0x9E3779B97F4A7C15)         # odd, so that multiplying by it loses nothing


def gram_hashes(text, n):
    """A hash of every n characters in a row: (len(text) - n + 1,) uint64, empty if that is < 1.

    That of a long run comes from those of two shorter ones, the one it begins and the one it ends
    with: of 1 character, then of 2, 4, 8 ... and of n, where the two overlap.
    """
    def mix(numbers):       # the product's high bits depend on all others; so let low bits, too
        numbers = numbers * MIX
        return (numbers ^ (numbers >> np.uint64(32))) * MIX

    hashes, length = mix(np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)), 1
    while length < n:
        step = min(length, n - length)
        hashes, length = mix(hashes[:-step] * np.uint64(3) + hashes[step:]), length + step
    return hashes


def pieces(text, n, size=1 << 20):
    """A long text in pieces, such that each n characters in a row stand in just one of them."""
    return (text[start:start + size + n - 1] for start in range(0, len(text), size))


# ---- Nearly the same. Two documents resemble each other if they share many runs of characters,
# called shingles. The measure is Jaccard's: shingles in both, over shingles in either. Give each
# shingle a random number: the probability that the smallest number of one document is also the
# smallest of the other is just that. So the smallest numbers, for N_HASHES ways to give them, are a
# signature of fixed size from which the resemblance of documents of any length can be read.

SHINGLE = 16            # characters
N_HASHES = 64
BANDS = 16              # of 4 hashes each: only documents that have a band in common are compared
RESEMBLANCE = 0.8       # from here on, two documents are nearly the same
MULTIPLY, ADD = np.random.default_rng(0).integers(2 ** 32, size=(2, N_HASHES, 1), dtype=np.uint32)
MULTIPLY |= np.uint32(1)


def signature(text):
    """The (N_HASHES,) smallest numbers of a document; None if it is shorter than a shingle."""
    smallest = []
    for piece in pieces(text.lower(), SHINGLE):
        shingles = (gram_hashes(piece, SHINGLE) >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(shingles), 4096):         # small enough to stay in the cache
            numbers = MULTIPLY * shingles[start:start + 4096] + ADD         # (N_HASHES, 4096)
            smallest.append(numbers.min(axis=1))
    return np.min(smallest, axis=0) if smallest else None


def near_duplicate(text, index):
    """Does the text resemble one in the index, {hash of a band: signature}? If not, add it."""
    own = signature(text)
    if own is None:
        return False
    keys = [hash((i, band.tobytes())) for i, band in enumerate(np.split(own, BANDS))]
    if any((index[key] == own).mean() >= RESEMBLANCE for key in keys if key in index):
        return True
    for key in keys:
        index.setdefault(key, own)
    return False


def distinct(documents, near, report):
    """The documents, (name, text), without those that are the same as an earlier one, or nearly.

    Line ends, the code of accents and white space around a text do not count. A hash of 64 bits
    stands for it: of ten million documents, any two different ones have the same with probability
    1/300,000. report[what] becomes (how many were left out, the first of them).
    """
    seen, index = set(), {}
    for name, text in documents:
        same = unicodedata.normalize("NFC", "\n".join(text.splitlines()).strip())
        digest = hashlib.blake2b(same.encode(), digest_size=8).digest()
        what = ("the same" if digest in seen else
                "nearly the same" if near and near_duplicate(text, index) else None)
        seen.add(digest)
        if what:
            n, example = report.get(what, (0, f"{name}: {text[:60]!r}"))
            report[what] = n + 1, example
        else:
            yield name, text


# ---- Leaks.

GRAM = 50               # characters in a row that are hardly the same by chance
SAMPLE = 100_000        # about as many of validation's are looked for
LEAK = 0.05             # of a larger share a person is warned


def leak_check(train, val, n_val):
    """The share of the validation texts' runs of 50 characters that the training texts have, too.

    If n_val, about how many characters val has, is large, a sample of them is looked for: the runs
    whose hash is small, the same ones wherever they occur.
    """
    limit = np.uint64((2 ** 64 - 1) // max(1, n_val // SAMPLE))

    def sampled(texts):
        for text in texts:
            for piece in pieces(text, GRAM):
                hashes = gram_hashes(piece, GRAM)
                yield hashes[hashes <= limit]

    wanted, times = np.unique(np.concatenate([np.empty(0, np.uint64), *sampled(val)]),
                              return_counts=True)
    if not len(wanted):
        raise ValueError(f"validation has no {GRAM} characters in a row")
    found = np.zeros(len(wanted), dtype=bool)
    for hashes in sampled(train):
        position = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
        found[position[wanted[position] == hashes]] = True
    return float(times[found].sum() / times.sum())


def texts_of(ids, tokenizer, block=1 << 20):
    """The documents of a split, decoded one at a time; <|endoftext|> stands before each."""
    start = 0
    for first in range(0, len(ids), block):
        for stop in first + np.flatnonzero(ids[first:first + block] == tokenizer.eot):
            if start < stop:
                yield tokenizer.decode(ids[start:stop].tolist())
            start = stop + 1
    if start < len(ids):
        yield tokenizer.decode(ids[start:].tolist())


def seen(questions, run):
    """The ids of those questions, (id, text), of whose runs of 50 characters at least half stand in
    what a run was trained on. Shorter ones are not looked for; None if that text is not here."""
    try:
        corpus = load_corpus(read_config(run)["corpus"]["folder"])
    except ValueError:
        return None
    hashes = {id: gram_hashes(text, GRAM) for id, text in questions if len(text) >= GRAM}
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes.values()]))     # (n,)
    found = np.zeros(len(wanted), dtype=bool)
    for text in texts_of(corpus.train, corpus.tokenizer):
        for piece in pieces(text, GRAM):
            found |= np.isin(wanted, gram_hashes(piece, GRAM))
    return [id for id, h in hashes.items() if np.isin(h, wanted[found]).mean() >= 0.5]


def leaks(ids):
    """What seen() found, in words."""
    if ids is None:
        return "Whether the run has read them cannot be known: its training text is not here"
    listed = ": " * bool(ids) + ", ".join(ids[:9]) + " ..." * (len(ids) > 9)
    return f"{len(ids)} of the questions stand in the text it was last trained on{listed}"


def show_leaks(folder):
    corpus = load_corpus(folder)
    train, val = (tqdm(texts_of(ids, corpus.tokenizer), f"decoding {name}", unit=" documents",
                       total=corpus.meta[name]["documents"], leave=False, disable=None)
                  for name, ids in (("train", corpus.train), ("val", corpus.val)))
    leak = leak_check(train, val, corpus.meta["val"]["characters"])
    print(f"{leak:.2%} of the runs of {GRAM} characters in validation stand in training, too"
          + "\nWARNING: validation flatters the model; does the text hold copies?" * (leak > LEAK))


def show_estimates():
    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=3000))
    print("characters changed   resemblance   read off signatures   runs of 50 still there")
    for n in (0, 1, 3, 10, 30, 100):
        other = "".join("#" if n and i % (3000 // n) == 20 else c for i, c in enumerate(text))
        a, b = ({t[i:i + SHINGLE] for i in range(len(t) - SHINGLE + 1)} for t in (text, other))
        read, leak = (signature(text) == signature(other)).mean(), leak_check([text], [other], 3000)
        print(f"{n:18}{len(a & b) / len(a | b):14.3f}{read:22.3f}{leak:25.3f}")


def main():
    parser = Parser("Leave out documents like an earlier one; alone, show how that is measured.")
    add_source_flags(parser, nargs="*")
    parser.add_argument("--near", action="store_true", help="leave out nearly the same ones, too")
    parser.add_argument("--leaks", metavar="CORPUS", help="how much of the validation split of a "
                        "corpus, prepared by data.py, stands in its training split, too?")
    options, report = parser.parse_args(), {}
    with clear_errors():
        leaks = options.leaks is not None
        unused = [name for name, value in vars(options).items() if value and name != "leaks"]
        if unused and (leaks or not options.source):
            raise ValueError(f"{unused[0]} has no use "
                             + ("with --leaks" if leaks else "without a source"))
        if leaks:
            show_leaks(options.leaks)
        elif options.source:
            found = documents(options.source, checked(ReadConfig, vars(options)))
            said = save(distinct(found, options.near, report), options.source, options.output)
            for what, (n, example) in report.items():
                print(f"{n:,} left out, {what} as an earlier one, such as {example}")
            print(said)
        else:
            show_estimates()


if __name__ == "__main__":
    main()
