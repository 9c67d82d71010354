"""Every answer is that of a plain computation in PyTorch, without a cache; calibration by hand."""
import json
import random
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import beyond.fewshot
from beyond.fewshot import NOTHING, calibrated, drawn, sit
from beyond.tweets import read_task
from conftest import TEXT, inside, one_line
from model import GPT, GPTConfig
from sample import load_run
from tokenizer import BPETokenizer, WordTokenizer

WORDS = "the flight was late again but thank you for a kind word about my lost bag".split()
LABELS = ["bad", "good", "not so bad"]


def make(folder, context=400, tokenizer=None):
    """A run of loud random weights, and a task of short and long texts, in a file beside it."""
    rng, run = random.Random(1), folder / "runs/x"
    tokenizer = tokenizer or BPETokenizer.train([TEXT, " ".join(WORDS)], 300)
    torch.manual_seed(2)
    config = GPTConfig(tokenizer.vocab_size, context, 2, 2, n_embd=16, ngram_rows=64)
    model = GPT(config)
    for p in model.parameters():
        p.data.copy_(0.3 * torch.randn_like(p))
    run.mkdir(parents=True)
    tokenizer.save(run / "tokenizer.json")
    (run / "config.json").write_text(json.dumps({
        "data": {}, "model": asdict(config), "train": {}, "corpus": {"folder": "none"}}))
    torch.save({"model": model.state_dict()}, run / "best.pt")
    rows = [" ".join(rng.choices(WORDS, k=rng.choice((1, 3, 9, 30)))) + f" {i}" for i in range(300)]
    (folder / "x.csv").write_text("text,label\n" + "".join(
        f"{text},{label}\n" for text, label in zip(rows, rng.choices(LABELS, (5, 3, 2), k=300))))
    return run, read_task(str(folder / "x.csv"))


def prompt(task, draw, m, text):
    """What is read before a label, as one text."""
    return "The label of each text is one of: bad, good, not so bad." + "".join(
        f"\n\nText: {x}\nLabel: {label}" for x, label in drawn((1, draw), task.train, m)
    ) + f"\n\nText: {text}\nLabel:"


@torch.no_grad()
def plain(model, tokenizer, task, draw, m, text):
    """ln p of each label after that text, each read from the start, without a cache."""
    before, found = [tokenizer.eot, *tokenizer.encode(prompt(task, draw, m, text))], []
    for label in LABELS:
        ids = [tokenizer.eot, *tokenizer.encode(f"{prompt(task, draw, m, text)} {label}")]
        n = len(ids) - len(before)
        log_p = F.log_softmax(model(torch.tensor([ids]))[0].double(), dim=-1)       # (T, V)
        found.append(sum(log_p[-1 - n + i, ids[len(before) + i]].item() for i in range(n)))
    return found


def sheet_of(run):
    rows = next(run.glob("exams/fewshot-x-????????.jsonl")).read_text().splitlines()[1:]
    return {(*row["prompt"], row["text"]): row["log_p"] for row in map(json.loads, rows)}


def test_calibration_by_hand():
    of_nothing = torch.tensor([[0.8, 0.1, 0.1], [0.04, 0.05, 0.01]]).log()      # mean .6, .3, .1
    found = calibrated(torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]).log(), of_nothing[None])
    torch.testing.assert_close(found.exp(), torch.tensor([[1.0, 1, 1], [1 / 3, 2 / 3, 6]]))


def test_draws():
    pairs = [*zip(range(50), "ab" * 25)]
    assert drawn((1, 0), pairs, 8)[:4] == drawn((1, 0), pairs, 4) and drawn(1, pairs, 0) == []
    assert {*drawn((1, 0), pairs, 50)} == {*pairs} and len({
        tuple(drawn((seed, draw), pairs, 4)) for seed in range(3) for draw in range(3)}) == 9


