"""Arena: ratings against PyTorch's own logistic regression; votes that outlive what happens."""
import io
import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beyond import arena
from conftest import inside, one_line
from sample import load_run
from test_export import bpe, chat_bpe, make_run


def vote(left, right, said):
    return {"by": "a person", "prompt": "?", "left": left, "right": right, "vote": said,
            "weights": ["", ""]}


def test_by_hand():
    """Two runs: the odds are the wins, with half a win more each. Three whose wins are exactly what
    strengths of 1, 2 and 4 expect (of 60 games 20 against 40, 12 against 48, 20 against 40)."""
    votes = [vote("a", "b", "left")] * 5 + [vote("b", "a", "left")] + [vote("b", "a", "tie")] * 2
    (a, b), _, wins = arena.ratings(votes, ["a", "b"])
    assert wins.tolist() == [[0, 6], [2, 0]] and a + b == pytest.approx(2000)
    assert a - b == pytest.approx(400 * math.log10(6.5 / 2.5))
    wins = np.array([[0, 20, 12], [40, 0, 20], [48, 40, 0.0]])
    assert arena.strengths(np.stack([wins, wins * 3])) == pytest.approx(
        np.array([[0.5, 1, 2]] * 2), rel=1e-6)
    same = arena.ratings([vote("a", "b", "tie")] * 30, ["a", "b"])
    bad = arena.ratings([vote("b", "a", "both bad")] * 30, ["a", "b"])
    assert same[0] == pytest.approx(1000) and bad[0] == pytest.approx(1000)


