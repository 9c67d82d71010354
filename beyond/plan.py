"""
Plan: what it takes to train a large model on many GPUs, worked out before one is rented.

    does it fit?     weights, gradients and AdamW's states are 16 bytes a parameter (bfloat16 2 + 2,
                     float32 weights and two means 4 + 4 + 4); beside them lie the activations
    does it wait?    the bytes a GPU sends in a step, over the bandwidth of its link, against the
                     time it computes; well done, most of the one is hidden behind the other
    how long?        the FLOPs of all tokens, over what a GPU really does: a share of its peak

    python -m beyond.plan                               # 7B and 70B on 8 and on 512 GPUs
    python -m beyond.plan --gpu H100 --across 50        # newer GPUs, and a faster network

A layout is tensor x pipeline x data. Tensor ranks sit in one machine, as each product waits for
their messages; the others in many. Every layout here computes each block again in backward
(activation checkpointing), and reads --texts at once. Below are published runs, and the share of
their GPUs' peak that they reached. per_rank() has the formulas of beyond/parallel.py's ways;
its tests hold them against what ranks keep and send.

Papers: Llama 2 (Touvron et al., 2023); OLMo (Groeneveld et al., 2024); ZeRO (Rajbhandari et al.,
2020), for the 16 bytes.
"""
import json
import math
from dataclasses import replace

from beyond.anatomy import PEAK, activations, block_matrices, flops_per_token, parameters
from beyond.tensor import cut_config
from model import ARCHS, GPTConfig
from tokenizer import Parser, clear_errors


