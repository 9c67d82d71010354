"""Each rung changes something, the first is GPT-2, and the last is the default."""
import sys
from dataclasses import asdict

import pytest

import ladder
import train
from cli import chosen
from conftest import SMALL, one_line
from model import ARCHS, GPTConfig
from train import TrainConfig


def settings(flags, monkeypatch):
    """What train.py would start a run with, given these flags."""
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    options = train.read_options()
    arch = ARCHS[options.arch or "modern"]
    return (asdict(GPTConfig(**arch | chosen(options, GPTConfig)))
            | asdict(TrainConfig(**chosen(options, TrainConfig))))


def test_from_gpt2_to_the_default(monkeypatch):
    flags, steps = [], []
    for _, _, change in ladder.RUNGS:
        flags += change.split()
        steps.append(settings(flags, monkeypatch))
    assert steps[-1] == settings([], monkeypatch)
    assert {k: steps[0][k] for k in ARCHS["gpt2"]} == ARCHS["gpt2"]
    assert steps[0]["optimizer"] == "adamw"
    for i, (below, above) in enumerate(zip(steps, steps[1:])):
        changed = {k for k in above if above[k] != below[k]}
        assert len(changed) == (4 if i == len(steps) - 2 else 1), changed


def test_the_flags_that_are_its_own(tmp_path):
    assert "--run is for the ladder to say" in one_line("ladder.py", "--run", "x", cwd=tmp_path)


@pytest.mark.slow
def test_two_rungs(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ladder, "RUNGS", ladder.RUNGS[:2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--source", str(trained / "text.txt"), "--steps",
                                      "3", *SMALL])
    ladder.main()
    said = capsys.readouterr().out
    assert "| gpt2 | as in 2019 |" in said and (tmp_path / "ladder.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):                     # other flags would mix two ladders
        ladder.main()
    assert "there is a ladder already" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["ladder.py"])
    before = [p.stat().st_mtime for p in tmp_path.glob("runs/*/last.pt")]
    ladder.main()                                       # finished rungs are left alone
    assert before == [p.stat().st_mtime for p in tmp_path.glob("runs/*/last.pt")]
