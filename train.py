"""
Training: the loop in which a model learns.

Show the model some text, measure how surprised it is by what comes next (the loss), work out for
every weight which way to move it to be less surprised (the gradient), move all of them a little
that way, and do it again with the next text:

    draw a batch -> forward -> loss -> backward -> step

    python train.py                          # the preset nano: minutes on two CPU cores
    python train.py --n-layer 2 --run two    # change one thing, give the run a name
    python train.py --arch gpt2              # the model as it was in 2019
    python train.py --run two --resume       # go on after Ctrl-C
    python train.py --plot runs/nano runs/two       # lay their curves over each other

A run is a folder, runs/NAME/: config.json and tokenizer.json; metrics.jsonl and loss.png, what was
measured on the way; best.pt, the weights when the validation loss was lowest, and last.pt, all
that is needed to go on. Everything else in the file stands around the loop at its end, in main().

Papers: Decoupled Weight Decay Regularization (AdamW; Loshchilov and Hutter, 2017); the warm-up
with cosine decay is SGDR's (the same authors, 2016) as GPT-2's successors use it.
"""
import json
import math
import os
import shlex
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import (DataConfig, Parser, add_flags, chosen, clear_errors, corpus_hash, draw,
                  every_window, load_corpus, prepare, reopen, windows_per_epoch)
from model import ARCHS, GPT, SHAPES, GPTConfig, score
from sample import (RUNS, SampleConfig, find_run, generate, load_checkpoint, load_run, pick_device,
                    picker, read_config, stream)


@dataclass
class TrainConfig:
    """How the model learns. A trailing comment is the flag's --help."""
    steps: int = 2000           # batches to learn from, one step of the optimiser each
    batch_size: int = 8         # B, windows of text in a batch
    learning_rate: float = 2e-3     # how far a step goes, at the end of the warm-up
    min_learning_rate: float = 2e-4     # what the cosine has brought it down to at the last step
    warmup_steps: int = 100     # steps over which it rises from 0
    beta1: float = 0.9          # AdamW: how much of the mean gradient is kept from step to step
    beta2: float = 0.99         # AdamW: the same for the mean squared gradient
    weight_decay: float = 0.1   # AdamW: pull of every matrix towards 0
    grad_clip: float = 1.0      # a gradient longer than this is scaled down to it
    eval_every: int = 500       # steps from one look at the validation split to the next
    seed: int = 1               # fixes the first weights, the order of the batches, the dropout

    def __post_init__(self):
        for says, names, right in (
                ("at least 1", ("steps", "batch_size", "eval_every"), lambda x: x >= 1),
                ("above 0", ("learning_rate", "grad_clip"), lambda x: x > 0),
                ("0 or more", ("min_learning_rate", "warmup_steps", "weight_decay", "seed"),
                 lambda x: x >= 0),
                ("at least 0 and below 1", ("beta1", "beta2"), lambda x: 0 <= x < 1)):
            for name in names:
                if not right(getattr(self, name)):
                    raise ValueError(f"{name} is {getattr(self, name)}; it must be {says}")


PRESETS = {     # how each of model.py's SHAPES is trained, where the defaults do not suit it
    "nano": dict(),
    "baby": dict(batch_size=64, steps=5000, learning_rate=1e-3, min_learning_rate=1e-4),
    "gpt2": dict(batch_size=16, steps=20_000, learning_rate=6e-4, min_learning_rate=6e-5,
                 warmup_steps=700, beta2=0.95, tokenizer="gpt2"),
}

# ------------------------------------------------------------------------------------------
# How far to step, and with what.


def learning_rate(step, c):
    """Rise in a line for warmup_steps, then fall along half a cosine to the minimum.

    The rise gives AdamW time to learn how large gradients are; the fall lets the weights settle.
    """
    if step < c.warmup_steps:
        return c.learning_rate * (step + 1) / c.warmup_steps
    progress = (step - c.warmup_steps) / max(1, c.steps - 1 - c.warmup_steps)   # from 0 to 1
    fall = (1 + math.cos(math.pi * progress)) / 2                               # from 1 to 0
    return c.min_learning_rate + fall * (c.learning_rate - c.min_learning_rate)


