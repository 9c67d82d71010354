"""The model's maths against PyTorch's own ops, and what must hold of any GPT."""
import math

import pytest
import torch
import torch.nn.functional as F

import model
from model import FUSED, GPT, RAW, GPTConfig

torch.manual_seed(0)
SHAPES = [(5,), (1, 1), (3, 7), (2, 3, 8)]      # batch and length one among them
TINY = dict(vocab_size=11, context_length=8, n_layer=2, n_head=2, n_embd=16)


def random(*shape, scale=1.0):
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


def same(ours, theirs, *inputs):
    """Both give the same value, and the same gradient for every input."""
    torch.testing.assert_close(ours, theirs)
    if ours.dtype.is_floating_point:
        out = torch.randn_like(ours)
        for a, b in zip(torch.autograd.grad(ours, inputs, out, retain_graph=True),
                        torch.autograd.grad(theirs, inputs, out)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1, 1e4])
def test_softmax(shape, scale):
    x = random(*shape, scale=scale)
    same(model.softmax(x), F.softmax(x, dim=-1), x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1, 1e4])
def test_cross_entropy(shape, scale):
    x = random(*shape, scale=scale)
    targets = torch.randint(shape[-1], shape[:-1])
    theirs = F.cross_entropy(x.reshape(-1, shape[-1]), targets.reshape(-1))
    same(model.cross_entropy(x, targets), theirs, x)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape):
    x, gain, bias = random(*shape), random(shape[-1]), random(shape[-1])
    same(model.layer_norm(x, gain, bias), F.layer_norm(x, gain.shape, gain, bias), x, gain, bias)


@pytest.mark.parametrize("shape", SHAPES)
def test_gelu(shape):
    x = random(*shape, scale=3)
    same(model.gelu(x), F.gelu(x, approximate="tanh"), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_and_embedding(shape):
    x, W, b = random(*shape), random(shape[-1], 4), random(4)
    same(model.linear(x, W, b), F.linear(x, W.T, b), x, W, b)
    ids = torch.randint(shape[-1], shape)
    same(model.embedding(ids, W), F.embedding(ids, W), W)


@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (2, 3, 5, 4)])
def test_attention(shape):
    q, k, v = random(*shape), random(*shape), random(*shape)
    same(model.attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


def test_attention_and_cross_entropy_by_finite_differences():
    q, k, v = random(3, 2), random(3, 2), random(3, 2)
    assert torch.autograd.gradcheck(model.attention, (q, k, v))
    targets = torch.tensor([2, 0])
    assert torch.autograd.gradcheck(lambda x: model.cross_entropy(x, targets), (random(2, 3),))


def test_dropout():
    x = torch.ones(10_000)
    y = model.dropout(x, 0.2)
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert abs((y == 0).float().mean() - 0.2) < 0.02        # five standard deviations
    assert torch.equal(model.dropout(x, 0), x)


def test_raw_and_fused_models_agree():
    results = []
    for kernels in ("raw", "fused"):
        torch.manual_seed(1)
        gpt = GPT(GPTConfig(**TINY, kernels=kernels)).double()
        ids = torch.randint(11, (3, 9))
        loss = gpt.ops.cross_entropy(gpt(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        results.append([loss, *(p.grad for p in gpt.parameters())])
    for raw, fused in zip(*results):
        torch.testing.assert_close(raw, fused)


def test_every_kernel_has_a_twin():
    assert vars(RAW).keys() == vars(FUSED).keys()


@pytest.mark.parametrize("vocab_size", [11, 85, 5000])
def test_untrained_loss_is_that_of_knowing_nothing(vocab_size):
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(vocab_size=vocab_size))
    ids, targets = torch.randint(vocab_size, (2, 4, 128))
    loss = gpt.ops.cross_entropy(gpt(ids), targets).item()
    assert abs(loss / math.log(vocab_size) - 1) < 0.05


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(vocab_size=20, context_length=16, n_layer=2, n_head=2, n_embd=32))
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    ids, targets = torch.randint(20, (2, 4, 16))
    for _ in range(200):
        loss = gpt.ops.cross_entropy(gpt(ids), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05


@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_no_place_sees_the_future(kernels):
    gpt = GPT(GPTConfig(**TINY, kernels=kernels)).double()
    ids = torch.randint(11, (2, 8))
    before = gpt(ids)
    for t in range(7):
        changed = ids.clone()
        changed[:, t + 1:] = (changed[:, t + 1:] + 1) % 11
        after = gpt(changed)
        torch.testing.assert_close(after[:, :t + 1], before[:, :t + 1], rtol=0, atol=0)
        assert not torch.equal(after[:, t + 1], before[:, t + 1])


def test_every_weight_matters():
    gpt = GPT(GPTConfig(**TINY))
    ids, targets = torch.randint(11, (2, 2, 8))
    gpt.ops.cross_entropy(gpt(ids), targets).backward()
    for name, p in gpt.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_parameter_count():
    """By hand: V C + T C for the tables, 12 C^2 + 13 C for a block, 2 C for the last norm."""
    V, T, L, C = 85, 128, 4, 128
    gpt = GPT(GPTConfig(vocab_size=V, context_length=T, n_layer=L, n_embd=C))
    assert gpt.n_parameters() == V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C


def test_score_weighs_batches_by_their_size():
    gpt = GPT(GPTConfig(**TINY, dropout=0.5))
    ids = torch.randint(11, (3, 9))
    whole = model.score(gpt, [(ids[:, :-1], ids[:, 1:])])
    parts = model.score(gpt, [(ids[:2, :-1], ids[:2, 1:]), (ids[2:, :-1], ids[2:, 1:])])
    assert whole == pytest.approx(parts) and whole[2] == 24
    assert gpt.training


@pytest.mark.parametrize("setting, says", [
    (dict(n_embd=10, n_head=4), "multiple of n_head"), (dict(n_layer=0), "n_layer"),
    (dict(dropout=1.0), "dropout"), (dict(kernels="quick"), "kernels")])
def test_wrong_settings_are_named(setting, says):
    with pytest.raises(ValueError, match=says):
        GPTConfig(**setting)


def test_too_long_a_text_is_refused():
    with pytest.raises(ValueError, match="9 tokens do not fit a context of 8"):
        GPT(GPTConfig(**TINY))(torch.zeros(1, 9, dtype=torch.long))
