"""
How fast a run writes with a draft running ahead, beside transformers' generate() on its weights.

    python train.py --arch gpt2 --name old && python tests/bench_speculative.py old
    python tests/bench_speculative.py old --quick       # does it run? The figures mean nothing

For a run with --arch gpt2 or llama: beyond/export.py makes of it what transformers reads. The draft
counts 4-grams of the run's corpus; how many tokens it proposes, its acceptance rate decides.
"""
import tempfile
from pathlib import Path

import torch

from bench_model import ABOUT
from bench_tokenizer import race
from beyond.export import export
from beyond.speculative import best_k, measure, ngram_draft, speculate
from data import load_corpus
from sample import SampleConfig, find_run, generate, load_run, picker, read_config
from tokenizer import Parser, clear_errors

import transformers


def main():
    parser = Parser("Measure how fast a run writes with a draft running ahead.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--quick", action="store_true", help="20 tokens, one round")
    options = parser.parse_args()
    n, rounds = (20, 1) if options.quick else (200, 7)
    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        run = find_run(options.run)
        model, tokenizer = load_run(run)
        corpus = load_corpus(read_config(run)["corpus"]["folder"], tokenizer)
        export(model, tokenizer, Path(folder))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    draft = ngram_draft(corpus.train, tokenizer.vocab_size)
    ids = tokenizer.encode("Enter the king, and")
    print(f"{ABOUT}, {torch.get_num_threads()} threads; medians of {rounds}")
    for t in (0.0, 0.8):
        c = SampleConfig(temperature=t)
        rate, cost = measure(model, draft, ids, c)
        k, _ = best_k(rate, cost)
        print(f"\ntemperature {t}: {rate:.1%} of the draft's tokens are accepted, one costs "
              f"{cost:.2f} of a pass; k is {k}")
        how = {"do_sample": True, "temperature": t, "top_k": 0} if t else {"do_sample": False}
        prompt = torch.tensor([ids])                                        # (1, T)
        race(f"{n} tokens at temperature {t}", {
            "ours, with the draft": lambda: list(speculate(model, draft, ids, n, k, c)),
            "ours alone": lambda: list(generate(model, [ids], n, picker(1, c))),
            "transformers": lambda: theirs.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n,
                min_new_tokens=n, pad_token_id=tokenizer.eot, **how)},
            rounds, "transformers", n, "tokens/s")


if __name__ == "__main__":
    main()
