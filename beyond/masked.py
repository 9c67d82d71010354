"""
Masked: a model that reads in both directions, and is good for understanding rather than writing.

A GPT guesses what comes next and sees what came before. Take its causal mask away and each position
sees the whole text, itself included, so there is nothing left to guess. Then hide some of it (BERT;
Devlin et al., 2019). Of all positions 15 % are chosen, and the loss is of those alone:

    80 % of them    become a token of their own, [MASK]
    10 %            become a token drawn at random
    10 %            stay, so that a token that is there is doubted, too

It fills blanks, from what stands on either side. And the mean of the vectors at its last norm is an
embedding of a text: scenes of one play lie near each other, though nothing told it about plays.

    python -m beyond.masked "To be, or [MASK] to be"    # train, unless that is done, and fill
    python -m beyond.masked --compare nano              # scenes clustered, drawn in masked.png

A [MASK] is one token: mostly a word with the space before it, if the word is frequent. After Ctrl-C
the same command goes on. Only this chapter can load its run, runs/masked.
"""
import math
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import data
from beyond.curves import picture
from beyond.learn import learn
from model import GPTConfig, dropout, softmax
from sample import find_run, load_run, make_model, pick_device
from tokenizer import Parser, clear_errors, visible, write_whole
from train import TrainConfig

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

# ------------ The model: GPT's, but for one operation.

