"""
Sharded: training a model that is too large for one device.

Under torchrun, train.py gives each rank the whole model, its gradients and the optimisers' states.
Here a rank keeps only a slice of each. It gathers a block's weights from the others while it
computes that block, then lets them go (ZeRO; Rajbhandari et al., 2020; FSDP; Zhao et al., 2023).
That costs messages; the loss curve stays the same.

    torchrun --standalone --nproc_per_node 2 -m beyond.sharded --name wide --n-embd 512
    torchrun --standalone --nproc_per_node 4 -m beyond.sharded --name wide --resume

Flags and run are train.py's: what is saved is whole, and any number of ranks can go on with it, or
train.py. The loop is train.py's, written again: there rank 0 saves alone, here it takes all ranks.
"""
import json
import math
import os
import sys
import time

import data
import train
from beyond.wire import end_after
from model import GPT, GPTConfig
from sample import find_run, load_weights, lock, pick_device
from tokenizer import Parser, clear_errors, write_whole
from train import RANK, WORLD, TrainConfig

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from tqdm import tqdm

train.Muon.ranks = 1        # of a matrix in slices, all ranks work out the products together


def whole(x):
    """x put together, a tensor in slices or a dict of them. All ranks must ask; rank 0 gets it."""
    if isinstance(x, dict):
        return {key: whole(value) for key, value in x.items()}
    return x.full_tensor().to("cpu" if RANK == 0 else "meta") if isinstance(x, DTensor) else x


def load_slices(optimizer, state):
    """Give an optimiser its state again: of what is whole in last.pt, a rank takes its slice."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for p, tensors in ((weights[i], tensors) for i, tensors in state["state"].items()):
        tensors |= {name: distribute_tensor(x.to(p.device), p.device_mesh, p.placements)
                    for name, x in tensors.items() if x.shape == p.shape}
    optimizer.load_state_dict(state)


@torch.no_grad()
def evaluate(model, corpus, c):
    """train.evaluate. It may deal out a batch less to some, but gathering weights takes all."""
    T, n = model.config.context_length, len(corpus.val)
    batches = sum(1 for _ in data.every_window(corpus.val, max(1, 4096 // T), T))
    if 0 < math.ceil(batches / math.ceil(n / (c.eval_tokens or n))) % WORLD <= RANK:
        model(torch.zeros(1, 1, dtype=torch.long, device=model.token_table.device))  # so: join in
    return train.evaluate(model, corpus, c)


def train_slices(model, corpus, folder, c, saved):
    """Train until c.steps. An evaluation also saves: after Ctrl-C, --resume goes on from there."""
    device, parts = model.token_table.device, c.accumulate * WORLD
    B, T, ops = c.batch_size, model.config.context_length, model.config.ops
    optimizers, history = train.make_optimizers(model, c), saved.get("history", [])
    for optimizer, state in zip(optimizers, saved.get("optimizers", ())):
        load_slices(optimizer, state)
    saved.clear()       # what was whole is in slices
    for step in tqdm(range(len(history), c.steps), leave=False, disable=True if RANK else None):
        began, nats, lr = time.perf_counter(), 0.0, train.learning_rate(step, c)
        for part in range(RANK, parts, WORLD):
            torch.manual_seed(c.seed + 1_000_003 * (step * parts + part))       # of the dropout
            ids, targets = data.batch(corpus.train, B, T, c.seed, step, part, parts)
            with torch.autocast(device.type, torch.bfloat16, enabled=c.dtype == "bfloat16"):
                loss = ops.cross_entropy(model(ids.to(device)), targets.to(device))     # ()
            (loss / c.accumulate).backward()    # adds to each slice the mean over all ranks
            nats += loss.item() / parts
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip).item()
        nats, = train.all_reduce(nats)
        if not math.isfinite(nats + norm):
            raise FloatingPointError(f"a loss of {nats} at step {step + 1}: lower --learning-rate")
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        took, n = time.perf_counter() - began, (step + 1) * B * T
        measured = dict(step=step + 1, tokens=n, epoch=n / len(corpus.train), train_loss=nats,
                        lr=lr, grad_norm=norm, tokens_per_second=B * T / took,
                        seconds=took + (history[-1]["seconds"] if history else 0))
        history.append(measured)
        if (step + 1) % c.eval_every == 0 or step + 1 == c.steps:
            measured |= evaluate(model, corpus, c)
            best = {"model": whole(model.state_dict()), "step": step + 1}
            last = {"optimizers": [whole(o.state_dict()) for o in optimizers], "history": history}
            if RANK == 0:
                if measured["val_loss"] == min(m["val_loss"] for m in history if "val_loss" in m):
                    write_whole(folder / "best.pt", lambda file: torch.save(best, file))
                write_whole(folder / "last.pt", lambda file: torch.save(best | last, file))
                tqdm.write(f"step {step + 1:,}: {nats:.3f}, validation {measured['val_loss']:.3f}")
                lines = "".join(json.dumps(m) + "\n" for m in history).encode()
                write_whole(folder / "metrics.jsonl", lambda file: file.write(lines))
                train.draw_curve(folder, history)


def main():
    parser = Parser("Train a GPT of which each rank keeps a slice. The flags are train.py's.")
    data.add_flags(parser, train.Options, data.DataConfig, TrainConfig, GPTConfig)
    given = vars(parser.parse_args())
    with clear_errors((ValueError, OSError, FloatingPointError, *(RuntimeError,) * (RANK > 0))):
        options, run = data.checked(train.Options, given), [None]
        if "RANK" not in os.environ:
            raise ValueError("it takes torchrun, even for one rank: torchrun -m beyond.sharded")
        mesh = dist.init_device_mesh(pick_device(options.device), (WORLD,))     # the ranks meet
        if RANK == 0:
            run = [(train.resume_run if options.resume else train.start_run)(options, given)]
        dist.broadcast_object_list(run, device=torch.device("cpu"))
        folder, config = run[0]
        corpus = data.load_corpus(config["corpus"]["folder"])
        c = data.checked(TrainConfig, config["train"], strict=True)
        torch.manual_seed(c.seed)       # each rank draws all the first weights, and keeps a slice
        model = GPT(data.checked(GPTConfig, config["model"], strict=True))
        if options.init:
            load_weights(model, find_run(options.init) / "best.pt")
        saved = load_weights(model, folder / "last.pt") if options.resume else {}
        if options.resume and not saved.keys() >= {"optimizers", "history"}:
            raise ValueError(f"{folder / 'last.pt'} has weights alone, as best.pt has")
        T, done = model.config.context_length, len(saved.get("history", ()))
        if c.batch_size % (c.accumulate * WORLD) or len(corpus.val) <= T or c.steps <= done:
            raise ValueError("--batch-size must be a multiple of --accumulate times ranks, a split "
                             f"longer than --context-length, and --steps more than {done}")
        if c.compile:
            model.compile()
        for module in (*model.blocks, model):   # what is gathered together: a block; all the rest
            fully_shard(module, mesh=mesh)
        if RANK == 0:
            if not options.resume:
                lock(folder)
            corpus.tokenizer.save(folder / "tokenizer.json")
            config = json.dumps(config, indent=1).encode()
            write_whole(folder / "config.json", lambda file: file.write(config))
            n = sum(p.to_local().numel() for p in model.parameters())
            print(f"{folder}: rank 0 of {WORLD}, on {mesh.device_type}, keeps {n:,} parameters")
        train_slices(model, corpus, folder, c, saved)
        dist.barrier()
        dist.destroy_process_group()
    sys.exit(0)


if __name__ == "__main__":
    end_after(main)
