"""
Recurrent networks: what came before the transformer, and how far does it get today?

A recurrent network reads from left to right and keeps a state, C numbers, in which all that it has
read must find room. A cell says how the next token changes the state:

    rnn     each step overwrites all of it (Elman, 1990)
    lstm    what its gates do not touch lasts (Hochreiter and Schmidhuber, 1997)
    gru     the same idea with three gates' matrices, not four (Cho et al., 2014)

Attention looks at every earlier token; a state is what is left of them. To compare just that, the
model is model.py's GPT with a cell where attention was, and all else, the n-gram tables too, as is.

    python -m beyond.recurrent      # RNN, GRU, LSTM, GPT: the same tokens, then the same seconds
    python -m beyond.recurrent --write recurrent-lstm --prompt ROMEO --temperature 0.5

It trains seven runs and ends in a table and recurrent.png; after Ctrl-C the same command goes on.
runs/recurrent-gpt is a run like any other; the others only this chapter can load.
"""
import math
import sys
from dataclasses import asdict, replace

import data
import tokenizer
from beyond.curves import picture
from beyond.learn import learn
from beyond.ngram import MOST, NGram
from eval import log_probs
from model import Block, GPTConfig, weight
from sample import (SampleConfig, find_run, load_weights, make_model, pick_device, read_config,
                    write)
from tokenizer import Parser, clear_errors, write_whole
from train import TrainConfig, evaluate

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

# ------------ The cells: x (B, C) and the state, (h,) or (h, c) of (B, C) each; the next state.

def rnn(x, state, W_x, W_h, b_x, b_h):
    h, = state
    return torch.tanh(x @ W_x + b_x + h @ W_h + b_h),                       # (B, C)


def gru(x, state, W_x, W_h, b_x, b_h):
    h, = state
    r_x, z_x, n_x = (x @ W_x + b_x).chunk(3, dim=-1)                        # (B, C) each
    r_h, z_h, n_h = (h @ W_h + b_h).chunk(3, dim=-1)                        # (B, C) each
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)               # (B, C), reset, keep
    n = torch.tanh(n_x + r * n_h)                                           # (B, C), a proposal
    return (1 - z) * n + z * h,                                             # (B, C)


def lstm(x, state, W_x, W_h, b_x, b_h):
    h, c = state
    i, f, g, o = (x @ W_x + b_x + h @ W_h + b_h).chunk(4, dim=-1)           # (B, C) each
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)             # (B, C), kept + added
    return torch.sigmoid(o) * torch.tanh(c), c                              # (B, C) each


CELLS = {"rnn": (rnn, 1), "gru": (gru, 3), "lstm": (lstm, 4)}   # and how many matrices C x C


def sequence(cell, x, state, *weights):
    """All of x (B, T, C), one position after the other: every h (B, T, C), and the last state."""
    shown = []
    for x_t in x.unbind(dim=1):                                             # (B, C) each
        state = CELLS[cell][0](x_t, state, *weights)
        shown.append(state[0])
    return torch.stack(shown, dim=1), state                                 # (B, T, C)


def fused_sequence(cell, x, state, W_x, W_h, b_x, b_h):
    """The same by the kernels of torch.nn.RNN, GRU and LSTM; there matrices lie the other way."""
    kernel = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}[cell]
    state = [s[None].contiguous() for s in state]                           # (1, B, C) each
    shown, *state = kernel(x, state if cell == "lstm" else state[0], (W_x.T, W_h.T, b_x, b_h),
                           True, 1, 0.0, torch.is_grad_enabled(), False, True)
    return shown, tuple(s[0] for s in state)                                # (B, T, C)


class RecurrentBlock(Block):
    """A block with a cell where attention was; of a text its cache keeps one state."""
    def __init__(self, c, cell):
        super().__init__(c)
        self.cell, n, C = cell, CELLS[cell][1], c.n_embd
        self.W_qkv = self.b_qkv = None
        self.W_x, self.W_h = (weight(C, n * C, std=1 / math.sqrt(C)) for _ in range(2))
        self.b_x, self.b_h = (nn.Parameter(torch.zeros(n * C)) for _ in range(2))
        if cell == "lstm":      # at first it keeps (Jozefowicz et al., 2015)
            self.b_x.data[C:2 * C] = 1

    def attention(self, x, rotation=None, cache=None, layer=0):
        states = {} if cache is None else vars(cache).setdefault("states", {})
        start = (x.new_zeros(len(x), x.shape[-1]),) * (2 if self.cell == "lstm" else 1)
        run = sequence if self.config.kernels == "raw" else fused_sequence
        y, states[layer] = run(self.cell, x, states.get(layer, start),
                               self.W_x, self.W_h, self.b_x, self.b_h)      # (B, T, C)
        return self.config.ops.linear(y, self.W_out, self.b_out)            # (B, T, C)


def make(cell, settings, B=0):
    """A GPT; with another cell than "gpt", one without attention."""
    model = make_model(settings, B)
    if cell != "gpt":
        model.blocks = nn.ModuleList(RecurrentBlock(model.config, cell) for _ in model.blocks)
    return model


def load(folder):
    """The best model of a run of this chapter, and its tokenizer."""
    settings = read_config(folder)["model"]
    chapter, cell = settings.pop("chapter", None), settings.pop("cell", None)
    if chapter != "beyond.recurrent" or cell not in [*CELLS]:
        raise ValueError(f"{folder} is no recurrent network; a GPT writes by python sample.py")
    model = make(cell, settings)
    load_weights(model, folder / "best.pt")
    return model.eval(), tokenizer.load(folder / "tokenizer.json")


