"""What is written with a draft is what the model alone would write, in text or in distribution."""
import shutil
from collections import Counter
from itertools import product

import pytest
import torch

from beyond.speculative import Reader, accept, best_k, ngram_draft, speculate, tokens_per_pass
from conftest import inside, one_line
from sample import SampleConfig, generate, load_run, picker
from test_model import lively


@pytest.mark.parametrize("draft", ["itself", "another", "counts"])
@pytest.mark.parametrize("k", [0, 1, 3, 7])
def test_greedy_text_is_the_same(k, draft):
    """However good the draft is, and also where the window slides; lively has a context of 12."""
    model = lively(qk_norm=False).eval()
    draft = {"itself": Reader(model), "another": Reader(lively(n_layer=1).eval()),
             "counts": ngram_draft([1, 2, 3] * 30, 11)}[draft]
    c, n = SampleConfig(temperature=0), 60
    alone = [i for i, in generate(model, [[3, 1, 4, 1, 5]], n, picker(1, c))]
    with torch.inference_mode():
        passes = [new for new, _ in speculate(model, draft, [3, 1, 4, 1, 5], n, k, c)]
    assert sum(passes, []) == alone and 1 <= max(map(len, passes)) <= k + 1


def test_the_distribution_is_the_models():
    """Chi-squared over all pairs of tokens; by the draft's own distribution it would be vast."""
    torch.manual_seed(1)
    V, n = 5, 6000
    p, q = (torch.rand(3, V).double() ** 3 for _ in range(2))           # of three positions
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    generator, found = torch.Generator().manual_seed(1), Counter()
    for _ in range(n):
        proposed = [row.multinomial(1, generator=generator).item() for row in q[:2]]
        text = accept(proposed, list(q[:2]), p, generator)
        if len(text) < 2:       # the model goes on from what was refused
            text += p[1].multinomial(1, generator=generator).tolist()
        found[tuple(text[:2])] += 1

    def chi2(expected):
        cells = [(found[a, b], n * expected[0, a] * expected[1, b])
                 for a, b in product(range(V), repeat=2)]
        return sum((seen - e) ** 2 / e for seen, e in cells)

    degrees = V * V - 1
    assert chi2(p) < degrees + 5 * (2 * degrees) ** 0.5 < chi2(q)


def test_a_text_has_the_distribution_of_the_model_alone():
    """The first two tokens that a model and its draft write, against the model's own figures."""
    model, draft, n = lively().eval(), Reader(lively(n_layer=1).eval()), 800
    with torch.inference_mode():
        first = torch.softmax(model(torch.tensor([[3]]))[0, -1], -1)    # (V,)
        then = torch.softmax(model(torch.tensor([[3, a] for a in range(11)]))[:, -1], -1)
        found = Counter()
        for seed in range(n):
            c = SampleConfig(temperature=1.0, seed=seed)
            found[tuple(sum((new for new, _ in speculate(model, draft, [3], 2, 2, c)), []))] += 1
    expected = n * first[:, None] * then                                # (V, V)
    seen = torch.tensor([[found[a, b] for b in range(11)] for a in range(11)])
    often = expected > 5                                                # the rest is one cell
    cells = [(seen[often], expected[often]), (seen[~often].sum(), expected[~often].sum())]
    chi2 = sum(((s - e) ** 2 / e).sum().item() for s, e in cells)
    degrees = int(often.sum())
    assert degrees > 15 and chi2 < degrees + 5 * (2 * degrees) ** 0.5


def test_the_formula_by_hand():
    assert [tokens_per_pass(0.5, 3), tokens_per_pass(1, 4), tokens_per_pass(0, 9)] == [1.875, 5, 1]
    k, gains = best_k(0.8, 0.1)
    assert gains[:3] == pytest.approx([1, 1.8 / 1.1, 2.44 / 1.2]) and gains[k] == max(gains)
    assert best_k(0.3, 2)[0] == 0           # a draft that is not worth it


def test_the_command_line(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    text = inside("sample.py", "first", "--tokens", 40, "--temperature", 0, cwd=tmp_path)
    for draft in ([], ["--draft", "first"]):
        said = inside("beyond.speculative", "first", "--tokens", 40, "--temperature", 0, *draft,
                      cwd=tmp_path)
        assert text.strip() in said and "times as fast" in said
    for said, *arguments in (("--samples", "--samples", 2), ("gone", "--draft", "gone")):
        assert said in one_line("beyond.speculative", "first", *arguments, cwd=tmp_path)
