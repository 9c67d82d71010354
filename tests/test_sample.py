"""Draws follow the probabilities, the cache changes no text, a damaged run is one line."""
import contextlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import inside, one_line
from model import ARCHS, GPT, GPTConfig
from sample import (SampleConfig, find_run, generate, load_run, make_model, min_p, picker,
                    read_config, stream, temperature, top_k, top_p)
from test_model import as_transformers, lively


def test_strategies_by_hand():
    """Of probabilities 0.5, 0.25, 0.15 and 0.1, in two orders at once."""
    p, orders = torch.tensor([0.5, 0.25, 0.15, 0.1]), torch.tensor([[0, 1, 2, 3], [2, 0, 3, 1]])
    for strategy, setting, expected in (
            (temperature, 0.5, [0.25, 0.0625, 0.0225, 0.01]), (top_k, 2, [0.5, 0.25, 0, 0]),
            (top_k, 99, p), (top_p, 0.0, [1, 0, 0, 0]), (top_p, 0.6, [0.5, 0.25, 0, 0]),
            (top_p, 0.8, [0.5, 0.25, 0.15, 0]), (top_p, 0.95, p), (min_p, 1.0, [1, 0, 0, 0]),
            (min_p, 0.25, [0.5, 0.25, 0.15, 0]), (min_p, 0.19, p)):
        left = torch.softmax(strategy(p[orders].log(), setting), dim=-1)
        torch.testing.assert_close(left, (torch.as_tensor(expected) / sum(expected))[orders])


def test_strategies_are_those_of_transformers():
    theirs = pytest.importorskip("transformers.generation.logits_process")
    for strategy, warper, settings in (
            (temperature, theirs.TemperatureLogitsWarper, (0.3, 2.0)),
            (top_k, theirs.TopKLogitsWarper, (1, 3, 1000)),
            (top_p, theirs.TopPLogitsWarper, (0.05, 0.5, 0.95)),
            (min_p, theirs.MinPLogitsWarper, (0.01, 0.3, 1.0))):
        for logits in (3 * torch.randn(200, V, dtype=torch.float64) for V in (5, 300)):
            for setting in settings:
                torch.testing.assert_close(strategy(logits, setting), warper(setting)(None, logits))


@pytest.mark.parametrize("c", [SampleConfig(), SampleConfig(top_k=6), SampleConfig(top_p=0.8),
    SampleConfig(min_p=0.2), SampleConfig(temperature=2.0, top_k=7, top_p=0.9, min_p=0.2)], ids=str)
