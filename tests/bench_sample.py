"""
How fast the model writes, with and without the KV cache, beside transformers' generate().

    python tests/bench_sample.py            # about two minutes on two cores
    python tests/bench_sample.py --quick    # does it run? The figures mean nothing

Greedy, by untrained models. Without cache, each token costs a pass over the text; that runs once.
"""
import torch

from bench_model import ABOUT, LARGE, race, theirs
from model import ARCHS, GPT, GPTConfig
from sample import generate
from tokenizer import Parser


@torch.inference_mode()
def write(model, n, cache):
    prompt = [1, 2, 3, 4, 5, 6]     # with 250 more the context is full, but need not slide
    ids = torch.tensor([prompt])                                            # (1, T)
    if not isinstance(model, GPT):
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False,
                       use_cache=cache)
    elif cache:
        list(generate(model, [prompt], n, lambda logits: logits.argmax(dim=-1)))
    else:
        for _ in range(n):
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(dim=-1)], dim=1)    # (1, T + 1)


def main():
    parser = Parser("Measure how fast the model writes.")
    parser.add_argument("--quick", action="store_true", help="20 tokens, one round")
    n, rounds = (20, 1) if parser.parse_args().quick else (250, 7)
    print(f"{ABOUT}, {torch.get_num_threads()} threads; medians of {rounds}")
    models = {arch: GPT(GPTConfig(**ARCHS[arch] | LARGE)) for arch in ("gpt2", "modern")}
    models["transformers"] = theirs(GPTConfig(**LARGE))
    runs = {name + end: lambda model=model, cache=not end: write(model.eval(), n, cache)
            for end in ("", ", no cache") for name, model in models.items()}
    race(f"{n} tokens, 6 layers, 6 heads, 384 wide", runs, rounds, "transformers", n, "tokens/s",
         once=[name for name in runs if "no cache" in name])


if __name__ == "__main__":
    main()