def make_optimizer(model, c):
    """AdamW. Weight decay is for matrices: a bias or a gain near 0 is no simpler a model."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": c.weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=c.learning_rate, betas=(c.beta1, c.beta2), fused=True)


# ------------------------------------------------------------------------------------------
# A run on disk. Whatever is written again is written aside and renamed, so that a crash leaves
# the old file or the new one, never half of one.


def start_run(options):
    """A new run from arch, preset and flags, the later the stronger: folder, config, corpus."""
    def settle(config_class, settings):
        known = {k: v for k, v in settings.items() if k in config_class.__dataclass_fields__}
        return config_class(**known | chosen(options, config_class))

    data = settle(DataConfig, PRESETS[options.preset])
    train = settle(TrainConfig, PRESETS[options.preset])
    if options.init:
        own = {k: v for k, v in chosen(options, GPTConfig).items() if k != "vocab_size"}
        model = GPT.from_pretrained(options.init, **own).config
    else:
        model = settle(GPTConfig, ARCHS[options.arch] | SHAPES[options.preset])
    corpus = load_corpus(options.data or prepare(data), model.context_length)
    if options.init and corpus.tokenizer.vocab_size != model.vocab_size:
        raise ValueError(f"the weights of {options.init} know {model.vocab_size:,} tokens, this "
                         f"corpus has {corpus.tokenizer.vocab_size:,}: GPT-2's is --tokenizer gpt2")
    model.vocab_size = corpus.tokenizer.vocab_size
    config = {"data": corpus.meta["config"], "model": asdict(model), "train": asdict(train),
              "corpus": {"folder": str(corpus.folder), "sha256": corpus_hash(corpus)}}

    folder = RUNS / Path(options.run or options.preset).name
    if folder == RUNS:
        raise ValueError(f"--run {options.run} is not a name for a folder in {RUNS}/")
    if options.run and folder.exists():
        raise ValueError(f"there is a run {folder} already: --resume goes on with it, "
                         "another --run NAME starts a new one")
    number = 2
    while folder.exists():
        folder, number = RUNS / f"{options.preset}-{number}", number + 1
    folder.mkdir(parents=True)
    corpus.tokenizer.save(folder / "tokenizer.json")
    write_aside(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2)))
    return folder, config, corpus


def resume_run(options):
    """A run to go on with: its folder, config and corpus. Flags may repeat its settings only."""
    if options.init:
        raise ValueError("--init starts a run and --resume goes on with one: leave one of them out")
    folder = find_run(options.run)
    config = read_config(folder)
    for part, config_class in (("data", DataConfig), ("model", GPTConfig), ("train", TrainConfig)):
        given = chosen(options, config_class)
        if part == "model":
            given.pop("vocab_size", None)       # the flag is data.py's
        kept = asdict(config_class(**config[part]))
        for name, value in asdict(config_class(**config[part] | given)).items():
            if value != kept[name]:
                raise ValueError(
                    f"{folder} was started with {name} {kept[name]}, not {value}: leave the flag "
                    "out to go on with it, or start a new run without --resume")
    return folder, config, reopen(config["corpus"], config["data"])


def write_aside(path, write):
    """Call write on a temporary path beside path, make sure it is on the disk, and rename it."""
    aside = path.with_name(f"{path.name}.unfinished")
    try:
        write(aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:        # torch.save reports a full disk as the latter
        aside.unlink(missing_ok=True)
        raise OSError(f"could not write {path} ({error}); what was there is untouched") from None


def save_checkpoint(path, model, **more):
    """Write the weights, the shape they need around them, and whatever more is given."""
    content = {"model_config": asdict(model.config), "model": model.state_dict()} | more
    write_aside(path, lambda aside: torch.save(content, aside))


def read_metrics(folder):
    """The lines of metrics.jsonl, one dict for each step."""
    with open(folder / "metrics.jsonl", encoding="utf-8") as file:
        measured = [json.loads(line) for line in file]
    if not measured:
        raise ValueError(f"{folder} has done no step yet")
    return measured


def cut_metrics(folder, step):
    """Forget what was measured after step, which will be measured again."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    write_aside(folder / "metrics.jsonl", lambda path: path.write_text("".join(lines[:step])))


# ------------------------------------------------------------------------------------------
# The picture.


