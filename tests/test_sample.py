"""What is drawn follows the probabilities that the strategies leave; the cache changes no text; a
run that is not whole is refused in one line.
"""
import json
import math
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sample
from conftest import given, inside, one_line, st
from model import ARCHS
from sample import (find_run, generate, load_run, min_p, picker, read_config, stream, temperature,
                    top_k, top_p)
from test_model import as_transformers, lively

# ---- The strategies.

@pytest.mark.parametrize("strategy, setting, expected", [
    (temperature, 0.5, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
    (top_k, 1, [1, 0, 0, 0]), (top_k, 2, [2 / 3, 1 / 3, 0, 0]), (top_k, 99, [0.5, 0.25, 0.15, 0.1]),
    (top_p, 1e-9, [1, 0, 0, 0]), (top_p, 0.6, [2 / 3, 1 / 3, 0, 0]),
    (top_p, 0.8, [5 / 9, 2.5 / 9, 1.5 / 9, 0]), (top_p, 0.95, [0.5, 0.25, 0.15, 0.1]),
    (min_p, 0.25, [5 / 9, 2.5 / 9, 1.5 / 9, 0]), (min_p, 1.0, [1, 0, 0, 0])])
def test_a_strategy_by_hand(strategy, setting, expected):
    """Of the probabilities 0.5, 0.25, 0.15 and 0.1, in two orders."""
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        p = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)[order]
        left = torch.softmax(strategy(torch.stack([p, p.flip(0)]).log(), setting), dim=-1)
        assert left[0].tolist() == pytest.approx([expected[i] for i in order])
        assert torch.equal(left[1], left[0].flip(0))


@pytest.mark.parametrize("V", [5, 300])
def test_strategies_are_those_of_transformers(V):
    theirs = pytest.importorskip("transformers.generation.logits_process")
    torch.manual_seed(1)
    logits = 3 * torch.randn(200, V, dtype=torch.float64)
    for strategy, warper, settings in (
            (temperature, theirs.TemperatureLogitsWarper, (0.3, 2.0)),
            (top_k, theirs.TopKLogitsWarper, (1, 3, 1000)),
            (top_p, theirs.TopPLogitsWarper, (0.05, 0.5, 0.95)),
            (min_p, theirs.MinPLogitsWarper, (0.01, 0.3, 1.0))):
        for setting in settings:
            torch.testing.assert_close(strategy(logits, setting), warper(setting)(None, logits))


@pytest.mark.parametrize("settings", [
    dict(t=0.5), dict(t=1.0), dict(t=1.5, k=6), dict(t=1.5, p=0.8), dict(t=1.5, least=0.2),
    dict(t=2.0, k=6, p=0.9, least=0.2)], ids=str)
