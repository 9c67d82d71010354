"""
What do several processes bring, and where does a step's time go?

    python tests/bench_ranks.py                     # three models; a quarter of an hour
    python tests/bench_ranks.py --sizes "4 x 256" --rounds 1
    python tests/bench_ranks.py --rounds 1 --steps 25       # does it run? The figures mean nothing

train.py itself, by one process of one thread, by two of one each, by one of two: the median of the
tokens a second from step 20 on, the ways in turn. Below it the milliseconds of rank 0's step:
two ranks' backward includes the all-reduce, as DDP sends while it computes; "backward alone" is one
without (no_sync), so that the difference is what is waited for.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import bench_tokenizer      # finds the road     # noqa: F401
import train
from tokenizer import Parser

import torch
from torch.nn.parallel import DistributedDataParallel as DDP

SIZES = {"nano without n-gram tables": ["--ngram", "1"], "nano": [],
         "4 x 256": ["--ngram", "1", "--n-layer", "4", "--n-embd", "256"]}
WAYS = {"1 process, 1 thread": (1, 1), "2 processes, 1 thread": (2, 1),
        "1 process, 2 threads": (1, 2)}


def timed(spent, name, f):
    def call(*args, **kwargs):
        start = time.perf_counter()
        result = f(*args, **kwargs)
        spent[name].append(1000 * (time.perf_counter() - start))
        return result
    return call


def worker():
    """train.main() with clocks in it; rank 0 prints what each part of a step took."""
    spent, loop = defaultdict(list), train.train

    def watched(net, optimizers, *rest):
        torch.Tensor.backward = timed(spent, "backward", torch.Tensor.backward)
        torch.nn.utils.clip_grad_norm_ = timed(spent, "clipping", torch.nn.utils.clip_grad_norm_)
        train.all_reduce = timed(spent, "loss", train.all_reduce)
        for optimizer in optimizers:
            optimizer.step = timed(spent, type(optimizer).__name__, optimizer.step)
        net.register_forward_pre_hook(lambda *_: spent["began"].append(time.perf_counter()))
        net.register_forward_hook(lambda *_: spent["forward"].append(
            1000 * (time.perf_counter() - spent["began"][-1])))
        loop(net, optimizers, *rest)
        if isinstance(net, DDP):
            batch, loss = rest[1:3]
            for step in range(20):
                with net.no_sync():
                    x = loss(net, *batch(step, train.RANK, train.WORLD))
                    timed(spent, "backward alone", x.backward)()
        if train.RANK == 0:
            spent.pop("began")
            print(json.dumps({name: median(ms[len(ms) // 3:]) for name, ms in spent.items()}))
    train.train = watched
    train.main()


def measure(flags, processes, threads, steps):
    """The median tokens a second of a run, and the milliseconds of its parts."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    root = Path(train.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(root / "corpora", Path(folder, "corpora"))
        done = subprocess.run(
            [sys.executable, *launch * (processes > 1), __file__, "--worker", *flags, "--steps",
             str(steps), "--eval-tokens", "2048", "--name", "x"], cwd=folder, check=True, text=True,
            capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(threads),
                                                   "PYTHONPATH": str(root)})
        measured = [json.loads(line) for line in open(Path(folder, "runs/x/metrics.jsonl"))]
    parts = next(line for line in done.stdout.splitlines() if line.startswith('{"'))
    return median(m["tokens_per_second"] for m in measured[20:]), json.loads(parts)


def main():
    if sys.argv[1:2] == ["--worker"]:
        del sys.argv[1]
        return worker()
    parser = Parser("Measure what several processes bring, and where a step's time goes.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES], metavar="SIZE",
                        help=f"of {', '.join(SIZES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--steps", type=int, default=60, help="of each run (default: 60)")
    o = parser.parse_args()
    for size in o.sizes:
        found = defaultdict(list)
        for _ in range(o.rounds):
            for way, (processes, threads) in WAYS.items():
                found[way].append(measure(SIZES[size], processes, threads, o.steps))
        base = [speed for speed, _ in found["1 process, 1 thread"]]
        parts = list(found["2 processes, 1 thread"][0][1])
        print(f"\n| {size} | tokens/s | times one | " + " | ".join(parts) + " |\n|---|" + "---:|"
              * (2 + len(parts)))
        for way, runs in found.items():
            ratio = median(speed / one for (speed, _), one in zip(runs, base))
            ms = [median(run.get(part, 0) for _, run in runs) for part in parts]
            print(f"| {way} | {median(speed for speed, _ in runs):,.0f} | {ratio:.2f} | "
                  + " | ".join(f"{x:.1f}" if x else "" for x in ms) + " |", flush=True)


if __name__ == "__main__":
    main()
