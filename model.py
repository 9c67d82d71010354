"""GPT from raw tensors: what a language model computes, every step written out.

A language model reads T tokens and gives, at each of the T positions, a score (a logit) to every
token of its vocabulary: how well it would do as the next one. GPT (Radford et al., 2019; the
transformer of Vaswani et al., 2017) gets there in three moves:

    embed     each token id becomes a vector of C numbers; so may runs of 2, 3 tokens
    mix       n_layer blocks; in each, every position first gathers what it needs from the
              positions before it (attention), then works on it alone (the MLP)
    predict   each vector is compared with an output vector of every token: the logits

Where the field has changed its mind since GPT-2, a switch of GPTConfig picks the way. A comment at
the end of a line is the shape of its result:
    B sequences   T tokens in each   S positions to attend to   C = n_embd numbers per token
    H query heads   G heads of keys and values   D = C / H numbers in a head   V = vocab_size
"""
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# ---- The maths. `...` stands for any leading dimensions, usually B, T or B, H, T.

def embedding(ids, W):
    """One vector for each id: row ids[...] of the table W (V, C)."""
    return W[ids]                                               # (..., C)


def linear(x, W, b=None):
    """Every output is a weighted sum of all the inputs, plus a bias. W is (n_in, n_out)."""
    return x @ W if b is None else x @ W + b                    # (..., n_out)


def softmax(x):
    """Scores in, probabilities out: positive, summing to 1 over the last dimension."""
    x = x - x.max(dim=-1, keepdim=True).values                  # (..., n), <= 0: no overflow
    return x.exp() / x.exp().sum(dim=-1, keepdim=True)          # (..., n)


def cross_entropy(logits, targets):
    """The loss: the mean negative log-likelihood of the targets (...), -ln p(target), in nats."""
    x = logits - logits.max(dim=-1, keepdim=True).values        # (..., V)
    log_p = x - x.exp().sum(dim=-1, keepdim=True).log()         # (..., V), ln softmax(x)
    return -log_p.gather(-1, targets[..., None]).mean()         # ()


def layer_norm(x, gain, bias=None, eps=1e-5):
    """Each vector gets mean 0 and variance 1, then a learned scale (Ba et al., 2016)."""
    x = x - x.mean(dim=-1, keepdim=True)                        # (..., C)
    y = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + eps) * gain    # (..., C)
    return y if bias is None else y + bias                      # (..., C)


def rms_norm(x, gain=None, eps=1e-5):
    """Only the scaling: it is that which helps (Zhang and Sennrich, 2019)."""
    y = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + eps)       # (..., C)
    return y if gain is None else y * gain                      # (..., C)


