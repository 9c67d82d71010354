"""What is picked follows the probabilities that the strategies leave; a seed repeats a text,
cached or not, alone or in a batch; what is shown is what was written.
"""
import io
import json
import math
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import model
import odds
import sample
import tokenizer
from conftest import ROOT, given, one_line, settings, st
from model import ARCHS, GPT, GPTConfig
from sample import (SampleConfig, Writer, draw, generate, generate_batch, greedy, min_p, picker,
                    repetition_penalty, stream, temperature, top_k, top_p)

INF = math.inf


def lively(L=16, seed=1, **settings):
    """A small model whose weights are large enough for it to have opinions."""
    torch.manual_seed(seed)
    settings = dict(vocab_size=29, n_layer=2, n_head=2, n_embd=16) | settings
    gpt = GPT(GPTConfig(**settings, context_length=L)).eval()
    with torch.no_grad():
        for W in gpt.parameters():
            W.copy_(torch.randn_like(W) * (0.6 if W.dim() == 2 else 1))
    return gpt


# ------------------------------------------------------------------------------------------
# The strategies, by hand. Probabilities 0.5, 0.25, 0.15, 0.1; shuffled, so that order matters.

P = torch.tensor([[0.15, 0.5, 0.1, 0.25], [0.25, 0.1, 0.5, 0.15]], dtype=torch.float64)


def after(strategy, *settings):
    """The probabilities that a strategy leaves of P, in P's order of size."""
    left = torch.softmax(strategy(P.log(), *settings), dim=-1)
    rows = [row[p.argsort(descending=True)] for row, p in zip(left, P)]
    torch.testing.assert_close(rows[0], rows[1])
    return rows[0].tolist()