def fit(cell, name, corpus, shape, c, device):
    """One model of the comparison, trained on the corpus; and its history."""
    own, B = {"chapter": "beyond.recurrent", "cell": cell} if cell != "gpt" else {}, c.batch_size
    settings = {"data": corpus.meta["config"], "model": own | asdict(shape), "train": asdict(c),
                "corpus": {"folder": str(corpus.folder)}}
    torch.manual_seed(c.seed)
    model, T = make(cell, asdict(shape), B).to(device), shape.context_length
    return model, learn(
        name, model, settings, corpus.tokenizer, c,
        lambda step, part, parts: data.batch(corpus.train, B, T, c.seed, step, part, parts),
        lambda net, ids, targets: shape.ops.cross_entropy(net(ids), targets),
        lambda model: evaluate(model, corpus, c), len(corpus.train))


# ------------ What a model makes of what it has read.

def gradient_by_distance(model, ids, targets):
    """How far back a loss reaches: the norm of its gradient at what came into the blocks d = 0 ..
    T - 1 positions before it, the mean over B windows (B, T)."""
    came_in = []
    hook = model.blocks[0].register_forward_pre_hook(lambda _, inputs: came_in.append(inputs[0]))
    loss = model.config.ops.cross_entropy(model(ids)[:, -1], targets[:, -1]) * len(ids)     # ()
    hook.remove()
    gradient, = torch.autograd.grad(loss, came_in)                          # (B, T, C)
    return gradient.norm(dim=-1).mean(dim=0).flip(0).tolist()


def draw(runs, nats, val, path):
    figure = Figure(figsize=(12, 9), layout="constrained")
    (tokens, seconds), (reach, position) = figure.subplots(2, 2)
    for (budget, cell), (model, history) in runs.items():
        points = [(m[budget], m["val_bits_per_byte"]) for m in history if "val_loss" in m]
        (tokens if budget == "tokens" else seconds).plot(*zip(*points), "o-", label=cell)
        if budget == "tokens":
            T = model.config.context_length
            windows = next(data.every_window(val, min(32, (len(val) - 1) // T), T))
            reach.loglog(gradient_by_distance(model.cpu(), *windows)[1:], label=cell)
            losses = nats[budget, cell][:(len(val) - 1) // T * T].view(-1, T).mean(dim=0)   # (T,)
            starts = 2 ** np.arange(T.bit_length())
            means = [losses[i - 1:2 * i - 1].mean().item() for i in starts]
            position.semilogx(starts, means, "o-", base=2, label=cell)
    for at, x, y in ((tokens, "tokens, in the end the same for all", "bits per byte"),
                     (seconds, "seconds, in the end the same for all", "bits per byte"),
                     (reach, "distance in tokens", "norm of the gradient of a loss"),
                     (position, "tokens read: so many, to twice as many", "loss (nats per token)")):
        at.set(xlabel=x, ylabel=y)
        at.grid(alpha=0.3)
        at.legend(frameon=False)
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


def main():
    parser = Parser("Train an RNN, a GRU, an LSTM and a GPT on the same text, and compare them.")
    parser.add_argument("--write", metavar="RUN", help="let it write; all else as in sample.py")
    parser.add_argument("--out", metavar="FILE", default="recurrent.png", help="the picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    data.add_flags(parser, *[SampleConfig] if "--write" in sys.argv else [
        data.DataConfig, TrainConfig, GPTConfig])
    given = vars(parser.parse_args())
    with clear_errors():
        device, path = pick_device(given["device"]), picture(given["out"])
        if given["write"] is not None:
            c = data.checked(SampleConfig, given)
            c.prompt.encode()       # refuses half a character
            model, words = load(find_run(given["write"]))
            for seed in range(c.seed, c.seed + c.samples):
                write(model.to(device), words, replace(c, seed=seed))
            return
        t, shape = data.checked(TrainConfig, given), data.checked(GPTConfig, given)
        corpus = data.load_corpus(data.prepare(data.checked(data.DataConfig, given)))
        shape.vocab_size, val = corpus.tokenizer.vocab_size, corpus.val
        if min(len(corpus.train), len(val)) <= shape.context_length:
            raise ValueError(f"a split of {corpus.folder} is no longer than --context-length")
    with clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)):
        per_byte = math.log(2) * corpus.meta["val"]["bytes"]
        runs, nats, steps = {}, {}, dict.fromkeys(("gpt", *CELLS), t.steps)
        for budget in ("tokens", "seconds"):
            for cell, n in steps.items():
                name = f"recurrent-{cell}" + "-seconds" * (budget == "seconds" and cell != "gpt")
                runs[budget, cell] = fit(cell, name, corpus, shape, replace(t, steps=n), device)
            took = {cell: runs["tokens", cell][1][-1]["seconds"] for cell in steps}
            steps = {cell: max(1, round(n * took["gpt"] / took[cell])) for cell, n in steps.items()}
        print(f"\nthe same    {'model':8}{'in blocks':>11}{'tokens':>12}{'seconds':>9}  bits/byte")
        for (budget, cell), (model, history) in runs.items():
            n, m = sum(x.numel() for x in model.blocks.parameters()), history[-1]
            nats[budget, cell] = torch.cat([-log_p.gather(-1, targets[:, None])[:, 0].cpu()
                                            for log_p, targets in log_probs(model, val)])   # (n,)
            bits = nats[budget, cell].double().sum() / per_byte
            print(f"{budget:12}{cell:8}{n:11,}{m['tokens']:12,}{m['seconds']:9.1f}{bits:11.4f}")
        p = NGram(corpus.train[:MOST], shape.vocab_size, 5).probabilities(val)[5, 1:]
        print(f"{'(counted)':12}{'5-gram':40}{-np.log(p).sum() / per_byte:11.4f}")
        draw(runs, nats, val, path)


if __name__ == "__main__":
    main()
