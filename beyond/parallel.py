"""
Parallel: four ways to share a model among processes, written out, all equal to one process.

A model may be too slow for one device, or too large for it. What can R ranks (processes) share?

    way        a rank keeps                              a rank sends in a step (numbers)
    data       all n weights                             2 (R-1)/R n
    sharded    1/R of every block, and of the rest       (R-1)/R (3 n in blocks + 2 n elsewhere)
    tensor     1/R of heads, MLPs and vocabulary         2 (R-1)/R (BTC (4 L + 1 + ngram) + 3 BT)
    pipeline   1/R of the blocks (gpipe or 1f1b)         BTC to each neighbour, a tied table's n

Gradients and AdamW's two means lie where the weights do. B texts of T tokens are a batch, C is
n_embd, L n_layer. Data and sharded cut the batch, and their messages grow with the model; tensor
and pipeline cut the model, and theirs grow with the batch. Sharded computes blocks twice, too.

    torchrun --standalone --nproc_per_node 4 -m beyond.parallel
    torchrun --standalone --nproc_per_node 2 -m beyond.parallel data 1f1b --arch gpt2 --n-layer 8

trains a model alone and by each way, prints what a rank kept and sent (the messages are in wire.py,
the formulas as code in plan.py) and how far losses and weights are from one process's, and draws
who computed what when in pipeline.py. All is in float64: a key's bias adds the same to all scores
of a query, so its gradient is rounding, of which AdamW makes whole steps. Left out: clipping,
dropout, accumulation, GPUs. A real run uses sharded.py. Which way when: docs/parallel.md.

Papers: ZeRO (Rajbhandari et al., 2020), sharded; Megatron-LM (Shoeybi et al., 2019), tensor.
"""
from beyond.curves import picture
from beyond.pipeline import Pipeline, bubble, draw_schedules, fastest, own_cores
from beyond.plan import per_rank
from beyond.tensor import TensorParallel
from beyond.wire import all_gather, all_reduce, end_after, loss_of, measure, reduce_scatter
from data import DataConfig, add_flags, batch, checked, load_corpus, prepare
from model import ARCHS, GPTConfig
from sample import make_model
from tokenizer import Parser, clear_errors
from train import RANK, WORLD

import contextlib
import copy
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

# ------------ Each way learns from a batch: it leaves gradients in its weights, and returns its
# share of the loss. batch(part, parts) gives one of the batch's equal parts, ids and targets.


class Alone(nn.Module):
    """No sharing: what the others are compared with."""
    def __init__(self, model):
        super().__init__()
        self.model = model

    def learn(self, batch):
        loss = loss_of(self.model, *batch(0, 1))                # ()
        loss.backward()
        return loss.item() / WORLD


class DataParallel(nn.Module):
    """Each rank has the model and a slice of the batch; gradients are added (of losses over R: the
    mean), a bucket at a time, as soon as backward has filled one; it goes on while that is on its
    way. (train.py does it by PyTorch's DDP.)"""
    def __init__(self, model, bucket_size=2 ** 15):
        super().__init__()
        self.model, self.on_their_way, bucket = model, [], []
        for p in reversed([*model.parameters()]):
            if sum(map(torch.numel, bucket)) >= bucket_size:
                bucket = []
            bucket.append(p)
            p.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self.ready(bucket))

    def ready(self, bucket):
        if all(p.grad is not None for p in bucket):
            flat = torch.cat([p.grad.flatten() for p in bucket])            # (numbers in it,)
            self.on_their_way.append((bucket, flat, all_reduce(flat, async_op=True)))

    def learn(self, batch):
        loss = loss_of(self.model, *batch(RANK, WORLD)) / WORLD             # ()
        loss.backward()
        for bucket, flat, message in self.on_their_way:
            message.wait()
            for p, grad in zip(bucket, flat.split([p.numel() for p in bucket])):
                p.grad = grad.view_as(p)
        self.on_their_way = []
        return loss.item()


class Gather(torch.autograd.Function):
    """Slices (n,) become the whole (R n,); backward, the gradients of all ranks' wholes are added,
    and each rank gets its slice of the sum."""
    @staticmethod
    def forward(ctx, part):
        return all_gather(part)

    @staticmethod
    def backward(ctx, grad):
        return reduce_scatter(grad)


