"""Evaluation: how good is a model, on text it has never learned from?

It reads a text, a window at a time, and at each position is asked for the next token:

    loss            the mean negative log-likelihood, -ln p(the token that came), in nats
    perplexity      e to the loss: it hesitates as if between so many equally probable tokens
    bits per byte   the negative log-likelihood of the text in bits, for each of its bytes: fair
                    between tokenizers (but for <unk>, which is cheap); per character likewise
    top-1, top-5    how often the token that came was the most probable (or tied), or among five

    python eval.py                          # the newest run, on its validation split
    python eval.py nano shallow             # several runs in one table
    python eval.py nano --text letter.txt   # on a text of yours
"""
import data
from sample import find_run, load_run, pick_device, read_config
from tokenizer import Parser, clear_errors

import json
import math
from types import SimpleNamespace

import numpy as np
import torch
from tqdm import tqdm


@torch.no_grad()
def log_probs(model, ids):
    """Yield (log_p (n, V), targets (n,)) for window after window: each id but the first is a target
    once. A window of context_length tokens begins without knowing what came before it."""
    T, device = model.config.context_length, model.token_table.device
    B = max(1, min(4096, 2 ** 25 // model.config.vocab_size) // T)      # 128 MB of log_p
    windows = tqdm(data.every_window(ids, B, T), "evaluating", math.ceil((len(ids) - 1) / (B * T)),
                   leave=False, unit="batch", disable=None)
    for window, targets in windows:
        logits = model(window.to(device)).flatten(0, 1)                 # (n, V)
        yield torch.log_softmax(logits.float(), dim=-1), targets.to(device).flatten()


def open_text(folder, file=None):
    """What a run is evaluated on, a file or its validation split: name, ids, bytes, characters."""
    if file:
        text = "\n\n".join(text for _, text in data.documents([file]))
        ids = np.array(load_run(folder)[1].encode(text), dtype=np.uint32)
        counts = {"bytes": len(text.encode()), "characters": len(text)}
    else:
        corpus = data.load_corpus(read_config(folder)["corpus"]["folder"], load_run(folder)[1])
        ids, counts, file = corpus.val, corpus.meta["val"], f"validation split of {corpus.folder}"
    if len(ids) < 2:
        raise ValueError(f"{file} has {len(ids)} tokens; it takes two to predict one")
    return SimpleNamespace(name=file, ids=ids, **{k: counts[k] for k in ("bytes", "characters")})


def measure(predictions, text):
    """The figures of (log_p (n, V), targets (n,)) on a text: a dict, each a number."""
    sums = torch.zeros(4, dtype=torch.float64)      # tokens, nats, first guesses, among first five
    for log_p, targets in predictions:
        chosen = log_p.gather(-1, targets[:, None])                     # (n, 1)
        rank = (log_p > chosen).sum(dim=-1)                             # (n,), 0: the most probable
        sums += torch.stack([torch.ones_like(rank), -chosen[:, 0], rank == 0, rank < 5]
                            ).cpu().double().sum(dim=-1)
    n, nats, first, five = sums.tolist()
    return {"loss": nats / n, "perplexity": math.exp(nats / n),
            "bits_per_byte": nats / math.log(2) / text.bytes,
            "bits_per_character": nats / math.log(2) / text.characters,
            "top1_accuracy": first / n, "top5_accuracy": five / n}


def main():
    parser = Parser("Measure trained models, several in one table.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="name or folder (default: newest)")
    parser.add_argument("--text", metavar="FILE", help="instead of the validation split")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a row")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    options = parser.parse_args()
    with clear_errors():
        device, rows = pick_device(options.device), []
        for folder in dict.fromkeys(map(find_run, options.runs or [None])):
            model, text = load_run(folder, device)[0], open_text(folder, options.text)
            rows.append({"model": str(folder), "text": text.name}
                        | measure(log_probs(model, text.ids), text))
        rows.sort(key=lambda row: row["bits_per_byte"])
        if not options.json:
            print(f"{'model':26}   loss  perplexity  bits/byte  bits/char   top-1   top-5  text")
        for row in rows:
            print(json.dumps(row) if options.json else (
                f"{row['model']:26}{row['loss']:7.4f}{row['perplexity']:12.3f}"
                f"{row['bits_per_byte']:11.4f}{row['bits_per_character']:11.4f}"
                f"{row['top1_accuracy']:8.2%}{row['top5_accuracy']:8.2%}  {row['text']}"))


if __name__ == "__main__":
    main()
