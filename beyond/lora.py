"""
LoRA: fine-tuning that leaves the model as it is, and learns a small change to it.

To fine-tune is to train on, with a text of one's own. Done in full, every weight W moves, and for
each the gradient and two averages of AdamW's are kept beside it: four numbers for one. But the
change that a little text asks for may need few directions; that is the paper's guess. So let W be,
and learn a matrix of rank r beside it, as a product of two narrow ones:

    x W  becomes  x W + (alpha / r) (x A) B         A is (n_in, r), B (r, n_out), r far below both

A begins random and B at zero, so the model begins as it was. What is learned, the adapter, is a
file of a few MB for somebody who has the model; or it is added to W, and reading takes no longer.
alpha / r makes a first step about as long for every rank: one learning rate suits most ranks.

    python -m beyond.lora smollm2 --source letters/ --name letters      # a run like any other
    python -m beyond.lora smollm2 --adapter runs/letters/adapter --name copy    # from its adapter
    python -m beyond.lora nano --source letters/ --ranks 1 4 16 64      # a table: ranks, and full

The learning rate is some ten times that of full fine-tuning (Schulman et al., 2025, LoRA Without
Regret), and matters more than the rank. Tweets, nano, rank 8, 100 steps, before it 5.607 bits/byte:

    rate 3e-4    4.212       1e-3    3.778       3e-3    3.464       1e-2    3.280

Paper: LoRA (Hu et al., 2021).
"""
import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import data
from beyond.learn import TuneConfig, corpus_of, learn, save_run
from beyond.sheet import weights_of
from sample import RUNS, find_run, load_run, load_weights, pick_device, read_config
from tokenizer import Parser, clear_errors
from train import evaluate

import torch
from torch import nn

KEYS = "way", "learned", "kept_MB", "file_MB", "seconds", "bits_per_byte"
TARGETS = {"attention": ("W_qkv", "W_out"), "mlp": ("W_up", "W_down"),
           "all": ("W_qkv", "W_out", "W_up", "W_down")}


@dataclass
class LoRAConfig:
    rank: int = 8           # r, columns of A and rows of B; more can change more
    alpha: float = 16.0     # the change is multiplied by alpha / rank
    targets: Literal["all", "attention", "mlp"] = "all"     # which matrices of a block


class LoRA(nn.Module):
    """A model with a change of low rank beside its matrices. To the training loop its parameters,
    and what a checkpoint holds, are those of the change alone."""
    def __init__(self, model, c):
        super().__init__()
        # Set past nn.Module, which would train and save its weights; evaluate() reads token_table.
        self.__dict__.update(model=model.requires_grad_(False), token_table=model.token_table)
        self.config = model.config
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for i, block in enumerate(model.blocks):
            for name in TARGETS[c.targets]:
                W, key = getattr(block, name), f"{i}_{name}"
                n_in, n_out = W.shape
                self.A[key] = nn.Parameter(torch.randn(n_in, c.rank) / math.sqrt(n_in))
                self.B[key] = nn.Parameter(torch.zeros(c.rank, n_out))
                W.change = (self.A[key], self.B[key], c.alpha / c.rank)     # .to() moves these, too
        self.plain = model.config.ops

        def linear(x, W, b=None):
            y = self.plain.linear(x, W, b)                                  # (..., n_out)
            if hasattr(W, "change"):
                A, B, scale = W.change
                y = y + scale * ((x @ A) @ B)       # x @ A is (..., r): little to compute and keep
            return y
        model.config.ops = SimpleNamespace(**vars(self.plain) | {"linear": linear})

    def train(self, mode=True):
        self.model.train(mode)          # nn.Module does not know it
        return super().train(mode)

    def forward(self, ids, cache=None, last=0):
        return self.model(ids, cache, last)                                 # (B, T, V)

    @torch.no_grad()
    def merge(self):
        """Add the change to the matrices; return the model, which computes the same without it."""
        for block in self.model.blocks:
            for W in block.parameters():
                if hasattr(W, "change"):
                    A, B, scale = W.change
                    W += scale * A @ B                                      # (n_in, n_out)
                    del W.change
        self.model.config.ops = self.plain
        return self.model


def digest(model):
    """A fingerprint of all weights: an adapter fits only those it was learned beside."""
    sha = hashlib.sha256()
    for p in model.parameters():
        sha.update(p.detach().cpu().numpy().data)
    return sha.hexdigest()


def tune(run, corpus, name, lora, c, T, device):
    """Fine-tune a run in runs/NAME, on windows of T tokens; lora None: all weights. Return the
    model (a LoRA, if lora) and its history."""
    model, tokenizer = load_run(run, device)
    model.config.context_length = T             # of an evaluation's windows
    more = {"base": str(run), "weights": weights_of(run)} | (
        asdict(lora) | {"digest": digest(model)} if lora else {})
    settings = {"data": corpus.meta["config"], "model": read_config(run)["model"],
                "train": asdict(c) | more, "corpus": {"folder": str(corpus.folder)}}
    torch.manual_seed(c.seed)
    net = LoRA(model, lora).to(device) if lora else model
    return net, learn(
        name, net, settings, tokenizer, c,
        lambda *part: data.batch(corpus.train, c.batch_size, T, c.seed, *part),
        lambda net, ids, targets: model.config.ops.cross_entropy(net(ids), targets),
        lambda net: evaluate(net, corpus, c), len(corpus.train))


