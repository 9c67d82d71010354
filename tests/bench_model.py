"""
How fast the model learns, raw and fused, beside transformers' GPT-2; and the memory it takes.

    python tests/bench_model.py             # about two minutes on two cores; on a GPU a few more
    python tests/bench_model.py --quick     # does it run? The figures mean nothing

All is in float32, but for the last table, which needs a GPU: mixed with bfloat16, and compiled.
"""
import itertools

import torch
import torch.nn.functional as F
import transformers

from bench_tokenizer import race
from model import ARCHS, GPT, GPTConfig
from tokenizer import Parser

ABOUT = (f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, "
         f"transformers {transformers.__version__}")
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
    for arch, k in itertools.product(ARCHS, kernels):
        model = GPT(GPTConfig(**ARCHS[arch] | shape | dict(kernels=k))).to(targets.device)
        found[f"{arch}, {k}"] = model, lambda ids, model=model: model.config.ops.cross_entropy(
            model(ids), targets)
    return found


def learn(model, loss, ids):
    """A function that runs forward and backward once."""
    def run():
        loss(ids).backward()
        model.zero_grad()
        torch.accelerator.synchronize() if ids.is_cuda else None
    return run


def kept(model, loss, ids):
    """MiB that a forward pass keeps for backward, the weights left out."""
    saved, weights = [], {x.data_ptr() for x in (*model.parameters(), *model.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        loss(ids)
    sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in saved}
    return sum(sizes[address] for address in sizes.keys() - weights) / 2 ** 20


def bench_bfloat16(device, shape, B, rounds, peak):
    L, _, C, T, V = shape.values()
    ids, targets = torch.randint(V, (2, B, T), device=device)               # (B, T) each
    found = losses(shape, targets, ["fused"])
    seconds = race(f"bfloat16, compiled, {L} layers, {C} wide, {B} x {T} tokens, {device}", {
        name: learn(model, torch.compile(torch.autocast(device, torch.bfloat16)(loss)), ids)
        for name, (model, loss) in found.items()}, rounds, "transformers", B * T, "tokens/s")
    print(f"\n| utilisation, if the peak is {peak:.0f} TFLOP/s | share |\n|---|---:|")
    for name, (model, _) in found.items():          # 6 FLOPs for each weight; and attention
        inside = sum(p.numel() for n, p in model.named_parameters() if "blocks." in n or ".h." in n)
        flops = B * T * (6 * (inside + C * V) + 12 * L * C * T)
        print(f"| {name} | {flops / seconds[name] / peak / 1e12:.1%} |")


def main():
    parser = Parser("Measure how fast the model learns, and what memory that takes.")
    parser.add_argument("--quick", action="store_true", help="small batches, one round")
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s of the GPU (H100: 989)")
    options = parser.parse_args()
    rounds = 1 if options.quick else 15
    print(f"{ABOUT}; medians of {rounds}")
    for shape, B in ((SMALL, 16), (LARGE, 4)):
        L, _, C, T = shape.values()
        ids, targets = torch.randint(1024, (2, 1 if options.quick else B, T))   # (B, T) each
        runs = {name: learn(*pair, ids) for name, pair in losses(shape, targets).items()}
        race(f"forward and backward, {L} layers, {C} wide, {len(ids)} x {T} tokens", runs, rounds,
             "transformers", ids.numel(), "tokens/s")
    less = losses(LARGE | dict(activation_checkpointing=True), targets)
    print("\n| kept for backward, of the last | MiB | with activation checkpointing |\n|---|--:|--:|")
    for name, pair in list(losses(LARGE, targets).items())[1:]:
        print(f"| {name} | {kept(*pair, ids):.1f} | {kept(*less[name], ids):.1f} |", flush=True)
    if torch.cuda.is_available():
        bench_bfloat16("cuda", GPT2, 1 if options.quick else 16, rounds, options.peak)


if __name__ == "__main__":
    main()
