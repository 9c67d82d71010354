"""
Anatomy: a GPT taken apart. What it weighs, what it costs, and who attends to whom.

Whether a model fits a machine can be worked out on paper, before a weight is drawn:

    parameters    what is learned, and with it the bytes of weights, gradients, optimiser states
    FLOPs         multiplications and additions for each token learned from
    activations   what the forward pass has to keep until the backward pass has used it

    python -m beyond.anatomy --preset gpt2 --arch gpt2          # GPT-2, shape by shape
    python -m beyond.anatomy --arch llama --n-kv-head 1         # any flag of GPTConfig
    python -m beyond.anatomy --attention nano "To be, or not"   # who attends to whom, drawn
    python -m beyond.anatomy --utilisation nano H100            # how busy a run kept its GPU

Papers: Scaling Laws for Neural Language Models (Kaplan et al., 2020), for counting FLOPs; Reducing
Activation Recomputation in Large Transformer Models (Korthikanti et al., 2022); PaLM (Chowdhery et
al., 2022), for the utilisation.
"""
import contextlib
import math
from dataclasses import fields, replace
from statistics import median

import torch
from matplotlib.figure import Figure

from data import add_flags, chosen
from model import ARCHS, KERNELS, GPT, GPTConfig, attention
from sample import find_run, load_run, read_config
from tokenizer import Parser, clear_errors, visible, write_whole
from train import PRESETS, read_metrics

# ------------------------------------------------------------------------------------------
# The formulas. tests/beyond/test_anatomy.py holds each against the real thing.


def block_matrices(c):
    """How many weights lie in the matrices of one block."""
    C, gate = c.n_embd, c.mlp == "swiglu"
    attention = C * (c.n_head + 2 * c.n_kv_head) * c.head_size + C * C      # W_qkv and W_out
    return attention + (2 + gate) * C * c.mlp_width                         # W_up and W_down


def parameters(c):
    """How many numbers are learned, by what they are for.

    A matrix multiplies every token's vector. Of a table, a token takes a row: it costs no time.
    """
    C, gate = c.n_embd, c.mlp == "swiglu"
    gains = (2 * c.n_layer + 1) * C * (1 + (c.bias and c.norm == "layernorm"))
    biases = (c.n_head + 2 * c.n_kv_head) * c.head_size + C + (1 + gate) * c.mlp_width + C
    return {"matrices of the blocks": c.n_layer * block_matrices(c),
            "matrix of the logits": C * c.vocab_size,
            "token table": C * c.vocab_size * (not c.tie_embeddings),   # tied: the matrix above
            "position table": C * c.context_length * (c.position == "learned"),
            "n-gram tables": C * c.ngram_rows * (c.ngram - 1),
            "gains and biases": gains + c.bias * c.n_layer * biases}


def flops_per_token(c, T):
    """Multiplications and additions to learn from one token, in a text of T.

    Each weight of a matrix multiplies once and adds once; so does each of a position's C numbers
    for each of the T positions (masked or not, as is the custom), in q k^T and in weights @ v.
    Backward does twice that: for the gradient of what came in, and for that of the weights.
    """
    forward = 2 * (c.n_layer * block_matrices(c) + c.n_embd * c.vocab_size)
    return 3 * (forward + c.n_layer * 4 * T * c.n_embd)


PEAK = {    # NVIDIA's figures: FLOPs a second in bfloat16, without sparsity
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "L4": 121e12, "A10G": 70e12, "RTX 4090": 165e12, "RTX 3090": 71e12}


def peak_flops(gpu, dtype):
    """FLOPs a second that a GPU, whose name may say more ("NVIDIA H100 80GB"), does at best."""
    found = next((peak for card, peak in PEAK.items() if card.lower() in gpu.lower()), None)
    if found is None:
        raise ValueError(f"the peak of {gpu!r} is not known; choose {', '.join(PEAK)}")
    return found if dtype != "float32" else found / 2               # TF32 is half as fast


def utilisation(folder, gpu):
    """The share of what one GPU could do that a run, in its median step, made use of."""
    config = read_config(folder)
    c = GPTConfig(**config["model"])
    speed = median(m["tokens_per_second"] for m in read_metrics(folder))
    return speed * flops_per_token(c, c.context_length) / peak_flops(gpu, config["train"]["dtype"])


def activations(c, B, T):
    """Numbers kept for the backward pass of B texts of T tokens: fused kernels, no dropout.

    In each block: both norms, q, k and v (q and k once more if turned or normalised), what the
    heads gathered, and both sides of the MLP's activation function. With activation checkpointing,
    what came in, and for a moment all of it of the block that backward has come to.
    """
    C, qk = c.n_embd, (c.n_head + c.n_kv_head) * c.head_size
    norm = 2 * C + C * (c.norm == "rmsnorm")                # what comes in, and what goes out
    qkv = qk + c.n_kv_head * c.head_size + qk * (c.qk_norm or c.position == "rotary")
    mlp = c.mlp_width * (4 if c.mlp == "swiglu" else 2)
    block = C if c.activation_checkpointing else norm + qkv + C + norm + mlp
    return B * T * (c.n_layer * block + norm + c.vocab_size)


def memory(c, B, T, optimizer):
    """Bytes to train it, four for each number. AdamW keeps two means of each number's gradient;

    Muon keeps one, but it is for the blocks' matrices only.
    """
    n = sum(parameters(c).values())
    states = 2 * n - (optimizer == "muon") * c.n_layer * block_matrices(c)
    return {"weights": 4 * n, "gradients": 4 * n, f"states of {optimizer}": 4 * states,
            "activations": 4 * activations(c, B, T)}


