"""The model against PyTorch's kernels, transformers' GPT-2 and Llama, and finite differences."""
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import model
from model import ARCHS, FUSED, GPT, RAW, Cache, GPTConfig

KERNELS = {"raw": RAW, "fused": FUSED}
TINY = dict(vocab_size=11, context_length=12, n_layer=2, n_head=4, n_embd=16, ngram_rows=50)
random = partial(torch.randn, requires_grad=True)
both = pytest.mark.parametrize("ops", KERNELS.values(), ids=KERNELS)
every_model = pytest.mark.parametrize("arch, kernels", [(a, k) for a in ARCHS for k in KERNELS])


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def lively(**settings):
    """A small model none of whose weights is 0, and no gain 1, so that every part of it matters."""
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(**TINY | settings))
    for p in gpt.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return gpt


def same(ours, theirs, *inputs):
    """Equal in value, and in the gradient of every input."""
    torch.testing.assert_close(ours, theirs)
    out = torch.randn_like(theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, out),
                               torch.autograd.grad(theirs, inputs, out))


@both
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_each_function_equals_pytorchs(ops, shape):
    x, W, gain, bias = random(*shape, 6), random(6, 6), random(6), random(6)
    ids = torch.randint(6, shape)
    same(ops.embedding(ids, W), F.embedding(ids, W), W)
    same(model.softmax(x), F.softmax(x, dim=-1), x)
    same(model.softmax(x * 1e4), F.softmax(x * 1e4, dim=-1), x)         # nothing overflows
    same(ops.gelu(x), F.gelu(x, approximate="tanh"), x)
    same(ops.relu2(x), F.relu(x).square(), x)
    same(ops.swiglu(x), F.silu(x[..., :3]) * x[..., 3:], x)
    for b, eps in ((None, 1e-5), (bias, 0.5)):
        same(ops.linear(x, W, b), F.linear(x, W.T, b), x, W)
        same(ops.layer_norm(x, gain, b, eps), F.layer_norm(x, (6,), gain, b, eps), x, gain)
        same(ops.rms_norm(x, b, eps), F.rms_norm(x, (6,), b, eps), x)
    assert all(f is getattr(model, name) for name, f in vars(RAW).items())


@both
@pytest.mark.parametrize("scale", [1, 1e4])
def test_cross_entropy_even_of_huge_logits(ops, scale):
    x, targets = random(3, 4, 5), torch.randint(5, (3, 4))
    same(ops.cross_entropy(x * scale, targets), F.cross_entropy((x * scale).mT, targets), x)


