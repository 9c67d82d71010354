"""The picture shows what was measured, and the words say what the picture shows."""
import json

import pytest
from matplotlib.figure import Figure

from beyond import curves
from conftest import inside, one_line

FALLING, FLAT = [4 - 3 * step / 100 for step in range(100)], [1.5] * 100


def a_run(folder, train, val, bits_per_nat=1.0, **settings):
    """A run folder with these losses, evaluated on its validation split every ten steps."""
    folder.mkdir()
    config = {"data": {"source": ["a"]}, "model": {"n_layer": 2}, "train": settings,
              "corpus": {"folder": "gone"}}
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "metrics.jsonl", "w") as file:
        for step, loss in enumerate(train, 1):
            m = dict(step=step, tokens=8 * step, seconds=step / 10, lr=0.1, train_loss=loss)
            if step % 10 == 0 and step // 10 <= len(val):
                m["val_loss"] = val[step // 10 - 1]
                m["val_bits_per_byte"] = bits_per_nat * m["val_loss"]
            file.write(json.dumps(m) + "\n")
    return folder


@pytest.mark.parametrize("train, val, says", [
    (FALLING, FALLING[::10], "Still learning: the validation loss fell by 0.300"),
    (FALLING, [3, 2.4, 2.41, 2.7], "Overfitting: since step 20 the validation loss has risen by 0"),
    (FLAT, [1.52] * 10, "Underfitting: text it learns from and text it has never seen are equally"),
    (FLAT, [1.9, 1.9, 1.6, 1.9, 1.9], None),            # it rose, but training did not fall
    (FALLING[:10], [2], None)])                         # one evaluation tells nothing
def test_the_words(train, val, says, tmp_path):
    said = curves.verdict(curves.read_metrics(a_run(tmp_path / "run", train, val)))
    assert said is says or said.startswith(says)


def test_the_race(tmp_path):
    """The goal is what the worse of two runs reached; a crash may cut the last line short."""
    slow = a_run(tmp_path / "slow", FLAT, [3.0, 2.5, 2.2, 2.0, 2.1])
    fast = a_run(tmp_path / "fast", FLAT[:50], [2.4, 1.9, 1.8, 1.7, 1.6])
    (fast / "metrics.jsonl").write_text((fast / "metrics.jsonl").read_text() + '{"step": 51, "lo')
    said = inside("beyond.curves", slow, fast, cwd=tmp_path)
    assert "A validation loss of 2.000 nats per token" in said and "fast: Still learning" in said
    rows = [line.split() for line in said.splitlines()[3:5]]
    assert rows == [["fast", "2.0", "20", "160"], ["slow", "4.0", "40", "320"]]


def test_different_tokenizers_race_in_bits_per_byte(tmp_path):
    """Twice the nats per token, of tokens three times as long, is the better model."""
    chars = a_run(tmp_path / "chars", FLAT, [1.5] * 10, bits_per_nat=1.2)
    words = a_run(tmp_path / "words", [3.0] * 100, [3.0] * 10, bits_per_nat=0.4)
    for run, bits in zip(curves.read_runs([chars, words])[0], (1.8, 1.2)):
        assert run[9]["val_loss"] == run[9]["train_loss"] == pytest.approx(bits)
    said = inside("beyond.curves", chars, words, "--out", "x.png", cwd=tmp_path)
    assert "drew x.png. A validation loss of 1.800 bits per byte" in said


@pytest.mark.parametrize("against, last, n", [("steps", 100, 1), ("tokens", 800, 2),
                                              ("seconds", 10, 6)])
def test_what_is_drawn(against, last, n, tmp_path, monkeypatch):
    folders = [a_run(tmp_path / f"r{i}", [i, i + 1, i] * 34, [2 + i] * 10, lr=3, seed=i)
               for i in range(n)]
    drawn = []
    monkeypatch.setattr(curves, "Figure", lambda **kw: drawn.append(Figure(**kw)) or drawn[-1])
    inside("beyond.curves", *folders, "--against", against, cwd=tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    top, below = drawn[0].axes
    training, validation = top.lines[-2:]       # of the last run; training: means of three steps
    assert validation.get_xdata()[-1] == last and set(validation.get_ydata()) == {1 + n}
    assert training.get_xdata()[0] == pytest.approx(last / 50)
    assert training.get_ydata() == pytest.approx([n - 1 + 1 / 3] * 100)
    assert len(top.lines) == 2 * n and len(below.lines) == n
    label = top.get_legend().get_texts()[-1].get_text()
    assert label == (f"r{n - 1}: seed {n - 1} ({n + 1:.3f})" if n > 1 else "r0 (2.000)")


def test_bad_input_is_one_line(tmp_path):
    run = a_run(tmp_path / "run", FLAT, [])
    assert "run has not been evaluated" in one_line("beyond.curves", run, cwd=tmp_path)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n')
    assert "metrics.jsonl is damaged" in one_line("beyond.curves", run, cwd=tmp_path)
