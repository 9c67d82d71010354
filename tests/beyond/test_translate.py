"""Numbers in French are num2words's; cross-attention is PyTorch's; a cache changes nothing."""
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import beyond.translate
import train
from beyond.masked import with_full_attention
from beyond.translate import (DecoderBlock, EncoderDecoder, french, loss_of, numbers, padded,
                              right, translate)
from conftest import inside, one_line
from model import GPT, GPTConfig
from tokenizer import BPETokenizer


def model_of(kind, kernels="fused"):
    torch.manual_seed(1)
    model = kind(GPTConfig(30, 40, 2, 2, n_embd=16, ngram=1, kernels=kernels))
    for p in model.parameters():
        p.data.copy_(0.4 * torch.randn_like(p))
    return model.eval()


def test_french():
    assert [french(n) for n in (0, 16, 71, 80, 91, 200, 201, 1001, 80_000, 200_080)] == [
        "zéro", "seize", "soixante et onze", "quatre-vingts", "quatre-vingt-onze", "deux cents",
        "deux cent un", "mille un", "quatre-vingt mille", "deux cent mille quatre-vingts"]
    num2words = pytest.importorskip("num2words").num2words
    for n in (*range(1100), *range(1000, 10 ** 6, 1009), *range(80, 10 ** 6, 20_000)):
        assert french(n) == num2words(n, lang="fr")
    pairs = numbers(300)
    assert {len(a) for a, _ in pairs[:1800:300]} == {1, 2, 3, 4, 5, 6} and len(pairs) == 1800


@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_cross_attention_is_pytorchs(kernels):
    """Forward and backward, in float64."""
    torch.manual_seed(1)
    c = with_full_attention(GPTConfig(n_embd=12, n_head=2, kernels=kernels), "cross_attention")
    ours, theirs = DecoderBlock(c).double(), nn.MultiheadAttention(12, 2, False, batch_first=True)
    ours.W_cross.data = torch.randn(12, 12).double()
    theirs = theirs.double()
    theirs.in_proj_weight.data = torch.cat([ours.W_q, ours.W_kv], dim=1).T.detach().clone()
    theirs.in_proj_bias = theirs.out_proj.bias = None
    theirs.out_proj.weight.data = ours.W_cross.T.detach().clone()
    x, memory = (torch.randn(3, n, 12).double().requires_grad_() for n in (5, 7))
    a, (b, _) = ours.cross_attention(x, memory), theirs(x, memory, memory)
    torch.testing.assert_close(a, b)
    probe = torch.randn_like(a)
    W_q, W_kv, *rest = torch.autograd.grad((a * probe).sum(), [ours.W_q, ours.W_kv, x, memory])
    W, *expected = torch.autograd.grad((b * probe).sum(), [theirs.in_proj_weight, x, memory])
    torch.testing.assert_close([torch.cat([W_q, W_kv], dim=1).T, *rest], [W, *expected])


def test_who_sees_what():
    """The encoder sees both ways; the decoder the whole source, and of its text what came."""
    model, source = model_of(EncoderDecoder), torch.randint(30, (1, 6))
    other = torch.cat([source[:, :5], (source[:, 5:] + 1) % 30], dim=1)
    assert not torch.isclose(model.encode(source)[0, 0], model.encode(other)[0, 0]).any()
    ids, memory = torch.randint(30, (1, 5)), model.encode(source)
    later = torch.cat([ids[:, :3], (ids[:, 3:] + 1) % 30], dim=1)
    a, b = model(ids, memory=memory), model(later, memory=memory)
    torch.testing.assert_close(a[:, :3], b[:, :3])
    assert not torch.isclose(a[:, 3], b[:, 3]).all()
    assert not torch.isclose(a[:, 0], model(ids, memory=model.encode(other))[:, 0]).all()


@pytest.mark.parametrize("kind", [EncoderDecoder, GPT])
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_greedy_decoding_with_the_cache_is_decoding_without(kind, kernels):
    model, source = model_of(kind, kernels), torch.randint(30, (4, 6))
    ids = torch.full((4, 1), 7)
    with torch.no_grad():
        for _ in range(20):
            logits = (model(ids, memory=model.encode(source)) if kind is EncoderDecoder
                      else model(torch.cat([source, ids], dim=1)))
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(translate(model, source, 7, 20), ids[:, 1:])


def test_what_is_padded_is_not_asked():
    """The layout by hand; the loss is PyTorch's of the asked positions alone; what is right."""
    words = BPETokenizer.train([], 257)
    a, b, (start, eot) = *b"ab", (61, 256)
    source, ids, targets = padded(words, [("a", "bb"), ("ab", "")], 3, 4)
    assert source.tolist() == [[eot, eot, a], [eot, a, b]]
    assert ids.tolist() == [[start, b, b, eot], [start, eot, eot, eot]]
    assert targets.tolist() == [[b, b, eot, -1], [eot, -1, -1, -1]]
    for kind in (EncoderDecoder, GPT):
        torch.manual_seed(1)
        model = kind(GPTConfig(257, 20, 2, 2, n_embd=16, ngram=1))
        logits = (model(ids, memory=model.encode(source)) if kind is EncoderDecoder
                  else model(torch.cat([source, ids], 1))[:, 3:])
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        torch.testing.assert_close(loss_of(model, source, ids, targets), expected)
        found = translate(model, source, start, 4).clone()
        found[1, 2] += 1
        assert right(model, source, ids, found).tolist() == [True, False]
        found[1, 2] = -1
        assert right(model, source, ids, found).tolist() == [True, True]


@pytest.mark.slow
def test_a_file_of_pairs_is_learned_and_drawn(tmp_path, monkeypatch):
    """What is held out is never learned; a second time, nothing is left to learn."""
    monkeypatch.setattr(train, "draw_curve", lambda *_: None)
    fit, seen, rng = beyond.translate.fit, [], random.Random(1)
    monkeypatch.setattr(beyond.translate, "fit", lambda *given: seen.append(given) or fit(*given))
    lines = ["\t".join(["".join(rng.choices("éab", k=rng.randint(1, 4)))] * 2) for _ in range(300)]
    (tmp_path / "mine.tsv").write_text("\n".join(lines), encoding="utf-8")
    flags = ["beyond.translate", "éa", "b", "--pairs", "mine.tsv", "--steps", 20]
    out = inside(*flags, cwd=tmp_path)
    table = out[out.index("held out"):].splitlines()
    assert table[0].split()[-1] == "text" and [t.split()[0] for t in table[1:]] == [
        "encoder-decoder", "éa:", "b:", "gpt", "éa:", "b:"]
    assert all(0 <= float(table[i].split()[-1][:-1]) <= 100 for i in (1, 4))
    assert (tmp_path / "translate.png").stat().st_size > 5000
    learned, held_out = (set(map(tuple, part[0].tolist())) for part in seen[0][3:5])
    assert 3 <= len(held_out) <= 20 and not learned & held_out
    assert len(learned | held_out) == len(set(lines))
    assert inside(*flags, cwd=tmp_path) == out[out.index("\nheld out"):]
    assert "other settings" in one_line(*flags[:-1], 21, cwd=tmp_path)
    assert "chapter" in one_line("sample.py", "translate-encoder-decoder-mine", cwd=tmp_path)
    assert inside("sample.py", "translate-gpt-mine", "--prompt", "ab=", "--tokens", 3, cwd=tmp_path)