def gelu(x):
    """An activation function, near 0 below 0, near x above; its tanh form (Hendrycks, 2016)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))   # (...)


def relu2(x):
    """0 below 0, x^2 above: cheap, and as good (Primer; So et al., 2021)."""
    return x.clamp(min=0) ** 2                                  # (...)


def swiglu(x):
    """Half of the numbers are gates: how much of the other half gets through (Shazeer, 2020)."""
    gate, value = x.chunk(2, dim=-1)                            # (..., n / 2) each
    return gate * torch.sigmoid(gate) * value                   # (..., n / 2)


def dropout(x, p):
    """Zero each number with probability p and scale up the rest, so the mean stays the same."""
    return x * (torch.rand_like(x) >= p) / (1 - p) if p else x  # (..., C)


def rotary_table(T, D, base):
    """The cosines and sines by which rotary() turns the D numbers of a head, at T positions."""
    frequency = 1 / base ** (torch.arange(0, D, 2) / D)         # (D/2,), from 1 down to ~ 1 / base
    angle = torch.arange(T)[:, None, None] * frequency          # (T, 1, D/2); the 1 is for heads
    cos, sin = angle.cos(), angle.sin()                         # of each pair: so each twice
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])   # (2, T, 1, D)


def rotary(x, cos, sin):
    """Tell a vector its position by turning it (RoPE; Su et al., 2021). x is (..., T, H, D).
    Number i and number i + D/2 are a point (a, b) in a plane, which becomes (a cos - b sin,
    b cos + a sin). A query turned by t times a key turned by s depends on t - s, their distance."""
    partner = x.roll(x.shape[-1] // 2, dims=-1)                 # (..., T, H, D), b for a, a for b
    return x * cos + partner * sin                              # (..., T, H, D)


def ngram_hash(ids, T, n, rows):
    """Rows of a table for the 2, 3 ... n tokens that end at each of the last T positions of ids
    (B, S). N-grams are too many for a row each: by a hash (which may overflow) some share one."""
    ids = torch.cat([ids.new_zeros(len(ids), n - 1), ids + 1], dim=1)       # (B, n - 1 + S)
    h, found, stop = 0, [], ids.shape[1]
    for k in range(n):                                          # the token k positions back
        h = h * 2_654_435_761 + ids[:, stop - T - k:stop - k]   # (B, T)
        found.append((k - 1) * rows + h % rows)                 # (B, T)
    return torch.stack(found[1:], dim=-1)                       # (B, T, n - 1), no 1-grams


def attention(q, k, v, p=0.0):
    """Each position takes of every value (v) as much as its query (q) matches the key (k) there.
    q (..., H, T, D); k, v (..., G, S, D), where T may be the last few of S positions. If G < H,
    each key and value serves H / G queries: grouped-query attention (Ainslie et al., 2023). A score
    is a sum of D products, its deviation sqrt(D): divided by it, softmax is not all-or-nothing."""
    k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3) for x in (k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])   # (..., H, T, S)
    T, S = scores.shape[-2:]
    past = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)      # (T, S), self too
    weights = softmax(scores.masked_fill(~past, -math.inf))     # (..., H, T, S), rows sum to 1
    return dropout(weights, p) @ v                              # (..., H, T, D)


# ---- The same maths in PyTorch's own kernels, for running. Tests prove each pair equal.

def fused_attention(q, k, v, p=0.0):
    T, S = q.shape[-2], k.shape[-2]
    mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T) if 1 < T < S else None
    return F.scaled_dot_product_attention(q, k, v, mask, p, is_causal=1 < T == S,
                                          enable_gqa=q.shape[-3] != k.shape[-3])


RAW = SimpleNamespace(**{f.__name__: f for f in (
    embedding, linear, cross_entropy, layer_norm, rms_norm, gelu, relu2, swiglu, dropout, rotary,
    attention)})

FUSED = SimpleNamespace(**vars(RAW) | dict(
    embedding=F.embedding, dropout=F.dropout, attention=fused_attention,
    linear=lambda x, W, b=None: F.linear(x, W.T, b),
    layer_norm=lambda x, gain, bias, eps: F.layer_norm(x, gain.shape, gain, bias, eps),
    gelu=lambda x: F.gelu(x, approximate="tanh"), relu2=lambda x: x * F.relu(x),
    rotary=lambda x, cos, sin: torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin),
    cross_entropy=lambda logits, y: F.cross_entropy(logits.flatten(0, -2), y.flatten())))

# ---- The model. nn.Module and nn.Parameter hold the weights, and do nothing else.

@dataclass
class GPTConfig:
    """The shape of a GPT. A trailing comment is the flag's --help. The tokenizer decides on V."""
    vocab_size: int = 1024
    context_length: int = 256    # the longest T: how many tokens the model sees at once
    n_layer: int = 2             # blocks, one on top of the other
    n_head: int = 4              # H, attention heads; n_embd must be an even multiple of it
    n_kv_head: int = 0           # G, heads of keys and values; 0: n_head, fewer: grouped-query
    n_embd: int = 128            # C, numbers per token
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"   # what keeps the numbers in range
    norm_eps: float = 1e-5       # added to a variance, so that nothing is divided by 0
    position: Literal["learned", "rotary"] = "rotary"   # how a token knows its position
    rotary_base: float = 1e4     # about how many times slower the last pair turns than the first
    activation: Literal["gelu", "relu2", "swiglu"] = "relu2"    # the activation function of the MLP
    mlp_width: int = 0           # numbers inside the MLP; 0: 4 n_embd, or 8/3 for swiglu
    qk_norm: bool = True         # RMS norm of queries and keys, so that no match is extreme
    ngram: int = 3               # runs of 2 tokens to this many have a vector, too; 1: none has
    ngram_rows: int = 32_000     # vectors that the runs of each length share, by a hash
    tie_embeddings: bool = False    # one table turns ids into vectors and vectors into logits
    bias: bool = False           # a bias in the linear layers of blocks and in layer norms
    zero_init: bool = True       # blocks start by adding nothing: their last matrices are zero
    dropout: float = 0.0         # share of numbers zeroed in training, 0 to 1; against overfitting
    activation_checkpointing: bool = False      # in backward, recompute each block: saves memory
    kernels: Literal["raw", "fused"] = "fused"          # the written-out maths, or PyTorch's own

    def __post_init__(self):
        gated = 8 * math.ceil(self.n_embd / 3)      # three matrices of 8/3 C weigh as two of 4 C
        usual = gated if self.activation == "swiglu" else 4 * self.n_embd
        self.mlp_width = self.mlp_width or usual
        self.n_kv_head = self.n_kv_head or self.n_head
        self.head_size = self.n_embd // self.n_head             # D
        self.ops = RAW if self.kernels == "raw" else FUSED
        if self.n_embd % (2 * self.n_head) or self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} must be a multiple of n_kv_head "
                             f"{self.n_kv_head}, and n_embd {self.n_embd} an even one of n_head")
        if self.dropout >= 1 or self.rotary_base == 0:
            raise ValueError("dropout must be below 1, and rotary_base above 0")


