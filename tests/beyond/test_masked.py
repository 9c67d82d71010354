"""Attention without a mask is PyTorch's; what is hidden stays hidden; clusters are known ones."""
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import data
import train
from beyond import masked
from beyond.masked import (bag_of_words, embed, fill, full_attention, hide, k_means, loss_of, make,
                           plane, purity, with_full_attention)
from conftest import SMALL, inside, one_line
from model import GPT, GPTConfig
from sample import read_config


def lively(**settings):
    torch.manual_seed(1)
    model = make(dict(vocab_size=31, context_length=12, n_embd=16, n_head=2, ngram_rows=99)
                 | settings)
    for p in model.parameters():
        p.data.copy_(0.5 * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize("kernels", ["raw", "fused"])
@pytest.mark.parametrize("G", [1, 4])
def test_attention_is_pytorchs_without_a_mask(kernels, G):
    """Forward and backward, in float64, also with grouped queries."""
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, H, 9, 6).double().requires_grad_() for H in (4, G, G))
    ours = with_full_attention(GPTConfig(kernels=kernels)).ops.attention(q, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(ours, theirs)
    probe = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad((y * probe).sum(), [q, k, v])
                                 for y in (ours, theirs)))


@pytest.mark.parametrize("kernels", ["raw", "fused"])
def test_a_hidden_token_is_seen_nowhere_and_all_others_everywhere(kernels):
    """The config of a run keeps no causal mask either: each token read moves each logit."""
    model, ids = lively(kernels=kernels), torch.randint(30, (1, 12))
    other = ids.clone()
    other[0, 7] = (ids[0, 7] + 1) % 30
    hidden = [torch.where(torch.arange(12) == 7, 30, x) for x in (ids, other)]
    assert torch.equal(*map(model, hidden))
    moved = (model(ids) - model(other))[0].abs().amax(dim=-1)
    assert (moved > 1e-4).all()
    causal = GPT(GPTConfig(vocab_size=31, n_embd=16, n_head=2, ngram=1))
    assert torch.equal(causal(ids)[0, :7], causal(other)[0, :7])        # the road's has its mask


def test_the_proportions_of_hiding():
    """Each within five standard deviations; where nothing is asked, nothing is changed."""
    torch.manual_seed(1)
    n, mask = 400_000, 1000
    ids = torch.randint(mask, (100, n // 100))
    read, targets = hide(ids, mask)
    asked = targets >= 0
    assert torch.equal(read[~asked], ids[~asked]) and torch.equal(targets[asked], ids[asked])
    share = lambda x, p, of: abs(x.sum().item() - p * of) < 5 * (of * p * (1 - p)) ** 0.5
    m = asked.sum().item()
    assert share(asked, 0.15, n) and share((read == mask) & asked, 0.8, m)
    assert share((read == ids) & asked, 0.1 + 0.1 / mask, m)
    assert read.max() == mask and (read[asked] != mask).any()
    again = [hide(ids, mask, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(again[0][0], again[1][0])


def test_the_loss_is_of_what_was_asked():
    model, ids = lively(), torch.randint(30, (3, 12))
    read, targets = hide(ids, 30, torch.Generator().manual_seed(1))
    expected = F.cross_entropy(model(read).flatten(0, 1), targets.flatten(), ignore_index=-1)
    torch.testing.assert_close(loss_of(model, read, targets), expected)


def test_blanks_are_filled_with_the_models_own_probabilities(trained):
    words = data.load_corpus(next((trained / "corpora").iterdir())).tokenizer
    model, mask = lively(vocab_size=words.vocab_size + 1), words.vocab_size
    first, second = fill(model, words, "a [MASK]b[MASK]", k=3)
    text = [*words.encode("a"), mask, *words.encode("b"), mask]
    logits = model(torch.tensor([text]))[0, :, :mask]
    for t, found in ((1, first), (3, second)):
        p, ids = logits[t].softmax(dim=-1).sort(descending=True)
        assert [token for token, _ in found] == [
            masked.visible(words.vocab[i]) for i in ids[:3].tolist()]
        assert [share for _, share in found] == pytest.approx(p[:3].tolist())
    with pytest.raises(ValueError, match="13 tokens"):
        fill(model, words, "green bottle[MASK]")


def test_clusters():
    """Of three far clouds k-means finds them; of few points, the best of all partitions."""
    rng = np.random.default_rng(1)
    of = np.repeat([0, 1, 2], 30)
    x = rng.normal(size=(90, 5)) + 20 * np.eye(5)[of]
    assert purity(k_means(x, 3), of) == 1
    x = rng.normal(size=(8, 2))
    cost = lambda c: sum(((x[c == j] - x[c == j].mean(0)) ** 2).sum() for j in set(c.tolist()))
    best = min(cost(np.array(c)) for c in itertools.product([0, 1], repeat=8))
    assert cost(k_means(x, 2)) == pytest.approx(best)
    assert purity(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 2])) == 0.8
    x = rng.normal(size=(50, 4)) * [9, 5, 1, 1]
    values, vectors = np.linalg.eigh(np.cov(x.T))       # PCA, by the covariance
    expected = (x - x.mean(0)) @ vectors[:, [3, 2]]
    assert np.abs(plane(x)) == pytest.approx(np.abs(expected))
    assert bag_of_words([[0, 0, 1], [0, 2]], 3) == pytest.approx(np.log([
        [1, 2, 1], [1, 1, 2]]) * np.log(2))             # 0, in both, tells nothing


def test_an_embedding_is_the_mean_of_what_the_norm_returns():
    model, ids = lively(), np.random.default_rng(1).integers(30, size=20).tolist()
    kept = []
    model.norm.register_forward_hook(lambda _, inputs, y: kept.append(y[0]))
    with torch.no_grad():
        model(torch.tensor([ids[:12]])), model(torch.tensor([ids[12:]]))
    assert embed(model, [ids])[0] == pytest.approx(torch.cat(kept[:2]).mean(dim=0).numpy())


@pytest.mark.slow
def test_the_command_line(trained, tmp_path, monkeypatch):
    """Ten documents or more, of which one is held out whole, and its parts are the only scenes."""
    monkeypatch.setattr(train, "draw_curve", lambda *_: None)
    (tmp_path / "plays").mkdir()
    for i in range(40):
        text = "".join(f"# SCENE {j}\n" + f"play {i} says {'abcdefghij'[i % 10] * 9}. " * 50 + "\n"
                       for j in range(3))
        (tmp_path / f"plays/{i}.txt").write_text(text)
    flags = ["--source", "plays", *SMALL, "--steps", 20, "--eval-every", 20]
    out = inside("beyond.masked", *flags, cwd=tmp_path)
    assert "12 scenes of 4 documents" in out and "the largest document" in out and "25.0%" in out
    assert (tmp_path / "masked.png").stat().st_size > 5000
    assert read_config(tmp_path / "runs/masked")["model"]["chapter"] == "beyond.masked"
    filled = inside("beyond.masked", "pl[MASK]y", *flags, cwd=tmp_path)     # no second training
    assert filled.startswith("\npl[MASK]y\n    ") and filled.count("%") == 5
    assert "chapter" in one_line("sample.py", "masked", cwd=tmp_path)
    inside("train.py", *flags, "--name", "gpt", cwd=tmp_path)
    assert "\ngpt " in inside("beyond.masked", "--compare", "gpt", *flags, cwd=tmp_path)
    other = [*flags[:-4], "--tokenizer", "bpe", "--vocab-size", 300, "--compare", "gpt"]
    assert "another tokenizer" in one_line("beyond.masked", *other, cwd=tmp_path)
