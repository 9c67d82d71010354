"""
Memorised: does a model write, word for word, what it has read?

Who copies writes well, too. So look for the longest passage of a text that stands in the training
text as it is. To compare each passage with each position would take for ever; books have an index
for that. Sort all positions of the training text by what one reads from there on (a suffix array):
then whatever begins alike stands side by side, and a passage is found by halving: open the index
in the middle, then in the middle of the half that must hold it.

How long is too long? People share phrases, too. Passages of the validation split, which nobody
copied, say how long a passage honest text has in common with the training text.

Before a model copies, it has a generalisation gap: a lower loss on what it was trained on than on
the validation split, by what it memorised. (If one text is harder, that is in the gap as well.)

    python -m beyond.memorised "To be, or not to be, I ask"           # in Shakespeare's plays
    python -m beyond.memorised --file essay.txt --source my_notes/    # in your own texts
    python -m beyond.memorised --run nano --tokens 500                # what a run writes, its gap

Paper: Suffix Arrays: A New Method for On-Line String Searches (Manber and Myers, 1990).
"""
import math
from bisect import bisect_left
from dataclasses import asdict

import data
from sample import (SampleConfig, find_run, generate, load_run, load_weights, pick_device, picker,
                    read_config)
from tokenizer import Parser, clear_errors
from train import TrainConfig

import numpy as np
import torch
from tqdm import tqdm

MOST = 20_000_000       # bytes of the training text that are searched; each takes 70 of memory

# ------------ The longest copy. All texts here are bytes.


def suffix_array(text):
    """All positions of a text, sorted by what stands from there to the end: (n,) ints.

    Rank the positions by one byte. Two ranks by h bytes make one by 2h: that of the position, and
    that of the position h further on. So double h until no two positions rank alike.
    """
    n, h = len(text), 1
    rank = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)[1]     # (n,), from 0 on
    while n and rank.max() < n - 1:
        further = np.append(rank[h:] + 1, np.zeros(h, np.int64))[:n]    # 0 is beyond the end
        rank = np.unique(rank * (n + 1) + further, return_inverse=True)[1]      # (n,)
        h *= 2
    return np.argsort(rank)


def find(passage, text, order):
    """A position where the passage stands in the text, or -1."""
    def beginning(position):
        return text[position:position + len(passage)]

    i = bisect_left(order, passage, key=beginning)
    return order[i] if i < len(order) and beginning(order[i]) == passage else -1


def longest_copy(written, text, order):
    """The longest passage of what was written that stands in the text: itself, and where there.

    A passage longer than the best so far begins with one that is longer by one. So ask for that,
    from each start, until the answer is no.
    """
    best, where = b"", 0
    for start in range(len(written)):
        while start + len(best) < len(written):
            passage = written[start:start + len(best) + 1]
            position = find(passage, text, order)
            if position < 0:
                break
            best, where = passage, position
    return best, where


def shown(passage):
    """The whole characters of bytes that may begin or end within one."""
    return passage.decode("utf-8", errors="ignore")


