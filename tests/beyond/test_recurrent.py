"""Cells and whole sequences are torch.nn's; a state is a cache; a stopped comparison goes on."""
import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import data
import train
from beyond import recurrent
from beyond.ngram import NGram, rows_of
from beyond.recurrent import CELLS, fused_sequence, gradient_by_distance, make, sequence
from conftest import SMALL, inside, one_line
from model import Cache, GPTConfig
from sample import SampleConfig, generate, picker

THEIRS = {"rnn": (nn.RNN, nn.RNNCell), "gru": (nn.GRU, nn.GRUCell), "lstm": (nn.LSTM, nn.LSTMCell)}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(train, "draw_curve", lambda *_: None)


def small(cell, kernels="fused", **settings):
    """Weights are large enough for errors to show, and what blocks add is not zero."""
    torch.manual_seed(1)
    settings = {"n_layer": 2, "ngram_rows": 99} | settings
    model = make(cell, dict(vocab_size=40, context_length=12, n_embd=16, n_head=2, kernels=kernels,
                            **settings))
    for p in model.parameters():
        p.data.copy_(0.5 * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize("run", [sequence, fused_sequence])
@pytest.mark.parametrize("cell", CELLS)
def test_cells_and_sequences_are_pytorchs(cell, run):
    """Forward and backward, from a state that is not zero, in float64."""
    torch.manual_seed(1)
    whole, step = (kind(5, 5).double() for kind in THEIRS[cell])
    x, *state = (torch.randn(shape).double().requires_grad_() for shape in (
        (7, 3, 5), *((3, 5),) * (2 if cell == "lstm" else 1)))
    weights = [p.detach().t().clone().requires_grad_() for p in whole.parameters()]
    y, ended = run(cell, x.transpose(0, 1), tuple(state), *weights)
    hidden = tuple(s[None] for s in state)
    theirs, last = whole(x, hidden if cell == "lstm" else hidden[0])
    last = last if cell == "lstm" else (last,)
    torch.testing.assert_close((y.transpose(0, 1), *(s[None] for s in ended)), (theirs, *last))
    probe = torch.randn_like(theirs)
    *ours, W_x, W_h, b_x, b_h = torch.autograd.grad(
        (y.transpose(0, 1) * probe).sum() + sum(s.sum() for s in ended), [x, *state, *weights])
    torch.testing.assert_close([*ours, W_x.T, W_h.T, b_x, b_h], [*torch.autograd.grad(
        (theirs * probe).sum() + sum(s.sum() for s in last), [x, *state, *whole.parameters()])])
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in whole.state_dict().items()})
    theirs = step(x[0], tuple(state) if cell == "lstm" else state[0])
    torch.testing.assert_close(CELLS[cell][0](x[0], tuple(state), *weights),
                               theirs if cell == "lstm" else (theirs,))


@pytest.mark.parametrize("kernels", ["raw", "fused"])
@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_is_the_whole_sequence(cell, kernels):
    """In pieces with a cache, and as sample.py writes; the window slides after 12 tokens."""
    model = small(cell, kernels)
    ids, cache = torch.randint(40, (2, 12)), Cache(model.config, 2, 12, "cpu")
    with torch.no_grad():
        pieces = [model(ids[:, a:b], cache) for a, b in ((0, 5), (5, 6), (6, 12))]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(small(cell, "raw")(ids), small(cell)(ids), rtol=1e-4, atol=1e-5)
    window = [3]
    for i, in generate(model, [window], 25, picker(1, SampleConfig(temperature=0))):
        assert i == model(torch.tensor([window]))[0, -1].argmax().item()
        window = window[7 * (len(window) == 12):] + [i]


