"""
N-grams: the language model to beat. It learns no weights; it counts.

What comes next? Look up where in the training text the last few tokens stood, and see what came
next there. A gram of order k is k tokens in a row: a context of k - 1, and the one that followed.

    p(w | context) = count(context, w) / count(context)

A long context predicts well, but most were never seen, and then the formula has nothing to say.
Interpolated Kneser-Ney repairs that with three ideas:

    discount        take D, a number between 0 and 1, from the count of each gram that was seen:
                    what was seen once or twice was partly luck
    interpolate     spend what was taken on asking again, with a context one token shorter
    continuations   the shorter context is asked because the longer one did not know. So let it
                    not count how often a gram was seen, but after how many different tokens:
                    "Francisco" is a frequent word, yet it comes after "San" and hardly any other

    p_k(w | context) = max(count(context, w) - D, 0) / count(context)
                       + backoff(context) * p_(k-1)(w | context without its first token)
    backoff(context) = D * how many different tokens followed it / count(context)

The back-off weight is what the discounts took, so that all probabilities add up to 1; for a
context never seen it is 1. At the bottom p_0(w) = 1 / V, the uniform baseline.

    python -m beyond.ngram                      # orders 1 to 6 on Shakespeare
    python -m beyond.ngram --run nano large     # beside trained runs

Papers: Improved Backing-Off for M-gram Language Modeling (Kneser and Ney, 1995); An Empirical
Study of Smoothing Techniques for Language Modeling (Chen and Goodman, 1999), which interpolates,
and takes D = n1 / (n1 + 2 n2) where n1 grams of an order were counted once and n2 twice.
"""
import math
from types import SimpleNamespace

from data import DataConfig, add_flags, checked, load_corpus, prepare
from eval import log_probs, measure
from sample import find_run, load_run, pick_device, read_config
from tokenizer import Parser, clear_errors

import numpy as np
from tqdm import tqdm

MAX_ORDER = 6
MOST = 20_000_000       # tokens of the training split that are counted; each takes some 200 bytes

# ------------ Counting.
# The grams are a tree: from each gram of k - 1 tokens grow those of k tokens that begin with it.
# Each order is one sorted array of keys, in which a gram is the number
#     (the index of its first k - 1 tokens in the array of order k - 1) * V + its last token
# so to look grams up, thousands at a time, is to search in a sorted array.


def discounted(keys, counts, V, n_contexts, D=None):
    """The formula's two parts for one order: the share of each gram, the back-off of each context.

    Both have one entry more, which the index -1 finds, for what was never seen: a gram without a
    share, a context that leaves everything to the shorter one.
    """
    if D is None:
        n1, n2 = np.sum(counts == 1), np.sum(counts == 2)
        D = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5        # a half, if there is no telling
    context = keys // V                                                 # (m,)
    total = np.bincount(context, counts, n_contexts)                    # (n_contexts,)
    followers = np.bincount(context, counts > 0, n_contexts)            # (n_contexts,)
    share = np.maximum(counts - D, 0) / np.maximum(total, 1)[context]   # (m,)
    backoff = np.where(total > 0, D * followers / np.maximum(total, 1), 1)      # (n_contexts,)
    return SimpleNamespace(share=np.append(share, 0), backoff=np.append(backoff, 1), D=D)


