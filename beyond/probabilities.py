"""
The odds: what a model expects, seen before it picks, and after the fact.

Before it picks: of the next few tokens, which are the likeliest, and what does each strategy of
sample.py make of their probabilities? After the fact: in a text that somebody has written, how
likely was each token? The unlikely ones carry the news; a mistake is often one of them. The
logarithm of that probability, with its sign turned, is the surprise in nats, and its mean is the
loss that training brings down.

    python sample.py --explain --prompt "ROMEO"             # this file's first half
    python sample.py --explain --top-p 0.5 --plot           # only one strategy, and its picture
    python sample.py --log-probs "To be, or not to be"      # its second half
    python sample.py --log-probs letter.txt --json
"""
import json
import math
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from checkpoint import write_aside
from sample import SampleConfig, generate, picker, read_prompt, top_k
from tokenizer import pieces, utf8

# ------------------------------------------------------------------------------------------
# Before it picks.

# With no strategy asked for, the lesson shows all of them, and what greedy would do instead.
ALL = dict(repetition_penalty=1.2, temperature=0.8, top_k=8, top_p=0.9, min_p=0.2)


def next_choices(model, ids, c, n_tokens=3, if_greedy=False):
    """What each strategy makes of the next tokens: (name -> probabilities (V,), id picked).

    The strategies come one behind the other; what greedy would do stands aside, if asked for.
    """
    seen = []

    def watch(stages):
        aside = {"if greedy": top_k(stages["the model"], 1)} if if_greedy else {}
        stages = {"the model": stages["the model"]} | aside | stages
        seen.append({name: torch.softmax(logits[0], dim=-1) for name, logits in stages.items()})

    picked = list(generate(model, ids, n_tokens, picker(c, [ids], watch)))
    return list(zip(seen, picked))


def candidates(stages, picked, n):
    """The n tokens that the model finds likeliest; the one that was picked is among them."""
    best = stages["the model"].topk(min(n, len(stages["the model"]))).indices.tolist()
    return best if picked in best else [*best[:-1], picked]


def quoted(text):
    return f"'{text}'" if len(text) <= 9 else f"'{text[:8]}…'"


def percent(p):
    return f"{p:.1%}" if p > 0 else "-"


def show_choices(tokens, ids, choices):
    """A table for each of the next tokens: a row for each candidate, a column for each strategy."""
    names = [name.split() for name in choices[0][0]]
    widths = [max(map(len, [*name, "100.0%"])) + 1 for name in names]
    for line in (0, 1):
        print(" " * 14 + "".join(f"{(*name, '')[line]:>{w}}" for name, w in zip(names, widths)))
    for stages, picked in choices:
        print("after", "·".join(pieces(tokens, ids[-12:])))
        for i in candidates(stages, picked, 5):
            odds = (f"{percent(p[i].item()):>{w}}" for p, w in zip(stages.values(), widths))
            print(f"  {quoted(pieces(tokens, [i])[0]):12}" + "".join(odds)
                  + "  <- picked" * (i == picked))
        ids = [*ids, picked]


def draw_choices(tokens, ids, choices, path):
    """The same as a picture: bars for what a strategy leaves, outlines for what it was given."""
    import matplotlib
    matplotlib.use("Agg")       # draw into files; no window needed
    from matplotlib import pyplot

    names = [name for name in choices[0][0] if name != "if greedy"]     # 100 % would dwarf the rest
    figure, axes = pyplot.subplots(len(choices), len(names), squeeze=False, sharex="row",
                                   figsize=(2.2 * len(names) + 1, 2.8 * len(choices)),
                                   layout="constrained")
    for row, (stages, picked) in zip(axes, choices):
        shown = candidates(stages, picked, 10)
        labels = [label.replace(" ", "\N{OPEN BOX}").replace("$", r"\$")
                  for label in pieces(tokens, shown)]
        given = None
        for at, name in zip(row, names):
            p = stages[name]
            colours = ["tab:orange" if i == picked else "tab:blue" for i in shown]
            at.barh(range(len(shown)), p[shown], color=colours)
            if given is not None:
                at.barh(range(len(shown)), given[shown], fill=False, edgecolor="grey")
            at.set_yticks(range(len(shown)), labels if given is None else [])
            at.set_title(name, fontsize=10)
            at.xaxis.set_major_formatter("{x:.0%}")
            given = p
        row[0].invert_yaxis()
        for at in row[1:]:
            at.sharey(row[0])
        text = "".join(pieces(tokens, ids[-12:])).replace("$", r"\$")
        row[0].set_ylabel(f"after \u201c{text}\u201d", fontsize=10)
        ids = [*ids, picked]
    figure.supxlabel("outlines: what a strategy was given; bars: what it made of it; orange: the "
                     "token that was picked", fontsize=10)
    write_aside(Path(path), lambda aside: figure.savefig(aside, dpi=110, format="png"))
    pyplot.close(figure)


