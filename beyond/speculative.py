"""
Speculative decoding: a cheap draft guesses some tokens ahead, and the model checks all at once.

To write a token, a model reads all its weights; to score k + 1 tokens in one pass, it reads them
once, too. So a draft, much cheaper, proposes k tokens, each drawn from its own distribution q. The
model finds its distribution p at each of these positions, in one pass, and then, from left to right
(Leviathan et al., 2023):

    a token x is accepted with probability min(1, p(x) / q(x));
    the first one refused is drawn anew, from max(0, p - q) made to sum to 1, and ends the pass;
    if none was refused, one more token is drawn from p: the pass has written k + 1

What is written has the distribution of the model alone, whatever the draft is; greedy, it is the
same text. If a draft's token is accepted with probability a, a pass writes (1 - a^(k+1)) / (1 - a)
tokens, and takes as long as 1 + k c passes, where c is what a draft's token costs.

    python -m beyond.speculative nano                   # the draft: the corpus's own 4-grams
    python -m beyond.speculative large --draft nano     # another run, with the same tokenizer
"""
import time

import data
from beyond.ngram import NGram
from model import Cache
from sample import (SampleConfig, find_run, generate, load_run, min_p, pick_device, picker,
                    read_config, temperature, top_k, top_p)
from tokenizer import Parser, clear_errors

import numpy as np
import torch
from tqdm import tqdm

ORDER = 4       # of the n-grams: longer ones are seldom seen twice


def probabilities(logits, c):
    """What sample.py draws from, given logits (n, V): (n, V). Greedy, all is on one token."""
    logits = logits.double().cpu()                                      # (n, V)
    if c.temperature < 1e-9:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    for strategy, off in ((temperature, 1), (top_k, 0), (top_p, 1), (min_p, 0)):
        value = getattr(c, strategy.__name__)
        logits = logits if value == off else strategy(logits, value)    # (n, V)
    return torch.softmax(logits, dim=-1)                                # (n, V)


class Reader:
    """A model with its KV cache: it reads what is new in a text, and forgets what is not in it."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def __call__(self, text):
        """The logits after each token of a text (a list of ids) that had not been read: (n, V)."""
        pairs = enumerate(zip(self.seen, text[:-1]))
        shared = next((i for i, (a, b) in pairs if a != b), min(len(self.seen), len(text) - 1))
        if shared == 0:
            c, device = self.model.config, self.model.token_table.device
            self.cache = Cache(c, 1, c.context_length, device)
        self.cache.ids = self.cache.ids[:, :shared]     # what lies behind is written over
        self.seen, unread = list(text), torch.tensor([text[shared:]])   # (1, n)
        return self.model(unread.to(self.cache.ids.device), self.cache)[0]      # (n, V)


def ngram_draft(tokens, vocab_size):
    """A draft that counts: a text -> the logits of its next token, (1, V)."""
    ngram = NGram(tokens, vocab_size, min(ORDER, len(tokens)))

    def draft(text):
        *_, p = ngram.distributions(ngram.find(text[-ngram.order:])[:, -1:])    # (1, V)
        return torch.from_numpy(np.log(p))
    return draft


def propose(draft, text, k, c, generator):
    """k tokens drawn from a draft, one after the other, and what they were drawn from, k x (V,)."""
    proposed, q = [], []
    for _ in range(k):
        q.append(probabilities(draft(text + proposed)[-1:], c)[0])      # (V,)
        proposed.append(q[-1].multinomial(1, generator=generator).item())
    return proposed, q


def accept(proposed, q, p, generator):
    """The tokens that a pass writes, one to k + 1: p (k + 1, V) is the model's, q k x (V,)."""
    written = []
    for x, q_x, p_x in zip(proposed, q, p):
        if torch.rand((), generator=generator, dtype=torch.float64) * q_x[x] >= p_x[x]:
            rest = (p_x - q_x).clamp(min=0)                             # (V,)
            return [*written, rest.multinomial(1, generator=generator).item()]
        written.append(x)
    return [*written, p[-1].multinomial(1, generator=generator).item()]


