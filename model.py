"""
GPT from raw tensors: what a language model computes, every step written out.

A language model reads T tokens and, at each of the T places, gives a score (a logit) to every
token of its vocabulary: how well it would do as the next one. GPT gets there in three moves:

    embed     each token id, and its place in the text, becomes a vector of C numbers
    mix       n_layer blocks; in each, every place first gathers what it needs from the places
              before it (attention), then thinks about it on its own (the MLP)
    predict   each vector is compared with every token's own vector: the logits

The file climbs in the same order: first the maths, as functions of tensors; then a faster twin
of each, for running rather than reading; then the modules that hold the weights; then GPT.
A comment at the end of a line is the shape of its result. The letters in it are
    B sequences   T tokens in each   C = n_embd numbers per token
    H heads       D = C / H numbers per token in a head       V = vocab_size

    python model.py             # the shapes as one batch flows through, and the parameters

Papers: Attention Is All You Need (Vaswani et al., 2017); Language Models are Unsupervised
Multitask Learners (GPT-2; Radford et al., 2019).
"""
import argparse
import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------------------------------------
# The maths. `...` stands for any leading dimensions, usually B, T or B, H, T.


def embedding(ids, W):
    """Row ids[...] of the table W (V, C): one vector for each id."""
    return W[ids]                                               # (..., C)


def linear(x, W, b):
    """Every output is a weighted sum of all the inputs, plus a bias. W is (n_in, n_out)."""
    return x @ W + b                                            # (..., n_out)


def softmax(x):
    """Scores in, probabilities out: positive, summing to 1 over the last dimension.

    exp overflows above 88 in float32. Subtracting the largest score changes nothing in the
    result (it divides above and below by the same number) and makes every exponent <= 0.
    """
    x = x - x.max(dim=-1, keepdim=True).values                  # (..., n), all <= 0
    exp = x.exp()                                               # (..., n), in (0, 1]
    return exp / exp.sum(dim=-1, keepdim=True)                  # (..., n)


def cross_entropy(logits, targets):
    """How surprised the model is, in nats: the mean of -ln p(target). Zero is certainty.

    logits (..., V), targets (...) of ids; a model that knows nothing scores ln(V).
    -ln softmax(x)[i] = ln sum exp(x) - x[i], with the largest logit taken out as in softmax.
    """
    logits = logits - logits.max(dim=-1, keepdim=True).values   # (..., V)
    log_sum = logits.exp().sum(dim=-1).log()                    # (...)
    chosen = logits.gather(-1, targets[..., None])[..., 0]      # (...)
    return (log_sum - chosen).mean()                            # ()


def layer_norm(x, gain, bias, eps=1e-5):
    """Shift and scale each vector to mean 0 and variance 1; then let the model rescale it.

    It keeps the numbers of a deep stack in one range (Ba, Kiros and Hinton, 2016).
    """
    centred = x - x.mean(dim=-1, keepdim=True)                  # (..., C)
    variance = (centred * centred).mean(dim=-1, keepdim=True)   # (..., 1)
    return centred * torch.rsqrt(variance + eps) * gain + bias  # (..., C)


