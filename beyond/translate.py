"""
Translation: an encoder reads one language, a decoder writes another, looking back at the first.

The transformer was made for this (Vaswani et al., 2017), and it has two halves:

    encoder     blocks without a mask: each position of the source sees all the others
    decoder     GPT's blocks, each with a second attention between its two parts, cross-attention:
                queries come from what has been written, keys and values from the encoder

The task is learned in minutes, and a person can judge it: numbers into French. A tenth of them is
held out. A GPT learns the same from "97=quatre-vingt-dix-sept": who needs fewer steps?

    python -m beyond.translate                  # train both; a table, and translate.png
    python -m beyond.translate 97 2026          # the same, and then translate these
    python -m beyond.translate --pairs my.tsv   # a file of yours: source, tab, target on each line

After Ctrl-C the same command goes on. Of the two runs, only this chapter can load the first.
"""
import functools
import re
import zlib
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import data
from beyond.curves import picture
from beyond.learn import learn
from beyond.masked import full_attention, with_full_attention
from model import GPT, Block, GPTConfig, Norm, weight
from sample import generate, pick_device
from tokenizer import EOT, BPETokenizer, Parser, clear_errors, visible, write_whole
from train import TrainConfig

import numpy as np
import torch
from matplotlib.figure import Figure

# ------------ The task.

LONGEST = 63        # tokens of a source or a target, at most
SMALL = ("zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze "
         "seize dix-sept dix-huit dix-neuf").split()
TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()


