"""Every function of model.py against PyTorch's own op: values and gradients, on random shapes."""
import math

import pytest
import torch
import torch.nn.functional as F

import model

pytest.importorskip("hypothesis")
from hypothesis import assume, given, settings, strategies as st

settings.register_profile("maths", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("maths")

sizes = st.integers(1, 6)
leading = st.lists(sizes, max_size=3).map(tuple)        # any number of leading dimensions
seeds = st.integers(0, 2 ** 32)
kernels = pytest.mark.parametrize("ops", [model.RAW, model.FUSED], ids=["raw", "fused"])


def normal(*shape, scale=1.0):
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


def same(ours, theirs, *inputs):
    """Both give the same finite value, and the same finite gradient for every input."""
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs)
    out = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, inputs, out, retain_graph=True),
                    torch.autograd.grad(theirs, inputs, out)):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


@kernels
@given(leading, sizes, sizes, st.booleans(), seeds)
def test_linear_and_embedding(ops, shape, n_in, n_out, with_bias, seed):
    torch.manual_seed(seed)
    x, W, b = normal(*shape, n_in), normal(n_in, n_out), normal(n_out)
    if with_bias:
        same(ops.linear(x, W, b), F.linear(x, W.T, b), x, W, b)
    else:
        same(ops.linear(x, W), F.linear(x, W.T), x, W)
    ids = torch.randint(n_in, shape)
    same(ops.embedding(ids, W), F.embedding(ids, W), W)


@given(leading, sizes, st.sampled_from([1, 1e4]), seeds)
def test_softmax(shape, n, scale, seed):
    torch.manual_seed(seed)
    x = normal(*shape, n, scale=scale)
    same(model.softmax(x), F.softmax(x, dim=-1), x)


@kernels
@given(leading, sizes, st.sampled_from([1, 1e4]), st.sampled_from([-1, 0, 7]), seeds)
def test_cross_entropy(ops, shape, V, scale, ignore, seed):
    """Any target may be one to ignore, as long as one counts."""
    torch.manual_seed(seed)
    x = normal(*shape, V, scale=scale)
    targets = torch.randint(V, shape)
    targets = torch.where(torch.rand(shape) < 0.3, ignore, targets)
    assume((targets != ignore).any())
    theirs = F.cross_entropy(x.reshape(-1, V), targets.reshape(-1), ignore_index=ignore)
    same(ops.cross_entropy(x, targets, ignore), theirs, x)


@kernels
@given(leading, sizes, seeds)
def test_norms(ops, shape, C, seed):
    torch.manual_seed(seed)
    x, gain, bias = normal(*shape, C, scale=3), normal(C), normal(C)
    same(ops.layer_norm(x, gain), F.layer_norm(x, (C,), gain), x, gain)
    same(ops.layer_norm(x, gain, bias), F.layer_norm(x, (C,), gain, bias), x, gain, bias)
    same(ops.rms_norm(x), F.rms_norm(x, (C,), eps=1e-5), x)
    same(ops.rms_norm(x, gain), F.rms_norm(x, (C,), gain, eps=1e-5), x, gain)


@kernels
@given(leading, sizes, st.sampled_from([1, 30, 1e4]), seeds)
def test_switches(ops, shape, n, scale, seed):
    torch.manual_seed(seed)
    x = normal(*shape, 2 * n, scale=scale)
    same(ops.gelu(x), F.gelu(x, approximate="tanh"), x)
    same(model.gelu_exact(x), F.gelu(x), x)
    same(model.silu(x), F.silu(x), x)
    same(ops.relu2(x), F.relu(x).pow(2), x)
    same(ops.swiglu(x), F.silu(x[..., :n]) * x[..., n:], x)


@kernels
@given(leading, sizes, sizes, sizes, seeds)
def test_rotary_is_multiplication_by_a_complex_number(ops, shape, T, H, half, seed):
    """Each pair is a complex number, turned by place * 10000^(-pair / pairs)."""
    torch.manual_seed(seed)
    x = normal(*shape, T, H, 2 * half)
    speed = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(torch.arange(T, dtype=torch.float64), speed)[:, None]
    turn = torch.polar(torch.ones_like(angle), angle)
    turned = torch.complex(x[..., :half], x[..., half:]) * turn
    cos, sin = model.rotary_table(T, 2 * half).double()
    torch.testing.assert_close(cos, torch.cat([angle.cos()] * 2, -1), atol=1e-5, rtol=0)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)
    same(ops.rotary(x, cos, sin), torch.cat([turned.real, turned.imag], -1), x)


@given(st.integers(1, 40), st.integers(0, 80), seeds)
def test_rotary_sees_distances_only(t, shift, seed):
    torch.manual_seed(seed)
    q, k = normal(1, 1, 8), normal(1, 1, 8)
    cos, sin = model.rotary_table(121, 8).double()
    turned = lambda x, place: model.rotary(x, cos[place:place + 1], sin[place:place + 1])
    here = (turned(q, t) * turned(k, 0)).sum()
    there = (turned(q, t + shift) * turned(k, shift)).sum()
    torch.testing.assert_close(here, there, atol=1e-4, rtol=0)


@kernels
@given(sizes, sizes, st.sampled_from([1, 2, 4]), sizes, sizes, sizes, seeds)
def test_attention(ops, B, G, share, T, more, D, seed):
    """Multi-head and grouped; the questions are the last T of T + more - 1 places."""
    torch.manual_seed(seed)
    S = T + more - 1
    q, k, v = normal(B, G * share, T, D), normal(B, G, S, D), normal(B, G, S, D)
    mask = torch.ones(S, S).tril().bool()[S - T:]
    wide = [x.repeat_interleave(share, dim=1) for x in (k, v)]
    same(ops.attention(q, k, v), F.scaled_dot_product_attention(q, *wide, mask), q, k, v)
    if more == 1 and share == 1:
        same(ops.attention(q, k, v),
             F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


@kernels
@given(leading, sizes, sizes, sizes, seeds)
def test_attention_with_a_mask_of_ones_own(ops, shape, T, S, D, seed):
    """Whatever the mask, against the definition; a place that may look nowhere gets zeros."""
    torch.manual_seed(seed)
    q, k, v = normal(*shape, T, D), normal(*shape, S, D), normal(*shape, S, D)
    mask = torch.rand(T, S) < 0.5
    scores = torch.einsum("...td,...sd->...ts", q, k) / math.sqrt(D)
    exp = torch.where(mask, scores.exp(), 0.0)
    theirs = exp / exp.sum(-1, keepdim=True).clamp(min=1e-30) @ v
    same(ops.attention(q, k, v, mask), theirs, q, k, v)
    assert (ops.attention(q, k, v, torch.zeros(T, S, dtype=torch.bool)) == 0).all()


@given(sizes, sizes)
def test_causal_mask(T, more):
    S = T + more - 1
    mask = model.causal_mask(T, S)
    assert mask.tolist() == [[s <= S - T + t for s in range(S)] for t in range(T)]
    assert torch.equal(model.causal_mask(T), torch.ones(T, T).tril().bool())
