"""What the strategies make of probabilities, and how probable each token of a text is."""
import json
import math
from unittest.mock import Mock

import pytest
import torch

from beyond import probabilities
from conftest import inside, one_line
from sample import SampleConfig, generate, load_run, picker


@pytest.fixture(scope="module")
def model(trained):
    return load_run(trained / "runs/first")[0]


def test_strategies_are_those_of_transformers():
    """Each by itself, and all together in that order."""
    t = pytest.importorskip("transformers.generation.logits_process")
    values = dict(repetition_penalty=1.3, temperature=0.7, top_k=40, top_p=0.9, min_p=0.02)
    kinds = (t.RepetitionPenaltyLogitsProcessor, t.TemperatureLogitsWarper, t.TopKLogitsWarper,
             t.TopPLogitsWarper, t.MinPLogitsWarper)
    torch.manual_seed(1)
    for _ in range(20):
        logits, ids = 3 * torch.randn(1, 300).double(), torch.randint(300, (1, 9))
        found, together = probabilities.apply(logits, ids[0].tolist(), values), logits
        assert [*found][1:4] == ["penalty 1.3", "temperature 0.7", "top-k 40"]
        for kind, value, ours in zip(kinds, values.values(), list(found.values())[1:]):
            torch.testing.assert_close(ours, kind(value)(ids, logits.clone()).softmax(-1)[0])
            together = kind(value)(ids, together.clone())
        torch.testing.assert_close(found["together"], together.softmax(-1)[0])


def test_tokens_are_picked_as_sample_does(model):
    for values in (dict(temperature=0), dict(temperature=1.5, top_k=9, top_p=0.95, min_p=0.02)):
        ids = [i for i, in generate(model, [[3, 1]], 25, picker(1, SampleConfig(**values, seed=2)))]
        seen = probabilities.pick_and_watch(model, [3, 1], 25, values, seed=2)
        assert [text + [i] for text, _, i in seen] == [[3, 1, *ids[:n]] for n in range(1, 26)]


def test_log_probs_of_a_text_longer_than_the_context(model):
    """Each token is predicted from a window; when it is full, its older half is let go."""
    ids, start = torch.randint(20, (60,)), 0
    for n, (log_p, rank) in enumerate(probabilities.log_probs(model, ids.tolist()), 1):
        start += 9 * (n - start > 16)
        expected = model(ids[None, start:n])[0, -1].log_softmax(-1)
        assert log_p == pytest.approx(expected[ids[n]].item(), abs=1e-5)
        assert rank == expected.argsort(descending=True).tolist().index(ids[n]) + 1
    assert n == 59


def test_the_table_and_the_picture(trained, model):
    table = inside("beyond.probabilities", "--prompt", "10 gr", cwd=trained).splitlines()
    assert table[1].split() == ["model", "1.2", "0.8", "8", "0.9", "0.2"]
    assert table[2] == "after 1·0·␣·g·r" and sum(line.startswith("> ") for line in table) == 4
    ids = load_run(trained / "runs/first")[1].encode("10 gr")
    best = model(torch.tensor([ids]))[0, -1].softmax(-1).max()
    assert table[3].lstrip("> ").split()[1:3] == [f"{best:.1%}", "100.0%"]
    assert table[4].lstrip("> ").split()[2] == "-"
    wild = inside("beyond.probabilities", "--temperature", 1e3, "--tokens", 9, "--plot", cwd=trained)
    assert wild.split()[3:7] == ["the", "temperature", "model", "1000"]
    assert max(map(len, table)) <= 80 and (trained / "probabilities.png").stat().st_size > 10_000
    assert "after <|endoftext|>\n" in wild and wild.count("\n> ") == 9     # likely or not


def test_the_scores_of_a_text(trained, model, monkeypatch):
    """As JSON of a file, as a table, and in colours; the sums are those of the loss."""
    (trained / "letter.txt").write_text(text := "10 green bottles hanging on the wall,\n9")
    show = lambda *arguments: inside("beyond.probabilities", "--text", *arguments, cwd=trained)
    found = json.loads(show("letter.txt", "--json"))
    rows, n, table = found["log_probs"], len(text), show(text)
    assert [row["token"] for row in rows] == [*text[:-2], "\\n", "9"] and found["tokens"] == n
    assert found["loss"] == pytest.approx(-sum(row["log_prob"] for row in rows) / n)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2))
    p = model(torch.tensor([[1]]))[0, 0].softmax(-1)[rows[0]["id"]].item()      # 1: <|endoftext|>
    assert table.splitlines()[1].split()[:3] == ["1", f"{p:.3%}", f"{-math.log(p):.3f}"]
    assert f"{found['loss']:.3f} nats a token" in table and table.count("\n") == n + 3
    monkeypatch.setattr(probabilities, "sys", Mock())         # its stdout is a terminal
    assert "\033" in show(text) and "\033" not in table
    monkeypatch.setenv("NO_COLOR", "1")
    assert show(text) == table
    assert probabilities.coloured("x", 0.6) == "x" and "203" in probabilities.coloured("x", 1e-5)


def test_bad_input_is_one_line(trained):
    (trained / "latin").write_bytes(b"caf\xe9")
    for says, *arguments in (
            ("no run nowhere", "nowhere"), ("--top-p", "--top-p", 0), ("--min-p", "--min-p", 1.1),
            ("penalty", "--repetition-penalty", 0), ("tokens", "--tokens", 0), ("--text", "--json"),
            ("not empty", "--text", ""), ("latin", "--text", "latin"),
            ("--prompt", "--text", "1", "--top-k", 2), ("surrogate", "--text", "a\udcff")):
        assert says in one_line("beyond.probabilities", *arguments, cwd=trained)