@pytest.mark.parametrize("context", [400, 140])
def test_all_figures_are_those_of_a_plain_computation(context, tmp_path):
    """In the smaller context few examples fit, and not all questions; which, is counted anew."""
    run, task = make(tmp_path, context)
    result, known = sit(run, task, 12, shots=(0, 4, 1), draws=2), sheet_of(run)
    model, tokenizer = load_run(run)
    longest = max(len(tokenizer.encode(f" {label}")) for label in LABELS)
    size = lambda *key: 1 + len(tokenizer.encode(prompt(task, *key))) + longest
    fits = lambda draw, m, text: max(size(draw, m, x) for x in (*NOTHING, text)) <= context
    chosen, expected = drawn(1, task.held_out, 12), {}
    fitting = [(text, label) for text, label in chosen if fits(0, 0, text)]
    assert result["questions"] == len(fitting) and result["not_askable"] == 12 - len(fitting)
    assert [(cell["shots"], cell["draw"]) for cell in result["cells"]] == [
        (0, 1), (1, 1), (1, 2), (4, 1), (4, 2)]
    truth = [LABELS.index(label) for _, label in fitting]
    assert result["shares"] == [truth.count(i) / len(truth) for i in range(3)]
    for cell in result["cells"]:
        draw, said = cell["draw"] - 1, {"raw": [], "calibrated": []}
        ms = [max(m for m in range(cell["shots"] + 1) if fits(draw, m, text))
              for text, _ in fitting]
        assert cell["fit"] == np.mean(ms)
        theirs = [label for _, label in drawn((1, draw), task.train, cell["shots"])]
        assert cell["examples"] == [theirs.count(label) for label in LABELS]
        for m, (text, _) in zip(ms, fitting):
            keys = [(draw if m else 0, m, x) for x in (text, *NOTHING)]
            for key in keys:
                expected[key] = expected.get(key) or plain(model, tokenizer, task, *key)
            p = np.exp([expected[key] for key in keys])                     # (1 + nothings, 3)
            np.testing.assert_allclose([known[key] for key in keys], np.log(p), atol=1e-4)
            p /= p.sum(axis=1, keepdims=True)
            said["raw"].append(p[0].argmax())
            said["calibrated"].append((p[0] / p[1:].mean(axis=0)).argmax())
        for name, labels in said.items():
            assert cell[name]["right"] == sum(map(int.__eq__, map(int, labels), truth))
            assert cell[name]["says"] == [labels.count(i) / len(truth) for i in range(3)]
    assert expected.keys() == known.keys() and (context == 400) == (len(fitting) == 12)
    assert (result["cells"][-1]["fit"] == 4) == (context == 400)


def test_what_is_known_is_not_asked_again(tmp_path, monkeypatch):
    run, task = make(tmp_path)
    asks, counted = beyond.fewshot.choose, []

    def choose(*given):
        for found in asks(*given):
            counted.append(found[0])
            yield found
            if len(counted) == stop:
                raise KeyboardInterrupt
    monkeypatch.setattr(beyond.fewshot, "choose", choose)
    stop = 20
    with pytest.raises(KeyboardInterrupt):
        sit(run, task, 15, shots=(0, 2), draws=2)
    stop, part = None, sheet_of(run)
    assert len(part) in (19, 20)
    result = sit(run, task, 15, shots=(0, 2), draws=2)
    assert len(sheet_of(run)) == 3 * (15 + 3) and len(counted) in (54, 55)
    assert part.items() <= sheet_of(run).items()
    counted.clear()
    more = sit(run, task, 20, shots=(2, 0, 1), draws=3)
    assert len(counted) == 3 * 5 + 4 * (20 + 3)
    assert sit(run, task, 15, shots=(0, 2), draws=2) == result and len(counted) == 107
    next(run.glob("exams/fewshot-x-????????.jsonl")).unlink()
    assert sit(run, task, 20, shots=(0, 1, 2), draws=3) == more and len(counted) == 107 + 7 * 23
    sit(run, task, 15, 2, shots=(0,), draws=1)      # another seed: other questions, another sheet
    assert len(counted) == 107 + 7 * 23 + 18 == 107 + 161 + len(sheet_of(run))


def test_the_table_the_picture_and_what_is_refused(tmp_path):
    make(tmp_path, 200)
    flags = ["beyond.fewshot", "x", "--task", "x.csv", "--shots", 0, 2, "--questions", 0]
    out = inside(*flags, cwd=tmp_path)
    result = json.loads(inside(*flags, "--json", "--out", "y.png", cwd=tmp_path))
    assert (tmp_path / "fewshot.png").read_bytes() == (tmp_path / "y.png").read_bytes() != b""
    n, cell = result["questions"], result["cells"][1]
    assert f"{n} held-out texts ({result['not_askable']} more do not fit" in out and "fit\n" in out
    says = "/".join(f"{100 * x:.0f}" for x in cell["raw"]["says"])
    examples = "/".join(map(str, cell["examples"]))
    assert f"    2     1  {examples:12}{cell['raw']['right'] / n:12.1%}  {says}" in out
    right = result["cells"][0]["raw"]["right"]
    assert f"    0 shots, raw         {right} of {n} right: {right / n:.1%} (95 %" in out
    assert out.count("guessing (") == 4
    for says, *more in (("--shots takes 0 to", "--shots", -1), ("--draws", "--draws", 0),
                        ("--shots takes 0 to", "--shots", 999), ("no .png", "--out", "x.jpg"),
                        ("others", "--questions", -1), ("columns", "--columns", "a", "b")):
        assert says in one_line(*flags, *more, cwd=tmp_path)
    other = tmp_path / "other"
    make(other, 60)
    assert "no question fits into the 60 tokens" in one_line(*flags, cwd=other)
    make(other / "more", tokenizer=WordTokenizer.train([" ".join(WORDS)]))
    assert "cannot tell bad, good, not so bad apart" in one_line(*flags, cwd=other / "more")
