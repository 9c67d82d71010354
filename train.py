"""Training: the loop in which a model learns.

Show the model some text, measure how improbable it found what comes next (the loss), work out for
every weight which way makes that more probable (the gradient), move all a little, and again.

    python train.py                                 # the preset nano: minutes on two CPU cores
    python train.py --resume                        # go on after Ctrl-C
    python train.py --init nano --source notes/     # go on from its weights, with another text
    torchrun --standalone --nproc_per_node 2 train.py --name two    # two processes, called ranks

A run is a folder, runs/NAME/: config.json and tokenizer.json; metrics.jsonl and loss.png, what was
measured; best.pt, the weights of the lowest validation loss; last.pt, all it takes to go on.
"""
import data
import tokenizer
from data import DataConfig, checked
from model import ARCHS, GPTConfig
from sample import (RUNS, SampleConfig, find_run, load_run, load_weights, lock, make_model,
                    pick_device, read_config, write)
from tokenizer import Parser, clear_errors, write_whole

import json
import math
import os
import shlex
import signal
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Literal

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from tqdm import tqdm


@dataclass
class TrainConfig:
    """How the model learns. A trailing comment is the flag's --help."""
    steps: int = 950            # batches to learn from, one step of the optimiser each
    batch_size: int = 8         # B, windows of text in a batch, all ranks together
    accumulate: int = 1         # micro-batches that a batch is cut into, to need less memory
    optimizer: Literal["muon", "adamw"] = "muon"    # muon is for the matrices inside the blocks
    learning_rate: float = 3e-3     # how far a step goes, at the end of the warm-up
    decay: Literal["linear", "cosine"] = "linear"   # its way down: to 0, or to a tenth
    warmup_steps: int = 20      # steps over which the learning rate rises from 0
    weight_decay: float = 0.5   # pull of every matrix towards 0
    grad_clip: float = 1.0      # a gradient longer than this is scaled down to it
    dtype: Literal["float32", "bfloat16"] = "float32"   # of training's products; not of weights
    compile: bool = False       # let torch.compile write kernels for this very model
    eval_every: int = 100       # steps from one evaluation on the validation split to the next
    eval_tokens: int = 65_536   # an evaluation reads about so many or fewer, evenly spread; 0: all
    seed: int = 1               # fixes the first weights, the order of the batches, the dropout


PRESETS = {     # what differs from the defaults
    "nano": dict(),             # minutes on two CPU cores
    "race": dict(source=("tinyshakespeare",), tokenizer="char", steps=3000, ngram_rows=8192,
                 dropout=0.1, weight_decay=2.0),            # six epochs: much holds it back
    "baseline": dict(arch="gpt2", n_layer=4, context_length=64, optimizer="adamw", decay="cosine",
                 steps=2000, batch_size=12, learning_rate=1e-3, warmup_steps=100, weight_decay=0.1),
    "baby": dict(n_layer=6, n_head=6, n_embd=384, dropout=0.2, steps=2000, batch_size=64),
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, context_length=1024, batch_size=16, steps=20000,
                 tokenizer="gpt2", learning_rate=2e-3, warmup_steps=300, dtype="bfloat16",
                 weight_decay=0.1)}

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # by torchrun

def learning_rate(step, c):
    """Rise while the optimiser finds out how large gradients are; then fall, so weights settle."""
    if step < c.warmup_steps:
        return c.learning_rate * (step + 1) / c.warmup_steps
    left = max(0, c.steps - 1 - step) / max(1, c.steps - 1 - c.warmup_steps)    # from 1 to 0
    cosine = 0.55 - 0.45 * math.cos(math.pi * left)                             # from 1 to 0.1
    return c.learning_rate * (cosine if c.decay == "cosine" else left)


class Muon(torch.optim.Optimizer):
    """A matrix moves along the matrix nearest to its gradient that stretches no direction more than
    another (Jordan, 2024): what few examples ask for is learned as fast as what all do. 0.2 sqrt(m)
    makes steps as long as AdamW's (Liu et al., 2025). Rank i % ranks works out matrix i."""
    ranks = WORLD       # that share the work
    @torch.no_grad()
    def step(self):
        group, = self.param_groups
        lr, matrices = group["lr"], group["params"]
        for i, p in enumerate(matrices):
            mean = self.state[p].setdefault("mean", torch.zeros_like(p))
            x = p.grad.lerp(mean.lerp_(p.grad, 0.05), 0.95)     # Nesterov's momentum, on all ranks
            if i % self.ranks == RANK % self.ranks:                         # its own share
                x = (x.T if len(x) > x.shape[1] else x) / (x.norm() + 1e-7)     # (n, m), n <= m
                for _ in range(5):      # Newton-Schulz: takes all singular values to about 1
                    a = x @ x.T                                             # (n, n)
                    x = 3.4445 * x + (2.0315 * a @ a - 4.775 * a) @ x       # (n, m)
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(x if x.shape == p.shape else x.T, alpha=-0.2 * lr * math.sqrt(max(p.shape)))
        for i, p in enumerate(matrices if self.ranks > 1 else ()):  # above, ranks would take turns
            dist.broadcast(p, i % self.ranks)