def test_draws_follow_the_distribution(c):
    """Chi-squared with at most 7 degrees of freedom: above 24.3 once in a thousand seeds."""
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 1.4, 0.1]], dtype=torch.float64)
    left, pick = top_k(temperature(logits, c.temperature), c.top_k or 8), picker(100, c)
    counts = torch.cat([pick(logits.expand(100, 8)) for _ in range(100)]).bincount(minlength=8)
    expected = 10_000 * min_p(top_p(left, c.top_p), c.min_p)[0].softmax(dim=-1)
    assert ((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum() < 24.3


@torch.no_grad()
def by_hand(model, text, n, pick):
    """Without a cache: the window is read anew for each token. Full, it keeps its later half."""
    L, window = model.config.context_length, text[-model.config.context_length:]
    for _ in range(n):
        window = window[L // 2 - L:] if len(window) > L else window
        window.append(pick(model(torch.tensor([window]))[:, -1]).item())
        yield window[-1]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("L", [1, 2, 7, 8])
def test_a_cache_changes_no_text(arch, L):
    """Greedy or not, also when the window has slid. Three in a batch draw as three alone."""
    model, n = lively(**ARCHS[arch] | dict(context_length=L)).eval(), 3 * L + 2
    for prompts in (torch.randint(11, (3, length)).tolist() for length in (1, L, 2 * L + 3)):
        for t in (0, 2.0):
            pick, *alone = (picker(B, SampleConfig(temperature=t, seed=seed))
                            for B, seed in ((3, 5), (1, 5), (1, 6), (1, 7)))
            for i, text in enumerate(zip(*generate(model, prompts, n, pick))):
                assert text == (*by_hand(model, prompts[i], n, alone[i]),)


def test_greedy_is_transformers_and_reads_each_token_once():
    model, read = lively(**ARCHS["gpt2"] | dict(context_length=40)), []
    theirs = as_transformers(model).generate(torch.tensor([[1, 2, 3]]), do_sample=False,
                                             max_new_tokens=37, pad_token_id=0)
    model.register_forward_pre_hook(lambda model, args: read.append(args[0].shape[1]))
    ours = [i for i, in generate(model, [[1, 2, 3]], 37, picker(1, SampleConfig(temperature=0.0)))]
    assert ours == theirs[0, 3:].tolist() and read == [3] + [1] * 36


def test_stream():
    """Never half a character; what is none becomes U+FFFD; <|endoftext|> ends it."""
    tokenizer = SimpleNamespace(vocab=[bytes([b]) for b in range(256)], eot=256)
    assert [x for x in stream(tokenizer, "aé🙂".encode()) if x] == ["a", "é", "🙂"]
    for indices in torch.randint(7, (300, 9)):      # characters, and pieces of them
        raw = bytes("aé🙂".encode()[i] for i in indices)
        assert "".join(stream(tokenizer, raw)) == raw.decode("utf-8", errors="replace")
    ids = iter([97, 0xF0, 256, 98])
    assert "".join(stream(tokenizer, ids)) == "a\N{REPLACEMENT CHARACTER}" and next(ids) == 98


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/first")


def test_find_run_and_load_run(here):
    """By name or path, or the newest; its best model, or else the last."""
    shutil.copytree(here, "runs/second")
    os.utime(here / "last.pt", (2e9, 2e9))
    assert find_run() == find_run("first") == find_run("runs/first") == here != find_run("second")
    model = torch.load(here / "best.pt")["model"] | {"norm.gain": torch.full((16,), 7.0)}
    torch.save({"model": model}, here / "best.pt")
    best, tokenizer = load_run(here)
    (here / "best.pt").unlink()
    last, _ = load_run(here)
    assert (best.norm.gain == 7).all() and (last.norm.gain < 7).all() and not best.training
    assert tokenizer.decode(tokenizer.encode("green")) == "green"
    for name in ("third", "runs"):
        assert "second, first" in one_line("sample.py", name, cwd=".")


@pytest.mark.parametrize("arch", ARCHS)
def test_memory_is_asked_for_before_it_is_taken(arch, monkeypatch):
    """To write takes the weights; to learn, gradients and states, too: at least three times that."""
    settings = asdict(GPTConfig(**ARCHS[arch] | dict(n_kv_head=0, tie_embeddings=True)))
    n = 4 * sum(p.numel() for p in GPT(GPTConfig(**settings)).parameters())
    for room, B, fits in ((1.05, 0, True), (0.6, 0, False), (3, 0, True), (1.9, 1, False)):
        monkeypatch.setattr(os, "sysconf", lambda name: 1 if "SIZE" in name else room * n)
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="batch smaller"):
            make_model(settings, B)


def test_a_damaged_run_is_one_line_and_no_code_in_it_runs(here):
    best, settings, tokenizer = here / "best.pt", here / "config.json", here / "tokenizer.json"
    whole, model, config = best.read_bytes(), torch.load(best)["model"], read_config(here)
    evil = b"cos\nmkdir\n(Vevil\ntR."             # a pickle that makes a folder
    for content in (b"", whole[:100], whole[:-500], evil, {"norm.gain": torch.ones(3)},
                    {"more": torch.ones(3)}, {"norm.gain": torch.full((16,), float("nan"))}):
        best.write_bytes(content) if isinstance(content, bytes) else torch.save(
            {"model": model | content}, best)
        said = one_line("sample.py", cwd=".")
        assert str(best) in said and "damaged" in said and not Path("evil").exists()
    best.unlink()
    best.mkdir()        # what may not be read is not damaged, here a folder
    assert "damaged" not in one_line("sample.py", cwd=".")
    best.rmdir()
    symbols = json.loads(tokenizer.read_text())["symbols"][1:]
    for file, texts in ((tokenizer, ("{", json.dumps({"kind": "char", "symbols": symbols}))),
                        (settings, ("", "{", "[]", "7", "[" * 100_000, '{"model": 5}'))):
        for text in texts:
            file.write_text(text)
            assert str(file) in one_line("sample.py", cwd=".")
    for name, value in dict(depth=3, n_embd="16", n_head=0, n_layer=True, dropout=-1.0, norm=[1],
                            activation="relu", norm_eps=float("nan")).items():
        settings.write_text(json.dumps(config | {"model": config["model"] | {name: value}}))
        assert f"{name} cannot be {value!r}" in one_line("sample.py", cwd=".")


def test_the_command_line(trained):
    """A seed repeats its text, also as one of several samples."""
    def says(*arguments):
        return inside("sample.py", "first", "--tokens", 40, "--prompt", "10 green", *arguments,
                      cwd=trained)
    seven, eight = says("--seed", 7), says("--seed", 8)
    assert says("--seed", 7) == seven != eight and seven.startswith("10 green")
    assert says("--seed", 7, "--samples", 2) == f"--- seed 7\n{seven}--- seed 8\n{eight}"
    assert says("--temperature", 0) == says("--top-k", 1) == says("--min-p", 2)
    assert says("--temperature", 0) == says("--top-p", 0) == says("--top-k", 1, "--temperature", 9)
    assert 0 < len(inside("sample.py", "--tokens", 9, cwd=trained)) <= 10   # with no prompt, too
    for said, *arguments in (
            ("-1", "--top-k", -1), ("nan", "--temperature", "nan"), ("device 'x'", "--device", "x"),
            ("0", "--samples", 0), ("int", "--top-k", "x"), ("--temprature", "--temprature", 1),
            ("surrogates", "--prompt", "a\udcff")):
        assert said in one_line("sample.py", *arguments, cwd=trained)
