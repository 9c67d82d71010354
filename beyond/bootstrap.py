"""
Bootstrap: figures, and how sure they are.

A figure measured on a text is partly luck: on other passages it would have been another. How far
off may it be? Measuring again on a hundred other texts would tell, but there is only the one. So
pull yourself up by your own bootstraps: make other texts out of the one, by drawing from its
parts with replacement, and see how much the figure moves.

The parts must be stretches, not tokens. In a hard passage all tokens are hard; drawn one by one,
they would seem to be so many independent witnesses, and the figure far surer than it is.

    python bootstrap.py         # simulated texts, where the truth is known: do intervals cover it?

Such an interval speaks of other passages like these. It does not know what another author would
have written, nor what training with another seed would have given.

Papers: Bootstrap Methods: Another Look at the Jackknife (Efron, 1979); The Jackknife and the
Bootstrap for General Stationary Observations (Künsch, 1989), which draws stretches; On
Calibration of Modern Neural Networks (Guo et al., 2017), for the calibration error.
"""
import math

import numpy as np
import torch
from tqdm import tqdm

from checkpoint import write_aside
from cli import Parser, clear_errors

# ------------------------------------------------------------------------------------------
# Add up. Of each token a model was asked for, eval.py's judge() knows four numbers: the surprise in
# nats, was the first guess right (1 or 0), was one of the first five, and how sure the first was.
# They are added up by stretches of the text; all figures come from these sums, and to resample
# is to add up other stretches.

BINS = 15       # of sureness, equally wide
NATS, FIRST, IN_FIVE, SURE = range(4)       # the columns of what is judged, (n, 4)
TOKENS, EXCESS = 3, slice(4, None)          # those of sums: NATS, FIRST and IN_FIVE, then these


