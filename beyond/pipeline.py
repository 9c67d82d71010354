"""
Pipeline: the blocks of a model dealt to several ranks, stage after stage, and who waits for whom.

Rank r has the r-th share of the blocks, a stage. The first turns ids into vectors, the last vectors
into a loss; vectors are sent on, their gradients back. With one batch only one rank would be busy.
So the batch is cut into M micro-batches, and a stage works on one while the next has another:

    gpipe   all M forward, then all M backward: so a stage keeps activations of M micro-batches
    1f1b    rank r begins with R - r forward; then one backward frees what one forward needs: it
            keeps those of R - r, however many micro-batches there are

Both wait equally long. The last rank begins R - 1 forwards late, ends R - 1 backwards early: each
rank works for M of both, and waits for R - 1. The bubble is (R-1)/(M+R-1), small if M is large.
A rank sends B T C numbers to each neighbour, B texts of T tokens, C = n_embd. If one table turns
ids into vectors and vectors into logits, both ends have it, and send each other its gradient.

    python -m beyond.pipeline --ranks 4 --micro-batches 8       # both schedules, as they should be
    torchrun --standalone --nproc_per_node 4 -m beyond.parallel gpipe 1f1b      # runs, draws them

Papers: GPipe (Huang et al., 2018); DAPPLE (Fan et al., 2020): PipeDream's 1F1B without old weights.
"""
from beyond.wire import receive, send
from tokenizer import Parser, clear_errors, write_whole
from train import RANK, WORLD

import copy
import time
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import nn


def schedule(M, ahead):
    """What a rank does with M micro-batches, in order; `ahead` go forward before one returns."""
    forward, backward = [[(what, m) for m in range(M)] for what in ("forward", "backward")]
    turns = forward[:ahead]
    for m in range(M):
        turns += backward[m:m + 1] + forward[ahead + m:ahead + m + 1]
    return turns