def per_rank(way, c, B, T, R, rank=0, M=1):
    """How many numbers rank r of R keeps and sends in a step of B texts of T tokens, by each way:
    weights, activations, sent. Gradients are as many as weights, AdamW's means twice as many."""
    R = 1 if way == "alone" else R
    n, L, C, ring, x = parameters(c), c.n_layer, c.n_embd, (R - 1) / R, B * T * c.n_embd
    total, norm = sum(n.values()), C * (1 + (c.bias and c.norm == "layernorm"))
    qkv = (c.n_head + 2 * c.n_kv_head) * c.head_size
    up = c.mlp_width * (2 if c.activation == "swiglu" else 1)
    block = block_matrices(c) + 2 * norm + c.bias * (qkv + up + 2 * C)
    rest = total - L * block
    if way in ("alone", "data"):
        return total, activations(c, B / R, T), 2 * ring * total
    if way == "sharded":        # a row of numbers is filled up to a multiple of R
        blocks, other = L * math.ceil(block / R), math.ceil(rest / R)
        kept = activations(replace(c, activation_checkpointing=True), B / R, T) + rest
        return blocks + other, kept, (R - 1) * (3 * blocks + 2 * other)
    if way == "tensor":
        part = cut_config(c, R)
        once = (2 * L + 1) * norm + n["position table"] + c.bias * (rank == 0) * L * 2 * C
        split = total - (2 * L + 1) * norm - n["position table"] - c.bias * L * 2 * C
        kept = activations(part, B, T) - L * (x - x / R)        # of the heads' results, 1/R
        return split / R + once, kept, 2 * ring * (x * (4 * L + 1 + c.ngram) + 3 * B * T)
    stages = [L * (r + 1) // R - L * r // R for r in range(R)]
    first, last, table = rank == 0, rank == R - 1, C * c.vocab_size
    ends = first * (rest - norm - table * (not c.tie_embeddings)) + last * (norm + table)
    top = activations(replace(c, n_layer=0), B / M, T)          # of the last norm and the logits
    each = activations(replace(c, n_layer=1), B / M, T) - top
    held = M if way == "gpipe" else min(M, R - rank)            # micro-batches
    tied = table * (c.tie_embeddings and (first or last))
    sent = x * ((not first) + (not last)) + tied
    return stages[rank] * block + ends, held * (stages[rank] * each + last * top), sent


LLAMA = ARCHS["llama"] | dict(vocab_size=32_000, context_length=4096)
MODELS = {"7B": GPTConfig(**LLAMA | dict(n_layer=32, n_head=32, n_kv_head=32, n_embd=4096,
                                         mlp_width=11_008)),
          "70B": GPTConfig(**LLAMA | dict(n_layer=80, n_head=64, n_kv_head=8, n_embd=8192,
                                          mlp_width=28_672))}
PUBLISHED = [       # run, model, GPU, tokens, GPU hours
    ("Llama 2 7B", "7B", "A100", 2e12, 184_320),
    ("Llama 2 70B", "70B", "A100", 2e12, 1_720_320),
    ("OLMo's code, 7B", "7B", "H100", 3.6e7, 1)]        # published as 10,000 tokens a second


def layouts(gpus):
    """tensor, pipeline, data, sharded or not, for the table. A machine has 8 GPUs."""
    for tensor, pipeline in ((1, 1), (8, 1), (1, 8), (8, 8)):
        if gpus % (tensor * pipeline) == 0:
            data = gpus // tensor // pipeline
            yield tensor, pipeline, data, False
            if data > 1 and pipeline == 1:
                yield tensor, pipeline, data, True


def plan(c, tensor, pipeline, data, sharded, o):
    """What a GPU keeps, in gigabytes, and for how long of a step it computes, and sends."""
    T, texts = c.context_length, o.batch / c.context_length / data
    M = texts / min(o.texts, texts)                                     # micro-batches
    weights = per_rank("tensor", c, 1, T, tensor)[0] / pipeline
    block = per_rank("tensor", replace(c, n_layer=1), 1, T, tensor)[1]  # and last norm, logits
    inputs = T * c.n_embd * c.n_layer / pipeline * min(M, pipeline)     # what blocks read
    kept = 2 * texts / M * (inputs + block)                             # bfloat16: 2 bytes each
    inside = 2 * 1.5 * per_rank("tensor", c, texts, T, tensor)[2] / pipeline    # and forward again
    gradients = 2 * per_rank("data", c, 1, T, data)[2] / tensor / pipeline
    if sharded:         # gathered twice and scattered once for each micro-batch
        gradients *= 1.5 * M
    vectors = 2 * 2 * texts * T * c.n_embd * (pipeline > 1)
    near = tensor * pipeline * data <= 8
    sends = inside / o.inside + (gradients + vectors) / (o.inside if near else o.across)
    flops = flops_per_token(c, T) * o.batch / (tensor * pipeline * data) * 4 / 3    # forward again
    computes = flops / (o.share * PEAK[o.gpu]) * (1 + (pipeline - 1) / M)           # the bubble
    return {"tensor": tensor, "pipeline": pipeline, "data": data, "sharded": sharded,
            "states_GB": 16 * weights / (data if sharded else 1) / 1e9,
            "activations_GB": kept / 1e9, "computes": computes, "sends": sends / 1e9}


def main():
    parser = Parser("Plan the training of a model of 7 or 70 billion parameters.")
    for name, default, text in (
            ("share", 0.5, "of a GPU's peak that products reach while it computes"),
            ("memory", 80.0, "gigabytes that a GPU has"),
            ("inside", 300.0, "gigabytes a second from a GPU to one in its machine"),
            ("across", 25.0, "gigabytes a second from a GPU to one in another machine"),
            ("texts", 1.0, "texts that a GPU reads at once"),
            ("batch", 2.0 ** 22, "tokens in a step"), ("tokens", 2e12, "tokens to learn from")):
        parser.add_argument(f"--{name}", type=float, default=default, metavar="N",
                            help=f"{text} (default: {default:,g})")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 512], metavar="N",
                        help="how many (default: 8 512)")
    parser.add_argument("--gpu", choices=PEAK, default="A100", help="(default: A100)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a row")
    o = parser.parse_args()
    with clear_errors():
        for name in ("share", "memory", "inside", "across", "texts", "batch", "tokens"):
            if not 0 < getattr(o, name) < math.inf:
                raise ValueError(f"--{name} must be above 0")
        if any(n < 8 or n % 8 for n in o.gpus) or o.batch / 4096 < max(o.gpus):
            raise ValueError("--gpus must be multiples of 8, a machine's, and --batch at least "
                             f"{4096 * max(o.gpus):,}, a text of 4,096 tokens for each")
    rows = [{"model": model, "GPUs": gpus} | plan(MODELS[model], *layout, o)
            for model in MODELS for gpus in o.gpus for layout in layouts(gpus)]
    if o.json:
        return print(*map(json.dumps, rows), sep="\n")
    print(f"{'':31}keeps, GB of {o.memory:<10g} in a step, seconds   days for {o.tokens:g}\n"
          "model GPUs  tensor x pipe x data    states  activations  computes     sends      tokens")
    for r in rows:
        steps, both = o.tokens / o.batch / 86_400, (r["computes"], r["sends"])
        fits = r["states_GB"] + r["activations_GB"] <= o.memory
        days = f"{steps * max(both):,.0f} to {steps * sum(both):,.0f}" if fits else "too large"
        layout = f"{r['tensor']} x {r['pipeline']} x {r['data']}{' sharded' * r['sharded']}"
        print(f"{r['model']:>5}{r['GPUs']:5}  {layout:20}{r['states_GB']:10,.1f}"
              f"{r['activations_GB']:13,.1f}{r['computes']:10,.1f}{r['sends']:10,.1f}{days:>17}")
    print("\nPublished runs: the FLOPs that their tokens took, over their GPU hours' at peak")
    for run, model, gpu, tokens, hours in PUBLISHED:
        c = MODELS[model]
        share = tokens * flops_per_token(c, c.context_length) / (hours * 3600 * PEAK[gpu])
        print(f"{run:18}{tokens:.2g} tokens in {hours:,} {gpu} hours: {share:.0%}")


if __name__ == "__main__":
    main()
