"""
Training: the loop in which a model learns.

Show the model some text, measure how surprised it is by what comes next (the loss), work out for
every weight which way to move it to be less surprised (the gradient), move all of them a little
that way, and do it again with the next text:

    draw a batch -> forward -> loss -> backward -> step

    python train.py                          # the preset nano: a minute or two on two CPU cores
    python train.py --n-layer 1 --run two    # change one thing, give the run a name
    python train.py --arch gpt2              # the model as it was in 2019
    python train.py --run two --resume       # go on after Ctrl-C
    python train.py --plot nano two --against seconds       # lay their curves over each other
    python train.py --config runs/two/config.json           # the same run again
    torchrun --standalone --nproc_per_node 2 train.py       # two processes; see parallel.py

A run is a folder, runs/NAME/: config.json and tokenizer.json; metrics.jsonl and loss.png, what was
measured on the way; best.pt, the weights when the validation loss was lowest, and last.pt, all
that is needed to go on. Everything else in the file stands around the loop at its end, in main().

Papers: Decoupled Weight Decay Regularization (AdamW; Loshchilov and Hutter, 2017); Muon (Jordan,
2024), with the step size of Muon is Scalable for LLM Training (Liu et al., 2025); Mixed Precision
Training (Micikevicius et al., 2017).
"""
import importlib.util
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from anatomy import flops_per_token, memory, parameters, peak_flops
from batches import draw, every_window, prefetch, windows_per_epoch
from checkpoint import (RUNS, find_run, load_checkpoint, load_run, pick_device, read_config,
                        write_aside)
from cli import Parser, add_flags, chosen, clear_errors
from curves import AXES, cut_metrics, draw_curves, race, read_metrics, verdict
from data import DataConfig, corpus_hash, load_corpus, prepare, reopen
from model import ARCHS, GPT, SHAPES, GPTConfig, score
from parallel import (end, gather_states, join, leave, one_for_all, scatter_states, send_gradients,
                      spread, tell_all, total, whole)
from sample import SampleConfig, generate, picker, stream

CHOICES = {"optimizer": ("muon", "adamw"), "decay": ("linear", "cosine"),
           "dtype": ("float32", "bfloat16", "float16"), "parallel": ("ddp", "fsdp")}


@dataclass
class TrainConfig:
    """How the model learns. A trailing comment is the flag's --help."""
    steps: int = 1000           # batches to learn from, one step of the optimiser each
    batch_size: int = 16        # B, windows of text in a batch, all processes together
    accumulate: int = 1         # parts a batch is cut into, one after the other: needs less memory
    optimizer: str = "muon"     # muon for the blocks' matrices, adamw for the rest | adamw for all
    learning_rate: float = 5e-3     # how far a step goes, at the end of the warm-up
    min_learning_rate: float = 0.0  # what the decay has brought it down to at the last step
    decay: str = "linear"       # the way down: linear | cosine
    warmup_steps: int = 20      # steps over which the learning rate rises from 0
    beta1: float = 0.9          # AdamW: how much of the mean gradient is kept from step to step
    beta2: float = 0.99         # AdamW: the same for the mean squared gradient
    momentum: float = 0.95      # Muon: how much of the mean gradient is kept from step to step
    weight_decay: float = 0.1   # pull of every matrix towards 0
    grad_clip: float = 1.0      # a gradient longer than this is scaled down to it
    dtype: str = "float32"      # of the products: float32 | bfloat16 | float16; weights: float32
    compile: bool = False       # let torch.compile write kernels for this very model
    parallel: str = "ddp"       # how several processes share the model: ddp | fsdp, see parallel.py
    eval_every: int = 100       # steps from one look at the validation split to the next
    eval_tokens: int = 131_072  # how much of it a look reads, evenly spread; 0: all of it
    save_minutes: float = 10.0    # last.pt is written at each look, and when it is older than this
    write: int = 0              # tokens the model writes at each look, to show what it has learned
    tensorboard: bool = False   # record for TensorBoard, in the run's folder
    init: str = ""              # GPT-2's weights to start from: a folder or name, see pretrained.py
    seed: int = 1               # fixes the first weights, the order of the batches, the dropout

    def __post_init__(self):
        for says, names, right in (
                ("at least 1", ("steps", "batch_size", "accumulate", "eval_every"),
                 lambda x: x >= 1),
                ("above 0", ("learning_rate", "grad_clip", "save_minutes"), lambda x: x > 0),
                ("0 or more", ("min_learning_rate", "warmup_steps", "weight_decay", "eval_tokens",
                               "write", "seed"), lambda x: x >= 0),
                ("at least 0 and below 1", ("beta1", "beta2", "momentum"), lambda x: 0 <= x < 1)):
            for name in names:
                if not right(getattr(self, name)):
                    raise ValueError(f"{name} is {getattr(self, name)}; it must be {says}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose "
                                 f"{' or '.join(choices)}")
        if self.tensorboard and not importlib.util.find_spec("tensorboard"):
            raise ValueError("TensorBoard is not installed: pip install tensorboard")
        if self.dtype == "float16" and self.parallel == "fsdp":
            raise ValueError("float16 needs its loss scaled, which fsdp does not: use bfloat16")