class Slices(nn.Module):
    """A module whose weights lie in one row of numbers, of which each rank keeps a slice. They are
    whole while it computes: a block gathers them, and in backward again, as it computes its
    activations again (checkpoint), so that neither outlives it. (FSDP keeps activations.)"""
    def __init__(self, module, again=True):
        super().__init__()
        weights = {n: p for n, p in module.named_parameters() if not n.startswith("blocks.")}
        row = torch.cat([p.detach().flatten() for p in weights.values()])   # (n,)
        row = F.pad(row, (0, -len(row) % WORLD))                            # a multiple of R
        self.slice = nn.Parameter(row.chunk(WORLD)[RANK].clone())
        self.shapes = {name: p.shape for name, p in weights.items()}
        self.module, self.again = module, again
        for p in weights.values():
            p.data = p.new_empty(0)                                         # nobody keeps the whole
            p.requires_grad = False

    def run(self, *inputs):
        row, sizes = Gather.apply(self.slice), [shape.numel() for shape in self.shapes.values()]
        parts = row[:sum(sizes)].split(sizes)
        whole = {n: x.view(shape) for (n, shape), x in zip(self.shapes.items(), parts)}
        return functional_call(self.module, whole, inputs)

    def forward(self, *inputs):
        return checkpoint(self.run, *inputs, use_reentrant=False) if self.again else (
            self.run(*inputs))


class Sharded(nn.Module):
    """Each block is gathered by itself. The rest (tables, last norm, logits) is gathered once, as
    it is needed at both ends; so one rank's memory must hold that and a block."""
    def __init__(self, model):
        super().__init__()
        self.config = model.config
        model.blocks = nn.ModuleList(map(Slices, model.blocks))
        self.rest = Slices(model, again=False)

    def forward(self, ids):
        return self.rest(ids)                                   # (B / R, T, V)

    def learn(self, batch):
        loss = loss_of(self, *batch(RANK, WORLD)) / WORLD       # ()
        loss.backward()
        return loss.item()


WAYS = {"alone": Alone, "data": DataParallel, "sharded": Sharded, "tensor": TensorParallel,
        "gpipe": Pipeline, "1f1b": Pipeline}
SMALL = dict(n_layer=4, n_head=8, n_kv_head=4, n_embd=64, context_length=128, ngram_rows=1024)


@dataclass
class Options:
    """What is trained, and how. A trailing comment is the flag's --help."""
    arch: Literal[tuple(ARCHS)] = "modern"      # the model of 2019, of 2023, of today
    steps: int = 20             # batches to learn from
    batch_size: int = 16        # B, windows of text in a batch, all ranks together
    micro_batches: int = 8      # M, parts of a batch that pass through a pipeline
    learning_rate: float = 1e-3     # of AdamW


def refuse_impossible(way, c, o):
    """What so many ranks cannot share is refused before the first message."""
    cuts = {"data": {"batch_size": o.batch_size}, "sharded": {"batch_size": o.batch_size},
            "tensor": {name: getattr(c, name) for name in (
                "n_head", "n_kv_head", "mlp_width", "ngram_rows")}}
    if c.dropout or c.activation_checkpointing:
        raise ValueError("leave out --dropout and --activation-checkpointing: one process and "
                         "several would not draw the same zeros, nor send as often")
    for name, n in cuts.get(way, {}).items():
        if n % WORLD:
            raise ValueError(f"{way}: {WORLD} ranks cannot share {name} {n} evenly")
    if way in ("gpipe", "1f1b") and c.n_layer < WORLD:
        raise ValueError(f"{way}: {WORLD} ranks for n_layer {c.n_layer}: one has no block")
    if way in ("gpipe", "1f1b") and o.batch_size % o.micro_batches:
        raise ValueError(f"{way}: batch_size {o.batch_size} is no multiple of micro_batches "
                         f"{o.micro_batches}")


def make(way, model, M):
    """A way to train a copy of a model. Of its weights, this rank keeps what that way keeps."""
    ahead = {"gpipe": (M, M), "1f1b": (M, WORLD - RANK)}.get(way, ())
    return WAYS[way](copy.deepcopy(model), *ahead)


