"""A change of low rank: against the package peft, and begun, merged and saved without a trace."""
import json

import pytest
import torch

from beyond.lora import TARGETS, LoRA, LoRAConfig, digest, load_adapter
from conftest import inside, one_line
from model import ARCHS, GPT, GPTConfig
from sample import load_run

SIZES = dict(vocab_size=50, context_length=16, n_layer=2, n_head=4, n_embd=32, ngram_rows=100)
FLAGS = ["--source", "text.txt", "--window", 16, "--batch-size", 4, "--eval-every", 2]


def model_and_ids(arch):
    torch.manual_seed(1)
    model = GPT(GPTConfig(**SIZES | ARCHS[arch]))
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model, torch.randint(50, (3, 16))


def some_change(lora):
    for B in lora.B.values():
        B.data.normal_(std=0.1)
    return lora


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("targets", TARGETS)
def test_begins_as_nothing_and_merges(arch, targets):
    model, ids = model_and_ids(arch)
    plain, before = model(ids), digest(model)
    lora = LoRA(model, LoRAConfig(rank=3, targets=targets))
    assert torch.equal(lora(ids), plain)
    changed = some_change(lora)(ids)
    assert (changed - plain).abs().max() > 0.1
    changed.square().mean().backward()
    assert digest(model) == before and all(p.grad is None for p in model.parameters())
    assert len(list(lora.parameters())) == 2 * 2 * len(TARGETS[targets])
    assert all(p.grad.abs().max() > 0 for p in lora.parameters())
    torch.testing.assert_close(lora.merge()(ids), changed, rtol=0, atol=1e-5)
    assert digest(model) != before


def test_against_peft(tmp_path):
    """GPT-2 as transformers computes it, with peft's LoRA: the same logits and gradients."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    from beyond.export import export
    from tokenizer import CharTokenizer
    model, ids = model_and_ids("gpt2")
    export(model, CharTokenizer([chr(65 + i) for i in range(49)]), tmp_path)
    theirs = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path), peft.LoraConfig(
            r=3, lora_alpha=12, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True))
    lora = some_change(LoRA(model, LoRAConfig(rank=3, alpha=12.0)))
    names = {"W_qkv": "attn.c_attn", "W_out": "attn.c_proj", "W_up": "mlp.c_fc",
             "W_down": "mlp.c_proj"}
    pairs = []
    for key, A in lora.A.items():
        i, W = key.split("_", 1)
        part = theirs.get_submodule(f"base_model.model.transformer.h.{i}.{names[W]}")
        pairs += [(A, part.lora_A.default.weight), (lora.B[key], part.lora_B.default.weight)]
    for ours, their in pairs:
        their.data = ours.data.T.clone()
    for logits in (ours := lora(ids)), (their := theirs.eval()(ids).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
                                          ).backward()
    torch.testing.assert_close(ours, their, rtol=1e-4, atol=1e-4)
    for ours, their in pairs:
        torch.testing.assert_close(ours.grad, their.grad.T, rtol=1e-3, atol=1e-5)


def test_as_a_person_does(copied):
    said = inside("beyond.lora", "first", *FLAGS, "--steps", 4, "--name", "own", cwd=copied)
    assert "python sample.py own" in said
    base, own = (load_run(copied / "runs" / name)[0] for name in ("first", "own"))
    ids = torch.randint(base.config.vocab_size, (2, 16))
    assert (base(ids) - own(ids)).abs().max() > 1e-4
    steps = (copied / "runs/own/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == [1, 2, 3, 4]
    assert (copied / "runs/own/loss.png").exists()
    inside("sample.py", "own", "--tokens", 5, cwd=copied)
    inside("beyond.lora", "first", "--adapter", "runs/own/adapter", "--name", "again", cwd=copied)
    again = load_run(copied / "runs/again")[0]
    assert torch.equal(own(ids), again(ids))
    assert (copied / "runs/own/adapter/best.pt").stat().st_size < 40_000
    with pytest.raises(ValueError, match="beside other weights"):
        load_adapter(own, copied / "runs/own/adapter")
    for arguments, says in (((*FLAGS, "--name", "own"), "taken"), (("--name", "x"), "--source"),
                            (("--adapter", "runs/first", "--name", "x"), "no adapter"),
                            ((*FLAGS, "--name", "x", "--ranks", "0"), "ranks from 1"),
                            ((*FLAGS[:2], "--window", 17, "--name", "x"), "--window 17")):
        assert says in one_line("beyond.lora", "first", *arguments, cwd=copied), says
    assert not (copied / "runs/x").exists()


def test_ranks(copied):
    flags = ["beyond.lora", "first", *FLAGS, "--steps", 2, "--ranks", 1, 2, "--name", "table"]
    inside(*flags, cwd=copied)
    said = inside(*flags, "--json", cwd=copied).splitlines()       # nothing is left to learn
    rows = {row["way"]: row for row in map(json.loads, said[1:])}
    one, two, full = (rows[name]["learned"] for name in ("rank-1", "rank-2", "full"))
    assert two == 2 * one < full
    for row in rows.values():       # a gradient, AdamW's two averages, and a counter of steps
        assert row["kept_MB"] == pytest.approx(12e-6 * row["learned"], rel=0.02)
