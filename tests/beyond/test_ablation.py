"""Each run changes something, the first is GPT-2, and the last is the default."""
from dataclasses import asdict

import pytest

import data
import train
from beyond import ablation, curves
from conftest import SMALL, inside, one_line, run
from model import ARCHS, GPTConfig
from sample import read_config


def test_from_gpt2_to_the_default():
    flags, steps = [], []
    for _, _, change in ablation.CHANGES:
        flags += change.split()
        steps.append(ablation.settings(flags))
    assert steps[-2] == asdict(GPTConfig()) | asdict(train.TrainConfig())
    gpt2 = train.PRESETS["baseline"] | ARCHS["gpt2"]
    for name in (*ARCHS["gpt2"], "optimizer", "decay", "warmup_steps",
                 "weight_decay"):
        assert steps[0][name] == gpt2[name]
    changed = [{k for k in above if above[k] != below[k]} for below, above in zip(steps, steps[1:])]
    assert [len(names) for names in changed] == [1] * 9 + [3, 1] and changed[-1] == {"ngram"}


def test_the_last_tenth_is_held_out(trained):
    corpus = data.load_corpus(trained / read_config(trained / "runs/first")["corpus"]["folder"])
    tenth = data.load_corpus(ablation.hold_out(corpus.folder), corpus.tokenizer)
    assert [*tenth.train, *tenth.val] == [*corpus.train]
    assert len(tenth.val) == -(-len(corpus.train) // 10)
    assert tenth.meta["val"]["bytes"] == len(corpus.tokenizer.decode(tenth.val.tolist()).encode())


@pytest.mark.slow
def test_two_changes(trained, tmp_path, monkeypatch):
    """The runs of the first were stopped. Then again, with nothing to do; then with other flags."""
    flags, folder = ["--source", trained / "text.txt", *SMALL], tmp_path / "runs"
    monkeypatch.setattr(ablation, "CHANGES", ablation.CHANGES[:1])
    inside("beyond.ablation", *flags, "--steps", 10, cwd=tmp_path)
    for config in folder.glob("*/config.json"):
        config.write_text(config.read_text().replace('"steps": 10', '"steps": 20'))
    monkeypatch.undo()
    monkeypatch.setattr(ablation, "CHANGES", ablation.CHANGES[:2])
    flags += ["--steps", 20]
    said = inside("beyond.ablation", *flags, cwd=tmp_path)
    losses = {path.name: [m["val_loss"] for m in curves.read_metrics(path) if "val_loss" in m][-1]
              for path in folder.iterdir()}
    close = abs(losses["ablation-00-gpt2"] - losses["ablation-01-no-bias"]) < 0.02
    for name in ("00-gpt2", "01-no-bias"):
        rates = {float(run.split("-rate-")[1]): loss for run, loss in losses.items()
                 if f"{name}-rate" in run}
        assert len(rates) == 3 and f"| {min(rates, key=rates.get):g} |" in said
        seeds = [losses[name] for name in (f"ablation-{name}", f"ablation-{name}-seed-2")
                 if name in losses]
        assert len(seeds) == 1 + close and f"| {sum(seeds) / len(seeds):.3f} |" in said
    assert f"| {1 + close} | {losses['ablation-01-no-bias-seconds']:.3f} |" in said
    again = inside("beyond.ablation", *flags, cwd=tmp_path)
    assert said.endswith(again) and "--- ablation" not in again
    says = one_line("beyond.ablation", *flags, "--steps", 30, cwd=tmp_path)
    assert "was trained with steps 20, not 30" in says


def test_flags_that_are_its_own(tmp_path):
    for flag in ("--name", "--resume", "--no-qk-norm", "--bias", "--learning-rate"):
        says = one_line("beyond.ablation", "--tokenizer", "gpt2", f"{flag}=1", cwd=tmp_path)
        assert f"{flag} is for the ablation to say" in says