def stretches(ids, tokenizer, n_bytes):
    """In which stretch of the text each token but the first ends: (len(ids) - 1,), from 0 on.

    100 stretches, as neighbours are alike: within a sentence the words, within a scene the names
    and the mood. (In a text below 100,000 bytes, fewer, of 1,000 bytes.)
    """
    n = max(1, min(100, n_bytes // 1000))
    specials = set(tokenizer.special_ids.values())          # they stand for no text
    length = np.array([0 if token is None or i in specials else len(token)
                       for i, token in enumerate(tokenizer.tokens)])    # (V,)
    end = length[np.asarray(ids)].cumsum()                              # (len(ids),)
    return (end[1:] * n - 1).clip(0) // max(1, end[-1])                 # (len(ids) - 1,)


def add_up(judged, stretch):
    """The sums over each stretch: (stretches, 4 + BINS) from judged (n, 4) and stretch (n,).

    Nats, right first guesses, right among five, tokens; and for each bin of sureness, how many
    guesses more were right than the model's sureness foretold.
    """
    nats, first, in_five, sure = judged.T
    n = stretch.max() + 1
    place = stretch * BINS + np.minimum(np.nan_to_num(sure) * BINS, BINS - 1).astype(int)
    excess = np.bincount(place, first - sure, n * BINS).reshape(n, BINS)
    return np.column_stack([np.bincount(stretch, column, n)
                            for column in (nats, first, in_five, np.ones_like(nats))] + [excess])


def figures(sums, n_bytes, n_characters):
    """All figures from sums (..., 4 + BINS): a dict of them, each of shape (...).

    Bytes and characters are those of the whole text: a stretch is a fixed part of both.
    """
    tokens, bits = sums[..., TOKENS], sums[..., NATS] / math.log(2)
    loss = sums[..., NATS] / tokens
    return {"loss": loss, "perplexity": np.exp(loss), "bits_per_byte": bits / n_bytes,
            "bits_per_character": bits / n_characters, "accuracy": sums[..., FIRST] / tokens,
            "top5_accuracy": sums[..., IN_FIVE] / tokens,
            "calibration_error": np.abs(sums[..., EXCESS]).sum(axis=-1) / tokens}


def resample(sums, seed=1, n=1000):
    """The bootstrap: what else might the sums have been? (n, columns) from (stretches, columns).

    As if the text had other stretches, as unlike each other as those it has: draw as many of
    them, with replacement, and add up; n times. The same seed draws the same stretches, so that
    two models can be compared on each draw.
    """
    k = len(sums)
    times = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=n)   # (n, k)
    return times @ sums                                                 # (n, columns)


def interval(estimate, resampled, n_stretches):
    """Where the truth lies, 95 times in 100: [from, to], or None if there are below 20 stretches.

    The resampled stray from the estimate as the estimate strays from the truth; so the truth is
    as far below it as they are above. (The calibration error shows why: noise can only raise it,
    and noise upon noise raises it further.) Few stretches know less of how much they differ, and
    like Student's t the interval is wider for it. Counted by main(), it is 94 times in 100, and 92
    for the calibration error, where a bin is nearly right.
    """
    if n_stretches < 20 or np.isnan(estimate):
        return None
    wider = 1 + 1.7 / n_stretches
    low, high = wider * (np.percentile(resampled, [2.5, 97.5]) - estimate)
    return [float(estimate - high), float(estimate - low)]


# ------------------------------------------------------------------------------------------
# Two figures are better drawn: is a model as right as it is sure, and does it use what it has read?


PICTURES = (".png", ".pdf", ".svg")


def draw_pictures(models, path):
    """Two panels, a line in each for every model: its name, judged (n, 4), and context length T.

    path ends in one of PICTURES.
    """
    import matplotlib
    matplotlib.use("Agg")       # draw into files; no window needed
    from matplotlib import pyplot

    pyplot.rc("font", size=12)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    left.plot([0, 1], [0, 1], color="grey", linestyle="--", label="as right as it is sure")
    for i, (name, judged, T) in enumerate(models):
        nats, first, _, sure = judged.T
        place = np.minimum(sure * BINS, BINS - 1).astype(int)           # (n,)
        n = np.bincount(place, minlength=BINS)                          # (BINS,)
        some = n > 0
        mean_sure, mean_right = (np.bincount(place, x, BINS)[some] / n[some] for x in (sure, first))
        left.plot(mean_sure, mean_right, ".-", color=f"C{i}", alpha=0.6,
                  label=f"{name}: off by {n[some] @ abs(mean_right - mean_sure) / n.sum():.1%}")
        left.scatter(mean_sure, mean_right, 15 + 400 * n[some] / n.sum(), color=f"C{i}",
                     edgecolors="none")

        T = min(T, len(nats))
        windows = nats[:len(nats) // T * T].reshape(-1, T)              # (windows, T)
        edges = np.unique(np.geomspace(1, T + 1, 24).round().astype(int)) - 1
        grouped = np.add.reduceat(windows, edges[:-1], axis=1) / np.diff(edges)
        middle = (edges[:-1] + edges[1:] - 1) / 2 + 1                   # tokens read, 1 to T
        mean = grouped.mean(axis=0)
        right.plot(middle, mean, ".-", color=f"C{i}", label=name)
        if len(windows) >= 20:          # neighbours are alike: stretches of windows tell how much
            parts = np.array_split(grouped, min(100, len(windows)))
            error = 1.96 * np.std([part.mean(axis=0) for part in parts], axis=0, ddof=1)
            error /= math.sqrt(len(parts))
            right.fill_between(middle, mean - error, mean + error, color=f"C{i}", alpha=0.2)
    left.set(xlabel="how sure the model was of its first guess", ylabel="how often that was right",
             title="calibration (a dot's size: how many guesses)")
    right.set(xlabel="tokens it had read in the window", ylabel="loss (nats per token)",
              title="loss by position (pale: 95 %)", xscale="log")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, loc="best")
    right.xaxis.set_major_formatter("{x:,.0f}")
    write_aside(path, lambda aside: figure.savefig(aside, dpi=120, format=path.suffix[1:]))
    pyplot.close(figure)


# ------------------------------------------------------------------------------------------
# Does it work? Simulate texts whose true figures are known, and count how often it covers them.

TRUTH = {"loss": 1.0, "perplexity": math.e, "bits_per_byte": 1 / math.log(2), "accuracy": 0.45,
         "top5_accuracy": 2 / 3, "calibration_error": 0.05}


def simulate(n_texts, n, rng, alike=0.8):
    """What a model might have said to n tokens of each of n_texts texts: (n_texts, n, 4).

    A mood passes through each text, four fifths of it on to the next token, so that easy tokens
    stand together. It makes the model's sureness, which lies anywhere from 0 to 1; the model is
    right a tenth less often than it is sure.
    """
    mood = np.empty((n, n_texts))
    mood[0] = rng.normal(size=n_texts)
    for t in range(1, n):
        mood[t] = alike * mood[t - 1] + math.sqrt(1 - alike ** 2) * rng.normal(size=n_texts)
    sure = torch.special.ndtr(torch.from_numpy(mood.T)).numpy()         # (n_texts, n), uniform
    luck = rng.random(sure.shape)
    return np.stack([-np.log(sure), luck < 0.9 * sure, luck < np.sqrt(sure), sure], axis=-1)


def coverage(texts, n_stretches):
    """How often the interval of each figure covers the truth: a dict."""
    n = texts.shape[1]
    stretch, covered = np.arange(n) * n_stretches // n, dict.fromkeys(TRUTH, 0)
    for judged in tqdm(texts, "measuring", leave=False, unit="text", disable=None):
        sums = add_up(judged, stretch)
        found, spread = figures(sums.sum(axis=0), n, n), figures(resample(sums), n, n)
        for key, truth in TRUTH.items():
            low, high = interval(found[key], spread[key], n_stretches)
            covered[key] += low <= truth <= high
    return {key: times / len(texts) for key, times in covered.items()}


def main():
    parser = Parser("Simulate texts whose figures are known; see how often intervals cover them.")
    parser.add_argument("--texts", type=int, default=100, metavar="N",
                        help="how many texts to simulate (default: 100)")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="other seed, other texts (default: 1)")
    options = parser.parse_args()
    with clear_errors():
        if options.texts < 1 or options.seed < 0:
            raise ValueError("--texts must be at least 1, --seed 0 or more")
    with clear_errors(kinds=()):        # Ctrl-C is no error
        texts = simulate(options.texts, 10_000, np.random.default_rng(options.seed))
        print(f"{options.texts} texts of 10,000 tokens; how often do 95 % intervals cover the "
              f"truth?\n\n{'stretches':11}" + "".join(f"{key.split('_')[0]:>12}" for key in TRUTH))
        for n_stretches in (20, 50, 100, 1000):
            covered = coverage(texts, n_stretches)
            print(f"{n_stretches:<11,}" + "".join(f"{covered[key]:12.1%}" for key in TRUTH))
        print("\nOf 1,000 stretches each has ten tokens, too few to forget the mood of the last.")


if __name__ == "__main__":
    main()