def full_attention(q, k, v, p=0.0):
    """Each position takes of every value, wherever it is. q (B, H, T, D), k, v (B, H, S, D)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])               # (B, H, T, S)
    return dropout(softmax(scores), p) @ v                                  # (B, H, T, D)


def with_full_attention(c, name="attention"):
    """The same config, whose operation of that name is attention without a mask."""
    new, raw = replace(c), c.kernels == "raw"
    new.ops = SimpleNamespace(**vars(c.ops) | {name: full_attention if raw else (
        lambda q, k, v, p=0.0: F.scaled_dot_product_attention(
            q, k, v, None, p, enable_gqa=q.shape[1] != k.shape[1]))})
    return new


def make(settings, B=0):
    """A GPT that sees both ways. Its last token, one more than the tokenizer has, is [MASK]."""
    model = make_model(settings, B)
    model.config.ops = with_full_attention(model.config).ops
    return model


def hide(ids, mask, generator=None):
    """What the model reads, and what it is asked for, -1 where it is not; ids, both (B, T)."""
    luck, kind = (torch.rand(ids.shape, generator=generator) for _ in range(2))     # (B, T) each
    drawn = torch.randint(mask, ids.shape, generator=generator)             # (B, T)
    chosen = luck < 0.15                                                    # (B, T)
    read = torch.where(chosen & (kind < 0.8), mask, ids)                    # (B, T)
    read = torch.where(chosen & (kind >= 0.9), drawn, read)                 # (B, T)
    return read, torch.where(chosen, ids, -1)


def loss_of(model, read, targets):
    asked = targets >= 0                                                    # (B, T)
    return model.config.ops.cross_entropy(model(read)[asked], targets[asked])       # ()


@torch.no_grad()
def evaluate(model, corpus):
    """Loss and accuracy on the validation split, where the same positions are hidden each time."""
    T, mask, generator = model.config.context_length, model.config.vocab_size - 1, torch.Generator()
    nats, correct, n = 0.0, 0, 0
    generator.manual_seed(1)
    model.eval()
    for ids, _ in data.every_window(corpus.val, max(1, 4096 // T), T):
        read, targets = (x.to(model.token_table.device) for x in hide(ids, mask, generator))
        logits, asked = model(read), targets >= 0                           # (B, T, V), (B, T)
        found = F.cross_entropy(logits[asked], targets[asked], reduction="sum")
        nats, n = nats + found.item(), n + asked.sum().item()
        correct += (logits[asked].argmax(dim=-1) == targets[asked]).sum().item()
    model.train()
    return {"val_loss": nats / n, "val_accuracy": correct / n}


# ------------ Fill in the blanks.

@torch.no_grad()
def fill(model, tokenizer, text, k=5):
    """For each [MASK] of a text, the k most probable tokens and their probabilities."""
    mask, (ids, *rest) = tokenizer.vocab_size, map(tokenizer.encode, re.split(r" ?\[MASK\]", text))
    for part in rest:
        ids = ids + [mask] + part
    if len(ids) > model.config.context_length:
        raise ValueError(f"{len(ids)} tokens do not fit a context of {model.config.context_length}")
    logits = model(torch.tensor([ids]))[0, :, :mask]                        # (T, V - 1)
    best = torch.softmax(logits[torch.tensor(ids) == mask], dim=-1).topk(k)         # (blanks, k)
    return [[(visible(tokenizer.vocab[i]), p) for p, i in zip(*row)]
            for row in zip(best.values.tolist(), best.indices.tolist())]


# ------------ Texts as points: whose scene is it?

def scenes(corpus, least=1000):
    """The parts of the validation split's documents (ids), cut where a line begins with #; and of
    which document each is, 0, 1, 2 ..."""
    found, of = [], []
    ends = np.flatnonzero(np.append(corpus.val, corpus.tokenizer.eot) == corpus.tokenizer.eot)
    documents = [corpus.val[a:b] for a, b in zip([0, *ends + 1], ends) if b - a > 0]
    for number, document in enumerate(documents):
        for text in re.split(r"\n#+ .*\n", corpus.tokenizer.decode(document)):
            if len(text) >= least:
                found.append(corpus.tokenizer.encode(text))
                of.append(number)
    return found, np.array(of)


@torch.no_grad()
def embed(model, texts):
    """The mean of the vectors at the last norm over all positions of each text: (texts, C)."""
    rows, T = [], model.config.context_length
    hook = model.norm.register_forward_hook(lambda _, inputs, y: kept.append(y[0]))
    for ids in texts:
        kept = []
        for start in range(0, len(ids), T):
            model(torch.tensor([ids[start:start + T]], device=model.token_table.device))
        rows.append(torch.cat(kept).mean(dim=0).cpu().numpy())              # (C,)
    hook.remove()
    return np.array(rows)


def bag_of_words(texts, V):
    """How often each token is in each text, next to how often it is in others: (texts, V)."""
    counts = np.array([np.bincount(ids, minlength=V) for ids in texts])
    return np.log1p(counts) * np.log(len(texts) / np.maximum((counts > 0).sum(axis=0), 1))


def normalised(x):
    """Centred, and each of length 1, so that only the direction counts."""
    x = x - x.mean(axis=0)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def k_means(x, k, seed=1, tries=20):
    """Which of k clusters each row of x (n, d) is in (n,): of several tries, the tightest. A centre
    is the mean of the rows it is nearest to, until none moves (Lloyd, 1957)."""
    rng, best = np.random.default_rng(seed), (math.inf, None)
    for _ in range(tries):
        centres, nearest = x[rng.choice(len(x), k, replace=False)], None    # (k, d)
        while True:
            distances = ((x[:, None] - centres) ** 2).sum(axis=-1)          # (n, k)
            if nearest is not None and (distances.argmin(axis=1) == nearest).all():
                break
            nearest = distances.argmin(axis=1)                              # (n,)
            centres = np.array([x[nearest == j].mean(axis=0) if (nearest == j).any()
                                else centres[j] for j in range(k)])
        best = min(best, (distances.min(axis=1).sum(), nearest.tolist()))
    return np.array(best[1])


def purity(clusters, of):
    """The share of texts that are of the document that most of their cluster are of."""
    return sum(np.bincount(of[clusters == j]).max() for j in set(clusters.tolist())) / len(of)


def plane(x):
    """The two directions in which the rows of x differ most, PCA by SVD: (n, 2)."""
    x = x - x.mean(axis=0)
    return x @ np.linalg.svd(x, full_matrices=False)[2][:2].T


def compare(points, of, path):
    """Print how pure the clusters of each kind of points are, and draw them."""
    figure = Figure(figsize=(5 * len(points), 5), layout="constrained")
    print(f"\n{len(of)} scenes of {of.max() + 1} documents\n{'':24}dimensions    purity")
    for axes, (name, x) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items()):
        pure, at = purity(k_means(normalised(x), of.max() + 1), of), plane(normalised(x))
        print(f"{name:24}{x.shape[1]:10,}{pure:10.1%}")
        axes.scatter(*at.T, c=of, cmap="tab10" if of.max() < 10 else "turbo", s=25)
        axes.set(title=f"{name}: purity {pure:.0%}", xticks=[], yticks=[])
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))
    print(f"{'the largest document':34}{np.bincount(of).max() / len(of):10.1%}\n\ndrew {path}")


def main():
    parser = Parser("Train a masked model; let it fill blanks, and cluster scenes by play.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="fill each [MASK] in these")
    parser.add_argument("--compare", metavar="RUN", help="a GPT, to cluster by it as well")
    parser.add_argument("--out", metavar="FILE", default="masked.png", help="the picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    data.add_flags(parser, data.DataConfig, TrainConfig, GPTConfig)
    given = vars(parser.parse_args())
    with clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)):
        c, path, device = data.checked(TrainConfig, given), picture(given["out"]), pick_device(
            given["device"])
        for text in given["texts"]:
            if "[MASK]" not in text.encode().decode():      # refuses half a character
                raise ValueError(f"there is no [MASK] in {text!r:.60}")
        gpt = load_run(find_run(given["compare"]), device) if given["compare"] is not None else None
        shape = data.checked(GPTConfig, given)
        corpus = data.load_corpus(data.prepare(data.checked(data.DataConfig, given)))
        words, B, T = corpus.tokenizer, c.batch_size, shape.context_length
        shape.vocab_size = words.vocab_size + 1
        if gpt and gpt[1].saved != words.saved:
            raise ValueError(f"{given['compare']} has another tokenizer than {corpus.folder}")
        if min(len(corpus.train), len(corpus.val)) <= T:
            raise ValueError(f"a split of {corpus.folder} is no longer than --context-length")
        torch.manual_seed(c.seed)
        model = make(asdict(shape), B).to(device)
        settings = {"data": corpus.meta["config"], "train": asdict(c), "corpus": {
            "folder": str(corpus.folder)}, "model": {"chapter": "beyond.masked"} | asdict(shape)}
        # The loop has seeded what hide() draws, by the step and the part.
        learn("masked", model, settings, words, c,
              lambda step, part, parts: hide(data.batch(
                  corpus.train, B, T, c.seed, step, part, parts)[0], words.vocab_size),
              loss_of, lambda model: evaluate(model, corpus), len(corpus.train))
        for text in given["texts"] or ["To be, or [MASK] to be"]:
            print(f"\n{text}")
            for blank in fill(model.cpu(), words, text):
                print("    " + "  ".join(f"{token.strip()} {p:.1%}" for token, p in blank))
        if not given["texts"]:
            texts, of = scenes(corpus)
            points = {"masked": embed(model, texts)}
            if gpt:
                points["gpt"] = embed(gpt[0].cpu(), texts)
            compare(points | {"bag of words": bag_of_words(texts, words.vocab_size)}, of, path)


if __name__ == "__main__":
    main()
