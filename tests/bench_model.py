"""
How fast the model learns, raw and fused, beside transformers' GPT-2; and the memory it takes.

    python tests/bench_model.py             # about two minutes on two cores; on a GPU a few more
    python tests/bench_model.py --quick     # does it run? The figures mean nothing

All is in float32, but for the last table, which needs a GPU: mixed with bfloat16, and compiled.
"""
from functools import partial

import torch
import torch.nn.functional as F
import transformers

from bench_tokenizer import race
from model import ARCHS, GPT, GPTConfig
from tokenizer import Parser

ABOUT = f"PyTorch {torch.__version__} and transformers {transformers.__version__}, float32"
SMALL = dict(n_layer=2, n_head=4, n_embd=128, context_length=128)
LARGE = dict(n_layer=6, n_head=6, n_embd=384, context_length=256)
GPT2 = dict(n_layer=12, n_head=12, n_embd=768, context_length=1024, vocab_size=50_304)


def theirs(c):
    """transformers' GPT-2 of the same shape."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_embd, n_layer=c.n_layer,
        n_head=c.n_head, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0,
        eos_token_id=None, attn_implementation="sdpa"))


def losses(shape, targets, kernels=("raw", "fused")):
    """By name: a model, and the function from ids to its loss."""
    gpt2 = theirs(GPTConfig(**shape)).to(targets.device).train()
    found = {"transformers": (gpt2, lambda ids: F.cross_entropy(
        gpt2(input_ids=ids, use_cache=False).logits.flatten(0, 1), targets.flatten()))}
    for name, k in ((arch, k) for arch in ARCHS for k in kernels):
        model = GPT(GPTConfig(**ARCHS[name] | shape | dict(kernels=k))).to(targets.device)
        found[f"{name}, {k}"] = model, lambda ids, model=model: model.config.ops.cross_entropy(
            model(ids), targets)
    return found


def learn(model, loss, ids):
    """Forward and backward, once."""
    loss(ids).backward()
    model.zero_grad()
    if ids.is_cuda:
        torch.cuda.synchronize()


def kept(model, loss, ids):
    """MiB that a forward pass keeps for backward, the weights left out."""
    saved, weights = [], {x.data_ptr() for x in (*model.parameters(), *model.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        loss(ids)
    sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in saved}
    return sum(sizes[address] for address in sizes.keys() - weights) / 2 ** 20


def bench_bfloat16(device, shape, B, rounds):
    L, _, C, T, V = shape.values()
    ids, targets = torch.randint(V, (2, B, T), device=device)               # (B, T) each
    found = losses(shape, targets, ["fused"])
    seconds = race(f"bfloat16, compiled, {L} layers, {C} wide, {B} x {T} tokens, {device}", {
        name: partial(learn, m, torch.autocast(device, torch.bfloat16)(torch.compile(loss)), ids)
        for name, (m, loss) in found.items()}, rounds, "transformers", B * T, "tokens/s")
    print("\n| utilisation | TFLOP/s | share of an H100's 989 |\n|---|---:|---:|")
    for name, (model, _) in found.items():          # 6 FLOPs for each weight; and attention
        inside = sum(p.numel() for n, p in model.named_parameters() if "blocks." in n or ".h." in n)
        rate = B * T * (6 * (inside + C * V) + 12 * L * C * T) / seconds[name] / 1e12
        print(f"| {name} | {rate:.1f} | {rate / 989:.1%} |")


def main():
    parser = Parser("Measure how fast the model learns, and what memory that takes.")
    parser.add_argument("--quick", action="store_true", help="small batches, one round")
    rounds = 1 if (quick := parser.parse_args().quick) else 15
    print(f"{ABOUT}, {torch.get_num_threads()} threads; medians of {rounds}")
    for shape, B in ((SMALL, 16), (LARGE, 4)):
        L, _, C, T = shape.values()
        ids, targets = torch.randint(1024, (2, 1 if quick else B, T))   # (B, T) each
        runs = {n: partial(learn, *pair, ids) for n, pair in losses(shape, targets).items()}
        race(f"forward and backward, {L} layers, {C} wide, {len(ids)} x {T} tokens", runs, rounds,
             "transformers", ids.numel(), "tokens/s")
    less = losses(LARGE | dict(activation_checkpointing=True), targets)
    print("\n| kept for backward, by these | MiB | with activation checkpointing |\n|---|--:|--:|")
    for name, pair in list(losses(LARGE, targets).items())[1:]:
        print(f"| {name} | {kept(*pair, ids):.1f} | {kept(*less[name], ids):.1f} |", flush=True)
    if torch.cuda.is_available():
        bench_bfloat16("cuda", GPT2, 1 if quick else 16, rounds)


if __name__ == "__main__":
    main()
