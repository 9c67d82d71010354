"""What is drawn follows the model's probabilities, and comes again with the same seed."""
import io
import shutil

import pytest
import torch

import sample
from conftest import one_line, run
from model import GPT, GPTConfig
from sample import generate, greedy, temperature


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(t):
    """Chi-squared, 4 degrees of freedom: above 18.5 once in a thousand seeds."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    n = 20_000
    generator = torch.Generator().manual_seed(1)
    drawn = temperature(logits.expand(n, 5), t, generator)
    expected = n * torch.softmax(logits / t, dim=0)
    counts = torch.bincount(drawn, minlength=5)
    assert ((counts - expected) ** 2 / expected).sum() < 18.5


def test_greedy_takes_the_likeliest_and_temperature_nears_it():
    logits = torch.randn(100, 7)
    assert torch.equal(greedy(logits), logits.argmax(-1))
    for t in (1e-6, 1e-40):
        assert torch.equal(temperature(logits, t), logits.argmax(-1))


def test_generate_is_the_model_asked_again_and_again():
    """Past the context window too, where the model sees the end of the text only."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=13, context_length=6, n_layer=1, n_head=1, n_embd=8)).eval()
    ids = [3, 1, 4]
    for next_id in generate(model, [3, 1, 4], 20, greedy):
        assert next_id == model(torch.tensor([ids[-6:]]))[0, -1].argmax()
        ids.append(next_id)
    assert len(ids) == 23


class Bytes:
    """A tokenizer whose ids are bytes."""

    def token_bytes(self, i):
        return bytes([i])


def test_stream_waits_for_the_whole_character():
    text = "na\u00efve \U0001f44b"
    parts = list(sample.stream(Bytes(), text.encode()))
    assert "".join(parts) == text and "\ufffd" not in parts
    assert list(sample.stream(Bytes(), b"a\xf0"))[-1] == "\ufffd"


def test_the_same_seed_writes_the_same_text(trained):
    ask = ["sample.py", "first", "--tokens", 40, "--prompt", "10 green", "--seed"]
    first, again, other = (run(*ask, seed, cwd=trained)[0] for seed in (7, 7, 8))
    assert first == again != other and first.startswith("10 green") and len(first) == 49
    both, _ = run(*ask, 7, "--samples", 2, cwd=trained)
    assert first in both and other in both


def test_greedy_and_zero_temperature_agree(trained):
    ask = ["sample.py", "runs/first", "--tokens", 40]
    assert run(*ask, "--greedy", cwd=trained) == run(*ask, "--temperature", 0, cwd=trained)


def test_unseen_symbols_are_named_and_survived(trained):
    stdout, stderr = run("sample.py", "--prompt", "caf\u00e9", "--tokens", 5, cwd=trained)
    assert "never seen 'c', 'f', '\u00e9';" in stderr and stdout.startswith("caf\u00e9")


def test_bad_input_is_one_line(trained, tmp_path):
    assert "no trained model" in one_line("sample.py", cwd=tmp_path)
    assert "no run" in one_line("sample.py", "runs/none", cwd=trained)
    assert "--temperature" in one_line("sample.py", "--temperature", -1, cwd=trained)
    assert "--temperature" in one_line("sample.py", "--temprature", 1, cwd=trained)
    assert "nowhere" in one_line("sample.py", "--prompt-file", "nowhere", cwd=trained)
    assert "surrogate" in one_line("sample.py", "--prompt", "a\udcff", cwd=trained)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    best = tmp_path / "runs/first/best.pt"
    whole = best.read_bytes()
    for damaged in (b"", whole[:100], whole[:-500], b"x" * 1000):
        best.write_bytes(damaged)
        assert "best.pt is not a whole checkpoint" in one_line("sample.py", "first", cwd=tmp_path)
    torch.save({"somebody": "else's"}, best)
    assert "best.pt is not a whole checkpoint" in one_line("sample.py", "first", cwd=tmp_path)
    checkpoint = torch.load(io.BytesIO(whole), weights_only=True)
    torch.save(checkpoint | {"model": {}}, best)
    assert "does not fit this model.py" in one_line("sample.py", "first", cwd=tmp_path)
    torch.save(checkpoint | {"model_config": {"depth": 3}}, best)
    assert "does not fit this model.py" in one_line("sample.py", "first", cwd=tmp_path)
    best.write_bytes(whole)
    (tmp_path / "runs/first/tokenizer.json").write_text("{}")
    assert "tokenizer.json" in one_line("sample.py", "first", cwd=tmp_path)
