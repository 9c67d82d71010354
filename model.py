"""
GPT from raw tensors: what a language model computes, every step written out.

A language model reads T tokens and, at each of the T places, gives a score (a logit) to every
token of its vocabulary: how well it would do as the next one. GPT gets there in three moves:

    embed     each token id becomes a vector of C numbers
    mix       n_layer blocks; in each, every place first gathers what it needs from the places
              before it (attention), then thinks about it on its own (the MLP)
    predict   each vector is compared with every token's output vector: the logits

The file climbs to it: first the maths, as functions of tensors; then a faster twin of each, for
running rather than reading; then the modules that hold the weights; then GPT. Where the field
has changed its mind since GPT-2, both ways stand here, and a switch of GPTConfig picks one.

A comment at the end of a line is the shape of its result. The letters in it are
    B sequences   T tokens in each   S places to look at   C = n_embd numbers per token
    H heads       G heads of keys and values   D = C / H numbers per token in a head
    V = vocab_size

    python model.py             # the shapes as one batch flows through, and what they cost

Papers: Attention Is All You Need (Vaswani et al., 2017); Language Models are Unsupervised
Multitask Learners (GPT-2; Radford et al., 2019). Later ideas name theirs where they stand.
"""
import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# ------------------------------------------------------------------------------------------
# The maths. `...` stands for any leading dimensions, usually B, T or B, H, T.


def embedding(ids, W):
    """Row ids[...] of the table W (V, C): one vector for each id."""
    return W[ids]                                               # (..., C)


def ngram_rows(ids, n, rows):
    """Which row of a table of `rows` stands for the n tokens that end at each place.

    ids is (B, n - 1 + T), the last T of them the places asked about. There are too many n-grams
    for a row each, so a hash scatters them over the rows, and some share one.
    """
    T = ids.shape[1] - (n - 1)
    row = torch.zeros_like(ids[:, :T])                          # (B, T)
    for i in range(n):                                          # the oldest token first
        row = (row * 1_000_003 + ids[:, i:i + T]) % rows        # (B, T)
    return row


def linear(x, W, b=None):
    """Every output is a weighted sum of all the inputs, plus a bias. W is (n_in, n_out)."""
    y = x @ W                                                   # (..., n_out)
    return y if b is None else y + b                            # (..., n_out)


def softmax(x):
    """Scores in, probabilities out: positive, summing to 1 over the last dimension.

    exp overflows above 88 in float32. Subtracting the largest score changes nothing in the
    result (it divides above and below by the same number) and makes every exponent <= 0.
    """
    x = x - x.max(dim=-1, keepdim=True).values                  # (..., n), all <= 0
    exp = x.exp()                                               # (..., n), in [0, 1]
    return exp / exp.sum(dim=-1, keepdim=True)                  # (..., n)


def cross_entropy(logits, targets, ignore=-1):
    """How surprised the model is, in nats: the mean of -ln p(target). Zero is certainty.

    logits (..., V), targets (...) of ids; a model that knows nothing scores ln(V).
    -ln softmax(x)[i] = ln sum exp(x) - x[i], with the largest logit taken out as in softmax.
    Places whose target is the number `ignore` do not count.
    """
    logits = logits - logits.max(dim=-1, keepdim=True).values   # (..., V)
    log_sum = logits.exp().sum(dim=-1).log()                    # (...)
    counts = targets != ignore                                  # (...) of booleans
    chosen = logits.gather(-1, (targets * counts)[..., None])[..., 0]   # (...)
    return ((log_sum - chosen) * counts).sum() / counts.sum()   # ()


def wide(x):
    """x in 32 bits at least: in 16, squares and their roots' slopes leave the range of numbers."""
    return x.float() if x.element_size() < 4 else x             # (...)


def layer_norm(x, gain, bias=None, eps=1e-5):
    """Shift and scale each vector to mean 0 and variance 1; then let the model rescale it.

    It keeps the numbers of a deep stack in one range (Ba, Kiros and Hinton, 2016).
    """
    centred = wide(x) - wide(x).mean(dim=-1, keepdim=True)      # (..., C)
    variance = (centred * centred).mean(dim=-1, keepdim=True)   # (..., 1)
    y = (centred * torch.rsqrt(variance + eps)).to(x.dtype) * gain      # (..., C)
    return y if bias is None else y + bias                      # (..., C)


