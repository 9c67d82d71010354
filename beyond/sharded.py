"""
Sharded: training a model that is too large for one device.

With torchrun, train.py gives each rank the whole model, its gradients and the optimisers' states.
Here a rank keeps only a slice of each. It gathers a block's weights from the others while it
computes that block, then lets them go; of the gradients it takes its slice of the mean. That costs
messages; the loss curve is the one of train.py, in one process or in several.

    torchrun --standalone --nproc_per_node 2 -m beyond.sharded --name wide --n-embd 512
    torchrun --standalone --nproc_per_node 4 -m beyond.sharded --name wide --resume

The flags are train.py's, and the run is an ordinary one. What it saves is whole: sample.py and
eval.py read it, and any number of ranks can go on with it, or train.py. The loop is train.py's
written once more, because there rank 0 saves alone, and here all ranks must put the slices together.

Papers: ZeRO (Rajbhandari et al., 2020); PyTorch FSDP (Zhao et al., 2023).
"""
import json
import math
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from tqdm import tqdm

import data
import train
from data import DataConfig, checked
from model import GPT, GPTConfig
from sample import find_run, load_weights, pick_device
from tokenizer import Parser, clear_errors, write_whole
from train import RANK, WORLD, TrainConfig


def whole(tensors):
    """Tensors by name, put together from the slices, on the CPU. All ranks ask, rank 0 gets them."""
    together = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in tensors.items()}
    return {name: x.cpu() for name, x in together.items()} if RANK == 0 else {}


