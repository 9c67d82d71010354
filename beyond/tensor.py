"""
Tensor: every matrix of a model cut among R ranks, so that each does 1/R of every product.

Where can a block be cut, so that the parts need little of each other? Not between blocks, and not
between texts, but across the numbers inside it (Megatron):

    attention   a head needs no other head. A rank has 1/R of them: of W_qkv the columns of its
                queries, keys and values, of W_out the rows that its heads meet
    MLP         a number inside needs no other. A rank has 1/R of them: columns of W_up, rows of
                W_down
    logits      a rank has 1/R of the vocabulary: columns of W_vocab, rows of the token table, and
                of the n-gram tables

Each rank reads the whole x; what comes out of W_out or W_down is a part of a sum, and an all_reduce
makes it the sum. Backward mirrors that: there the gradient of x is a sum. Two functions say so, f
and g in the paper, Enter and Leave here. So a block costs two all_reduces of (B, T, C) forward and
two backward. Of the logits (B, T, V) none are sent: the loss takes three numbers of each position.

In all a rank sends 2 (R-1)/R (B T C (4 n_layer + 1 + ngram) + 3 B T) numbers in a step, 1 for the
logits' x, ngram for the tables. Each product waits: it is for ranks in one machine. What is not cut
(norms, learned positions, the residual stream) is the same on every rank.

    python -m beyond.tensor --arch gpt2 --ranks 4       # what is cut, and how
    torchrun --standalone --nproc_per_node 4 -m beyond.parallel tensor      # runs it

Paper: Megatron-LM (Shoeybi et al., 2019).
"""
from beyond.wire import all_reduce, loss_of
from model import ARCHS, GPT, GPTConfig, linear
from tokenizer import Parser, clear_errors
from train import RANK, WORLD

from dataclasses import replace
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn


class Enter(torch.autograd.Function):
    """Megatron's f. Every rank has the whole x, and uses it for its part of a layer: the gradient
    of x is the sum of what the parts ask for."""
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)                                     # (B, T, C)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        all_reduce(grad)
        return grad                                             # (B, T, C)


class Leave(torch.autograd.Function):
    """Megatron's g. Every rank's part of a layer gives a part of a sum; every rank gets the sum."""
    @staticmethod
    def forward(ctx, x):
        x = x.clone(memory_format=torch.contiguous_format)
        all_reduce(x)
        return x                                                # (B, T, C)

    @staticmethod
    def backward(ctx, grad):
        return grad                                             # (B, T, C)


def split_embedding(ids, W):
    """Rows of a table of which rank r has the r-th part W (V / R, C): who has a row gives it."""
    row = ids - RANK * len(W)                                   # (...)
    mine = (row >= 0) & (row < len(W))                          # (...)
    return Leave.apply(W[row.clamp(0, len(W) - 1)] * mine[..., None])       # (..., C)


def split_cross_entropy(logits, targets):
    """The loss of logits of which rank r has the r-th part (B, T, V / R): not they are sent, but
    three numbers of each position, the maximum, the sum of exp, and the logit of the target."""
    (B, T, n), most = logits.shape, logits.detach().amax(dim=-1, keepdim=True)      # (B, T, 1)
    all_reduce(most, dist.ReduceOp.MAX)
    x = logits - most                                           # (B, T, n), n = V / R
    total = Leave.apply(x.exp().sum(dim=-1))                    # (B, T)
    column = targets - RANK * n                                 # (B, T)
    mine = (column >= 0) & (column < n)                         # (B, T)
    at = torch.arange(B)[:, None], torch.arange(T), column.clamp(0, n - 1)
    return (total.log() - Leave.apply(x[at] * mine)).mean()     # ()


class SplitBlock(nn.Module):
    """A block with 1/R of the heads and of the MLP's width: from Enter to Leave nothing is sent."""
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, rotation=None, cache=None, layer=0):
        b = self.block
        x = x + Leave.apply(b.attention(Enter.apply(b.norm1(x)), rotation))         # (B, T, C)
        return x + Leave.apply(b.mlp(Enter.apply(b.norm2(x))))                      # (B, T, C)


