"""
Packing: several texts in one window, and none of them sees another.

A batch is a rectangle of B windows of T tokens. Short texts leave most of it empty, if each has a
window to itself; so put as many in a window as have room (for better ways, Krell et al., 2021). But
a text is not to be read as if it went on from its neighbour. Three parts of a GPT must be told
where a text begins:

    attention   beside the causal mask, one that lets a token see only its own text
    positions   begin anew (of rotary ones only distances count: they would not have to)
    n-grams     see before a text what they see before a window: no token

Then every text has the logits, and gives the gradients, that it would alone. The loss is of some
tokens only (of answers, for example), and logits are computed for no others.

    python -m beyond.packing nano           # the paragraphs of this file in windows of a run's
    python -m beyond.packing nano --file letter.txt --window 64
"""
from pathlib import Path
from types import SimpleNamespace

from model import ngram_hash
from sample import find_run, load_run
from tokenizer import Parser, clear_errors

import numpy as np
import torch
import torch.nn.functional as F


def pack(texts, T, eot, seed=1):
    """Texts in a random order; one that has no room begins a new window: (windows, 3, T). Of each
    token its id, its target (-1: none), and which text it is of (-1: none). A text is (ids, n), at
    most T + 1 ids, of which the first n are no targets."""
    windows, stop = [], T
    for i in np.random.default_rng(seed).permutation(len(texts)):
        (ids, n), start = texts[i], stop
        if (stop := start + len(ids) - 1) > T:
            windows.append(np.repeat([[eot], [-1], [-1]], T, axis=1))       # (3, T)
            start, stop = 0, len(ids) - 1
        # ids[:-1] are read, ids[1:] asked for, but for the first n - 1 of these.
        windows[-1][:, start:stop] = ids[:-1], [-1] * (n - 1) + ids[n:], [i] * (stop - start)
    return torch.from_numpy(np.array(windows))


def logits_of(model, ids, targets, of):
    """The logits (n, V) at the n positions that have a target; ids, targets and of are (B, T), as
    pack() gives them. GPT.forward, with `of` for the three parts; without activation checkpointing,
    and attention is PyTorch's whatever c.kernels is."""
    c, plain, t = model.config, model.config.ops, torch.arange(ids.shape[1], device=ids.device)
    first = (of != of.roll(1, dims=1)) | (t == 0)                           # (B, T)
    begin = torch.where(first, t, 0).cummax(dim=1).values       # (B, T), where its text begins
    position = t - begin                                        # (B, T), from 0 in each text
    x = plain.embedding(ids, model.token_table)                             # (B, T, C)
    if c.ngram > 1:     # each position's last tokens; -1 as before a window (ngram_hash adds 1)
        last = F.pad(ids, (c.ngram - 1, 0)).unfold(1, c.ngram, 1)           # (B, T, ngram)
        back = torch.arange(c.ngram - 1, -1, -1, device=ids.device)         # (ngram,)
        last = torch.where(back > position[..., None], -1, last)            # (B, T, ngram)
        rows = ngram_hash(last.flatten(0, 1), 1, c.ngram, c.ngram_rows)     # (B T, 1, ngram - 1)
        x = x + plain.embedding(rows.view(*ids.shape, -1), model.ngram_table).sum(dim=-2)
    if c.position == "learned":
        x, rotation = x + model.position_table[position], None              # (B, T, C)
    else:
        rotation = model.rotation[:, position]                              # (2, B, T, 1, D)
    x = plain.dropout(x, c.dropout * model.training)                        # (B, T, C)
    mask = (of[:, None, :, None] == of[:, None, None, :]).tril()            # (B, 1, T, T)
    # Blocks call c.ops.attention: for these lines it is one that knows the mask.
    c.ops = SimpleNamespace(**vars(plain) | {"attention": lambda q, k, v, p=0.0: (
        F.scaled_dot_product_attention(q, k, v, mask, p, enable_gqa=k.shape[1] < q.shape[1]))})
    for block in model.blocks:
        x = block(x, rotation)                                              # (B, T, C)
    c.ops = plain
    W = model.token_table.T if c.tie_embeddings else model.W_vocab          # (C, V)
    return plain.linear(model.norm(x[targets >= 0]), W)                     # (n, V)


def loss_of(model, ids, targets, of):
    logits = logits_of(model, ids, targets, of)                             # (n, V)
    return model.config.ops.cross_entropy(logits, targets[targets >= 0])    # ()


@torch.no_grad()
def nats(model, windows):
    """Of each target its negative log-likelihood, itself, and which text it is of: (3, n)."""
    found, training = [], model.training
    model.eval()
    for batch in windows.to(model.token_table.device).split(4):
        ids, targets, of = batch.unbind(dim=1)                              # (B, T) each
        has_target = targets >= 0                                           # (B, T), n of them
        log_p = torch.log_softmax(logits_of(model, ids, targets, of).float(), dim=-1)   # (n, V)
        nll = -log_p.gather(-1, targets[has_target][:, None])[:, 0]              # (n,)
        found.append(torch.stack([nll, targets[has_target], of[has_target]]).cpu().double())
    model.train(training)
    return torch.cat(found, dim=1)


@torch.no_grad()
def main():
    parser = Parser("Pack the paragraphs of a file, and see whether each is computed as if alone.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--file", default=__file__, help="the text (default: this chapter)")
    parser.add_argument("--window", type=int, metavar="T", help="tokens in a window; longer "
                        "paragraphs are cut (default: 256, or the run's context if shorter)")
    options = parser.parse_args()
    with clear_errors():
        model, words = load_run(find_run(options.run))
        text, L = Path(options.file).read_text("utf-8", "replace"), model.config.context_length
        T = min(256, L) if options.window is None else options.window
        if not 1 <= T <= L:
            raise ValueError(f"--window takes 1 to {L:,}, the run's context, not {T:,}")
        texts = [(ids[:T + 1], 1) for ids in map(words.encode, text.split("\n\n")) if len(ids) > 1]
        if not texts:
            raise ValueError(f"{options.file} has no paragraph of two tokens")
    windows = pack(texts, T, words.eot)
    ids, targets, of = windows.unbind(dim=1)                                # (windows, T) each
    for how, n in (("alone", len(texts)), ("packed", len(windows))):
        share = (of >= 0).sum() / (n * T)
        print(f"{how:8}{len(texts):6,} texts in {n:6,} windows of {T} tokens, {share:.0%} full")
    order = of[targets >= 0].unique_consecutive().tolist()
    alone = torch.cat([model(torch.tensor([texts[i][0][:-1]]))[0] for i in order])      # (n, V)
    together = model(ids)[targets >= 0]                                     # (n, V)
    packed = logits_of(model, ids, targets, of)                             # (n, V)
    print(f"\nthe largest difference between a logit and what it is alone\n"
          f"packed  {(packed - alone).abs().max():14.6f}\n"
          f"together{(together - alone).abs().max():14.6f}, where each sees what is before it")


if __name__ == "__main__":
    main()
