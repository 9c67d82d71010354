"""
Evaluation: how good is the model, against what, and how sure is that?

The model reads a text it has never learned from, the validation split, a window at a time, and at
each place is asked for the next token. Its answers make these figures, each with an interval
(bootstrap.py):

    loss            the mean surprise, -ln p(the token that came), in nats: lower is better
    perplexity      e to the loss: the model hesitates as if between so many equally likely tokens
    bits per byte   the surprise over the whole text in bits, for each byte of it: what a perfect
                    compressor would need, and fair between tokenizers, as bytes are bytes
    bits per char   the same, for each character
    top-1, top-5    how often the token that came was the likeliest, or one of the five likeliest
    calibration     of the guesses it is 70 % sure of, are 70 % right? The expected calibration
                    error, over 15 bins of sureness: 0 % is a model that knows what it knows

Beside the model stand others, easily had: n-grams counted in the same training split (ngram.py),
and one that knows nothing. (N-grams have a small advantage: the model begins each window blind,
while they always know the few tokens that stand before.) And there are two looks for a model that
has learned its text by heart: is its loss lower there, and does it write down what it has read
(memorised.py)?

    python eval.py                          # the newest run
    python eval.py runs/nano runs/shallow   # which is better?
    python eval.py --text letter.txt        # on a text of yours
    python eval.py runs/nano --json
"""
import hashlib
import json
import math
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tqdm import tqdm

from batches import epoch_order, every_window
from bootstrap import (NATS, PICTURES, SURE, TOKENS, add_up, draw_pictures, figures, interval,
                       resample, stretches)
from checkpoint import find_run, load_run, pick_device, read_config
from cli import Parser, clear_errors
from data import DataConfig, corpus_hash, load_corpus, read_text, reopen
from memorised import describe, report, split_text, suffix_array
from ngram import MAX_ORDER, NGram
from sample import SampleConfig, generate, picker

# ------------------------------------------------------------------------------------------
# Judge: four numbers for each token that was asked for.


def guesses(scores, targets):
    """Was a target the first guess, was it one of the first five, and the first guess's score.

    scores (n, V), targets (n,); the result is (n, 3).
    """
    best, five = scores.topk(min(5, scores.shape[-1]))                  # (n, 5), (n, 5)
    hits = (five == targets[:, None]).to(scores.dtype)                  # (n, 5) of 0 and 1
    return torch.stack([hits[:, 0], hits.amax(dim=-1), best[:, 0]], dim=-1)


@torch.no_grad()
def judge(model, batches, n_batches, what):
    """What a model said to the targets of all batches of (ids, targets), both (B, T): (n, 4).

    The surprise in nats; 1 or 0, whether the target was the first guess; whether it was among the
    first five; and how sure the first guess was, from 0 to 1.
    """
    device, judged = next(model.parameters()).device, []
    for ids, targets in tqdm(batches, what, n_batches, leave=False, unit="batch", disable=None):
        targets, logits = targets.to(device).flatten(), model(ids.to(device)).flatten(0, 1)
        log_p = torch.log_softmax(logits.float(), dim=-1)               # (B * T, V)
        nats = -log_p.gather(-1, targets[:, None])                      # (B * T, 1)
        judged.append(torch.cat([nats, guesses(log_p, targets)], dim=-1).cpu().double())
    judged = torch.cat(judged)                                          # (n, 4)
    judged[:, SURE] = judged[:, SURE].exp()
    return judged.numpy()


def judge_text(model, ids):
    """On the whole of a text, each token but the first: (len(ids) - 1, 4)."""
    B, T = batch_size(model), model.config.context_length
    return judge(model, every_window(ids, B, T), math.ceil((len(ids) - 1) / (B * T)), "reading")


def learned_windows(n_tokens, T, n, seed=1):
    """Where windows of the training text begin, n targets or a few more, as training draws them."""
    return epoch_order(n_tokens, T, seed, epoch=0)[:math.ceil(n / T)]   # (windows,)


def judge_learned(model, ids, starts):
    """On the windows of the training text that begin there: (windows * T, 4)."""
    B, T = batch_size(model), model.config.context_length
    places = (starts[i:i + B, None] + np.arange(T + 1) for i in range(0, len(starts), B))
    windows = (torch.from_numpy(ids[place].astype(np.int64)) for place in places)   # (B, T + 1)
    batches = ((window[:, :-1], window[:, 1:]) for window in windows)
    return judge(model, batches, math.ceil(len(starts) / B), "reading training text")


