"""
Probabilities: what a model expects, seen before it picks, and after the fact.

Before it picks: of the next few tokens, which are the most probable, and what does each strategy of
sample.py make of their probabilities? After the fact: in a text that somebody has written, how
probable was each token? The improbable ones carry the news; a mistake is often one of them. The
logarithm of that probability, with its sign turned, is the token's negative log-likelihood; its
mean is the loss that training brings down.

    python -m beyond.probabilities --prompt "ROMEO"                     # every strategy
    python -m beyond.probabilities --prompt "ROMEO" --top-p 0.5 --plot  # one, and its picture
    python -m beyond.probabilities --text "To be, or not to be"         # token by token
    python -m beyond.probabilities nano --text letter.txt --json

Paper: CTRL, for the repetition penalty (Keskar et al., 2019); sample.py names the others.
"""
import json
import math
import os
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from sample import (find_run, generate, load_run, min_p, pick_device, picker, temperature, top_k,
                    top_p)
from tokenizer import Parser, clear_errors, visible, write_whole

# ------------------------------------------------------------------------------------------
# Before it picks.


def repetition_penalty(logits, penalty, ids):
    """Make every token that a text of these ids has already less probable: (1, V) -> (1, V).

    A logit above 0 is divided by the penalty, one below 0 multiplied: both lower it.
    """
    lower = torch.where(logits > 0, logits / penalty, logits * penalty)     # (1, V)
    return logits.index_copy(1, torch.tensor(ids), lower[:, ids])           # (1, V)


STRATEGIES = {      # in sample.py's order; the penalty before them, as it looks at signs
    "repetition_penalty": repetition_penalty,
    "temperature": lambda logits, t, ids: temperature(logits, t) if t else top_k(logits, 1),
    "top_k": lambda logits, k, ids: top_k(logits, k),
    "top_p": lambda logits, p, ids: top_p(logits, p),
    "min_p": lambda logits, p, ids: min_p(logits, p)}
ALL = dict(repetition_penalty=1.2, temperature=0.8, top_k=8, top_p=0.9, min_p=0.2)
RANGE = dict(repetition_penalty=(1e-6, 1e6), temperature=(0, 1e6), top_k=(1, 1e9),
             top_p=(1e-6, 1), min_p=(0, 1), tokens=(1, 1000), seed=(0, 2 ** 63 - 1))


def apply(logits, ids, settings):
    """What each strategy makes of logits (1, V) by itself, and all together: name -> (V,).

    ids is the text so far. Beside all of them stands what greedy would do.
    """
    found, together = {"the model": logits}, logits
    if settings == ALL:
        found["greedy"] = top_k(logits, 1)
    for name, value in settings.items():
        shown = f"{name.removeprefix('repetition_').replace('_', '-')} {value:g}"
        shown = shown.replace("temperature 0", "greedy") if value == 0 else shown
        found[shown] = STRATEGIES[name](logits, value, ids)
        together = STRATEGIES[name](together, value, ids)
    if len(settings) > 1:
        found["together"] = together
    return {name: torch.softmax(x[0], dim=-1) for name, x in found.items()}


def pick_and_watch(model, ids, n_tokens, settings, seed):
    """n_tokens as sample.py picks them: for each, the text so far, apply()'s result, the id."""
    seen, text = [], list(ids)
    s = dict(repetition_penalty=1, temperature=1, top_k=0, top_p=1, min_p=0) | settings
    pick = picker(1, s["temperature"], s["top_k"], s["top_p"], s["min_p"], seed)

    def watched(logits):
        logits = logits.double().cpu()                                      # (1, V)
        picked = pick(repetition_penalty(logits, s["repetition_penalty"], text))    # (1,)
        seen.append((list(text), apply(logits, text, settings), picked.item()))
        text.append(picked.item())
        return picked

    list(generate(model, [ids], n_tokens, watched))
    return seen


def candidates(found, picked, n):
    """The n tokens that the model finds most probable; the one that was picked is among them."""
    best = found["the model"].topk(min(n, len(found["the model"]))).indices.tolist()
    return best if picked in best else [*best[:-1], picked]


def quoted(token):
    text = visible(token)
    return f"'{text}'" if len(text) <= 9 else f"'{text[:8]}\N{HORIZONTAL ELLIPSIS}'"


def show(vocab, seen):
    """A table for each of the next tokens: a row for each candidate, a column for each strategy."""
    names = [(*name.split(), "")[:2] for name in seen[0][1]]
    widths = [max(len(name[0]), len("100.0%")) + 1 for name in names]
    for line in (0, 1):
        print(" " * 14 + "".join(f"{name[line]:>{w}}" for name, w in zip(names, widths)))
    for text, found, picked in seen:
        print("after", "\N{MIDDLE DOT}".join(visible(vocab[i]) for i in text[-12:]))
        for i in candidates(found, picked, 5):
            row = (f"{p[i]:.1%}" if p[i] > 0 else "-" for p in found.values())
            print(f"{'>' * (i == picked):2}{quoted(vocab[i]):12}"
                  + "".join(f"{cell:>{w}}" for cell, w in zip(row, widths)))
    print("> the token that was picked")


