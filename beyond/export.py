"""
Export: a run of ours leaves as a model of Hugging Face's.

A folder is what their libraries, and all that build on these, take for a model: with its shape
(config.json), its weights (model.safetensors), its tokenizer (tokenizer.json, and how to use it in
tokenizer_config.json; of a model that chats, how turns are written). It is the way of
beyond/pretrained.py backwards: a run with --arch gpt2 becomes a GPT-2, one with --arch llama a
Llama, and computes the same. For a run with other switches there is no model there: one line says
which they are.

    python train.py --arch llama --name mine
    python -m beyond.export mine models/mine
    python -c "import transformers as t; print(t.pipeline('text-generation', 'models/mine')('To'))"

Needs the package safetensors.
"""
import json
import os
import shutil
from pathlib import Path

from beyond.bytelevel import to_theirs as tokenizer_to_theirs
from beyond.chat import END, TEMPLATE, can_chat
from beyond.counterparts import tensors, to_theirs, write_shape
from sample import find_run, load_run
from tokenizer import Parser, clear_errors, write_whole

import torch


def write_json(path, content):
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_whole(path, lambda file: file.write(text.encode()))


def export(model, tokenizer, folder):
    """Write a model and its tokenizer into a folder that is there; return what kind it became."""
    c, vocab = model.config, tokenizer.vocab
    arch, config = write_shape(c)
    try:
        from safetensors.torch import save
    except ImportError:
        raise ValueError("it takes the package: pip install safetensors") from None
    theirs = tokenizer_to_theirs(tokenizer)
    names = {token["id"]: token["content"] for token in theirs["added_tokens"]}
    ends = [vocab.index(END), tokenizer.eot] if can_chat(tokenizer) else [tokenizer.eot]
    config |= {"bos_token_id": tokenizer.eot, "eos_token_id": ends}
    how = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": c.context_length,
           "bos_token": names[tokenizer.eot], "eos_token": names[ends[0]],
           "pad_token": names[ends[0]], "clean_up_tokenization_spaces": False}
    if can_chat(tokenizer):
        how["chat_template"] = TEMPLATE
    weights, found = model.state_dict(), {}
    for ours, their_names in tensors(arch, c.n_layer).items():
        if ours in weights:         # the last matrix may be the first table
            found |= zip(their_names, to_theirs(arch, ours, weights[ours].cpu(), c))
    prefix = "transformer." if arch == "gpt2" else ""
    found = {name if name.startswith("lm_head") else prefix + name: x for name, x in found.items()}
    content = save(found, {"format": "pt"})
    write_whole(folder / "model.safetensors", lambda file: file.write(content))
    write_json(folder / "tokenizer.json", theirs)
    write_json(folder / "tokenizer_config.json", how)
    write_json(folder / "config.json", config)
    return arch


@torch.no_grad()
def main():
    parser = Parser("Write a run as a model of Hugging Face's.")
    parser.add_argument("run", help="name or folder of the run")
    parser.add_argument("folder", help="where to write it; must not be there yet")
    options = parser.parse_args()
    with clear_errors():
        run, folder = find_run(options.run), Path(options.folder)
        if folder.exists():
            raise ValueError(f"{folder} is there: name a folder that is not")
        aside = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
        model, tokenizer = load_run(run)
        try:
            aside.mkdir(parents=True)
            arch = export(model, tokenizer, aside)
            os.rename(aside, folder)        # it appears only when it is whole
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{run} is a {arch} of Hugging Face's, {size / 1e6:,.1f} MB, in {folder}:\n"
              f"    transformers.pipeline('text-generation', {str(folder)!r})\n"
              f"    python -m beyond.pretrained {folder} --name NAME     # and back")


if __name__ == "__main__":
    main()
