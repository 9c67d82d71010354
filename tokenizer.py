"""Tokenizers: text becomes integers, and integers become text again.

A tokenizer cuts text into tokens and gives each the id that it has in a vocabulary, an integer;
decoding puts tokens side by side again. How long should a token be?

    characters   a small vocabulary, but long sequences, and much effort spent on spelling
    words        short sequences, but no vocabulary holds every word: the others are <unk>, unknown
    byte pairs   GPT's way. Begin with the 256 bytes, so that nothing is unknown. Then, again and
                 again, make one token of the two that most often stand side by side. In the end
                 frequent words are one token, and rare words a few (Sennrich et al., 2016)

    python tokenizer.py "any text"              # the text as each tokenizer cuts it
    python tokenizer.py "any text" --merges 20  # the same after each of the first 20 merges
"""
import argparse
import contextlib
import json
import os
import sys
from collections import Counter, defaultdict
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from pathlib import Path

import regex
import tiktoken
from tqdm import tqdm

EOT = "<|endoftext|>"       # GPT-2's name of what stands between documents; here, before each


class Tokenizer:
    """A tokenizer has a kind, vocab (the bytes of each id), eot (the id of <|endoftext|>), encode()
    and saved (for JSON). Text is only text: who types "<|endoftext|>" does not get that token."""
    vocab_size = property(lambda self: len(self.vocab))

    def decode(self, ids):
        """Text again. A token may be part of a character: what is not UTF-8 becomes U+FFFD."""
        return b"".join([self.vocab[i] for i in ids]).decode("utf-8", errors="replace")

    def save(self, path):
        """As JSON. A token of byte pairs shows a byte as that Latin-1 character: "é" is "Ã©"."""
        text = json.dumps({"kind": self.kind, **self.saved}, ensure_ascii=False, indent=1)
        write_whole(path, lambda file: file.write(text.encode()))


# A word is letters, with their accents and with apostrophes inside (aujourd'hui, o'er); or digits;
# or any one other character, spaces too: nothing is dropped, so that joining gives the text back.
WORD = regex.compile(r"(?s)[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*|\p{N}+|.")


class SymbolTokenizer(Tokenizer):
    """One id for each known symbol, as split() cuts a text; 0 is <unk>, 1 is <|endoftext|>."""
    unk, eot = 0, 1

    def __init__(self, symbols):
        self.saved = {"symbols": list(symbols)}
        self.vocab = [token.encode() for token in ("\N{REPLACEMENT CHARACTER}", EOT, *symbols)]
        self.id_of = {symbol: i for i, symbol in enumerate(symbols, start=2)}

    @classmethod
    def train(cls, texts, vocab_size=0):
        """Keep the most frequent symbols; vocab_size counts the two special ones, too; 0: all."""
        counts = Counter(chain.from_iterable(map(cls.split, texts)))
        ranked = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
        return cls(ranked[:max(vocab_size - 2, 0)] if vocab_size else ranked)

    def encode(self, text):
        return [self.id_of.get(symbol, self.unk) for symbol in self.split(text)]


class CharTokenizer(SymbolTokenizer):
    kind, split = "char", list


class WordTokenizer(SymbolTokenizer):
    kind, split = "word", WORD.findall


# Text is first split into words, each with the space before it, and no merge reaches across: else
# "dog." "dog!" and "dog?" would each take a token. GPT-2's own pattern:
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def learn_merges(word_counts):
    """Yield the most frequent pair of ids and how often it occurs, merged everywhere; repeat.
    word_counts maps each word to how often it occurs. Ids below 256 are bytes, a merge makes the
    next id. Of equally frequent pairs the smaller ids go first. A merge changes few words: keep for
    each pair the words it is in, correct the counts there, and let a heap find the maximum."""
    words = [list(word.encode()) for word in word_counts]
    times = list(word_counts.values())
    count, words_with = Counter(), defaultdict(set)
    for w, ids in enumerate(words):
        for pair in zip(ids, ids[1:]):
            count[pair] += times[w]
            words_with[pair].add(w)
    heap = [(-n, pair) for pair, n in count.items()]                    # the smallest is on top
    heapify(heap)
    new = 256
    while heap:
        n, pair = heappop(heap)
        if count[pair] != -n:       # other merges have taken some of it: back, with what is left
            if count[pair]:
                heappush(heap, (-count[pair], pair))
            continue
        yield pair, count[pair]
        (left, right), made = pair, set()
        for w in words_with.pop(pair):
            ids, i = words[w], 0
            while i < len(ids) - 1:
                if ids[i] == left and ids[i + 1] == right:
                    ids[i:i + 2] = [new]
                    before, after = ids[i - 1:i], ids[i + 1:i + 2]      # none at a word's ends
                    for old, p in ([((x, left), (x, new)) for x in before]
                                   + [((right, x), (new, x)) for x in after]):
                        count[old] -= times[w]
                        count[p] += times[w]
                        words_with[p].add(w)
                        made.add(p)
                i += 1
        for p in filter(count.get, made):
            heappush(heap, (-count[p], p))
        new += 1