def rms_norm(x, gain=None, eps=1e-5):
    """Layer norm without the shift: divide each vector by the root of its mean square.

    It is the scaling that helps, not the centring (Zhang and Sennrich, 2019).
    """
    mean_square = (wide(x) * wide(x)).mean(dim=-1, keepdim=True)    # (..., 1)
    y = (x * torch.rsqrt(mean_square + eps)).to(x.dtype)        # (..., C)
    return y if gain is None else y * gain                      # (..., C)


def gelu(x):
    """A smooth switch: near 0 for negative x, near x for positive (Hendrycks, Gimpel, 2016).

    This is the tanh approximation that GPT-2 was trained with; gelu_exact is what it is near.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))   # (...)


def gelu_exact(x):
    """x times the probability that a draw from the standard normal distribution is below x."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))          # (...)


def silu(x):
    """Another smooth switch: x times its sigmoid, 1 / (1 + e^-x), which rises from 0 to 1."""
    return x * torch.sigmoid(x)                                 # (...)


def relu2(x):
    """The plain switch, squared: 0 below 0, x^2 above. Cheap, and as good (Primer; So, 2021)."""
    return x.clamp(min=0) ** 2                                  # (...)


def swiglu(x):
    """One half of the numbers decides how much of the other half gets through (Shazeer, 2020)."""
    gate, value = x.chunk(2, dim=-1)                            # (..., n / 2) each
    return silu(gate) * value                                   # (..., n / 2)


def dropout(x, p):
    """Zero each number with probability p and scale up the rest, so the mean stays the same."""
    if p == 0:
        return x
    keep = torch.rand_like(x) >= p                              # (..., C) of booleans
    return x * keep / (1 - p)                                   # (..., C)


def rotary_table(T, D, base=10_000):
    """The cosines and sines by which rotary() turns the D numbers of a head, for T places.

    The angle of each of the D/2 pairs is place * speed; pair 0 turns by one radian a place, the
    last almost base times slower. Each is written twice, once for either number of its pair.
    """
    speed = base ** (-torch.arange(0, D, 2) / D)                # (D/2,), from 1 down to 1 / base
    angle = torch.arange(T)[:, None, None] * speed              # (T, 1, D/2); the 1 is for heads
    cos, sin = angle.cos(), angle.sin()                         # (T, 1, D/2) each
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])   # (2, T, 1, D)


def rotary(x, cos, sin):
    """Tell a vector where it stands by turning it (RoPE; Su et al., 2021). x is (..., T, H, D).

    Number i and number i + D/2 are a point (a, b) in a plane, which becomes
    (a cos - b sin, b cos + a sin). The product of a question turned by t and a key turned by s
    depends on t - s only: attention sees how far apart two places are, wherever they stand.
    """
    partner = x.roll(x.shape[-1] // 2, dims=-1)                 # (..., T, H, D), b for a, a for b
    return x * cos + partner * sin                              # (..., T, H, D)


def causal_mask(T, S=None, device=None):
    """True where one of the last T of S places (a row) may look at a place (a column).

    It may look at itself and at what is before it, never at the future.
    """
    S = S or T
    places = torch.arange(S, device=device)                     # (S,)
    return places[S - T:, None] >= places[None, :]              # (T, S)


def share_heads(x, q):
    """If there are fewer heads of keys or values x than of questions q, repeat each for H / G."""
    if x.shape[:-2] == q.shape[:-2]:
        return x                                                # (..., H, S, D)
    return x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3)      # (..., H, S, D)


