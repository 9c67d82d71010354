"""A run exported, against what transformers computes, cuts and writes from the folder."""
import json

import pytest
import torch

from beyond.bytelevel import DIGITS_PATTERN, to_theirs
from beyond.chat import turn
from conftest import CACHE, TEXT, inside, one_line
from model import ARCHS, GPT, GPTConfig
from sample import load_run
from tokenizer import BPETokenizer, CharTokenizer, WordTokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")
CHAPTER, SIZES = "beyond.export", dict(context_length=24, n_layer=2, n_head=4, n_embd=32)


def make_run(cwd, arch, tokenizer, **more):
    """A run runs/x, with weights large enough that each shows in the logits."""
    torch.manual_seed(1)
    c = GPTConfig(**ARCHS[arch] | SIZES | dict(vocab_size=tokenizer.vocab_size) | more)
    model = GPT(c)
    for p in model.parameters():
        p.data += 0.15 * torch.randn_like(p)
    (cwd / "runs/x").mkdir(parents=True)
    settings = {key: getattr(c, key) for key in c.__dataclass_fields__}
    (cwd / "runs/x/config.json").write_text(json.dumps(
        {"data": {}, "model": settings, "train": {}, "corpus": {"folder": "none"}}))
    torch.save({"model": model.state_dict()}, cwd / "runs/x/best.pt")
    tokenizer.save(cwd / "runs/x/tokenizer.json")
    return model.eval()


def bpe():
    return BPETokenizer.train([TEXT, "naïve café"], 300)


def chat_bpe():
    """Without the byte 4, with a chat's special tokens, each digit for itself."""
    vocab = [token for token in bpe().vocab if token != b"\x04" and not token.isdigit()
             or len(token) == 1 and token != b"\x04"]
    return BPETokenizer([*vocab, b"<|im_start|>", b"<|im_end|>"], DIGITS_PATTERN)


CASES = {"gpt2": ("gpt2", bpe, {}), "llama": ("llama", chat_bpe, {}), "tied": (
    "llama", bpe, dict(tie_embeddings=True, n_kv_head=1, rotary_base=300.0)), "char": (
    "gpt2", lambda: CharTokenizer.train([TEXT]), {}), "word": (
    "llama", lambda: WordTokenizer.train([TEXT]), {})}


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_it_and_it_comes_back(case, tmp_path):
    arch, make, more = CASES[case]
    ours = make_run(tmp_path, arch, tokenizer := make(), **more)
    said = inside(CHAPTER, "x", "out", cwd=tmp_path)
    assert f"runs/x is a {arch} of Hugging Face's" in said
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    cut = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = torch.randint(tokenizer.vocab_size, (3, 24))
    with torch.no_grad():
        logits = ours(ids)
        assert logits.std() > 0.3
        torch.testing.assert_close(theirs(ids).logits, logits, atol=1e-4, rtol=0)
    for text in (TEXT, "12 naïve  cafés\n 345\t", "we'll, I'd say: 你好!", "<|endoftext|> x"):
        if text[0] == "<":      # there, special tokens are read out of text unless one says no
            assert cut.encode(text)[0] == tokenizer.eot
        else:
            assert cut.encode(text) == (ids := tokenizer.encode(text))
            assert case == "word" or case == "char" or cut.decode(ids) == text
    if case not in ("char", "word"):
        inside("beyond.pretrained", "out", "--name", "back", cwd=tmp_path)
        back, again = load_run(tmp_path / "runs/back")
        assert again.saved == tokenizer.saved
        for name, x in ours.state_dict().items():
            assert torch.equal(back.state_dict()[name], x), name


def test_a_pipeline_runs_and_chats_as_we_do(tmp_path):
    make_run(tmp_path, "llama", tokenizer := chat_bpe())
    inside(CHAPTER, "x", "out", cwd=tmp_path)
    pipe = transformers.pipeline("text-generation", str(tmp_path / "out"))
    assert pipe("green", max_new_tokens=5)[0]["generated_text"].startswith("green")
    said = [("system", "short"), ("user", "3 bottles"), ("assistant", "no")]
    ids = pipe.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in said], add_generation_prompt=True,
        return_dict=False)
    assert ids == sum((turn(tokenizer, *s) for s in said), []) + turn(tokenizer, "assistant")


@pytest.mark.skipif(not CACHE.exists(), reason="needs tiktoken's copy of GPT-2's merges")
@pytest.mark.slow
def test_the_merges_of_gpt2_are_found_again(monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
    theirs = next(path for path in CACHE.iterdir() if path.read_bytes()[:1] != b"{")
    lines = theirs.read_text(encoding="utf-8").splitlines()[1:]
    found = to_theirs(BPETokenizer.published("gpt2"))
    assert [" ".join(merge) for merge in found["model"]["merges"]] == lines
    assert [token["content"] for token in found["added_tokens"]] == ["<|endoftext|>"]


def test_what_has_no_counterpart_is_one_line(tmp_path, monkeypatch):
    make_run(tmp_path, "modern", bpe(), ngram_rows=50)
    says = lambda *flags: one_line(CHAPTER, *flags, cwd=tmp_path)   # noqa: E731
    assert "activation relu2, qk_norm True, ngram 3" in says("x", "out")
    assert "runs is there" in says("x", "runs") and "no run nobody" in says("nobody", "out")
    (tmp_path / "runs/x/best.pt").write_bytes(b"x")
    assert "best.pt is damaged" in says("x", "out")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.slow
def test_mlflow_logs_the_folder_and_loads_it_back(tmp_path, monkeypatch):
    pytest.importorskip("pandas"), pytest.importorskip("mlflow")
    import mlflow.transformers
    make_run(tmp_path, "llama", bpe())
    inside(CHAPTER, "x", "out", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    pipe = transformers.pipeline("text-generation", "out")
    mlflow.transformers.save_model(pipe, "logged", task="text-generation",
                                   pip_requirements=["transformers"])
    again = mlflow.transformers.load_model("logged")
    wanted, found = (p("green", max_new_tokens=8, do_sample=False) for p in (pipe, again))
    assert found == wanted