def batch_size(model):
    """How many windows at a time: 4,096 tokens, or fewer if their logits took above 128 MB."""
    T, V = model.config.context_length, model.config.vocab_size
    return max(1, min(4096, 2 ** 25 // V) // T)


def judge_ngrams(ngram, ids):
    """The same for each order of an n-gram model: (order, n, 4).

    With a vocabulary of thousands, all probabilities at each place would take minutes. Then only
    that of the right token is worked out, and the guesses are not a number.
    """
    nats = -np.log(ngram.probabilities(ids)[:, 1:])                     # (order, n)
    judged = np.full((*nats.shape, 4), np.nan)
    judged[..., NATS] = nats
    places, n = ngram.places(ids)[:, 1:-1], max(1, 2 ** 21 // ngram.V)
    targets = torch.from_numpy(np.asarray(ids[1:], dtype=np.int64))     # (n,)
    starts = range(0, len(targets) if ngram.V <= 2048 else 0, n)
    for i in tqdm(starts, "n-grams", leave=False, unit="batch", disable=None):
        for k, p in enumerate(ngram.distributions(places[:, i:i + n])):
            judged[k, i:i + n, 1:] = guesses(torch.from_numpy(p), targets[i:i + n])
    return judged


def judge_learned_ngrams(ngram, ids, starts, T):
    """Their surprise on such windows: (order, windows * T). Each knows what stands before one."""
    before = ngram.order - 1
    places = (starts[:, None] + np.arange(1 - before, T + 1)).clip(0)   # (windows, before + T)
    p = ngram.probabilities(ids[places].ravel()).reshape(ngram.order, *places.shape)
    return -np.log(p[..., before:]).reshape(ngram.order, -1)


# ------------------------------------------------------------------------------------------
# A row of the table: a model, what it scored on a text, and what that says.

SHARES = "accuracy", "top5_accuracy", "calibration_error"       # they end at 0 and at 100 %


def measure(name, judged, run):
    """The row of judged (n, 4): all figures, with intervals. run has the text: see open_run()."""
    sums, sizes = add_up(judged, run.stretch), (run.counts["bytes"], run.counts["characters"])
    found, spread = figures(sums.sum(axis=0), *sizes), figures(resample(sums), *sizes)
    intervals = {key: interval(x, spread[key], len(sums)) for key, x in found.items()}
    for key in SHARES:
        intervals[key] = intervals[key] and np.clip(intervals[key], 0, 1).tolist()
    return SimpleNamespace(
        name=name, run=run, sums=sums, sizes=sizes, bits=spread["bits_per_byte"],
        figures={key: None if np.isnan(x) else float(x) for key, x in found.items()},
        intervals=intervals, overfitting=None, memorised=None)


def compare(a, b):
    """How many bits per byte row a needs more than b on the same text; None if the texts differ.

    Both are resampled alike: what is hard for the one is hard for the other, so the difference
    is surer than either.
    """
    hashes = {a.run.hash, b.run.hash} - {None}          # None: a part of the text is <unk>
    if a is b or a.sizes != b.sizes or len(hashes) > 1:
        return None
    difference = a.figures["bits_per_byte"] - b.figures["bits_per_byte"]
    return {"than": b.name, "bits_per_byte": difference,
            "interval": interval(difference, a.bits - b.bits, len(a.sums))}


def overfitting(sums, nats):
    """How far the loss on the training text, of nats (n,), lies below that of the sums.

    The two texts have nothing to do with each other: each is resampled by itself. (If one is the
    harder to foretell, that is in the gap as well; look at what it is for the 1-gram, which can
    learn nothing by heart.)
    """
    stretch = np.arange(len(nats)) * len(sums) // len(nats)
    learned = np.column_stack([np.bincount(stretch, nats), np.bincount(stretch)])
    others = sums[:, [NATS, TOKENS]], learned
    loss, train_loss = (both[:, 0].sum() / both[:, 1].sum() for both in others)
    a, b = (resample(both, seed).T for seed, both in enumerate(others))
    return {"train_loss": float(train_loss), "gap": float(loss - train_loss),
            "interval": interval(loss - train_loss, a[0] / a[1] - b[0] / b[1], len(sums))}


def run_row(run):
    """The row of a run that open_run() has opened."""
    judged, T = judge_text(run.model, run.ids), run.model.config.context_length
    row = measure(run.name, judged, run)
    row.judged = judged
    if run.learned is not None:
        starts = learned_windows(len(run.learned), T, len(judged))
        row.overfitting = overfitting(
            row.sums, judge_learned(run.model, run.learned, starts)[:, NATS])
    return row


def baseline_rows(run, order, label=""):
    """Models that are easily had, on a run's text: n-grams up to an order, and knowing nothing."""
    n, V, T = len(run.ids) - 1, run.tokens.vocab_size, run.model.config.context_length
    nothing = np.tile([math.log(V), 1 / V, min(5, V) / V, 1 / V], (n, 1))       # (n, 4)
    rows = [measure(f"knows nothing{label}", nothing, run)]
    if order and run.corpus:
        train = run.corpus.train[:50_000_000]       # 60 bytes of memory for each to count: 3 GB
        if len(train) < len(run.corpus.train):
            label += f", of the first {len(train):,} tokens"
        ngram = NGram(train, V, min(order, len(train)))
        for k, judged in enumerate(judge_ngrams(ngram, run.ids)):
            rows.append(measure(f"{k + 1}-gram{label}", judged, run))
        if run.learned is not None:         # the run's windows, of those that were counted
            starts = learned_windows(len(run.learned), T, len(run.learned))
            starts = starts[starts + T < len(train)][:math.ceil(n / T)]
            for row, nats in zip(rows[1:], judge_learned_ngrams(ngram, train, starts, T)):
                row.overfitting = overfitting(row.sums, nats)
    return rows


# ------------------------------------------------------------------------------------------
# From the name of a run to all that measuring it takes.


def text_hash(tokens, ids, block=2 ** 20):
    """A fingerprint of a text, whichever tokenizer cut it: of all but what separates documents."""
    specials, digest = list(tokens.special_ids.values()), hashlib.sha256()
    for start in range(0, len(ids), block):
        part = ids[start:start + block]
        part = b"".join([tokens.tokens[i] for i in part[~np.isin(part, specials)].tolist()])
        digest.update(part.replace(b"\n", b""))
    return digest.hexdigest()


def open_run(folder, options, device):
    """A run, and the text it is measured on: ids, counts, the stretches they are cut into, a hash.

    corpus is None if a --text is to be measured and the run's own corpus is gone; learned is the
    training split, if the run is measured on the corpus it has learned from. Raises ValueError
    if the corpus was prepared with another tokenizer.
    """
    model, tokens = load_run(folder, device)
    config, corpus = read_config(folder), None
    try:
        if options.data:
            corpus = load_corpus(options.data)
        else:
            corpus = reopen(config["corpus"], config["data"])
    except (ValueError, OSError) as error:
        if options.data or not options.text:
            raise
        if options.ngram:
            print(f"eval.py: no n-grams to compare {folder} with: {error}", file=sys.stderr)
    if corpus:
        own, other = (json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
                      for place in (folder, corpus.folder))
        if own != other:
            raise ValueError(
                f"{corpus.folder} was prepared with another tokenizer ({corpus.tokenizer.kind}, "
                f"{corpus.tokenizer.vocab_size:,} tokens) than {folder} has ({tokens.kind}, "
                f"{tokens.vocab_size:,}), so its ids mean something else to the model"
                + ("" if options.text else "; --text FILE measures it on any text"))
    if options.text:
        text = read_text(options.text, DataConfig(**config["data"]))
        ids = np.array(tokens.encode(text, special="text"), dtype=np.int64)
        counts = {"characters": len(text), "bytes": len(text.encode()), "tokens": len(ids),
                  "unknown": 0 if tokens.unk is None else int((ids == tokens.unk).sum())}
    else:
        ids, counts = corpus.val, corpus.meta["val"]
    if len(ids) < 2:
        raise ValueError(f"{options.text} has {len(ids)} tokens; it takes two to foretell one")
    text = options.text or f"validation split of {corpus.folder}"
    learned = not options.text and corpus_hash(corpus) == config["corpus"]["sha256"]
    if not learned and not options.text:
        text += f", not the corpus of {folder}, which may have learned parts of it"
    return SimpleNamespace(
        name=str(folder), kind=f"{tokens.kind} {tokens.vocab_size:,}", model=model, tokens=tokens,
        corpus=corpus, learned=corpus.train if learned else None, text=text, ids=ids,
        counts=counts, stretch=stretches(ids, tokens, counts["bytes"]),
        hash=None if counts["unknown"] else text_hash(tokens, ids))


def sample_of(run, n_tokens):
    """What the model of a run writes, as it speaks: drawn from its own probabilities. Bytes."""
    start = run.tokens.separator or [0]
    pick = picker(SampleConfig(temperature=1.0), [start])
    bar = tqdm(generate(run.model, start, n_tokens, pick), "writing", n_tokens, leave=False,
               unit="token", disable=None)
    return run.tokens.decode(list(bar)).encode()


# ------------------------------------------------------------------------------------------
# The report. What is printed is what --json prints.

COLUMNS = (     # key, heading, width, format
    ("loss", "loss (nats)", 12, ".4f"), ("perplexity", "perplexity", 12, ",.3f"),
    ("bits_per_byte", "bits/byte", 11, ".4f"), ("bits_per_character", "bits/char", 11, ".4f"),
    ("accuracy", "top-1", 9, ".2%"), ("top5_accuracy", "top-5", 9, ".2%"),
    ("calibration_error", "calibration", 13, ".2%"))


def answer(row, best):
    """All that is known of a row, as JSON has it; best is the row it is compared with."""
    counts = row.run.counts
    return {"model": row.name, "text": row.run.text, "tokens": int(row.sums[:, TOKENS].sum()),
            "bytes": row.sizes[0], "characters": row.sizes[1],
            "unknown": counts["unknown"] / counts["tokens"], **row.figures,
            "intervals": row.intervals, "difference": compare(row, best),
            "overfitting": row.overfitting, "memorised": row.memorised}


def cells(found):
    """A line of the table, without the name."""
    return "".join(f"{'-' if found[key] is None else format(found[key], form):>{width}}"
                   for key, _, width, form in COLUMNS)


def between(bounds):
    """An interval, and whether what it surrounds can be told from nothing."""
    if bounds is None:
        return "   too little text to say how sure"
    low, high = bounds
    return f"   {low:+.4f} to {high:+.4f}" + ("   could be luck" if low <= 0 <= high else "")


def print_report(answers, runs, sample=None):
    """The table; what is gain and what is luck; what was learned by heart."""
    names = [found["model"] + " *" * (found["unknown"] > 0) for found in answers]
    width = max(18, *(len(name) + 1 for name in names))
    names = [f"{name:{width}}" for name in names]
    print(f"{'model':{width}}" + "".join(f"{heading:>{w}}" for _, heading, w, _ in COLUMNS))
    for name, found in zip(names, answers):
        print(name + cells(found))
        if found["model"] in runs and found["intervals"]["loss"]:
            for i, end in enumerate(("   95 %, from", "           to")):
                bounds = {key: both and both[i] for key, both in found["intervals"].items()}
                print(f"{end:{width}}{cells(bounds)}")

    best = next(found["model"] for found in answers if found["model"] in runs)
    print(f"\nBits per byte more (+) or fewer (-) than {best} on the same text, with the 95 % "
          "interval:")
    for name, found in zip(names, answers):
        if found["model"] != best:
            d = found["difference"]
            print(name + (f"{d['bits_per_byte']:+12.4f}{between(d['interval'])}" if d else
                          f"{'-':>12}   measured on another text"))
    if any(found["overfitting"] for found in answers):
        print("\nLoss on as much training text, and how far that is below the loss above. A wide "
              "gap is what\nwas learned by heart, of no use elsewhere:")
        for name, found in zip(names, answers):
            if o := found["overfitting"]:
                print(f"{name}{o['train_loss']:12.4f}{o['gap']:+12.4f}{between(o['interval'])}")
    for found in answers:
        if found["memorised"]:
            who = (f"{sample}, beside what {found['model']} has read, has" if sample else
                   f"{found['model']} wrote")
            print(f"\n{who} {describe(found['memorised'])}")


# ------------------------------------------------------------------------------------------
# Benchmark tasks (MMLU, MATH, HumanEval) dock here, beside run_row(): a task is a function of what
# open_run() returns, asks its questions, and judges each answer, 1 or 0, as an array (questions,).
# The figure is their mean; its interval is resample()'s, with questions for stretches.


def main():
    parser = Parser("Measure trained models: how good, against what, how sure; one table.")
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help="folders of runs (default: the newest run)")
    parser.add_argument("--text", metavar="FILE",
                        help="measure on this text, not on the validation split")
    parser.add_argument("--data", metavar="DIR", help="take this folder that data.py has prepared, "
                        "not the corpus the run was trained on")
    parser.add_argument("--ngram", type=int, default=MAX_ORDER, metavar="N",
                        help=f"n-grams to compare with, up to this order; 0: none (default: "
                             f"{MAX_ORDER})")
    parser.add_argument("--tokens", type=int, default=500, metavar="N",
                        help="let the model write as many, and look for them in the training text; "
                             "0: do not (default: 500)")
    parser.add_argument("--sample", metavar="FILE",
                        help="look for this text there, not for one the model writes")
    parser.add_argument("--out", metavar="FILE", help="where to draw calibration, and loss by "
                        "position (default: eval.png, in the folder of the run if it is one, here "
                        "for several or for a --text)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    options = parser.parse_args()

    with clear_errors():
        if not 0 <= options.ngram <= MAX_ORDER:
            raise ValueError(f"--ngram is {options.ngram}; it must lie between 0 and {MAX_ORDER}")
        if options.tokens < 0:
            raise ValueError(f"--tokens is {options.tokens}; it must be 0 or more")
        device = pick_device(options.device)
        folders = list(dict.fromkeys(map(find_run, options.runs or [None])))
        runs = [open_run(folder, options, device) for folder in folders]
        sample = options.sample and read_text(options.sample).encode()
        if sample == b"":
            raise ValueError(f"there is no text in {options.sample}")
        if options.sample and any(run.learned is None for run in runs):
            raise ValueError("--sample is looked for in the training text, --text and --data "
                             "name another to measure: leave one of them out")
        beside = folders[0] if len(runs) == 1 and not options.text else Path()
        path = Path(options.out or beside / "eval.png")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} to draw {path.name} into")
        if path.suffix.lower() not in PICTURES:
            raise ValueError(f"--out is {path}; its name must end in {', '.join(PICTURES)}")

    with clear_errors(OSError):
        rows, texts, index = [], {}, cache(suffix_array)
        for run in runs:
            rows.append(run_row(run))
            if run.learned is not None and (sample or options.tokens):
                folder = run.corpus.folder
                if folder not in texts:
                    texts[folder] = [split_text(run.corpus, split) for split in ("train", "val")]
                train, val = texts[folder]
                rows[-1].memorised = report(sample or sample_of(run, options.tokens), val, train,
                                            index(train))
        draw_pictures([(row.name, row.judged, row.run.model.config.context_length)
                       for row in rows], path)
        others = {(run.kind, run.corpus and run.corpus.folder): run for run in runs}
        for (kind, folder), run in others.items():
            label = kind if len({r.kind for r in runs}) == len(others) else f"{kind}, {folder}"
            rows += baseline_rows(run, options.ngram, f", {label}" if len(others) > 1 else "")

    names = [run.name for run in runs]
    rows.sort(key=lambda row: row.figures["bits_per_byte"])
    best = next(row for row in rows if row.name in names)
    answers = [answer(row, best) for row in rows]
    if options.json:
        print(json.dumps({"run": best.name} | answer(best, best)
                         | {"picture": str(path), "rows": answers}))
        return
    for run in runs:
        print(f"{run.text}: {len(run.ids) - 1:,} tokens foretold, {run.counts['bytes']:,} bytes")
        if run.counts["unknown"]:
            print(f"    {run.counts['unknown'] / len(run.ids):.1%} of the tokens are <unk>: what "
                  "they stand for need not be foretold, which flatters the rows marked *")
    print()
    print_report(answers, names, options.sample)
    print(f"\ndrew {path}: calibration, and loss by position")


if __name__ == "__main__":
    main()