@both
@pytest.mark.parametrize("T, S", [(5, 5), (3, 5), (1, 5), (1, 1)])
@pytest.mark.parametrize("G", [1, 2, 4])
def test_attention(ops, T, S, G):
    """Causal, also where T is the end of S; grouped queries are as if heads were repeated."""
    q, k, v = random(2, 4, T, 6), random(2, G, S, 6), random(2, G, S, 6)
    mask = torch.tensor([[s <= S - T + t for s in range(S)] for t in range(T)])
    repeated = (torch.stack([x[:, h * G // 4] for h in range(4)], dim=1) for x in (k, v))
    same(ops.attention(q, k, v), F.scaled_dot_product_attention(q, *repeated, mask), q, k, v)


@both
def test_rotary(ops):
    """Pairs turn as complex numbers; a query with a key then depends on their distance only."""
    x, angle = random(2, 7, 3, 8), torch.arange(7.0)[:, None, None] * 50 ** (-torch.arange(4) / 4)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angle), angle)
    cos, sin = model.rotary_table(7, 8, 50.0)
    same(ops.rotary(x, cos, sin), torch.cat([turned.real, turned.imag], dim=-1), x)
    q, k = (ops.rotary(random(8).expand(7, 1, 8), cos, sin)[:, 0] for _ in "qk")    # (T, D) each
    torch.testing.assert_close((q @ k.T)[1:, 1:], (q @ k.T)[:-1, :-1])


@both
def test_dropout(ops, monkeypatch):
    """In training, on the embedding, attention's weights, and what each half of a block adds."""
    y = ops.dropout(torch.ones(10_000), 0.2)
    assert set(y.tolist()) == {0.0, 1.25} and torch.equal(ops.dropout(y, 0.0), y)
    assert abs((y == 0).double().mean() - 0.2) < 0.02                   # five standard deviations
    y = ops.attention(*(torch.ones(9000, n, 1) for n in (1, 50, 50)), 0.2)  # 50 weights of 1 / 50
    assert abs(y.mean() - 1) < 0.004 and y.std().item() == pytest.approx((0.25 / 50) ** 0.5, 0.1)
    shares, gpt, ids = [], lively(dropout=0.5, kernels="raw"), torch.zeros(1, 3, dtype=torch.long)
    for where in (RAW, model):                  # the model's own, and attention's
        monkeypatch.setattr(where, "dropout", lambda x, p: shares.append(p) or x)
    gpt(ids), gpt.eval()(ids)
    assert shares == [0.5] * (1 + 3 * 2) + [0] * (1 + 3 * 2)


@pytest.mark.parametrize("arch", ARCHS)
def test_raw_and_fused_are_one_model_with_the_right_gradient(arch):
    """The same loss and gradients, none of them zero, and those that finite differences give."""
    found, (ids, targets) = [], torch.randint(11, (2, 3, 12))
    for kernels, ops in KERNELS.items():
        gpt = lively(**ARCHS[arch], kernels=kernels)
        names, parameters = zip(*gpt.named_parameters())
        loss = lambda *weights: ops.cross_entropy(torch.func.functional_call(
            gpt, dict(zip(names, weights)), (ids,)), targets)
        assert torch.autograd.gradcheck(loss, parameters, fast_mode=True) and gpt.config.ops is ops
        found.append([loss(*parameters), *torch.autograd.grad(loss(*parameters), parameters)])
        assert all(x.abs().max() > 1e-6 for x in found[-1])
    torch.testing.assert_close(*found)


def as_transformers(gpt):
    transformers, c = pytest.importorskip("transformers"), gpt.config
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_embd, n_layer=c.n_layer,
        n_head=c.n_head, layer_norm_epsilon=c.norm_eps, bos_token_id=0, eos_token_id=None)).eval()
    ours = [gpt.token_table, gpt.position_table]        # its matrices lie as ours do
    for b in gpt.blocks:
        ours += [b.norm1.gain, b.norm1.bias, b.W_qkv, b.b_qkv, b.W_out, b.b_out,
                 b.norm2.gain, b.norm2.bias, b.W_up, b.b_up, b.W_down, b.b_down]
    for p, q in zip(theirs.parameters(), [*ours, gpt.norm.gain, gpt.norm.bias], strict=True):
        p.data = q.data
    return theirs


def test_gpt2_is_transformers():
    gpt, ids = lively(**ARCHS["gpt2"], norm_eps=0.1), torch.randint(11, (3, 12))
    torch.testing.assert_close(gpt(ids), as_transformers(gpt)(ids).logits)