def test_a_loss_reaches_back_as_far_as_its_gradient():
    """Of ids that occur once, the gradient of their row in the table is that of their position."""
    for cell in ("gpt", *CELLS):
        model, ids = small(cell, ngram=1), torch.randperm(40)[:11]
        norms = gradient_by_distance(model, ids[None], ids[None])
        nn.functional.cross_entropy(model(ids[None])[0, -1:], ids[-1:]).backward()
        assert norms == pytest.approx(model.token_table.grad[ids].norm(dim=-1).flip(0).tolist())


def test_a_stopped_run_goes_on_to_the_same_bits(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus, c = data.load_corpus(next((trained / "corpora").iterdir())), train.TrainConfig(
        steps=8, eval_every=3, eval_tokens=500, batch_size=2)
    shape = GPTConfig(28, 16, 1, 2, n_embd=16, ngram_rows=50)
    stop = lambda model: os.kill(os.getpid(), signal.SIGINT) or {"val_loss": 1.0}
    run = lambda name, c=c: recurrent.fit("gru", name, corpus, shape, c, "cpu")[1]
    monkeypatch.setattr(recurrent, "evaluate", lambda model, *_: stop(model))
    with pytest.raises(SystemExit) as stopped:
        run("broken")
    assert stopped.value.code == 130
    monkeypatch.setattr(recurrent, "evaluate", train.evaluate)
    whole, broken = run("whole"), run("broken")
    assert len(whole) == len(broken) == 8 and run("broken") == broken       # it is done
    a, b = (torch.load(f"runs/{name}/last.pt", weights_only=True) for name in ("whole", "broken"))
    torch.testing.assert_close((a["model"], a["optimizers"]), (b["model"], b["optimizers"]),
                               rtol=0, atol=0)
    with pytest.raises(ValueError, match="other settings"):
        run("whole", train.TrainConfig(steps=9))


@pytest.mark.slow
def test_the_comparison_and_what_it_writes(trained, tmp_path):
    flags = ["--source", trained / "text.txt", *SMALL, "--steps", 30, "--eval-every", 30]
    out = inside("beyond.recurrent", *flags, cwd=tmp_path)
    table = [line.split() for line in out[out.index("the same"):].splitlines()[1:10]]
    assert [row[:2] for row in table] == [[b, m] for b in ("tokens", "seconds") for m in (
        "gpt", "rnn", "gru", "lstm")] + [["(counted)", "5-gram"]]
    assert {row[3] for row in table[:4]} == {"1,920"} and table[0][2:] == table[4][2:]
    theirs = json.loads(inside("eval.py", "recurrent-gpt", "--json", cwd=tmp_path).splitlines()[0])
    assert table[0][-1] == f"{theirs['bits_per_byte']:.4f}"
    corpus = data.load_corpus(next(tmp_path.glob("corpora/*")))
    text = SimpleNamespace(ids=corpus.val, **corpus.meta["val"])
    counted = rows_of(NGram(corpus.train, corpus.tokenizer.vocab_size, 5), text)[5]
    assert table[-1][-1] == f"{counted['bits_per_byte']:.4f}"
    assert (tmp_path / "recurrent.png").stat().st_size > 20_000
    again = inside("beyond.recurrent", *flags, cwd=tmp_path)        # nothing is left to learn
    assert again == out[out.index("\nthe same"):]
    write = ["beyond.recurrent", "--write", "recurrent-lstm", "--prompt", "10 gr", "--tokens", 20]
    said = inside(*write, "--temperature", 0, cwd=tmp_path)
    model, words = recurrent.load(tmp_path / "runs/recurrent-lstm")
    ids = generate(model, [words.encode("10 gr")], 20, picker(1, SampleConfig(temperature=0)))
    assert said == "10 gr" + words.decode([i for i, in ids]) + "\n"
    assert "chapter" in one_line("sample.py", "recurrent-lstm", cwd=tmp_path)
    assert "sample.py" in one_line("beyond.recurrent", "--write", "recurrent-gpt", cwd=tmp_path)
    assert "other settings" in one_line("beyond.recurrent", *flags, "--seed", 2, cwd=tmp_path)
