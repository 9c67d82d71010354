"""
Anatomy: a GPT taken apart. What it weighs, what it costs, where it looks.

Everything that decides whether a model fits a machine can be worked out on paper from GPTConfig,
before a weight is drawn:

    parameters    what is learned, and with it the bytes of weights, gradients and optimiser
    FLOPs         multiplications and additions for each token learned from
    activations   what the forward pass has to keep until the backward pass has used it

    python model.py                                     # the shapes as one batch flows through
    python model.py --preset gpt2 --arch gpt2           # GPT-2, shape by shape and byte by byte
    python model.py --attention runs/nano "To be, or"   # draw who looks at whom

Papers: Scaling Laws for Neural Language Models (Kaplan et al., 2020), for counting FLOPs;
Reducing Activation Recomputation in Large Transformer Models (Korthikanti et al., 2022).
"""
import math

import torch

from checkpoint import find_run, load_run
from cli import Parser, add_flags, chosen, clear_errors
from model import ARCHS, SHAPES, GPT, GPTConfig, attention_weights

# ------------------------------------------------------------------------------------------
# The formulas. tests/test_anatomy.py holds each against the real thing.


def matrix_weights(c):
    """How many weights multiply a vector on its way through the model."""
    C, gate = c.n_embd, c.mlp == "swiglu"
    attention = C * (c.n_head + 2 * c.n_kv_head) * c.head_size + C * C      # W_qkv and W_out
    mlp = (2 + gate) * C * c.mlp_width                                      # W_up and W_down
    return c.n_layer * (attention + mlp) + C * c.vocab_size                 # and the output table


def parameters(c):
    """How many numbers are learned: the matrices, the tables, the biases and the gains."""
    C, gate, layer_norm = c.n_embd, c.mlp == "swiglu", c.norm == "layernorm"
    tables = (not c.tie_embeddings) * c.vocab_size * C
    tables += (c.position == "learned") * c.context_length * C
    tables += (c.ngram - 1) * c.ngram_rows * C
    norms = (2 * c.n_layer + 1) * C * (1 + (c.bias and layer_norm))
    qkv = (c.n_head + 2 * c.n_kv_head) * c.head_size
    biases = c.bias * c.n_layer * (qkv + C + (1 + gate) * c.mlp_width + C)
    return matrix_weights(c) + tables + norms + biases


def flops_per_token(c, T):
    """Multiplications and additions to learn from one token, in a text of T.

    Each weight of a matrix multiplies once and adds once; so does each of the C numbers of a
    place, for each of the T places, in q k^T and once more in weights @ v. Backward does twice
    that: once for the gradient of what came in, once for the weights. The T x T matches count
    whole, as is the custom, although half of them lie in the masked future.
    """
    forward = 2 * matrix_weights(c) + c.n_layer * 4 * T * c.n_embd
    return 3 * forward


PEAK = {    # NVIDIA's figures: multiplications and additions a second in bfloat16, without sparsity
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "L4": 121e12, "A10G": 70e12, "RTX 4090": 165e12, "RTX 3090": 71e12}


