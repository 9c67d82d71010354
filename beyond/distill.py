"""
Distillation: a small model, the student, learns from the probabilities of a large one, its teacher.

A text says at each position which token came. A trained model says more: what else could have come
there, and how probably. Who learns from that, too, learns at every position about all V tokens, not
only about one (Hinton et al., 2015):

    loss = (1 - mix) * -ln q(the token that came)  +  mix * t^2 * KL(p_t || q_t)

q are the student's probabilities, p the teacher's; p_t and q_t are those of logits divided by a
temperature t, as in sample.py: above 1 the small ones count for more, and in them is much of what
the teacher knows. KL(p || q), the sum of p (ln p - ln q), is how many nats more a token drawn from
p costs under q than under p; 0 when both are the same. Its gradient shrinks as 1 / t^2: hence t^2.

    python -m beyond.distill nano               # student alone, with its teacher, the teacher
    python -m beyond.distill nano --temperature 1 2 4 --mix 0.5 1 --name sweep      # what matters?
    python -m beyond.distill smollm2 --source notes/ --name mine    # any run may be the teacher

The second of these, with --steps 100 and --temperature 1 2, gave bits per byte of

    alone 2.823                 mix 0.5     mix 1
    temperature 1                 2.737     2.684       the teacher 1.887
    temperature 2                 2.753     2.807

More of the teacher helped, a temperature of 2 did not: by one seed, and in so few steps. Students
begin with the same weights and read the same batches: runs/distill/alone and those beside it are
runs like any other, whose curves `python -m beyond.curves runs/distill/*` draws (the train_loss of
those that have a teacher is the sum above). After Ctrl-C the same command goes on.

The teacher reads each batch on the way. Stored, its logits for the plays, nano's text, would take
1,950,427 tokens x 1,024 x 2 bytes = 4 GB, of which 500 steps read half. What it costs on the way
is in the table: tokens learned from in a second, alone and with it.
"""
import contextlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass

import data
from beyond.bootstrap import bits_of, difference
from beyond.learn import corpus_of, learn
from beyond.sheet import weights_of
from model import GPTConfig
from sample import RUNS, find_run, load_run, make_model, pick_device
from tokenizer import Parser, clear_errors
from train import TrainConfig, evaluate

import torch


@dataclass
class Student:
    """How the student is built. The rest is its teacher's, first of all the tokenizer, without
    which p and q could not be compared; but mlp_width and n_kv_head are the usual ones."""
    n_layer: int = 1            # blocks of the student
    n_embd: int = 64            # its numbers per token
    n_head: int = 2             # its attention heads
    ngram: int = 1              # runs of 2 tokens to this many have a vector, too; 1: none has
    context_length: int = 0     # tokens that both see at once; 0: as the teacher, at most 256


@dataclass
class DistillConfig(TrainConfig):
    """How it learns: train.py's settings. Only those that stand here have a flag."""
    steps: int = 500            # batches that each student learns from
    batch_size: int = 8         # windows of text in a batch
    learning_rate: float = 3e-3     # at the end of the warm-up
    weight_decay: float = 0.5   # pull of every matrix towards 0
    eval_every: int = 100       # steps from one evaluation to the next
    seed: int = 1               # fixes the first weights, and the order of the batches


def soft_loss(logits, theirs, t):
    """t^2 KL(p_t || q_t), the mean over all positions, of logits (B, T, V) and (B, T, V)."""
    log_p = torch.log_softmax(theirs / t, dim=-1)                           # (B, T, V)
    log_q = torch.log_softmax(logits / t, dim=-1)                           # (B, T, V)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1)                        # (B, T), 0 or more
    return t ** 2 * kl.mean()                                               # ()


def loss_of(student, teacher, ids, targets, t, mix):
    """The loss of a batch, ids and targets (B, T). With a mix of 0 no teacher is asked."""
    logits = student(ids)                                                   # (B, T, V)
    hard = student.config.ops.cross_entropy(logits, targets)                # ()
    if mix == 0:
        return hard
    with torch.no_grad():
        theirs = teacher(ids)                                               # (B, T, V)
    return (1 - mix) * hard + mix * soft_loss(logits, theirs, t)            # ()


def fit(name, teacher, words, corpus, shape, c, t, mix, device, run):
    """Train a student with this share of its teacher: (the student, its history)."""
    B, T = c.batch_size, shape.context_length
    settings = {"data": corpus.meta["config"], "model": asdict(shape), "train": asdict(c) | {
        "teacher": str(run), "weights": weights_of(run), "temperature": t, "mix": mix},
        "corpus": {"folder": str(corpus.folder)}}
    torch.manual_seed(c.seed)
    student = make_model(asdict(shape), B).to(device)
    return student, learn(
        name, student, settings, words, c,
        lambda step, part, parts: data.batch(corpus.train, B, T, c.seed, step, part, parts),
        lambda net, ids, targets: loss_of(net, teacher, ids, targets, t, mix),
        lambda net: evaluate(net, corpus, c), len(corpus.train))


