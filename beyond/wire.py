"""
Wire: what processes send each other while they train one model, and what it costs, counted.

R processes (ranks) each have a tensor of n numbers. Five messages are enough for parallel.py; the
first three all ranks call at once (collectives). If the ranks stand in a ring, and each sends only
to the next, a rank sends:

    all_gather       (R-1) n: each passes on what it got, until all parts have been everywhere
    reduce_scatter   (R-1)/R n: R parts go round, each rank adds its own, and ends with one sum
    all_reduce       2 (R-1)/R n: a reduce_scatter, then an all_gather of the sums
    send, receive    n: from one rank to another

However many ranks there are, an all_reduce sends less than 2n. These bytes are counted here. What a
library really sends may differ: gloo, for CPUs, does a reduce_scatter by way of an all_reduce.

    torchrun --standalone --nproc_per_node 2 -m beyond.wire     # how fast are they here?

Paper: Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations (Patarasuk and Yuan,
2009). beyond/parallel.py uses all of these.
"""
from tokenizer import Parser, clear_errors
from train import RANK, WORLD

import contextlib
import os
import sys
import time
from collections import Counter
from functools import partial

import torch
import torch.distributed as dist
from torch.autograd.graph import saved_tensors_hooks
from tqdm import tqdm

SENT = Counter()        # bytes that this rank has sent, by the kind of message


def all_gather(part):
    whole = part.new_empty(WORLD * len(part))                   # (R n,)
    SENT["all_gather"] += (WORLD - 1) * part.nbytes
    dist.all_gather_single(whole, part)
    return whole


def reduce_scatter(whole):
    part = whole.new_empty(len(whole) // WORLD)                 # (n / R,)
    SENT["reduce_scatter"] += (WORLD - 1) * part.nbytes
    dist.reduce_scatter_single(part, whole)
    return part


def all_reduce(x, op=dist.ReduceOp.SUM, async_op=False):
    """In place. What async_op returns has to wait() before x is the sum."""
    SENT["all_reduce"] += 2 * (WORLD - 1) / WORLD * x.nbytes
    return dist.all_reduce(x, op, async_op=async_op)


def send(x, to):
    """Two ranks that each waited until the other receives would wait for ever: so go on at once."""
    SENT["send"] += x.nbytes
    return dist.isend(x, to)


def receive(shape, source):
    x = torch.empty(shape)
    dist.recv(x, source)
    return x


class Saved:
    """A tensor that autograd keeps for backward; of all of them, the bytes kept at most."""
    weights, holders, now, most = frozenset(), Counter(), 0, 0

    def __init__(self, x):
        storage = x.untyped_storage()       # tensors may share one, and weights are kept anyway
        self.x, self.key = x.detach(), storage.data_ptr()
        self.size = 0 if self.key in Saved.weights else storage.nbytes()
        Saved.now += self.size * (not Saved.holders[self.key])
        Saved.holders[self.key] += 1
        Saved.most = max(Saved.most, Saved.now)

    def __del__(self):
        Saved.holders[self.key] -= 1
        Saved.now -= self.size * (not Saved.holders[self.key])


def loss_of(model, ids, targets):
    return model.config.ops.cross_entropy(model(ids), targets)  # ()


def measure(way, batch, steps, learning_rate):
    """Train for some steps. What this rank kept and sent in the first, in bytes, and all losses.

    way.learn(batch) leaves gradients in way.parameters(), returns its share of the loss.
    """
    weights, losses, found = [p for p in way.parameters() if p.requires_grad], [], {}
    optimizer = torch.optim.AdamW(weights, learning_rate, weight_decay=0.1)
    Saved.weights, Saved.most = {p.untyped_storage().data_ptr() for p in weights}, Saved.now
    for step in tqdm(range(steps), type(way).__name__, leave=False, disable=True if RANK else None):
        SENT.clear()
        watch = saved_tensors_hooks(Saved, lambda saved: saved.x)
        with contextlib.nullcontext() if step else watch:
            losses.append(way.learn(partial(batch, step)))
        if step == 0:
            found = {"activations": Saved.most, "sent": sum(SENT.values())}
            grads = sum(p.grad.nbytes for p in weights)
        optimizer.step()
        optimizer.zero_grad()
    losses = torch.tensor(losses)                               # (steps,)
    dist.all_reduce(losses)     # only to be shown: not counted
    means = (x for state in optimizer.state.values() for x in state.values() if x.dim())
    found["states"] = sum(p.nbytes for p in weights) + grads + sum(x.nbytes for x in means)
    return found | {"losses": losses.tolist()}


def end_after(main):
    """Run main, then end this process: gloo's threads may keep Python from ending by itself."""
    try:
        main()
    except SystemExit as stopped:
        sys.stdout.flush()
        os._exit(stopped.code or 0)


def main():
    Parser("Time the messages among the ranks that torchrun has started.").parse_args()
    with clear_errors():
        if WORLD == 1:
            raise ValueError("one process has nobody to send to: torchrun --standalone "
                             "--nproc_per_node 2 -m beyond.wire starts two")
    dist.init_process_group("gloo")
    for message in (all_gather, reduce_scatter, all_reduce):
        for n in (2 ** 10, 2 ** 22):
            x, best = torch.zeros(n * WORLD), float("inf")      # float32
            for _ in range(10):
                dist.barrier()
                SENT.clear()
                began = time.perf_counter()
                message(x)
                best = min(best, time.perf_counter() - began)
            sent = sum(SENT.values())
            if RANK == 0:
                print(f"{message.__name__:16}{sent / 1e6:10.3f} MB sent{1e6 * best:12,.0f} us"
                      f"{sent / best / 1e9:8.2f} GB a second")
    dist.barrier()
    dist.destroy_process_group()
    sys.exit(0)


if __name__ == "__main__":
    end_after(main)
