"""GPT-2's and Llama's weights in our model, against Hugging Face's own models."""
import json
import sys

import pytest
import torch

from batches import draw
from conftest import one_line, run
from model import GPT, GPTConfig
from sample import generate, greedy

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

SIZES = [dict(n_layer=1, n_head=1, n_embd=8), dict(n_layer=3, n_head=4, n_embd=64),
         dict(n_layer=2, n_head=6, n_embd=96, n_inner=100)]


def loud(theirs):
    """Weights large enough that every one of them shows in the logits."""
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.15 * torch.randn_like(p)
    return theirs.eval()


def gpt2(folder, **size):
    torch.manual_seed(1)
    config = transformers.GPT2Config(vocab_size=60, n_positions=24, **size)
    theirs = loud(transformers.GPT2LMHeadModel(config))
    theirs.save_pretrained(folder)
    return theirs


@pytest.fixture
def saved(tmp_path):
    gpt2(tmp_path, **SIZES[1])
    return tmp_path


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_gpt2_gives_the_same_logits_and_the_same_text(size, kernels, tmp_path):
    theirs = gpt2(tmp_path, **size)
    ours = GPT.from_pretrained(tmp_path, kernels=kernels).eval()
    ids = torch.randint(60, (3, 24))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)
    assert ours.n_parameters() == sum(p.numel() for p in theirs.parameters())
    text = theirs.generate(ids[:1, :5], max_length=24, do_sample=False, pad_token_id=0,
                           eos_token_id=None)
    assert list(generate(ours, ids[0, :5].tolist(), 19, greedy)) == text[0, 5:].tolist()


def test_a_shorter_context_and_a_gradient(saved):
    ours = GPT.from_pretrained(saved, context_length=10, dropout=0.1)
    ids = torch.randint(60, (2, 11))
    ours.ops.cross_entropy(ours(ids[:, :-1]), ids[:, 1:]).backward()
    assert all(p.grad.abs().sum() > 0 for p in ours.parameters())
    whole = GPT.from_pretrained(saved).eval()
    torch.testing.assert_close(ours.eval()(ids[:, :10]), whole(ids[:, :10]))


def alter(change):
    def write(folder):
        path = folder / "model.safetensors"
        tensors = safetensors.load_file(path)
        change(tensors)
        safetensors.save_file(tensors, path)
    return write