def attention_weights(q, k, mask=None):
    """How much each place looks at each other: (..., T, S), rows sum to 1.

    Each place asks a question (q), each place it may look at has a key (k); how well they match
    is their product. A sum of D products has a spread of sqrt(D); dividing by it keeps the
    softmax away from all-or-nothing, where it would have no gradient. mask is causal_mask()
    unless given; a place that may look nowhere gives weight to nothing.
    """
    T, D, S = *q.shape[-2:], k.shape[-2]
    mask = causal_mask(T, S, q.device) if mask is None else mask    # (T, S) of booleans
    scores = q @ share_heads(k, q).transpose(-2, -1) / math.sqrt(D)     # (..., T, S)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)   # (..., T, S)
    return softmax(scores) * mask                               # (..., T, S)


def attention(q, k, v, mask=None, p=0.0):
    """Each place takes of every value (v) as much as its question (q) matches the key (k).

    q (..., H, T, D); k and v (..., G, S, D), where T may be the last few of S places. G = H is
    multi-head attention: H small ones side by side, each free to look elsewhere. G < H is
    grouped-query attention, with less to keep in mind while writing (Ainslie et al., 2023).
    p is the share of the weights dropped out in training.
    """
    weights = dropout(attention_weights(q, k, mask), p)         # (..., H, T, S)
    return weights @ share_heads(v, q)                          # (..., H, T, D)


# ------------------------------------------------------------------------------------------
# The same maths for running: PyTorch's own kernels do in one pass over memory what the lines
# above do in several. tests/test_model.py proves each pair equal, in value and in gradient.


LARGE = 2 ** 16     # numbers in a matrix; to read a smaller one takes no time


def row_times_matrix(row, W):
    """row (1, n_in) @ W, for a large W that lies in memory column after column: see GPT.lay_out.

    The work is to read W once. MKL's product of a row and a matrix does so at a third of the speed
    that memory has, its product of several rows with a matrix each nearly at full speed. So cut W
    into groups of columns, two if their number is even, and call the row several.
    """
    n_in, n_out = W.shape
    n = next((n for n in range(2, 100) if n_out % n == 0), n_out)
    groups = W.T.view(n, -1, n_in)                              # (n, n_out / n, n_in)
    return torch.bmm(groups, row.T.expand(n, -1, 1)).view(1, n_out)


def fused_linear(x, W, b=None):
    rows = x.reshape(-1, W.shape[0])                            # (all the leading ones, n_in)
    one = len(rows) == 1 and x.is_cpu and x.dtype == torch.float32
    if one and W.stride(0) == 1 and W.numel() > LARGE:
        y = row_times_matrix(rows, W)                           # (1, n_out)
        y = y if b is None else y + b                           # (1, n_out)
    else:
        y = rows @ W if b is None else torch.addmm(b, rows, W)  # (all the leading ones, n_out)
    return y.view(*x.shape[:-1], W.shape[1])                    # (..., n_out)


def fused_attention(q, k, v, mask=None, p=0.0):
    T, S = q.shape[-2], k.shape[-2]
    grouped = q.shape[:-2] != k.shape[:-2]
    if mask is None and T == S:             # it has a kernel of its own for this mask
        return F.scaled_dot_product_attention(                  # (..., H, T, D)
            q, k, v, None, p, is_causal=True, enable_gqa=grouped)
    if mask is None and T > 1:              # a single last place may look at all the others
        mask = causal_mask(T, S, q.device)                      # (T, S)
    return F.scaled_dot_product_attention(q, k, v, mask, p, enable_gqa=grouped)     # the same


RAW = SimpleNamespace(
    embedding=embedding, linear=linear, layer_norm=layer_norm, rms_norm=rms_norm, gelu=gelu,
    relu2=relu2, swiglu=swiglu, dropout=dropout, rotary=rotary, attention=attention,
    cross_entropy=cross_entropy)

FUSED = SimpleNamespace(
    embedding=F.embedding, linear=fused_linear, dropout=F.dropout, attention=fused_attention,
    layer_norm=lambda x, gain, bias=None: F.layer_norm(x, gain.shape, gain, bias),
    rms_norm=lambda x, gain=None: (     # on a CPU, PyTorch's own is slower than the lines above
        F.rms_norm(x, x.shape[-1:], gain, 1e-5) if x.is_cuda else rms_norm(x, gain)),
    gelu=lambda x: F.gelu(x, approximate="tanh"),
    relu2=lambda x: F.relu(x).square(),
    swiglu=lambda x: F.silu(x.chunk(2, dim=-1)[0]) * x.chunk(2, dim=-1)[1],
    rotary=lambda x, cos, sin: torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin),
    cross_entropy=lambda logits, targets, ignore=-1: F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=ignore))