@pytest.mark.parametrize("G, tied", [(1, False), (2, True), (2, False), (4, True)])
def test_llama_is_transformers(G, tied):
    """Its matrices are ours turned over, those for queries, keys, values and gates cut apart."""
    transformers = pytest.importorskip("transformers")
    gpt = lively(**ARCHS["llama"] | dict(n_kv_head=G, tie_embeddings=tied, rotary_base=1e5,
                                         norm_eps=0.1))
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=gpt.config.mlp_width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=G, rms_norm_eps=0.1, rope_theta=1e5,
        tie_word_embeddings=tied))
    ours = [gpt.token_table]
    for b in gpt.blocks:
        ours += [*b.W_qkv.T.split([16, 4 * G, 4 * G]), b.W_out.T, *b.W_up.T.chunk(2), b.W_down.T,
                 b.norm1.gain, b.norm2.gain]
    ours += [gpt.norm.gain] if tied else [gpt.norm.gain, gpt.W_vocab.T]
    for p, q in zip(theirs.parameters(), ours, strict=True):
        p.data = q.data
    ids = torch.randint(11, (3, 12))            # their cosines and sines have 32 bits
    torch.testing.assert_close(gpt(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


@every_model
@torch.no_grad()
def test_causal_with_a_cache_or_without(arch, kernels):
    """A token changes nothing before it; cut into pieces, a text has the logits of the whole."""
    gpt, ids = lively(**ARCHS[arch], kernels=kernels), torch.randint(11, (3, 12))
    logits = gpt(ids)
    for t in range(1, 12):
        others = gpt(torch.cat([ids[:, :t], (ids[:, t:] + 1) % 11], dim=1))
        assert torch.equal(others[:, :t], logits[:, :t])
        assert not torch.isclose(others[:, t], logits[:, t]).all()
    for pieces in ([12], [1] * 12, [5, 1, 1, 2, 3], [2, 10], [11, 1]):
        cache = Cache(gpt.config, 3, 12, "cpu")
        found = [gpt(piece, cache) for piece in ids.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(found, dim=1), logits)
        assert torch.equal(cache.ids, ids)
    gpt.blocks[1].W_qkv[:, :32] *= 3        # queries and keys, which qk_norm scales back
    assert torch.isclose(gpt(ids), logits, atol=1e-3).all() == gpt.config.qk_norm


@every_model
def test_activation_checkpointing(arch, kernels):
    """Far less is kept for backward; loss and gradients are the same, with dropout, to the bit."""
    found, kept, (ids, targets) = [], [], torch.randint(11, (2, 4, 12))
    for on in (False, True):
        gpt = lively(**ARCHS[arch] | dict(n_layer=6), kernels=kernels, dropout=0.3,
                     activation_checkpointing=on)
        torch.manual_seed(2)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(on) or x, lambda x: x):
            loss = gpt.config.ops.cross_entropy(gpt(ids), targets)
        found.append([loss, *torch.autograd.grad(loss, list(gpt.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*found)) and sum(kept) < len(kept) / 4


def test_the_first_weights_and_ngrams_by_hand():
    """With zero_init, only a token's vector is there, and a row for the 2 and 3 that end in it."""
    gpt = GPT(GPTConfig(vocab_size=500, n_layer=2, **ARCHS["gpt2"]))
    for p, spread in ((gpt.token_table, 2), (gpt.blocks[0].W_qkv, 2), (gpt.blocks[1].W_down, 1)):
        assert p.std().item() == pytest.approx(spread / 100, rel=0.05)
    gpt, text = GPT(GPTConfig(**TINY, ngram=3)), torch.randint(11, (12,)).tolist()
    table, ids, x = gpt.ngram_table, [0, 0, *(i + 1 for i in text)], gpt.token_table[text]
    int64 = lambda n: (n + 2 ** 63) % 2 ** 64 - 2 ** 63         # as it overflows
    two = [c * 2_654_435_761 + b for b, c in zip(ids[1:], ids[2:])]
    three = [int64(n * 2_654_435_761 + a) for a, n in zip(ids, two)]
    x = x + table[[n % 50 for n in two]] + table[[50 + n % 50 for n in three]]
    expected = F.rms_norm(x, (16,), eps=1e-5) @ gpt.W_vocab
    torch.testing.assert_close(gpt(torch.tensor([text]))[0], expected)


def test_ngram_rows_by_hand():
    """Horner's rule with unbounded integers, cut to 64 bits in the end; 0 stands before a text."""
    def row(*ids):          # the latest token first
        h = sum((i + 1) * 2_654_435_761 ** (len(ids) - 1 - k) for k, i in enumerate(ids))
        return (len(ids) - 2) * 50 + ((h + 2 ** 63) % 2 ** 64 - 2 ** 63) % 50
    t = [-1, -1, 5, 0, 7, 5, 10]
    expected = [[row(t[s], t[s - 1]), row(*t[s:s - 3:-1])] for s in range(3, 7)]
    assert model.ngram_hash(torch.tensor([t[2:]]), 4, 3, 50).tolist() == [expected]


def test_shapes():
    """GPT-2 and SmolLM2-135M have as many parameters as published; what cannot be is refused."""
    gpt2 = dict(vocab_size=50_257, context_length=1024, n_layer=12, n_head=12, n_embd=768)
    smollm2 = dict(vocab_size=49_152, n_layer=30, n_head=9, n_kv_head=3, n_embd=576)
    for n, arch, settings in ((124_439_808, "gpt2", gpt2), (134_515_008, "llama", smollm2)):
        with torch.device("meta"):
            gpt = GPT(GPTConfig(**ARCHS[arch] | dict(tie_embeddings=True) | settings))
        assert sum(p.numel() for p in gpt.parameters()) == n
    for settings in (dict(n_embd=18), dict(n_embd=20), dict(n_kv_head=3), dict(n_kv_head=8),
                     dict(dropout=1.0), dict(rotary_base=0.0)):
        with pytest.raises(ValueError, match=str(*settings)):
            GPTConfig(**TINY | settings)