@torch.inference_mode()
def speculate(model, draft, ids, n_tokens, k, c):
    """Yield, pass by pass, the ids that follow ids and the share of draft's tokens to be accepted.
    The window slides as in sample.generate, so that greedy text is the same. k 0: no draft.
    """
    L, reader, text = model.config.context_length, Reader(model), list(ids)
    text, generator, left = text[-L:], torch.Generator().manual_seed(c.seed), n_tokens
    while left:
        if len(text) > L:
            text = text[L // 2 + 1:]
        n = min(k, L - len(text), left - 1)
        proposed, q = propose(draft, text, n, c, generator)
        p = probabilities(reader(text + proposed)[-n - 1:], c)          # (n + 1, V)
        new = accept(proposed, q, p, generator)
        share = [torch.minimum(p_x, q_x).sum().item() for p_x, q_x in zip(p, q)][:len(new)]
        yield new, share
        text, left = text + new, left - len(new)


def tokens_per_pass(a, k):
    """How many tokens a pass writes if each of k proposed is accepted with probability a."""
    return k + 1 if a == 1 else (1 - a ** (k + 1)) / (1 - a)


def best_k(a, cost, most=16):
    """The k that writes fastest, and how many times as fast as the model alone, for 0 .. most."""
    gains = [tokens_per_pass(a, k) / (1 + k * cost) for k in range(most + 1)]
    return max(range(most + 1), key=gains.__getitem__), gains


@torch.inference_mode()
def measure(model, draft, ids, c):
    """The draft's acceptance rate, and what a token of it costs: in passes of the model."""
    shares = [s for _, share in speculate(model, draft, ids, 96, 3, c) for s in share]
    took, n = [], min(16, model.config.context_length - len(ids) - 1)
    for reader in (draft, Reader(model)):
        reader(ids)
        began = time.perf_counter()
        for i in range(n):
            reader(ids + ids[-1:] * (i + 1))
        took.append(time.perf_counter() - began)
    return float(np.mean(shares)), took[0] / took[1]


def main():
    parser = Parser("Let a run write with a draft that runs ahead; say how much faster that is.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--draft", help="a run, smaller (default: 4-grams of the run's corpus)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    data.add_flags(parser, SampleConfig)
    options = parser.parse_args()
    with clear_errors():
        c, folder = data.checked(SampleConfig, vars(options)), find_run(options.run)
        if c.samples > 1:
            raise ValueError("--samples has no use here: it writes one text")
        device = pick_device(options.device)
        model, tokenizer = load_run(folder, device)
        if options.draft:
            smaller, theirs = load_run(find_run(options.draft), device)
            if theirs.saved != tokenizer.saved:
                raise ValueError(f"{options.draft} has another tokenizer than {folder}")
            if smaller.config.context_length < model.config.context_length:
                raise ValueError(f"{options.draft} has a shorter context than {folder}")
            draft = Reader(smaller)
        else:
            corpus = data.load_corpus(read_config(folder)["corpus"]["folder"], tokenizer)
            draft = ngram_draft(corpus.train[:5_000_000], tokenizer.vocab_size)
        ids = (tokenizer.encode(c.prompt) or [tokenizer.eot])[-model.config.context_length // 2:]
        a, cost = measure(model, draft, ids, c)
        k, gains = best_k(a, cost)
        print(f"of the draft's tokens {a:.1%} are accepted; one costs {cost:.2f} of a pass\n"
              "k            " + "".join(f"{i:6}" for i in range(0, 11))
              + "\nshould gain  " + "".join(f"{gain:6.2f}" for gain in gains[:11]),
              f"\nk is {k}\n")
        began, written, passes = time.perf_counter(), [], 0
        for new, _ in tqdm(speculate(model, draft, ids, c.tokens, k, c), leave=False, disable=None):
            written, passes = written + new, passes + 1
        ours, began = time.perf_counter() - began, time.perf_counter()
        list(generate(model, [ids], c.tokens, picker(1, c)))
        alone = time.perf_counter() - began
        print(c.prompt + tokenizer.decode(written))
        print(f"\n{c.tokens / passes:.2f} tokens a pass, {c.tokens / ours:,.0f} a second; the "
              f"model alone {c.tokens / alone:,.0f}: {alone / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