def honest_lengths(size, val, text, order, n=200):
    """How long is the longest copy in each of n passages of val (or fewer), size bytes long?"""
    starts = np.linspace(0, len(val) - size, min(n, len(val) // size)).astype(int).tolist()
    return [len(shown(longest_copy(val[start:start + size], text, order)[0]))
            for start in tqdm(starts, "comparing", unit="passage", leave=False, disable=None)]


def report(written, text, val):
    """What is to be said of a text: its longest copy, and whether honest text has longer ones."""
    order = suffix_array(text)
    copy, where = longest_copy(written, text, order)
    before, after = text[max(0, where - 40):where], text[where + len(copy):][:40]
    honest = honest_lengths(len(written), val, text, order)
    verdict = f"The validation split has {len(honest)} passages as long, too few to compare with."
    if len(honest) >= 20:
        copied = len(shown(copy)) > max(honest)
        verdict = (f"{len(honest)} passages of the validation split, as long, share at the median "
                   f"{np.median(honest):.0f}\ncharacters with it, none more than {max(honest)}: "
                   + ("this is copied." if copied else "this is no more than honest text shares."))
    searched = f" (its first {MOST:,} bytes)" if len(text) == MOST else ""
    return (f"Of {len(shown(written)):,} characters, the longest passage that stands in the "
            f"training text{searched} has {len(shown(copy)):,}:\n\n"
            f"{shown(before)}[{shown(copy)}]{shown(after)}\n\n{verdict}")


# ------------ The generalisation gap.


def windows_trained_on(tokens, T, train, steps, n):
    """Yield windows that a run has learned from, of n tokens or some more: batches of some steps.

    train is its settings. Which windows a step learned from is a function of its seed alone.
    """
    n_steps = min(steps, math.ceil(n / (train["batch_size"] * T)))
    for step in np.linspace(0, steps - 1, n_steps).astype(int).tolist():
        yield data.batch(tokens, train["batch_size"], T, train["seed"], step)   # (B, T), (B, T)


@torch.inference_mode()
def losses(model, batches, what):
    """-ln p of each target, in nats: (n,) from batches of (ids, targets), both (B, T)."""
    T, V, device = model.config.context_length, model.config.vocab_size, model.token_table.device
    rows, nats = max(1, 2 ** 25 // (T * V)), []                         # their logits take 128 MB
    for ids, targets in tqdm(batches, what, unit="batch", leave=False, disable=None):
        for x, y in zip(ids.to(device).split(rows), targets.to(device).split(rows)):
            log_p = model(x).float().log_softmax(-1)                    # (rows, T, V)
            nats.append(-log_p.gather(-1, y[..., None]).flatten().cpu().double())   # (rows * T,)
    return torch.cat(nats).numpy()


def gap(trained, val):
    """How far the mean of trained (m,) lies below that of val (n,), and half its 95 % interval.

    Neighbouring tokens are alike: what varies independently are blocks of them, 100 in each text.
    As the texts are independent, too, their variances add up. Too little text says nothing.
    """
    n = min(100, len(trained) // 200, len(val) // 200)
    blocks = [[block.mean() for block in np.array_split(x, max(1, n))] for x in (trained, val)]
    half = 1.96 * math.sqrt(sum(map(np.var, blocks)) / (n - 1)) if n >= 20 else math.inf
    return float(val.mean() - trained.mean()), half


def describe_gap(folder, corpus, model):
    T, steps = model.config.context_length, load_weights(model, folder / "best.pt").get("step")
    train = asdict(data.checked(TrainConfig, read_config(folder)["train"], strict=True))
    if type(steps) is not int or steps < 1:
        raise ValueError(f"{folder} does not say how many steps its weights have been trained for")
    val = losses(model, data.every_window(corpus.val, 16, T), "validation split")
    trained = losses(model, windows_trained_on(corpus.train, T, train, steps, len(val)), "training")
    difference, half = gap(trained, val)
    return (f"{folder} after {steps:,} steps: a loss of {trained.mean():.4f} on {len(trained):,} "
            f"tokens it was trained on,\n{val.mean():.4f} on {len(val):,} of the validation split\n"
            f"Generalisation gap: {difference:+.4f} ({difference - half:+.4f} to "
            f"{difference + half:+.4f}){', could be chance' * (abs(difference) <= half)}\n")


def main():
    parser = Parser("Find the longest passage of a text that stands in a training text.")
    parser.add_argument("text", nargs="?", help="default: what --run writes; or words of Hamlet's")
    parser.add_argument("--file", metavar="FILE", help="the text, from a file")
    parser.add_argument("--run", help="look in what it was trained on; its generalisation gap")
    parser.add_argument("--tokens", type=int, default=500, help="that it writes (default: 500)")
    data.add_flags(parser, data.DataConfig)
    options = parser.parse_args()
    with clear_errors():
        written = options.text
        if options.file:
            written = "\n\n".join(text for _, text in data.documents([options.file]))
        if written == "" or options.tokens < 1:
            raise ValueError("there is no text to look for, or --tokens is below 1")
        if options.run:
            if unused := vars(options).keys() & {"source", "tokenizer", "vocab_size"}:
                raise ValueError(f"--run knows its own text: leave out {', '.join(unused)}")
            folder = find_run(options.run)
            corpus = data.load_corpus(read_config(folder)["corpus"]["folder"])
            model, tokenizer = load_run(folder, pick_device("auto"))
            print(describe_gap(folder, corpus, model))
            if written is None:
                pick = picker(1, SampleConfig(temperature=1.0))
                ids = generate(model, [[tokenizer.eot]], options.tokens, pick)
                written = tokenizer.decode([i for i, in ids])
        else:
            corpus = data.load_corpus(data.prepare(data.checked(data.DataConfig, vars(options))))
        text, val = (corpus.tokenizer.decode(ids[:MOST]).encode()[:MOST]
                     for ids in (corpus.train, corpus.val))
        print(report((written or "To be, or not to be, I ask").encode(), text, val))


if __name__ == "__main__":
    main()
