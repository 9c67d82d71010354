"""
How fast sample.py writes, next to what, and how near to what memory allows.

    python tests/bench_sample.py                # everything; three minutes on a quiet machine
    python tests/bench_sample.py --quick        # half a minute: one round, no long texts
    python tests/bench_sample.py --threads 1

Prints Markdown tables. Contestants take turns, so that a busy moment slows all; the figures are
medians over the rounds, the ratios medians of the ratios within a round. `transformers` writes the
same number of tokens with a GPT-2 of the same shape, in float32, through its own cache.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from bench_model import theirs, transformers
from model import ARCHS, SHAPES, GPT, GPTConfig
from sample import SampleConfig, generate, generate_batch, greedy, picker

CHARACTERS = dict(n_layer=6, n_head=6, n_embd=384, context_length=256, vocab_size=84)


def ours(arch, shape, dtype=torch.float32):
    """An untrained model, laid out as sample.py does. Its last matrices are not left at zero."""
    model = GPT(GPTConfig(**ARCHS[arch] | shape | dict(zero_init=False))).eval().to(dtype)
    return model.lay_out()


def writer(model, prompt, n, **settings):
    """A function that writes n tokens."""
    return lambda: sum(1 for _ in generate(model, prompt, n, greedy, **settings))


def their_writer(shape, prompt, n):
    """The same by transformers. It cannot slide: its window is as long as the whole text."""
    L = max(shape["context_length"], len(prompt) + n)
    model = theirs(GPTConfig(**ARCHS["gpt2"] | shape | dict(context_length=L))).eval()
    model.config.use_cache = model.generation_config.use_cache = True
    ids = torch.tensor([prompt])

    @torch.inference_mode()
    def write():
        text = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n,
                              min_new_tokens=n, do_sample=False, pad_token_id=0)
        return text.shape[1] - len(prompt)
    return write


def race(title, contestants, rounds, once=()):
    """Time each in turn; print a table. Those named in once run in the first round only."""
    ratios = "transformers" in contestants
    print(f"\n| {title} | tokens/s | {'to `transformers` |' if ratios else ''}")
    print("|---|---:|" + "---:|" * ratios)
    rates = {name: [] for name in contestants}
    for name, write in contestants.items():
        if name not in once:
            write()         # warm up
    for r in range(rounds):
        for name, write in contestants.items():
            if r == 0 or name not in once:
                start = time.perf_counter()
                n = write()
                rates[name].append(n / (time.perf_counter() - start))
    for name, rate in rates.items():
        row = f"| {name} | {statistics.median(rate):,.0f} |"
        if ratios:
            both = [a / b for a, b in zip(rate, rates["transformers"])]
            row += f" {statistics.median(both):.2f} |"
        print(row, flush=True)
    return {name: statistics.median(rate) for name, rate in rates.items()}


def gigabytes_per_second():
    """What summing a tensor far larger than any cache reaches, the best of ten."""
    numbers = torch.ones(2 ** 26)                                   # 268 MB
    times = []
    for _ in range(10):
        start = time.perf_counter()
        numbers.sum()
        times.append(time.perf_counter() - start)
    return numbers.nbytes / min(times) / 1e9


def weights_read(model):
    """Bytes of the weights that every token needs: all but the tables it takes a row from."""
    c = model.config
    tables = (c.ngram - 1) * c.ngram_rows + (0 if c.tie_embeddings else c.vocab_size) + (
        c.context_length if c.position == "learned" else 0)
    return (model.n_parameters() - tables * c.n_embd) * model.token_table.element_size()


def bench_lengths(quick):
    """Short and long texts; the long ones slide."""
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]
    gpt2, modern, half = ours("gpt2", CHARACTERS), ours("modern", CHARACTERS), ours(
        "modern", CHARACTERS, torch.bfloat16)
    compiled = ours("modern", CHARACTERS)
    compiled.compile(dynamic=True)
    for n in (250,) if quick else (250, 1000):
        contestants = {
            "ours, gpt2": writer(gpt2, prompt, n), "ours, modern": writer(modern, prompt, n),
            "ours, modern, bfloat16": writer(half, prompt, n),
            "ours, modern, no cache": writer(modern, prompt, n, cached=False)}
        if not quick:
            contestants["ours, modern, compiled"] = writer(compiled, prompt, n)
        once = ["ours, modern, no cache", "ours, modern, bfloat16"]
        if transformers:
            contestants["transformers"] = their_writer(CHARACTERS, prompt, n)
        rates = race(f"{n:,} new tokens, 6 layers, 6 heads, 384 wide, context 256", contestants,
                     1 if quick else 5 if n < 300 else 3, once)
    return {name: (rates[name], weights_read(model))
            for name, model in (("ours, gpt2", gpt2), ("ours, modern", modern))}


def bench_large(quick):
    """The shape of GPT-2."""
    shape, prompt, n = SHAPES["gpt2"], list(range(1, 65)), 64
    gpt2 = ours("gpt2", shape)
    contestants = {"ours, gpt2": writer(gpt2, prompt, n)}
    if transformers:
        contestants["transformers"] = their_writer(shape, prompt, n)
    rates = race("64 new tokens after 64, 12 layers, 12 heads, 768 wide (124M)", contestants,
                 1 if quick else 5)
    return {"ours, 124M": (rates["ours, gpt2"], weights_read(gpt2))}


def bench_batches(quick):
    """Several samples in one pass."""
    model = GPT(GPTConfig(**CHARACTERS, zero_init=False)).eval()
    contestants = {}
    for B in (1, 4, 16):
        def write(B=B):
            prompts, c = [[1, 2, 3]] * B, SampleConfig(top_k=20)
            return sum(len(step) for step in generate_batch(model, prompts, 50,
                                                            picker(c, prompts)))
        contestants[f"{B} at once"] = write
    race("50 new tokens each, sampled with top-k, all samples together", contestants,
         1 if quick else 5)


def main():
    parser = argparse.ArgumentParser(description="Measure how fast sample.py writes.")
    parser.add_argument("--quick", action="store_true", help="one round, no long texts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    print(f"{options.threads} threads, PyTorch {torch.__version__}"
          + (f", transformers {transformers.__version__}" if transformers else ""))
    memory = gigabytes_per_second()
    reading = bench_lengths(options.quick) | bench_large(options.quick)
    bench_batches(options.quick)
    memory = max(memory, gigabytes_per_second())
    print("\n| reading weights | GB/s | share |\n|---|---:|---:|")
    print(f"| summing a large tensor | {memory:.1f} | 100% |")
    for name, (rate, size) in reading.items():
        print(f"| {name}, {size / 1e6:.0f} MB a token | {rate * size / 1e9:.1f} "
              f"| {rate * size / 1e9 / memory:.0%} |")


if __name__ == "__main__":
    main()