@pytest.mark.parametrize("strategy, setting, expected", [
    (temperature, 1.0, [0.5, 0.25, 0.15, 0.1]),
    (temperature, 0.5, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
    (temperature, 1e-300, [1, 0, 0, 0]),
    (temperature, 1e300, [0.25, 0.25, 0.25, 0.25]),
    (top_k, 1, [1, 0, 0, 0]), (top_k, 2, [2 / 3, 1 / 3, 0, 0]), (top_k, 99, [0.5, 0.25, 0.15, 0.1]),
    (top_p, 0.3, [1, 0, 0, 0]), (top_p, 0.6, [2 / 3, 1 / 3, 0, 0]), (top_p, 1e-9, [1, 0, 0, 0]),
    (top_p, 0.8, [5 / 9, 2.5 / 9, 1.5 / 9, 0]), (top_p, 0.95, [0.5, 0.25, 0.15, 0.1]),
    (min_p, 0.0, [0.5, 0.25, 0.15, 0.1]), (min_p, 0.25, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
    (min_p, 0.4, [2 / 3, 1 / 3, 0, 0]), (min_p, 1.0, [1, 0, 0, 0])])
def test_a_strategy_by_hand(strategy, setting, expected):
    assert after(strategy, setting) == pytest.approx(expected)


def test_the_repetition_penalty_by_hand():
    logits = torch.tensor([[2.0, -2.0, 4.0, 0.0], [2.0, -2.0, 4.0, 0.0]])
    found = repetition_penalty(logits, [[0, 1, 1], [2]], 2.0)
    assert found.tolist() == [[1.0, -4.0, 4.0, 0.0], [2.0, -2.0, 2.0, 0.0]]


def test_the_penalty_sees_the_prompt_and_what_was_written():
    pick = picker(SampleConfig(temperature=0.0, repetition_penalty=10.0), [[0], [3]])
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 2)
    assert [pick(logits).tolist() for _ in range(3)] == [[1, 0], [2, 1], [3, 2]]


def test_strategies_compose_in_order():
    """By hand: a penalty of 2 takes ln 4 to ln 2, temperature 0.5 squares, top-k leaves two."""
    c = SampleConfig(repetition_penalty=2.0, temperature=0.5, top_k=2, top_p=0.99, min_p=0.001)
    watched = []
    picker(c, [[0]], watched.append)(torch.tensor([[4.0, 3.0, 1.0]]).log())
    stages = [torch.softmax(logits[0], dim=-1).tolist() for logits in watched[0].values()]
    assert list(watched[0]) == ["the model", "penalty 2", "temperature 0.5", "top-k 2",
                                "top-p 0.99", "min-p 0.001"]
    assert stages[1] == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    assert stages[2] == pytest.approx([4 / 14, 9 / 14, 1 / 14])
    assert stages[3] == stages[4] == stages[5] == pytest.approx([4 / 13, 9 / 13, 0])


def theirs(c, ids, logits):
    """What transformers' processors make of logits (B, V), after the texts ids (B, T)."""
    from transformers.generation import logits_process as processors
    for processor in (processors.RepetitionPenaltyLogitsProcessor(c.repetition_penalty),
                      processors.TemperatureLogitsWarper(c.temperature),
                      processors.TopKLogitsWarper(c.top_k),
                      processors.TopPLogitsWarper(c.top_p), processors.MinPLogitsWarper(c.min_p)):
        logits = processor(ids, logits.clone())
    return logits


@pytest.mark.parametrize("V", [5, 300])
def test_strategies_are_those_of_transformers(V):
    processors = pytest.importorskip("transformers.generation.logits_process")
    torch.manual_seed(1)
    logits = (3 * torch.randn(200, V)).double()
    ids = torch.randint(V, (200, 9))
    pairs = [(repetition_penalty(logits, ids, penalty),
              processors.RepetitionPenaltyLogitsProcessor(penalty)) for penalty in (0.7, 1.3)]
    pairs += [(temperature(logits, t), processors.TemperatureLogitsWarper(t)) for t in (0.3, 2.0)]
    pairs += [(top_k(logits, k), processors.TopKLogitsWarper(k)) for k in (1, 3, 1000)]
    pairs += [(top_p(logits, p), processors.TopPLogitsWarper(p)) for p in (0.05, 0.5, 0.95)]
    pairs += [(min_p(logits, p), processors.MinPLogitsWarper(p)) for p in (0.01, 0.3, 1.0)]
    for ours, processor in pairs:
        expected = processor(ids, logits.clone())
        torch.testing.assert_close(torch.softmax(ours, -1), torch.softmax(expected, -1))
    c = SampleConfig(temperature=0.7, top_k=4, top_p=0.9, min_p=0.1, repetition_penalty=1.2)
    watched = []
    picker(c, ids.tolist(), watched.append)(logits)
    *_, ours = watched[0].values()
    torch.testing.assert_close(torch.softmax(ours, -1), torch.softmax(theirs(c, ids, logits), -1))


@pytest.mark.parametrize("c", [
    SampleConfig(temperature=0.5), SampleConfig(temperature=1.0), SampleConfig(temperature=2.0),
    SampleConfig(temperature=1.5, top_k=6, top_p=0.9, min_p=0.02, repetition_penalty=1.3)],
    ids=["0.5", "1", "2", "all"])
def test_50_000_draws_follow_the_distribution(c):
    """Chi-squared with at most 7 degrees of freedom: above 24.3 once in a thousand seeds.

    Where several strategies meet, the expected distribution is transformers'.
    """
    logits, n, text = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 1.4, 0.1]), 50_000, [1, 3]
    p = (logits / c.temperature).softmax(dim=-1)
    if c.top_k:
        pytest.importorskip("transformers")
        p = theirs(c, torch.tensor([text]), logits[None])[0].softmax(dim=-1)
        assert 2 < (p > 0).sum() < 8
    watched = []
    picker(c, [text], watched.append)(logits[None])
    *_, (left,) = watched[0].values()
    drawn = draw(left.expand(n, 8), [torch.Generator().manual_seed(1)] * n)
    counts, expected = torch.bincount(drawn, minlength=8), n * p
    assert counts[p == 0].sum() == 0
    assert ((counts - expected) ** 2 / expected)[p > 0].sum() < 24.3


