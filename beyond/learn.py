"""
Learn: train.py's loop for another model, another loss, other batches.

A chapter brings its own model, loss and batches. What all share is here: the run's folder, going on
after a kill (the same command again), the best weights in the end; and the settings that suit
fine-tuning. To train all weights on plain text, train.py is enough:

    python train.py --init RUN --source notes/ --learning-rate 1e-4
    python -m beyond.learn      # the settings of fine-tuning beside those of train.py
"""
import json
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import data
from sample import RUNS, load_weights, lock, read_config
from tokenizer import Parser, write_whole
from train import TrainConfig, make_optimizers, train

import torch


@dataclass
class TuneConfig(TrainConfig):
    """train.py's settings, gentler: the weights are good already. A field that stands here with a
    comment is a flag of the chapters (see data.add_flags); optimizer is none."""
    steps: int = 100            # batches to learn from
    batch_size: int = 8         # windows of text in a batch
    learning_rate: float = 1e-3     # at the end of the warm-up
    warmup_steps: int = 10      # steps over which the learning rate rises from 0
    weight_decay: float = 0.0   # pull of every matrix towards 0
    optimizer: Literal["adamw"] = "adamw"
    eval_every: int = 20        # steps from one evaluation to the next
    eval_tokens: int = 16_384   # an evaluation reads about so many; 0: all
    seed: int = 1               # fixes the order of the batches, and what begins random


def corpus_of(run, tokenizer, source=None):
    """A text as the tokenizer of a run cuts it; without a source, what the run has learned from."""
    folder = read_config(run)["corpus"]["folder"]
    if source:
        folder = data.prepare(data.checked(data.DataConfig, {
            "source": source, "tokenizer": str(run / "tokenizer.json")}))
    elif not Path(folder).is_dir():
        raise ValueError(f"{run} does not have with it the text it was trained on: name one")
    return data.load_corpus(folder, tokenizer)


def learn(name, model, settings, tokenizer, c, batch, loss, evaluate, epoch_tokens):
    """Train in runs/NAME, from where it stopped if it is there; return its history. settings are
    what read_config gives; batch, loss, evaluate and epoch_tokens go to train() in train.py. In the
    end the model is the best one, and as load_run gives it: dropout is off."""
    folder, optimizers, history = RUNS / name, make_optimizers(model, c), []
    settings, there = json.loads(json.dumps(settings)), folder.exists()     # as read back
    if there and not ((folder / "last.pt").exists() and read_config(folder) == settings):
        raise ValueError(f"{folder} has other settings, or no last.pt: delete or rename it")
    lock(folder)
    if there:
        saved = load_weights(model, folder / "last.pt")
        try:
            for i, optimizer in enumerate(optimizers):
                optimizer.load_state_dict(saved["optimizers"][i])
            history = [m for m in saved["history"] if m["seconds"] > 0]
        except Exception as error:
            raise ValueError(f"{folder / 'last.pt'} is damaged ({error!r:.80})") from None
    else:
        tokenizer.save(folder / "tokenizer.json")
        (folder / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    if len(history) < c.steps:
        print(f"\n--- {folder}, {c.steps:,} steps")
        train(model.train(), optimizers, history, batch, loss, evaluate, folder, c,
              epoch_tokens)
    if len(history) < c.steps:
        print(f"stopped after step {len(history):,}: the same command goes on")
        sys.exit(130)
    load_weights(model.eval(), folder / "best.pt")
    return history


def save_run(model, tokenizer, settings, folder):
    """An ordinary run, for sample.py, eval.py and all others; with the curves of its adapter."""
    for file in ("metrics.jsonl", "loss.png"):
        if (folder / "adapter" / file).exists():
            shutil.copy(folder / "adapter" / file, folder / file)
    tokenizer.save(folder / "tokenizer.json")
    state = {"model": model.state_dict(), "step": settings["train"]["steps"]}
    write_whole(folder / "best.pt", lambda file: torch.save(state, file))
    content = json.dumps(settings, indent=1).encode()
    write_whole(folder / "config.json", lambda file: file.write(content))


def main():
    Parser("Show the settings of fine-tuning beside those of train.py.").parse_args()
    print(f"{'':16}{'train.py':>12}{'fine-tuning':>14}")
    for usual, own in zip(fields(TrainConfig), fields(TuneConfig)):
        if usual.default != own.default:
            print(f"{own.name:16}{usual.default!s:>12}{own.default!s:>14}")


if __name__ == "__main__":
    main()