def explain(model, tokens, prompt, given, plot=False):
    """given: the settings that were asked for, by name."""
    everything = not given.keys() & ALL.keys()
    c = SampleConfig(**dict(temperature=1.0) | (ALL if everything else {}) | given)
    ids = read_prompt(tokens, prompt)
    choices = next_choices(model, ids, c, if_greedy=everything)
    show_choices(tokens, ids, choices)
    if plot:
        draw_choices(tokens, ids, choices, "sampling.png")
        print("drew sampling.png")


# ------------------------------------------------------------------------------------------
# After the fact.


@torch.inference_mode()
def log_probs(model, ids):
    """How likely each of ids but the first was: ln p (T - 1,), and its rank (T - 1,), 1 the best.

    A text longer than the model's window is read as generate() would have: as the window slides.
    """
    L, ids = model.config.context_length, torch.tensor(ids, device=model.token_table.device)
    found, ranks = [], []
    for start in tqdm(range(0, max(1, len(ids) - 1 - L // 2), max(1, L // 2)), unit="window",
                      leave=False, disable=None):
        known = len(found) - start          # of this window's targets, by the window before
        targets = ids[start + 1:start + 1 + L][known:, None]                # (T, 1)
        logits = model(ids[None, start:start + L])[0].float()               # (T or T + 1, V)
        logits = logits[known:][:len(targets)]                              # (T, V)
        chosen = logits.gather(-1, targets)                                 # (T, 1)
        found += (chosen - logits.logsumexp(-1, keepdim=True))[:, 0].tolist()
        ranks += (1 + (logits > chosen).sum(-1)).tolist()
    return found, ranks


# Backgrounds of a 256-colour terminal, from pale to red, for tokens less likely than this.
COLOURS = {0.5: 230, 0.2: 223, 0.05: 216, 0.01: 209, 0.001: 203}


def coloured(text, p):
    colour = [colour for below, colour in COLOURS.items() if p < below]
    return f"\033[48;5;{colour[-1]};38;5;16m{text}\033[0m" if colour else text


def show_log_probs(model, tokens, text, as_json=False):
    """Score a text. Colours in a terminal that has them, else a table, or JSON."""
    ids, start = read_prompt(tokens, text), tokens.separator or [0]
    found, ranks = (values[-len(ids):]      # without those of the separator, the text's start
                    for values in log_probs(model, [*start, *ids]))
    loss = -sum(found) / len(ids)
    bits = -sum(found) / math.log(2) / len(utf8(text))
    if as_json:
        return print(json.dumps({
            "tokens": len(ids), "loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits,
            "log_probs": [{"token": tokens.decode([i]), "id": i, "log_prob": log_p, "rank": rank}
                          for i, log_p, rank in zip(ids, found, ranks)]}))
    texts = pieces(tokens, ids)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        for text, i, log_p in zip(texts, ids, found):
            print(coloured(text, math.exp(log_p)) + "\n" * (b"\n" in tokens.token_bytes(i)), end="")
        print("\n\nless likely than", *(coloured(f" {p:.1%} ", p * 0.99) for p in COLOURS))
    else:
        print(f"{'token':16}{'probability':>12}{'nats':>8}{'rank':>8}")
        for text, log_p, rank in zip(texts, found, ranks):
            print(f"{quoted(text):16}{math.exp(log_p):12.3%}{-log_p:8.3f}{rank:8,}")
    print(f"\n{len(ids):,} tokens: {loss:.3f} nats a token, perplexity {math.exp(loss):.2f}, "
          f"{bits:.3f} bits a byte")


def main():
    import sample
    sys.argv.insert(1, "--explain")
    sample.main()


if __name__ == "__main__":
    main()