def test_what_is_excluded_is_never_drawn(monkeypatch):
    """Not even at the least and the greatest place that a generator gives."""
    logits = torch.tensor([[-INF, 0.0, -INF, 1.0, -INF]])
    drawn = draw(logits.expand(2000, 5), [torch.Generator().manual_seed(1)] * 2000)
    assert set(drawn.tolist()) == {1, 3}
    for place, token in ((0.0, 1), (1 - 2 ** -53, 3)):
        monkeypatch.setattr(torch, "rand", lambda *size, **how: torch.tensor([place],
                                                                             dtype=torch.float64))
        assert draw(logits, [None]).tolist() == [token]


def test_greedy_takes_the_likeliest_and_temperature_nears_it():
    logits = torch.randn(100, 7)
    assert torch.equal(greedy(logits), logits.argmax(-1))
    generators = [torch.Generator().manual_seed(i) for i in range(100)]
    for t in (1e-6, 1e-40):
        assert torch.equal(draw(temperature(logits.double(), t), generators), logits.argmax(-1))
    assert torch.equal(picker(SampleConfig(temperature=0.0, top_k=3), [[0]] * 100)(logits),
                       logits.argmax(-1))


# ------------------------------------------------------------------------------------------
# One token at a time.


def restless():
    """Greedy, of logits to which each step adds noise of its own: no text goes round in circles."""
    noise = torch.Generator().manual_seed(1)
    return lambda logits: greedy(logits + 3 * torch.randn(logits.shape[-1], generator=noise))


@torch.no_grad()
def asked_anew(model, ids, n, slide, pick):
    """Writing from its definition: no cache, no padding, one text."""
    L, text = model.config.context_length, list(ids)
    start = max(0, len(ids) - L)
    for _ in range(n):
        if len(text) - start > L:
            start += slide
        text.append(pick(model(torch.tensor([text[start:]]))[:, -1]).item())
    return text[len(ids):]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("L, slide", [(16, None), (16, 1), (16, 16), (15, None), (1, None),
                                      (2, None)])