def stage(model):
    """This rank's share of a GPT. It stays a GPT, so the road's forward runs on every rank: where a
    stage lacks the tables or the logits, that operation gives back what it is given."""
    c, L, same = model.config, model.config.n_layer, lambda x, W: x
    first, last, nothing = RANK == 0, RANK == WORLD - 1, torch.zeros(1, 1)
    model.blocks = model.blocks[L * RANK // WORLD:L * (RANK + 1) // WORLD]
    model.config = replace(c, ngram=c.ngram if first else 1)
    model.config.ops = copy.copy(c.ops)
    if not first:
        model.config.ops.embedding, model.ngram_table = same, None
        if c.position == "learned":
            model.position_table = nn.Parameter(nothing, requires_grad=False)
    if not last:
        model.config.ops.linear, model.norm, model.W_vocab = same, nn.Identity(), None
    if not first and not (last and c.tie_embeddings):
        model.token_table = nn.Parameter(nothing, requires_grad=False)
    return model


class Pipeline(nn.Module):
    """A stage at work. Of each step, steps has the turns: what, micro-batch, begin, end, and how
    long the core was busy (less, where ranks share cores)."""
    def __init__(self, model, M, ahead):
        super().__init__()
        self.loss, self.turns, self.steps = model.config.ops.cross_entropy, schedule(M, ahead), []
        self.model, self.M = stage(model), M
        self.tied = model.config.tie_embeddings and RANK in (0, WORLD - 1)

    def learn(self, batch):
        first, last, held, sent, nats, turns = RANK == 0, RANK == WORLD - 1, {}, [], 0.0, []
        for what, m in self.turns:
            ids, targets = batch(m, self.M)                     # (B / M, T) each
            shape = (*ids.shape, self.model.config.n_embd)
            if what == "forward":
                x = ids if first else receive(shape, RANK - 1).requires_grad_()
                began, busy = time.perf_counter(), time.thread_time()
                y = self.model(x)                               # (B / M, T, C), or logits
                if last:
                    y = self.loss(y, targets) / self.M          # ()
                    nats += y.item()
                held[m], message, to = (x, y), y.detach(), RANK + 1
            else:
                grad = None if last else receive(shape, RANK + 1)           # (B / M, T, C)
                began, busy, (x, y) = time.perf_counter(), time.thread_time(), held.pop(m)
                y.backward(grad)
                message, to = x.grad, RANK - 1
            turns.append((what, m, began, time.perf_counter(), time.thread_time() - busy))
            if 0 <= to < WORLD:
                sent.append((send(message, to), message))       # it must live until it has arrived
        if self.tied and WORLD > 1:
            table, other = self.model.token_table, WORLD - 1 - RANK
            sent.append((send(table.grad, other), table.grad))
            table.grad = table.grad + receive(table.shape, other)           # (V, C)
        for work, _ in sent:
            work.wait()
        self.steps.append(turns)
        return nats


def fastest(ranks):
    """The turns of each rank in the step, of all steps of all ranks, that took the least time."""
    def took(step):
        return max(turns[-1][3] for turns in step) - min(turns[0][2] for turns in step)
    return min(zip(*ranks), key=took)


def own_cores(ranks):
    """The same turns if each rank had a core of its own: each lasts as long as it kept its core
    busy, and begins when its rank is free and what it needs has come from its neighbour."""
    left, laid, ended = [[*turns] for turns in ranks], [[] for _ in ranks], {}
    while any(left):
        for r, turns in enumerate(left):
            what, m, *_, busy = turns[0] if turns else ("", 0, 0)
            source = r - 1 if what == "forward" else r + 1
            if turns and (not 0 <= source < len(ranks) or (what, m, source) in ended):
                free = laid[r][-1][3] if laid[r] else 0.0
                began = max(free, ended.get((what, m, source), 0.0))
                ended[what, m, r] = began + busy
                laid[r].append((what, m, began, began + busy, busy))
                turns.pop(0)
    return laid


def bubble(ranks):
    """The share of a step's time in which ranks are idle, from the turns of each."""
    every = [turn for turns in ranks for turn in turns]
    took = max(t[3] for t in every) - min(t[2] for t in every)
    return 1 - sum(t[3] - t[2] for t in every) / took / len(ranks)


def draw_schedules(schedules, title, path):
    """A row for each rank, a bar for each turn. schedules maps names to the turns of each rank."""
    figure = Figure(figsize=(11, 0.7 + 1.9 * len(schedules)), layout="constrained")
    grid = figure.subplots(len(schedules), squeeze=False).flat
    for axes, (name, ranks) in zip(grid, schedules.items()):
        start, R, M = min(turns[0][2] for turns in ranks), len(ranks), len(ranks[0]) // 2
        for r, turns in enumerate(ranks):
            for what, m, began, ended, _ in turns:
                x, width = 1000 * (began - start), 1000 * (ended - began)
                colour = "lightskyblue" if what == "forward" else "sandybrown"
                axes.barh(r, width, left=x, color=colour, edgecolor="white")
                axes.text(x + width / 2, r, m + 1, ha="center", va="center", fontsize=7)
        axes.set(title=f"{name}: idle {bubble(ranks):.0%}; by formula {(R - 1) / (M + R - 1):.0%}",
                 ylabel="rank", yticks=range(R))
        axes.invert_yaxis()
    axes.set(xlabel=f"milliseconds, {title}; blue: forward, orange: backward of a micro-batch")
    write_whole(path, lambda file: figure.savefig(file, dpi=120, format="png"))


def main():
    parser = Parser("Print both schedules, where a forward takes one unit of time, a backward two.")
    parser.add_argument("--ranks", type=int, default=4, metavar="R", help="(default: 4)")
    parser.add_argument("--micro-batches", type=int, default=8, metavar="M", help="(default: 8)")
    R, M = vars(parser.parse_args()).values()
    with clear_errors():
        if not (1 <= R <= 64 and 1 <= M <= 64):
            raise ValueError("--ranks and --micro-batches take 1 to 64")
    for name in ("gpipe", "1f1b"):
        ranks = own_cores([[(what, m, 0, 0, 1 if what == "forward" else 2)
                            for what, m in schedule(M, M if name == "gpipe" else R - r)]
                           for r in range(R)])
        held = M if name == "gpipe" else min(M, R)
        print(f"{name}: idle {bubble(ranks):.0%} of the time; rank 0 holds {held} micro-batches")
        for r, turns in enumerate(ranks):
            line, width = "", len(str(M)) + 1
            for what, m, began, ended, _ in turns:
                mark = f"{m + 1:>{width - 1}}" + ("+" if what == "forward" else "-")
                line = line.ljust(int(began) * width) + mark.ljust(int(ended - began) * width, "-")
            print(f"    rank {r}  {line}")
    print("+ forward, - backward of a micro-batch")


if __name__ == "__main__":
    main()
