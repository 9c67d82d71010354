"""Texts that share a window: each has the logits, the loss and the gradients that it has alone."""
import re

import pytest
import torch
import torch.nn.functional as F

from beyond.packing import logits_of, loss_of, nats, pack
from conftest import TEXT, inside, one_line
from model import ARCHS, GPT, GPTConfig

T = 24


def some_texts(n=9):
    """Ids and how many of them are no targets; one fills its window, two have one target."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(T + 1, 7), (2, 1), (5, 4), *((3 + i, 1 + i % 3) for i in range(n))]
    return [(torch.randint(40, (size,), generator=generator).tolist(), n) for size, n in sizes]


def lively(arch, **more):
    torch.manual_seed(1)
    model = GPT(GPTConfig(**dict(vocab_size=40, context_length=2 * T, n_layer=2, n_head=4,
                                 n_embd=16, ngram_rows=99) | ARCHS[arch] | more))
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model.double().eval()


def alone(model, texts):
    """By GPT's own forward: the logits at the targets of each text, and the targets."""
    for ids, n in texts:
        yield model(torch.tensor([ids[:-1]]))[0, n - 1:], torch.tensor(ids[n:])


def test_windows_by_hand():
    """Of two texts that do not fit together, and one that fits to either."""
    (window,), (other,) = (pack([text], 4, 9).tolist() for text in (([1, 2, 3, 4], 2), ([5, 6], 1)))
    assert window == [[1, 2, 3, 9], [-1, 3, 4, -1], [0, 0, 0, -1]]
    assert other == [[5, 9, 9, 9], [6, -1, -1, -1], [0, -1, -1, -1]]
    texts = some_texts()
    windows = pack(texts, T, 9)
    again, others = pack(texts, T, 9), pack(texts, T, 9, seed=2)
    assert torch.equal(windows, again) and not torch.equal(windows[:1], others[:1])
    assert len(windows) < len(texts) / 2
    ids, targets, of = windows.unbind(dim=1)
    for i, (text, n) in enumerate(texts):       # each is there once, whole and in one piece
        assert ids[of == i].tolist() == text[:-1]
        assert targets[of == i].tolist() == [-1] * (n - 1) + text[n:]
    assert (ids[of < 0] == 9).all() and (targets[of < 0] == -1).all()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_each_text_is_computed_as_if_alone(arch, kernels):
    """Logits, loss and gradients, in float64; read in one go, as the windows are, they differ."""
    model, texts = lively(arch, kernels=kernels), some_texts()
    ids, targets, of = pack(texts, T, 9).unbind(dim=1)
    logits, asked = logits_of(model, ids, targets, of), targets >= 0
    together = model(ids)[asked]
    for i, (expected, _) in enumerate(alone(model, texts)):
        torch.testing.assert_close(logits[of[asked] == i], expected)
        place = (of == i).nonzero()[0, 1]
        assert place == 0 or not torch.isclose(together[of[asked] == i], expected).all()
    expected = F.cross_entropy(*map(torch.cat, zip(*alone(model, texts))))
    torch.testing.assert_close(loss := loss_of(model, ids, targets, of), expected)
    weights = list(model.parameters())
    torch.testing.assert_close(*(torch.autograd.grad(x, weights) for x in (loss, expected)))


def test_the_model_is_left_as_it_was():
    model, texts = lively("modern", dropout=0.5), some_texts()
    windows, ops = pack(texts, T, 9), model.config.ops
    first, again = nats(model, windows), nats(model.train(), windows)      # without dropout, then
    assert torch.equal(first, again) and model.training and model.config.ops is ops
    assert loss_of(model, *windows.unbind(1)) != loss_of(model, *windows.unbind(1))     # with it
    for i, (logits, targets) in enumerate(alone(model.eval(), texts)):
        nll, tokens, _ = first[:, first[2] == i]
        torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="none"))
        assert tokens.tolist() == targets.tolist()


def test_the_command_line(trained, tmp_path):
    said = inside("beyond.packing", "first", "--file", "text.txt", "--window", 16, cwd=trained)
    assert "1 texts in      1 windows of 16 tokens, 100% full" in said
    (many := tmp_path / "many.txt").write_text("\n\n".join(TEXT.split()[:99]), encoding="utf-8")
    said = inside("beyond.packing", "first", "--file", many, cwd=trained)
    packed, together = map(float, re.findall(r"(\d+[.]\d+)", said))
    assert packed < 1e-5 and together > 1e-2, said
    assert "the run's context" in one_line("beyond.packing", "first", "--window", 17, cwd=trained)
