"""
N-grams: the language model to beat. It learns no weights; it counts.

What comes next? Look up every place of the training text where the last few tokens stood, and
see what came next there. A gram of order k is k tokens in a row: a context of k - 1, and the one
that followed.

    p(w | context) = count(context, w) / count(context)

A long context foretells well, if it was seen at all; most never were, and then the formula has
nothing to say. Interpolated Kneser-Ney repairs that with three ideas:

    discount        take D, a number between 0 and 1, from the count of each gram that was seen:
                    what was seen once or twice was partly luck
    interpolate     spend what was taken on asking again, with a context one token shorter
    continuations   the shorter context is asked because the longer one did not know. So let it
                    not count how often a gram was seen, but after how many different tokens:
                    "Francisco" is a frequent word, yet it comes after "San" and hardly any other

    p_k(w | context) = max(count(context, w) - D, 0) / count(context)
                       + rest(context) * p_(k-1)(w | context without its first token)
    rest(context)    = D * how many different tokens followed it / count(context)

and at the bottom p_0(w) = 1 / V, so that nothing is impossible. A context never seen passes the
question on as it is.

    python ngram.py                     # orders 1 to 6 on Shakespeare: how good, what they write
    python ngram.py --tokenizer word    # the same, a word at a time

Papers: Improved Backing-Off for M-gram Language Modeling (Kneser and Ney, 1995); An Empirical
Study of Smoothing Techniques for Language Modeling (Chen and Goodman, 1999), which interpolates,
and takes D = n1 / (n1 + 2 n2) where n1 grams of an order were counted once and n2 twice.
"""
import json
import math
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from cli import Parser, add_flags, chosen, clear_errors
from data import DataConfig, load_corpus, prepare

MAX_ORDER = 6

# ------------------------------------------------------------------------------------------
# Counting. The grams are a tree: from each gram of k - 1 tokens grow those of k tokens that begin
# with it. Each order is one sorted array, in which a gram is the number
#
#     (the place of its first k - 1 tokens in the array of order k - 1) * V + its last token
#
# so to look grams up, thousands at a time, is to search in a sorted array.


def count_keys(keys):
    """The different keys, sorted; the place of each key among them; how often each occurs.

    np.unique does the same, in twice the time.
    """
    ordered = np.sort(keys)                                             # (n,)
    first = np.append(True, ordered[1:] != ordered[:-1])                # (n,) of booleans
    different = ordered[first]                                          # (m,)
    counts = np.diff(np.append(np.flatnonzero(first), len(keys)))       # (m,)
    return different, np.searchsorted(different, keys), counts


def discounted(keys, counts, V, n_contexts, D=None):
    """The formula's two parts for one order: the share of each gram, the rest of each context.

    Both have one entry more, at the end, where the place -1 finds it. It stands for "never seen":
    a gram without a share, a context that leaves everything to the shorter one.
    """
    context = keys // V                                                 # (m,)
    if D is None:
        n1, n2 = np.sum(counts == 1), np.sum(counts == 2)
        D = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5        # a half, if there is no telling
    total = np.bincount(context, counts, n_contexts)                    # (n_contexts,)
    followers = np.bincount(context, counts > 0, n_contexts)            # (n_contexts,)
    known = total > 0                       # not so for what begins, or ends, the whole text
    total[~known] = 1
    share = np.maximum(counts - D, 0) / total[context]                  # (m,)
    rest = np.where(known, D * followers / total, 1)                    # (n_contexts,)
    return SimpleNamespace(share=np.append(share, 0), rest=np.append(rest, 1), D=D)


def check_order(order, n_tokens):
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"the order is {order}; it must lie between 1 and {MAX_ORDER}")
    if order > n_tokens:
        raise ValueError(f"there is no gram of {order} tokens in a text of {n_tokens}")