PRESETS = {     # how each of model.py's SHAPES is trained, where the defaults do not suit it
    "nano": dict(),
    "baseline": dict(arch="gpt2", optimizer="adamw", steps=2000, batch_size=12,
                     learning_rate=1e-3, min_learning_rate=1e-4, decay="cosine", warmup_steps=100),
    "baby": dict(batch_size=64, steps=2000, learning_rate=3e-3, warmup_steps=50, eval_every=100),
    "gpt2": dict(batch_size=16, steps=20_000, learning_rate=2e-3, warmup_steps=300,
                 tokenizer="gpt2", dtype="bfloat16"),
}

# ------------------------------------------------------------------------------------------
# How far to step, and with what.


def learning_rate(step, c):
    """Rise in a line for warmup_steps, then fall, in a line or along half a cosine, to the minimum.

    The rise gives the optimiser time to learn how large gradients are; the fall lets the weights
    settle.
    """
    if step < c.warmup_steps:
        return c.learning_rate * (step + 1) / c.warmup_steps
    fall = 1 - (step - c.warmup_steps) / max(1, c.steps - 1 - c.warmup_steps)   # from 1 to 0
    if c.decay == "cosine":
        fall = (1 - math.cos(math.pi * fall)) / 2                               # from 1 to 0
    return c.min_learning_rate + fall * (c.learning_rate - c.min_learning_rate)


def make_optimizers(model, c):
    """AdamW for everything; or Muon for the matrices inside the blocks, and AdamW for the rest.

    AdamW gives every number a step of its own size. Muon looks at a matrix as one thing: it turns
    the gradient into the nearest matrix that stretches no direction more than another, so that
    what few examples ask for is learned as fast as what all do. Tables are no such matrices: of
    their rows, a batch touches some. match_rms_adamw makes its steps as long as AdamW's, so that
    both can use one learning rate.

    Weight decay is for matrices: a bias or a gain near 0 is no simpler a model.
    """
    hidden = [p for p in model.blocks.parameters() if p.dim() == 2]
    hidden = hidden if c.optimizer == "muon" else []
    others = [p for p in model.parameters() if not any(p is h for h in hidden)]
    groups = [{"params": [p for p in others if p.dim() == 2], "weight_decay": c.weight_decay},
              {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0}]
    optimizers = [torch.optim.AdamW(groups, c.learning_rate, (c.beta1, c.beta2), fused=True)]
    if hidden:
        optimizers.append(torch.optim.Muon(
            hidden, c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay,
            adjust_lr_fn="match_rms_adamw"))
    return optimizers


# ------------------------------------------------------------------------------------------
# A run on disk.


def check_parts(c, world):
    """Each process, and each part it accumulates, gets as many windows as any other."""
    if c.batch_size % (c.accumulate * world):
        raise ValueError(f"a batch of {c.batch_size} windows cannot be cut into equal parts for "
                         f"accumulate {c.accumulate} and {world} process{'es' * (world > 1)}: use "
                         f"a --batch-size that is a multiple of {c.accumulate * world}")


