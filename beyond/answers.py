"""
Answers: how a model is asked a question, and what its mark is worth.

An exam asks a language model in one of two ways. Given several answers: how probable is each after
the question? Given none: what does it write? Either way a question is text to go on from, and much
of it (the subject, worked examples) is the same for many questions. That is read once; questions go
on from copies of its KV cache, several at a time. And a mark is partly luck: of 100 questions with
four answers each, guessing gets 25 right, or 17, or 33; hence the interval.

This is what the exams share (mmlu, maths, humaneval, fewshot, arena). By itself it shows how
probable a run finds each of some answers, in all, a token and a byte:

    python -m beyond.answers smollm2 "The capital of France is" " Paris" " Rome" " London"

Paper: Probable Inference, the Law of Succession, and Statistical Inference (Wilson, 1927).
"""
import math

from sample import find_run, generate, load_run     # first, as it quiets Ctrl-C
from model import Cache
from tokenizer import Parser, clear_errors

import torch

TOKENS = 1024       # are read at a time, at most, over all texts


def copies(model, cache, i, length, B, room):
    """A cache of B texts, each the first `length` tokens of text i of a cache, with room to go on.
    What stands behind those tokens, another text's padding, is left out."""
    new = Cache(model.config, B, length + room, cache.ids.device)
    new.ids = cache.ids[i, :length].expand(B, length)                       # (B, length)
    new.k[:, :, :, :length] = cache.k[:, i:i + 1, :, :length]   # (n_layer, B, G, length, D)
    new.v[:, :, :, :length] = cache.v[:, i:i + 1, :, :length]
    return new


def padded(rows, device):
    """Lists of ids as one tensor (B, longest). The zeros behind the shorter ones do no harm: no
    position sees what comes after it."""
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)


def batches(lengths, size):
    """Indices from short to long, as many at a time as hold at most `size` tokens, padding too."""
    batch = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > size:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def choose(model, prefix, questions, answers):
    """How probable is each answer? Yield (i, log_p) for question after question, short ones first:
    log_p is a list with, for each of answers[i], the log-probabilities (n,) of its n tokens.
    All are lists of ids, none of a question or an answer is empty; prefix stands before each
    question. Together they must fit into the context."""
    device = model.token_table.device
    start = Cache(model.config, 1, len(prefix), device)
    if prefix:
        model(torch.tensor([prefix], device=device), start, last=1)
    for batch in batches([len(q) for q in questions], TOKENS):
        rows = [questions[i] for i in batch]
        short, long = len(rows[0]), len(rows[-1])
        cache = copies(model, start, 0, len(prefix), len(rows), long)
        logits = model(padded(rows, device), cache, last=long - short + 1)  # (B, n, V): all ends
        for b, (i, row) in enumerate(zip(batch, rows)):
            first = torch.log_softmax(logits[b, len(row) - short].float(), dim=-1)          # (V,)
            yield i, _follow(model, cache, b, len(prefix) + len(row), first, answers[i])


def _follow(model, cache, b, length, first, answers):
    """The log-probabilities of answers after text b of a cache; first (V,) has the next token's."""
    found = [first[a[:1]] for a in answers]                                 # (1,) each
    if (room := max(map(len, answers)) - 1) == 0:
        return [x.cpu() for x in found]
    ids = padded([a[:-1] for a in answers], first.device)                   # (A, room)
    logits = model(ids, copies(model, cache, b, length, len(answers), room))    # (A, room, V)
    rest = torch.log_softmax(logits.float(), dim=-1)
    return [torch.cat([x, rest[j, range(len(a) - 1), a[1:]]]).cpu()         # (n,)
            for j, (x, a) in enumerate(zip(found, answers))]


def write(model, prompts, n_tokens, pick, done, B=8):
    """What the model writes after each prompt: yield (i, ids), short prompts first; at most
    n_tokens ids, and none after done(ids) is true. pick (see sample.picker) picks for B texts.
    B texts are written together. They begin when the shortest has been read; a longer one takes its
    next tokens from its prompt, until that is used up, and only then from the model."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for batch in (order[start:start + B] for start in range(0, len(order), B)):
        texts = [list(prompts[i][:len(prompts[batch[0]])]) for i in batch]
        open_texts = dict(enumerate(batch))

        def next_ids(logits):       # (B, V) -> (B,)
            ids = pick(logits)
            return torch.tensor([prompts[i][len(text)] if len(text) < len(prompts[i]) else id
                                 for i, text, id in zip(batch, texts, ids.tolist())])
        longest = max(len(prompts[i]) for i in batch)
        for ids in generate(model, texts, n_tokens + longest - len(texts[0]), next_ids):
            for b, id in enumerate(ids):
                texts[b].append(id)
            for b, i in list(open_texts.items()):
                new = texts[b][len(prompts[i]):]
                if new and (len(new) == n_tokens or done(new)):
                    yield i, new
                    del open_texts[b]
            if not open_texts:
                break


# ---- What a mark is worth.

def interval(right, n):
    """The 95 % interval of a share of n: where it may lie, if these n were drawn by chance."""
    z, p = 1.96, right / n
    middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    return max(0.0, middle - half) / (1 + z * z / n), min(1.0, (middle + half) / (1 + z * z / n))


def mark(right, n, chance=0.0):
    """A mark in words: the share, its interval, and whether guessing does as well."""
    low, high = interval(right, n)
    words = f"{right:,} of {n:,} right: {right / n:.1%} (95 % interval {low:.1%} to {high:.1%})"
    if not chance:
        return words
    against = ("worse than" if high < chance else "better than" if low > chance
               else "not to be told from")
    return f"{words}, {against} guessing ({chance:.0%})"


def main():
    parser = Parser("How probable does a run find each of some answers?")
    parser.add_argument("run", help="name or folder of the run")
    parser.add_argument("question", help="the text before the answer")
    parser.add_argument("answers", nargs="+", help="each as it would go on, often with a space")
    options = parser.parse_args()
    with clear_errors():
        "".join([options.question, *options.answers]).encode()      # refuses half a character
        model, tokenizer = load_run(find_run(options.run))
        question = tokenizer.encode(options.question) or [tokenizer.eot]
        answers = [tokenizer.encode(answer) for answer in options.answers]
        if not all(answers):
            raise ValueError("an answer is empty: what should be probable?")
        if (n := len(question) + max(map(len, answers))) > model.config.context_length:
            raise ValueError(f"that takes {n:,} tokens, and the context of {options.run} has "
                             f"{model.config.context_length:,}")
        [(_, found)] = choose(model, [], [question], [answers])
        print(f"{'ln p':>9}{'a token':>9}{'a byte':>9}")
        for answer, p in sorted(zip(options.answers, found), key=lambda pair: -pair[1].sum()):
            total = p.sum().item()
            print(f"{total:9.3f}{total / len(p):9.3f}{total / len(answer.encode()):9.3f}  {answer}")


if __name__ == "__main__":
    main()