class NGram:
    """Every gram of 1 .. order tokens of a text, counted, and discounted by D if it is given.

    seen[k] is of how often they came, for the order that is asked; continued[k] of how many
    different tokens they came after, for the orders below it.
    """

    def __init__(self, tokens, vocab_size, order=MAX_ORDER, D=None):
        if not 1 <= order <= MAX_ORDER or order > len(tokens):
            raise ValueError(f"the order is {order}; it must lie between 1 and "
                             f"{min(MAX_ORDER, len(tokens))} for a text of {len(tokens)} tokens")
        self.V, self.order = vocab_size, order
        self.keys, self.seen, self.continued = [np.zeros(1, np.int64)], {}, {}  # order 0: one gram
        tokens = np.asarray(tokens, dtype=np.int64)                     # (n,)
        index = np.zeros(len(tokens) + 1, np.int64)     # [i]: of the gram that begins at token i
        for k in tqdm(range(1, order + 1), "counting", unit="order", leave=False, disable=None):
            shorter = index                                             # (n - k + 2,)
            keys, first, index, counts = np.unique(     # (m,), (m,), (n - k + 1,), (m,)
                shorter[:-1] * self.V + tokens[k - 1:], True, True, True)
            self.keys.append(keys)
            self.seen[k] = discounted(keys, counts, self.V, len(self.keys[k - 1]), D)
            if k > 1:       # each different gram continues the one that is left without its first
                below, n_contexts = self.keys[k - 1], len(self.keys[k - 2])
                counts = np.bincount(shorter[first + 1], minlength=len(below))
                self.continued[k - 1] = discounted(below, counts, self.V, n_contexts, D)

    def find(self, tokens):
        """The index, among the grams of order k, of the one that ends before token j; -1: unseen.

        At [k, j] of the result (order + 1, n + 1); the last j is for the token that comes next.
        """
        tokens = np.asarray(tokens, dtype=np.int64)                     # (n,)
        index = np.full((self.order + 1, len(tokens) + 1), -1)
        index[0] = 0
        for k in range(1, self.order + 1):
            key = index[k - 1, :-1] * self.V + tokens                   # (n,), below 0 if unseen
            near = np.searchsorted(self.keys[k], key) % len(self.keys[k])       # (n,)
            index[k, 1:] = np.where(self.keys[k][near] == key, near, -1)
        return index

    def probabilities(self, tokens):
        """p of each token after what stands before it, by every order from 0 on: (order + 1, n).

        The first tokens have less before them than an order asks for: it takes what there is.
        """
        index, p = self.find(tokens), np.full(len(tokens), 1 / self.V)
        by_order = [p]
        for k in range(1, self.order + 1):
            def mix(table):
                return table.share[index[k, 1:]] + table.backoff[index[k - 1, :-1]] * p

            by_order.append(mix(self.seen[k]))                          # (n,)
            if k < self.order:
                p = mix(self.continued[k])                              # (n,)
        return np.array(by_order)

    def distributions(self, index):
        """Yield all V probabilities of what comes next, (B, V), by each order from 0 on.

        index (order + 1, B) are columns of find().
        """
        B = index.shape[1]
        p = np.full((B, self.V), 1 / self.V)
        yield p
        for k in range(1, self.order + 1):
            # The grams that begin with a context stand side by side, from context * V on. For all
            # B contexts: the row a gram is for, its index, its last token.
            context = index[k - 1]                                              # (B,)
            start, end = np.searchsorted(self.keys[k], [context * self.V, (context + 1) * self.V])
            row = np.repeat(np.arange(B), end - start)                          # (sum,)
            gram = np.arange(len(row)) + np.repeat(end - np.cumsum(end - start), end - start)
            token = self.keys[k][gram] % self.V                                 # (sum,)

            def mix(table):
                mixed = p * table.backoff[context][:, None]                     # (B, V)
                mixed[row, token] += table.share[gram]
                return mixed

            yield mix(self.seen[k])
            if k < self.order:
                p = mix(self.continued[k])

    def generate(self, ids, n_tokens, order, rng):
        """Continue ids: yield n_tokens more, each drawn from that order's distribution."""
        ids = list(ids)
        for _ in range(n_tokens):
            index = self.find(ids[-order:])[:, -1:]                     # (order + 1, 1)
            p = list(self.distributions(index))[order][0]               # (V,)
            ids.append(int(rng.choice(self.V, p=p)))
            yield ids[-1]


# ------------ How good is it?


