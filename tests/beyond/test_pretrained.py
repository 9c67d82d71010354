"""GPT-2 made a run of ours, and Llama through our switches, against Hugging Face's own models."""
import json
import sys

import pytest
import torch

import data
from beyond.pretrained import read_tokenizer
from conftest import SHARED, TEXT, inside, one_line
from model import ARCHS, GPT, GPTConfig
from sample import SampleConfig, generate, load_run, picker, read_config
from tokenizer import EOT, BPETokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")

V, T, CHAPTER, CACHE = 300, 24, "beyond.pretrained", SHARED / "tiktoken_cache"
WEIGHTS, CONFIG, BIAS = "model.safetensors", "config.json", "transformer.ln_f.bias"


def loud(theirs):
    """Weights large enough that every one of them shows in the logits."""
    torch.manual_seed(1)
    for p in theirs.parameters():
        p.data += 0.15 * torch.randn_like(p)
    return theirs.eval()


def publish(cwd, n_layer=2, n_head=2, n_embd=32, **more):
    """A model of theirs and its tokenizer, as they are published: four files in cwd/theirs."""
    theirs = loud(transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=V, n_positions=T, bos_token_id=0, eos_token_id=0, n_layer=n_layer,
        n_head=n_head, n_embd=n_embd, **more)))
    theirs.save_pretrained(cwd / "theirs")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT, "naïve café"], V, special_tokens=[EOT])
    bpe.save_model(str(cwd / "theirs"))
    return theirs, bpe


def same(ours, theirs):
    """The same logits, and the same text written."""
    ids = torch.randint(V, (3, T))
    expected = theirs(ids).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)
    text = theirs.generate(ids[:1, :5], max_length=T, do_sample=False, pad_token_id=0,
                           eos_token_id=None)[0, 5:]
    written = generate(ours, ids[:1, :5].tolist(), T - 5, picker(1, SampleConfig(temperature=0)))
    assert [i for i, in written] == text.tolist()


@pytest.mark.parametrize("size", [dict(n_layer=3, n_head=6, n_embd=96, n_inner=100), dict(
    n_layer=1, n_head=1, n_embd=8, layer_norm_epsilon=0.1)], ids=str)
def test_gpt2_computes_the_same(size, tmp_path):
    theirs, _ = publish(tmp_path, **size)
    inside(CHAPTER, "theirs", cwd=tmp_path)
    same(load_run(tmp_path / "runs/theirs")[0], theirs)


def test_old_files_with_masks_and_without_prefix(tmp_path):
    """GPT-2's own file on the hub names no transformer, and holds each block's causal mask."""
    theirs, _ = publish(tmp_path)
    path = tmp_path / "theirs/model.safetensors"
    tensors = {name[len("transformer."):]: x for name, x in safetensors.load_file(path).items()}
    tensors |= {"lm_head.weight": tensors["wte.weight"].clone(), "h.0.attn.masked_bias":
                torch.ones(1), "h.0.attn.bias": torch.ones(1, 1, T, T)}
    safetensors.save_file(tensors, path)
    inside(CHAPTER, "theirs", cwd=tmp_path)
    same(load_run(tmp_path / "runs/theirs")[0], theirs)


def test_its_tokenizer_gives_the_same_ids(tmp_path):
    _, theirs = publish(tmp_path)
    inside(CHAPTER, "theirs", "--name", "x", cwd=tmp_path)
    _, ours = load_run(tmp_path / "runs/x")
    assert ours.eot == theirs.token_to_id(EOT) == 0
    for text in (TEXT, "", "  \n\tnaïve  cafés", "你好 we'LL", "".join(map(chr, range(999)))):
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids and ours.decode(ids) == text


@pytest.mark.skipif(not CACHE.exists(), reason="needs tiktoken's copy of it")
def test_gpt2s_own_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
    for path in CACHE.iterdir():        # there they are called encoder.json and vocab.bpe
        name = "vocab.json" if path.read_bytes()[:1] == b"{" else "merges.txt"
        (tmp_path / name).write_bytes(path.read_bytes())
    assert read_tokenizer(tmp_path, 50257).vocab == BPETokenizer.published("gpt2").vocab


