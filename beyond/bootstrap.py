"""
Bootstrap: figures, and how sure they are.

A figure measured on a text is partly chance: on other passages it would have been another. How far
off may it be? Measuring again on a hundred other texts would tell, but there is only the one. So
pull yourself up by your own bootstraps: make other texts out of the one, by drawing from its parts
with replacement, and see how much the figure moves. That gives its 95 % confidence interval. The
parts must be blocks, not tokens: in a hard passage all tokens are hard; drawn one by one, they
would seem to be so many independent witnesses, and the figure far surer than it is.

    python -m beyond.bootstrap                  # the newest run: each figure with its interval
    python -m beyond.bootstrap nano large       # which is better, and could that be chance?
    python -m beyond.bootstrap --text letter.txt

An interval speaks of other passages like these. It does not know what another author would have
written, nor what training with another seed would have given.

Two things are drawn. Calibration: of the predictions that a model is 70 % confident of, are 70 %
correct? (The expected calibration error is how far off that is, on average.) And the loss by
position in the context window, which falls as long as the model makes use of what it has read.

Papers: Bootstrap Methods: Another Look at the Jackknife (Efron, 1979); The Jackknife and the
Bootstrap for General Stationary Observations (Künsch, 1989), which draws blocks; On Calibration of
Modern Neural Networks (Guo et al., 2017), for the calibration error.
"""
import hashlib
import json
import math
from types import SimpleNamespace

from beyond.curves import picture
from eval import log_probs, open_text
from sample import find_run, load_run, pick_device
from tokenizer import Parser, clear_errors, write_whole

import numpy as np
import torch
from matplotlib.figure import Figure

BINS = 15       # of confidence, equally wide

# Four numbers for each predicted token are added up by blocks of the text. All figures come from
# these sums, and to resample is to add up other blocks.


def score(batches):
    """Of each token, from batches of (log_p (B, V), targets (B,)), as eval.py yields them: (n, 4).

    Its negative log-likelihood in nats; was it the likeliest token, was it one of the five
    likeliest, 1 or 0; and the confidence, which is the probability of the likeliest token.
    """
    rows = []
    for log_p, targets in batches:
        nats = -log_p.gather(-1, targets[:, None])                      # (B, 1)
        rank = (log_p > -nats).sum(-1, keepdim=True)                    # (B, 1), 0: the likeliest
        rows.append(torch.cat([nats, rank == 0, rank < 5, log_p.amax(-1, True).exp()], -1).cpu())
    return torch.cat(rows).double().numpy()


