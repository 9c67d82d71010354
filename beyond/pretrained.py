"""
Pretrained weights: what somebody else has trained becomes a run of ours.

OpenAI published what GPT-2 had learned, in four sizes. In Hugging Face's form a model is a folder:
config.json has its shape, model.safetensors its weights, each under a name, vocab.json its tokens,
merges.txt the pairs they were merged from. --arch gpt2 computes the same, down to how the matrices
lie; so to load it is to say which name there is which here, and to make sure none is left over.

    python -m beyond.pretrained gpt2                        # fetch it (500 MB), into runs/gpt2
    python -m beyond.pretrained models/mine --name mine     # from a folder, into runs/mine
    python sample.py gpt2 --prompt "To be, or not to be"    # it is a run like any other
    python train.py --init gpt2 --source letters/ --learning-rate 1e-4

Needs the package safetensors; to fetch the weights, huggingface_hub as well. Paper: Language
Models are Unsupervised Multitask Learners (GPT-2; Radford et al., 2019).
"""
import contextlib
import json
import os
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

from data import DataConfig, checked
from model import ARCHS, GPT, GPTConfig
from sample import RUNS
from tokenizer import EOT, BPETokenizer, Parser, clear_errors, write_whole

import torch

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def find_file(model, file):
    """The path of one file of a model: in a folder, or fetched from the hub and kept there."""
    path = Path(model) / file
    if path.is_file():
        return path
    if Path(model).is_dir() or model not in PUBLISHED:
        raise ValueError(f"there is no {path}; name a folder, or one of {', '.join(PUBLISHED)}")
    try:
        from huggingface_hub import hf_hub_download
        return Path(hf_hub_download(f"openai-community/{model}", file))
    except Exception as error:      # a network fails in many ways, and each has its own class
        raise ValueError(f"could not fetch {file} of {model} ({error!r:.90}): it takes a network "
                         "and pip install huggingface_hub; or name a folder that has it") from None


def read_json(path):
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON object ({error})") from None


def read_shape(model):
    """The GPTConfig that config.json describes."""
    path = find_file(model, "config.json")
    theirs = {"layer_norm_epsilon": 1e-5, "n_inner": None} | read_json(path)
    for key, *computed in (("activation_function", "gelu_new", "gelu_pytorch_tanh"),
                           ("scale_attn_by_inverse_layer_idx", False), ("model_type", "gpt2"),
                           ("scale_attn_weights", True), ("tie_word_embeddings", True)):
        if theirs.get(key, computed[0]) not in computed:
            raise ValueError(f"{path} sets {key} to {theirs[key]!r}; this GPT-2 computes with "
                             f"{' or '.join(map(repr, computed))}")
    names = {name: name for name in ("vocab_size", "n_embd", "n_layer", "n_head")} | {
        "context_length": "n_positions", "mlp_width": "n_inner", "norm_eps": "layer_norm_epsilon"}
    for key in names.values():
        if key not in theirs:
            raise ValueError(f"{path} does not say {key}")
    shape = {ours: theirs[key] or 0 for ours, key in names.items()}     # n_inner may be null
    return checked(GPTConfig, ARCHS["gpt2"] | shape, strict=True)


def our_names(n_layer):
    """Hugging Face's name of each of GPT-2's tensors, and ours."""
    names = {"wte.weight": "token_table", "wpe.weight": "position_table",
             "ln_f.weight": "norm.gain", "ln_f.bias": "norm.bias"}
    for i in range(n_layer):
        for theirs, weight, bias in (
                ("ln_1", "norm1.gain", "norm1.bias"), ("ln_2", "norm2.gain", "norm2.bias"),
                ("attn.c_attn", "W_qkv", "b_qkv"), ("attn.c_proj", "W_out", "b_out"),
                ("mlp.c_fc", "W_up", "b_up"), ("mlp.c_proj", "W_down", "b_down")):
            names[f"h.{i}.{theirs}.weight"] = f"blocks.{i}.{weight}"
            names[f"h.{i}.{theirs}.bias"] = f"blocks.{i}.{bias}"
    return names


