"""
Anatomy: a GPT taken apart. What it weighs, what it costs, and who attends to whom.

Whether a model fits a machine can be worked out on paper, before a weight is drawn:

    parameters    what is learned, and with it the bytes of weights, gradients, optimiser states
    FLOPs         multiplications and additions for each token learned from
    activations   what the forward pass has to keep until the backward pass has used it

    python -m beyond.anatomy --preset gpt2 --arch gpt2          # GPT-2; any flag of train.py
    python -m beyond.anatomy --attention nano "To be, or not"   # who attends to whom, drawn
    python -m beyond.anatomy --utilisation nano --gpu H100      # how busy a run kept its GPU

Paper: Scaling Laws for Neural Language Models (Kaplan et al., 2020), for counting FLOPs.
"""
from dataclasses import replace
from statistics import median
from types import SimpleNamespace

from beyond.curves import picture, read_metrics
from data import DataConfig, add_flags, checked
from model import ARCHS, GPT, GPTConfig, attention
from sample import find_run, load_run, read_config
from tokenizer import Parser, clear_errors, visible, write_whole
from train import PRESETS, TrainConfig

import torch
from matplotlib.figure import Figure

# ------------ The formulas. tests/beyond/test_anatomy.py holds each against the real thing.


def block_matrices(c):
    """How many weights lie in the matrices of one block: W_qkv and W_out, W_up and W_down."""
    qkv, matrices = (c.n_head + 2 * c.n_kv_head) * c.head_size, 3 if c.activation == "swiglu" else 2
    return c.n_embd * (qkv + c.n_embd + matrices * c.mlp_width)


def parameters(c):
    """How many numbers are learned. Matrices multiply; of a table, a token only takes a row."""
    C, gate, qkv = c.n_embd, c.activation == "swiglu", (c.n_head + 2 * c.n_kv_head) * c.head_size
    gains = (2 * c.n_layer + 1) * C * (1 + (c.bias and c.norm == "layernorm"))
    biases = c.bias * c.n_layer * (qkv + C + (1 + gate) * c.mlp_width + C)
    return {"matrices of the blocks": c.n_layer * block_matrices(c),
            "matrix of the logits": C * c.vocab_size,
            "token table": C * c.vocab_size * (not c.tie_embeddings),   # tied: the matrix above
            "position table": C * c.context_length * (c.position == "learned"),
            "n-gram tables": C * c.ngram_rows * (c.ngram - 1),
            "gains and biases": gains + biases}


def flops_per_token(c, T):
    """Multiplications and additions to learn from one token, in a text of T.

    Each weight of a matrix multiplies once and adds once; so does each of a position's C numbers
    for each of T positions (masked or not, as is the custom), in q k^T and in weights @ v. Backward
    does twice that: for the gradient of what came in, and for that of the weights.
    """
    forward = 2 * (c.n_layer * block_matrices(c) + c.n_embd * c.vocab_size)
    return 3 * (forward + c.n_layer * 4 * T * c.n_embd)


PEAK = {"H200": 989e12, "H100": 989e12, "H100 PCIe": 756e12, "A100": 312e12, "L40S": 362e12,
        "L4": 121e12, "A10G": 70e12, "RTX 4090": 165e12, "RTX 3090": 71e12}     # NVIDIA's figures


def peak_flops(gpu, dtype):
    """FLOPs a second that a GPU does at best in bfloat16; in float32, as TF32, half as many."""
    return PEAK[gpu] / (2 if dtype == "float32" else 1)


def utilisation(folder, gpu):
    """The share of what one GPU could do that a run, in its median step, made use of."""
    config = read_config(folder)
    c, t = checked(GPTConfig, config["model"], True), checked(TrainConfig, config["train"], True)
    speed = median(m.get("tokens_per_second", 0) for m in read_metrics(folder))
    return speed * flops_per_token(c, c.context_length) / peak_flops(gpu, t.dtype)


def activations(c, B, T):
    """Numbers kept for the backward pass of B texts of T tokens: fused kernels, no dropout.

    In a block: what its norms read and return, q, k, v (q and k twice if turned or normalised),
    what the heads gathered, the steps of the activation function; if checkpointed, what came in.
    """
    C, qk = c.n_embd, (c.n_head + c.n_kv_head) * c.head_size
    norm = 2 * C + C * (c.norm == "rmsnorm")                # what comes in, and what goes out
    qkv = qk + c.n_kv_head * c.head_size + qk * (c.qk_norm or c.position == "rotary")
    mlp = c.mlp_width * {"gelu": 2, "relu2": 3, "swiglu": 5}[c.activation]
    block = C if c.activation_checkpointing else norm + qkv + C + norm + mlp
    return B * T * (c.n_layer * block + norm + c.vocab_size)


def memory(c, B, T, optimizer):
    """Bytes to train it, four a number. Of each gradient AdamW keeps two means, Muon one."""
    n = sum(parameters(c).values())
    states = 2 * n - (optimizer == "muon") * c.n_layer * block_matrices(c)
    return {"weights": 4 * n, "gradients": 4 * n, f"states of {optimizer}": 4 * states,
            "activations": 4 * activations(c, B, T)}


# ------------ Watching a model at work.