# ------------------------------------------------------------------------------------------
# Watching a model at work.


@contextlib.contextmanager
def watch(c, seen):
    """While this is open, seen(name, inputs, result) hears of each operation of c's models."""
    ops, originals = vars(KERNELS[c.kernels]), dict(vars(KERNELS[c.kernels]))
    for name in originals:
        def operation(*inputs, name=name):
            result = originals[name](*inputs)
            seen(name, inputs, result)
            return result
        ops[name] = operation
    try:
        yield
    finally:
        ops.update(originals)


@torch.no_grad()
def attention_maps(model, ids):
    """How much each position attends to each other, in every head, for ids (T,)."""
    maps = []

    def seen(name, inputs, result):
        if name == "attention":
            q, k = inputs[:2]                               # (1, H, T, D), (1, G, T, D)
            v = torch.eye(len(ids)).expand(*k.shape[:-1], -1)       # (1, G, T, T)
            maps.append(attention(q, k, v)[0])              # (H, T, T): weights @ 1

    with watch(model.config, seen):
        model(ids[None])
    return torch.stack(maps)                                # (n_layer, H, T, T)


def draw_attention(maps, labels, path):
    """A square for each head, a row of them for each layer: row t shows whom t attends to."""
    n_layer, H, T, _ = maps.shape
    size = min(max(2.0, 0.16 * T), 60 / max(H, n_layer))            # inches for a square
    figure = Figure(figsize=(size * H, size * n_layer), layout="constrained")
    for i, at in enumerate(figure.subplots(n_layer, H, squeeze=False).flat):
        at.imshow(maps[i // H, i % H], cmap="magma_r", vmin=0, vmax=1)
        at.set_title(f"layer {i // H + 1}, head {i % H + 1}", fontsize=9)
        for set_ticks, turned in ((at.set_xticks, 90), (at.set_yticks, 0)):
            set_ticks(range(T), labels, fontsize=min(7, 60 * size / T), rotation=turned)
    write_whole(path, lambda aside: figure.savefig(aside, dpi=120, format="png"))


def show_shapes(c, B, T):
    """Print the shape of each operation's result as one batch flows through one block."""
    with torch.device("meta"):      # tensors with a shape and no numbers: nothing is computed
        model, ids = GPT(replace(c, n_layer=1)), torch.zeros(B, T, dtype=torch.long)

    def seen(name, inputs, result):
        if name != "dropout":
            held = [(n, p) for n, p in model.named_parameters()     # .T of a matrix is its view
                    if any(x is p or getattr(x, "_base", None) is p for x in inputs)]
            print(f"{name:12}{' + '.join(n for n, _ in held):36}{str(tuple(result.shape)):20}"
                  f"{sum(p.numel() for _, p in held):12,}")

    print(f"{'operation':12}{'with':36}{'shape of its result':20}{'parameters':>12}")
    with watch(c, seen):
        model(ids)


def show_costs(c, B, T, optimizer):
    """Print where the parameters are, and what it takes to train on batches of B texts of T."""
    counts, flops, sizes = parameters(c), flops_per_token(c, T), memory(c, B, T, optimizer)
    print(f"\nparameters, with {c.n_layer} such blocks")
    for name, n in counts.items():
        print(f"{n:16,}  {name:24}{n / sum(counts.values()):6.1%}")
    print(f"{sum(counts.values()):16,}  in all\n\nto train it on batches of {B} x {T} tokens\n"
          f"{flops:16,}  FLOPs for each token, {flops * B * T / 1e9:,.1f} billion for a step")
    for name, size in [*sizes.items(), ("in all, at four bytes a number", sum(sizes.values()))]:
        print(f"{size / 2 ** 20:12,.1f} MiB  {name}")
    print("\nbefore it has learned anything, its loss is about that of a uniform guess: "
          f"ln({c.vocab_size}) = {math.log(c.vocab_size):.3f} nats a token")


def main():
    parser = Parser(description="Take a GPT apart: its shapes, its parameters, its costs. The other "
                                "flags are train.py's.")
    parser.add_argument("--preset", choices=PRESETS, default="nano", help="(default: nano)")
    parser.add_argument("--arch", choices=ARCHS, help="(default: the preset's)")
    parser.add_argument("--attention", nargs=2, metavar=("RUN", "TEXT"),
                        help="draw whom the heads of a trained model attend to: attention.png")
    parser.add_argument("--utilisation", nargs=2, metavar=("RUN", "GPU"),
                        help=f"how busy a run kept its one GPU: {', '.join(PEAK)}")
    add_flags(parser, DataConfig, TrainConfig, GPTConfig)
    options = parser.parse_args()
    with clear_errors():
        if options.attention:
            return show_attention(*options.attention)
        if options.utilisation:
            run, gpu = options.utilisation
            return print(f"{utilisation(find_run(run), gpu):.1%} of what one {gpu} does at best")
        recipe = PRESETS[options.preset]
        settings = ARCHS[options.arch or recipe.get("arch", "modern")] | recipe | vars(options)
        gpt2 = settings.get("tokenizer") == "gpt2"
        settings["vocab_size"] = settings.get("vocab_size") or (50_257 if gpt2 else 1024)
        c, t = GPTConfig(**chosen(settings, GPTConfig)), TrainConfig(**chosen(settings, TrainConfig))
    show_shapes(c, t.batch_size // t.accumulate, c.context_length)
    show_costs(c, t)


if __name__ == "__main__":
    main()