def load_slices(optimizer, state):
    """Give an optimiser the states in last.pt; a rank keeps the slice it has of the weight itself."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for p, tensors in ((weights[i], tensors) for i, tensors in state["state"].items()):
        for name, x in tensors.items():
            if x.shape == p.shape:
                tensors[name] = distribute_tensor(x.to(p.device), p.device_mesh, p.placements)
    optimizer.load_state_dict(state)


@torch.no_grad()
def evaluate(model, corpus, c):
    """train.evaluate deals its batches out to the ranks. To compute one, all must gather weights; so
    a rank that gets one less than others begins with a pass for nothing.
    """
    T, n_val = model.config.context_length, len(corpus.val)
    batches = sum(1 for _ in data.every_window(corpus.val, max(1, 4096 // T), T))
    batches = math.ceil(batches / math.ceil(n_val / (c.eval_tokens or n_val)))
    if 0 < batches % WORLD <= RANK:
        model(torch.zeros(1, 1, dtype=torch.long, device=model.token_table.device))
    return train.evaluate(model, corpus, c)


def train_slices(model, corpus, folder, c, saved):
    """Train until c.steps or Ctrl-C; return what was measured, a dict a step."""
    device, parts = model.token_table.device, c.accumulate * WORLD
    B, T, ops = c.batch_size, model.config.context_length, model.config.ops
    optimizers, history = train.make_optimizers(model, c), saved["history"] if saved else []
    for optimizer, state in zip(optimizers, saved["optimizers"] if saved else ()):
        load_slices(optimizer, state)
    metrics = open(folder / "metrics.jsonl" if RANK == 0 else os.devnull, "w")
    metrics.writelines(json.dumps(measured) + "\n" for measured in history)
    autocast, stop = torch.autocast(device.type, torch.bfloat16, c.dtype == "bfloat16"), []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.append(1))        # the loop stops after its step
    steps = range(len(history), c.steps)
    for step in tqdm(steps, initial=len(history), total=c.steps, leave=False, disable=RANK > 0 or None):
        began, nats, lr = time.perf_counter(), 0.0, train.learning_rate(step, c)
        for part in range(RANK, parts, WORLD):
            torch.manual_seed(c.seed + 1_000_003 * (step * parts + part))       # of the dropout
            ids, targets = data.batch(corpus.train, B, T, c.seed, step, part, parts)
            with autocast:
                logits = model(ids.to(device))                          # (B / parts, T, V)
                loss = ops.cross_entropy(logits, targets.to(device)) / c.accumulate     # ()
            loss.backward()         # adds to a rank's slice the mean of all ranks' gradients
            nats += loss.item() / WORLD
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip).full_tensor().item()
        nats, stopping = train.all_reduce(nats, len(stop))
        if not math.isfinite(nats + norm):
            raise FloatingPointError(f"the loss is {nats} at step {step + 1:,} and the gradient's "
                                     f"norm {norm}: try a smaller --learning-rate")
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        seconds, n = time.perf_counter() - began, (step + 1) * B * T
        measured = dict(step=step + 1, tokens=n, epoch=n / len(corpus.train), train_loss=nats, lr=lr,
                        grad_norm=norm, tokens_per_second=B * T / seconds,
                        seconds=seconds + (history[-1]["seconds"] if history else 0))
        if evaluated := (step + 1) % c.eval_every == 0 or step + 1 == c.steps:
            measured |= evaluate(model, corpus, c)
        history.append(measured)
        print(json.dumps(measured), file=metrics, flush=True)
        if RANK == 0 and (evaluated or step == 0):
            tqdm.write(train.table_row(measured))
        if evaluated or stopping:
            content = {"model": whole(model.state_dict()), "step": step + 1}
            states = [optimizer.state_dict() for optimizer in optimizers]
            for state in states:
                state["state"] = {i: whole(tensors) for i, tensors in state["state"].items()}
            if RANK == 0 and evaluated and measured["val_loss"] == train.lowest(history):
                write_whole(folder / "best.pt", lambda path: torch.save(content, path))
            if RANK == 0:
                content |= {"optimizers": states, "history": history}
                write_whole(folder / "last.pt", lambda path: torch.save(content, path))
                train.draw_curve(folder, history)
        if stopping:
            break
    return history


def main():
    parser = Parser("Train a GPT of which each rank has a slice; the flags are train.py's.")
    data.add_flags(parser, train.Options, DataConfig, TrainConfig, GPTConfig)
    given = vars(parser.parse_args())
    with clear_errors((ValueError, OSError, FloatingPointError, *(RuntimeError,) * (RANK > 0))):
        if "RANK" not in os.environ:
            raise ValueError("start it with torchrun --standalone --nproc_per_node 2 -m beyond.sharded")
        options, run = checked(train.Options, given), [None]
        kind = pick_device(options.device)
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
        if RANK == 0:
            run = [(train.resume_run if options.resume else train.start_run)(options, given)]
            config = json.dumps(run[0][1], indent=1)
            write_whole(run[0][0] / "config.json", lambda path: path.write_text(config))
        dist.broadcast_object_list(run, device=torch.device("cpu"))
        (folder, config), saved = run[0], None
        corpus = data.load_corpus(config["corpus"]["folder"])
        c = checked(TrainConfig, config["train"], strict=True)
        torch.manual_seed(c.seed)       # each rank draws all the first weights, and keeps a slice
        model = GPT(checked(GPTConfig, config["model"], strict=True))
        if options.resume:
            saved = load_weights(model, folder / "last.pt")
        elif options.init:
            load_weights(model, find_run(options.init) / "best.pt")
        if c.compile:
            model.compile()
        n, mesh = sum(p.numel() for p in model.parameters()), init_device_mesh(kind, (WORLD,))
        for module in (*model.blocks, model):
            fully_shard(module, mesh=mesh)      # what is gathered, and let go, at a time
        if RANK == 0:
            kept = sum(p.to_local().numel() for p in model.parameters())
            print(f"run {folder}, {WORLD} ranks on {kind}; rank 0 keeps {kept:,} of {n:,} parameters")
        history = train_slices(model, corpus, folder, c, saved)
        dist.barrier()
        dist.destroy_process_group()
    if RANK == 0:
        print(f"{folder}: {len(history):,} of {c.steps:,} steps. Go on: python sample.py {folder.name}")
    sys.exit(0 if len(history) == c.steps else 130)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as stopped:       # gloo's threads may keep Python from ending by itself
        sys.stdout.flush()
        os._exit(stopped.code or 0)
