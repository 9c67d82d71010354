"""
Forgetting: what fine-tuning costs, what helps, and two ways to deceive oneself about it.

Fine-tune on another domain, and the loss there falls. But the same weights held what the model knew
before: catastrophic forgetting (McCloskey and Cohen, 1989). So measure both, in four ways to do it:

    plain       all weights, at --learning-rate: LoRA's usual one, high for all weights
    smaller     the same at a tenth of it, the usual one: less is learned, less forgotten
    lora        the weights stay as they are; what is learned is a small change beside them
    replay      as plain, but every tenth window is one of the old text (Robins, 1995)

    python -m beyond.forgetting nano                        # tweets, after Shakespeare's plays
    python -m beyond.forgetting nano --source notes/ --name notes       # on a text of yours
    python -m beyond.forgetting smollm2 --old shakespeare --source notes/ --learning-rate 1e-4
It draws forgetting.png. Each way is a run, runs/NAME/plain and so on. Then come the two traps:

    overfitting     many epochs of few windows, runs/NAME/overfitting: its loss.png shows how the
                    loss on what it learns goes towards 0, and that on held-out text rises
    leakage         runs/NAME/leaked is plain, but every tenth window comes from the beginning of
                    the validation text, where it then seems better, and on the rest should not.
                    beyond.overlap finds what has leaked

What matters is the rate, and that there is replay at all: docs/benchmarks.md has sweeps of both.
"""
import contextlib
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from itertools import chain
from types import SimpleNamespace

import data
from beyond.bootstrap import bits_of, difference
from beyond.curves import picture, verdict
from beyond.learn import TuneConfig, corpus_of, learn
from beyond.lora import LoRA, LoRAConfig, digest
from beyond.overlap import leak_check, texts_of
from beyond.sheet import weights_of
from beyond.tweets import read_task
from sample import RUNS, find_run, load_run, pick_device, read_config
from tokenizer import Parser, clear_errors, write_whole
from train import evaluate

import torch
from matplotlib.figure import Figure


@dataclass
class ForgettingConfig(TuneConfig):
    """How to fine-tune. Only the fields that stand here, with a comment, have a flag."""
    steps: int = 150            # batches to learn from, in each way
    batch_size: int = 8         # windows of text in a batch
    learning_rate: float = 1e-3     # of all ways but smaller, whose is a tenth of it
    eval_every: int = 15        # steps from one evaluation of both domains to the next
    window: int = 256           # tokens of context, at most what the run reads at once
    replay: int = 10            # of so many windows one is of the old domain; or has leaked
    seed: int = 1               # fixes the order of the batches, and LoRA's A


FEW, EPOCHS = 20, 2     # windows to overfit; how often a leaked window is read, on average


def mixed(tokens, others, every, B, T, seed, step, part=0, parts=1):
    """The batch of a step, ids and targets (B / parts, T), as of data.batch; but every so many-th
    window is one of other tokens, counted on from step to step."""
    ours, theirs = (data.batch(x, B, T, seed, step, part, parts) for x in (tokens, others))
    n = step * B + part * len(ours[0]) + torch.arange(len(ours[0]))[:, None]    # (B / parts, 1)
    return [torch.where(n % every == every - 1, *pair) for pair in zip(theirs, ours)]


def tune(base, way, tokens, others, c, device):
    """Fine-tune a run on tokens, every c.replay-th window from others (none: pass tokens again),
    measured on both domains: (the model, its history)."""
    model, T = load_run(base.run, device)[0], base.T
    model.config.context_length = T             # of an evaluation's windows
    lora = LoRAConfig() if way == "lora" else None
    more = asdict(lora) | {"digest": digest(model)} if lora else {}
    settings = {"data": base.new.meta["config"], "model": read_config(base.run)["model"],
                "corpus": {"folder": str(base.new.folder)}, "train": asdict(c) | more | {
                "old": str(base.old.folder), "base": weights_of(base.run)}}
    torch.manual_seed(c.seed)
    net = LoRA(model, lora).to(device) if lora else model
    return net, learn(
        f"{base.name}/{way}", net, settings, base.words, c,
        lambda *part: mixed(tokens, others, c.replay, c.batch_size, T, c.seed, *part),
        lambda net, ids, targets: model.config.ops.cross_entropy(net(ids), targets),
        lambda net: evaluate(net, base.new, c) | {
            "old_loss": evaluate(net, base.old, c)["val_loss"]}, len(tokens))


