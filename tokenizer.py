"""
Tokenizers: text in, integers out, and back.

A model computes with numbers, so a text must become a sequence of them. The simplest way gives
every character a number of its own: its place in the alphabet of the training text.

    python tokenizer.py "To be, or not to be"       # a text, piece by piece
"""
import argparse
import json
import os
from pathlib import Path

import numpy as np


def code_points(text):
    """The Unicode number of every character, as one array."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


class CharTokenizer:
    """One token for each character of the training text; id 0, `<unk>`, for all the others."""
    kind = "char"
    unk = 0

    def __init__(self, alphabet):
        self.alphabet = "\N{REPLACEMENT CHARACTER}" + alphabet      # the character of each id
        codes = code_points(self.alphabet)
        self.id_of = np.zeros(codes.max() + 1, dtype=np.int32)      # by code point; 0 is <unk>
        self.id_of[codes[1:]] = np.arange(1, len(codes))

    @classmethod
    def train(cls, texts, vocab_size=None):
        """The alphabet of the texts, in the order of Unicode. Its size is what it is."""
        return cls("".join(sorted(set().union(*texts) - {"\N{REPLACEMENT CHARACTER}"})))

    @property
    def vocab_size(self):
        return len(self.alphabet)

    @property
    def separator(self):
        """The ids that stand between two documents: a blank line."""
        return self.encode("\n\n") if "\n" in self.alphabet else []

    def encode(self, text):
        codes = code_points(text)
        return self.id_of[np.where(codes < len(self.id_of), codes, 0xFFFD)].tolist()

    def decode(self, ids):
        return "".join(self.alphabet[i] for i in ids)

    def token_bytes(self, i):
        """The UTF-8 bytes that id i stands for."""
        return self.decode([i]).encode()

    def save(self, path):
        write_json(path, {"kind": self.kind, "alphabet": self.alphabet[1:]})

    @classmethod
    def load(cls, path):
        return load(path)


def write_json(path, content):
    """Write aside and rename, so that the file is whole or not there."""
    aside = Path(f"{path}.unfinished")
    aside.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(aside, path)


def load(path):
    """The tokenizer that was saved at path. Raises ValueError if the file holds none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["kind"] == "char":
            return CharTokenizer(content["alphabet"])
        raise ValueError(f"its kind is {content['kind']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no tokenizer this program knows ({error})") from None


def main():
    parser = argparse.ArgumentParser(description="Show a text as the model will see it.")
    parser.add_argument("text", nargs="?", default="To be, or not to be: that is the question.")
    text = parser.parse_args().text
    tokens = CharTokenizer.train([text])
    ids = tokens.encode(text)
    print("pieces", " ".join(tokens.decode([i]) for i in ids))
    print("ids   ", " ".join(map(str, ids)))
    print(f"{len(ids)} tokens for {len(text.encode())} bytes, {tokens.vocab_size} different")


if __name__ == "__main__":
    main()