def cut_config(c, R):
    """The shape of a rank's part in tensor parallelism."""
    part = replace(c, n_head=c.n_head // R, n_kv_head=c.n_kv_head // R, mlp_width=c.mlp_width // R,
                   vocab_size=c.vocab_size // R, ngram_rows=c.ngram_rows // R)
    part.head_size = c.head_size
    return part


def cut(c, name, x, rank, R):
    """The part of a weight that a rank keeps; norms and positions are whole on every rank."""
    qkv = [n * c.head_size for n in (c.n_head, c.n_kv_head, c.n_kv_head)]
    up = [c.mlp_width] * (2 if c.activation == "swiglu" else 1)
    columns = {"W_qkv": qkv, "b_qkv": qkv, "W_up": up, "b_up": up, "W_vocab": [c.vocab_size]}
    if name in columns:     # of queries, keys and values each, and of swiglu's halves
        parts = [piece.chunk(R, dim=-1)[rank] for piece in x.split(columns[name], dim=-1)]
        return torch.cat(parts, dim=-1)
    if name in ("W_out", "W_down", "token_table", "ngram_table"):
        return x.chunk(R)[rank]
    return None if name in ("b_out", "b_down") and rank else x      # in a sum, a bias counts once


class TensorParallel(nn.Module):
    """Every rank reads the whole batch with its part of every matrix. W_qkv and W_up are cut by
    columns, W_out and W_down by rows; the tables and the logits by tokens. The
    road's GPT.forward runs as it is: its config's operations are those for what is cut."""
    def __init__(self, model):
        super().__init__()
        c, part = model.config, cut_config(model.config, WORLD)
        for module in model.modules():
            for name, p in [*module.named_parameters(recurse=False)]:
                kept = cut(c, name, p.detach(), RANK, WORLD)
                setattr(module, name, kept if kept is None else nn.Parameter(kept.clone()))
        for block in model.blocks:
            block.config = part
        model.blocks = nn.ModuleList(map(SplitBlock, model.blocks))
        self.model, model.config = model, replace(c)
        model.config.ops = SimpleNamespace(**vars(c.ops) | dict(
            embedding=split_embedding, cross_entropy=split_cross_entropy,
            linear=lambda x, W: linear(Enter.apply(x), W)))     # of the logits

    def learn(self, batch):
        loss = loss_of(self.model, *batch(0, 1))                # (), the same on all ranks
        loss.backward()
        return loss.item() / WORLD


def main():
    parser = Parser("Show which part of each weight a rank keeps, for a model of the default size.")
    parser.add_argument("--arch", choices=ARCHS, default="modern", help="(default: modern)")
    parser.add_argument("--ranks", type=int, default=2, metavar="R", help="(default: 2)")
    o = parser.parse_args()
    with clear_errors():
        c = GPTConfig(**ARCHS[o.arch])
        if o.ranks < 1 or c.n_kv_head % o.ranks or c.mlp_width % o.ranks:
            raise ValueError(f"{o.ranks} ranks cannot share {c.n_kv_head} heads of keys and values "
                             f"and an MLP of {c.mlp_width} numbers evenly")
    with torch.device("meta"):      # shapes without numbers
        weights = [(name, p) for name, p in GPT(c).named_parameters() if "blocks.1." not in name]
    print(f"{'weight':20}{'whole':>16}{'rank 0 keeps':>16}{'the last rank':>16}")
    for name, p in weights:
        parts = (cut(c, name.split(".")[-1], p, r, o.ranks) for r in (0, o.ranks - 1))
        shapes = ("-" if x is None else str(tuple(x.shape)) for x in (p, *parts))
        print(f"{name:20}" + "".join(f"{shape:>16}" for shape in shapes))


if __name__ == "__main__":
    main()