def test_greedy_cached_is_greedy_uncached(arch, L, slide):
    """For three windows' length, from prompts shorter, as long and longer than the window."""
    model = lively(L, **ARCHS[arch])
    for length in (1, L, 2 * L + 3):
        ids = torch.randint(29, (length,)).tolist()
        for pick in (lambda: greedy), restless:
            cached, uncached = (list(generate(model, ids, 3 * L, pick(), cached=cached,
                                              slide=slide))
                                for cached in (True, False))
            assert cached == uncached
            assert cached == asked_anew(model, ids, 3 * L, slide or max(1, L // 2), pick())
        assert L < 9 or len(set(cached)) > 4


def test_sliding_by_one_always_sees_all_it_can():
    model, ids = lively(6), [3, 1, 4]
    for next_id in generate(model, ids, 20, greedy, slide=1):
        assert next_id == model(torch.tensor([ids[-6:]]))[0, -1].argmax()
        ids.append(next_id)
    assert len(ids) == 23


def test_a_cache_reads_each_token_once():
    """Until the window is full; then half a window more, each time half of it is let go."""
    model, read = lively(16), []
    model.register_forward_pre_hook(lambda model, args: read.append(args[0].shape[1]))
    list(generate(model, [1, 2, 3], 30, greedy))
    assert read == [3] + [1] * 13 + [9] + [1] * 7 + [9] + [1] * 7
    read.clear()
    list(generate(model, [1, 2, 3], 18, greedy, cached=False))
    assert read == [*range(3, 17), 9, 10, 11, 12]


C = SampleConfig(temperature=1.0, top_k=20, top_p=0.95, min_p=0.01, repetition_penalty=1.1)


def alone(model, ids, n, seed):
    """One text, uncached, with its own seed."""
    c = SampleConfig(**vars(C) | {"seed": seed})
    return list(generate(model, ids, n, picker(c, [ids]), cached=False))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
def test_sample_i_of_n_is_the_sample_alone(arch, cached):
    model, ids, n = lively(**ARCHS[arch]), [3, 1, 4], 40
    batch = list(generate_batch(model, [ids] * 8, n, picker(C, [ids] * 8), cached))
    texts = [list(text) for text in zip(*batch)]
    assert texts == [alone(model, ids, n, C.seed + i) for i in range(8)]
    assert len(set(map(tuple, texts))) == 8


@pytest.mark.parametrize("kernels", ["raw", "fused"])
@pytest.mark.parametrize("settings", [ARCHS["gpt2"], ARCHS["modern"], dict(n_head=4, n_kv_head=2)],
                         ids=["gpt2", "modern", "grouped"])
def test_prompts_of_different_length_in_one_batch(settings, kernels):
    """Each gives the tokens it gives alone: from one token to more than a window, past sliding."""
    model = lively(**settings, kernels=kernels)
    prompts = [torch.randint(29, (n,)).tolist() for n in (1, 5, 16, 9, 33)]
    for cached in (True, False):
        batch = list(generate_batch(model, prompts, 50, picker(C, prompts), cached))
        for i, text in enumerate(zip(*batch)):
            assert list(text) == alone(model, prompts[i], 50, C.seed + i), (i, cached)


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_padding_changes_no_logit(arch, kernels):
    model = lively(**ARCHS[arch], kernels=kernels)
    ids, pad = torch.randint(29, (3, 12)), torch.tensor([0, 5, 11])
    cache = model.new_cache(3)
    parts = [model(part, cache, pad=pad) for part in ids.split([7, 1, 4], dim=1)]
    for logits in (model(ids, pad=pad), torch.cat(parts, dim=1)):
        assert logits.isfinite().all()
        for row, n in enumerate(pad):
            torch.testing.assert_close(logits[row, n:], model(ids[row:row + 1, n:])[0])


@pytest.mark.parametrize("n_out", [2, 3, 85, 303, 509, 2048])
def test_row_times_matrix(n_out):
    """Even, odd and prime numbers of columns, against the product in float64."""
    torch.manual_seed(1)
    row, W = torch.randn(1, 300), torch.randn(n_out, 300).T
    expected = (row.double() @ W.double()).float()
    torch.testing.assert_close(model.row_times_matrix(row, W), expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("V", [9, 509])
def test_the_layout_for_writing_changes_no_logit(arch, V, monkeypatch):
    """Nor any weight; and a single token goes through row_times_matrix, once a large matrix."""
    gpt = lively(**ARCHS[arch], vocab_size=V, n_embd=160)
    ids = torch.randint(V, (2, 12))
    before, weights = gpt(ids), {name: W.clone() for name, W in gpt.named_parameters()}
    gpt.lay_out().lay_out()
    assert all(torch.equal(W, weights[name]) for name, W in gpt.named_parameters())
    torch.testing.assert_close(gpt(ids), before, atol=1e-3, rtol=0)
    calls, product = [], model.row_times_matrix
    monkeypatch.setattr(model, "row_times_matrix",
                        lambda row, W: calls.append(W.shape) or product(row, W))
    cache = gpt.new_cache(1)
    one_by_one = torch.cat([gpt(ids[:1, t:t + 1], cache) for t in range(12)], dim=1)
    torch.testing.assert_close(one_by_one, before[:1], atol=1e-3, rtol=0)
    large = [W for name, W in gpt.named_parameters()
             if W.numel() > model.LARGE and ("W_" in name or arch == "gpt2")]
    assert len(calls) == 12 * len(large) >= 12 * 6


# ------------------------------------------------------------------------------------------
# From ids to what is shown.


class Bytes:
    """A tokenizer whose ids are bytes; 256 is <|endoftext|>."""
    eot = 256

    def token_bytes(self, i):
        return bytes([i])


def test_stream_waits_for_the_whole_character():
    text = "na\u00efve \U0001f44b"
    parts = list(stream(Bytes(), text.encode()))
    assert "".join(parts) == text and "\ufffd" not in parts
    assert list(stream(Bytes(), b"a\xf0"))[-1] == "\ufffd"


@given(st.binary(max_size=30) | st.text(max_size=12).map(lambda text: text.encode()))
def test_streamed_text_is_the_decoded_whole(raw):
    assert "".join(stream(Bytes(), raw)) == raw.decode("utf-8", errors="replace")
    assert "".join(stream(Bytes(), raw, ["\0\0"])) == \
        raw.decode("utf-8", errors="replace").split("\0\0")[0]


class Pieces:
    """A tokenizer whose ids are places in a list of texts."""
    eot = None

    def __init__(self, pieces):
        self.pieces = pieces

    def token_bytes(self, i):
        return self.pieces[i].encode()


@given(st.lists(st.text("ab\u00e9", max_size=4), max_size=10),
       st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3))
@settings(max_examples=300)
def test_stop_texts_across_token_borders(pieces, stops):
    """Up to the first stop text, wherever the borders fall; and no part of it is ever shown."""
    writer, shown, whole = Writer(Pieces(pieces), stops), "", "".join(pieces)
    ends = [n for n in range(len(whole) + 1) if whole[:n].endswith(tuple(stops) or "?")]
    expected = whole
    if ends:
        found = max((stop for stop in stops if whole[:ends[0]].endswith(stop)), key=len)
        expected = whole[:ends[0] - len(found)]
    for i in range(len(pieces)):
        shown += writer.add(i)
        so_far = "".join(pieces[:i + 1])
        assert expected.startswith(shown)
        assert writer.done == any(stop in so_far for stop in stops)
        if not writer.done:     # all is shown but what may begin a stop text
            held = so_far[len(shown):]
            assert shown + held == so_far and any(s.startswith(held) for s in [held[:0], *stops])
    assert shown + writer.end() == expected


def test_the_end_of_a_document_ends_the_text():
    asked = iter([97, 98, 256, 99])
    assert "".join(stream(Bytes(), asked)) == "ab" and next(asked) == 99
    writer = Writer(Bytes(), ["bc"])
    assert [writer.add(i) for i in (97, 98, 256, 99)] == ["a", "", "b", ""] and writer.end() == ""


def test_half_a_character_after_a_stop_text_is_not_shown():
    """GPT-2 has a token that is a space and the first two bytes of a dash."""
    tokens = Pieces([])
    tokens.token_bytes = lambda i: b" \xe2\x80"
    writer = Writer(tokens, [" "])
    assert writer.add(0) == "" and writer.done and writer.end() == ""


# ------------------------------------------------------------------------------------------
# The odds.


def test_log_probs_are_those_of_writing():
    """Of a text longer than three windows: what generate() would have given each token."""
    model, watched = lively(), []
    ids = torch.randint(29, (60,)).tolist()
    forced = iter(ids[1:])

    def pick(logits):
        watched.append(logits[0].log_softmax(dim=-1))
        return torch.tensor([next(forced)])

    for n in (2, 16, 17, 18, 25, 26, 60):
        watched.clear()
        forced = iter(ids[1:])
        list(generate(model, ids[:1], n - 1, pick))
        found, ranks = odds.log_probs(model, ids[:n])
        assert found == pytest.approx([p[i].item() for p, i in zip(watched, ids[1:])], abs=1e-4)
        assert ranks == [p.argsort(descending=True).tolist().index(i) + 1
                         for p, i in zip(watched, ids[1:])]


# ------------------------------------------------------------------------------------------
# The command line.


@pytest.fixture
def says(capsys, monkeypatch, trained):
    """A function that runs sample.py in the folder of the trained model; what it prints."""
    def says(*arguments, stdin=""):
        sample.say_once.cache_clear()
        monkeypatch.chdir(trained)
        monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        sample.main()
        return capsys.readouterr()
    return says


def test_the_same_seed_writes_the_same_text(says):
    """Cached or not, alone or in a batch."""
    ask = ["first", "--tokens", 40, "--prompt", "10 green", "--seed"]
    first, again, other = (says(*ask, seed).out for seed in (7, 7, 8))
    assert first == again != other and first.startswith("10 green") and len(first) == 49
    assert says(*ask, 7, "--no-cache").out == first
    assert says(*ask, 7, "--samples", 2).out == f"--- seed 7\n{first}--- seed 8\n{other}"


def test_prompts_in_a_batch_each_give_their_own_text(says, trained):
    ask = ["--tokens", 20, "--stop", "s"]
    (trained / "prompt.txt").write_text("299")
    stdout = says(*ask, "--prompt", "wall", "--prompt-file", "prompt.txt").out
    wall, number = says(*ask, "--prompt", "wall").out, says(*ask, "--prompt", 299, "--seed", 2).out
    assert stdout == f"--- seed 1\n{wall}--- seed 2\n{number}"
    assert "s" not in stdout.replace("seed", "")


def test_writing_ends_when_every_text_has_come_to_a_stop(says, monkeypatch):
    steps, every = [], generate_batch
    monkeypatch.setattr(sample, "generate_batch", lambda *arguments: (
        steps.append(step) or step for step in every(*arguments)))
    stops = [part for letter in "aeghinlo 1" for part in ("--stop", letter)]
    says("--samples", 2, "--tokens", 300, *stops)
    assert 1 <= len(steps) < 200


def test_an_empty_prompt_starts_from_the_separator(trained):
    _, tokens = sample.load_run(trained / "runs/first")
    assert sample.read_prompt(tokens, "") == tokens.separator == tokens.encode("\n\n")


def test_a_special_token_in_a_prompt_is_no_unseen_word(capsys):
    tokens = tokenizer.build("word", ["green bottles"])
    sample.say_once.cache_clear()
    assert sample.read_prompt(tokens, "green<|endoftext|>bottles")[1] == tokens.eot
    assert capsys.readouterr().err == ""
    sample.read_prompt(tokens, "green<|endoftext|>wall")
    assert "never seen 'wall';" in capsys.readouterr().err


def test_a_text_that_fits_the_window_needs_no_remark(says, capsys):
    """What is written last is never read: 16 tokens after one are read up to the sixteenth."""
    assert says("--tokens", 16, "--prompt", "1").err == ""
    assert "the last 9 to 16" in says("--tokens", 17, "--prompt", "1").err
    tokens = tokenizer.build("char", ["ab"])
    sample.write(lively(1, vocab_size=3), tokens, ["a"], SampleConfig(tokens=2))
    assert "the last 1 to 1\n" in capsys.readouterr().err


def test_only_a_single_text_is_laid_out_for(says, monkeypatch):
    laid_out = []
    monkeypatch.setattr(GPT, "lay_out", lambda gpt: laid_out.append(gpt))
    says("--tokens", 1)
    assert len(laid_out) == 1
    says("--tokens", 1, "--samples", 2)
    says("--tokens", 1, "--prompt", "1", "--prompt", "2")
    assert len(laid_out) == 1


def test_a_mistake_in_the_program_is_not_told_as_a_persons(says, monkeypatch):
    def broken(*arguments):
        raise ValueError("shapes do not fit")

    monkeypatch.setattr(sample, "generate_batch", broken)
    for way in ([], ["--interactive"]):
        with pytest.raises(ValueError, match="shapes do not fit"):
            says("--tokens", 1, *way, stdin="10\n")


def test_greedy_and_zero_temperature_agree(says):
    stdout, stderr = says("--tokens", 40, "--greedy", "--seed", 3)
    assert stdout == says("--tokens", 40, "--temperature", 0).out
    assert stderr.count("the model sees 16 tokens at once") == 1


def test_unseen_symbols_are_named_and_survived(says):
    stdout, stderr = says("--prompt", "caf\u00e9", "--tokens", 5)
    assert "never seen 'c', 'f', '\u00e9';" in stderr and stdout.startswith("caf\u00e9")


def test_explain_shows_each_strategy(says, trained):
    table = says("--explain", "--prompt", "10 gr").out.splitlines()
    assert len(table) <= 24 and max(map(len, table)) <= 80
    assert table[0].split() == ["the", "if", "penalty", "temperature", "top-k", "top-p", "min-p"]
    assert table[1].split() == ["model", "greedy", "1.2", "0.8", "8", "0.9", "0.2"]
    assert table[2] == "after 1\u00b70\u00b7 \u00b7g\u00b7r" and len(table) == 2 + 3 * 6
    assert sum(line.endswith("<- picked") for line in table) == 3
    model, tokens = sample.load_run(trained / "runs/first")
    with torch.no_grad():
        p = model(torch.tensor([tokens.encode("10 gr")]))[0, -1].softmax(-1)
    best = p.argmax().item()
    assert table[3].split()[:2] == [repr(tokens.decode([best])), f"{p[best]:.1%}"]
    assert [line[21:28].strip() for line in table[3:8]] == ["100.0%", *["-"] * 4]
    only = says("--explain", "--top-k", 2).out.splitlines()
    assert only[0].split() == ["the", "top-k"]
    assert [line.split()[-1] for line in only[5:8]] == ["-"] * 3
    cooler = says("--explain", "--temperature", 0.8).out.splitlines()
    assert cooler[1].split() == ["model", "0.8"]
    greedy = says("--explain", "--greedy").out.splitlines()[3]
    assert greedy.split()[2:] == ["100.0%", "<-", "picked"]


def test_the_picture(says, trained):
    assert "drew sampling.png" in says("--plot", "--top-k", 2).out
    assert (trained / "sampling.png").read_bytes().startswith(b"\x89PNG")


def test_log_probs(says, trained):
    """As a table, and as JSON of a file; the sums are those of the loss."""
    text = "10 green bottles hanging on the wall,\n9"
    (trained / "letter.txt").write_text(text)
    table = says("--log-probs", text).out
    found = json.loads(says("--log-probs", "letter.txt", "--json").out)
    assert [token["token"] for token in found["log_probs"]] == list(text)
    assert found["tokens"] == len(text) == table.count("\n") - 3
    nats = -sum(token["log_prob"] for token in found["log_probs"])
    assert found["loss"] == pytest.approx(nats / len(text))
    assert found["perplexity"] == pytest.approx(math.exp(nats / len(text)))
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text))
    model, tokens = sample.load_run(trained / "runs/first")
    ids = torch.tensor([tokens.separator + tokens.encode(text)[:3]])
    with torch.no_grad():
        p = model(ids)[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[-3:, 0]
    assert [t["log_prob"] for t in found["log_probs"][:3]] == pytest.approx(p.tolist(), rel=1e-4)
    assert f"{found['loss']:.3f} nats a token" in table


def test_colours_only_where_they_are_wanted(says, monkeypatch):
    ask = ["--log-probs", "10 green"]
    assert "\033" not in says(*ask).out
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert says(*ask).out.count("\033[0m") > len(odds.COLOURS)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in says(*ask).out
    assert odds.coloured("x", 0.6) == "x" and "203" in odds.coloured("x", 1e-5)


def test_interactive(says, monkeypatch):
    """Ctrl-C stops a text, and the next prompt comes; the end of the input ends."""
    stdout, stderr = says("--interactive", "--tokens", 30, stdin="10 green\n\nwall\n")
    assert stdout.count("> ") == 4 and stdout.split("> ")[1].startswith("10 green")
    assert stderr.count("at once") == 1
    assert stdout.split("> ")[3] == says("--prompt", "wall", "--tokens", 30, "--seed", 3).out
    stdout, stderr = says("--interactive", "--tokens", 5, stdin="1\udcff\n10\n")
    assert stderr.count("surrogates") == 1 and stdout.split("> ")[2].startswith("10")
    steps = generate_batch

    def interrupted(*arguments):
        for n, step in enumerate(steps(*arguments)):
            if n == 5:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(sample, "generate_batch", interrupted)
    texts = says("--interactive", stdin="10\n11\n").out.split("> ")[1:]
    assert [len(text.strip("\n")) for text in texts[:2]] == [7, 7] and len(texts) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_prints_what_there_is(trained):
    process = subprocess.Popen([sys.executable, ROOT / "sample.py", "--tokens", "1000000",
                                "--samples", "2"], cwd=trained, text=True, encoding="utf-8",
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               # which a shell takes from what it starts in the background
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    started = process.stdout.read(60)       # it is writing
    process.send_signal(signal.SIGINT)
    rest, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert started.startswith("--- seed 1\n") and "\n--- seed 2\n" in rest


def test_bfloat16_writes_too(says):
    assert len(says("--dtype", "bfloat16", "--tokens", 30, "--prompt", "10").out) == 33


def test_bad_input_is_one_line(trained, tmp_path):
    bad = lambda *arguments: one_line("sample.py", *arguments, cwd=trained)
    assert "no trained model" in one_line("sample.py", cwd=tmp_path)
    assert "no run" in bad("runs/none")
    for flag, values in {"--temperature": (-1, "nan", "inf"), "--top-k": (-1,),
                         "--top-p": (0, 1.5, "nan"), "--min-p": (-0.1, 1.1),
                         "--repetition-penalty": (0, -1, "inf"), "--tokens": (0, -5),
                         "--samples": (0,), "--seed": (-1, 2 ** 64)}.items():
        for value in values:
            assert f"{flag} is {value}" in bad(f"{flag}={value}").replace(".0;", ";")
    assert "--temperature" in bad("--temprature", 1)
    assert "invalid int" in bad("--top-k", "many")
    for one, *others in (
            (["--greedy"], ["--temperature", 0.0]), (["--greedy"], ["--temperature", 1]),
            (["--interactive"], ["--prompt", "1"], ["--prompt-file", "text.txt"]),
            (["--log-probs", "1"], ["--prompt", "1"], ["--top-k", 2], ["--samples", 2],
             ["--no-cache"], ["--explain"], ["--stop", "1"], ["--interactive"]),
            (["--explain"], ["--samples", 2], ["--no-cache"], ["--stop", "1"], ["--tokens", 4]),
            (["--explain"], ["--plot", "--samples", 2], ["--interactive"])):
        for other in others:
            assert f"{one[0]} has no use for --" in bad(*other, *one)
    for way in ("--explain", "--plot"):
        assert "second prompt" in bad(way, "--prompt", "1", "--prompt", "2")
        assert "second prompt" in bad(way, "--prompt", "1", "--prompt-file", "text.txt")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for flag in ("--prompt-file", "--log-probs"):
        assert "latin is not UTF-8 text" in bad(flag, tmp_path / "latin")
    assert "surrogate" in bad("--log-probs", "a\udcff")
    assert "--stop" in bad("--stop", "")
    assert "--log-probs" in bad("--json")
    assert "no text" in bad("--log-probs", "")
    assert "nowhere" in bad("--prompt-file", "nowhere")
    assert "surrogate" in bad("--prompt", "a\udcff")
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    best = tmp_path / "runs/first/best.pt"
    whole = best.read_bytes()
    for damaged in (b"", whole[:100], whole[:-500], b"x" * 1000):
        best.write_bytes(damaged)
        assert "best.pt is not a whole checkpoint" in one_line("sample.py", "first", cwd=tmp_path)
    torch.save({"somebody": "else's"}, best)
    assert "best.pt is not a whole checkpoint" in one_line("sample.py", "first", cwd=tmp_path)
    checkpoint = torch.load(io.BytesIO(whole), weights_only=True)
    torch.save(checkpoint | {"model": {}}, best)
    assert "does not fit this model.py" in one_line("sample.py", "first", cwd=tmp_path)
    torch.save(checkpoint | {"model_config": {"depth": 3}}, best)
    assert "does not fit this model.py" in one_line("sample.py", "first", cwd=tmp_path)
    best.write_bytes(whole)
    (tmp_path / "runs/first/tokenizer.json").write_text("{}")
    assert "tokenizer.json" in one_line("sample.py", "first", cwd=tmp_path)