def start_run(options, world):
    """A new run from arch, preset, --config and flags, the later the stronger: folder, config."""
    preset = options.preset or "nano"
    recipe = PRESETS[preset]
    arch = ARCHS[options.arch or recipe.get("arch", "modern")]
    recorded = {"data": recipe, "model": arch | SHAPES[preset], "train": recipe}
    if options.config:
        if options.preset or options.arch:
            raise ValueError("--config says all that --preset and --arch say: leave them out")
        path = Path(options.config).resolve()
        recorded, preset = read_config(path.parent, path.name), path.parent.name

    def settle(config_class, part):
        """The settings that this config takes of what was recorded and what the flags say."""
        of_data = {"vocab_size"} if part == "model" else set()      # the tokenizer sets it
        known = {f.name for f in fields(config_class)} - of_data
        stated = recorded[part] | chosen(options, config_class)
        return {name: value for name, value in stated.items() if name in known}

    data = DataConfig(**settle(DataConfig, "data"))
    train = TrainConfig(**settle(TrainConfig, "train"))
    check_parts(train, world)
    shape = settle(GPTConfig, "model")
    if train.init and not options.config:       # the weights bring their shape with them
        own = {k: v for k, v in chosen(options, GPTConfig).items() if k != "vocab_size"}
        shape = asdict(GPT.from_pretrained(train.init, **own).config)
    model = GPTConfig(**shape)
    same_text = options.config and not options.data and not chosen(options, DataConfig)
    corpus = (reopen(recorded["corpus"], recorded["data"], model.context_length) if same_text else
              load_corpus(options.data or prepare(data), model.context_length))
    V = corpus.tokenizer.vocab_size
    if shape.get("vocab_size", V) != V:
        raise ValueError(f"the weights of {train.init} know {shape['vocab_size']:,} tokens, this "
                         f"corpus has {V:,}: GPT-2's is --tokenizer gpt2")
    # As they were stated, 0 for what follows from the others: so that with --config and another
    # --n-embd, it follows again.
    model = asdict(model) | {"vocab_size": V, "n_kv_head": shape.get("n_kv_head", 0),
                             "mlp_width": shape.get("mlp_width", 0)}
    config = {"data": corpus.meta["config"], "model": model, "train": asdict(train),
              "corpus": {"folder": str(corpus.folder), "sha256": corpus_hash(corpus)}}

    folder = RUNS / Path(options.run or preset).name
    if folder == RUNS:
        raise ValueError(f"--run {options.run} is not a name for a folder in {RUNS}/")
    if options.run and folder.exists():
        raise ValueError(f"there is a run {folder} already: --resume goes on with it, "
                         "another --run NAME starts a new one")
    number = 2
    while folder.exists():
        folder, number = RUNS / f"{preset}-{number}", number + 1
    folder.mkdir(parents=True)
    corpus.tokenizer.save(folder / "tokenizer.json")
    write_config(folder, config)
    return folder, config


def write_config(folder, config):
    text = json.dumps(config, indent=2)
    write_aside(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))


SAME_CURVE = {      # settings that change how a step is worked out, not what comes out of it
    "compile", "parallel", "eval_every", "save_minutes", "write", "tensorboard",
    "activation_checkpointing"}
SAME_WITHOUT_DROPOUT = {"accumulate", "kernels"}    # with it, they draw other numbers to drop
FIXED = {"batch_size", "seed", "optimizer", "init"}     # another would not fit what was saved