# ------------ Four ways.

def tweets():
    """All tweets in a file, as data.py reads documents; it splits them anew."""
    path, task = data.CORPORA / "tweets.jsonl", read_task()
    text = "\n".join(json.dumps({"text": text}) for text, _ in task.train + task.held_out)
    write_whole(path, lambda file: file.write(text.encode()))
    return [str(path)]


def row_of(way, model, base, c):
    """What the table says of a model, its best.pt: bits per byte of both validation splits."""
    old, new = (evaluate(model, corpus, replace(c, eval_tokens=0))["val_bits_per_byte"]
                for corpus in (base.old, base.new))
    n = sum(p.numel() for p in model.parameters() if p.requires_grad and way != "before")
    return {"way": way, "learned": n, "new": new, "old": old}


def compare(base, c, device, path):
    """Train each way, and draw its losses: a row for each and one for before; plain's model."""
    model = load_run(base.run, device)[0]
    model.config.context_length = base.T
    start = [evaluate(model, corpus, c)["val_loss"] for corpus in (base.old, base.new)]
    rows = [row_of("before", model, base, c)]
    panels = (figure := Figure(figsize=(11, 4.6), layout="constrained")).subplots(1, 2)
    for way in ("plain", "smaller", "lora", "replay"):
        rate = c.learning_rate / (10 if way == "smaller" else 1)
        model, history = tune(base, way, base.new.train, base.old.train if way == "replay" else
                              base.new.train, replace(c, learning_rate=rate), device)
        rows.append(row_of(way, model, base, c))
        plain = model if way == "plain" else plain      # the first of the ways
        for axes, key, before in zip(panels, ("old_loss", "val_loss"), start):
            points = [(m["step"], m[key]) for m in history if key in m]
            axes.plot(*zip((0, before), *points), "o-", label=way)
    for axes, title in zip(panels, ("the old domain: forgotten", "the new domain: learned")):
        axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    write_whole(path, lambda file: figure.savefig(file, dpi=120, format="png"))
    return rows, plain


# ------------ Two traps.

def overfit(base, c, device):
    """Many epochs of few windows: what the curves say of it."""
    few = base.new.train[:FEW * base.T + 1]
    _, history = tune(base, "overfitting", few, few, c, device)
    return {"tokens": len(few), "verdict": verdict(history), "last": history[-1],
            "best": min(history, key=lambda m: m.get("val_loss", math.inf))}