def test_it_is_a_run_like_any_other(tmp_path):
    cwd, run = tmp_path, tmp_path / "runs/x"
    theirs, _ = publish(cwd)
    assert "h.0.mlp.c_proj.weight       blocks.0.W_down          (128, 32)" in inside(
        CHAPTER, "theirs", "--name", "x", "--context-length", 10, cwd=cwd)
    assert {path.name for path in run.iterdir()} == {"config.json", "tokenizer.json", "best.pt"}
    assert "green" in inside("sample.py", "x", "--prompt", "green", "--tokens", 9, cwd=cwd)
    assert one_line("eval.py", "x", cwd=cwd).startswith("eval.py: what x has read (not here: ")
    (cwd / "text.txt").write_text(TEXT, encoding="utf-8")
    assert "runs/x " in inside("eval.py", "x", "--text", "text.txt", cwd=cwd)
    inside("train.py", "--init", "x", "--source", "text.txt", "--steps", 1, "--batch-size", 4,
           "--device", "cpu", "--name", "on", cwd=cwd)
    corpus = data.load_corpus(cwd / read_config(cwd / "runs/on")["corpus"]["folder"])
    ids, targets = data.batch(corpus.train, 4, 10, 1, 0)
    loss = torch.nn.functional.cross_entropy(theirs(ids).logits.flatten(0, 1), targets.flatten())
    first = json.loads((cwd / "runs/on/metrics.jsonl").read_text())
    assert first["train_loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("file, old, new, says", [
    (WEIGHTS, BIAS, None, "has no tensor ln_f.bias"), (WEIGHTS, BIAS, [0.0] * 9, "(9,), not (32,)"),
    (WEIGHTS, BIAS, [float("nan")] * 32, "not finite"), (WEIGHTS, "odd", [0.0], "has a tensor odd"),
    (WEIGHTS, "lm_head.weight", [[0.0] * 32] * V, "a tensor lm_head.weight"),
    (CONFIG, 'layer": 2', 'layer": 3', "no tensor h.2"), (CONFIG, 'layer": 2', 'layer": 1', "h.1"),
    (CONFIG, '"gpt2"', '"llama"', "model_type"), (CONFIG, "gelu_new", "relu", "gelu_new"),
    (CONFIG, 'tie_word_embeddings": true', 'tie_word_embeddings": false', "computes with True"),
    (CONFIG, 'scale_attn_weights": true', 'scale_attn_weights": false', "computes with True"),
    (CONFIG, 'layer_idx": false', 'layer_idx": true', "computes with False"),
    (CONFIG, 'head": 2', 'head": null', "n_head cannot be"), (CONFIG, "{", "", "no JSON"),
    (CONFIG, "vocab_size", "v", "does not say vocab_size"), (CONFIG, str(V), "299", "299 tokens"),
    ("vocab.json", '"a"', '"你"', "every byte"), ("vocab.json", EOT, "<|end|>", "every byte"),
    ("merges.txt", "Ġ", "g", "in its order")])
def test_what_does_not_fit_is_named(file, old, new, says, tmp_path):
    publish(tmp_path)
    path = tmp_path / "theirs" / file
    if file == WEIGHTS:
        tensors = {name: x for name, x in safetensors.load_file(path).items() if name != old}
        safetensors.save_file(tensors | ({old: torch.tensor(new)} if new else {}), path)
    else:
        path.write_text(path.read_text("utf-8").replace(old, new), encoding="utf-8")
    assert says in one_line(CHAPTER, "theirs", cwd=tmp_path) and not (tmp_path / "runs").exists()


def test_wrong_requests_and_a_full_disk(tmp_path, monkeypatch):
    publish(tmp_path)
    says = lambda *flags: one_line(CHAPTER, *flags, cwd=tmp_path)
    assert "there is no nowhere/config.json" in says("nowhere")
    assert "none for a folder" in says("theirs", "--name", "a/b")
    for wrong in (-1, T + 1):
        assert "has 24 positions" in says("theirs", "--context-length", wrong)
    with monkeypatch.context() as m:
        m.setattr(torch, "save", lambda content, file: file.write(b"half") and open("gone"))
        assert "gone" in says("theirs")
    assert not list((tmp_path / "runs").iterdir())
    inside(CHAPTER, "theirs", cwd=tmp_path)
    assert "theirs is taken" in says("theirs")
    (tmp_path / "theirs/model.safetensors").write_bytes(b"x" * 99)
    assert "is it whole" in says("theirs", "--name", "damaged")
    for missing, model in (("huggingface_hub", "gpt2"), ("safetensors.torch", "theirs")):
        monkeypatch.setitem(sys.modules, missing, None)     # as if it were not installed
        assert "install" in says(model, "--name", "x")


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_llama_through_the_switches(kv_heads):
    """RMS norm, rotary positions, SwiGLU and grouped queries are what Llama computes."""
    theirs = loud(transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=V, hidden_size=64, intermediate_size=72, num_hidden_layers=2, rope_theta=500.0,
        num_attention_heads=4, num_key_value_heads=kv_heads, max_position_embeddings=T,
        rms_norm_eps=1e-3, tie_word_embeddings=False)))
    ours = GPT(GPTConfig(**ARCHS["llama"] | dict(
        vocab_size=V, context_length=T, n_layer=2, n_head=4, n_embd=64, n_kv_head=kv_heads,
        mlp_width=72, norm_eps=1e-3, rotary_base=500.0)))
    embed, *layers, norm, head = theirs.parameters()        # matrices lie as (n_out, n_in)
    weights = {"token_table": embed, "norm.gain": norm, "W_vocab": head.t()}
    for i in range(2):
        q, k, v, out, gate, up, down, norm1, norm2 = layers[9 * i:9 * i + 9]
        weights |= {f"blocks.{i}.{name}": torch.cat(parts).t() for name, *parts in (
            ("W_qkv", q, k, v), ("W_out", out), ("W_up", gate, up), ("W_down", down),
            ("norm1.gain", norm1), ("norm2.gain", norm2))}
    ours.load_state_dict(weights)
    same(ours.eval(), theirs)
