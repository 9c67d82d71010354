"""
Memorised: does a text say what was read, word for word?

That a model writes well proves little if it writes down what it has read. So look for the longest
stretch of its text that stands in the training text as it is. To compare each stretch with each
place would take for ever; books have an index for that. Sort all places of the training text by
what one reads from there on (a suffix array): then whatever begins alike stands side by side, and
to find a stretch, open the index in the middle, then in the middle of the half that must hold it,
and so on.

How long is too long? People share phrases, too. Passages of the validation split, which nobody
copied, say how long a stretch honest text has in common with the training text.

    python memorised.py "To be, or not to be, I ask"            # in Shakespeare's plays
    python memorised.py --file essay.txt --source my_notes/     # in your own texts

Paper: Suffix Arrays: A New Method for On-Line String Searches (Manber and Myers, 1990), which
sorts by doubling, as here.
"""
import json
from bisect import bisect_left

import numpy as np
from tqdm import tqdm

from cli import Parser, add_flags, chosen, clear_errors
from data import DataConfig, load_corpus, prepare, read_text

MOST = 20_000_000       # bytes of the training text that are searched; each takes some 60 of memory


def suffix_array(text):
    """All places of a text (bytes), sorted by what stands from there to the end: (n,) ints.

    Begin with the first 7 bytes, which one number holds. A sorted order by h bytes gives each
    place a rank, and two ranks make an order by 2h: that of the place, and that of the place h
    further on. A round for each doubling, until no two places are alike.
    """
    n, h = len(text), 7
    padded = np.zeros(n + h, dtype=np.int64)
    padded[:n] = np.frombuffer(text, dtype=np.uint8)
    padded[:n] += 1                                     # 0 is for what is beyond the end
    key = np.zeros(n, dtype=np.int64)
    for i in range(h):
        key = key * 257 + padded[i:i + n]                               # (n,)
    while True:
        order = np.argsort(key)                                         # (n,)
        key = key[order]
        rank = np.empty_like(order)
        rank[order] = np.append(0, np.cumsum(key[1:] != key[:-1]))      # (n,), from 0 on
        if n < 2 or rank[order[-1]] == n - 1:
            return order
        further = np.zeros_like(rank)
        further[:-h] = rank[h:] + 1
        key = rank * (n + 1) + further
        h *= 2


def find(stretch, text, order):
    """A place where the stretch stands in the text, or -1."""
    def first_bytes(place):
        return text[place:place + len(stretch)]

    i = bisect_left(order, stretch, key=first_bytes)
    return order[i] if i < len(order) and first_bytes(order[i]) == stretch else -1


def longest_copy(passage, text, order):
    """The longest stretch of a passage (bytes) that stands in the text: itself, and where there.

    A stretch longer than the best so far begins with one that is longer by one. So ask for that,
    from each start, until the answer is no.
    """
    best, where = b"", 0
    for start in range(len(passage)):
        while start + len(best) < len(passage):
            stretch = passage[start:start + len(best) + 1]
            place = find(stretch, text, order)
            if place < 0:
                break
            best, where = stretch, place
    return best, where


def characters(stretch):
    """How many whole characters there are in bytes that may begin or end within one."""
    return len(stretch.decode("utf-8", errors="ignore"))


def split_text(corpus, split):
    """The text of a split: its first MOST bytes."""
    return corpus.tokenizer.decode(getattr(corpus, split)[:MOST]).encode()[:MOST]


def honest_lengths(size, val, text, order, n=200):
    """How long the longest copy is, in characters, in each of up to n passages of val, size bytes
    long, that do not overlap.
    """
    n = min(n, len(val) // max(1, size))
    starts = np.linspace(0, len(val) - size, n).astype(int).tolist()
    return [characters(longest_copy(val[start:start + size], text, order)[0])
            for start in tqdm(starts, "comparing", unit="passage", leave=False, disable=None)]


def report(passage, val, text, order):
    """What there is to say of a passage: numbers and the stretch itself, as a dict."""
    stretch, where = longest_copy(passage, text, order)
    lengths, end = honest_lengths(len(passage), val, text, order), where + len(stretch)
    return {"characters": characters(passage), "copied_characters": characters(stretch),
            "copied": stretch.decode("utf-8", errors="ignore"),
            "before": text[max(0, where - 40):where].decode("utf-8", errors="ignore"),
            "after": text[end:end + 40].decode("utf-8", errors="ignore"),
            "searched_bytes": len(text),
            "honest_passages": len(lengths),
            "honest_median": float(np.median(lengths)) if lengths else None,
            "honest_longest": max(lengths, default=None)}


def describe(r):
    """The same in words; a verdict only where there is enough honest text to compare with."""
    stretch, where = r["copied"], "the training text"
    if r["searched_bytes"] == MOST:
        where += f" (its first {MOST:,} bytes)"
    if len(stretch) > 300:
        stretch = f"{stretch[:150]} ... {stretch[-150:]}"
    if r["honest_passages"] < 20:
        verdict = (f"The validation split has {r['honest_passages']} passages as long, too few to "
                   "say whether honest text shares less.")
    else:
        more = r["copied_characters"] > r["honest_longest"]
        verdict = f"""\
Of {r['honest_passages']} passages of the validation split, as long, half share at most \
{r['honest_median']:.0f} characters in a row
with the training text, and none more than {r['honest_longest']}. So it shares \
{"more than honest text does: it copies" if more else "no more than honest text does"}."""
    return f"""\
{r['characters']:,} characters. The longest stretch of them that stands in {where} has \
{r['copied_characters']:,}:

{r['before']}[{stretch}]{r['after']}

{verdict}"""


def main():
    parser = Parser("Find the longest stretch of a text that stands in a training text.")
    parser.add_argument("text", nargs="?", default="To be, or not to be, I ask",
                        help="the text (default: six words of Hamlet's, and two more)")
    parser.add_argument("--file", metavar="FILE", help="the same, from a file")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no prose")
    add_flags(parser, DataConfig)
    options = parser.parse_args()
    with clear_errors():
        passage = options.text
        if options.file:
            passage = read_text(options.file)
        passage = passage.encode()
        if not passage:
            raise ValueError("there is no text to look for")
        corpus = load_corpus(prepare(DataConfig(**chosen(options, DataConfig))))
    with clear_errors(kinds=()):        # Ctrl-C is no error
        text, val = split_text(corpus, "train"), split_text(corpus, "val")
        found = report(passage, val, text, suffix_array(text))
    print(json.dumps(found) if options.json else "There are " + describe(found))


if __name__ == "__main__":
    main()