def gelu(x):
    """A smooth switch: near 0 for negative x, near x for positive (Hendrycks, Gimpel, 2016).

    This is the tanh approximation of x * P(a standard normal < x) that GPT-2 was trained with.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def dropout(x, p):
    """Zero each number with probability p and scale up the rest, so the mean stays the same."""
    if p == 0:
        return x
    keep = torch.rand_like(x) >= p                              # (..., C) of booleans
    return x * keep / (1 - p)                                   # (..., C)


def causal_mask(T, device=None):
    """True where place t (a row) may look at place s (a column): s <= t, never the future."""
    places = torch.arange(T, device=device)                     # (T,)
    return places[:, None] >= places[None, :]                   # (T, T)


def attention(q, k, v, p=0.0):
    """Each place asks a question (q), each earlier place has a key (k) and something to say (v).

    q, k, v (..., T, D). The match of question and key decides how much of each value is taken:
    softmax(q k^T / sqrt(D)) v. A sum of D products has a spread of sqrt(D); dividing by it
    keeps the softmax away from all-or-nothing, where it would have no gradient. p is the share
    of the weights dropped out in training.
    """
    T, D = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)             # (..., T, T)
    scores = scores.masked_fill(~causal_mask(T, q.device), -math.inf)
    weights = softmax(scores)                                   # (..., T, T), rows sum to 1
    return dropout(weights, p) @ v                              # (..., T, D)


# ------------------------------------------------------------------------------------------
# The same maths for running: PyTorch's own kernels do in one pass over memory what the lines
# above do in several. tests/test_model.py proves each pair equal, in value and in gradient.

RAW = SimpleNamespace(
    embedding=embedding, linear=linear, layer_norm=layer_norm, gelu=gelu, dropout=dropout,
    attention=attention, cross_entropy=cross_entropy)

FUSED = SimpleNamespace(
    embedding=F.embedding,
    linear=lambda x, W, b: torch.addmm(b, x.flatten(0, -2), W).view(*x.shape[:-1], -1),
    layer_norm=lambda x, gain, bias: F.layer_norm(x, gain.shape, gain, bias),
    gelu=lambda x: F.gelu(x, approximate="tanh"),
    dropout=F.dropout,
    attention=lambda q, k, v, p=0.0: F.scaled_dot_product_attention(
        q, k, v, dropout_p=p, is_causal=True),
    cross_entropy=lambda logits, targets: F.cross_entropy(logits.flatten(0, -2), targets.flatten()))

KERNELS = {"raw": RAW, "fused": FUSED}

# ------------------------------------------------------------------------------------------
# The model. nn.Module and nn.Parameter hold the weights, and do nothing else.


@dataclass
class GPTConfig:
    """The shape of a GPT. The defaults are the preset `nano`: small enough for a laptop."""
    vocab_size: int = 84         # V, how many different tokens there are; set by the tokenizer
    context_length: int = 128    # the longest T: how many tokens the model sees at once
    n_layer: int = 4             # blocks, one on top of the other
    n_head: int = 4              # attention heads in a block; n_embd must be a multiple of it
    n_embd: int = 128            # C, numbers per token
    dropout: float = 0.0         # share of numbers zeroed in training, 0 to 1; against overfitting
    kernels: str = "fused"       # raw: the written-out maths | fused: PyTorch's own, the same faster

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.kernels not in KERNELS:
            raise ValueError(f"kernels is {self.kernels!r}; choose one of {', '.join(KERNELS)}")


def weight(*shape, std=0.02):
    """A parameter drawn from a normal distribution, as GPT-2's were."""
    return nn.Parameter(torch.randn(*shape) * std)


def residual_std(config):
    """Each block adds two vectors to the stream, so n_layer blocks add 2 * n_layer of them.

    Drawing the last matrix of each smaller by the root of that keeps the sum's spread in hand.
    """
    return 0.02 / math.sqrt(2 * config.n_layer)


class LayerNorm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ops = KERNELS[config.kernels]
        self.gain = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd))

    def forward(self, x):
        return self.ops.layer_norm(x, self.gain, self.bias)     # (B, T, C)


class Attention(nn.Module):
    """Multi-head attention: H small attentions side by side, each free to look elsewhere."""

    def __init__(self, config):
        super().__init__()
        C, self.n_head, self.dropout = config.n_embd, config.n_head, config.dropout
        self.ops = KERNELS[config.kernels]
        self.W_qkv = weight(C, 3 * C)                           # three matrices in one product
        self.b_qkv = nn.Parameter(torch.zeros(3 * C))
        self.W_out = weight(C, C, std=residual_std(config))
        self.b_out = nn.Parameter(torch.zeros(C))

    def forward(self, x):
        B, T, C = x.shape
        H, D = self.n_head, C // self.n_head
        qkv = self.ops.linear(x, self.W_qkv, self.b_qkv)        # (B, T, 3C)
        q, k, v = qkv.view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)    # each (B, H, T, D)
        p = self.dropout * self.training                        # 0 unless we are training
        y = self.ops.attention(q, k, v, p)                      # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)                  # (B, T, C), heads side by side
        y = self.ops.linear(y, self.W_out, self.b_out)          # (B, T, C)
        return self.ops.dropout(y, p)                           # (B, T, C)