def accuracies(ngram, ids):
    """How often a token was the likeliest, and one of the 5 likeliest, by order: (order + 1, 2).

    Equally likely tokens, as all are to the uniform baseline, rank as if drawn at random.
    """
    index, B = ngram.find(ids)[:, 1:-1], max(1, 2 ** 18 // ngram.V)     # (order + 1, n)
    targets, hits = np.asarray(ids[1:], dtype=np.int64), np.zeros((ngram.order + 1, 2))
    for i in tqdm(range(0, len(targets), B), "ranking", unit="batch", leave=False, disable=None):
        for k, p in enumerate(ngram.distributions(index[:, i:i + B])):
            right = np.take_along_axis(p, targets[i:i + B, None], 1)    # (B, 1)
            above, equal = (p > right).sum(1), (p == right).sum(1)      # (B,), (B,)
            hits[k] += [((t - above) / equal).clip(0, 1).sum() for t in (1, 5)]
    return hits / len(targets)


def rows_of(ngram, text):
    """A row of the table for each order, with eval.py's names for the figures."""
    nats = -np.log(ngram.probabilities(text.ids)[:, 1:])                # (order + 1, n)
    top = accuracies(ngram, text.ids) if ngram.V <= 2048 else np.full((len(nats), 2), math.nan)
    return [{"model": f"{k}-gram" if k else "uniform baseline", "grams": f"{len(ngram.keys[k]):,}",
             "D": f"{ngram.seen[k].D:.3f}" if k else "-", "loss": nats[k].mean(),
             "perplexity": math.exp(nats[k].mean()), "top1_accuracy": top[k, 0],
             "bits_per_byte": nats[k].sum() / math.log(2) / text.bytes, "top5_accuracy": top[k, 1]}
            for k in range(ngram.order + 1)]


def main():
    parser = Parser("Count n-grams: how well does each order predict, what does the best write?")
    parser.add_argument("corpus", nargs="?", metavar="CORPUS", help="a folder that data.py has "
                        "prepared (default: the text that the flags below name)")
    parser.add_argument("--run", nargs="+", default=[], metavar="RUN", help="compare with these "
                        "runs, on the text they were trained on")
    parser.add_argument("--order", type=int, default=MAX_ORDER, metavar="N",
                        help=f"the longest gram, 1 to {MAX_ORDER} (default: {MAX_ORDER})")
    add_flags(parser, DataConfig)
    options = parser.parse_args()
    with clear_errors():
        text = vars(options).keys() & {"source", "tokenizer", "vocab_size"}
        if (options.corpus is not None) + bool(options.run) + bool(text) > 1:
            raise ValueError("give a CORPUS, --run or --source, not both: a run knows its own")
        runs = [(folder, *load_run(folder, pick_device("auto")),
                 load_corpus(read_config(folder)["corpus"]["folder"]))
                for folder in dict.fromkeys(map(find_run, options.run))]
        corpora = [corpus for *_, corpus in runs] or [
            load_corpus(prepare(checked(DataConfig, vars(options)))
                        if options.corpus is None else options.corpus)]
        for corpus in {corpus.folder: corpus for corpus in corpora}.values():
            train, text = corpus.train[:MOST], SimpleNamespace(ids=corpus.val, **corpus.meta["val"])
            ngram = NGram(train, corpus.tokenizer.vocab_size, options.order)
            rows = rows_of(ngram, text)
            best = min(range(1, len(rows)), key=lambda k: rows[k]["loss"])
            rows += [{"model": str(folder), "grams": "-", "D": "-"}
                     | measure(log_probs(model, text.ids), text)
                     for folder, model, _, other in runs if other.folder == corpus.folder]
            print(f"{len(train):,} tokens of {corpus.folder} counted, {len(text.ids) - 1:,} of its "
                  f"validation split predicted\n\n{'model':24}{'grams':>11}{'D':>7}{'loss':>9}"
                  f"{'perplexity':>12}{'bits/byte':>11}{'top-1':>9}{'top-5':>9}")
            line = ("{model:24}{grams:>11}{D:>7}{loss:9.4f}{perplexity:12.3f}{bits_per_byte:11.4f}"
                    "{top1_accuracy:9.2%}{top5_accuracy:9.2%}")
            for row in sorted(rows, key=lambda row: row["loss"]):
                print(line.format(**row).replace("nan%", "   -"))
            ids = ngram.generate([corpus.tokenizer.eot], 200, best, np.random.default_rng(1))
            print(f"\n--- the {best}-gram writes\n{corpus.tokenizer.decode(ids)}\n")


if __name__ == "__main__":
    main()
