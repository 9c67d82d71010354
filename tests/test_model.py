"""What must hold of any GPT; tests/test_maths.py holds each function against PyTorch's."""
import itertools
import math

import pytest
import torch

import model
from model import ARCHS, FUSED, GPT, RAW, SHAPES, GPTConfig

torch.manual_seed(0)
TINY = dict(vocab_size=11, context_length=8, n_layer=2, n_head=2, n_embd=16)


def random(*shape, scale=1.0):
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


def lively(**settings):
    """A model none of whose weights is zero, so that every part of it matters."""
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(**dict(ngram_rows=100) | settings)).double()
    with torch.no_grad():
        for p in gpt.parameters():
            p += 0.1 * torch.randn_like(p)
    return gpt


def test_attention_and_cross_entropy_by_finite_differences():
    q, k, v = random(2, 4, 3, 2), random(2, 2, 5, 2), random(2, 2, 5, 2)
    mask = torch.tensor([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    targets = torch.tensor([2, -1, 0])
    for ops in (RAW, FUSED):
        assert torch.autograd.gradcheck(ops.attention, (q, k, v))
        assert torch.autograd.gradcheck(lambda *qkv: ops.attention(*qkv, mask), (q, k, v))
        assert torch.autograd.gradcheck(lambda x: ops.cross_entropy(x, targets), (random(3, 3),))


@pytest.mark.parametrize("ops", [RAW, FUSED], ids=["raw", "fused"])
def test_extreme_logits(ops):
    """Sure and right costs nothing, sure and wrong costs the difference; nothing overflows."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], requires_grad=True)
    assert ops.cross_entropy(logits[:1], torch.tensor([0])) == 0
    loss = ops.cross_entropy(logits, torch.tensor([0, 1]))
    loss.backward()
    assert loss == 1e4 and torch.equal(logits.grad[1], torch.tensor([0.5, -0.5, 0.0]))
    assert torch.equal(model.softmax(logits[0]), torch.tensor([1.0, 0.0, 0.0]))


def test_attention_weights_are_what_attention_takes():
    q, k, v = random(2, 4, 3, 2), random(2, 4, 5, 2), random(2, 4, 5, 2)
    weights = model.attention_weights(q, k)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 3, dtype=torch.float64))
    torch.testing.assert_close(weights @ v, FUSED.attention(q, k, v))


@pytest.mark.parametrize("ops", [RAW, FUSED], ids=["raw", "fused"])
def test_dropout(ops):
    x = torch.ones(10_000)
    y = ops.dropout(x, 0.2)
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert abs((y == 0).float().mean() - 0.2) < 0.02        # five standard deviations
    assert torch.equal(ops.dropout(x, 0), x)
    q, k, v = torch.zeros(50, 100, 4), torch.zeros(50, 100, 4), torch.ones(50, 100, 4)
    y = ops.attention(q, k, v, p=0.2)       # at the last place, a mean of 100 values
    assert abs(y[:, -1, 0].mean() - 1) < 0.04 and y[:, -1, 0].std() > 0.02


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("position", ["learned", "rotary"])
@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
def test_raw_and_fused_models_agree(norm, position, mlp):
    """Loss, logits and every gradient, for each setting of the other switches."""
    ids = torch.randint(11, (3, 9))
    for qk_norm, tied, bias, zero, heads in itertools.product(
            (True, False), (True, False), (True, False), (True, False), (1, 2, 4)):
        results = []
        for kernels in ("raw", "fused"):
            gpt = lively(**TINY | dict(n_head=4), norm=norm, position=position, mlp=mlp,
                         qk_norm=qk_norm, tie_embeddings=tied, bias=bias, zero_init=zero,
                         n_kv_head=heads, kernels=kernels)
            logits = gpt(ids[:, :-1])
            loss = gpt.ops.cross_entropy(logits, ids[:, 1:])
            loss.backward()
            results.append([logits, loss, *(p.grad for p in gpt.parameters())])
        for raw, fused in zip(*results):
            assert raw.abs().sum() > 0
            torch.testing.assert_close(raw, fused)


def test_every_kernel_has_a_twin():
    assert vars(RAW).keys() == vars(FUSED).keys()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("vocab_size", [11, 85, 5000])
def test_untrained_loss_is_that_of_knowing_nothing(vocab_size, arch):
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(vocab_size=vocab_size, **ARCHS[arch]))
    ids, targets = torch.randint(vocab_size, (2, 4, 128))
    loss = gpt.ops.cross_entropy(gpt(ids), targets).item()
    assert abs(loss / math.log(vocab_size) - 1) < 0.05


@pytest.mark.parametrize("arch", ARCHS)
def test_one_batch_can_be_learned_by_heart(arch):
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(vocab_size=20, context_length=16, n_layer=2, n_head=2, n_embd=32,
                        **ARCHS[arch]))
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    ids, targets = torch.randint(20, (2, 4, 16))
    for _ in range(200):
        loss = gpt.ops.cross_entropy(gpt(ids), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_no_place_sees_the_future(kernels, arch):
    gpt = lively(**TINY, kernels=kernels, **ARCHS[arch])
    ids = torch.randint(11, (2, 8))
    before = gpt(ids)
    for t in range(7):
        changed = ids.clone()
        changed[:, t + 1:] = (changed[:, t + 1:] + 1) % 11
        after = gpt(changed)
        torch.testing.assert_close(after[:, :t + 1], before[:, :t + 1], rtol=0, atol=0)
        assert not torch.equal(after[:, t + 1], before[:, t + 1])


@torch.no_grad()
@pytest.mark.parametrize("settings", [*ARCHS.values(), dict(n_kv_head=1, mlp="swiglu"),
                                      ARCHS["gpt2"] | dict(n_kv_head=2, qk_norm=True)],
                         ids=["gpt2", "modern", "one key head", "grouped gpt2"])
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_a_cache_changes_nothing(kernels, settings):
    """Three texts at once: a long prompt, then one token at a time, then a few at once."""
    gpt = lively(vocab_size=11, context_length=32, n_layer=3, n_head=4, n_embd=32,
                 kernels=kernels, **settings).eval()
    ids = torch.randint(11, (3, 32))
    cache = gpt.new_cache(3)
    parts = ids.split([15, 1, 1, 1, 1, 5, 1, 7], dim=1)
    logits = torch.cat([gpt(part, cache) for part in parts], dim=1)
    torch.testing.assert_close(logits, gpt(ids))
    assert cache.length == 32


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_last_only(arch):
    gpt = lively(**TINY, **ARCHS[arch])
    ids = torch.randint(11, (3, 8))
    torch.testing.assert_close(gpt(ids, last_only=True), gpt(ids)[:, -1:])
    cache = gpt.new_cache(3)
    gpt(ids[:, :5], cache)
    torch.testing.assert_close(gpt(ids[:, 5:], cache, last_only=True), gpt(ids)[:, -1:])


@torch.no_grad()
def test_a_full_cache_says_so():
    gpt = GPT(GPTConfig(**TINY))
    cache = gpt.new_cache(1, room=5)
    gpt(torch.zeros(1, 4, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="6 tokens do not fit a context of 5"):
        gpt(torch.zeros(1, 2, dtype=torch.long), cache)
    assert gpt.new_cache(1, room=100).room == 8


def saved_for_backward(run, gpt):
    """run()'s result, and the bytes it keeps for backward that are not the model's weights."""
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in gpt.parameters()}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), x)    # with x, its place stays taken
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()
    return result, sum(size for size, _ in kept.values())


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_checkpointing_saves_memory_and_changes_no_bit(kernels, arch):
    settings = dict(vocab_size=11, context_length=32, n_layer=6, n_head=2, n_embd=32, dropout=0.3,
                    kernels=kernels) | ARCHS[arch]
    ids, targets = torch.randint(11, (2, 4, 32))
    grads, sizes = [], []
    for on in (False, True):
        gpt = lively(**settings, activation_checkpointing=on)
        torch.manual_seed(2)
        loss, size = saved_for_backward(lambda: gpt.ops.cross_entropy(gpt(ids), targets), gpt)
        loss.backward()
        grads.append([p.grad for p in gpt.parameters()])
        sizes.append(size)
        with torch.no_grad():       # and the cache is filled all the same
            cache = gpt.new_cache(4)
            gpt(ids[:, :20], cache)
            torch.testing.assert_close(gpt.eval()(ids, gpt.new_cache(4)), gpt(ids))
            assert cache.k[-1, :, :, 19].abs().sum() > 0
    assert all(torch.equal(plain, again) for plain, again in zip(*grads))
    assert sizes[1] < sizes[0] / 5


@pytest.mark.parametrize("arch", ARCHS)
def test_every_weight_matters(arch):
    gpt = lively(**TINY, **ARCHS[arch])
    ids, targets = torch.randint(11, (2, 2, 8))
    gpt.ops.cross_entropy(gpt(ids), targets).backward()
    for name, p in gpt.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_the_first_weights():
    """GPT-2's: spread 0.02, or less by sqrt(2 n_layer) into the stream; modern: zero into it."""
    for arch, into in (("gpt2", 0.02 / math.sqrt(2 * 2)), ("modern", 0.0)):
        gpt = GPT(GPTConfig(vocab_size=500, **ARCHS[arch]))
        for name, p in gpt.named_parameters():
            if name.endswith(("W_out", "W_down")):
                assert p.std().item() == pytest.approx(into, rel=0.05), name
            elif p.dim() == 2:
                assert p.std().item() == pytest.approx(0.02, rel=0.05), name
            else:
                assert (p == float(name.endswith("gain"))).all(), name
    ids = torch.randint(500, (2, 5))        # untrained, a modern GPT's blocks are not there
    x = model.embedding(ids, gpt.token_table) + gpt.embed_ngrams(ids)
    expected = model.linear(gpt.norm(x), gpt.W_vocab)
    torch.testing.assert_close(gpt(ids), expected)


def test_parameter_count():
    """By hand: V C + T C for the tables, 12 C^2 + 13 C for a block, 2 C for the last norm."""
    V, T, L, C = 85, 128, 4, 128
    gpt = GPT(GPTConfig(vocab_size=V, context_length=T, n_layer=L, n_embd=C, **ARCHS["gpt2"]))
    assert gpt.n_parameters() == V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
    gpt = GPT(GPTConfig(vocab_size=V, context_length=T, n_layer=L, n_embd=C))
    assert gpt.n_parameters() == 2 * V * C + 3 * 8192 * C + L * (12 * C * C + 2 * C) + C


def test_switches_change_what_they_say():
    """SwiGLU weighs about what GELU does; grouped queries save keys and values."""
    size = lambda **settings: GPT(GPTConfig(n_embd=192, n_layer=1, **settings)).n_parameters()
    assert size(mlp="swiglu") == pytest.approx(size(mlp="gelu"), rel=0.02)
    assert size() - size(n_kv_head=1) == 192 * 2 * 3 * 48
    assert size() - size(tie_embeddings=True) == 192 * 85
    assert size(mlp_width=100) - size(mlp_width=90) == 192 * 2 * 10
    assert GPTConfig() == GPTConfig(**ARCHS["modern"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_short_numbers_stay_finite(dtype, arch, kernels):
    finite_forward(dict(), dtype, arch, kernels)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
@pytest.mark.parametrize("preset", ["baby", "gpt2"])
def test_short_numbers_stay_finite_at_every_preset(preset, dtype, arch, kernels):
    finite_forward(SHAPES[preset], dtype, arch, kernels)


@torch.no_grad()
def finite_forward(shape, dtype, arch, kernels):
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(**ARCHS[arch] | shape, kernels=kernels)).to(dtype).eval()
    c = gpt.config
    ids, targets = torch.randint(c.vocab_size, (2, 1, 32))      # a CPU is slow at float16
    logits = gpt(ids)
    assert logits.dtype == dtype and logits.isfinite().all()
    loss = gpt.ops.cross_entropy(logits.float(), targets)
    assert abs(loss / math.log(c.vocab_size) - 1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_compiled_is_the_same(kernels, arch):
    gpt = lively(**TINY, kernels=kernels, **ARCHS[arch])
    ids, targets = torch.randint(11, (2, 3, 8))
    results = []
    for run in (gpt, torch.compile(gpt, fullgraph=True)):
        gpt.zero_grad()
        loss = gpt.ops.cross_entropy(run(ids), targets)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in gpt.parameters())])
    for plain, compiled in zip(*results):
        torch.testing.assert_close(plain, compiled)


def test_score_weighs_batches_by_their_size():
    gpt = GPT(GPTConfig(**TINY, dropout=0.5))
    ids = torch.randint(11, (3, 9))
    whole = model.score(gpt, [(ids[:, :-1], ids[:, 1:])])
    parts = model.score(gpt, [(ids[:2, :-1], ids[:2, 1:]), (ids[2:, :-1], ids[2:, 1:])])
    assert whole == pytest.approx(parts) and whole[2] == 24
    assert gpt.training
    padded = torch.cat([ids[:, 1:], torch.full((3, 1), -1)], dim=1)[:, :8]
    padded[:, 5:] = -1      # targets that do not count
    assert model.score(gpt, [(ids[:, :-1], padded)]) == pytest.approx(
        model.score(gpt, [(ids[:, :5], ids[:, 1:6])]))


@pytest.mark.parametrize("setting, says", [
    (dict(n_embd=10, n_head=4), "multiple of n_head"), (dict(n_layer=0), "n_layer"),
    (dict(dropout=1.0), "dropout"), (dict(kernels="quick"), "kernels"), (dict(mlp="relu"), "gelu"),
    (dict(n_head=4, n_kv_head=3), "multiple of n_kv_head"), (dict(n_kv_head=-1), "n_kv_head"),
    (dict(n_embd=12, n_head=4), "n_embd / n_head is odd"), (dict(norm="batch"), "rmsnorm"),
    (dict(position="sine"), "rotary"), (dict(mlp_width=-5), "mlp_width")])
def test_wrong_settings_are_named(setting, says):
    with pytest.raises(ValueError, match=says):
        GPTConfig(**setting)
    GPTConfig(n_embd=12, n_head=4, position="learned")


def test_too_long_a_text_is_refused():
    with pytest.raises(ValueError, match="9 tokens do not fit a context of 8"):
        GPT(GPTConfig(**TINY))(torch.zeros(1, 9, dtype=torch.long))


def test_ngrams_by_hand():
    """Each place gets the row of every run of 2 and 3 tokens that ends there, and no other's."""
    c = GPTConfig(vocab_size=9, context_length=8, n_layer=1, n_head=1, n_embd=4, ngram=3,
                  ngram_rows=50)
    gpt = GPT(c)
    ids = torch.randint(9, (2, 8))
    rows = gpt.ngram_tables.view(2, 50, 4)
    for text, got in zip(ids.tolist(), gpt.embed_ngrams(ids)):
        text = [0, 0] + [i + 1 for i in text]
        for t in range(8):
            two = (text[t + 1] * 1_000_003 + text[t + 2]) % 50
            three = ((text[t] * 1_000_003 + text[t + 1]) * 1_000_003 + text[t + 2]) % 50
            torch.testing.assert_close(got[t], rows[0, two] + rows[1, three])


@pytest.mark.parametrize("V, n", [(65, 2), (65, 3), (8192, 2), (50_257, 2), (1024, 4)])
def test_the_hash_scatters(V, n):
    """10,000 runs fall on 8,192 rows as if each had been thrown there: 1 - e^(-10000/8192) hit."""
    runs = torch.unique(torch.randint(V, (10_000, n), generator=torch.Generator().manual_seed(n)),
                        dim=0)
    hit = model.ngram_rows(runs + 1, n, 8192).unique().numel() / 8192
    assert hit >= 0.97 * (1 - math.exp(-len(runs) / 8192))