# Where can a text be cut, so that the ids of its pieces are those of the whole? After a letter or
# digit and before a space or punctuation (but for the ' inside a word) each pattern ends a word.
BOUNDARY = regex.compile(r"(?<=[\p{L}\p{N}])(?=[^\p{L}\p{N}\p{M}'’])")


def chunks(text, size=1 << 16):
    """Pieces of about size characters; with no boundary in three times that, cut anyway."""
    start = 0
    while start < len(text):
        cut = BOUNDARY.search(text, start + size, start + 3 * size)
        stop = cut.start() if cut else start + 3 * size
        yield text[start:stop]
        start = stop


class BPETokenizer(Tokenizer):
    """vocab lists the tokens in the order in which they were learned: an id is also a rank. A very
    rare byte may have none, in vocabularies that others learned: encode() leaves it out."""
    def __init__(self, vocab, pattern=GPT2_PATTERN, kind="bpe"):
        self.vocab, self.pattern, self.kind = vocab, pattern, kind
        self.saved = {"pattern": pattern, "vocab": [token.decode("latin-1") for token in vocab]}
        self.eot = vocab.index(EOT.encode())
        self.rank = {token: i for i, token in enumerate(vocab) if token and i != self.eot}
        rank = {bytes([b]): len(vocab) + b for b in range(256)} | self.rank     # it wants all 256
        self.tiktoken = tiktoken.Encoding(kind, pat_str=pattern, special_tokens={},
                                          mergeable_ranks=rank)

    @classmethod
    def train(cls, texts, vocab_size=1024):
        """Learn vocab_size tokens: 256 bytes, merges, <|endoftext|>; fewer if no pair is left."""
        if vocab_size < 257:
            raise ValueError(f"vocab_size is {vocab_size}; the bytes and {EOT} alone take 257")
        words, pieces = regex.compile(GPT2_PATTERN), chain.from_iterable(map(chunks, texts))
        counts = Counter(chain.from_iterable(map(words.findall, pieces)))
        vocab = [bytes([b]) for b in range(256)]
        merges = islice(learn_merges(counts), vocab_size - 257)
        for (left, right), _ in tqdm(merges, "merging", vocab_size - 257, False, disable=None):
            vocab.append(vocab[left] + vocab[right])
        return cls([*vocab, EOT.encode()])

    @classmethod
    def published(cls, name):
        """What OpenAI learned for GPT-2, GPT-4 or GPT-4o; the package tiktoken downloads it."""
        try:
            theirs = tiktoken.get_encoding(name)
        except OSError:
            raise ValueError(f"{name} cannot be downloaded; set TIKTOKEN_CACHE_DIR?") from None
        vocab = [b""] * theirs.n_vocab                      # some ids stand for nothing
        for token in (*theirs.token_byte_values(), EOT.encode()):
            vocab[theirs.encode_single_token(token)] = token
        return cls(vocab, theirs._pat_str, name)

    def encode_word(self, word):
        """encode() of one word (bytes), written out: of all pairs, merge the one learned first."""
        tokens = [bytes([b]) for b in word]
        while len(tokens) > 1:
            merged = [a + b for a, b in zip(tokens, tokens[1:])]
            first = min(merged, key=lambda token: self.rank.get(token, len(self.vocab)))
            if first not in self.rank:
                break
            i = merged.index(first)
            tokens[i:i + 2] = [first]
        return [self.rank[token] for token in tokens if token in self.rank]

    def encode(self, text):
        """The ids of every word of a text, by OpenAI's tiktoken, on all cores if it is long."""
        ids = ([self.tiktoken.encode_ordinary(text)] if len(text) < 1 << 16 else
               self.tiktoken.encode_ordinary_batch(list(chunks(text)), num_threads=os.cpu_count()))
        V, ids = len(self.vocab), chain.from_iterable(ids)      # V or more: a byte not in vocab
        return list(ids) if self.tiktoken.n_vocab <= V else [i for i in ids if i < V]


