"""The formulas against the real thing: counted weights, counted FLOPs, kept bytes."""
import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import anatomy
from conftest import one_line, run
from model import ARCHS, GPT, SHAPES, GPTConfig
from test_model import lively, saved_for_backward

SWITCHES = [dict(norm=norm, position=position, mlp=mlp, qk_norm=qk_norm, n_kv_head=heads,
                 tie_embeddings=tied, bias=bias)
            for norm, position, mlp, qk_norm, heads, tied, bias in itertools.product(
                ("layernorm", "rmsnorm"), ("learned", "rotary"), ("gelu", "relu2", "swiglu"),
                (True, False), (1, 4), (True, False), (True, False))]
SMALL = dict(vocab_size=40, context_length=16, n_layer=3, n_head=4, n_embd=32, ngram_rows=60)


def test_parameters():
    for switches in SWITCHES:
        c = GPTConfig(**SMALL | switches)
        with torch.device("meta"):
            assert anatomy.parameters(c) == GPT(c).n_parameters(), switches


@pytest.mark.parametrize("preset", SHAPES)
@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_of_the_presets(preset, arch):
    c = GPTConfig(**ARCHS[arch] | SHAPES[preset])
    with torch.device("meta"):
        assert anatomy.parameters(c) == GPT(c).n_parameters()


def test_flops_are_those_that_pytorch_counts():
    """To the last one: matrix products, forward and backward, with the attention written out."""
    for switches in SWITCHES[::5]:
        c = GPTConfig(**SMALL | switches, kernels="raw")
        gpt = GPT(c)
        ids, targets = torch.randint(40, (2, 3, 16))
        with FlopCounterMode(display=False) as counted:
            gpt.ops.cross_entropy(gpt(ids), targets).backward()
        assert counted.get_total_flops() == 3 * 16 * anatomy.flops_per_token(c, 16), switches


@pytest.mark.parametrize("arch", ARCHS)
def test_weights_gradients_and_optimiser(arch):
    c = GPTConfig(**SMALL | ARCHS[arch])
    gpt = GPT(c)
    optimizer = torch.optim.AdamW(gpt.parameters())
    gpt.ops.cross_entropy(gpt(torch.randint(40, (2, 16))), torch.randint(40, (2, 16))).backward()
    optimizer.step()
    size = lambda tensors: sum(x.numel() * x.element_size() for x in tensors)
    means = [state[k] for state in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
    said = anatomy.memory(c, 2, 16)
    assert said["weights"] == size(gpt.parameters())
    assert said["gradients"] == size(p.grad for p in gpt.parameters())
    assert said["AdamW's two means"] == size(means)


def test_activations_within_three_percent():
    """What the hooks see, at every switch and at several shapes; the formula leaves out a few
    numbers for each place (means, row sums, ids)."""
    shapes = [dict(context_length=32, n_embd=256), dict(n_layer=6, n_embd=192, context_length=64)]
    for i, switches in enumerate(SWITCHES[::3]):
        c = GPTConfig(**SMALL | shapes[i % 2] | switches, activation_checkpointing=i % 4 == 3)
        gpt, T = GPT(c), c.context_length
        ids, targets = torch.randint(40, (2, 4, T))
        _, kept = saved_for_backward(lambda: gpt.ops.cross_entropy(gpt(ids), targets), gpt)
        assert 4 * anatomy.activations(c, 4, T) == pytest.approx(kept, rel=0.03), (i, switches)


@pytest.mark.parametrize("arch", ARCHS)
def test_attention_maps_are_what_the_heads_use(arch):
    """The maps times the values give what the model's own attention gave."""
    gpt = lively(**SMALL | ARCHS[arch] | dict(n_kv_head=2)).eval()
    ids = torch.randint(40, (9,))
    seen = []
    ops = gpt.blocks[0].attention.ops
    original = ops.attention
    try:
        ops.attention = lambda q, k, v, **p: seen.append(
            (v, original(q, k, v, **p))) or seen[-1][1]
        maps = anatomy.attention_maps(gpt, ids)
    finally:
        ops.attention = original
    assert maps.shape == (3, 4, 9, 9)
    for weights, (v, y) in zip(maps, seen, strict=True):
        torch.testing.assert_close(weights @ v[0].repeat_interleave(2, dim=0), y[0])


def test_the_picture(trained, tmp_path):
    from PIL import Image
    run("model.py", "--attention", trained / "runs/first", "10 green", cwd=tmp_path)
    picture = Image.open(tmp_path / "attention.png")
    assert picture.size[0] > 300 and len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_what_is_printed(tmp_path):
    stdout, _ = run("model.py", "--preset", "gpt2", "--arch", "gpt2", cwd=tmp_path)
    assert "124,439,808 in all" in stdout and "(8, 1024, 50257)" in stdout
    narrow, _ = run("model.py", "--n-embd", 64, "--no-qk-norm", cwd=tmp_path)
    assert "(8, 128, 64)" in narrow


@pytest.mark.parametrize("arguments, says", [
    (["--n-embd", 130], "multiple of n_head"), (["--batch-size", 0], "--batch-size"),
    (["--attention", "nowhere", "text"], "no run nowhere"), (["--mlp", "relu"], "swiglu"),
    (["--arch", "old"], "gpt2"), (["--n-layers", 2], "--n-layer")])
def test_bad_input_is_one_line(arguments, says, tmp_path):
    assert says in one_line("model.py", *arguments, cwd=tmp_path)


def test_too_long_or_empty_a_text_is_one_line(trained, tmp_path):
    for text, says in (("", "no text"), ("x" * 17, "17 tokens do not fit a context of 16")):
        assert says in one_line("model.py", "--attention", trained / "runs/first", text,
                                cwd=tmp_path)