def configure(**settings):
    def write(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return write


@pytest.mark.parametrize("damage, says", [
    (alter(lambda t: t.pop("transformer.h.1.mlp.c_fc.bias")), "has no tensor h.1.mlp.c_fc.bias"),
    (alter(lambda t: t.update(strange=torch.zeros(2))), "has a tensor strange"),
    (alter(lambda t: t.update({"transformer.ln_f.bias": torch.zeros(63)})),
     r"ln_f.bias is \(63,\), not \(64,\)"),
    (alter(lambda t: t.update({"transformer.wpe.weight": torch.zeros(23, 64)})), "wpe.weight is"),
    (alter(lambda t: t.update({"lm_head.weight": torch.zeros(60, 64)})), "lm_head.weight is not"),
    (configure(n_layer=4), "has no tensor h.3"),
    (configure(n_layer=2), "has a tensor h.2"),
    (configure(model_type="llama"), "model_type"), (configure(activation_function="relu"), "gelu"),
    (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
    (lambda folder: (folder / "config.json").write_text("{}"), "does not say 'vocab_size'"),
    (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "not a whole"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
])
def test_what_does_not_fit_is_named(damage, says, saved):
    damage(saved)
    with pytest.raises(ValueError, match=says) as error:
        GPT.from_pretrained(saved)
    assert "\n" not in str(error.value)


def test_old_files_with_masks_and_without_prefix_load(saved):
    """GPT-2's own file on the hub names no transformer, and holds each block's causal mask."""
    before = GPT.from_pretrained(saved).state_dict()

    def rename(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
        tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    alter(rename)(saved)
    after = GPT.from_pretrained(saved).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_wrong_requests_are_named(saved, monkeypatch):
    for settings, says in ((dict(n_layer=2), "n_layer comes with"),
                           (dict(context_length=25), "24 places")):
        with pytest.raises(ValueError, match=says):
            GPT.from_pretrained(saved, **settings)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        GPT.from_pretrained("nowhere")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)     # as if absent
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        GPT.from_pretrained("gpt2")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        GPT.from_pretrained(saved)


def test_the_commands(saved, tmp_path):
    """With byte pairs beside the weights, as the hub has them, sample.py writes."""
    from tokenizer import EOT, BPETokenizer, spell
    trained = BPETokenizer.train(["she sells sea shells " * 20], 260)
    (saved / "vocab.json").write_text(json.dumps(
        {EOT if t == EOT.encode() else spell(t): i for i, t in enumerate(trained.tokens)}))
    (saved / "merges.txt").write_text("#version: 0.2\n" + "\n".join(
        spell(a, b) for a, b in trained.merges) + "\n")
    torch.manual_seed(1)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=260, n_positions=24, **SIZES[1])).save_pretrained(saved)
    stdout, _ = run("sample.py", "--pretrained", saved, "--prompt", "sea", "--tokens", 9,
                    cwd=tmp_path)
    assert stdout.startswith("sea") and len(stdout) > 10
    stdout, _ = run("pretrained.py", saved, cwd=tmp_path)
    assert "h.2.mlp.c_proj.weight" in stdout and "(256, 64)" in stdout
    assert "no folder" in one_line("sample.py", "--pretrained", "nowhere", cwd=tmp_path)
    assert "not both" in one_line("sample.py", "runs/x", "--pretrained", saved, cwd=tmp_path)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_llama_through_the_modern_switches(kv_heads):
    """RMS norm, rotary positions, SwiGLU and grouped queries are what Llama computes."""
    torch.manual_seed(1)
    L, C, F = 3, 64, 72
    theirs = loud(transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=60, hidden_size=C, intermediate_size=F, num_hidden_layers=L,
        num_attention_heads=4, num_key_value_heads=kv_heads, max_position_embeddings=24,
        rms_norm_eps=1e-5, tie_word_embeddings=False)))
    ours = GPT(GPTConfig(vocab_size=60, context_length=24, n_layer=L, n_head=4, n_embd=C, ngram=1,
                         n_kv_head=kv_heads, mlp="swiglu", mlp_width=F, qk_norm=False)).eval()
    w = dict(theirs.named_parameters())
    beside = lambda i, *names: torch.cat([w[f"model.layers.{i}.{n}.weight"].T for n in names], 1)
    weights = {"token_table": w["model.embed_tokens.weight"], "W_vocab": w["lm_head.weight"].T,
               "norm.gain": w["model.norm.weight"]}
    for i in range(L):
        weights |= {
            f"blocks.{i}.norm1.gain": w[f"model.layers.{i}.input_layernorm.weight"],
            f"blocks.{i}.norm2.gain": w[f"model.layers.{i}.post_attention_layernorm.weight"],
            f"blocks.{i}.attention.W_qkv": beside(i, *(f"self_attn.{x}_proj" for x in "qkv")),
            f"blocks.{i}.attention.W_out": beside(i, "self_attn.o_proj"),
            f"blocks.{i}.mlp.W_up": beside(i, "mlp.gate_proj", "mlp.up_proj"),
            f"blocks.{i}.mlp.W_down": beside(i, "mlp.down_proj")}
    ours.load_state_dict(weights)
    assert ours.n_parameters() == sum(p.numel() for p in theirs.parameters())
    ids = torch.randint(60, (3, 24))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)
    text = theirs.generate(ids[:1, :5], max_length=24, do_sample=False, pad_token_id=0,
                           eos_token_id=None)
    assert list(generate(ours, ids[0, :5].tolist(), 19, greedy)) == text[0, 5:].tolist()


def test_training_goes_on_from_the_weights(trained, tmp_path):
    """Its first loss is that of the weights it starts from, its shape is theirs."""
    from data import load_corpus
    corpus = load_corpus(next((trained / "corpora").iterdir()))
    torch.manual_seed(1)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=corpus.tokenizer.vocab_size, n_positions=24, **SIZES[1])).save_pretrained(
        tmp_path / "weights")
    ask = ["--data", corpus.folder, "--init", "weights", "--batch-size", 4, "--device", "cpu"]
    run("train.py", *ask, "--steps", 3, "--context-length", 16, "--run", "on", cwd=tmp_path)
    config = json.loads((tmp_path / "runs/on/config.json").read_text())["model"]
    assert config["n_layer"] == 3 and config["context_length"] == 16 and config["mlp"] == "gelu"
    first = json.loads((tmp_path / "runs/on/metrics.jsonl").read_text().splitlines()[0])
    ids, targets = draw(corpus.train, 4, 16, seed=1, step=0)
    ours = GPT.from_pretrained(tmp_path / "weights")
    assert first["train_loss"] == pytest.approx(ours.ops.cross_entropy(ours(ids), targets).item())
    assert "n_layer comes with" in one_line("train.py", *ask, "--n-layer", 2, cwd=tmp_path)
    assert "--tokenizer gpt2" in one_line(
        "train.py", "--source", trained / "text.txt", "--tokenizer", "bpe", "--vocab-size", 300,
        "--init", "weights", cwd=tmp_path)