def test_against_logistic_regression():
    """Votes at random between four runs, and the same likelihood maximised by PyTorch's L-BFGS."""
    rng, runs = np.random.default_rng(1), list("abcd")
    votes = [vote(*rng.choice(runs, 2, False).tolist(), str(rng.choice(list(arena.SCORE),
                  p=[0.5, 0.2, 0.2, 0.1]))) for _ in range(80)]
    rating, interval, _ = arena.ratings(votes, runs)
    games = [(v["left"], v["right"], arena.SCORE[v["vote"]]) for v in votes]
    games += [(a, b, 0.5) for i, a in enumerate(runs) for b in runs[i + 1:]]
    a, b = (torch.tensor([runs.index(game[side]) for game in games]) for side in (0, 1))
    score, log = torch.tensor([g[2] for g in games]).double(), torch.zeros(4).double()
    log.requires_grad_()
    optimiser = torch.optim.LBFGS([log], max_iter=500, tolerance_grad=1e-12, tolerance_change=0,
                                  line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        found = F.binary_cross_entropy_with_logits(log[a] - log[b], score)
        found.backward()
        return found

    optimiser.step(loss)
    theirs = 1000 + 400 / math.log(10) * (log - log.mean()).detach().numpy()
    assert rating == pytest.approx(theirs, abs=1e-3)
    assert (interval[0] < rating).all() and (rating < interval[1]).all()


def test_an_interval_holds_the_truth():
    """100 times 60 votes between two runs, one of which wins two of three: 95 of 100, about."""
    rng, truth, held = np.random.default_rng(1), 200 * math.log10(2), 0
    for _ in range(100):
        votes = [vote("a", "b", "left" if won else "right") for won in rng.random(60) < 2 / 3]
        low, high = arena.ratings(votes, ["a", "b"], n=300)[1][:, 0] - 1000
        held += low < truth < high
    assert 88 <= held <= 99


def test_rounds_are_every_pair_on_sides_that_are_drawn():
    prompts = [f"{i}" for i in range(50)]
    found = arena.rounds(prompts, ["a", "b", "c"], 1)
    assert len(found) == 150 == len({(p, frozenset(sides)) for p, *sides in found})
    first = [left for _, left, right in found if {left, right} == {"a", "b"}].count("a")
    assert 15 < first < 35 and found != sorted(found)
    shown = arena.side_by_side(["one two three\n\nfour", "five\x1b[2J"], 25).split("\n")
    assert shown == ["one two     | five [2J", "three       | ", "            | ", "four        | "]


@pytest.fixture
def two(tmp_path):
    """runs/x, which was taught to chat, and runs/y, which was not."""
    make_run(tmp_path, "llama", chat_bpe(), context_length=120)
    (tmp_path / "runs/x").rename(tmp_path / "x")
    make_run(tmp_path, "llama", bpe(), context_length=120)
    (tmp_path / "runs/x").rename(tmp_path / "runs/y")
    (tmp_path / "x").rename(tmp_path / "runs/x")
    (tmp_path / "prompts.txt").write_text("Qui êtes-vous ?\n\nhello\nbottle\n", encoding="utf-8")
    return tmp_path


def votes_in(folder):
    return [json.loads(line) for line in open(folder / "runs/arena.jsonl", encoding="utf-8")][1:]


def test_a_person_votes_and_nothing_is_lost(two, monkeypatch):
    flags = ["beyond.arena", "x", "y", "--prompts", "prompts.txt", "--tokens", 9]
    monkeypatch.setattr(sys, "stdin", io.StringIO("what\nl\n"))         # then Ctrl-D
    said = inside(*flags, cwd=two)
    assert said.count("Which is better?") == 3 and "--- 2 of 3" in said
    shown = said[:said.index("1 votes by a person")]
    assert "runs/x" not in shown and "runs/y" not in shown and "-" in said.split("rating")[1]
    [first] = votes_in(two)
    assert first["vote"] == "left" and {first["left"], first["right"]} == {"runs/x", "runs/y"}

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(arena, "ask", stopped)
        with pytest.raises(KeyboardInterrupt):
            inside(*flags, cwd=two)
    with open(two / "runs/arena.jsonl", "a") as file:
        file.write('{"by": "a per')                                     # kill -9
    monkeypatch.setattr(sys, "stdin", io.StringIO("b\nt\n"))
    said = inside(*flags, cwd=two)
    assert "--- 2 of 2" in said and "3 votes by a person, 1 of them both bad" in said
    assert len({v["prompt"] for v in votes_in(two)}) == 3 and votes_in(two)[0] == first
    winner = first["left"]
    loser = first["right"]
    assert f"\n{winner:20}{1000 + 200 * math.log10(2.5 / 1.5):6,.0f}" in said
    assert "2 of 3" in said and "1 of 3" in said
    assert said.endswith(inside("beyond.arena", cwd=two)) and loser in said
    assert "runs/y" in inside(*flags, cwd=two)                           # nothing is left to ask


def test_a_judge_reads_both_orders(two, monkeypatch):
    """Its probabilities against the model's own, over the whole text; one that only looks at the
    order is a coin, and is said to be."""
    model, tokenizer = load_run(two / "runs/y")
    p = arena.first_is_better(model, tokenizer, "hi", "one", "two")
    text = ("hi\n\nAnswer A:\n", "one", "\n\nAnswer B:\n", "two",
            "\n\nWhich is better, answer A or answer B?\n", "The better one is answer")
    ids, logs = sum(map(tokenizer.encode, text), []), []
    for letter in map(tokenizer.encode, (" A", " B")):
        log_p = model(torch.tensor([ids + letter])).log_softmax(-1)[0, len(ids) - 1:-1]
        logs.append(log_p.gather(-1, torch.tensor(letter)[:, None]).sum())
    assert p == pytest.approx(torch.softmax(torch.stack(logs), 0)[0].item(), abs=1e-4)
    assert 0 < arena.first_is_better(model, tokenizer, "hi", "one " * 99, "two " * 99) < 1     # cut
    (two / "runs/y").rename(two / "runs/j")
    (two / "x").mkdir()
    for name in ("config.json", "tokenizer.json", "best.pt"):
        (two / "x" / name).write_bytes((two / "runs/x" / name).read_bytes())
    (two / "x").rename(two / "runs/y")
    flags = ["beyond.arena", "x", "y", "--judge", "j", "--prompts", "prompts.txt", "--tokens", 5]
    said = inside(*flags, cwd=two)          # x and y are the same, and write the same
    assert "3 votes by runs/j" in said and "in 3 of 3 rounds the order decided" in said
    assert [v["vote"] for v in votes_in(two)] == ["tie"] * 3
    assert all(abs(np.diff(v["orders"])) < 1e-6 for v in votes_in(two))


def test_what_cannot_be(two):
    for says, *flags in (("two different runs", "x"), ("two different runs", "x", "x"),
                         ("a judge that is neither", "x", "y", "--judge", "y"),
                         ("a judge that is neither", "--judge", "x"), ("no votes in", ),
                         ("--prompts names a file", "x", "y", "--prompt", "a")):
        assert says in one_line("beyond.arena", *flags, cwd=two)
    (two / "runs/arena.jsonl").write_text('{"votes": "arena"}\n{"vote": "left"}\n')
    assert "arena.jsonl is damaged" in one_line("beyond.arena", cwd=two)