def draw(vocab, seen, path):
    """The same as a picture."""
    plain = [visible(token).replace("$", r"\$") for token in vocab]
    names = [name for name in seen[0][1] if name != "greedy"]       # 100 % would dwarf the rest
    figure = Figure(figsize=(2.2 * len(names) + 1, 2.8 * len(seen)), layout="constrained")
    grid = figure.subplots(len(seen), len(names), squeeze=False, sharex="row", sharey="row")
    for row, (text, found, picked) in zip(grid, seen):
        shown = candidates(found, picked, 10)
        for at, name in zip(row, names):
            at.barh(range(len(shown)), found[name][shown],
                    color=["tab:orange" if i == picked else "tab:blue" for i in shown])
            at.barh(range(len(shown)), found["the model"][shown], fill=False, edgecolor="grey")
            at.set_title(name, fontsize=10)
            at.xaxis.set_major_formatter("{x:.0%}")
        row[0].set_yticks(range(len(shown)), [plain[i].replace(" ", "\N{OPEN BOX}") for i in shown])
        row[0].invert_yaxis()
        row[0].set_ylabel(f"after \u201c{''.join(plain[i] for i in text[-12:])}\u201d", fontsize=10)
    figure.supxlabel("outlines: the model's probabilities; bars: what a strategy makes of them; "
                     "orange: the token that was picked", fontsize=10)
    write_whole(path, lambda aside: figure.savefig(aside, dpi=110, format="png"))


# ------------------------------------------------------------------------------------------
# After the fact.


@torch.inference_mode()
def log_probs(model, ids):
    """How probable each of ids but the first was: ln p (T - 1,) and its rank (T - 1,), 1 the best.

    A text longer than the context is read as generate() reads it, in windows that overlap by half.
    """
    L, ids = model.config.context_length, torch.tensor(ids, device=model.token_table.device)
    found, ranks, step = [], [], L // 2 + 1
    for start in tqdm(range(0, max(1, len(ids) - 1 - L + step), step), unit="window", leave=False,
                      disable=None):
        known = len(found) - start          # of this window's targets, by the window before
        targets = ids[start + 1:start + 1 + L][known:, None]                # (T, 1)
        logits = model(ids[None, start:start + L])[0, known:].float()       # (T or T + 1, V)
        log_p = logits[:len(targets)].log_softmax(dim=-1)                   # (T, V)
        chosen = log_p.gather(-1, targets)                                  # (T, 1)
        found += chosen[:, 0].tolist()
        ranks += (1 + (log_p > chosen).sum(dim=-1)).tolist()
    return found, ranks


# Backgrounds of a 256-colour terminal, from pale to red, for tokens less probable than this.
COLOURS = {0.5: 230, 0.2: 223, 0.05: 216, 0.01: 209, 0.001: 203}


def coloured(text, p):
    colour = [colour for below, colour in COLOURS.items() if p < below]
    return f"\033[48;5;{colour[-1]};38;5;16m{text}\033[0m" if colour else text


def score(model, tokenizer, text, as_json):
    """Score a text, as if it began a document. Colours in a terminal, else a table; or JSON."""
    ids = tokenizer.encode(text)
    found, ranks = log_probs(model, [tokenizer.eot, *ids])
    loss = -sum(found) / len(ids)
    bits = -sum(found) / math.log(2) / len(text.encode())
    tokens = [visible(tokenizer.vocab[i]) for i in ids]
    if as_json:
        return print(json.dumps({
            "tokens": len(ids), "loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits,
            "log_probs": [dict(zip(("token", "id", "log_prob", "rank"), row))
                          for row in zip(tokens, ids, found, ranks)]}))
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        print("".join(coloured(token, math.exp(log_p)) + "\n" * (b"\n" in tokenizer.vocab[i])
                      for token, i, log_p in zip(tokens, ids, found)))
        print("\nless probable than", *(coloured(f" {p:.1%} ", p * 0.99) for p in COLOURS))
    else:
        print(f"{'token':16}{'probability':>12}{'nats':>8}{'rank':>8}")
        for i, log_p, rank in zip(ids, found, ranks):
            print(f"{quoted(tokenizer.vocab[i]):16}{math.exp(log_p):12.3%}{-log_p:8.3f}{rank:8,}")
    print(f"\n{len(ids):,} tokens: {loss:.3f} nats a token, perplexity {math.exp(loss):.2f}, "
          f"{bits:.3f} bits a byte")


def main():
    parser = Parser("Show how probable a model finds the next tokens, or those of a text.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", default="", help="text to go on from (default: empty)")
    what.add_argument("--text", help="pick nothing, score this text, or the file of that name")
    parser.add_argument("--json", action="store_true", help="print the scores of --text as JSON")
    parser.add_argument("--plot", action="store_true", help="also draw it: probabilities.png")
    parser.add_argument("--tokens", type=int, default=3, help="how many to pick (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="another picks others (default: 1)")
    for name, value in ALL.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), metavar="X",
                            help=f"given none of these five, all are shown (this one at {value})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    c = parser.parse_args()
    settings = {name: vars(c)[name] for name in ALL if vars(c)[name] is not None}
    with clear_errors():
        for name, (low, high) in RANGE.items():
            if vars(c)[name] is not None and not low <= vars(c)[name] <= high:
                raise ValueError(f"--{name.replace('_', '-')} is {vars(c)[name]}; it must be from "
                                 f"{low:g} to {high:g}")
        if c.text is not None and (settings or c.plot) or c.text is None and c.json:
            raise ValueError("--json is for --text; the strategies and --plot are for --prompt")
        model, tokenizer = load_run(find_run(c.run), pick_device(c.device))
        if c.text is None:
            ids = tokenizer.encode(c.prompt) or [tokenizer.eot]     # where a document begins
            seen = pick_and_watch(model, ids, c.tokens, settings or ALL, c.seed)
            show(tokenizer.vocab, seen)
            if c.plot:
                draw(tokenizer.vocab, seen, "probabilities.png")
                print("drew probabilities.png")
        else:
            text = Path(c.text).read_text(encoding="utf-8") if os.path.isfile(c.text) else c.text
            if not text:
                raise ValueError("there is no text to score")
            score(model, tokenizer, text, c.json)


if __name__ == "__main__":
    main()