KERNELS = {"raw": RAW, "fused": FUSED}

# ------------------------------------------------------------------------------------------
# The model. nn.Module and nn.Parameter hold the weights, and do nothing else.

CHOICES = {"norm": ("layernorm", "rmsnorm"), "position": ("learned", "rotary"),
           "mlp": ("gelu", "relu2", "swiglu"), "kernels": tuple(KERNELS)}


@dataclass
class GPTConfig:
    """The shape of a GPT. The defaults are the preset `nano`: small enough for a laptop."""
    vocab_size: int = 85         # V, how many different tokens there are; set by the tokenizer
    context_length: int = 128    # the longest T: how many tokens the model sees at once
    n_layer: int = 2             # blocks, one on top of the other
    n_head: int = 4              # H, attention heads in a block; n_embd must be a multiple of it
    n_kv_head: int = 0           # G, heads of keys and values; 0: n_head, fewer: grouped-query
    n_embd: int = 128            # C, numbers per token
    norm: str = "rmsnorm"        # what keeps the numbers in range: layernorm | rmsnorm
    position: str = "rotary"     # how a token knows its place: learned | rotary
    mlp: str = "relu2"           # the switch inside the MLP: gelu | relu2 | swiglu
    mlp_width: int = 0           # numbers inside the MLP; 0: 4 n_embd, or 8/3 for swiglu
    qk_norm: bool = True         # RMS norm of questions and keys, so that no match is extreme
    ngram: int = 4               # longest run of tokens that has a vector of its own; 1: none has
    ngram_rows: int = 8192       # how many vectors there are for the runs of each length
    tie_embeddings: bool = False    # one table turns ids into vectors and vectors into logits
    bias: bool = False           # a bias in every linear layer and layer norm
    zero_init: bool = True       # blocks start by adding nothing: their last matrices are zero
    dropout: float = 0.0         # share of numbers zeroed in training, 0 to 1; against overfitting
    activation_checkpointing: bool = False      # in backward, recompute each block: saves memory
    kernels: str = "fused"       # raw: the written-out maths | fused: PyTorch's own, faster

    def __post_init__(self):
        self.n_kv_head = self.n_kv_head or self.n_head
        gated = 8 * math.ceil(self.n_embd / 3)      # three matrices of 8/3 C weigh as two of 4 C
        self.mlp_width = self.mlp_width or (gated if self.mlp == "swiglu" else 4 * self.n_embd)
        for name, value in vars(self).items():
            if type(value) is int and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} is {value!r}; choose {' or '.join(CHOICES[name])}")
        for whole, part in (("n_embd", "n_head"), ("n_head", "n_kv_head")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{whole} {getattr(self, whole)} is not a multiple of {part} "
                                 f"{getattr(self, part)}")
        if self.position == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary turns pairs of numbers, and n_embd / n_head is odd: "
                             f"{self.n_embd} / {self.n_head} = {self.head_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")

    @property
    def head_size(self):
        return self.n_embd // self.n_head                       # D


ARCHS = {       # GPT-2 as it was in 2019, and the defaults: what has proven itself since
    "gpt2": dict(norm="layernorm", position="learned", mlp="gelu", qk_norm=False, ngram=1,
                 tie_embeddings=True, bias=True, zero_init=False),
    "modern": dict(norm="rmsnorm", position="rotary", mlp="relu2", qk_norm=True, ngram=4,
                   tie_embeddings=False, bias=False, zero_init=True),
}

SHAPES = {      # presets; train.py adds how each is trained
    "nano": dict(),
    "baseline": dict(n_layer=4, context_length=64),
    "baby": dict(n_layer=6, n_head=6, n_embd=384, context_length=256, dropout=0.2),
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, context_length=1024, vocab_size=50_257),
}


