"""
Byte-level tokenizers: how Hugging Face writes down what is a tokenizer.json of ours.

Both know the same three things: how a text is split into words, the tokens, and which two make a
third. Theirs lists the merges; here the order of the tokens says it, as of two pairs the one whose
token came first is merged first. In their files a token is text, so each of the 256 bytes is
spelled as one character that can be seen. And theirs marks special tokens, such as <|endoftext|>
and <|im_end|>, which no text becomes: here they are the tokens that no merge makes.

    python -m beyond.bytelevel nano tokenizer.json      # for tokenizers.Tokenizer.from_file

Papers: Neural Machine Translation of Rare Words with Subword Units (Sennrich et al., 2016), and
GPT-2's (Radford et al., 2019), which took it to bytes.
"""
import json

from sample import find_run
from tokenizer import (EOT, GPT2_PATTERN, TEXT_BYTES, WORD, BPETokenizer, Parser, clear_errors,
                       load, write_whole)

from tqdm import tqdm

# Each digit is a word, so that a number is cut in one way only; all else is as in GPT-2's pattern.
DIGITS_PATTERN = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|"
                  r"\s+(?![^\s\p{N}])|\s+")

# A byte is spelled as itself, in Latin-1, if that can be seen; the others, in order, as the
# characters from U+0100 on. So " the" is "Ġthe".
SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [b for b in range(256) if b not in SEEN]
BYTE_OF = {chr(b): b for b in SEEN} | {chr(256 + n): b for n, b in enumerate(OTHERS)}
SPELLED = {b: c for c, b in BYTE_OF.items()}


def spell(token):
    return "".join(SPELLED[b] for b in token)


# ------------ From theirs.


def pattern_of(splitter):
    """The pattern that splits as the pre_tokenizer of a tokenizer.json does."""
    parts = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    *first, last = parts
    if last["type"] == "ByteLevel" and not last["add_prefix_space"] and len(first) < 2:
        usual = last.get("use_regex", True)
        if not first and usual:
            return GPT2_PATTERN
        if first and first[0]["type"] == "Digits" and first[0]["individual_digits"] and usual:
            return DIGITS_PATTERN
        if (first and first[0]["type"] == "Split" and not first[0]["invert"] and not usual
                and first[0]["behavior"] == "Isolated"):
            return first[0]["pattern"]["Regex"]
    raise ValueError("it splits text in a way that is not known here")


def parts_of(theirs):
    """The tokens, merges, special tokens and pattern of a tokenizer.json of theirs, a dict."""
    model, added = theirs["model"], theirs["added_tokens"]
    if model["type"] != "BPE" or model.get("byte_fallback") or theirs["normalizer"]:
        raise ValueError("it is not byte pairs over bytes, of the text as it is")
    ids = model["vocab"] | {token["content"]: token["id"] for token in added}
    tokens = [""] * (1 + max(ids.values()))         # some ids stand for nothing
    for token, i in ids.items():
        tokens[i] = token
    return {"tokens": tokens, "pattern": pattern_of(theirs["pre_tokenizer"]),
            "special": [token["content"] for token in added],
            "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]}


def from_theirs(tokens, merges, special, pattern, vocab_size, eos):
    """A tokenizer. Our ids are ranks: so each merge must have made the next of the tokens.
    If there is no <|endoftext|>, it is the name of the token that eos is the id of."""
    special, tokens = set(special), [*tokens, *[""] * (vocab_size - len(tokens))]
    vocab = [token.encode() if token in special else bytes(BYTE_OF[c] for c in token)
             for token in tokens]
    merged = [bytes(BYTE_OF[c] for c in merge.replace(" ", "")) for merge in merges]
    made = [v for v, token in zip(vocab, tokens) if len(v) > 1 and token not in special]
    if len(vocab) != vocab_size or merged != made or not TEXT_BYTES <= {*vocab}:
        raise ValueError(f"it must be {vocab_size:,} tokens, as many as the model's: bytes, "
                         "special tokens, and what its merges make, in their order")
    if EOT.encode() not in vocab:
        vocab[eos] = EOT.encode()
    tokenizer = BPETokenizer(vocab, pattern)
    if read := [token for token in special if len(tokenizer.encode(token)) == 1]:
        raise ValueError(f"who types {read[0]} would get a special token")
    return tokenizer


# ------------ To theirs.


def made_of(tokenizer, token):
    """The tokens that a token was before a merge made it of two; more than two: no merge did."""
    rank = tokenizer.rank.pop(token, None)
    parts = tokenizer.encode_word(token)
    if rank is not None:
        tokenizer.rank[token] = rank        # back where it was
    return [tokenizer.vocab[i] for i in parts]


def special_tokens(tokenizer):
    """The ids of tokens that no text becomes, and for each other of several bytes its two parts."""
    special, merges = [], []
    for i, token in enumerate(tqdm(tokenizer.vocab, "merges", leave=False, disable=None)):
        if len(token) > 1:
            parts = made_of(tokenizer, token)
            if i != tokenizer.eot and len(parts) == 2:
                merges.append([spell(part) for part in parts])
            else:
                special.append(i)
    return special, merges


def to_theirs(tokenizer):
    """A tokenizer.json of theirs, as a dict, and the ids of its special tokens."""
    if tokenizer.kind in ("char", "word"):
        pattern = r"[\s\S]" if tokenizer.kind == "char" else (
            WORD.pattern.removeprefix("(?s)").removesuffix(".") + r"[\s\S]")
        names = [token.decode() for token in tokenizer.vocab]       # the first stands for <unk>
        special, decoder = [tokenizer.eot], {"type": "Fuse"}
        model = {"type": "WordLevel", "unk_token": names[0]}
    else:
        pattern, (special, merges) = tokenizer.pattern, special_tokens(tokenizer)
        names = [token.decode() if i in special else spell(token)
                 for i, token in enumerate(tokenizer.vocab)]
        decoder = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                   "use_regex": False}
        model = {"type": "BPE", "dropout": None, "unk_token": None, "merges": merges,
                 "continuing_subword_prefix": None, "end_of_word_suffix": None,
                 "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False}
    added = [{"id": i, "content": names[i], "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False, "special": True} for i in special]
    splitter = split if decoder["type"] == "Fuse" else {
        "type": "Sequence", "pretokenizers": [split, decoder]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None, "pre_tokenizer": splitter, "post_processor": None,
            "decoder": decoder,
            "model": model | {"vocab": {name: i for i, name in enumerate(names) if name}}}


def main():
    parser = Parser("Write a run's tokenizer as Hugging Face does.")
    parser.add_argument("run", help="name or folder of the run")
    parser.add_argument("file", help="where to write it")
    options = parser.parse_args()
    with clear_errors():
        theirs = to_theirs(load(find_run(options.run) / "tokenizer.json"))
        text = json.dumps(theirs, ensure_ascii=False, indent=1)
        write_whole(options.file, lambda file: file.write(text.encode()))
        print(f"{options.file}: {len(theirs['model']['vocab']):,} tokens, of them "
              f"{len(theirs['added_tokens'])} special")


if __name__ == "__main__":
    main()
