"""
Counterparts: what is called what in a model of ours and in the same one of Hugging Face's.

--arch gpt2 computes what their GPT-2 does, --arch llama what their Llama does. So a model can go
either way: each setting has its counterpart in their config.json, and each tensor in their
model.safetensors. Three differences remain. Their Llama keeps its matrices as (n_out, n_in), ours
are (n_in, n_out). It has queries, keys and values in three matrices, and gates and values of the
MLP in two; here they lie side by side in one. And what is a choice here may be a constant there.

    python -m beyond.counterparts nano      # the names, or why there are none

Papers: GPT-2 (Radford et al., 2019); Llama (Touvron et al., 2023).
"""
from data import checked
from model import ARCHS, GPT, GPTConfig
from sample import find_run, read_config
from tokenizer import Parser, clear_errors

import torch

SETTINGS = {    # ours -> theirs
    "gpt2": {"vocab_size": "vocab_size", "n_embd": "n_embd", "n_layer": "n_layer",
             "n_head": "n_head", "context_length": "n_positions", "mlp_width": "n_inner",
             "norm_eps": "layer_norm_epsilon", "tie_embeddings": "tie_word_embeddings"},
    "llama": {"vocab_size": "vocab_size", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
              "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads",
              "context_length": "max_position_embeddings", "mlp_width": "intermediate_size",
              "norm_eps": "rms_norm_eps", "rotary_base": "rope_theta",
              "tie_embeddings": "tie_word_embeddings"}}
USUAL = {       # theirs, where config.json does not say it
    "gpt2": {"layer_norm_epsilon": 1e-5, "n_inner": None, "tie_word_embeddings": True},
    "llama": {"rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": False}}
CONSTANTS = {   # what they may choose, and ours computes in one way; the first is their default
    "gpt2": {"activation_function": ("gelu_new", "gelu_pytorch_tanh"),
             "scale_attn_by_inverse_layer_idx": (False,), "scale_attn_weights": (True,)},
    "llama": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,),
              "sliding_window": (None,), "rope_scaling": (None, "none")}}
TABLES = {      # ours -> theirs
    "gpt2": {"token_table": "wte.weight", "position_table": "wpe.weight",
             "norm.gain": "ln_f.weight", "norm.bias": "ln_f.bias", "W_vocab": "lm_head.weight"},
    "llama": {"token_table": "model.embed_tokens.weight", "norm.gain": "model.norm.weight",
              "W_vocab": "lm_head.weight"}}
BLOCKS = {      # the same inside a block; several of theirs lie side by side in ours
    "gpt2": {"norm1.gain": "ln_1.weight", "norm1.bias": "ln_1.bias",
             "norm2.gain": "ln_2.weight", "norm2.bias": "ln_2.bias",
             "W_qkv": "attn.c_attn.weight", "b_qkv": "attn.c_attn.bias",
             "W_out": "attn.c_proj.weight", "b_out": "attn.c_proj.bias",
             "W_up": "mlp.c_fc.weight", "b_up": "mlp.c_fc.bias",
             "W_down": "mlp.c_proj.weight", "b_down": "mlp.c_proj.bias"},
    "llama": {"norm1.gain": "input_layernorm.weight",
              "norm2.gain": "post_attention_layernorm.weight",
              "W_qkv": "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
              "W_out": "self_attn.o_proj.weight", "W_down": "mlp.down_proj.weight",
              "W_up": "mlp.gate_proj.weight mlp.up_proj.weight"}}