def french(n):
    """A number below a million in words: "soixante et onze", "quatre-vingts", "deux cent un"."""
    if n < 20:
        return SMALL[n]
    if n < 100:     # 70 to 79 are counted on from 60, and 90 to 99 from 80
        tens, rest = TENS[n // 10 - 2], n % 10 + 10 * (n // 10 in (7, 9))
        between = " et " if rest in (1, 11) and n < 80 else "-"
        return tens + (between + SMALL[rest] if rest else "s" * (n == 80))
    many, rest = divmod(n, size := 1000 if n >= 1000 else 100)
    words = [re.sub("(cent|vingt)s$", r"\1", french(many))] * (many > 1)
    words += ["mille" if size == 1000 else "cents" if many > 1 and not rest else "cent"]
    return " ".join(words + [french(rest)] * (rest > 0))


def numbers(each):      # pairs, as many of one digit as of 2, 3 ... 6
    rng = np.random.default_rng(1)
    return [(str(n), french(n)) for digits in range(1, 7)
            for n in rng.integers(10 ** (digits - 1) * (digits > 1), 10 ** digits, each).tolist()]


def read_pairs(path):
    text, pairs = "\n".join(text for _, text in data.documents([path])), []
    for number, line in enumerate(text.strip("\n").split("\n"), start=1):
        pairs.append(tuple(part.strip() for part in line.split("\t")))
        if len(pairs[-1]) != 2 or not all(pairs[-1]):
            raise ValueError(f"{path}, line {number} is no source, tab, target")
    return pairs


def padded(tokenizer, pairs, S, T):
    """Sources (N, S), behind <|endoftext|>; what the decoder reads (N, T), from "=" on; and what it
    should say (N, T), up to <|endoftext|>: behind that, -1, it is not asked."""
    (start,), eot, rows = tokenizer.encode("="), tokenizer.eot, []
    for a, b in (map(tokenizer.encode, pair) for pair in pairs):
        blank = T - 1 - len(b)
        rows.append([eot] * (S - len(a)) + a + [start, *b, *[eot] * blank, *b, eot, *[-1] * blank])
    return torch.tensor(rows).split([S, T, T], dim=1)


# ------------ The model.

class DecoderBlock(Block):
    """GPT's block, and cross-attention between its attention and its MLP."""
    def __init__(self, c):
        super().__init__(c)
        C, self.norm3 = c.n_embd, Norm(c)
        self.W_q, self.W_kv, self.W_cross = weight(C, C), weight(C, 2 * C), weight(C, C, std=0.0)

    def cross_attention(self, x, memory):
        """Each position of x (B, T, C) gathers what it needs of the source, memory (B, S, C)."""
        ops, (B, T, C), H = self.config.ops, x.shape, self.config.n_head
        q = ops.linear(x, self.W_q).view(B, T, H, C // H).transpose(1, 2)       # (B, H, T, D)
        kv = ops.linear(memory, self.W_kv).view(B, -1, 2 * H, C // H).transpose(1, 2)
        k, v = kv.split(H, dim=1)                                               # (B, H, S, D) each
        y = ops.cross_attention(q, k, v).transpose(1, 2).reshape(B, T, C)       # (B, T, C)
        return ops.linear(y, self.W_cross)                                      # (B, T, C)

    def forward(self, x, memory, rotation, cache, layer):
        x = x + self.attention(self.norm1(x), rotation, cache, layer)           # (B, T, C)
        x = x + self.cross_attention(self.norm3(x), memory)                     # (B, T, C)
        return x + self.mlp(self.norm2(x))                                      # (B, T, C)


class EncoderDecoder(GPT):
    """n_layer blocks that read and n_layer that write, between GPT's tables and its logits."""
    def __init__(self, c):
        super().__init__(c := with_full_attention(c, "cross_attention"))
        encoder = with_full_attention(c, "attention")
        self.blocks = torch.nn.ModuleList(
            Block(encoder) if i < c.n_layer else DecoderBlock(c) for i in range(2 * c.n_layer))
        self.source_positions, self.source_norm = weight(c.context_length, c.n_embd), Norm(c)

    def encode(self, source):
        """The source (B, S), understood: a vector for each position (B, S, C)."""
        x = self.config.ops.embedding(source, self.token_table)                 # (B, S, C)
        x = x + self.source_positions[:source.shape[1]]                         # (B, S, C)
        for block in self.blocks[:self.config.n_layer]:
            x = block(x)                                                        # (B, S, C)
        return self.source_norm(x)                                              # (B, S, C)

    def forward(self, ids, cache=None, last=0, memory=None):
        """The logits (B, T, V) after each of ids (B, T); given a cache, ids are what is new."""
        c, before = self.config, 0 if cache is None else cache.ids.shape[1]
        x = c.ops.embedding(ids, self.token_table)                              # (B, T, C)
        rotation = self.rotation[:, before:before + ids.shape[1]]               # (2, T, 1, D)
        for layer, block in enumerate(self.blocks[c.n_layer:]):
            x = block(x, memory, rotation, cache, layer)                        # (B, T, C)
        if cache is not None:
            cache.ids = torch.cat([cache.ids, ids], dim=1)                      # (B, before + T)
        return c.ops.linear(self.norm(x[:, -last:]), self.W_vocab)      # (B, T or last, V)


def loss_of(model, source, ids, targets):
    """Teacher forcing: whatever it would have written, it goes on from what is right."""
    if isinstance(model, EncoderDecoder):
        logits = model(ids, memory=model.encode(source))                        # (B, T, V)
    else:
        logits = model(torch.cat([source, ids], dim=1))[:, source.shape[1]:]    # (B, T, V)
    asked = targets >= 0                                                        # (B, T)
    return model.config.ops.cross_entropy(logits[asked], targets[asked])        # ()


@torch.inference_mode()
def translate(model, source, start, T):
    """The most probable token, T times, by sample.py's loop and its KV cache: ids (B, T)."""
    prompts = torch.cat([source, source.new_full((len(source), 1), start)], dim=1)  # (B, S + 1)
    memory = {"memory": model.encode(source)} if isinstance(model, EncoderDecoder) else {}
    writer, prompts = functools.partial(model, **memory), prompts[:, -1:] if memory else prompts
    writer.config, writer.token_table = model.config, model.token_table
    new = generate(writer, prompts.tolist(), T, lambda logits: logits.argmax(dim=-1))
    return torch.tensor(list(new)).T                                            # (B, T)


def right(model, source, ids, targets):
    """Which of the translations are right, to the last token: (N,)."""
    found, targets = translate(model, source, ids[0, 0].item(), ids.shape[1]), targets.cpu()
    return ((found == targets) | (targets < 0)).all(dim=1)                      # (N,)


# ------------ Learning both, by train.py's loop.

def fit(kind, name, tokenizer, learned, held_out, c, shape):
    """The model of one kind, trained on what padded() made of pairs; and its history."""
    own, n = {} if kind == "gpt" else {"chapter": "beyond.translate"}, learned[0].numel()
    shape = shape if own else replace(shape, n_layer=2 * shape.n_layer)
    settings = {"data": {}, "model": own | asdict(shape), "train": asdict(c),
                "corpus": {"folder": f"{len(learned[0]):,} pairs, in no folder"}}
    torch.manual_seed(c.seed)
    model = (EncoderDecoder if own else GPT)(shape).to(learned[0].device)
    def batch(step, part, parts):
        rows = np.random.default_rng((c.seed, step)).integers(len(learned[0]), size=c.batch_size)
        return [x[rows[part::parts]] for x in learned]
    @torch.no_grad()
    def evaluate(model):
        some = [x[::10] for x in held_out]
        return {"val_loss": loss_of(model, *some).item(),
                "val_accuracy": right(model, *some).double().mean().item()}

    return model, learn(name, model, settings, tokenizer, c, batch, loss_of, evaluate, n)


@torch.no_grad()
def draw(model, words, source, written, path):
    """Where the decoder looks in the source (S,) as it writes: a row for each token written."""
    start, ids, ops, maps = words.encode("="), words.encode(written), model.config.ops, []
    plain, eye = ops.cross_attention, torch.eye(len(source), device=source.device)  # (S, S)
    ops.cross_attention = lambda q, k, v: maps.append(      # the values are the weights themselves
        plain(q, k, eye.expand(*k.shape[:3], -1))) or plain(q, k, v)
    model(torch.tensor([start + ids[:-1]]).to(source), memory=model.encode(source[None]))
    ops.cross_attention = plain
    axes = (figure := Figure(figsize=(5, 6), layout="constrained")).subplots()
    axes.imshow(torch.cat(maps).mean(dim=(0, 1)).cpu().numpy(), cmap="magma_r", aspect="auto")
    axes.set(xlabel="source", ylabel="written", title="cross-attention, mean of all heads")
    for axis, ids in ((axes.xaxis, source.tolist()), (axes.yaxis, ids)):
        axis.set_ticks(range(len(ids)), [visible(words.vocab[i]).replace(EOT, "") for i in ids])
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


def main():
    parser = Parser("Train an encoder-decoder, and a GPT, to translate; show how well each does.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="translate these in the end")
    parser.add_argument("--pairs", metavar="FILE", help="source, tab, target (default: numbers)")
    parser.add_argument("--steps", type=int, default=450, help="batches of 64 (default: 450)")
    parser.add_argument("--out", metavar="FILE", default="translate.png", help="the picture")
    o = parser.parse_args()
    with clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)):
        c = data.checked(TrainConfig, dict(steps=o.steps, batch_size=64, eval_every=50))
        path, device = picture(o.out), pick_device("auto")
        pairs = numbers(15_000) if o.pairs is None else read_pairs(o.pairs)
        words = BPETokenizer.train([x for pair in pairs for x in pair if not x.isdigit()])  # digits
        size = lambda text: len(words.encode(text.encode().decode()))       # stay one token each
        pairs = [pair for pair in pairs if max(map(size, pair)) <= LONGEST]
        # A tenth, by a checksum; but of numbers no single digit: who never saw 7 cannot know sept.
        tenth = {a for a, _ in pairs if len(a) > 1 and zlib.crc32(a.encode()) % 10 == 0}
        held_out = [*dict.fromkeys(pair for pair in pairs if pair[0] in tenth)][:20_000]
        pairs = [pair for pair in pairs if pair[0] not in tenth]
        if not pairs or not held_out:
            raise ValueError(f"{o.pairs} has too few pairs of at most {LONGEST} tokens")
        S, T = (max(size(pair[i]) for pair in pairs + held_out) + i for i in (0, 1))
        texts = o.texts or [held_out[-1][0]]
        if not all(0 < size(text) <= S for text in texts):
            raise ValueError("a TEXT is empty, or longer than any source learned from")
        *parts, (asked, *_) = ([x.to(device) for x in padded(words, part, S, T)] for part in (
            pairs, held_out, [(text, "") for text in texts]))
        shape, lines, rows = GPTConfig(words.vocab_size, 128, ngram=1), [], defaultdict(list)
        for i, (source, _) in enumerate(held_out):
            rows[f"{len(source)} digits" if source.isdigit() else "text"].append(i)
        for kind in ("encoder-decoder", "gpt"):
            name = f"translate-{kind}" + (f"-{Path(o.pairs).stem}" if o.pairs else "")
            model, history = fit(kind, name, words, *parts, c, shape)
            n, good = sum(p.numel() for p in model.parameters()), right(model, *parts[1]).double()
            first = next((m["step"] for m in history if m.get("val_accuracy", 0) >= 0.95), "-")
            lines.append(f"{kind:18}{n:12,}{history[-1]['seconds']:9.1f}{first:>8}"
                         + "".join(f"{good[at].mean():10.1%}" for at in rows.values()))
            ids = translate(model, asked, words.encode("=")[0], T).tolist()
            said = [words.decode(row).split(EOT)[0] for row in ids]
            lines += [f"    {text}: {answer}" for text, answer in zip(texts, said)]
            kind == "gpt" or draw(model, words, asked[0], said[0], path)
        print(f"\nheld out: exact {'parameters':>14}{'seconds':>9}{'95% at':>8}"
              + "".join(f"{group:>10}" for group in rows), *lines, sep="\n")


if __name__ == "__main__":
    main()