LEARNED = {"char": (CharTokenizer, 0), "word": (WordTokenizer, 8192), "bpe": (BPETokenizer, 1024)}
PUBLISHED = ("gpt2", "cl100k_base", "o200k_base")
TEXT_BYTES = {bytes([b]) for b in (*b"\t\n", *range(32, 127), *range(128, 192), *range(194, 241))}


def build(name, texts=(), vocab_size=0):
    """A tokenizer: learned from the texts, or a published one, or loaded from a tokenizer.json."""
    if vocab_size and name not in LEARNED:
        raise ValueError(f"vocab_size is for {', '.join(LEARNED)}; {name} has its own")
    if name in LEARNED:
        kind, usual_size = LEARNED[name]
        return kind.train(texts, vocab_size or usual_size)
    if name in PUBLISHED:
        return BPETokenizer.published(name)
    if name.endswith(".json"):
        return load(name)
    raise ValueError(f"there is no tokenizer {name!r}; choose {', '.join((*LEARNED, *PUBLISHED))}")


def load(path):
    """The tokenizer that was saved in a file, of whatever kind."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if found["kind"] in ("char", "word"):
            kind, symbols = LEARNED[found["kind"]][0], found["symbols"]
            if [*map(kind.split, symbols)] != [[symbol] for symbol in dict.fromkeys(symbols)]:
                raise ValueError("a symbol is there twice, or is none")
            return kind(symbols)
        vocab = [token.encode("latin-1") for token in found["vocab"]]
        if not TEXT_BYTES <= set(vocab) or len({*vocab, b""}) - 1 + vocab.count(b"") < len(vocab):
            raise ValueError("a byte of usual text has no token, or a token two ids")
        return BPETokenizer(vocab, found["pattern"], found["kind"])
    except (AttributeError, KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} holds no tokenizer, or a damaged one ({error!r:.80})") from None


# ---- What the other files use, too: a file that is whole or not there, and the terminal.

def write_whole(path, write):
    """Call write(file) on a temporary file, then rename it: nobody ever reads half a file."""
    path = Path(path)
    aside = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with open(aside, "wb") as file:
            write(file)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:        # torch.save hides a full disk in the latter
        why = error.__context__ or error
        raise OSError(f"{path} could not be written ({why}); what was there is whole") from None
    finally:
        aside.unlink(missing_ok=True)


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line."""
    def __init__(self, description):
        super().__init__(usage="%(prog)s [...]", description=description, allow_abbrev=False)
        if sys.stdout:          # what its encoding lacks is shown as a ?
            sys.stdout.reconfigure(errors="replace", line_buffering=True)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists every flag)".replace("\n", " ") + "\n")


# Ctrl-C ends in no traceback, not even while torch is imported: so other files import this first.
sys.excepthook = lambda kind, *error: kind is KeyboardInterrupt or sys.__excepthook__(kind, *error)


@contextlib.contextmanager
def clear_errors(kinds=(ValueError, OSError)):
    """Wrap what reads a person's input: a mistake in it ends in one line and exit code 2."""
    try:
        yield
    except BrokenPipeError:     # "| head" has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except kinds as error:
        print(f"{Path(sys.argv[0]).name}: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(2)


def visible(token):
    """A token (bytes) as printable text: a line's end as \\n, half a character as \\xe4."""
    text = token.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def main():
    parser = Parser("Show a text as each tokenizer cuts it.")
    parser.add_argument("text", nargs="?", default="To be, or not to be: naïve café, 你好")
    parser.add_argument("--file", default=__file__, help="text to learn from (default: this file)")
    parser.add_argument("--merges", type=int, default=0, help="cut it after 1, 2 ... N merges, too")
    options = parser.parse_args()
    with clear_errors():
        if not 0 <= options.merges <= 1000:
            raise ValueError("--merges takes 0 to 1,000")
        corpus = [Path(options.file).read_text(encoding="utf-8", errors="replace")]
        merges = [("bpe", 258 + n) for n in range(options.merges)]
        for name, vocab_size in [*merges, ("char", 0), ("word", 0), ("bpe", 0), ("gpt2", 0)]:
            tokenizer = build(name, corpus, vocab_size)
            shown = [visible(tokenizer.vocab[i]) for i in tokenizer.encode(options.text)]
            print(f"{name} ({tokenizer.vocab_size:,}): {len(shown)} tokens\n    {'·'.join(shown)}")


if __name__ == "__main__":
    main()