def test_draws_follow_the_distribution(settings):
    """Chi-squared with at most 7 degrees of freedom: above 24.3 once in a thousand seeds."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 1.4, 0.1], dtype=torch.float64)[None]
    p = temperature(logits, settings["t"])
    for name, strategy in (("k", top_k), ("p", top_p), ("least", min_p)):
        p = strategy(p, settings[name]) if name in settings else p
    expected, pick = 20_000 * p[0].softmax(dim=-1), picker(100, **settings)
    drawn = torch.cat([pick(logits.expand(100, 8)) for _ in range(200)])
    counts = drawn.bincount(minlength=8)
    assert counts[expected == 0].sum() == 0 and (expected == 0).any() == (len(settings) > 1)
    assert ((counts - expected) ** 2 / expected)[expected > 0].sum() < 24.3


def test_zero_temperature_is_argmax_and_each_text_has_its_own_generator():
    logits = torch.randn(20, 3, 9)
    assert torch.equal(picker(3, t=0, k=2)(logits[0]), logits[0].argmax(dim=-1))
    together, alone = picker(3, seed=5), [picker(1, seed=5 + i) for i in range(3)]
    for x in logits:
        assert together(x).tolist() == [alone[i](x[i:i + 1]).item() for i in range(3)]


# ---- One token at a time.

@torch.no_grad()
def by_hand(model, text, n):
    """Greedy, without a cache: the window is read anew for each token. Full, it loses one half."""
    L, window = model.config.context_length, text[-model.config.context_length:]
    for _ in range(n):
        if len(window) > L:
            window = window[-math.ceil(L / 2):]
        window.append(model(torch.tensor([window]))[0, -1].argmax().item())
        yield window[-1]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("L", [1, 2, 15, 16])
def test_a_cache_changes_no_text(arch, L):
    """Also after the window has slid, from prompts that are shorter, as long, and longer."""
    model, seen = lively(**ARCHS[arch] | dict(context_length=L)).eval(), set()
    for length in (1, L, 2 * L + 3):
        prompts = torch.randint(11, (2, length)).tolist()
        texts = list(zip(*generate(model, prompts, 3 * L + 2, picker(2, t=0))))
        assert texts == [tuple(by_hand(model, prompt, 3 * L + 2)) for prompt in prompts]
        seen.update(*texts)
    assert len(seen) > 2


def test_each_token_is_read_once():
    """Until the window is full; then half a window is read again."""
    model, read = lively(context_length=16), []
    model.register_forward_pre_hook(lambda model, args: read.append(args[0].shape[1]))
    assert len(list(generate(model, [[1, 2, 3]], 30, picker(1)))) == 30
    assert read == [3] + [1] * 13 + [8] + [1] * 8 + [8] + [1] * 6


def test_greedy_is_transformers():
    model = lively(**ARCHS["gpt2"], context_length=40).eval()
    theirs = as_transformers(model).generate(torch.tensor([[1, 2, 3]]), do_sample=False,
                                             max_new_tokens=37, pad_token_id=0)
    assert [i for i, in generate(model, [[1, 2, 3]], 37, picker(1, t=0))] == theirs[0, 3:].tolist()


BYTES = SimpleNamespace(vocab=[*(bytes([b]) for b in range(256)), b"<|endoftext|>"], eot=256)


@given(st.binary(max_size=30) | st.text(max_size=12).map(str.encode))
def test_a_stream_is_the_text_as_it_comes(raw):
    """What is not UTF-8 becomes U+FFFD, as when all is decoded at once."""
    assert "".join(stream(BYTES, raw)) == raw.decode("utf-8", errors="replace")


def test_a_stream_has_no_half_characters_and_ends():
    assert [x for x in stream(BYTES, "aé🙂".encode()) if x] == ["a", "é", "🙂"]
    ids = iter([97, 0xF0, 256, 98])
    assert "".join(stream(BYTES, ids)) == "a\N{REPLACEMENT CHARACTER}" and next(ids) == 98


# ---- Runs, whole and damaged, and the command line.

@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of the trained run, and the current folder in it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/first")


def test_find_run(here):
    shutil.copytree(here, "runs/second")
    os.utime(here / "last.pt", (2e9, 2e9))
    assert find_run() == find_run("first") == find_run("runs/first") == here
    assert find_run("second") == Path("runs/second")
    shutil.rmtree("runs/second")
    for name in ("third", "runs"):
        with pytest.raises(ValueError, match=f"no run {name}; runs/ has first, and"):
            find_run(name)
    shutil.rmtree("runs")
    with pytest.raises(ValueError, match="no run; runs/ has none, and python train.py makes one"):
        find_run()


def test_load_run_takes_the_best_and_else_the_last(here):
    last, best = (torch.load(here / f"{name}.pt") for name in ("last", "best"))
    best["model"]["norm.gain"] += 1
    torch.save(best, here / "best.pt")
    for weights in (best, last):
        model, tokenizer = load_run(here)
        assert not model.training and tokenizer.decode(tokenizer.encode("green")) == "green"
        assert torch.equal(model.norm.gain, weights["model"]["norm.gain"])
        (here / "best.pt").unlink(missing_ok=True)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_damaged_run_is_one_line_and_no_code_of_it_runs(here):
    best, whole = here / "best.pt", (here / "best.pt").read_bytes()
    for damaged in (b"", whole[:100], whole[:-500], b"x" * 1000, pickle.dumps({"model": Evil()})):
        best.write_bytes(damaged)
        assert "best.pt does not hold the weights" in one_line("sample.py", cwd=".")
    saved = torch.load(here / "last.pt")["model"]
    for model in ({}, None, Evil(), saved | {"norm.gain": torch.ones(3)}, saved | {"more": saved}):
        torch.save({"model": model}, best)
        assert "best.pt does not hold the weights" in one_line("sample.py", cwd=".")
    torch.save({"model": saved | {"norm.gain": torch.full((16,), math.nan)}}, best)
    assert "not finite" in one_line("sample.py", cwd=".") and not Path("evil").exists()
    best.chmod(0)
    if os.access(best, os.R_OK):        # root may read everything, but not a folder
        best.unlink()
        best.mkdir()
    said = one_line("sample.py", cwd=".")
    assert "best.pt" in said and "damaged" not in said and "does not hold" not in said


def test_damaged_settings_are_one_line(here):
    config, path = read_config(here), here / "config.json"
    for text in ("", "{", "[]", "7", "[" * 100_000, json.dumps(config | {"model": 5}),
                 json.dumps({"model": config["model"]}), "\N{SNOWMAN}"):
        path.write_text(text, encoding="utf-16")
        assert "config.json does not hold the settings" in one_line("sample.py", cwd=".")
    for name, value in dict(depth=3, n_embd="16", n_head=0, n_layer=True, dropout=-1.0, norm="batch",
                            norm_eps=math.nan, mlp=[1]).items():
        path.write_text(json.dumps(config | {"model": config["model"] | {name: value}}))
        assert f"setting {name} cannot be {value!r}" in one_line("sample.py", cwd=".")
    path.write_text(json.dumps(config))
    found = json.loads((here / "tokenizer.json").read_text())
    (here / "tokenizer.json").write_text(json.dumps(found | {"symbols": found["symbols"][1:]}))
    assert "27 tokens, the model 28" in one_line("sample.py", cwd=".")


def test_the_command_line(trained):
    """A seed repeats its text, also among several; greedy needs none; the prompt is its beginning."""
    def says(*arguments):
        return inside("sample.py", "first", "--tokens", 40, "--prompt", "10 green", *arguments,
                      cwd=trained)
    seven, eight = says("--seed", 7), says("--seed", 8)
    assert says("--seed", 7) == seven != eight and seven.startswith("10 green") and len(seven) == 49
    assert says("--seed", 7, "--samples", 2) == f"--- seed 7\n{seven}--- seed 8\n{eight}"
    assert says("--temperature", 0) == says("--top-k", 1) == says("--top-p", 1e-9) \
        == says("--min-p", 1) != seven
    assert len(inside("sample.py", "--tokens", 9, cwd=trained)) == 10       # with no prompt, too


def test_bad_flags_are_one_line(trained, tmp_path):
    for said, *arguments in (
            ("no run none; runs/ has first", "none"), ("top_k cannot be -1", "--top-k", -1),
            ("temperature cannot be nan", "--temperature", "nan"), ("no device 'x'", "--device", "x"),
            ("samples cannot be 0", "--samples", 0), ("tokens cannot be 0", "--tokens", 0),
            ("invalid int", "--top-k", "many"), ("--temprature", "--temprature", 1),
            ("surrogates", "--prompt", "a\udcff")):
        assert said in one_line("sample.py", *arguments, cwd=trained)
    assert "no run; runs/ has none" in one_line("sample.py", cwd=tmp_path)