class MLP(nn.Module):
    """Each place alone: up to 4C numbers, a switch on each, and back down to C."""

    def __init__(self, config):
        super().__init__()
        C, self.dropout = config.n_embd, config.dropout
        self.ops = KERNELS[config.kernels]
        self.W_up = weight(C, 4 * C)
        self.b_up = nn.Parameter(torch.zeros(4 * C))
        self.W_down = weight(4 * C, C, std=residual_std(config))
        self.b_down = nn.Parameter(torch.zeros(C))

    def forward(self, x):
        h = self.ops.gelu(self.ops.linear(x, self.W_up, self.b_up))  # (B, T, 4C)
        y = self.ops.linear(h, self.W_down, self.b_down)        # (B, T, C)
        return self.ops.dropout(y, self.dropout * self.training)    # (B, T, C)


class Block(nn.Module):
    """Gather, then think. Both only ever add to x, the stream that runs through the model."""

    def __init__(self, config):
        super().__init__()
        self.norm1, self.attention = LayerNorm(config), Attention(config)
        self.norm2, self.mlp = LayerNorm(config), MLP(config)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))                   # (B, T, C)
        x = x + self.mlp(self.norm2(x))                         # (B, T, C)
        return x


class GPT(nn.Module):
    """The whole model: ids (B, T) in, logits (B, T, V) out; logits[:, t] has seen ids[:, :t+1].

    The table that turns an id into a vector also scores the vectors at the end: a token that
    would fit next is one whose own vector points the same way.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.ops = KERNELS[config.kernels]
        self.token_table = weight(config.vocab_size, config.n_embd)          # (V, C)
        self.position_table = weight(config.context_length, config.n_embd)   # (longest T, C)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = LayerNorm(config)

    def forward(self, ids):
        B, T = ids.shape
        if T > self.config.context_length:
            raise ValueError(f"{T} tokens do not fit a context of {self.config.context_length}")
        x = self.ops.embedding(ids, self.token_table)           # (B, T, C), what
        x = x + self.position_table[:T]                         # (B, T, C), and where
        x = self.ops.dropout(x, self.config.dropout * self.training)
        for block in self.blocks:
            x = block(x)                                        # (B, T, C)
        x = self.norm(x)                                        # (B, T, C)
        return x @ self.token_table.T                           # (B, T, V)

    def n_parameters(self):
        return sum(p.numel() for p in self.parameters())


@torch.no_grad()
def score(model, batches):
    """How well the model foretells text it is not learning from.

    batches yields (ids, targets), both (B, T), on any device. Returns the summed loss in nats, how many times
    the likeliest token was the right one, and the number of targets.
    """
    was_training = model.training
    model.eval()
    cross_entropy = KERNELS[model.config.kernels].cross_entropy
    nats, correct, count = 0.0, 0, 0
    device = next(model.parameters()).device
    for ids, targets in batches:
        targets = targets.to(device)                            # (B, T)
        logits = model(ids.to(device))                          # (B, T, V)
        nats += cross_entropy(logits, targets).item() * targets.numel()
        correct += (logits.argmax(dim=-1) == targets).sum().item()
        count += targets.numel()
    model.train(was_training)
    return nats, correct, count


def main():
    parser = argparse.ArgumentParser(
        description="Send one batch through an untrained GPT and print the shape of every step.")
    parser.add_argument("--kernels", choices=KERNELS, default="raw", help="which maths to run")
    torch.manual_seed(1)
    model = GPT(GPTConfig(kernels=parser.parse_args().kernels))
    V, T = model.config.vocab_size, model.config.context_length
    ids, targets = torch.randint(V, (2, 4, T))                  # each (4, T)

    print(f"{'step':28}{'shape of its result':24}{'parameters':>12}")
    print(f"{'ids':28}{str(tuple(ids.shape)):24}")
    for name, module in model.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        module.register_forward_hook(lambda module, inputs, result, name=name, own=own: print(
            f"{name or 'GPT: its tables, its logits':28}{str(tuple(result.shape)):24}{own:12,}"))
    loss = KERNELS[model.config.kernels].cross_entropy(model(ids), targets)
    print(f"{'':52}{model.n_parameters():12,} in all")
    print(f"\nloss of the untrained model {loss:.3f} nats a token; knowing nothing is "
          f"ln({V}) = {math.log(V):.3f}")


if __name__ == "__main__":
    main()