def block_starts(ids, tokenizer, n_bytes):
    """Which predicted token (the first of ids is not) is the first of each block: (blocks,).

    100 blocks of equally many bytes, so that every tokenizer has the same ones; in a text below
    100,000 bytes fewer, of 1,000. Neighbours are alike: within a scene the names and the mood.
    """
    n = max(1, min(100, n_bytes // 1000))
    length = np.array([len(token) for token in tokenizer.vocab])        # (V,)
    length[tokenizer.eot] = 0                                           # it stands for no text
    end = length[ids].cumsum()[1:]                                      # (n_tokens,)
    return np.unique((end * n - 1).clip(0) // max(1, end[-1]), return_index=True)[1]


def add_up(scores, starts):
    """The sums over each block: (blocks, 4 + 3 * BINS) from scores (n, 4) and starts (blocks,).

    Of nats, correct predictions, correct ones of five, and tokens; then of tokens, correct
    predictions and confidence in each bin.
    """
    nats, top1, top5, confidence = scores.T                             # (n,) each
    one = np.ones_like(nats)                                            # (n,)
    in_bin = np.minimum(confidence * BINS, BINS - 1).astype(int)[:, None] == np.arange(BINS)
    columns = [nats, top1, top5, one, *(x[:, None] * in_bin for x in (one, top1, confidence))]
    return np.add.reduceat(np.column_stack(columns), starts)


def figures(sums, n_bytes, n_characters):
    """All figures from sums (..., 4 + 3 * BINS): a dict of them, each of shape (...).

    Bytes and characters are those of the whole text: a block is a fixed part of both.
    """
    nats, top1, top5, tokens = np.moveaxis(sums[..., :4], -1, 0)        # (...) each
    _, correct, confidence = np.split(sums[..., 4:], 3, axis=-1)        # (..., BINS) each
    bits = nats / math.log(2)
    return {"loss": nats / tokens, "perplexity": np.exp(nats / tokens),
            "bits_per_byte": bits / n_bytes, "bits_per_character": bits / n_characters,
            "top1_accuracy": top1 / tokens, "top5_accuracy": top5 / tokens,
            "calibration_error": np.abs(correct - confidence).sum(axis=-1) / tokens}


def resample(sums, seed=1, n=1000):
    """The bootstrap: what else might the sums have been? (n, columns) from (blocks, columns).

    Draw as many blocks as there are, with replacement, and add up; n times. The same seed draws
    the same blocks, so that two models can be compared on each draw.
    """
    k = len(sums)
    times = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), n)    # (n, k)
    return times @ sums                                                 # (n, columns)


def interval(estimate, resampled, n_blocks):
    """Where the truth lies, 95 times in 100: [from, to], or None if there are below 20 blocks.

    The resampled stray from the estimate as the estimate strays from the truth; so the truth is as
    far below it as they are above. (As with the calibration error: noise can only raise it, and
    noise upon noise raises it further.) Few blocks know less of how much they differ, and like
    Student's t the interval is wider for it. On simulated texts, 94 in 100 hold the truth.
    """
    if n_blocks < 20:
        return None
    low, high = (1 + 1.7 / n_blocks) * (np.percentile(resampled, [2.5, 97.5]) - estimate)
    return [float(estimate - high), float(estimate - low)]


def bits_of(model, tokenizer, ids, n_bytes):
    """A text's bits per byte, those of the resampled texts (n,), and the number of blocks."""
    sums = add_up(score(log_probs(model, ids)), block_starts(ids, tokenizer, n_bytes))
    found, resampled = (figures(x, n_bytes, n_bytes)["bits_per_byte"]
                        for x in (sums.sum(axis=0), resample(sums)))
    return float(found), resampled, len(sums)


def difference(a, b):
    """How many bits per byte a needs more than b, both bits_of() one text; and the interval."""
    return a[0] - b[0], interval(a[0] - b[0], a[1] - b[1], a[2])


def measured(folder, text_file):
    """What --json prints of a run, and what comparing and drawing it takes."""
    text, (model, tokenizer) = open_text(folder, text_file), load_run(folder, pick_device("auto"))
    scores = score(log_probs(model, text.ids))
    sums = add_up(scores, block_starts(text.ids, tokenizer, text.bytes))
    found = figures(sums.sum(axis=0), text.bytes, text.characters)
    resampled = figures(resample(sums), text.bytes, text.characters)
    answer = {"run": str(folder), "text": text.name, "tokens": len(scores), "bytes": text.bytes,
              "characters": text.characters, **{key: float(x) for key, x in found.items()},
              "intervals": {k: interval(x, resampled[k], len(sums)) for k, x in found.items()}}
    content = b"".join([tokenizer.vocab[i] for i in text.ids if i != tokenizer.eot])
    return SimpleNamespace(answer=answer, scores=scores, sums=sums, T=model.config.context_length,
                           bits=resampled["bits_per_byte"], text=hashlib.sha256(content).digest())


def compare(a, b):
    """How many bits per byte a needs more than b on the same text; None if the texts differ.

    Both are resampled alike: what is hard for the one is hard for the other, so the difference is
    surer than either. (A text with <unk> in it is another one: part of it need not be predicted.)
    """
    if a is b or a.text != b.text:
        return None
    difference = a.answer["bits_per_byte"] - b.answer["bits_per_byte"]
    return {"than": b.answer["run"], "bits_per_byte": difference,
            "interval": interval(difference, a.bits - b.bits, len(a.sums))}


def loss_by_position(nats, T):
    """How many tokens of the window were read, the mean loss there, and half its 95 % interval.

    By groups of positions, each somewhat wider than the one before. Below 20 windows, no interval.
    """
    T = min(T, len(nats))
    windows = nats[:len(nats) // T * T].reshape(-1, T)                  # (windows, T)
    edges = np.unique(np.geomspace(1, T + 1, 24).round().astype(int)) - 1
    grouped = np.add.reduceat(windows, edges[:-1], axis=1) / np.diff(edges)     # (windows, groups)
    blocks = np.array_split(grouped, min(100, len(windows)))            # neighbours are alike
    spread = np.std([b.mean(axis=0) for b in blocks], axis=0) / max(1, len(blocks) - 1) ** 0.5
    half = 1.96 * spread if len(blocks) >= 20 else 0 * spread
    return (edges[:-1] + edges[1:] + 1) / 2, grouped.mean(axis=0), half


def draw(rows, path):
    """Two panels, a line in each for every run: calibration, and loss by position."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="grey", linestyle="--", label="as correct as confident")
    for i, row in enumerate(rows):
        name, error = row.answer["run"], row.answer["calibration_error"]
        n, *both = row.sums.sum(axis=0)[4:].reshape(3, BINS)            # (BINS,) each
        correct, confidence = (x[n > 0] / n[n > 0] for x in both)
        left.plot(confidence, correct, color=f"C{i}", label=f"{name}: off by {error:.1%}")
        left.scatter(confidence, correct, 15 + 400 * n[n > 0] / n.sum(), color=f"C{i}", lw=0)
        read, loss, half = loss_by_position(row.scores[:, 0], row.T)
        right.plot(read, loss, ".-", color=f"C{i}", label=name)
        right.fill_between(read, loss - half, loss + half, color=f"C{i}", alpha=0.2)
    left.set(xlabel="confidence of the prediction", ylabel="share that was correct",
             title="calibration (a dot's size: how many predictions)")
    right.set(xlabel="tokens read in the window", ylabel="loss (nats per token)", xscale="log",
              title="loss by position (pale: 95 %)")
    right.xaxis.set_major_formatter("{x:,.0f}")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    write_whole(path, lambda file: figure.savefig(file, dpi=130, format="png"))


def main():
    parser = Parser("How sure are the figures of trained runs? Draw calibration, loss by position.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="default: the newest run")
    parser.add_argument("--text", metavar="FILE", help="measure on this, not the validation split")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no tables")
    parser.add_argument("--out", metavar="PNG", help="where to draw (default: bootstrap.png in the "
                        "folder of the first run)")
    options = parser.parse_args()
    with clear_errors():
        folders = list(dict.fromkeys(map(find_run, options.runs or [None])))
        path = picture(folders[0] / "bootstrap.png" if options.out is None else options.out)
        rows = sorted((measured(folder, options.text) for folder in folders),
                      key=lambda row: row.answer["bits_per_byte"])
        draw(rows, path)
        answers = [row.answer | {"difference": compare(row, rows[0])} for row in rows]
        if options.json:
            print(json.dumps({"picture": str(path), "runs": answers}))
            return
        for a in answers:       # too little text says nothing: -inf to inf
            print(f"{a['run']}: {a['tokens']:,} tokens of the {a['text']}; 95 % confidence "
                  "intervals")
            for key, bounds in a["intervals"].items():
                form = "10.2%" if key.endswith(("accuracy", "error")) else "10,.4f"
                low, high = bounds or (-math.inf, math.inf)
                print(f"    {key.replace('_', ' '):20}{a[key]:{form}}   {low:{form}} to "
                      f"{high:{form}}")
        for a in answers[1:]:
            if d := a["difference"]:
                low, high = d["interval"] or (-math.inf, math.inf)
                print(f"{a['run']} needs {d['bits_per_byte']:+.4f} bits per byte more than "
                      f"{d['than']} ({low:+.4f} to {high:+.4f}"
                      f"{': could be chance' * (low <= 0 <= high)})")
            else:
                print(f"{a['run']} was measured on another text than {rows[0].answer['run']}")
        print(f"drew {path}")


if __name__ == "__main__":
    main()
