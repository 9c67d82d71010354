"""
Pretrained weights: somebody else's training, in our own model.

OpenAI published what GPT-2 had learned, in four sizes (gpt2, gpt2-medium, gpt2-large, gpt2-xl).
In Hugging Face's form a model is a folder: config.json, its shape, and model.safetensors, its
weights, each under a name. With --arch gpt2, ours computes the same, down to how the matrices
lie; so to load them is to say which name there is which here, and to make sure none is left over.

    python pretrained.py FOLDER                          # what lies in it, name by name
    python sample.py --pretrained gpt2 --prompt "To be"  # let it write
    python train.py --init gpt2 --tokenizer gpt2         # go on learning, from your text

Needs the package safetensors; to fetch the weights, huggingface_hub as well.
"""
import json
from pathlib import Path

import torch

from cli import Parser, clear_errors
from model import ARCHS, GPT, GPTConfig
from tokenizer import EOT, BPETokenizer, unspell

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
MAY_CHANGE = ("context_length", "dropout", "kernels", "activation_checkpointing")

# ------------------------------------------------------------------------------------------
# Files.


def find_file(name_or_path, file):
    """The path of one file of a model: in a folder, or fetched from the hub and kept there."""
    if Path(name_or_path).is_dir():
        path = Path(name_or_path) / file
        if not path.exists():
            raise ValueError(f"the folder {name_or_path} has no {file}")
        return path
    if str(name_or_path) not in PUBLISHED:
        raise ValueError(f"{name_or_path} is no folder, and none of {', '.join(PUBLISHED)}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ValueError(f"to fetch {name_or_path}: pip install huggingface_hub; or name a folder "
                         "that holds it") from None
    try:
        return Path(hf_hub_download(f"openai-community/{name_or_path}", file))
    except Exception as error:      # a network fails in many ways, and each has its own class
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"could not fetch {name_or_path}'s {file} ({reason[:80]}); where there is "
                         "no network, name a folder that holds it") from None


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None


def read_tensors(path):
    """Every tensor of a .safetensors file, by its name."""
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError("to read pretrained weights: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:      # the package raises an error of its own for a damaged file
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None


# ------------------------------------------------------------------------------------------
# Names.


def our_names(n_layer):
    """Hugging Face's name of each of GPT-2's tensors, and ours."""
    names = {"wte.weight": "token_table", "wpe.weight": "position_table",
             "ln_f.weight": "norm.gain", "ln_f.bias": "norm.bias"}
    for i in range(n_layer):
        for theirs, ours in (("ln_1", "norm1"), ("ln_2", "norm2")):
            names[f"h.{i}.{theirs}.weight"] = f"blocks.{i}.{ours}.gain"
            names[f"h.{i}.{theirs}.bias"] = f"blocks.{i}.{ours}.bias"
        for theirs, module, ours in (
                ("attn.c_attn", "attention", "qkv"), ("attn.c_proj", "attention", "out"),
                ("mlp.c_fc", "mlp", "up"), ("mlp.c_proj", "mlp", "down")):
            names[f"h.{i}.{theirs}.weight"] = f"blocks.{i}.{module}.W_{ours}"
            names[f"h.{i}.{theirs}.bias"] = f"blocks.{i}.{module}.b_{ours}"
    return names


def read_config(name_or_path, **settings):
    """The GPTConfig that config.json describes. settings: what of MAY_CHANGE is to be otherwise."""
    path = find_file(name_or_path, "config.json")
    theirs = read_json(path)
    for key, computed in (("model_type", ("gpt2",)), ("layer_norm_epsilon", (1e-5,)),
                          ("activation_function", ("gelu_new", "gelu_pytorch_tanh")),
                          ("tie_word_embeddings", (True,)), ("scale_attn_weights", (True,)),
                          ("scale_attn_by_inverse_layer_idx", (False,))):
        if theirs.get(key, computed[0]) not in computed:
            raise ValueError(f"{path} sets {key} to {theirs[key]!r}; this GPT-2 computes with "
                             f"{' or '.join(map(repr, computed))}")
    fixed = sorted(set(settings) - set(MAY_CHANGE))
    if fixed:
        raise ValueError(f"{fixed[0]} comes with the weights of {name_or_path}; what may be "
                         f"otherwise is {', '.join(MAY_CHANGE)}")
    try:
        shape = dict(vocab_size=theirs["vocab_size"], context_length=theirs["n_positions"],
                     n_layer=theirs["n_layer"], n_head=theirs["n_head"], n_embd=theirs["n_embd"],
                     mlp_width=theirs.get("n_inner") or 0)
    except KeyError as missing:
        raise ValueError(f"{path} does not say {missing}") from None
    config = GPTConfig(**ARCHS["gpt2"] | shape | settings)
    if config.context_length > shape["context_length"]:
        raise ValueError(f"{name_or_path} has learned {shape['context_length']} places; a "
                         f"context_length of {config.context_length} is too long")
    return config


def load_gpt2(name_or_path, **settings):
    """A GPT with the weights of a folder, or of one of PUBLISHED."""
    config = read_config(name_or_path, **settings)
    path = find_file(name_or_path, "model.safetensors")
    tensors = {name.removeprefix("transformer."): x for name, x in read_tensors(path).items()}
    head = tensors.pop("lm_head.weight", tensors.get("wte.weight"))     # the same table once more
    names = our_names(config.n_layer)
    unknown = [name for name in tensors if name not in names
               and not name.endswith(("attn.bias", "attn.masked_bias"))]    # masks, not weights
    with torch.device("meta"):      # a model without numbers, for the shapes
        gpt = GPT(config)
    weights = {}
    for theirs, ours in names.items():
        if theirs not in tensors:
            raise ValueError(f"{path} has no tensor {theirs}")
        x, shape = tensors[theirs], tuple(gpt.get_parameter(ours).shape)
        if theirs == "wpe.weight" and len(x) > config.context_length:
            x = x[:config.context_length].clone()               # (context_length, C)
        if tuple(x.shape) != shape:
            raise ValueError(f"{path}: {theirs} is {tuple(x.shape)}, not {shape}")
        weights[ours] = x.float()
    if unknown:
        raise ValueError(f"{path} has a tensor {unknown[0]}, which GPT-2 has no place for")
    if not torch.equal(head, tensors["wte.weight"]):
        raise ValueError(f"{path}: lm_head.weight is not wte.weight, as it is in GPT-2")
    gpt.load_state_dict(weights, assign=True)
    return gpt


def load_gpt2_tokenizer(name_or_path):
    """GPT-2's own byte pairs, from the files beside its weights."""
    vocab = read_json(find_file(name_or_path, "vocab.json"))
    lines = find_file(name_or_path, "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [unspell(line) for line in lines if line and not line.startswith("#version")]
    tokens = {i: token.encode() if token == EOT else unspell(token)[0]
              for token, i in vocab.items()}
    return BPETokenizer(tokens, merges, [EOT], "gpt2")


def main():
    parser = Parser("Load pretrained GPT-2 weights and show what goes where.")
    parser.add_argument("model", help=f"a folder, or one of {', '.join(PUBLISHED)}")
    options = parser.parse_args()
    with clear_errors():
        gpt = load_gpt2(options.model)
    print(f"{'in the file':28}{'here':28}{'shape':>16}")
    for theirs, ours in our_names(gpt.config.n_layer).items():
        print(f"{theirs:28}{ours:28}{str(tuple(gpt.get_parameter(ours).shape)):>16}")
    print(f"{gpt.n_parameters():,} parameters")


if __name__ == "__main__":
    main()