class NGram:
    """Every gram of 1 .. order tokens of a text, counted and discounted.

    tokens (n,) are ids below vocab_size. The order that is asked counts how often (seen); the
    orders below it, after how many different tokens (continued). Give D to take the same discount
    everywhere. Counting takes some 60 bytes for each token; 40 for each different gram remain.
    """

    def __init__(self, tokens, vocab_size, order=MAX_ORDER, D=None):
        check_order(order, len(tokens))
        self.V, self.order = vocab_size, order
        tokens = np.asarray(tokens, dtype=np.int64)                     # (n,)
        self.keys = [np.zeros(1, dtype=np.int64)]       # order 0 has one gram, of no token
        self.seen, self.continued = {}, {}              # order -> shares and rests
        place = np.zeros(len(tokens) + 1, dtype=np.int64)   # [i]: of the gram that starts at i
        for k in tqdm(range(1, order + 1), "counting", unit="order", leave=False, disable=None):
            shorter = place                                             # (n - k + 2,)
            keys, place, counts = count_keys(shorter[:-1] * self.V + tokens[k - 1:])
            self.keys.append(keys)
            self.seen[k] = discounted(keys, counts, self.V, len(self.keys[k - 1]), D)
            if k > 1:       # each different gram continues the one that is left without its first
                ending = np.empty_like(keys)                            # (m,)
                ending[place] = shorter[1:]
                counts = np.bincount(ending, minlength=len(self.keys[k - 1]))
                self.continued[k - 1] = discounted(
                    self.keys[k - 1], counts, self.V, len(self.keys[k - 2]), D)

    def places(self, tokens):
        """Where the k tokens before each token stand among the grams of order k; -1: nowhere.

        tokens (n,); the result is (order + 1, n + 1): at [k, j] the gram of k tokens that ends
        before token j. The last column is for the token that would come next.
        """
        tokens = np.asarray(tokens, dtype=np.int64)                     # (n,)
        places = np.full((self.order + 1, len(tokens) + 1), -1)
        places[0] = 0
        for k in range(1, self.order + 1):
            key = places[k - 1, :-1] * self.V + tokens                  # (n,), below 0 if unseen
            found = np.searchsorted(self.keys[k], key)                  # (n,)
            found[found == len(self.keys[k])] = 0
            places[k, 1:] = np.where(self.keys[k][found] == key, found, -1)
        return places

    def probabilities(self, tokens):
        """p of each token after what stands before it, by every order from 1 on: (order, n).

        The first tokens have less before them than an order asks for: it takes what there is.
        """
        places, p = self.places(tokens), np.full(len(tokens), 1 / self.V)
        answers = []
        for k in range(1, self.order + 1):
            context, gram = places[k - 1, :-1], places[k, 1:]           # (n,), (n,)
            seen, continued = self.seen[k], self.continued.get(k)
            answers.append(seen.share[gram] + seen.rest[context] * p)
            if continued:
                p = continued.share[gram] + continued.rest[context] * p
        return np.array(answers)                                        # (order, n)

    def distributions(self, places):
        """Yield all V probabilities of what comes next, (B, V), by each order from 1 on.

        places (order + 1, B) are columns of places().
        """
        B = places.shape[1]
        p = np.full((B, self.V), 1 / self.V)
        for k in range(1, self.order + 1):
            # The grams below a context stand side by side, from context * V on. Here they are, for
            # all B contexts: the row each is for, its place among the grams, its last token.
            context = places[k - 1]                                             # (B,)
            start = np.searchsorted(self.keys[k], context * self.V)             # (B,)
            n = np.searchsorted(self.keys[k], (context + 1) * self.V) - start   # (B,)
            row = np.repeat(np.arange(B), n)                                    # (n.sum(),)
            gram = np.arange(len(row)) + np.repeat(start - np.cumsum(n) + n, n)
            token = self.keys[k][gram] % self.V

            def mixed(table):
                mix = p * table.rest[context][:, None]                          # (B, V)
                mix[row, token] += table.share[gram]
                return mix

            yield mixed(self.seen[k])
            if k < self.order:
                p = mixed(self.continued[k])

    def generate(self, n_tokens, order, rng):
        """Yield n_tokens ids, each drawn by that order's distribution after those before it."""
        ids = []
        for _ in range(n_tokens):
            before = self.places(ids[-order:])[:, -1:]                  # (order + 1, 1)
            p = list(self.distributions(before))[order - 1][0]          # (V,)
            ids.append(int(rng.choice(self.V, p=p)))
            yield ids[-1]


def main():
    parser = Parser("Count n-grams; show how well each order foretells, and what it writes.")
    parser.add_argument("--order", type=int, default=MAX_ORDER, metavar="N",
                        help=f"the longest gram, 1 to {MAX_ORDER} (default: {MAX_ORDER})")
    parser.add_argument("--tokens", type=int, default=200, metavar="N",
                        help="how many tokens each order writes (default: 200)")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="another seed, another text (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    add_flags(parser, DataConfig)
    options = parser.parse_args()
    with clear_errors():
        if options.tokens < 0 or options.seed < 0:
            raise ValueError("--tokens and --seed must be 0 or more")
        corpus = load_corpus(prepare(DataConfig(**chosen(options, DataConfig))))
        check_order(options.order, len(corpus.train))
    with clear_errors(kinds=()):        # Ctrl-C is no error
        model = NGram(corpus.train, corpus.tokenizer.vocab_size, options.order)
        nats = -np.log(model.probabilities(corpus.val)[:, 1:])          # (order, n)
        known = model.places(corpus.val)[:, 1:-1] >= 0                  # (order + 1, n)
        rows = [{"order": k, "grams": len(model.keys[k]), "discount": float(model.seen[k].D),
                 "context_seen": float(known[k - 1].mean()), "loss": float(nats[k - 1].mean()),
                 "bits_per_byte": float(nats[k - 1].sum() / math.log(2)
                                        / corpus.meta["val"]["bytes"])}
                for k in range(1, options.order + 1)]
        if options.json:
            print(json.dumps({"corpus": str(corpus.folder), "rows": rows}))
            return

        print(f"counted in {len(corpus.train):,} tokens of {corpus.folder},\n"
              f"tested on {nats.shape[1]:,} of its validation split; a model that knows nothing "
              f"has a loss of {math.log(model.V):.4f}\n\n"
              f"{'order':>5}{'different grams':>17}{'D':>7}{'context seen':>14}{'loss (nats)':>13}"
              f"{'perplexity':>12}{'bits/byte':>11}")
        for r in rows:
            print(f"{r['order']:5}{r['grams']:17,}{r['discount']:7.3f}{r['context_seen']:14.1%}"
                  f"{r['loss']:13.4f}{math.exp(r['loss']):12.3f}{r['bits_per_byte']:11.4f}")
        for k in range(1, options.order + 1):
            ids = list(model.generate(options.tokens, k, np.random.default_rng(options.seed)))
            print(f"\n--- order {k} writes\n{corpus.tokenizer.decode(ids)}")


if __name__ == "__main__":
    main()