def weight(*shape, std=0.02):
    """A parameter drawn from a normal distribution, as GPT-2's were."""
    return nn.Parameter(torch.randn(*shape) * std)


def bias(n, config):
    return nn.Parameter(torch.zeros(n)) if config.bias else None


def residual_std(config):
    """Each block adds two vectors to the stream, so n_layer blocks add 2 * n_layer of them.

    GPT-2 draws the last matrix of each smaller by the root of that, which keeps the sum's spread
    in hand. Starting it at zero does so too: a block is at first not there, and then fades in.
    """
    return 0.0 if config.zero_init else 0.02 / math.sqrt(2 * config.n_layer)


class Norm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm, self.ops = config.norm, KERNELS[config.kernels]
        self.gain = nn.Parameter(torch.ones(config.n_embd))
        self.bias = bias(config.n_embd, config) if config.norm == "layernorm" else None

    def forward(self, x):
        if self.norm == "layernorm":
            return self.ops.layer_norm(x, self.gain, self.bias)     # (B, T, C)
        return self.ops.rms_norm(x, self.gain)                  # (B, T, C)


class Cache:
    """The keys and values of the places already read: writing on need not read them again.

    They never change, as a place sees nothing that comes after it. Room for all of them is made
    once and written into, so a cache is for torch.no_grad() only.
    """

    def __init__(self, config, B, room, like):
        shape = (config.n_layer, B, config.n_kv_head, room, config.head_size)
        self.k, self.v = like.new_zeros(2, *shape).unbind(0)    # (n_layer, B, G, room, D) each
        self.room, self.length = room, 0
        self.last_ids = None            # (B, ngram - 1), for the n-grams that come next

    def extend(self, layer, k, v):
        """Put k and v (B, G, T, D) behind what a layer has; return all of it."""
        S = self.length + k.shape[2]
        self.k[layer, :, :, self.length:S] = k
        self.v[layer, :, :, self.length:S] = v
        return self.k[layer, :, :, :S], self.v[layer, :, :, :S]     # (B, G, S, D) each


class Attention(nn.Module):
    """Each place gathers what it needs from the places before it."""

    def __init__(self, config):
        super().__init__()
        C, self.config, self.ops = config.n_embd, config, KERNELS[config.kernels]
        qkv = (config.n_head + 2 * config.n_kv_head) * config.head_size
        self.W_qkv = weight(C, qkv)                             # three matrices in one product
        self.b_qkv = bias(qkv, config)
        self.W_out = weight(C, C, std=residual_std(config))
        self.b_out = bias(C, config)

    def qkv(self, x, rotation):
        """Questions (B, H, T, D), keys and values (B, G, T, D) of x (B, T, C)."""
        c, (B, T, _) = self.config, x.shape
        H, G, D = c.n_head, c.n_kv_head, c.head_size
        qkv = self.ops.linear(x, self.W_qkv, self.b_qkv)        # (B, T, (H + 2G) D)
        qk, v = qkv.view(B, T, H + 2 * G, D).split([H + G, G], dim=2)
        if c.qk_norm:                                           # (Henry et al., 2020)
            qk = self.ops.rms_norm(qk)                          # (B, T, H + G, D)
        if rotation is not None:
            qk = self.ops.rotary(qk, *rotation)                 # (B, T, H + G, D)
        q, k = qk.split([H, G], dim=2)                          # (B, T, H, D), (B, T, G, D)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x, rotation=None, cache=None, layer=0, mask=None):
        q, k, v = self.qkv(x, rotation)                         # (B, H, T, D), 2 x (B, G, T, D)
        if cache is not None:
            k, v = cache.extend(layer, k, v)                    # (B, G, S, D) each
        p = self.config.dropout * self.training                 # 0 unless we are training
        y = self.ops.attention(q, k, v, mask=mask, p=p)         # (B, H, T, D)
        y = y.transpose(1, 2).reshape(x.shape)                  # (B, T, C), heads side by side
        y = self.ops.linear(y, self.W_out, self.b_out)          # (B, T, C)
        return self.ops.dropout(y, p)                           # (B, T, C)


