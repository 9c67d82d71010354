"""The formulas against the real thing: counted weights, counted FLOPs, kept bytes."""
import json
from itertools import product

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import train
from beyond import anatomy
from conftest import inside, one_line
from model import ARCHS, GPT, GPTConfig

SMALL = dict(vocab_size=40, context_length=16, n_layer=3, n_head=4, n_embd=32, ngram_rows=60,
             norm_eps=1e-6, rotary_base=5e5)
NAMES = ("norm", "position", "mlp", "qk_norm", "n_kv_head", "tie_embeddings", "bias", "ngram")
SWITCHES = [SMALL | arch for arch in (*ARCHS.values(), *(dict(zip(NAMES, values)) for values in product(
    ("layernorm", "rmsnorm"), ("learned", "rotary"), ("gelu", "relu2", "swiglu"), (True, False),
    (1, 4), (True, False), (True, False), (1, 3))))]


def test_parameters():
    for switches in SWITCHES:
        with torch.device("meta"):
            gpt = GPT(GPTConfig(**switches))
        counts = anatomy.parameters(gpt.config)
        assert sum(counts.values()) == sum(p.numel() for p in gpt.parameters()), switches
        assert counts["matrices of the blocks"] == sum(
            p.numel() for p in gpt.blocks.parameters() if p.dim() == 2)
        assert counts["n-gram tables"] == sum(
            p.numel() for name, p in gpt.named_parameters() if name == "ngrams.table")


def test_flops_are_those_that_pytorch_counts():
    """To the last one: matrix products, forward and backward, with the attention written out."""
    for switches in SWITCHES[:3] + SWITCHES[3::11]:
        c = GPTConfig(**switches | dict(kernels="raw"))
        gpt, (ids, targets) = GPT(c), torch.randint(40, (2, 3, 16))
        with FlopCounterMode(display=False) as counted:
            c.ops.cross_entropy(gpt(ids), targets).backward()
        assert counted.get_total_flops() == 3 * 16 * anatomy.flops_per_token(c, 16), switches


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("arch", ARCHS)
def test_weights_gradients_and_optimiser_states(arch, optimizer):
    gpt, (ids, targets) = GPT(GPTConfig(**SMALL | ARCHS[arch])), torch.randint(40, (2, 2, 16))
    gpt.config.ops.cross_entropy(gpt(ids), targets).backward()
    states = []
    for o in train.make_optimizers(gpt, train.TrainConfig(optimizer=optimizer)):
        o.step()
        states += [x for state in o.state.values() for x in state.values() if x.numel() > 1]
    said, size = anatomy.memory(gpt.config, 2, 16, optimizer), lambda xs: sum(x.nbytes for x in xs)
    assert said["weights"] == size(gpt.parameters())
    assert said["gradients"] == size(p.grad for p in gpt.parameters())
    assert said[f"states of {optimizer}"] == size(states)


def test_activations_within_three_percent():
    """What hooks see kept for backward; the formula leaves out means and ids."""
    shapes = [dict(context_length=32, n_embd=256), dict(n_layer=6, n_embd=192, context_length=64)]
    for i, switches in enumerate(SWITCHES[:3] + SWITCHES[3::7]):
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
    torch.manual_seed(1)
    gpt, ids = GPT(GPTConfig(**SMALL | ARCHS[arch] | dict(n_kv_head=2))), torch.randint(40, (9,))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.4)
    maps, ops = anatomy.attention_maps(gpt, ids), gpt.config.ops
    assert maps.shape == (3, 4, 9, 9) and maps.std() > 0.05 and not maps.triu(1).any()
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 4, 9))
    done = [row for row in anatomy.operations(gpt, ids[None]) if row[0] == "attention"]
    for weights, (_, (_, _, v, *_), y) in zip(maps, done, strict=True):
        torch.testing.assert_close(weights @ v[0].repeat_interleave(2, dim=0), y[0])
    assert gpt.config.ops is ops


def test_what_is_printed_and_drawn(trained, tmp_path):
    said = inside("beyond.anatomy", "--preset", "gpt2", "--arch", "gpt2", cwd=tmp_path)
    assert "124,439,808  in all" in said and "(16, 1024, 50257)" in said and "12 such" in said
    assert "attention                           (16, 12, 1024, 64)             0" in said
    assert f"{'linear':12}{'W_up + b_up':24}{'(16, 1024, 3072)':20}   2,362,368" in said
    llama = inside("beyond.anatomy", "--arch", "llama", "--n-kv-head", 1, "--batch-size", 8,
                   "--dropout", 0.1, "--norm-eps", 1e-6, "--vocab-size", 300, cwd=tmp_path)
    assert "(8, 128, 5, 32)" in llama and "(8, 128, 300)" in llama
    assert "dropout" in llama and "dropout" not in said
    inside("beyond.anatomy", "--attention", trained / "runs/first", "10 $gree$", cwd=tmp_path)
    picture = Image.open(tmp_path / "attention.png")
    assert picture.size[0] > 300 and len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_utilisation_by_hand(tmp_path):
    config = {"data": {}, "model": SMALL, "train": {"dtype": "bfloat16"}, "corpus": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text('{"tokens_per_second": 1e8}\n' * 2
                                            + '{"tokens_per_second": 5e8}\n')
    share = 1e8 * anatomy.flops_per_token(GPTConfig(**SMALL), 16) / 312e12
    assert anatomy.utilisation(tmp_path, "A100") == pytest.approx(share)
    assert anatomy.peak_flops("A100", "float32") == 156e12


def test_bad_input_is_one_line(trained):
    for arguments, says in (
            (["--n-embd", 130], "n_embd"), (["--batch-size", 0], "batch_size"),
            (["--attention", "nowhere", "text"], "no run nowhere"), (["--mlp", "relu"], "swiglu"),
            (["--attention", "first", ""], "no text"), (["--gpu", "abacus"], "H100"),
            (["--attention", "first", "x" * 17], "17 tokens do not fit a context of 16")):
        assert says in one_line("beyond.anatomy", *arguments, cwd=trained)