def read_shape(theirs, path):
    """The arch and the GPTConfig that their config, a dict, describes."""
    kind = theirs.get("model_type", "gpt2")
    arch = "llama" if kind == "mistral" else kind       # without a sliding window they are the same
    if arch not in SETTINGS:
        raise ValueError(f"{path} sets model_type to {kind!r}; read are gpt2, llama and mistral")
    theirs = USUAL[arch] | (theirs.get("rope_parameters") or {}) | theirs   # younger files have two
    theirs.setdefault("num_key_value_heads", theirs.get("num_attention_heads"))
    for key, computed in (CONSTANTS[arch] | {"rope_type": ("default",)}).items():
        if theirs.get(key, computed[0]) not in computed:
            raise ValueError(f"{path} sets {key} to {theirs[key]!r}; this {arch} computes with "
                             f"{' or '.join(map(repr, computed))}")
    if missing := [key for key in SETTINGS[arch].values() if key not in theirs]:
        raise ValueError(f"{path} does not say {missing[0]}")
    shape = {ours: theirs[key] or 0 for ours, key in SETTINGS[arch].items()}    # n_inner is null
    c = checked(GPTConfig, ARCHS[arch] | shape | {
        "tie_embeddings": theirs["tie_word_embeddings"]}, strict=True)
    if (theirs.get("head_dim") or c.head_size) != c.head_size:
        raise ValueError(f"{path} sets head_dim to {theirs['head_dim']}; this {arch} computes with "
                         f"{c.head_size}, the width over the number of heads")
    return arch, c


def write_shape(c):
    """The arch that a GPTConfig is an instance of, and its config for them."""
    switches = ("norm", "position", "activation", "qk_norm", "ngram", "bias")
    differ = {arch: [f"{key} {getattr(c, key)}" for key in switches
                     if getattr(c, key) != getattr(GPTConfig(**ARCHS[arch]), key)]
              for arch in SETTINGS}
    if c.n_kv_head != c.n_head:
        differ["gpt2"].append(f"n_kv_head {c.n_kv_head}")
    arch = min(differ, key=lambda arch: len(differ[arch]))
    if differ[arch]:
        raise ValueError(f"not even their {arch} has a counterpart of {', '.join(differ[arch])}")
    names = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
    return arch, {"model_type": arch, "architectures": [names[arch]], "dtype": "float32",
                  **{key: computed[0] for key, computed in CONSTANTS[arch].items()},
                  **{theirs: getattr(c, ours) for ours, theirs in SETTINGS[arch].items()}}


def tensors(arch, n_layer):
    """For each tensor of ours the names of theirs that lie side by side in it."""
    inside = {f"blocks.{i}.{ours}": [f"{'h' if arch == 'gpt2' else 'model.layers'}.{i}.{name}"
                                     for name in theirs.split()]
              for i in range(n_layer) for ours, theirs in BLOCKS[arch].items()}
    return {ours: [theirs] for ours, theirs in TABLES[arch].items()} | inside


def turned(arch, ours):
    """Does a matrix of theirs lie as (n_out, n_in)? GPT-2's do not, but for the last."""
    return ours == "W_vocab" or arch == "llama" and ".W_" in ours


def to_ours(arch, ours, theirs):
    """The tensor of ours in which theirs lie side by side."""
    return torch.cat([x.T if turned(arch, ours) else x for x in theirs], dim=-1)


def to_theirs(arch, ours, x, c):
    """And back: theirs, one after the other, which lie side by side in x."""
    widths = [x.shape[-1]]
    if arch == "llama" and ours.endswith("W_qkv"):
        widths = [c.n_embd, *[c.n_kv_head * c.head_size] * 2]
    elif arch == "llama" and ours.endswith("W_up"):
        widths = [c.mlp_width, c.mlp_width]
    return [(y.T if turned(arch, ours) else y).contiguous() for y in x.split(widths, dim=-1)]


def show(arch, c):
    """A table of their names and ours, of the first block."""
    with torch.device("meta"):      # a model without numbers, for the shapes
        ours = GPT(c).state_dict()
    print(f"{'there':49}{'here':20}{'shape':>14}")
    for name, theirs in tensors(arch, 1).items():
        for i, their_name in enumerate(theirs):
            if name in ours:
                print(f"{their_name:49}"
                      + (i == 0) * f"{name:20}{str(tuple(ours[name].shape)):>14}")


def main():
    parser = Parser("Show the names that the tensors of a run have at Hugging Face's.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    options = parser.parse_args()
    with clear_errors():
        c = checked(GPTConfig, read_config(find_run(options.run))["model"], strict=True)
        show(write_shape(c)[0], c)


if __name__ == "__main__":
    main()
