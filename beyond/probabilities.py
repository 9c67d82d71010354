"""
Probabilities: what a model expects, seen before it picks, and after the fact.

Which tokens are the most probable to come next, and what does each strategy of sample.py make of
that? And in a text that somebody has written, how probable was each token? Improbable ones carry
the news; a mistake is often one of them. Minus the mean of their log-probabilities is the loss.

    python -m beyond.probabilities --prompt "ROMEO"                     # every strategy
    python -m beyond.probabilities --prompt "ROMEO" --top-p 0.5 --plot  # one, and its picture
    python -m beyond.probabilities --text "To be, or not to be"         # token by token
    python -m beyond.probabilities nano --text letter.txt --json
"""
import json
import math
import os
import sys

from beyond.curves import picture
from data import add_flags, checked, documents
from sample import SampleConfig, find_run, generate, load_run, min_p, temperature, top_k, top_p
from tokenizer import Parser, clear_errors, visible, write_whole

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

# ------------ Before it picks.


def repetition_penalty(logits, penalty, ids):
    """Lower the logits (1, V) of those ids that a text has already (Keskar et al., 2019)."""
    lower = torch.where(logits > 0, logits / penalty, logits * penalty)     # (1, V)
    return logits.index_copy(1, torch.tensor(ids), lower[:, ids])           # (1, V)


STRATEGIES = {      # in sample.py's order; the penalty, which looks at signs, before them
    "repetition_penalty": repetition_penalty,
    "temperature": lambda logits, t, ids: temperature(logits, t) if t else top_k(logits, 1),
    "top_k": lambda logits, k, ids: top_k(logits, k or logits.shape[-1]),
    "top_p": lambda logits, p, ids: top_p(logits, p) if p < 1 else logits,
    "min_p": lambda logits, p, ids: min_p(logits, p)}
ALL = dict(repetition_penalty=1.2, temperature=0.8, top_k=8, top_p=0.9, min_p=0.2)


def in_turn(logits, ids, values):
    """The logits (1, V) after each strategy, which takes what the one before it has left."""
    return {name: (logits := STRATEGIES[name](logits, x, ids)) for name, x in values.items()}


def apply(logits, ids, values):
    """What each strategy makes of logits (1, V) after a text, and all together: name -> (V,)."""
    found = {"the model": logits}
    found |= {"greedy": top_k(logits, 1)} if values == ALL else {}
    for name, x in values.items():
        shown = f"{name.removeprefix('repetition_').replace('_', '-')} {x:g}"
        found["greedy" if shown == "temperature 0" else shown] = STRATEGIES[name](logits, x, ids)
    if len(values) > 1:
        found["together"] = [*in_turn(logits, ids, values).values()][-1]
    return {name: torch.softmax(x[0], dim=-1) for name, x in found.items()}


def pick_and_watch(model, ids, n_tokens, values, seed):
    """n_tokens as sample.py picks them: for each, the text so far, what apply() found, the id."""
    seen, text, generator = [], list(ids), torch.Generator().manual_seed(seed)

    def pick(logits):
        found = apply(logits.double().cpu(), text, values)
        picked = [*found.values()][-1].multinomial(1, generator=generator)      # (1,)
        seen.append((list(text), found, picked.item()))
        text.append(picked.item())
        return picked

    list(generate(model, [ids], n_tokens, pick))
    return seen


def label(token):
    return visible(token).replace(" ", "\N{OPEN BOX}")


def show(vocab, seen):
    """A table for each of the next tokens: a row for each candidate, a column for each strategy."""
    names = [(*name.split(), "")[:2] for name in seen[0][1]]
    widths = [max(len(name[0]), len("100.0%")) + 1 for name in names]
    for first, line in zip(("> is picked", ""), zip(*names)):
        print(f"{first:14}" + "".join(f"{word:>{w}}" for word, w in zip(line, widths)))
    for text, found, picked in seen:
        print("after", "\N{MIDDLE DOT}".join(label(vocab[i]) for i in text[-12:]))
        best = found["the model"].argsort(descending=True)[:5].tolist()
        for i in dict.fromkeys([*best, picked]):
            row = (f"{p[i]:>{w}.1%}" if p[i] > 0 else f"{'-':>{w}}"
                   for p, w in zip(found.values(), widths))
            print(f"{'>' * (i == picked):2}{label(vocab[i])[:11]:12}{''.join(row)}")