class MLP(nn.Module):
    """Each place alone: up to mlp_width numbers, a switch on each, and back down to C."""

    def __init__(self, config):
        super().__init__()
        C, width, self.dropout = config.n_embd, config.mlp_width, config.dropout
        up = 2 * width if config.mlp == "swiglu" else width     # a gate for each number, or none
        self.ops, self.mlp = KERNELS[config.kernels], config.mlp
        self.W_up = weight(C, up)
        self.b_up = bias(up, config)
        self.W_down = weight(width, C, std=residual_std(config))
        self.b_down = bias(C, config)

    def forward(self, x):
        h = self.ops.linear(x, self.W_up, self.b_up)            # (B, T, mlp_width, or twice that)
        h = getattr(self.ops, self.mlp)(h)                      # (B, T, mlp_width)
        y = self.ops.linear(h, self.W_down, self.b_down)        # (B, T, C)
        return self.ops.dropout(y, self.dropout * self.training)    # (B, T, C)


class Block(nn.Module):
    """Gather, then think. Both only ever add to x, the stream that runs through the model."""

    def __init__(self, config):
        super().__init__()
        self.norm1, self.attention = Norm(config), Attention(config)
        self.norm2, self.mlp = Norm(config), MLP(config)

    def forward(self, x, rotation=None, cache=None, layer=0, mask=None):
        x = x + self.attention(self.norm1(x), rotation, cache, layer, mask)     # (B, T, C)
        x = x + self.mlp(self.norm2(x))                         # (B, T, C)
        return x