def resume_run(options, world):
    """A run to go on with: its folder and config. Says which settings the flags change.

    Some do not matter, some bend the curve from here on; the weights' shape and the text they
    learn from cannot change.
    """
    if options.config or options.preset or options.arch:
        raise ValueError("--config, --preset and --arch start a run and --resume goes on with one: "
                         "leave them out")
    folder = find_run(options.run)
    config = read_config(folder)
    changed = []
    for part, config_class in (("data", DataConfig), ("model", GPTConfig), ("train", TrainConfig)):
        given = chosen(options, config_class)
        if part == "model":
            given.pop("vocab_size", None)       # the flag is data.py's
        kept = asdict(config_class(**config[part]))
        config[part] |= given
        for name, value in asdict(config_class(**config[part])).items():
            if value == kept[name]:
                continue
            same = name in SAME_CURVE or (
                name in SAME_WITHOUT_DROPOUT and not config["model"]["dropout"])
            if part == "data" or name in FIXED or part == "model" and name not in (
                    "dropout", "kernels", "activation_checkpointing"):
                raise ValueError(
                    f"{folder} was started with {name} {kept[name]}, not {value}, and cannot go on "
                    "otherwise: leave the flag out, or start a new run without --resume")
            changed.append(f"{name} was {kept[name]} and is {value}: " + (
                "the curve stays the same, to rounding" if same else
                "from here on, the curve is not the one it would have been"))
    check_parts(TrainConfig(**config["train"]), world)
    if options.data:
        config["corpus"]["folder"] = options.data
    reopen(config["corpus"], config["data"])
    step = load_checkpoint(folder / "last.pt")["step"] if (folder / "last.pt").exists() else 0
    if step >= config["train"]["steps"]:
        raise ValueError(f"{folder} has done all its {step:,} steps; to learn for longer, give "
                         "more --steps")
    if not step:
        print(f"{folder} was stopped before it saved anything, and starts again")
    for line in changed:
        print(f"since step {step:,}: {line}")
    return folder, config


def save_checkpoint(path, **content):
    """Write what is given: model_config and model, the weights, are all that load_run needs."""
    write_aside(path, lambda aside: torch.save(content, aside))


# ------------------------------------------------------------------------------------------
# The experiment: settings, and then the loop.


def read_options():
    parser = Parser("Train a GPT; show its loss falling, draw it, and let the model write.")
    parser.add_argument("--preset", choices=PRESETS,
                        help="settings to start from: nano, minutes on two CPU cores; baseline, "
                             "the same size as it was trained in 2019; baby, 10M parameters, "
                             "minutes on a GPU; gpt2, 124M (default: nano)")
    parser.add_argument("--arch", choices=ARCHS,
                        help="the model's switches: gpt2, all as in 2019; modern, as today "
                             "(default: modern)")
    parser.add_argument("--config", metavar="FILE",
                        help="start from the settings in another run's config.json")
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the preset's)")
    parser.add_argument("--resume", action="store_true",
                        help="go on with a run that was stopped: --run NAME, or the newest")
    parser.add_argument("--data", metavar="DIR", help="a folder that data.py has prepared")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--plot", nargs="+", metavar="RUN",
                        help="train nothing; draw the curves of these runs in one picture")
    parser.add_argument("--against", choices=AXES, default="steps",
                        help="what --plot draws them against (default: steps)")
    parser.add_argument("--out", metavar="FILE", default="curves.png",
                        help="where --plot draws (default: curves.png)")
    add_flags(parser, TrainConfig)
    add_flags(parser, GPTConfig, skip={"vocab_size"})
    add_flags(parser, DataConfig)
    return parser.parse_args()


COLUMNS = (     # what is printed while the model learns: its heading, its name, its width, its form
    ("step", "step", 7, ","), ("epoch", "epoch", 8, ".2f"),
    ("train loss", "train_loss", 12, ".3f"), ("val loss", "val_loss", 10, ".3f"),
    ("bits/byte", "val_bits_per_byte", 11, ".3f"), ("accuracy", "val_accuracy", 10, ".1%"),
    ("lr", "lr", 9, ".1e"), ("grad norm", "grad_norm", 11, ".2f"),
    ("tokens/s", "tokens_per_second", 10, ",.0f"), ("seconds", "seconds", 9, ".1f"))


def table_row(m=None):
    """One line of it, blank where nothing was measured; without measurements, the headings."""
    return "".join((heading if m is None else format(m[name], form) if name in m else "")
                   .rjust(width) for heading, name, width, form in COLUMNS)