ARCHS = {       # GPT-2, 2019; Llama, 2023; and the default: what has proven itself since
    "gpt2": dict(norm="layernorm", position="learned", activation="gelu", qk_norm=False, ngram=1,
                 tie_embeddings=True, bias=True, zero_init=False),
    "llama": dict(activation="swiglu", n_kv_head=2, qk_norm=False, ngram=1, zero_init=False),
    "modern": dict()}


def weight(*shape, std=0.02):       # drawn from a normal distribution, as GPT-2's were
    return nn.Parameter(torch.randn(*shape) * std)


class Norm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config, biased = c, c.bias and c.norm == "layernorm"
        self.gain = nn.Parameter(torch.ones(c.n_embd))
        self.bias = nn.Parameter(torch.zeros(c.n_embd)) if biased else None

    def forward(self, x):
        c = self.config
        if c.norm == "layernorm":
            return c.ops.layer_norm(x, self.gain, self.bias, c.norm_eps)    # (B, T, C)
        return c.ops.rms_norm(x, self.gain, c.norm_eps)                     # (B, T, C)


class Cache:
    """The KV cache: keys and values of the ids read, at most room. For torch.no_grad() only."""
    def __init__(self, c, B, room, device):
        self.ids = torch.zeros(B, 0, dtype=torch.long, device=device)       # (B, S)
        self.k, self.v = torch.zeros(2, c.n_layer, B, c.n_kv_head, room, c.head_size,
                                     device=device)             # (n_layer, B, G, room, D) each

    def extend(self, layer, k, v):
        """Put k and v (B, G, T, D) behind what a layer has; return all of it."""
        start, stop = self.ids.shape[1], self.ids.shape[1] + k.shape[2]
        self.k[layer, :, :, start:stop], self.v[layer, :, :, start:stop] = k, v
        return self.k[layer, :, :, :stop], self.v[layer, :, :, :stop]       # (B, G, S, D) each


