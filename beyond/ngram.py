"""
N-grams: the language model to beat. It learns no weights; it counts.

What comes next? Look up every position of the training text where the last few tokens stood, and
see what came next there. A gram of order k is k tokens in a row: a context of k - 1, and the one
that followed.

    p(w | context) = count(context, w) / count(context)

A long context predicts well, if it was seen at all; most never were, and then the formula has
nothing to say. Interpolated Kneser-Ney repairs that with three ideas:

    discount        take D, a number between 0 and 1, from the count of each gram that was seen:
                    what was seen once or twice was partly luck
    interpolate     spend what was taken on asking again, with a context one token shorter
    continuations   the shorter context is asked because the longer one did not know. So let it
                    not count how often a gram was seen, but after how many different tokens:
                    "Francisco" is a frequent word, yet it comes after "San" and hardly any other

    p_k(w | context) = max(count(context, w) - D, 0) / count(context)
                       + backoff(context) * p_(k-1)(w | context without its first token)
    backoff(context) = D * how many different tokens followed it / count(context)

The back-off weight is exactly what the discounts took, so that all probabilities add up to 1. At
the bottom is the uniform baseline, p_0(w) = 1 / V, so that nothing is impossible. A context never
seen has a back-off weight of 1: it passes the question on as it is.

    python -m beyond.ngram                      # orders 1 to 6 on Shakespeare
    python -m beyond.ngram --tokenizer word     # the same, a word at a time
    python -m beyond.ngram --run nano large     # beside trained runs, on the text they never read

Papers: Improved Backing-Off for M-gram Language Modeling (Kneser and Ney, 1995); An Empirical
Study of Smoothing Techniques for Language Modeling (Chen and Goodman, 1999), which interpolates,
and takes D = n1 / (n1 + 2 n2) where n1 grams of an order were counted once and n2 twice.
"""
import math
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from data import DataConfig, add_flags, chosen, load_corpus, prepare
from eval import log_probs, measure, open_text
from sample import find_run, load_run, pick_device
from tokenizer import Parser, clear_errors

MAX_ORDER = 6
MOST = 50_000_000       # tokens of the training split that are counted; each takes 80 bytes of memory

# ------------------------------------------------------------------------------------------
# Counting. The grams are a tree: from each gram of k - 1 tokens grow those of k tokens that begin
# with it. Each order is one sorted array, in which a gram is the number
#
#     (the index of its first k - 1 tokens in the array of order k - 1) * V + its last token
#
# so to look grams up, thousands at a time, is to search in a sorted array.


def discounted(keys, counts, V, n_contexts, D=None):
    """The formula's two parts for one order: the share of each gram, the back-off of each context.

    Both have one entry more, at the end, where the index -1 finds it. It stands for "never seen":
    a gram without a share, a context that leaves everything to the shorter one.
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
    """Every gram of 1 .. order tokens of a text, counted and discounted.

    tokens (n,) are ids below vocab_size. seen[k] counts how often, for the order that is asked;
    continued[k] after how many different tokens, for the orders below it. Give D to take the same
    discount everywhere.
    """

    def __init__(self, tokens, vocab_size, order=MAX_ORDER, D=None):
        if not 1 <= order <= MAX_ORDER or order > len(tokens):
            raise ValueError(f"the order is {order}; it must lie between 1 and {MAX_ORDER}, and "
                             f"the text of {len(tokens)} tokens must hold a gram as long")
        self.V, self.order = vocab_size, order
        self.keys, self.seen, self.continued = [np.zeros(1, np.int64)], {}, {}  # order 0: one gram
        tokens = np.asarray(tokens, dtype=np.int64)                     # (n,)
        index = np.zeros(len(tokens) + 1, np.int64)     # [i]: of the gram that begins at token i
        for k in tqdm(range(1, order + 1), "counting", unit="order", leave=False, disable=None):
            shorter = index                                             # (n - k + 2,)
            keys, first, index, counts = np.unique(                     # (m,) (m,) (n - k + 1,) (m,)
                shorter[:-1] * self.V + tokens[k - 1:], True, True, True)
            self.keys.append(keys)
            self.seen[k] = discounted(keys, counts, self.V, len(self.keys[k - 1]), D)
            if k > 1:       # each different gram continues the one that is left without its first
                counts = np.bincount(shorter[first + 1], minlength=len(self.keys[k - 1]))
                self.continued[k - 1] = discounted(
                    self.keys[k - 1], counts, self.V, len(self.keys[k - 2]), D)

    def find(self, tokens):
        """The index of the k tokens before each token among the grams of order k; -1: never seen.

        tokens (n,); the result is (order + 1, n + 1): at [k, j] the gram of k tokens that ends
        before token j. The last column is for the token that would come next.
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


# ------------------------------------------------------------------------------------------
# How good is it?


def accuracies(ngram, ids):
    """The shares of tokens that were the likeliest, or among the 5 likeliest: (order + 1, 2).

    Tokens that are equally likely, as all are to the uniform baseline, share the first ranks as if
    they were drawn at random.
    """
    index, n = ngram.find(ids)[:, 1:-1], max(1, 2 ** 20 // ngram.V)
    targets, hits = np.asarray(ids[1:], dtype=np.int64), np.zeros((ngram.order + 1, 2))
    for i in tqdm(range(0, len(targets), n), "ranking", unit="batch", leave=False, disable=None):
        for k, p in enumerate(ngram.distributions(index[:, i:i + n])):
            right = np.take_along_axis(p, targets[i:i + n, None], 1)    # (B, 1)
            above, equal = (p > right).sum(1), (p == right).sum(1)      # (B,), (B,)
            hits[k] += [((t - above) / equal).clip(0, 1).sum() for t in (1, 5)]
    return hits / len(targets)