def leak(base, c, plain, device):
    """Plain, but with the validation text's beginning in it: by how much is the figure better?"""
    val, words, T = base.new.val, base.words, base.T
    n = min(len(val) // 2, max(T + 2, c.steps * c.batch_size * T // c.replay // EPOCHS))
    model, _ = tune(base, "leaked", base.new.train, val[:n], c, device)
    text, found = [*texts_of(val[:n], words)], {"tokens": n}
    for key, extra in (("plain", val[:0]), ("leaked", val[:n])):
        texts = chain(texts_of(base.new.train, words), texts_of(extra, words))
        found[f"overlap_of_{key}"] = leak_check(texts, text, sum(map(len, text)))
    for part, ids in (("what leaked", val[:n]), ("the rest", val[n:])):
        n_bytes = sum(len(words.vocab[i]) for i in ids if i != words.eot)
        a, b = (bits_of(net.eval(), words, ids, n_bytes) for net in (model, plain))
        found[part] = dict(zip(("difference", "interval"), difference(a, b)),
                           plain=b[0], leaked=a[0])
    return found


def show(rows, over, leaks):
    print(f"\nbits per byte of both validation splits\n\n{'':12}{'learned':>12}{'the new':>10}"
          f"{'the old':>20}")
    for row in rows:
        print("{:12}{:12,}".format(row["way"], row["learned"]) + "".join(
            f"{row[key]:10.4f}{row[key] - rows[0][key]:+10.4f}" for key in ("new", "old")))
    last, best = over["last"], over["best"]
    print(f"\noverfitting: {last['epoch']:.0f} epochs of {over['tokens']:,} tokens\n\n{'loss':12}"
          f"{'on these':>12}{'held out':>12}{'lowest':>12}{'at step':>12}\n{'':12}"
          f"{last['train_loss']:12.3f}{last['val_loss']:12.3f}{best['val_loss']:12.3f}"
          f"{best['step']:12,}\n{over['verdict'] or ''}\n\nleakage: {leaks['tokens']:,} tokens of "
          f"the validation split are learned from, too\n\n{'bits/byte':12}{'plain':>12}"
          f"{'leaked':>12}   difference")
    for part in ("what leaked", "the rest"):
        row, (low, high) = leaks[part], leaks[part]["interval"] or (-math.inf, math.inf)
        print(f"{part:12}{row['plain']:12.4f}{row['leaked']:12.4f}   {row['difference']:+.4f} "
              f"({low:+.4f} to {high:+.4f})")
    print("in training {overlap_of_plain:12.1%}{overlap_of_leaked:12.1%}   of what leaked, in runs "
          "of 50 characters".format(**leaks))


def main():
    parser = Parser("Fine-tune a run on another domain in four ways: what is learned, forgotten?")
    parser.add_argument("run", metavar="RUN", help="name or folder of the run to start from")
    for flag, what in (("--source", "the new domain (tweets)"), ("--old", "the old (the run's)")):
        parser.add_argument(flag, nargs="+", metavar="...", help=f"files, folders of text: {what}")
    for flag, usual, what in (("--name", "forgetting", "a folder in runs/ for what is trained"),
                              ("--out", "forgetting.png", "the picture"),
                              ("--device", "auto", "auto, cpu, cuda or mps")):
        parser.add_argument(flag, default=usual, help=f"{what} (default: {usual})")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no tables")
    data.add_flags(parser, ForgettingConfig)
    given = vars(parser.parse_args())
    aside = contextlib.redirect_stdout(sys.stderr if given["json"] else sys.stdout)
    with clear_errors():
        run, name, device = find_run(given["run"]), given["name"], pick_device(given["device"])
        c, path = data.checked(ForgettingConfig, given), picture(given["out"])
        if (RUNS / name).resolve().parent != RUNS.resolve():
            raise ValueError(f"--name {name} is no name of a folder in {RUNS}")
        model, words = load_run(run)
        given["source"] = given["source"] or tweets()
        T = min(c.window, model.config.context_length)
        new, old = (corpus_of(run, words, given[key]) for key in ("source", "old"))
        for corpus in (new, old):
            if len(corpus.train) <= T or len(corpus.val) < 2 * T + 4:
                raise ValueError(f"{corpus.folder} has too little text for a --window of {T}")
        base = SimpleNamespace(run=run, name=name, words=words, new=new, old=old, T=T)
    with clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)), aside:
        rows, plain = compare(base, c, device, path)
        over, leaks = overfit(base, c, device), leak(base, c, plain, device)
    if given["json"]:
        return print(json.dumps({"picture": str(path), "ways": rows, "overfitting": over,
                                 "leakage": leaks}))
    show(rows, over, leaks)
    print(f"\ndrew {path}")


if __name__ == "__main__":
    main()
