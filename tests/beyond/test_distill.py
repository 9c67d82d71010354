"""The loss is PyTorch's, and the paper's where it is hot; alone, a student is a run of train.py."""
import json

import pytest
import torch
import torch.nn.functional as F

import train
from beyond import distill
from beyond.distill import loss_of, soft_loss
from conftest import SMALL, inside, one_line
from model import GPT, GPTConfig


@pytest.mark.parametrize("t", [0.5, 1, 4])
def test_the_soft_loss_is_pytorchs(t):
    """Forward and backward, in float64."""
    torch.manual_seed(1)
    student, teacher = (3 * torch.randn(2, 5, 7).double() for _ in range(2))
    student.requires_grad_()
    log_q, log_p = ((x / t).log_softmax(-1).flatten(0, 1) for x in (student, teacher))
    theirs = t ** 2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    ours = soft_loss(student, teacher, t)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, student) for x in (ours, theirs)))


def test_hot_it_matches_logits():
    """Equation 4 of the paper: the gradient becomes (z - v) / V, both centred, whatever t is."""
    torch.manual_seed(1)
    z, v = torch.randn(1, 1, 9).double().requires_grad_(), torch.randn(1, 1, 9).double()
    gradient, = torch.autograd.grad(soft_loss(z, v, 1e4), z)
    difference = (z - v).detach()
    torch.testing.assert_close(gradient, (difference - difference.mean()) / 9, rtol=1e-3, atol=1e-5)


def test_the_mix():
    """Of a student that is its teacher nothing is asked, but by the text; the teacher stays."""
    torch.manual_seed(1)
    student, teacher = (GPT(GPTConfig(31, 12, 1, 2, n_embd=16, ngram=1)) for _ in range(2))
    ids, targets = torch.randint(31, (2, 3, 12))
    hard = F.cross_entropy(student(ids).flatten(0, 1), targets.flatten())
    soft = soft_loss(student(ids), teacher(ids), 2)
    assert loss_of(student, None, ids, targets, 2, 0).item() == pytest.approx(hard.item())
    mixed = loss_of(student, teacher, ids, targets, 2, 0.7)
    torch.testing.assert_close(mixed, 0.3 * hard + 0.7 * soft)
    mixed.backward()
    assert student.token_table.grad.abs().sum() > 0 and teacher.token_table.grad is None
    assert loss_of(student, student, ids, targets, 2, 1).item() == pytest.approx(0, abs=1e-6)


def test_the_comparison(copied, monkeypatch):
    """Each figure is eval.py's of that run; alone is what train.py makes of the same settings."""
    monkeypatch.setattr(train, "draw_curve", lambda *_: None)
    monkeypatch.setattr(distill, "speed", lambda *_: 1.0)
    shape = ["--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--ngram", 1]
    steps = ["--steps", 12, "--batch-size", 4, "--eval-every", 6]
    command = ["beyond.distill", "first", *shape, *steps, "--temperature", 1, 2, "--json"]
    rows = [json.loads(line) for line in inside(*command, cwd=copied).splitlines()]
    ways = ["alone", "t1-mix1", "t2-mix1"]
    assert [row["model"] for row in rows] == [*ways, "teacher"]
    inside("train.py", "--source", "text.txt", *SMALL, *shape, *steps, "--name", "usual",
           cwd=copied)
    runs = ["first", "usual", *(f"distill/{way}" for way in ways)]
    theirs = {row["model"].removeprefix("runs/").removeprefix("distill/"): row["bits_per_byte"]
              for row in map(json.loads, inside("eval.py", *runs, "--json",
                                                cwd=copied).splitlines())}
    for row in rows:
        assert row["bits_per_byte"] == pytest.approx(theirs[row["model"].replace(
            "teacher", "first")], rel=1e-6)
    assert theirs["usual"] == pytest.approx(theirs["alone"], rel=1e-6)
    assert len({*theirs.values()}) == 4                         # a teacher, its heat, change much
    assert rows[1]["difference"] == pytest.approx(theirs["t1-mix1"] - theirs["alone"])
    assert rows[0]["parameters"] == rows[0]["megabytes"] * 1e6 / 4 < rows[3]["parameters"]
    shown = inside(*command[:-1], cwd=copied)                 # nothing is left to learn
    assert shown.count("\n") == 6 and f"{rows[0]['bits_per_byte']:.4f}" in shown
    assert "other settings" in one_line(*command, "--seed", 2, cwd=copied)


def test_the_student_comes_nearer_to_its_teacher():
    """With the teacher alone to learn from, Adam ends where KL is 0, and q is p."""
    torch.manual_seed(1)
    p = torch.randn(1, 1, 6)
    z = torch.zeros(1, 1, 6, requires_grad=True)
    optimizer = torch.optim.Adam([z], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        soft_loss(z, p, 3.0).backward()
        optimizer.step()
    torch.testing.assert_close(z.softmax(-1), p.softmax(-1), rtol=1e-3, atol=1e-4)