@torch.inference_mode()
def speed(model, ids, seconds=1.0):
    """How many tokens a model reads in a second, in batches ids (B, T)."""
    model(ids)[0, 0, 0].item()                  # the first time, kernels are looked for
    began, n = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        model(ids)[0, 0, 0].item()              # an item: a GPU has to be done with all of it
        n += ids.numel()
    return n / took


def row_of(way, model, history, words, corpus):
    """What the table says of a model; and bits_of() it, with which it is compared."""
    ids, _ = data.batch(corpus.train, 8, model.config.context_length, 1, 0)     # (8, T)
    bits, n = bits_of(model, words, corpus.val, corpus.meta["val"]["bytes"]), sum(
        p.numel() for p in model.parameters())
    learned = history[-1]["tokens"] / history[-1]["seconds"] if history else None
    return {"model": way, "bits_per_byte": bits[0], "parameters": n,
            "megabytes": sum(p.nbytes for p in model.parameters()) / 1e6,
            "read_per_second": speed(model, ids.to(model.token_table.device)),
            "learned_per_second": learned}, bits


def show(rows):
    """The table. Differences are from the student alone; 95 % confidence intervals."""
    print(f"\n{'':22}{'bits/byte':>10}   {'more than alone':28}{'parameters':>12}{'MB':>7}"
          f"{'reads/s':>10}{'learns/s':>10}")
    for row in rows:
        low, high = row["interval"] or (-math.inf, math.inf)
        more = "" if row["difference"] is None else (
            f"{row['difference']:+.4f} ({low:+.4f} to {high:+.4f})")
        learns = f"{row['learned_per_second']:10,.0f}" if row["learned_per_second"] else ""
        print(f"{row['model']:22}{row['bits_per_byte']:10.4f}   {more:28}{row['parameters']:12,}"
              f"{row['megabytes']:7.1f}{row['read_per_second']:10,.0f}{learns}")


def main():
    parser = Parser("Train a student alone, and with a teacher; compare them with the teacher.")
    parser.add_argument("teacher", metavar="RUN", help="name or folder of the teacher's run")
    parser.add_argument("--source", nargs="+", metavar="...", help="files and folders of text to "
                        "learn from (default: what the teacher has learned from)")
    parser.add_argument("--temperature", nargs="+", type=float, default=[1.0], metavar="t",
                        help="a student for each (default: 1)")
    parser.add_argument("--mix", nargs="+", type=float, default=[1.0], metavar="M", help="share "
                        "of the teacher in the loss, to 1; a student for each (default: 1)")
    parser.add_argument("--name", default="distill", help="a folder in runs/ (default: distill)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    data.add_flags(parser, Student, DistillConfig)
    given = vars(parser.parse_args())
    aside = contextlib.redirect_stdout(sys.stderr if given["json"] else sys.stdout)
    with clear_errors():
        run, name, device = find_run(given["teacher"]), given["name"], pick_device(given["device"])
        c, own = data.checked(DistillConfig, given), asdict(data.checked(Student, given))
        if (RUNS / name).resolve().parent != RUNS.resolve():
            raise ValueError(f"--name {name} is no name of a folder in {RUNS}")
        if not all(0 < t < math.inf for t in given["temperature"]):
            raise ValueError("a --temperature is above 0")
        if not all(0 < mix <= 1 for mix in given["mix"]):
            raise ValueError("a --mix is above 0 (at 0 no teacher is asked) and at most 1")
        teacher, words = load_run(run, device)
        longest, T = teacher.config.context_length, own["context_length"]
        T = own["context_length"] = teacher.config.context_length = T or min(256, longest)
        if T > longest:
            raise ValueError(f"{run} sees {longest:,} tokens at once, not --context-length {T:,}")
        corpus = corpus_of(run, words, given["source"])
        if min(len(corpus.train), len(corpus.val)) <= T:
            raise ValueError(f"a split of {corpus.folder} is no longer than {T} tokens of context")
        shape = data.checked(GPTConfig, asdict(teacher.config) | {"mlp_width": 0, "n_kv_head": 0}
                             | own)
    with clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)), aside:
        found = []
        for t, mix in [(1.0, 0.0), *((t, m) for t in given["temperature"] for m in given["mix"])]:
            way = f"t{t:g}-mix{mix:g}" if mix else "alone"
            student, history = fit(f"{name}/{way}", teacher, words, corpus, shape, c, t, mix,
                                   device, run)
            found.append((way, student, history))
        rows = [row_of(*each, words, corpus) for each in [*found, ("teacher", teacher, [])]]
        for row, bits in rows:
            row["difference"], row["interval"] = difference(bits, rows[0][1]) if (
                row["model"] != "alone") else (None, None)
    if given["json"]:
        return print(*(json.dumps(row) for row, _ in rows), sep="\n")
    show([row for row, _ in rows])


if __name__ == "__main__":
    main()
