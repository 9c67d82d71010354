"""
How fast model.py is, and next to what.

    python tests/bench_model.py                 # everything; a few minutes on a quiet machine
    python tests/bench_model.py --threads 1     # with one core
    python tests/bench_model.py train memory    # only these

Times are of alternating runs, so that a busy moment slows both sides: each round measures every
contestant once, in turn; the table gives each one's median round, and the ratio is the median of
the ratios within a round. `transformers` is compared with where it is installed.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from anatomy import flops_per_token
from model import ARCHS, SHAPES, GPT, GPTConfig

try:
    import transformers
    transformers.logging.set_verbosity_error()
except ImportError:
    transformers = None

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}  # bf16 FLOP/s


def seconds(run, at_least=0.3):
    """Mean seconds of one run, over as many as fill at_least."""
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < at_least:
        run()
        count += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return (now - start) / count


def compare(title, contestants, work, unit, rounds=7):
    """Time name: function pairs in turn; print each one's rate, and how the first compares."""
    print(f"\n{title}")
    for run in contestants.values():
        run()
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            times[name].append(seconds(run))
    first = next(iter(contestants))
    for name in contestants:
        ratio = statistics.median(b / a for a, b in zip(times[first], times[name]))
        beside = "" if name == first else f"   {first} is {ratio:.2f} x as fast"
        print(f"    {name:34}{work / statistics.median(times[name]):12,.0f} {unit}{beside}")
    return {name: statistics.median(t) for name, t in times.items()}


def theirs(c, device="cpu"):
    """transformers' GPT-2 of the same shape."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_embd, n_layer=c.n_layer,
        n_head=c.n_head, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        attn_implementation="sdpa", bos_token_id=0, eos_token_id=None)).to(device)


def step(model, ids, targets):
    """Forward and backward of one of ours. The loss is the mean over every target."""
    def run():
        model.ops.cross_entropy(model(ids), targets).backward()
        model.zero_grad()
    return run


def their_step(model, ids, targets):
    """The same of theirs, with the targets as they are and PyTorch's own cross-entropy."""
    def run():
        logits = model(input_ids=ids).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        model.zero_grad()
    return run


def bench_train():
    for name, shape, B in (("nano", SHAPES["nano"], 8), ("nano, 256 wide", dict(n_embd=256), 8),
                           ("6 layers, 384 wide", SHAPES["baby"] | dict(dropout=0.0), 2)):
        c = GPTConfig(**ARCHS["gpt2"] | shape)
        ids, targets = torch.randint(c.vocab_size, (2, B, c.context_length))
        contestants = {
            "ours, gpt2, fused": step(GPT(c), ids, targets),
            "ours, gpt2, raw": step(GPT(GPTConfig(**ARCHS["gpt2"] | shape, kernels="raw")),
                                    ids, targets),
            "ours, modern, fused": step(GPT(GPTConfig(**shape)), ids, targets),
            "ours, modern, raw": step(GPT(GPTConfig(**shape, kernels="raw")), ids, targets)}
        if transformers:
            contestants["transformers, gpt2"] = their_step(theirs(c).train(), ids, targets)
        compare(f"forward and backward, {name}, {B} x {c.context_length} tokens", contestants,
                ids.numel(), "tokens/s")


def bench_memory():
    from test_model import saved_for_backward
    print("\nkept for backward, the shape of baby, 2 x 256 tokens")
    for arch in ARCHS:
        for on in (False, True):
            c = GPTConfig(**ARCHS[arch] | SHAPES["baby"] | dict(dropout=0.0),
                          activation_checkpointing=on)
            gpt = GPT(c)
            ids, targets = torch.randint(c.vocab_size, (2, 2, c.context_length))
            _, size = saved_for_backward(lambda: gpt.ops.cross_entropy(gpt(ids), targets), gpt)
            took = seconds(step(gpt, ids, targets), at_least=1.0)
            print(f"    {arch:8}{'with' if on else 'without'} activation checkpointing"
                  f"{size / 2 ** 20:10.1f} MiB{took * 1e3:10.1f} ms a step")


def bench_cuda():
    """The gpt2 preset in bfloat16, compiled, on a GPU: tokens/s, and the share of its peak."""
    name = torch.cuda.get_device_name()
    peak = next((flops for key, flops in PEAK.items() if key in name), None)
    B = 16
    # The vocabulary is rounded up to a multiple of 128, for both: it suits the matrix units.
    shape = SHAPES["gpt2"] | dict(vocab_size=50_304)
    ids, targets = torch.randint(50_257, (2, B, 1024), device="cuda")
    contestants, flops = {}, {}

    def in_bfloat16(run):
        def mixed():
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = run()
            loss.backward()
        return mixed

    for arch in ARCHS:
        c = GPTConfig(**ARCHS[arch] | shape)
        gpt = GPT(c).cuda()
        forward = torch.compile(lambda gpt=gpt: gpt.ops.cross_entropy(gpt(ids), targets))
        key = f"ours, {arch}, compiled"
        contestants[key], flops[key] = in_bfloat16(forward), flops_per_token(c, 1024)
    if transformers:
        c = GPTConfig(**ARCHS["gpt2"] | shape)
        other = theirs(c, "cuda")
        forward = torch.compile(lambda: torch.nn.functional.cross_entropy(
            other(input_ids=ids).logits.flatten(0, 1), targets.flatten()))
        key = "transformers, gpt2, compiled"
        contestants[key], flops[key] = in_bfloat16(forward), flops_per_token(c, 1024)
    times = compare(f"forward and backward, gpt2 preset, {B} x 1024 tokens, bfloat16, on {name}",
                    contestants, B * 1024, "tokens/s")
    for key, took in times.items():
        rate = flops[key] * B * 1024 / took
        share = f", {rate / peak:.1%} of the peak" if peak else ""
        print(f"    {key:34}{rate / 1e12:12.1f} TFLOP/s{share}")


def main():
    parser = argparse.ArgumentParser(description="Measure model.py's speed and memory.")
    benches = {"train": bench_train, "memory": bench_memory, "cuda": bench_cuda}
    parser.add_argument("which", nargs="*", metavar="WHICH", help=f"{', '.join(benches)}; all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    unknown = set(options.which) - set(benches)
    if unknown:
        parser.error(f"there is no benchmark {unknown.pop()}; choose {', '.join(benches)}")
    threads = options.threads
    torch.manual_seed(1)
    for name in options.which or benches:
        if name == "cuda" and not torch.cuda.is_available():
            print("\nno CUDA GPU here: tokens per second at the gpt2 preset are not measured")
            continue
        torch.set_num_threads(threads)      # a test file imported above may have set it to one
        benches[name]()


if __name__ == "__main__":
    main()
