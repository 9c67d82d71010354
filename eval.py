"""
Evaluation: how good is the model, on text it has never learned from?

Four figures, all from the same pass over the whole validation split, the same every time:

    loss            the mean surprise, -ln p(the token that came), in nats: lower is better
    perplexity      e to the loss: the model hesitates as if between so many equally likely tokens
    bits per byte   the surprise over the whole split in bits, for each byte of its text: what a
                    perfect compressor would need, and fair between tokenizers, as bytes are bytes
    accuracy        how often the likeliest token was the one that came

Next to them, the same for a model that knows nothing and gives every token the same chance.

    python eval.py                  # the newest run
    python eval.py runs/nano --json
"""
import json
import math

from tqdm import tqdm

from data import Parser, clear_errors, every_window, reopen
from model import score
from sample import find_run, load_run, pick_device, read_config


def figures(nats, correct, n_tokens, n_bytes):
    """What the sums of a whole split say: summed nats, right guesses, tokens asked, bytes."""
    loss = nats / n_tokens
    return {"loss": loss, "perplexity": math.exp(loss),
            "bits_per_byte": nats / math.log(2) / n_bytes, "accuracy": correct / n_tokens}


def main():
    parser = Parser("Measure a trained model on the validation split of its corpus.")
    parser.add_argument("run", nargs="?", help="folder of the run (default: the newest)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    options = parser.parse_args()

    with clear_errors():
        device = pick_device(options.device)
        folder = find_run(options.run)
        model, _ = load_run(folder, device)
        config = read_config(folder)
        corpus = reopen(config["corpus"], config["data"])

    T, V = model.config.context_length, model.config.vocab_size
    n_bytes = corpus.meta["val"]["bytes"]
    B = max(1, 4096 // T)
    batches = tqdm(every_window(corpus.val, B, T), total=math.ceil(len(corpus.val) / (B * T)),
                   unit="batch", leave=False, disable=None)
    with clear_errors(kinds=()):        # Ctrl-C is no error
        nats, correct, n_tokens = score(model, batches)
    table = {str(folder): figures(nats, correct, n_tokens, n_bytes),
             "knows nothing": figures(n_tokens * math.log(V), n_tokens / V, n_tokens, n_bytes)}

    if options.json:
        print(json.dumps({"run": str(folder), "tokens": n_tokens, "bytes": n_bytes}
                         | table[str(folder)]))
        return
    print(f"validation split of {corpus.folder}: {n_tokens:,} tokens foretold, {n_bytes:,} bytes\n")
    print(f"{'model':24}{'loss (nats)':>12}{'perplexity':>12}{'bits/byte':>11}{'accuracy':>10}")
    for name, f in table.items():
        print(f"{name:24}{f['loss']:12.4f}{f['perplexity']:12.3f}{f['bits_per_byte']:11.4f}"
              f"{f['accuracy']:10.2%}")
    unknown = corpus.meta["val"]["unknown"] / corpus.meta["val"]["tokens"]
    if unknown:
        print(f"\n{unknown:.1%} of the tokens are <unk>: what they stand for need not be foretold, "
              "which flatters\nevery figure above")


if __name__ == "__main__":
    main()
