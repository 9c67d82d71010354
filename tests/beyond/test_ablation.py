"""Each run changes something, the first is GPT-2, and the last is the default."""
from dataclasses import asdict

import pytest

import train
from beyond import ablation, curves
from conftest import SMALL, inside, one_line, run
from data import DataConfig
from model import ARCHS, GPTConfig


def test_from_gpt2_to_the_default():
    flags, steps = [], []
    for _, _, change in ablation.CHANGES:
        flags += change.split()
        steps.append(ablation.settings(flags))
    assert steps[-1] == asdict(GPTConfig()) | asdict(train.TrainConfig()) | asdict(DataConfig())
    gpt2 = train.PRESETS["baseline"] | ARCHS["gpt2"]
    for name in (*ARCHS["gpt2"], "optimizer", "decay", "learning_rate", "warmup_steps"):
        assert steps[0][name] == gpt2[name]
    changed = [{k for k in above if above[k] != below[k]} for below, above in zip(steps, steps[1:])]
    assert [len(names) for names in changed] == [1] * 9 + [3]


@pytest.mark.slow
def test_two_runs(trained, tmp_path, monkeypatch):
    """The second was stopped on its way. Then again, with nothing to do; then with other flags."""
    monkeypatch.setattr(ablation, "CHANGES", ablation.CHANGES[:2])
    flags, folder = ["--source", trained / "text.txt", "--steps", 20, *SMALL], tmp_path / "runs"
    run("train.py", *ablation.CHANGES[0][2].split(), "--no-bias", *flags, "--steps", 10,
        "--name", "ablation-01-no-bias", cwd=tmp_path)
    config = folder / "ablation-01-no-bias/config.json"
    config.write_text(config.read_text().replace('"steps": 10', '"steps": 20'))
    said = inside("beyond.ablation", *flags, cwd=tmp_path)
    one, other = (curves.read_metrics(path)[19]["val_loss"] for path in sorted(folder.iterdir()))
    assert f"| {one:.3f} |  |" in said and f"| {other:.3f} | {other - one:+.3f} |" in said
    again = inside("beyond.ablation", *flags, cwd=tmp_path)
    assert said == "\n--- ablation-00-gpt2\n\n--- ablation-01-no-bias\n" + again
    says = one_line("beyond.ablation", *flags, "--steps", 30, cwd=tmp_path)
    assert "ablation-00-gpt2 was trained with steps 20, not 30" in says


def test_flags_that_are_its_own(tmp_path):
    for flag in ("--name", "--resume", "--no-qk-norm", "--bias", "--learning-rate"):
        says = one_line("beyond.ablation", "--tokenizer", "gpt2", f"{flag}=1", cwd=tmp_path)
        assert f"{flag} is for the ablation to say" in says