def make_optimizers(model, c):
    """Muon for the blocks' matrices, AdamW (Loshchilov and Hutter, 2017) for the rest, or all."""
    muon, matrices, others = [], [], []
    for name, p in model.named_parameters():
        inside = name.startswith("blocks.") and c.optimizer == "muon" and p.requires_grad
        (others if p.dim() < 2 else muon if inside else matrices).append(p)
    groups = [{"params": ps, "weight_decay": c.weight_decay * (ps is not others)}   # not of a bias
              for ps in (matrices, others, muon)]
    adamw = torch.optim.AdamW(groups[:2], betas=(0.9, 0.99), fused=True)
    return [adamw, Muon(groups[2:], {"lr": 0.0})] if muon else [adamw]


def all_reduce(*numbers):
    numbers = torch.tensor(numbers, dtype=torch.float64)    # each becomes its sum over all ranks
    if WORLD > 1:
        dist.all_reduce(numbers)
    return numbers.tolist()


@torch.no_grad()
def evaluate(model, corpus, c):
    """How well the model predicts the validation split, of which each rank takes its share."""
    T, nats, correct, n = model.config.context_length, 0.0, 0, 0
    skip = math.ceil(len(corpus.val) / (c.eval_tokens or len(corpus.val)))      # evenly spread
    batches = data.every_window(corpus.val, max(1, 4096 // T), T)
    model.eval()
    for ids, targets in islice(batches, RANK * skip, None, WORLD * skip):
        targets = targets.to(model.token_table.device)                      # (B, T)
        logits = model(ids.to(targets.device))                              # (B, T, V)
        nats += model.config.ops.cross_entropy(logits, targets).item() * targets.numel()
        correct += (logits.argmax(dim=-1) == targets).sum().item()
        n += targets.numel()
    model.train()
    nats, correct, n = all_reduce(nats, correct, n)
    bits = nats / n / math.log(2) * (len(corpus.val) - 1)                   # of the whole split
    return {"val_loss": nats / n, "val_accuracy": correct / n,
            "val_bits_per_byte": bits / corpus.meta["val"]["bytes"]}


def train(net, optimizers, history, batch, loss, evaluate, folder, c, epoch_tokens):
    """Train until c.steps or Ctrl-C, and keep the run's folder up to date.
    net is the model, or DDP around it. history has what was measured at each step; it grows.
    batch(step, part, parts) gives the tensors of one of the equal parts of a step's batch,
    loss(net, *tensors) their mean loss in nats, evaluate(model) a dict with val_loss."""
    model = net.module if WORLD > 1 else net
    device, parts = next(model.parameters()).device, c.accumulate * WORLD
    metrics = open(folder / "metrics.jsonl" if RANK == 0 else os.devnull, "w")
    metrics.writelines(json.dumps(measured) + "\n" for measured in history)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=c.dtype == "bfloat16")
    saved_at, stop = time.monotonic(), []
    handlers = {number: signal.signal(number, lambda *_: stop.append(1))
                for number in (signal.SIGINT, signal.SIGTERM)}      # looked at after each step
    bar = tqdm(total=c.steps, initial=len(history), leave=False, disable=True if RANK else None)
    if RANK == 0:
        tqdm.write("   step   epoch  train loss   val loss  bits/byte        lr  tokens/s  seconds")
    for step in range(len(history), c.steps):
        began, nats = time.perf_counter(), 0.0
        for a in range(c.accumulate):
            part = a * WORLD + RANK
            torch.manual_seed(c.seed + 1_000_003 * (step * parts + part))       # of the dropout
            tensors = [x.to(device) for x in batch(step, part, parts)]
            if WORLD > 1:           # DDP averages over the ranks, in the last backward alone
                net.require_backward_grad_sync = a == c.accumulate - 1
            with autocast:
                micro_loss = loss(net, *tensors) / c.accumulate             # ()
            micro_loss.backward()                       # adds to the gradients
            nats += micro_loss.item() / WORLD
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip).item()
        nats, stopping = all_reduce(nats, len(stop))
        lr = learning_rate(step, c)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()

        # The step is done. What follows measures, tells and saves.
        took, n = time.perf_counter() - began, tensors[0].numel() * parts
        measured = dict(
            step=step + 1, tokens=(step + 1) * n, epoch=(step + 1) * n / epoch_tokens,
            train_loss=nats, lr=lr, grad_norm=grad_norm, tokens_per_second=n / took,
            seconds=took + (history[-1]["seconds"] if history else 0))
        evaluated = (step + 1) % c.eval_every == 0 or step + 1 == c.steps
        if evaluated:
            measured |= evaluate(model)
        if not math.isfinite(nats + grad_norm + measured.get("val_loss", 0)):
            raise FloatingPointError(f"step {step + 1:,} ended in numbers not finite (loss {nats}, "
                                     f"gradient {grad_norm}): try a smaller --learning-rate")
        history.append(measured)
        print(json.dumps(measured), file=metrics, flush=True)
        bar.update()
        if RANK == 0 and (evaluated or stopping or step == 0 or time.monotonic() - saved_at > 600):
            saved_at, content = time.monotonic(), {"model": model.state_dict(), "step": step + 1}
            if measured.get("val_loss") == min(m.get("val_loss", math.inf) for m in history):
                write_whole(folder / "best.pt", lambda file: torch.save(content, file))
            content |= {"optimizers": [o.state_dict() for o in optimizers], "history": history}
            write_whole(folder / "last.pt", lambda file: torch.save(content, file))
            keys = [key for key in ("val_loss", "val_bits_per_byte") if key in measured]
            val = "".join(f"{measured[key]:11.3f}" for key in keys)
            tqdm.write(f"{step + 1:7,}{measured['epoch']:8.2f}{nats:12.3f}{val:22}{lr:10.1e}"
                       f"{n / took:10,.0f}{measured['seconds']:9.1f}")
            draw_curve(folder, history)
        if stopping:
            break
    bar.close()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def draw_curve(folder, history):
    """The loss of each step's batch, pale, and that of the validation split, into loss.png."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for key, style in (("train_loss", {"alpha": 0.4}), ("val_loss", {"marker": "o"})):
        points = [(m["step"], m[key]) for m in history if key in m]
        axes.plot(*zip(*points), label=key, **style)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=folder.name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    write_whole(folder / "loss.png", lambda file: figure.savefig(file, dpi=120, format="png"))


@dataclass
class Options:
    preset: Literal[*PRESETS] = "nano"  # race, baseline: small too; baby, gpt2: for a GPU
    arch: Literal["", "gpt2", "llama", "modern"] = ""   # the model of 2019, of 2023, of today
    name: str = ""          # name of the run, instead of its preset's
    resume: bool = False    # go on with the run --name, or the newest; only --steps may change
    init: str = ""          # a run whose weights to start from
    data: str = ""          # a folder that data.py has prepared, instead of --source
    device: str = "auto"    # auto, cpu, cuda or mps


def start_run(options, given):
    """The folder and config of a new run: flags over --init's over the preset's over the arch's."""
    for flag, others in (("data", {"source", "tokenizer", "vocab_size"}),
                         ("init", {"arch", "tokenizer", "vocab_size"})):
        if getattr(options, flag) and (others := given.keys() & others):
            raise ValueError(f"--{flag} decides on that: leave out {', '.join(others)}")
    recipe, own = PRESETS[options.preset], None
    settings = ARCHS[options.arch or recipe.get("arch", "modern")] | recipe
    if options.init:        # weights bring their shape and their tokenizer with them
        init = find_run(options.init)
        model, own = load_run(init)
        settings |= asdict(model.config) | {"tokenizer": str(init / "tokenizer.json")}
    settings = {**settings, "vocab_size": 0, **given}       # 0: the tokenizer's usual number
    corpus = data.load_corpus(options.data or data.prepare(checked(DataConfig, settings)), own)
    model = checked(GPTConfig, settings | {"vocab_size": corpus.tokenizer.vocab_size})
    folder, number = RUNS / (options.name or options.preset), 2
    while folder.exists() and not options.name:
        folder, number = RUNS / f"{options.preset}-{number}", number + 1
    if folder.exists() or folder.parent != RUNS:
        raise ValueError(f"{options.name} is taken, or no name; --resume goes on with a run")
    return folder, {"data": corpus.meta["config"], "model": asdict(model),
                    "train": asdict(checked(TrainConfig, settings)),
                    "corpus": {"folder": str(corpus.folder)}}