class Block(nn.Module):
    """Attention, then an MLP: each reads a normalised x, and adds to x, the residual stream."""
    def __init__(self, c):
        super().__init__()
        self.config, C = c, c.n_embd
        qkv = (c.n_head + 2 * c.n_kv_head) * c.head_size        # three matrices in one product
        up = 2 * c.mlp_width if c.activation == "swiglu" else c.mlp_width  # a gate for each number
        # Small, so that the sum of 2 * n_layer vectors stays in range; at zero, blocks fade in.
        std = 0.0 if c.zero_init else 0.02 / math.sqrt(2 * c.n_layer)
        self.norm1, self.norm2 = Norm(c), Norm(c)
        self.W_qkv, self.W_out = weight(C, qkv), weight(C, C, std=std)
        self.W_up, self.W_down = weight(C, up), weight(c.mlp_width, C, std=std)
        for name, n in (("b_qkv", qkv), ("b_out", C), ("b_up", up), ("b_down", C)):
            setattr(self, name, nn.Parameter(torch.zeros(n)) if c.bias else None)

    def attention(self, x, rotation=None, cache=None, layer=0):
        """Each position gathers what it needs from the positions before it."""
        c, (B, T, _) = self.config, x.shape
        H, G, D = c.n_head, c.n_kv_head, c.head_size
        qkv = c.ops.linear(x, self.W_qkv, self.b_qkv)           # (B, T, (H + 2G) D)
        qk, v = qkv.view(B, T, H + 2 * G, D).split([H + G, G], dim=2)
        if c.qk_norm:                                           # (Henry et al., 2020)
            qk = c.ops.rms_norm(qk)                             # (B, T, H + G, D)
        if rotation is not None:
            qk = c.ops.rotary(qk, *rotation)                    # (B, T, H + G, D)
        q, k = qk.split([H, G], dim=2)                          # (B, T, H, D), (B, T, G, D)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))        # (B, H, T, D), 2 x (B, G, T, D)
        if cache is not None:
            k, v = cache.extend(layer, k, v)                    # (B, G, S, D) each
        y = c.ops.attention(q, k, v, c.dropout * self.training)     # (B, H, T, D)
        y = y.transpose(1, 2).flatten(2)                        # (B, T, C), heads side by side
        return c.ops.linear(y, self.W_out, self.b_out)          # (B, T, C)

    def mlp(self, x):
        """Each position alone: up to mlp_width numbers, an activation function, back down to C."""
        c = self.config
        h = c.ops.linear(x, self.W_up, self.b_up)               # (B, T, mlp_width, or twice that)
        h = getattr(c.ops, c.activation)(h)                     # (B, T, mlp_width)
        return c.ops.linear(h, self.W_down, self.b_down)        # (B, T, C)

    def forward(self, x, rotation=None, cache=None, layer=0):
        drop, p = self.config.ops.dropout, self.config.dropout * self.training
        x = x + drop(self.attention(self.norm1(x), rotation, cache, layer), p)      # (B, T, C)
        return x + drop(self.mlp(self.norm2(x)), p)                                 # (B, T, C)


class GPT(nn.Module):
    """The whole model: ids (B, T) in, logits (B, T, V) out; logits[:, t] has seen ids[:, :t+1]."""
    def __init__(self, c):
        super().__init__()
        self.config, V, C = c, c.vocab_size, c.n_embd
        self.token_table = weight(V, C)                         # (V, C)
        if c.ngram > 1:
            self.ngram_table = weight((c.ngram - 1) * c.ngram_rows, C)      # (Huang et al., 2025)
        if c.position == "learned":
            self.position_table = weight(c.context_length, C)   # (longest T, C)
        else:
            table = rotary_table(c.context_length, c.head_size, c.rotary_base)
            self.register_buffer("rotation", table, persistent=False)       # (2, longest T, 1, D)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.norm = Norm(c)
        if not c.tie_embeddings:
            self.W_vocab = weight(C, V)                         # (C, V)

    def forward(self, ids, cache=None, last=0):
        """Given a cache, ids go on from its tokens. Logits of the `last` positions; 0: of all."""
        c, seen = self.config, (ids if cache is None else torch.cat([cache.ids, ids], dim=1))
        S, T = seen.shape[1], ids.shape[1]                      # seen is (B, S)
        x = c.ops.embedding(ids, self.token_table)              # (B, T, C)
        if c.ngram > 1:
            rows = ngram_hash(seen, T, c.ngram, c.ngram_rows)   # (B, T, ngram - 1)
            x = x + c.ops.embedding(rows, self.ngram_table).sum(dim=-2)     # (B, T, C)
        if c.position == "learned":
            x, rotation = x + self.position_table[S - T:S], None            # (B, T, C)
        else:
            rotation = self.rotation[:, S - T:S]                # (2, T, 1, D)
        x = c.ops.dropout(x, c.dropout * self.training)         # (B, T, C)
        for layer, block in enumerate(self.blocks):
            if c.activation_checkpointing and self.training and cache is None:
                # Keep only x, and run the block again in backward (Chen et al., 2016).
                x = checkpoint(block, x, rotation, use_reentrant=False)     # (B, T, C)
            else:
                x = block(x, rotation, cache, layer)            # (B, T, C)
        if cache is not None:
            cache.ids = seen
        W = self.token_table.T if c.tie_embeddings else self.W_vocab        # (C, V)
        return c.ops.linear(self.norm(x[:, -last:]), W)         # (B, T or last, V)