class GPT(nn.Module):
    """The whole model: ids (B, T) in, logits (B, T, V) out; logits[:, t] has seen ids[:, :t+1].

    With tie_embeddings, the table that turns an id into a vector also scores the vectors at the
    end: a token that would fit next is one whose own vector points the same way.
    Given a cache, ids are only what comes after the tokens that went through it before. With
    last_only, logits are (B, 1, V): the writer needs no others. pad (B,) is for texts of unequal
    length, made equal by padding at their left: how many of the places of each are none of it.
    Nothing looks at those, and a text's places are counted from its own first token.
    """

    def __init__(self, config):
        super().__init__()
        self.config, self.ops = config, KERNELS[config.kernels]
        V, C = config.vocab_size, config.n_embd
        self.token_table = weight(V, C)                         # (V, C)
        if config.ngram > 1:
            self.ngram_tables = weight((config.ngram - 1) * config.ngram_rows, C)
        if config.position == "learned":
            self.position_table = weight(config.context_length, C)  # (longest T, C)
        else:
            table = rotary_table(config.context_length, config.head_size)
            self.register_buffer("rotation", table, persistent=False)   # (2, longest T, 1, D)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = Norm(config)
        if not config.tie_embeddings:
            self.W_vocab = weight(C, V)                         # (C, V)

    def forward(self, ids, cache=None, last_only=False, pad=None):
        start = 0 if cache is None else cache.length
        stop = start + ids.shape[1]
        room = self.config.context_length if cache is None else cache.room
        if stop > room:
            raise ValueError(f"{stop} tokens do not fit a context of {room}")
        places, mask, real = slice(start, stop), None, None
        if pad is not None:
            column = torch.arange(stop, device=ids.device)      # (S,)
            places = (column[start:] - pad[:, None]).clamp(min=0)       # (B, T)
            mask = causal_mask(ids.shape[1], stop, ids.device)          # (T, S)
            mask = mask & (column >= pad[:, None, None, None])  # (B, 1, T, S)
            real = column[start:] >= pad[:, None]               # (B, T) of booleans
        x = self.ops.embedding(ids, self.token_table)           # (B, T, C)
        if self.config.ngram > 1:
            x = x + self.embed_ngrams(ids, cache, real)         # (B, T, C)
        rotation = None
        if self.config.position == "learned":
            x = x + self.position_table[places]                 # (B, T, C)
        else:
            rotation = self.rotation[:, places]                 # (2, T, 1, D) or (2, B, T, 1, D)
        x = self.ops.dropout(x, self.config.dropout * self.training)
        for layer, block in enumerate(self.blocks):
            if self.config.activation_checkpointing and self.training and cache is None:
                # Keep no more than x, and run the block again when backward comes to it (Chen
                # et al., 2016): a third more work. It draws the same dropout the second time.
                x = checkpoint(block, x, rotation, None, layer, mask, use_reentrant=False)
            else:
                x = block(x, rotation, cache, layer, mask)      # (B, T, C)
        if cache is not None:
            cache.length = stop
        x = self.norm(x[:, -1:] if last_only else x)            # (B, T or 1, C)
        W = self.token_table.T if self.config.tie_embeddings else self.W_vocab      # (C, V)
        return self.ops.linear(x, W)                            # (B, T or 1, V)

    def embed_ngrams(self, ids, cache=None, real=None):
        """What the last 2, 3 ... ngram tokens mean together: (B, T, C), summed over the lengths.

        Which letters follow "th" is then looked up, not worked out, and the blocks are free for
        what cannot be: the idea of hashed n-gram embeddings (Over-Tokenized Transformer; Huang
        et al., 2025). Before the text begins there is nothing: id 0, the others count from 1.
        real (B, T) is False where ids are padding: nothing, too.
        """
        n, rows = self.config.ngram, self.config.ngram_rows
        before = ids.new_zeros(len(ids), n - 1)                 # (B, n - 1)
        if cache is not None and cache.last_ids is not None:
            before = cache.last_ids                             # (B, n - 1)
        ids = ids + 1 if real is None else (ids + 1) * real     # (B, T)
        ids = torch.cat([before, ids], dim=1)                   # (B, n - 1 + T)
        if cache is not None:
            cache.last_ids = ids[:, -(n - 1):]
        at = torch.stack([(k - 2) * rows + ngram_rows(ids[:, n - k:], k, rows)
                          for k in range(2, n + 1)], dim=-1)    # (B, T, n - 1)
        return self.ops.embedding(at, self.ngram_tables).sum(dim=-2)    # (B, T, C)

    def lay_out(self):
        """Store the large matrices column after column, as row_times_matrix() wants them.

        For writing a single text: that reads every weight once a token, one row at a time. No
        shape and no value changes, only where in memory the numbers lie. Returns the model.
        """
        vocab = [] if self.config.tie_embeddings else [self.W_vocab]    # tied, it lies so already
        for W in [*self.blocks.parameters(), *vocab]:
            if W.dim() == 2 and W.numel() > LARGE:
                W.data = W.data.T.contiguous().T                # (n_in, n_out)
        return self

    def new_cache(self, B, room=None):
        """An empty cache for B texts of up to `room` tokens, context_length unless given."""
        room = min(room or self.config.context_length, self.config.context_length)
        return Cache(self.config, B, room, self.token_table.detach())

    @staticmethod
    def from_pretrained(name_or_path, **settings):
        """GPT-2 as OpenAI trained it, from a folder or by name: see pretrained.py."""
        from pretrained import load_gpt2        # further down the order
        return load_gpt2(name_or_path, **settings)

    def n_parameters(self):
        return sum(p.numel() for p in self.parameters())


@torch.no_grad()
def score(model, batches):
    """How well the model foretells text it is not learning from.

    batches yields (ids, targets), both (B, T), on any device. Returns the summed loss in nats,
    how many times the likeliest token was the right one, and the number of targets.
    """
    was_training = model.training
    model.eval()
    nats, correct, count = 0.0, 0, 0
    for ids, targets in batches:
        ids, targets = ids.to(model.token_table.device), targets.to(model.token_table.device)
        logits = model(ids)                                     # (B, T, V)
        counted = (targets != -1).sum().item()
        nats += model.ops.cross_entropy(logits, targets).item() * counted
        correct += (logits.argmax(dim=-1) == targets).sum().item()
        count += counted
    model.train(was_training)
    return nats, correct, count


def main():
    import anatomy      # further down the order: the chapter that takes a GPT apart
    anatomy.main()


if __name__ == "__main__":
    main()