def draw(vocab, seen, path):
    """The same as a picture: in outline the model's probabilities, as bars what became of them."""
    names = [name for name in seen[0][1] if name != "greedy"]       # 100 % would dwarf the rest
    figure = Figure(figsize=(2.2 * len(names) + 1, 2.8 * len(seen)), layout="constrained")
    grid = figure.subplots(len(seen), len(names), squeeze=False, sharex="row", sharey="row")
    for row, (text, found, picked) in zip(grid, seen):
        ids = [*dict.fromkeys([*found["the model"].argsort(descending=True)[:10].tolist(), picked])]
        labels = [label(vocab[i]).replace("$", r"\$") for i in [*ids, *text[-12:]]]
        for at, name in zip(row, names):
            bars = at.barh(range(len(ids)), found[name][ids].tolist(), color="tab:blue")
            bars[ids.index(picked)].set_color("tab:orange")
            at.barh(range(len(ids)), found["the model"][ids].tolist(), fill=False, linewidth=0.8)
            at.set_title(name, fontsize=10)
            at.xaxis.set_major_formatter("{x:.0%}")
        row[0].set_yticks(range(len(ids)), labels[:len(ids)])
        row[0].set_ylabel(f"after {''.join(labels[len(ids):])}", fontsize=10)
        row[0].invert_yaxis()
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


# ------------ After the fact.


def log_probs(model, ids):
    """ln p and rank (1: the most probable) of each of ids but the first, when its turn had come."""
    found, targets = [], iter(ids[1:])

    def pick(logits):
        log_p, i = logits[0].float().log_softmax(dim=-1), next(targets)         # (V,)
        found.append((log_p[i].item(), 1 + (log_p > log_p[i]).sum().item()))
        return torch.tensor([i])            # whatever the model would rather have written

    list(tqdm(generate(model, [ids[:1]], len(ids) - 1, pick), total=len(ids) - 1, leave=False,
              disable=None))
    return found


SHADES = {0.5: 230, 0.2: 223, 0.05: 216, 0.01: 209, 0.001: 203}     # of a terminal: pale to red


def coloured(text, p):
    """The text on a background that is redder the less probable it was."""
    shade = [shade for below, shade in SHADES.items() if p < below]
    return f"\033[48;5;{shade[-1]};38;5;16m{text}\033[0m" if shade else text


def score(model, tokenizer, text, as_json):
    """Score a text, as if it began a document. Colours in a terminal, else a table; or JSON."""
    ids, vocab = tokenizer.encode(text), tokenizer.vocab
    rows = [dict(token=visible(vocab[i]), id=i, log_prob=log_p, rank=rank)
            for i, (log_p, rank) in zip(ids, log_probs(model, [tokenizer.eot, *ids]))]
    nats = -sum(row["log_prob"] for row in rows)
    figures = {"tokens": len(ids), "loss": nats / len(ids), "perplexity": math.exp(nats / len(ids)),
               "bits_per_byte": nats / math.log(2) / len(text.encode())}
    if as_json:
        return print(json.dumps(figures | {"log_probs": rows}))
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        print("".join(coloured(row["token"], math.exp(row["log_prob"]))
                      + "\n" * (b"\n" in vocab[row["id"]]) for row in rows))
        print("\nless probable than", *(coloured(f" {p:.1%} ", p * 0.99) for p in SHADES))
    else:
        print(f"{'token':16}{'probability':>12}{'nats':>8}{'rank':>8}")
        for row in rows:
            print(f"{label(vocab[row['id']])[:15]:16}{math.exp(row['log_prob']):12.3%}"
                  f"{-row['log_prob']:8.3f}{row['rank']:8,}")
    print("\n{tokens:,} tokens: {loss:.3f} nats a token, perplexity {perplexity:.2f}, "
          "{bits_per_byte:.3f} bits a byte".format(**figures))


def main():
    parser = Parser("Show how probable a model finds the next tokens, or those of a text. The "
                    "strategies whose flags are given are shown; without any, all are.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--plot", action="store_true", help="also draw it: probabilities.png")
    parser.add_argument("--text", help="pick nothing, score this text, or the file of that name")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    parser.add_argument("--repetition-penalty", type=float, help="above 1: what was comes less")
    add_flags(parser, SampleConfig)
    o = parser.parse_args()
    values = {name: vars(o)[name] for name in STRATEGIES if vars(o).get(name) is not None}
    with clear_errors():
        c, text = checked(SampleConfig, vars(o)), o.text
        c.prompt.encode()               # refuses half a character
        penalty = values.get("repetition_penalty", 1)
        if not 0 < penalty < math.inf or not 0 < c.top_p <= 1 or c.min_p > 1:
            raise ValueError("a penalty and --top-p are above 0, --top-p and --min-p at most 1")
        if text and os.path.isfile(text):
            text = "\n\n".join(document for _, document in documents([text]))
        if text == "" or text is None and o.json or text and (values or o.plot or c.prompt):
            raise ValueError("--json is for a --text that is not empty, all else for --prompt")
        path = picture("probabilities.png") if o.plot else None
        model, tokenizer = load_run(find_run(o.run))
        if text:
            return score(model, tokenizer, text, o.json)
        ids = tokenizer.encode(c.prompt) or [tokenizer.eot]             # where a document begins
        seen = pick_and_watch(model, ids, vars(o).get("tokens", 3), values or ALL, c.seed)
        show(tokenizer.vocab, seen)
        if o.plot:
            draw(tokenizer.vocab, seen, path)
            print("drew probabilities.png: outlines are the model's probabilities")


if __name__ == "__main__":
    main()