def describe(p, folder, corpus, m, c):
    """What is about to happen: to which text and model (m), how long, at what cost, and where."""
    T, n = m.context_length, parameters(m)
    rows = c.batch_size // (c.accumulate * p.world)             # windows in one forward pass
    seen = c.steps * c.batch_size * T                           # tokens, in the end
    epochs = c.steps * c.batch_size / windows_per_epoch(len(corpus.train), T)
    bytes_needed = sum(memory(m, rows, T).values())
    processes = "1 process" if p.world == 1 else f"{p.world} processes ({c.parallel})"
    return "\n".join((
        f"\ncorpus   {corpus.folder}: {len(corpus.train):,} tokens to learn from, "
        f"{len(corpus.val):,} kept aside",
        f"model    {n:,} parameters, {m.vocab_size:,} different tokens, a context of {T}",
        f"steps    {c.steps:,} of {c.batch_size} x {T} = {c.batch_size * T:,} tokens: "
        f"{epochs:.2f} epochs, {seen / n:.2g} tokens for each parameter",
        f"cost     {flops_per_token(m, T) / 1e6:,.1f} million FLOPs a token, "
        f"{flops_per_token(m, T) * seen / 1e12:,.1f} trillion in all, up to "
        f"{bytes_needed / 2 ** 20:,.0f} MiB of memory",
        f"how      {c.optimizer}, {c.dtype}, {processes} on {p.device}",
        f"run      {folder}: config.json, metrics.jsonl, loss.png, best.pt, last.pt",
        f"         a model that knows nothing has a loss of ln({m.vocab_size}) = "
        f"{math.log(m.vocab_size):.3f} nats a token\n"))


def plot(folders, path, against):
    """Draw the curves of these runs, and say when each had learned what all of them have."""
    draw_curves(folders, path, against)
    goal, looks = race(folders)
    print(f"drew {path}. A validation loss of {goal:.3f} was reached by")
    for folder, look in sorted(zip(folders, looks), key=lambda pair: pair[1]["seconds"]):
        print(f"    {str(folder):30} after {look['seconds']:8.1f} seconds, "
              f"{look['step']:6,} steps, {look['tokens']:11,} tokens")


def stop_on_signals(p):
    """A list that gets the signal, when somebody presses Ctrl-C or the machine asks us to end."""
    asked = []

    def ask(signum, frame):
        if asked and time.monotonic() - asked[1] > 1:   # torchrun passes on what it was sent, so
            os._exit(128 + signum)                      # that one Ctrl-C may come here twice
        if not asked:
            asked.extend((signum, time.monotonic()))
            if p.rank == 0:
                tqdm.write("stopping after this step; Ctrl-C again stops at once, without saving")

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked


def validation_windows(corpus, T, at_most):
    """Batches of windows of the validation split, evenly spread if all are more than at_most."""
    B = max(1, 4096 // T)
    keep_every = math.ceil(len(corpus.val) / at_most) if at_most else 1
    return list(islice(every_window(corpus.val, B, T), 0, None, keep_every))


def validate(model, batches, p):
    """score() of the batches, dealt out to the processes; val_loss and val_accuracy of them all."""
    nats, correct, count = 0.0, 0, 0
    for i in range(p.rank, len(batches) + p.rank, p.world):
        # Sharded weights are gathered by all processes at once, so that one whose batches have
        # run out scores the last of them too, and does not count it.
        scored = score(model, [batches[min(i, len(batches) - 1)]])
        if i < len(batches):
            nats, correct, count = nats + scored[0], correct + scored[1], count + scored[2]
    nats, correct, count = total(p, [nats, correct, count])
    return {"val_loss": nats / count, "val_accuracy": correct / count}


def write_text(model, tokens, n_tokens, seed):
    """What the model writes from an empty page, as it comes."""
    start = tokens.separator or [0]
    pick = picker(SampleConfig(seed=seed), [start])
    return stream(tokens, generate(model, start, n_tokens, pick))


def main():
    options = read_options()
    with clear_errors():
        if options.plot:
            return plot([find_run(run) for run in options.plot], Path(options.out),
                        options.against)
        p = join(pick_device(options.device))
        run = None
        try:        # process 0 starts or resumes; if it fails, the others hear None, and end too
            if p.rank == 0:
                run = (resume_run if options.resume else start_run)(options, p.world)
        finally:
            run = tell_all(p, run)
        if run is None:
            sys.exit(2)
        folder, config = run
        corpus = reopen(config["corpus"], config["data"])
        last = folder / "last.pt"
        saved = load_checkpoint(last) if options.resume and last.exists() else None
        c = TrainConfig(**config["train"])

    # What the loop works with.
    chief = p.rank == 0         # one process prints, draws and writes
    parts = c.accumulate * p.world
    stop = stop_on_signals(p)
    device, device_type = p.device, p.device.split(":")[0]
    if device_type == "cuda":
        torch.set_float32_matmul_precision("high")      # TF32, where the GPU has it
    torch.manual_seed(c.seed)
    model = GPT(GPTConfig(**config["model"]))
    if c.init and not saved:
        weights = GPT.from_pretrained(c.init, context_length=model.config.context_length)
        model.load_state_dict(weights.state_dict())
    if chief:
        print(describe(p, folder, corpus, model.config, c))
    if c.compile:
        model.compile()
    net = spread(model, c.parallel, p)      # to be called; model is what holds the weights
    optimizers = make_optimizers(model, c)
    scaler = torch.amp.GradScaler(device_type, enabled=c.dtype == "float16")
    autocast = torch.autocast(device_type, getattr(torch, c.dtype), c.dtype != "float32")
    cross_entropy = model.ops.cross_entropy
    B, T = c.batch_size, model.config.context_length
    val_batches = validation_windows(corpus, T, c.eval_tokens)
    bits_per_nat = (len(corpus.val) - 1) / corpus.meta["val"]["bytes"] / math.log(2)    # and byte
    steps_per_epoch = windows_per_epoch(len(corpus.train), T) / B
    peak = peak_flops(device, c.dtype)
    first_step, seconds, best, last_loss = 0, 0.0, math.inf, "none"
    if saved:
        scatter_states(model, optimizers, saved["model"], saved["optimizers"])
        if saved["scaler"]:
            scaler.load_state_dict(saved["scaler"])
        first_step, seconds, best = saved["step"], saved["seconds"], saved["best"]
    record = folder / "metrics.jsonl" if chief else Path(os.devnull)
    if options.resume and chief:
        with clear_errors((OSError, ValueError)):
            cut_metrics(folder, first_step)
            write_config(folder, config)
    saved_step, saved_at = first_step, time.monotonic()
    batches = prefetch((draw(corpus.train, B, T, c.seed, step, part * p.world + p.rank, parts)
                        for step in range(first_step, c.steps) for part in range(c.accumulate)),
                       device)
    board = None
    if c.tensorboard and chief:
        from torch.utils.tensorboard import SummaryWriter
        board = SummaryWriter(folder, purge_step=first_step + 1)
    bar = tqdm(total=c.steps, initial=first_step, unit="step", leave=False,
               disable=None if chief else True)

    with (clear_errors((OSError, FloatingPointError)),
          one_for_all(p, f"{folder} holds what was saved: --resume goes on from there"),
          open(record, "a", encoding="utf-8") as metrics):
        if chief:
            tqdm.write(table_row())
        for step in range(first_step, c.steps):
            began = time.perf_counter()
            lr = learning_rate(step, c)
            loss = 0.0
            for part in range(c.accumulate):
                # What dropout draws, too, follows from the step, not from what came before it.
                torch.manual_seed(c.seed + 1_000_003 * (step * parts + part * p.world + p.rank))
                send_gradients(net, part == c.accumulate - 1)
                ids, targets = next(batches)                                # both (B / parts, T)
                with autocast:
                    logits = net(ids)                                       # (B / parts, T, V)
                    part_loss = cross_entropy(logits, targets) / c.accumulate       # one number
                scaler.scale(part_loss).backward()                          # adds to the gradients
                loss += part_loss.detach()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            grad_norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                if c.dtype != "float16" or grad_norm.isfinite():    # float16 overflows now and
                    scaler.step(optimizer)                          # then: leave the step out
                optimizer.zero_grad()
            scaler.update()

            # The step is done; the rest of the loop measures, tells and saves. The processes add
            # up their losses, and agree on what to do.
            done = step + 1
            overdue = chief and time.monotonic() - saved_at > 60 * c.save_minutes
            loss, stopping, saving = total(p, [loss.item() / p.world, bool(stop), overdue])
            grad_norm = grad_norm.item()
            took = time.perf_counter() - began
            seconds += took
            measured = {"step": done, "tokens": done * B * T, "epoch": done / steps_per_epoch,
                        "train_loss": loss, "lr": lr, "grad_norm": grad_norm,
                        "tokens_per_second": B * T / took, "seconds": seconds}
            if peak:
                measured["utilisation"] = (measured["tokens_per_second"] / p.world / peak
                                           * flops_per_token(model.config, T))
            look = done % c.eval_every == 0 or done == c.steps
            if look and math.isfinite(loss):
                measured |= validate(model, val_batches, p)
                measured["val_bits_per_byte"] = measured["val_loss"] * bits_per_nat
            must_be_finite = ["train_loss", "val_loss"]
            if c.dtype != "float16" or scaler.get_scale() < 1:      # below 1, it is no overflow
                must_be_finite.append("grad_norm")
            for name in must_be_finite:
                if not math.isfinite(measured.get(name, 0)):
                    if not chief:
                        sys.exit(2)         # process 0 says why
                    raise FloatingPointError(
                        f"the {name} is {measured[name]} at step {done:,}; the last finite loss "
                        f"was {last_loss}, the gradient's norm is {grad_norm:.3g}. Try a smaller "
                        "--learning-rate, more --warmup-steps or a smaller --grad-clip; "
                        + (f"the checkpoint of step {saved_step:,} is untouched"
                           if saved_step else "nothing has been saved yet"))
            last_loss = f"{loss:.3f}"

            if chief:
                metrics.write(json.dumps(measured) + "\n")
                metrics.flush()
                for name, value in measured.items() if board else ():
                    board.add_scalar(name, value, done)
                bar.update()
                speed = f"{B * T / took:,.0f} tokens/s"
                if peak:
                    speed += f", {measured['utilisation']:.0%} of peak"
                bar.set_postfix_str(f"loss {loss:.3f}, best val {best:.3f}, lr {lr:.1e}, {speed}")
                if look or step == first_step:
                    tqdm.write(table_row(measured))
            if look or stopping or saving:
                weights, states = gather_states(model, optimizers)          # every process has to
                better = look and measured["val_loss"] < best
                best = min(best, measured.get("val_loss", math.inf))
                if chief:
                    os.fsync(metrics.fileno())      # never behind the checkpoint
                    content = {"model_config": config["model"], "model": weights, "step": done}
                    if better:
                        save_checkpoint(folder / "best.pt", **content, val_loss=best)
                    save_checkpoint(folder / "last.pt", **content, optimizers=states, best=best,
                                    scaler=scaler.state_dict(), seconds=seconds)
                    draw_curves([folder], folder / "loss.png")
                    if look and c.write:
                        writer = GPT(model.config)
                        writer.load_state_dict(weights)
                        tqdm.write("".join(write_text(writer.eval(), corpus.tokenizer, c.write,
                                                      c.seed)))
                saved_step, saved_at = done, time.monotonic()
            if stopping and done < c.steps:
                bar.close()
                if chief:
                    print(f"\nstopped after step {done:,} and saved. To go on:\n"
                          f"    python train.py --run {folder.name} --resume")
                leave()
                sys.exit(128 + (stop[0] if stop else signal.SIGTERM))
    bar.close()
    leave()
    if not chief:
        return
    if board:
        board.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    with clear_errors():
        measured = read_metrics(folder)
        where = min((m for m in measured if "val_loss" in m), key=lambda m: m["val_loss"])
        says = verdict(measured)
        print(f"\nThe best validation loss is {best:.3f} nats a token, at step {where['step']:,}."
              + f"\n{says}" * bool(says) + "\n\nThat model writes:\n")
        model, tokens = load_run(folder, device)
        counts = corpus.meta["train"]
        n_tokens = max(1, 300 * counts["tokens"] // counts["characters"])       # 300 characters
        for text in write_text(model, tokens, n_tokens, c.seed):
            print(text, end="", flush=True)
    print(f"""

The curve is in {folder / "loss.png"}. Go on:
    more text, less wild    python sample.py {folder} --temperature 0.5
    how good is it?         python eval.py {folder}
    change one thing        python train.py --config {folder}/config.json --n-layer 1 --run shallow
    what did it do?         python train.py --plot {folder} runs/shallow""")


if __name__ == "__main__":
    try:
        main()
        end(0)
    except SystemExit as stopped:
        end(stopped.code or 0)