def load_adapter(model, folder):
    """The adapter of a folder, put beside the model it was learned with: a LoRA."""
    settings = read_config(folder)["train"]
    if "digest" not in settings:
        raise ValueError(f"{folder} holds no adapter")
    if settings["digest"] != digest(model):
        raise ValueError(f"the adapter in {folder} was learned beside other weights, those of "
                         f"{settings['base']}")
    net = LoRA(model, data.checked(LoRAConfig, settings))
    load_weights(net, folder / "best.pt")
    return net


def kept(net, folder):
    """Bytes that learning keeps beside the weights: gradients, and the optimiser's averages."""
    saved = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    averages = sum(x.nbytes for optimizer in saved["optimizers"]
                   for state in optimizer["state"].values() for x in state.values())
    return sum(p.nbytes for p in net.parameters() if p.requires_grad) + averages


def compare(run, corpus, name, lora, c, T, device, ranks, as_json):
    """The table: each rank, and all weights (tables, too), these at a tenth of the rate."""
    whole, rows = replace(c, eval_tokens=0), []
    base = load_run(run, device)[0]
    base.config.context_length = T
    before = evaluate(base, corpus, whole)["val_bits_per_byte"]
    for rank in (*ranks, None):
        own = replace(lora, rank=rank) if rank else None
        gentle = c if rank else replace(c, learning_rate=c.learning_rate / 10)
        way = f"rank-{rank}" if rank else "full"
        net, history = tune(run, corpus, f"{name}/{way}", own, gentle, T, device)
        n, there = sum(p.numel() for p in net.parameters() if p.requires_grad), RUNS / name / way
        rows.append((way, n, kept(net, there) / 1e6, (there / "best.pt").stat().st_size / 1e6,
                     history[-1]["seconds"], evaluate(net, corpus, whole)["val_bits_per_byte"]))
    head = (f"\n{'':9}{'learned':>12}{'kept, MB':>10}{'file, MB':>10}{'seconds':>9}  bits/byte\n"
            f"{'before':50}{before:11.4f}")
    print(json.dumps({"way": "before", "bits_per_byte": before}) if as_json else head)
    for row in rows:
        print(json.dumps(dict(zip(KEYS, row))) if as_json else
              "{:9}{:12,}{:10.1f}{:10.1f}{:9.1f}{:11.4f}".format(*row))


def main():
    parser = Parser("Fine-tune a run with a change of low rank, on a text of yours.")
    parser.add_argument("run", help="name or folder of the run whose weights to start from")
    parser.add_argument("--source", nargs="+", metavar="...", help="files and folders of text")
    parser.add_argument("--name", default="lora", help="name of the new run (default: lora)")
    parser.add_argument("--adapter", metavar="FOLDER", help="instead of learning: add the change "
                                                            "that another run has learned")
    parser.add_argument("--ranks", nargs="+", type=int, metavar="R",
                        help="train one for each rank, and one in full, and compare")
    parser.add_argument("--window", type=int, default=256, metavar="T",
                        help="tokens of context in training (default: 256)")
    parser.add_argument("--json", action="store_true", help="the table as JSON, an object a row")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    data.add_flags(parser, LoRAConfig, TuneConfig)
    given = vars(parser.parse_args())
    with clear_errors():
        run, folder, T = find_run(given["run"]), RUNS / given["name"], given["window"]
        lora, c = data.checked(LoRAConfig, given), data.checked(TuneConfig, given)
        device = pick_device(given["device"])
        if folder.parent != RUNS or (folder / "best.pt").exists():
            raise ValueError(f"{given['name']} is taken, or is no name: give another --name")
        one = (given["source"] is None) != (given["adapter"] is None)
        if not one or min(given["ranks"] or [1]) < 1:
            raise ValueError("give a --source to learn from or an --adapter of a run; ranks from 1")
        model, tokenizer = load_run(run)
        if given["adapter"]:
            merged = load_adapter(model, Path(given["adapter"])).merge()
            folder.mkdir(parents=True, exist_ok=True)
            save_run(merged, tokenizer, read_config(run), folder)
            return print(f"{folder} is {run} with the change of {given['adapter']}")
        corpus = corpus_of(run, tokenizer, given["source"])
        if not 1 <= T <= model.config.context_length:
            raise ValueError(f"--window {T}: {run} reads 1 to {model.config.context_length:,} "
                             "tokens at once")
        if min(len(corpus.train), len(corpus.val)) <= T:
            raise ValueError(f"a split of {corpus.folder} is no longer than --window {T}")
    with clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)):
        if given["ranks"]:
            return compare(run, corpus, given["name"], lora, c, T, device, given["ranks"],
                           given["json"])
        net, _ = tune(run, corpus, f"{given['name']}/adapter", lora, c, T, device)
        n, all_of = (sum(p.numel() for p in x.parameters()) for x in (net, net.model))
        save_run(net.merge(), tokenizer, read_config(folder / "adapter"), folder)
        size = (folder / "adapter/best.pt").stat().st_size / 1e6
        print(f"\nlearned {n:,} numbers beside {all_of:,}: {folder}/adapter, {size:.1f} MB.\n"
              f"{folder} is the run with the change in it: python sample.py {given['name']}")


if __name__ == "__main__":
    main()
