"""The formulas against the real thing: counted weights, counted FLOPs, kept bytes."""
import json
from statistics import median

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import train
from beyond import anatomy
from conftest import inside, one_line
from model import ARCHS, GPT, GPTConfig
from sample import load_run

SMALL = dict(vocab_size=40, context_length=16, n_layer=3, n_head=4, n_embd=32, ngram_rows=60,
             norm_eps=1e-6, rotary_base=5e5)
SWITCHES = [SMALL | arch | changes for arch in ARCHS.values() for changes in (
    {}, dict(n_kv_head=1), dict(norm="layernorm", bias=False), dict(norm="rmsnorm", bias=True),
    dict(position="learned", ngram=2), dict(position="rotary", qk_norm=False),
    dict(activation="swiglu", bias=True), dict(activation="relu2", qk_norm=True, ngram=3))]


def test_parameters():
    for switches in SWITCHES:
        gpt = GPT(GPTConfig(**switches))
        said = anatomy.parameters(gpt.config)
        found = {name: p.numel() for name, p in gpt.named_parameters()}
        assert sum(said.values()) == sum(found.values()), switches
        assert said["n-gram tables"] == found.get("ngram_table", 0)
        assert said["matrices of the blocks"] == sum(
            n for name, n in found.items() if name.startswith("blocks.") and ".W_" in name)


def test_flops_gradients_and_optimiser_states():
    """To the last one: PyTorch counts matrix products, with the attention written out."""
    for switches in SWITCHES:
        c = GPTConfig(**switches | dict(kernels="raw"))
        gpt, (ids, targets) = GPT(c), torch.randint(40, (2, 3, 16))
        with FlopCounterMode(display=False) as counted:
            c.ops.cross_entropy(gpt(ids), targets).backward()
        assert counted.get_total_flops() == 3 * 16 * anatomy.flops_per_token(c, 16), switches
        for name in ("adamw", "muon"):
            said, found = anatomy.memory(c, 2, 16, name), 0
            for optimizer in train.make_optimizers(gpt, train.TrainConfig(optimizer=name)):
                optimizer.step()
                found += sum(x.nbytes for state in optimizer.state.values()
                             for x in state.values() if x.numel() > 1)
            assert said[f"states of {name}"] == found, switches
        assert said["gradients"] == sum(p.grad.nbytes for p in gpt.parameters())


def test_activations_within_three_percent():
    """What hooks see kept for backward; the formula leaves out means and ids."""
    shapes = [dict(context_length=32, n_embd=256), dict(n_layer=6, n_embd=192, context_length=64)]
    for i, switches in enumerate(SWITCHES):
        c = GPTConfig(**switches | shapes[i % 2], activation_checkpointing=i % 4 == 3)
        gpt, kept, (ids, targets) = GPT(c), [], torch.randint(40, (2, 4, c.context_length))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            c.ops.cross_entropy(gpt(ids), targets)
        storages = {s.data_ptr(): s.nbytes() for s in (x.untyped_storage() for x in kept)}
        for p in gpt.parameters():
            storages.pop(p.untyped_storage().data_ptr(), None)
        said = 4 * anatomy.activations(c, 4, c.context_length)
        assert said == pytest.approx(sum(storages.values()), rel=0.03), (i, switches)


@pytest.mark.parametrize("arch", ARCHS)
def test_attention_maps_are_what_the_heads_use(arch):
    """Causal weights that sum to 1; times the values, they give what PyTorch's kernel gave."""
    gpt, ids = GPT(GPTConfig(**SMALL | ARCHS[arch] | dict(n_kv_head=2))), torch.randint(40, (9,))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.4)
    ops, maps = gpt.config.ops, anatomy.attention_maps(gpt, ids)
    assert gpt.config.ops is ops and maps.std() > 0.05 and not maps.triu(1).any()
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 4, 9))
    done = [row[1:] for row in anatomy.operations(gpt, ids[None]) if row[0] == "attention"]
    for weights, ((_, _, v, *_), y) in zip(maps, done, strict=True):
        torch.testing.assert_close(weights @ v[0].repeat_interleave(2, dim=0), y[0])


def test_what_is_printed_and_drawn(trained):
    gpt2 = inside("beyond.anatomy", "--preset", "gpt2", "--arch", "gpt2", cwd=trained)
    for row in ("linear      W_up + b_up             (16, 1024, 3072)       2,362,368",
                "linear      token_table             (16, 1024, 50257)     38,597,376",
                "(16, 12, 1024, 64)             0", "124,439,808  in all"):
        assert row in gpt2 and "dropout" not in gpt2
    llama = inside("beyond.anatomy", "--arch", "llama", "--n-kv-head", 1, "--batch-size", 8,
                   "--dropout", 0.1, "--vocab-size", 300, cwd=trained)
    assert "(8, 256, 5, 32)" in llama and "(8, 256, 300)" in llama and "dropout" in llama
    inside("beyond.anatomy", "--attention", "first", "10 $gree$", cwd=trained)
    picture = Image.open(trained / "attention.png")
    assert picture.size[0] > 300 and len(picture.convert("RGB").getcolors(1 << 20)) > 50
    run = trained / "runs/first"
    speed = median(json.loads(line)["tokens_per_second"] for line in open(run / "metrics.jsonl"))
    flops = speed * anatomy.flops_per_token(load_run(run)[0].config, 16)
    assert anatomy.utilisation(run, "A100") == pytest.approx(flops / 156e12)    # in float32


def test_bad_input_is_one_line(trained):
    for says, *arguments in (
            ("n_embd", "--n-embd", 130), ("batch_size", "--batch-size", 0), ("H100", "--gpu", "x"),
            ("no text", "--attention", "first", ""), ("no run x", "--attention", "x", "text"),
            ("17 tokens do not fit a context of 16", "--attention", "first", "x" * 17)):
        assert says in one_line("beyond.anatomy", *arguments, cwd=trained)
