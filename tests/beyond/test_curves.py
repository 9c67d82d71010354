"""The picture shows what was measured, and the words say what the picture shows."""
import json

import pytest
from PIL import Image

import curves


def a_run(folder, train, val, every=10, **settings):
    """A run folder with these losses, one look at the validation split every so many steps."""
    folder.mkdir(parents=True)
    config = {"data": {"source": ["a"]}, "model": {"n_layer": 2},
              "train": {"seed": 1, **settings}, "corpus": {}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for step, loss in enumerate(train, 1):
        m = {"step": step, "tokens": 8 * step, "epoch": step / 40, "seconds": step / 10, "lr": 0.1,
             "train_loss": loss}
        if step % every == 0 and step // every <= len(val):
            m["val_loss"] = val[step // every - 1]
        lines.append(json.dumps(m) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


FALLING = [4 - 3 * step / 100 for step in range(100)]
FLAT = [1.5] * 100


@pytest.mark.parametrize("train, val, says", [
    (FALLING, [3, 2.8, 2.6, 2.5, 2.4, 2.3, 2.2, 2.1, 2.05, 2.0], "Still learning"),
    (FALLING, [3, 2.8, 2.6, 2.5, 2.4, 2.41, 2.43, 2.5, 2.6, 2.7], "Overfitting: since step 50"),
    (FLAT, [1.52] * 10, "Underfitting"),
    (FLAT, [1.9] * 10, None),                           # a gap, but neither rises: nothing to say
    (FLAT, [1.9] * 4 + [1.6] + [1.9] * 5, None),        # it rose, but training did not fall
])
def test_the_words(train, val, says, tmp_path):
    said = curves.verdict(curves.read_metrics(a_run(tmp_path / "run", train, val)))
    assert said is says or said.startswith(says)


def test_the_numbers_in_the_words(tmp_path):
    val = [3, 2.8, 2.6, 2.5, 2.4, 2.41, 2.43, 2.5, 2.6, 2.7]
    said = curves.verdict(curves.read_metrics(a_run(tmp_path / "run", FALLING, val)))
    assert "risen by 0.300 nats" in said
    assert curves.verdict(curves.read_metrics(a_run(tmp_path / "short", FALLING[:10], [2]))) is None


def test_the_race(tmp_path):
    slow = a_run(tmp_path / "slow", FLAT, [3.0, 2.5, 2.2, 2.0, 2.1])
    fast = a_run(tmp_path / "fast", FLAT[:50], [2.4, 1.9, 1.8, 1.7, 1.6])
    goal, (one, other) = curves.race([slow, fast])
    assert goal == 2.0 and one["step"] == 40 and other["step"] == 20 and other["seconds"] == 2.0


def test_labels_name_what_differs(tmp_path):
    folders = [a_run(tmp_path / name, FLAT, [1] * 10, **settings) for name, settings in (
        ("a", dict(steps=5, lr=1)), ("b", dict(steps=5, lr=2)))]
    assert curves.differences(folders) == ["a: lr 1", "b: lr 2"]
    assert curves.differences(folders[:1]) == ["a"]


def test_smooth_by_hand():
    cut, mean = curves.smooth(list(range(250)))         # five around each
    assert cut == 2 and mean == pytest.approx(range(2, 248))
    assert curves.smooth([1, 2, 3])[0] == 0


@pytest.mark.parametrize("against", curves.AXES)
@pytest.mark.parametrize("n", [1, 2, 6])
def test_pictures_are_whole(against, n, tmp_path):
    folders = [a_run(tmp_path / str(i), [x + i for x in FALLING], [2 + i] * 10, seed=i)
               for i in range(n)]
    curves.draw_curves(folders, tmp_path / "curves.png", against)
    picture = Image.open(tmp_path / "curves.png").convert("RGB")
    assert picture.size[0] > 900 and len(picture.getcolors(1 << 20)) > 100


def test_metrics_that_cannot_be_read(tmp_path):
    folder = a_run(tmp_path / "run", FLAT, [1] * 10)
    curves.cut_metrics(folder, 7)
    assert [m["step"] for m in curves.read_metrics(folder)] == list(range(1, 8))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')           # a crash cut it short
    assert [m["step"] for m in curves.read_metrics(folder)] == list(range(1, 8))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n')
    with pytest.raises(ValueError, match="is damaged"):
        curves.read_metrics(folder)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="no step yet"):
        curves.read_metrics(folder)


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    folder = a_run(tmp_path / "run", FLAT, [1] * 10)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/loss.png").mkdir()        # a folder in the way
    with pytest.raises(OSError, match="what was there is untouched"):
        curves.draw_curves([folder], tmp_path / "full/loss.png")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["loss.png"]