@torch.no_grad()
def operations(model, ids, cache=None):
    """Let the model read ids; return what it did, a list of (name, inputs, result)."""
    c, ops, done = model.config, model.config.ops, []

    def watched(name, original):
        def operation(*inputs):
            done.append((name, inputs, original(*inputs)))
            return done[-1][2]
        return operation

    c.ops = SimpleNamespace(**{name: watched(name, f) for name, f in vars(ops).items()})
    try:
        model(ids, cache)
    finally:
        c.ops = ops
    return done


def attention_weights(done):
    """From what operations() saw: how much each of T positions attended to each of S."""
    seen = [inputs[:2] for name, inputs, _ in done if name == "attention"]
    one = torch.eye(seen[0][1].shape[-2])       # where it stands for the values, weights come out
    return torch.stack([attention(q, k, one.expand(*k.shape[:-1], -1))[0]
                        for q, k in seen])                          # (n_layer, H, T, S)


def logit_lens(model, done):
    """From what operations() saw: the logits, had the model stopped before or after each block."""
    normed = [inputs[0] for name, inputs, _ in done if name.endswith("norm") and len(inputs) > 1]
    # The first norm of each block reads the residual stream, and so does the last norm of all.
    x = model.norm(torch.cat(normed[::2]))                          # (n_layer + 1, T, C)
    W_vocab = done[-1][1][1]                                        # (C, V), which came last
    return model.config.ops.linear(x, W_vocab)                      # (n_layer + 1, T, V)


def attention_maps(model, ids):
    """How much each position of ids (T,) attends to each other, in every head of every layer."""
    return attention_weights(operations(model, ids[None]))          # (n_layer, H, T, T)


def draw_attention(maps, tokens, path):
    """A square for each head, a row of them for each layer: row t shows whom t attends to."""
    n_layer, H, T, _ = maps.shape
    size = min(max(2.0, 0.16 * T), 60 / max(H, n_layer))            # inches for a square
    labels = [visible(t).replace(" ", "\N{OPEN BOX}").replace("$", r"\$") for t in tokens]
    figure = Figure(figsize=(size * H, size * n_layer), layout="constrained")
    for i, at in enumerate(figure.subplots(n_layer, H, squeeze=False).flat):
        at.imshow(maps[i // H, i % H].numpy(), cmap="magma_r", vmin=0, vmax=1)
        at.set_title(f"layer {i // H + 1}, head {i % H + 1}", fontsize=9)
        at.set_xticks(range(T), labels, fontsize=min(7, 60 * size / T), rotation=90)
        at.set_yticks(range(T), labels, fontsize=min(7, 60 * size / T))
    write_whole(path, lambda file: figure.savefig(file, dpi=120, format="png"))


def show_shapes(c, B, T):
    """Print the shape of each operation's result as one batch flows through one block."""
    with torch.device("meta"):      # tensors with a shape and no numbers: nothing is computed
        model = GPT(replace(c, n_layer=1))
        done = operations(model, torch.zeros(B, T, dtype=torch.long))
    print(f"{'operation':12}{'with':24}{'shape of its result':20}{'parameters':>12}")
    for name, inputs, result in (row for row in done if row[0] != "dropout" or c.dropout):
        held = {n: p.numel() for n, p in model.named_parameters()       # .T of a matrix is its view
                if any(x is p or getattr(x, "_base", None) is p for x in inputs)}
        print(f"{name:12}{' + '.join(held).replace('blocks.0.', ''):24}"
              f"{str(tuple(result.shape)):20}{sum(held.values()):12,}")


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


def main():
    parser = Parser(description="Take a GPT apart: its shapes, its parameters, its costs.")
    parser.add_argument("--preset", choices=PRESETS, default="nano", help="(default: nano)")
    parser.add_argument("--arch", choices=ARCHS, help="(default: the preset's)")
    parser.add_argument("--attention", nargs=2, metavar=("RUN", "TEXT"), help="draw attention.png")
    parser.add_argument("--utilisation", metavar="RUN", help="how busy a run kept its one --gpu")
    parser.add_argument("--gpu", choices=PEAK, default="H100", help="(default: H100)")
    add_flags(parser, DataConfig, TrainConfig, GPTConfig)
    o = parser.parse_args()
    with clear_errors((ValueError, OSError, RuntimeError)):     # torch's, of too large a number
        if o.utilisation:
            return print(f"{utilisation(find_run(o.utilisation), o.gpu):.1%} of an {o.gpu}'s peak")
        if o.attention:
            path = picture("attention.png")
            model, tokenizer = load_run(find_run(o.attention[0]))
            ids, T = tokenizer.encode(o.attention[1]), model.config.context_length
            if not o.attention[1].encode() or len(ids) > T:     # encode refuses half a character
                raise ValueError(f"{len(ids)} tokens do not fit a context of {T}" if ids else
                                 "there is no text to draw")
            maps = attention_maps(model, torch.tensor(ids))
            draw_attention(maps, [tokenizer.vocab[i] for i in ids], path)
            return print("drew attention.png: a row for each position, dark where it attends most")
        recipe = PRESETS[o.preset]
        s = ARCHS[o.arch or recipe.get("arch", "modern")] | recipe | vars(o)
        s["vocab_size"] = s.get("vocab_size") or (50_257 if s.get("tokenizer") == "gpt2" else 1024)
        c, t = checked(GPTConfig, s), checked(TrainConfig, s)
        show_shapes(c, t.batch_size, c.context_length)
        show_costs(c, t.batch_size // t.accumulate, c.context_length, t.optimizer)


if __name__ == "__main__":
    main()