def resume_run(options, given):
    """The folder and config of a run that goes on. All is as it was, but for --steps."""
    if others := given.keys() - {"resume", "name", "steps", "device"}:
        raise ValueError(f"--resume lets only --steps change: leave out {', '.join(others)}")
    folder = find_run(options.name)
    if not (folder / "last.pt").exists():
        raise ValueError(f"{folder} has no last.pt: it ended before its first step; or try --init")
    lock(folder)
    config = read_config(folder)
    config["train"]["steps"] = given.get("steps", config["train"]["steps"])
    return folder, config


def main():
    parser = Parser("Train a GPT; show its loss falling, draw it, and let the model write.")
    data.add_flags(parser, Options, DataConfig, TrainConfig, GPTConfig)
    given = vars(parser.parse_args())
    others_errors = (RuntimeError,) if RANK else ()         # where rank 0 has gone, it has said why
    with clear_errors((ValueError, OSError, *others_errors)):
        options = checked(Options, given)
        device, run = pick_device(options.device), [None]
        if WORLD > 1:
            device == "cuda" and torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        if RANK == 0:
            run = [(resume_run if options.resume else start_run)(options, given)]
        if WORLD > 1:
            dist.broadcast_object_list(run, device=torch.device("cpu"))
        folder, config = run[0]
        own = tokenizer.load(folder / "tokenizer.json") if options.resume else None
        corpus = data.load_corpus(config["corpus"]["folder"], own)
        c = checked(TrainConfig, config["train"], strict=True)
        torch.manual_seed(c.seed)
        if c.batch_size % (c.accumulate * WORLD):
            raise ValueError(f"--batch-size {c.batch_size} is no multiple of --accumulate x ranks")
        model = make_model(config["model"], c.batch_size // c.accumulate // WORLD)
        optimizers, history = make_optimizers(model.to(device), c), []
        if options.resume:
            saved = load_weights(model, folder / "last.pt")
            try:
                for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
                    optimizer.load_state_dict(state)
                history = [m for m in saved["history"] if m["seconds"] > 0]     # all, or it raises
            except Exception as error:
                raise ValueError(f"{folder / 'last.pt'} is damaged, or a best.pt ({error!r:.80})")
        elif options.init:
            load_weights(model, find_run(options.init) / "best.pt")
        B, T, n = c.batch_size, model.config.context_length, len(corpus.train)
        if min(n, len(corpus.val)) <= T:
            raise ValueError(f"a split of {corpus.folder} is no longer than --context-length {T}")
        if len(history) >= c.steps:
            raise ValueError(f"{folder} has done its {c.steps:,} steps: more --steps go on")
        if RANK == 0 and not options.resume:
            lock(folder)

    with clear_errors((OSError, FloatingPointError, torch.OutOfMemoryError, *others_errors)):
        DDP, V = torch.nn.parallel.DistributedDataParallel, model.config.vocab_size
        c.compile and model.compile()
        net = DDP(model, gradient_as_bucket_view=True) if WORLD > 1 else model
        if RANK == 0:
            corpus.tokenizer.save(folder / "tokenizer.json")
            text = json.dumps(config, indent=1).encode()
            write_whole(folder / "config.json", lambda file: file.write(text))
            sizes = [(name.endswith("table"), p.numel()) for name, p in model.named_parameters()]
            tables, matrices = (sum(n for t, n in sizes if t is kind) for kind in (True, False))
            print(f"run      {folder}, {WORLD} x {device}\n"
                  f"corpus   {corpus.folder}: {n:,} tokens, {len(corpus.val):,} held out\n"
                  f"steps    {c.steps:,} of {B} x {T} tokens: {c.steps * B * T / n:.2f} epochs\n"
                  f"model    {tables:,} parameters in tables, {matrices:,} elsewhere: "
                  f"{c.steps * B * T / matrices:.1f} tokens read for each of the latter\n"
                  f"loss     {math.log(V):.3f} = ln({V}) would be a uniform guess's\n")
        train(net, optimizers, history,
              lambda step, part, parts: data.batch(corpus.train, B, T, c.seed, step, part, parts),
              lambda net, ids, targets: model.config.ops.cross_entropy(net(ids), targets),
              lambda model: evaluate(model, corpus, c), folder, c, n)
        if WORLD > 1:
            dist.barrier()
            dist.destroy_process_group()
        name = shlex.quote(folder.name if folder.parent == RUNS else str(folder))
        if RANK == 0 and len(history) < c.steps:
            print(f"stopped after step {len(history):,}: --name {name} --resume goes on")
        elif RANK == 0:
            print(f"\nThe model of {folder / 'best.pt'}, the lowest validation loss, writes:\n")
            write(*load_run(folder, device), SampleConfig(tokens=120))
            print(f"\nIts curve is {folder}/loss.png. Go on: python sample.py {name}, or eval.py")
    (os._exit if WORLD > 1 else sys.exit)(0 if len(history) == c.steps else 130)    # gloo may hang


if __name__ == "__main__":
    main()
