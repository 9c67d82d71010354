"""
A run on disk: what training leaves in a folder, and how the later chapters find it again.

    config.json      every setting it was made with
    tokenizer.json   how its text becomes integers
    best.pt          the model when it was at its best on the validation split
    last.pt          the model as it was last, with all that is needed to train on

    metrics.jsonl    what was measured on the way, a line for each step
    loss.png         the same, drawn

Such a folder can be copied to another machine and used there. Whatever is written again is written
aside and renamed, so that a crash leaves the old file or the new one, never half of one.
"""
import json
import os
from pathlib import Path

import torch

import tokenizer
from model import GPT, GPTConfig

RUNS = Path("runs")     # train.py keeps its runs here, one folder each


def write_aside(path, write):
    """Call write on a temporary path beside path, make sure it is on the disk, and rename it."""
    aside = path.with_name(f"{path.name}.unfinished")
    try:
        write(aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:        # torch.save reports a full disk as the latter
        aside.unlink(missing_ok=True)
        raise OSError(f"could not write {path} ({error}); what was there is untouched") from None


def find_run(name=None):
    """The folder of a run: from its path, its name in runs/, or, given neither, the newest."""
    if name:
        for folder in (Path(name), RUNS / name):
            if (folder / "config.json").is_file():
                return folder
        raise ValueError(f"there is no run {name}")
    checkpoints = sorted(RUNS.glob("*/last.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise ValueError(f"there is no trained model in {RUNS}/ yet; python train.py makes one")
    return checkpoints[-1].parent


def load_checkpoint(path):
    """The content of a checkpoint, on the CPU. weights_only: it can hold data, never code."""
    if not path.exists():
        raise ValueError(f"there is no checkpoint {path}: the run stopped before its first one")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return {key: checkpoint[key] for key in ("model_config", "model")} | checkpoint
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        instead = "; delete it, and last.pt is used" if path.name == "best.pt" else ""
        raise ValueError(f"{path} is not a whole checkpoint ({reason[:80]}){instead}") from None


def read_config(folder, name="config.json"):
    """The settings of a run: a dict of dicts, data, model, train and corpus."""
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {part: config[part] for part in ("data", "model", "train", "corpus")}
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold the settings of a run ({error})") from None


def load_run(folder, device="cpu"):
    """The best model of a run (the last, if it has no best yet) and its tokenizer."""
    best, last = folder / "best.pt", folder / "last.pt"
    checkpoint = load_checkpoint(best if best.exists() else last)
    tokens = tokenizer.load(folder / "tokenizer.json")
    try:
        model = GPT(GPTConfig(**checkpoint["model_config"]))
        model.load_state_dict(checkpoint["model"])
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the checkpoint in {folder} does not fit this model.py "
                         f"({str(error).splitlines()[0][:80]})") from None
    return model.to(device).eval(), tokens


def pick_device(name):
    """auto takes the best there is: an NVIDIA GPU, an Apple GPU, the CPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    if name == "auto":
        return next(device for device in there if there[device])
    if name.split(":")[0] not in there:
        raise ValueError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if not there[name.split(":")[0]]:
        raise ValueError(f"this PyTorch sees no {name} device; --device auto takes what there is")
    return name
