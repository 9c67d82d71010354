"""Shared prefixes, batches and padding change no number: against the model read text by text."""
import pytest
import torch

from beyond import answers
from conftest import inside, one_line
from model import ARCHS, GPT, GPTConfig
from sample import SampleConfig, generate, picker

SIZES = dict(vocab_size=50, context_length=40, n_layer=2, n_head=4, n_embd=32, ngram_rows=100)


def random_model(arch):
    torch.manual_seed(1)
    model = GPT(GPTConfig(**SIZES | ARCHS[arch]))
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model.eval()


def random_ids(n, generator=torch.Generator().manual_seed(1)):
    return torch.randint(50, (n,), generator=generator).tolist()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [1, 24, 1024])
@torch.no_grad()
def test_choose(arch, size, monkeypatch):
    monkeypatch.setattr(answers, "TOKENS", size)
    model = random_model(arch)
    for prefix in ([], random_ids(9)):
        questions = [random_ids(n) for n in (7, 1, 12, 3, 3)]
        options = [[random_ids(n) for n in lengths] for lengths in (
            (1, 1, 1, 1), (3, 1), (5,), (2, 2, 4), (1, 6))]
        found = dict(answers.choose(model, prefix, questions, options))
        assert sorted(found) == [0, 1, 2, 3, 4]
        for i, question in enumerate(questions):
            for log_p, option in zip(found[i], options[i], strict=True):
                text = torch.tensor([prefix + question + option])           # (1, T)
                whole = torch.log_softmax(model(text)[0], dim=-1)           # (T, V)
                theirs = whole[-len(option) - 1:-1].gather(-1, text[0, -len(option):, None])[:, 0]
                torch.testing.assert_close(log_p, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_write(arch, temperature):
    """Several texts together are those that the model writes one by one."""
    model = random_model(arch)
    lengths = (5, 5, 5) if temperature else (5, 2, 9, 5)    # drawing needs one draw a token
    prompts, n = [random_ids(k) for k in lengths], 12
    c = SampleConfig(temperature=temperature)
    done = lambda ids: len(ids) > 3 and ids[-1] % 5 == 0
    found = dict(answers.write(model, prompts, n, picker(3, c), done, B=3))
    assert sorted(found) == list(range(len(prompts)))
    for i, prompt in enumerate(prompts):
        ids = []
        pick = picker(1, SampleConfig(temperature=temperature, seed=1 + i * (temperature > 0)))
        for new, in generate(model, [prompt], n, pick):
            ids.append(new)
            if done(ids):
                break
        assert found[i] == ids


def test_interval():
    """By hand, from Wilson's formula; and of many exams of a guesser 95 % hold the truth."""
    low, high = answers.interval(0, 10)
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(3.8416 / 13.8416)
    low, high = answers.interval(5, 10)
    assert (low + high) / 2 == pytest.approx(0.5) and low == pytest.approx(0.2366, abs=1e-4)
    right = torch.distributions.Binomial(200, torch.tensor(0.25)).sample((4000,)).tolist()
    within = [low <= 0.25 <= high for low, high in (answers.interval(k, 200) for k in right)]
    assert 0.93 < sum(within) / len(within) < 0.97
    assert "not to be told from guessing (25%)" in answers.mark(55, 200, 0.25)
    assert "better than guessing" in answers.mark(80, 200, 0.25)
    assert "worse than guessing" in answers.mark(20, 200, 0.25)


def test_alone(trained):
    said = inside("beyond.answers", "first", "10 green", " bottle", "1", cwd=trained)
    rows = {line[29:]: [float(x) for x in line[:27].split()] for line in said.splitlines()[1:]}
    total, token, byte = rows[" bottle"]
    assert token == byte == pytest.approx(total / 7, abs=1e-3) and rows["1"][0] < 0
    for arguments, says in ((("nobody", "1", "1"), "nobody"), (("first", "1", ""), "empty"),
                            (("first", "1" * 20, "1"), "context")):
        assert says in one_line("beyond.answers", *arguments, cwd=trained)
