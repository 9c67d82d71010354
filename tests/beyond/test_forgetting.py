"""What is mixed in is every Nth window; who learns anew forgets, and a leak is found."""
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import train
from beyond.forgetting import mixed
from beyond.lora import load_adapter
from conftest import SMALL, inside
from eval import log_probs, measure, open_text
from sample import load_run


@pytest.mark.parametrize("every, B", [(3, 4), (10, 4), (2, 6)])
def test_every_nth_window_is_of_the_other_text(every, B):
    """Counted over all steps, for one process and for two; else, and of itself, data.batch."""
    ours, others, n = np.arange(500), np.arange(1000, 1300), 0
    for step in range(9):
        ids, targets = mixed(ours, others, every, B, 8, 1, step)
        assert torch.equal(targets, ids + 1)
        usual, theirs = (data.batch(x, B, 8, 1, step)[0] for x in (ours, others))
        for row in range(B):
            n += 1
            assert torch.equal(ids[row], (theirs if n % every == 0 else usual)[row])
        parts = [mixed(ours, others, every, B, 8, 1, step, part, 2)[0] for part in (0, 1)]
        assert torch.equal(torch.cat(parts), ids)
        assert torch.equal(mixed(ours, ours, every, B, 8, 1, step)[0], usual)


@pytest.mark.slow
def test_the_four_ways_and_the_two_traps(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "draw_curve", lambda *_: None)
    inside("train.py", "--source", trained / "text.txt", *SMALL, "--eval-every", 100, "--steps",
           200, "--learning-rate", 0.01, "--name", "first", cwd=tmp_path)
    rng, letters = random.Random(1), sorted({*"green bottles hanging on the wall"})
    text = " ".join("".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(4000))
    (tmp_path / "new.txt").write_text(text)
    command = ["beyond.forgetting", "first", "--source", "new.txt", "--steps", 40, "--eval-every",
               10, "--learning-rate", 0.01, "--replay", 4, "--batch-size", 8]
    found = json.loads(inside(*command, "--json", cwd=tmp_path))
    rows = {row["way"]: row for row in found["ways"]}
    assert [*rows] == ["before", "plain", "smaller", "lora", "replay"]
    assert min(row["old"] for row in rows.values()) == rows["before"]["old"]
    assert max(row["old"] for row in rows.values()) == rows["plain"]["old"]
    assert max(row["new"] for row in rows.values()) == rows["before"]["new"]
    assert rows["plain"]["new"] < rows["smaller"]["new"]

    monkeypatch.chdir(tmp_path)         # what was learned is a run, or an adapter, as eval.py sees
    bits = lambda model, folder: measure(log_probs(model, open_text(folder).ids), open_text(
        folder))["bits_per_byte"]
    first = load_run("runs/first")[0]
    n = sum(p.numel() for p in first.parameters())
    assert bits(first, "runs/first") == pytest.approx(rows["before"]["old"])
    assert bits(load_run("runs/forgetting/plain")[0],
                "runs/forgetting/plain") == pytest.approx(rows["plain"]["new"])
    merged = load_adapter(first, Path("runs/forgetting/lora")).merge()
    assert bits(merged, "runs/forgetting/plain") == pytest.approx(rows["lora"]["new"], rel=1e-4)
    assert rows["plain"]["learned"] == n and rows["before"]["learned"] == 0
    assert rows["lora"]["learned"] == 2 * 8 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)

    over, leaks = found["overfitting"], found["leakage"]
    last, best = over["last"], over["best"]
    assert over["tokens"] == 20 * 16 + 1 and last["epoch"] == 40 * 8 * 16 / 321
    assert last["train_loss"] < best["val_loss"] <= last["val_loss"]
    assert leaks["tokens"] == 40 * 8 * 16 // 4 // 2
    assert leaks["what leaked"]["difference"] < leaks["the rest"]["difference"] - 0.01
    assert leaks["overlap_of_leaked"] == 1 and leaks["overlap_of_plain"] == 0

    assert (tmp_path / "forgetting.png").stat().st_size > 20_000
    shown = inside(*command, cwd=tmp_path)                      # nothing is left to learn
    assert "---" not in shown and f"{rows['lora']['old']:.4f}" in shown