def draw_curves(folders, path):
    """The losses of one run, or of several over each other, against steps.

    Pale: the batch of each step, noisy because every batch is another text. Through it, the mean
    of the steps around. Dots: the whole validation split.
    """
    import matplotlib
    matplotlib.use("Agg")       # draw into files; no window needed
    from matplotlib import pyplot

    pyplot.rc("font", size=13)
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for i, folder in enumerate(folders):
        measured, colour = read_metrics(folder), f"C{i}"
        steps = [m["step"] for m in measured]
        train = np.array([m["train_loss"] for m in measured])
        width = len(train) // 100 * 2 + 1
        smooth = np.convolve(train, np.ones(width) / width, mode="valid")
        axes.plot(steps, train, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(steps[width // 2:len(steps) - width // 2], smooth, color=colour, linewidth=1.2,
                  label=f"{folder.name}: training batches")
        val = [(m["step"], m["val_loss"]) for m in measured if "val_loss" in m]
        if val:
            axes.plot(*zip(*val), "o-", color=colour, linewidth=2, markersize=7,
                      markeredgecolor="black", label=f"{folder.name}: validation split")
            axes.annotate(f"{val[-1][1]:.3f}", val[-1], xytext=(0, 10), ha="center",
                          textcoords="offset points", weight="bold")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    write_aside(path, lambda aside: figure.savefig(aside, dpi=120, format="png"))
    pyplot.close(figure)


# ------------------------------------------------------------------------------------------
# The experiment: settings, and then the loop.


def read_options():
    parser = Parser("Train a GPT; show its loss falling, draw it, and let the model write.")
    parser.add_argument("--preset", choices=PRESETS, default="nano",
                        help="settings to start from: nano, minutes on two CPU cores; baby, 10M "
                             "parameters, minutes on a GPU; gpt2, 124M (default: nano)")
    parser.add_argument("--arch", choices=ARCHS, default="modern",
                        help="the model's switches: gpt2, all as in 2019; modern, as today "
                             "(default: modern)")
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the preset's)")
    parser.add_argument("--resume", action="store_true",
                        help="go on with a run that was stopped: --run NAME, or the newest")
    parser.add_argument("--init", metavar="PATH",
                        help="start from GPT-2's weights, and its shape: a folder or a name, see "
                             "pretrained.py")
    parser.add_argument("--data", metavar="DIR", help="a folder that data.py has prepared")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--plot", nargs="+", metavar="RUN",
                        help="train nothing; draw the curves of these runs in one picture")
    add_flags(parser, TrainConfig)
    add_flags(parser, GPTConfig, skip={"vocab_size"})
    add_flags(parser, DataConfig)
    return parser.parse_args()


def table_row(m):
    """One line of what is printed while the model learns; blank where nothing was measured."""
    columns = (("step", 7, ","), ("train_loss", 12, ".3f"), ("val_loss", 10, ".3f"),
               ("val_bits_per_byte", 11, ".3f"), ("val_accuracy", 10, ".1%"),
               ("tokens_per_second", 10, ",.0f"), ("seconds", 9, ".1f"))
    return "".join((format(m[name], form) if name in m else "").rjust(width)
                   for name, width, form in columns)


def stop_on_signals():
    """A list that fills when somebody presses Ctrl-C, or the machine asks us to end."""
    asked = []

    def ask(signum, frame):
        asked.append(signum)
        signal.signal(signal.SIGINT, signal.SIG_DFL)        # a second Ctrl-C ends it at once
        tqdm.write("stopping after this step; Ctrl-C again stops at once, without saving")

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked


def main():
    options = read_options()
    with clear_errors():
        if options.plot:
            draw_curves([find_run(run) for run in options.plot], Path("curves.png"))
            return print("drew curves.png")
        device = pick_device(options.device)
        folder, config, corpus = (resume_run if options.resume else start_run)(options)
        saved = load_checkpoint(folder / "last.pt") if options.resume else None
        if saved and saved["step"] >= config["train"]["steps"]:
            raise ValueError(f"{folder} has done all its {saved['step']:,} steps; to learn for "
                             "longer, start a new run with more --steps")

    # What the loop works with.
    stop = stop_on_signals()
    c = TrainConfig(**config["train"])
    torch.manual_seed(c.seed)
    model = GPT(GPTConfig(**config["model"])).to(device)
    if options.init and not saved:
        weights = GPT.from_pretrained(options.init, context_length=model.config.context_length)
        model.load_state_dict(weights.state_dict())
    optimizer = make_optimizer(model, c)
    cross_entropy = model.ops.cross_entropy
    B, T, V = c.batch_size, model.config.context_length, model.config.vocab_size
    steps_per_epoch = windows_per_epoch(len(corpus.train), T) / B
    first_step, seconds_before, best_val_loss = 0, 0.0, math.inf
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
        first_step, seconds_before, best_val_loss = saved["step"], saved["seconds"], saved["best"]
        cut_metrics(folder, first_step)

    print(f"""
corpus  {corpus.folder}: {len(corpus.train):,} tokens to learn from, {len(corpus.val):,} kept aside
model   {model.n_parameters():,} parameters, {V} different tokens, on {device}
run     {folder}: {c.steps:,} steps of {B} x {T} tokens, {c.steps / steps_per_epoch:.2f} epochs
        A model that knows nothing has a loss of ln({V}) = {math.log(V):.3f} nats a token.

   step  train loss  val loss  bits/byte  accuracy  tokens/s  seconds""")

    bar = tqdm(total=c.steps, initial=first_step, unit="step", leave=False, disable=None)
    start = time.perf_counter() - seconds_before
    with (clear_errors((OSError, FloatingPointError)),
          open(folder / "metrics.jsonl", "a", encoding="utf-8") as metrics):
        for step in range(first_step, c.steps):
            began = time.perf_counter()
            lr = learning_rate(step, c)
            for group in optimizer.param_groups:
                group["lr"] = lr

            ids, targets = draw(corpus.train, B, T, c.seed, step)               # both (B, T)
            logits = model(ids.to(device))                                      # (B, T, V)
            loss = cross_entropy(logits, targets.to(device))                    # one number
            loss.backward()                                                     # the gradients
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
            optimizer.step()
            optimizer.zero_grad()

            # The step is done; the rest of the loop measures, tells and saves.
            done = step + 1
            measured = {"step": done, "tokens": done * B * T, "epoch": done / steps_per_epoch,
                        "train_loss": loss.item(), "lr": lr, "grad_norm": grad_norm.item(),
                        "tokens_per_second": B * T / (time.perf_counter() - began)}
            if done % c.eval_every == 0 or done == c.steps:
                nats, correct, n = score(model, every_window(corpus.val, B, T))
                measured |= {"val_loss": nats / n, "val_accuracy": correct / n,
                             "val_bits_per_byte": nats / math.log(2) / corpus.meta["val"]["bytes"]}
            for name in ("train_loss", "grad_norm", "val_loss"):
                if not math.isfinite(measured.get(name, 0)):
                    raise FloatingPointError(
                        f"the {name} is {measured[name]} at step {done}; checkpoints, if any, are "
                        "from before. A smaller --learning-rate may help")
            measured["seconds"] = time.perf_counter() - start
            metrics.write(json.dumps(measured) + "\n")
            metrics.flush()

            bar.update()
            bar.set_postfix_str(f"loss {measured['train_loss']:.3f}, "
                                f"{measured['tokens_per_second']:,.0f} tokens/s")
            if done == first_step + 1 or "val_loss" in measured:
                tqdm.write(table_row(measured))
            if measured.get("val_loss", math.inf) < best_val_loss:
                best_val_loss = measured["val_loss"]
                save_checkpoint(folder / "best.pt", model, step=done, val_loss=best_val_loss)
            stopping = bool(stop) and done < c.steps
            if "val_loss" in measured or stopping:
                save_checkpoint(folder / "last.pt", model, optimizer=optimizer.state_dict(),
                                rng=torch.get_rng_state(), cuda_rng=torch.cuda.get_rng_state_all(),
                                step=done, seconds=measured["seconds"], best=best_val_loss)
                draw_curves([folder], folder / "loss.png")
            if stopping:
                bar.close()
                print(f"\nstopped after step {done:,} and saved. To go on:\n"
                      f"    python train.py --run {folder.name} --resume")
                sys.exit(128 + stop[0])
    bar.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    print(f"\nThe best model's validation loss is {best_val_loss:.3f} nats a token. It writes:\n")
    with clear_errors():
        model, tokens = load_run(folder, device)
        counts, start = corpus.meta["train"], tokens.separator or [0]
        n = max(1, 300 * counts["tokens"] // counts["characters"])      # 300 characters
        ids = generate(model, start, n, picker(SampleConfig(seed=c.seed), [start]))
        for text in stream(tokens, ids):
            print(text, end="", flush=True)
    same = "" if options.resume else " " + shlex.join(sys.argv[1:])
    print(f"""

The curve is in {folder / "loss.png"}. Go on:
    more text, less wild    python sample.py {folder} --temperature 0.5
    how good is it?         python eval.py {folder}
    change one thing        python train.py{same.rstrip()} --n-layer 2 --run shallow
    what did it do?         python train.py --plot {folder} runs/shallow""")


if __name__ == "__main__":
    main()