def compare(ways, model, batch, o):
    """Train alone and by each way: rows of figures, with what each rank kept and sent, in bytes."""
    rows, M, shape = [], o.micro_batches, (o.batch_size, model.config.context_length)
    for way in ("alone", *ways):
        trained = make(way, model, M)
        found = measure(trained, batch, o.steps, o.learning_rate)
        losses = torch.tensor(found.pop("losses"))              # (steps,)
        if way == "alone":
            expected, learned = losses, trained.model
        weights, kept, sent = per_rank(way, model.config, *shape, WORLD, RANK, M)
        found["formula"] = {"states": 4 * 8 * weights, "activations": 8 * kept, "sent": 8 * sent}
        pairs = zip(trained.parameters(), make(way, learned, M).parameters())
        found["differ"] = max((p - q).abs().max().item() for p, q in pairs if p.requires_grad)
        found["turns"], ranks = getattr(trained, "steps", []), [None] * WORLD
        dist.all_gather_object(ranks, found)
        rows.append({"way": way, "losses": losses.tolist(), "ranks": ranks,
                     "loss_differs": (losses - expected).abs().max().item(),
                     "weights_differ": max(rank.pop("differ") for rank in ranks)})
    return rows


def show(rows):
    """The table: of the rank with the most, as measured, and as the formula has it."""
    print(f"{'':8}{'weights, gradients, means':>28}{'activations':>21}{'sent in a step':>22}"
          f"{'loss':>8}{'differs by':>12}{'weights by':>12}")
    for row in rows:
        cells = ""
        for key, width in (("states", 28), ("activations", 21), ("sent", 22)):
            found, formula = (max(r[key] for r in ranks) / 1000 for ranks in (
                row["ranks"], [r["formula"] for r in row["ranks"]]))
            cells += f"{f'{found:,.0f} ({formula:,.0f}) kB':>{width}}"
        print(f"{row['way']:8}{cells}{row['losses'][-1]:8.4f}{row['loss_differs']:12.0e}"
              f"{row['weights_differ']:12.0e}")


def main():
    parser = Parser("Train one model alone and in ways that share it among ranks, and compare.")
    parser.add_argument("ways", nargs="*", metavar="WAY", default=[*WAYS][1:],
                        help=f"some of {', '.join([*WAYS][1:])} (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a row")
    add_flags(parser, Options, DataConfig, GPTConfig)
    given = vars(parser.parse_args())
    quiet = open(os.devnull, "w") if RANK else sys.stderr       # all ranks would say the same
    errors = (ValueError, OSError, *(RuntimeError,) * (RANK > 0))   # rank 0 has gone, and said why
    with contextlib.redirect_stderr(quiet), clear_errors(errors):
        o, ways, path = checked(Options, given), given["ways"], picture("parallel.png")
        if unknown := [way for way in ways if way not in [*WAYS][1:]]:
            raise ValueError(f"there is no way {unknown[0]!r}: choose {', '.join([*WAYS][1:])}")
        c = checked(GPTConfig, ARCHS[o.arch] | SMALL | given)
        for way in ways:
            refuse_impossible(way, c, o)
        if WORLD == 1:
            raise ValueError("one process has nobody to share with: torchrun --standalone "
                             "--nproc_per_node 4 -m beyond.parallel starts four")
        dist.init_process_group("gloo")
        folder = [prepare(checked(DataConfig, given)) if RANK == 0 else None]   # one for all
        dist.broadcast_object_list(folder)
        corpus = load_corpus(folder[0])
        c = replace(c, vocab_size=corpus.tokenizer.vocab_size)
        if "tensor" in ways and c.vocab_size % WORLD:
            raise ValueError(f"tensor: {WORLD} ranks cannot share {c.vocab_size} tokens evenly: "
                             "choose another --vocab-size")
        if len(corpus.train) <= c.context_length:
            raise ValueError(f"{corpus.folder} is no longer than --context-length")
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(1)                                    # the same weights on every rank
        model = make_model(asdict(c), o.batch_size)
    rows = compare(ways, model, partial(batch, corpus.train, o.batch_size, c.context_length, 1), o)
    schedules, shared = {}, os.cpu_count() < WORLD
    for row in rows:
        steps = [rank.pop("turns") for rank in row["ranks"]]
        if steps[0]:
            schedules[row["way"]] = (own_cores if shared else list)(fastest(steps))
            row["idle"] = bubble(schedules[row["way"]])
    if RANK == 0 and schedules:
        clock = "as if each rank had a core of its own" if shared else "by the clock"
        draw_schedules(schedules, clock, path)
    if RANK == 0 and given["json"]:
        print(*map(json.dumps, rows), sep="\n")
    elif RANK == 0:
        show(rows)
        for way, ranks in schedules.items():
            print(f"{way}: ranks are idle for {bubble(ranks):.0%} of the time, {clock}; "
                  f"by formula {(WORLD - 1) / (o.micro_batches + WORLD - 1):.0%} ({path})")
    dist.barrier()
    dist.destroy_process_group()
    sys.exit(0)


if __name__ == "__main__":
    end_after(main)