def peak_flops(device, dtype):
    """FLOPs a second that the device could do at best, where that is known; else None."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    found = next((peak for card, peak in PEAK.items() if card in name), None)
    return found if found is None or dtype != "float32" else found / 2      # TF32 is half as fast


def activations(c, B, T):
    """Numbers kept for the backward pass of B texts of T tokens: fused kernels, no dropout.

    In each block: what came into it, its middle, the two norms, q, k and v (and, if they were
    turned or normalised, q and k once more), what the heads gathered, and both sides of the
    MLP's switch. With activation checkpointing, only what came in; the block that backward has
    come to needs all of it again, for a moment.
    """
    C, qk = c.n_embd, (c.n_head + c.n_kv_head) * c.head_size
    norm = 2 * C + C * (c.norm == "rmsnorm")            # what comes in, and what goes out
    qkv = qk + c.n_kv_head * c.head_size + qk * (c.qk_norm or c.position == "rotary")
    mlp = c.mlp_width * (4 if c.mlp == "swiglu" else 2)
    block = C if c.activation_checkpointing else norm + qkv + C + norm + mlp
    return B * T * (c.n_layer * block + norm + c.vocab_size)


def memory(c, B, T):
    """Bytes, at four for each number, by what they are for."""
    n = 4 * parameters(c)
    return {"weights": n, "gradients": n, "AdamW's two means": 2 * n,
            "activations": 4 * activations(c, B, T)}


# ------------------------------------------------------------------------------------------
# The pictures.


@torch.no_grad()
def attention_maps(model, ids):
    """How much each place looks at each other, in every head: (n_layer, H, T, T) for ids (T,)."""
    maps = []

    def look(block, inputs):        # before a block runs, see whom its heads would look at
        x, rotation = inputs[:2]
        q, k, _ = block.attention.qkv(block.norm1(x), rotation)     # (1, H, T, D), (1, G, T, D)
        maps.append(attention_weights(q, k)[0])                     # (H, T, T)

    hooks = [block.register_forward_pre_hook(look) for block in model.blocks]
    model(ids[None])
    for hook in hooks:
        hook.remove()
    return torch.stack(maps)                                        # (n_layer, H, T, T)


def draw_attention(maps, labels, path):
    """One square for each head, a row of them for each layer: row t shows where place t looks."""
    import matplotlib
    matplotlib.use("Agg")       # draw into files; no window needed
    from matplotlib import pyplot

    n_layer, H, T, _ = maps.shape
    size = min(max(2.0, 0.16 * T), 60 / max(H, n_layer))        # inches for a square
    font = min(7, 60 * size / T)                                # points, so that labels fit
    figure, axes = pyplot.subplots(n_layer, H, figsize=(size * H, size * n_layer), squeeze=False,
                                   layout="constrained")
    for layer in range(n_layer):
        for head in range(H):
            at = axes[layer, head]
            at.imshow(maps[layer, head], cmap="magma_r", vmin=0, vmax=1)
            at.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
            at.set_xticks(range(T), labels, fontsize=font, rotation=90)
            at.set_yticks(range(T), labels, fontsize=font)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def show_shapes(model, ids):
    """Print the shape of every step's result, and the parameters it holds."""
    print(f"{'step':28}{'shape of its result':24}{'parameters':>14}")
    print(f"{'ids':28}{str(tuple(ids.shape)):24}")
    for name, module in model.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        module.register_forward_hook(lambda module, inputs, result, name=name, own=own: print(
            f"{name or 'GPT: its tables, its logits':28}{str(tuple(result.shape)):24}{own:14,}"))
    model(ids)
    print(f"{'':52}{parameters(model.config):14,} in all")


def show_costs(c, B, T):
    """Print what it takes to train the model that c describes, on batches of B texts of T."""
    flops = flops_per_token(c, T)
    print(f"\nto train it on batches of {B} x {T} tokens")
    print(f"    {flops:,} FLOPs for each token, {flops * B * T / 1e9:,.1f} billion for a step")
    sizes = memory(c, B, T)
    for name, size in sizes.items():
        print(f"    {size / 2 ** 20:10,.1f} MiB  {name}")
    print(f"    {sum(sizes.values()) / 2 ** 20:10,.1f} MiB  in all, at four bytes for a number")


def main():
    parser = Parser("Take a GPT apart: its shapes, its parameters, what it costs to train.")
    parser.add_argument("--preset", choices=SHAPES, default="nano", help="which shape to start "
                        "from: nano, baby or gpt2 (default: nano)")
    parser.add_argument("--arch", choices=ARCHS, default="modern", help="which switches to start "
                        "from: gpt2, as in 2019, or modern (default: modern)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B",
                        help="texts in a batch (default: 8)")
    parser.add_argument("--attention", nargs=2, metavar=("RUN", "TEXT"),
                        help="draw where the heads of a trained model look, into attention.png")
    add_flags(parser, GPTConfig)
    options = parser.parse_args()
    with clear_errors():
        if options.batch_size < 1:
            raise ValueError(f"--batch-size is {options.batch_size}; it must be at least 1")
        c = GPTConfig(**ARCHS[options.arch] | SHAPES[options.preset] | chosen(options, GPTConfig))
        if options.attention:
            model, tokens = load_run(find_run(options.attention[0]))
            ids = tokens.encode(options.attention[1])
            if not ids:
                raise ValueError("there is no text to look at")
            maps = attention_maps(model, torch.tensor(ids))
            labels = [repr(tokens.decode([i]))[1:-1] for i in ids]
            labels = [label.replace(" ", "\N{OPEN BOX}").replace("$", r"\$") for label in labels]
            draw_attention(maps, labels, "attention.png")
            return print("drew attention.png")
    B, T = options.batch_size, c.context_length
    with torch.device("meta"):      # tensors with a shape and no numbers: nothing is computed
        show_shapes(GPT(c), torch.zeros(B, T, dtype=torch.long))
    show_costs(c, B, T)
    print(f"\nbefore it has learned anything, its loss is about ln({c.vocab_size}) = "
          f"{math.log(c.vocab_size):.3f} nats a token")


if __name__ == "__main__":
    main()