def read_weights(model, config):
    """Every weight under our name, as best.pt has them."""
    path = find_file(model, "model.safetensors")
    try:
        from safetensors.torch import load_file
        tensors = {name.removeprefix("transformer."): x for name, x in load_file(path).items()}
    except Exception as error:      # the package has a class of its own for a damaged file
        raise ValueError(f"{path} cannot be read ({error!r:.90}): is it whole, and is the package "
                         "safetensors installed?") from None
    with torch.device("meta"):      # a model without numbers, for the shapes
        ours, weights = GPT(config).state_dict(), {}
    for name, our_name in our_names(config.n_layer).items():
        if name not in tensors:
            raise ValueError(f"{path} has no tensor {name}")
        x, shape = tensors.pop(name).float(), tuple(ours[our_name].shape)
        if tuple(x.shape) != shape or not x.isfinite().all():
            raise ValueError(f"{path}: {name} is {tuple(x.shape)}, not {shape}, or not finite")
        weights[our_name] = x
    for name, x in tensors.items():
        twice = name == "lm_head.weight" and torch.equal(x.float(), weights["token_table"])
        if not twice and not name.endswith(("attn.bias", "attn.masked_bias")):  # causal masks
            raise ValueError(f"{path} has a tensor {name}, which GPT-2 has no room for")
    return weights


# In GPT-2's files a byte is spelled as one character: as itself, in Latin-1, if that can be seen;
# the others, in order, as the characters from U+0100 on. So " the" is "Ġthe".
SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [b for b in range(256) if b not in SEEN]
BYTE_OF = {chr(b): b for b in SEEN} | {chr(256 + n): b for n, b in enumerate(OTHERS)}


def read_tokenizer(model, vocab_size):
    """Its byte pairs. Our ids are ranks: so each merge must have made the next token of vocab."""
    path, merges, whole = find_file(model, "vocab.json"), find_file(model, "merges.txt"), False
    ids = read_json(path)
    with contextlib.suppress(KeyError, TypeError, ValueError):      # a damaged file is not whole
        vocab = [bytes(BYTE_OF[c] for c in token) for token in sorted(ids, key=ids.get)]
        merged = [bytes(BYTE_OF[c] for c in line.replace(" ", ""))
                  for line in merges.read_text(encoding="utf-8").splitlines()
                  if line and not line.startswith("#version")]
        alone = {token for token in vocab if len(token) == 1 or token == EOT.encode()}
        whole = (sorted(ids.values()) == list(range(vocab_size)) and len(alone) == 257
                 and merged == [token for token in vocab if token not in alone])
    if not whole:
        raise ValueError(f"{path} must be {vocab_size:,} tokens, as many as the model's: every "
                         f"byte, {EOT}, and what {merges} makes, in its order")
    return BPETokenizer(vocab)


def main():
    parser = Parser("Make a run of GPT-2's published weights.")
    parser.add_argument("model", help=f"a folder, or one of {', '.join(PUBLISHED)}")
    parser.add_argument("--name", help="name of the run (default: the model's)")
    parser.add_argument("--context-length", type=int, default=0, metavar="T",
                        help="keep only the first T positions, to compute less (default: all)")
    options = parser.parse_args()
    with clear_errors():
        model, name = options.model, options.name or Path(options.model).resolve().name
        folder, aside = RUNS / name, RUNS / f"{name}.{os.getpid()}.unfinished"
        if folder.exists() or folder.parent != RUNS:
            raise ValueError(f"the name {name} is taken, or is none for a folder: give a --name")
        config = read_shape(model)
        V, T = config.vocab_size, options.context_length or config.context_length
        if not 1 <= T <= config.context_length:
            raise ValueError(f"{model} has {config.context_length} positions, not {T}")
        tokenizer, weights = read_tokenizer(model, V), read_weights(model, config)
        config.context_length = T
        weights["position_table"] = weights["position_table"][:T].clone()       # (T, C)
        text = DataConfig([f"what {name} has read (not here: use --text)"], "bpe", V)
        settings = {"data": asdict(text), "model": asdict(config), "train": {"steps": 0},
                    "corpus": {"folder": text.source[0]}}
        aside.mkdir(parents=True)
        try:
            tokenizer.save(aside / "tokenizer.json")
            (aside / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
            write_whole(aside / "best.pt",
                        lambda file: torch.save({"model": weights, "step": 0}, file))
            os.rename(aside, folder)            # it appears only when it is whole
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        print(f"{'in model.safetensors':28}{'here':20}{'shape':>14}")
        for theirs, ours in our_names(1).items():
            print(f"{theirs:28}{ours:20}{str(tuple(weights[ours].shape)):>14}")
        run, n = shlex.quote(str(folder)), sum(x.numel() for x in weights.values())
        print(f"and so on, {config.n_layer} blocks: {n:,} parameters, in {folder}. Go on:\n"
              f"    python sample.py {run} --prompt TEXT\n    python eval.py {run} --text FILE\n"
              f"    python train.py --init {run} --source FILE --learning-rate 1e-4")


if __name__ == "__main__":
    main()
