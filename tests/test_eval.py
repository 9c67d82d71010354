"""The report's figures against direct computations."""
import io
import json
import math
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import eval as evaluation
from batches import draw
from checkpoint import load_run
from conftest import TEXT, one_line
from data import DataConfig, corpus_hash, load_corpus, prepare
from model import GPT, GPTConfig
from ngram import NGram
from sample import SampleConfig, generate, picker


def ask(*arguments, cwd):
    """main() in the folder cwd: what it prints, stdout and stderr."""
    argv, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["eval.py", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        try:
            evaluation.main()
        finally:
            sys.argv = argv
    return out.getvalue(), err.getvalue()


def no_number(name):
    raise AssertionError(f"{name} is not JSON")


def asked(*arguments, cwd):
    """The same with --json, as a dict."""
    return json.loads(ask(*arguments, "--json", cwd=cwd)[0], parse_constant=no_number)


@pytest.fixture(scope="module")
def report(trained):
    return asked("runs/first", cwd=trained)


def corpus_of(folder):
    return load_corpus(next((folder / "corpora").iterdir()))


def one_window_at_a_time(model, ids):
    """Logits (n, V) in float64 and targets (n,), by windows of 16."""
    ids = torch.from_numpy(np.asarray(ids).astype("int64"))
    with torch.no_grad():
        logits = [model(ids[None, start:start + 16][:, :len(ids) - 1 - start])[0]
                  for start in range(0, len(ids) - 1, 16)]
    return torch.cat(logits).double(), ids[1:]


def test_figures_against_pytorch_one_window_at_a_time(trained, report):
    model, tokens = load_run(trained / "runs/first")
    val = corpus_of(trained).val
    logits, targets = one_window_at_a_time(model, val)
    n = len(targets)
    loss = F.cross_entropy(logits, targets).item()
    text = tokens.decode(val)
    assert report["tokens"] == n == len(val) - 1
    assert report["loss"] == pytest.approx(loss, rel=1e-6)
    assert report["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert report["bits_per_byte"] == pytest.approx(
        loss * n / math.log(2) / len(text.encode()), rel=1e-6)
    assert report["bits_per_character"] == pytest.approx(
        loss * n / math.log(2) / len(text), rel=1e-6)
    right = (logits.argmax(-1) == targets).double()
    assert report["accuracy"] == pytest.approx(right.mean().item())
    rank = (logits > logits.gather(1, targets[:, None])).sum(-1)
    assert report["top5_accuracy"] == pytest.approx((rank < 5).double().mean().item())
    sure, guess = torch.softmax(logits, -1).max(-1)
    gaps = [((guess == targets).double() - sure)[(sure * 15).long() == m].sum().abs().item()
            for m in range(15)]
    assert report["calibration_error"] == pytest.approx(sum(gaps) / n, rel=1e-5)


def test_the_same_as_training_measured(trained, report):
    last = json.loads((trained / "runs/first/metrics.jsonl").read_text().splitlines()[-1])
    assert report["loss"] == pytest.approx(last["val_loss"], rel=1e-6)
    assert report["bits_per_byte"] == pytest.approx(last["val_bits_per_byte"], rel=1e-6)
    assert report["accuracy"] == pytest.approx(last["val_accuracy"])


def test_a_deleted_corpus_is_prepared_again(trained, report, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "corpora")
    assert asked("runs/first", cwd=tmp_path) == report


# ------------------------------------------------------------------------------------------
# Several runs, whose weights nobody trained: a and b on characters, c on byte pairs, and flat,
# which gives every token the same chance.

LONG = "\n".join(f"{n} green bottle{'s' * (n != 1)} hanging on caf\u00e9 {n * n % 97}'s wall,"
                 for n in range(1300))


def make_run(folder, name, seed, settings, flat=False):
    """A run as train.py leaves it, with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        corpus = load_corpus(prepare(DataConfig(**settings)))
    torch.manual_seed(seed)
    c = GPTConfig(vocab_size=corpus.tokenizer.vocab_size, context_length=16, n_layer=1, n_head=1,
                  n_embd=8, zero_init=False)
    model = GPT(c)
    with torch.no_grad():
        model.W_vocab.mul_(0 if flat else 20)
    run = folder / "runs" / name
    run.mkdir(parents=True)
    corpus.tokenizer.save(run / "tokenizer.json")
    torch.save({"model_config": asdict(c), "model": model.state_dict()}, run / "last.pt")
    (run / "config.json").write_text(json.dumps({
        "data": asdict(DataConfig(**settings)), "model": asdict(c), "train": {},
        "corpus": {"folder": str(corpus.folder), "sha256": corpus_hash(corpus)}}))
    return corpus


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    (folder / "long.txt").write_text(LONG, encoding="utf-8")
    chars = dict(source=("long.txt",), val_fraction=0.5)
    for name, seed in (("a", 1), ("b", 2)):
        make_run(folder, name, seed, chars)
    make_run(folder, "c", 3, chars | dict(tokenizer="bpe", vocab_size=257))
    make_run(folder, "flat", 4, chars, flat=True)
    return folder


def corpus_of_a(several):
    config = json.loads((several / "runs/a/config.json").read_text())
    return load_corpus(several / config["corpus"]["folder"])


@pytest.fixture(scope="module")
def table(several):
    arguments = ["runs/a", "runs/b", "runs/c", "--tokens", 60, "--ngram", 2]
    return ask(*arguments, cwd=several)[0], asked(*arguments, cwd=several)


def test_table_and_json_have_the_same_numbers(several, table):
    text, found = table
    lines = text.splitlines()
    for a in found["rows"]:
        i = next(i for i, line in enumerate(lines) if line.startswith(a["model"] + " "))
        shown = lines[i][lines[i].index("  "):].split()
        kinds = (("loss", ".4f"), ("perplexity", ",.3f"), ("bits_per_byte", ".4f"),
                 ("bits_per_character", ".4f"), ("accuracy", ".2%"), ("top5_accuracy", ".2%"),
                 ("calibration_error", ".2%"))
        assert shown == [format(a[key], form) for key, form in kinds]
        if a["model"].startswith("runs/"):
            for k in (0, 1):
                assert lines[i + 1 + k].split()[-7:] == [
                    format(a["intervals"][key][k], form) for key, form in kinds]
        if d := a["difference"]:
            bounds = f"{d['interval'][0]:+.4f} to {d['interval'][1]:+.4f}"
            assert any(line.startswith(a["model"] + " ") and f"{d['bits_per_byte']:+.4f}" in line
                       and bounds in line for line in lines[i + 1:])
        if o := a["overfitting"]:
            assert any(f"{o['train_loss']:.4f}" in line and f"{o['gap']:+.4f}" in line
                       for line in lines[i + 1:])
        if m := a["memorised"]:
            assert f"[{m['copied']}]" in text
    assert ask("runs/a", "runs/b", "runs/c", "--tokens", 60, "--ngram", 2, cwd=several)[0] == text


def test_rows_are_sorted_and_measured_alike_alone_or_together(several, table):
    rows = {a["model"]: a for a in table[1]["rows"]}
    bits = [a["bits_per_byte"] for a in table[1]["rows"]]
    assert bits == sorted(bits) and len(rows) == 3 + 2 * 3 == len(bits)
    alone = asked("runs/b", "--tokens", 0, "--ngram", 0, cwd=several)
    for key in ("loss", "calibration_error", "intervals", "overfitting"):
        assert alone[key] == rows["runs/b"][key]
    assert alone["memorised"] is None and rows["runs/b"]["memorised"]["copied_characters"] > 0


def test_differences_are_to_the_best_and_paired(several, table):
    rows = table[1]["rows"]
    best = next(a for a in rows if a["model"].startswith("runs/"))
    assert best["difference"] is None and table[1]["run"] == best["model"]
    for a in rows:
        d = a["difference"]
        if a is best:
            continue
        assert d["than"] == best["model"]
        assert d["bits_per_byte"] == a["bits_per_byte"] - best["bits_per_byte"]
        assert d["interval"][0] <= d["bits_per_byte"] <= d["interval"][1]
    shutil.copytree(several / "runs/a", several / "runs/twin")
    rows = asked("runs/a", "runs/twin", "--tokens", 0, "--ngram", 0, cwd=several)["rows"]
    assert rows[-1]["difference"] == {"than": "runs/a", "bits_per_byte": 0.0, "interval": [0, 0]}
    assert "could be luck" in ask("runs/a", "runs/twin", "--tokens", 0, "--ngram", 0,
                                  cwd=several)[0]


def test_runs_on_different_texts_are_not_compared(several):
    make_run(several, "other", 1, dict(source=("long.txt",), val_fraction=0.3))
    out, _ = ask("runs/a", "runs/other", "--tokens", 0, "--ngram", 0, cwd=several)
    assert "measured on another text" in out


def test_texts_of_the_same_size_are_still_two(several):
    """With other figures, and nothing else."""
    swapped = str.maketrans("0123456789", "1234567890")
    (several / "swapped.txt").write_text(LONG.translate(swapped), encoding="utf-8")
    make_run(several, "swapped", 1, dict(source=("swapped.txt",), val_fraction=0.5))
    none = ["--tokens", 0, "--ngram", 0]
    found = asked("runs/a", "runs/c", "runs/swapped", *none, cwd=several)
    rows = {row["model"]: row for row in found["rows"]}
    assert rows["runs/a"]["bytes"] == rows["runs/swapped"]["bytes"]
    for a, b, same in (("a", "c", True), ("a", "swapped", False), ("c", "swapped", False)):
        found = asked(f"runs/{a}", f"runs/{b}", *none, cwd=several)["rows"]
        differ = [row for row in found if row["model"].startswith("runs/")][1]["difference"]
        assert (differ is not None) == same


def test_one_text_whatever_separates_its_documents(several):
    """Characters put two line ends between two, byte pairs a token that is no text."""
    texts = [f"{n} bottles\n\nfall" for n in range(200)]
    for n, text in enumerate(texts):
        (several / f"part{n}.txt").write_text(text)
    hashes = set()
    for settings in ({}, dict(tokenizer="bpe", vocab_size=300), dict(tokenizer="word")):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(several)
            corpus = load_corpus(prepare(DataConfig(source=("part*.txt",), **settings)))
        assert corpus.meta["train"]["unknown"] == 0 and corpus.meta["train"]["documents"] > 1
        hashes.add(evaluation.text_hash(corpus.tokenizer, corpus.train, block=7))
    assert len(hashes) == 1


def test_rows_with_unknown_words_are_marked(several):
    make_run(several, "words", 1, dict(source=("long.txt",), val_fraction=0.5, tokenizer="word",
                                       vocab_size=20))
    ask_for = ["runs/a", "runs/words", "--tokens", 0, "--ngram", 1]
    (out, _), found = ask(*ask_for, cwd=several), asked(*ask_for, cwd=several)["rows"]
    assert len(found) == 6
    for row in found:
        unknown = "word" in row["model"]
        assert (row["unknown"] > 0.05) == unknown and row["text"].startswith("validation split of")
        assert (f"{row['model']} * " in out) == unknown
        assert row["difference"] is not None or row is next(
            row for row in found if row["model"].startswith("runs/"))
    assert "flatters the rows marked *" in out


def test_shares_end_at_0_and_at_100_percent(several):
    run = SimpleNamespace(stretch=np.arange(1000) // 20, counts={"bytes": 1, "characters": 1})
    rng = np.random.default_rng(1)
    right = rng.random(1000) < np.repeat(rng.random(50) < 0.98, 20)
    row = evaluation.measure("", np.stack([np.ones(1000), right, right, right], axis=1), run)
    ends = [end for key in evaluation.SHARES for end in row.intervals[key]]
    assert all(0 <= end <= 1 for end in ends) and 1 in ends and 0 in ends


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_token(several):
    """Whether the tokens are characters, byte pairs or bytes."""
    make_run(several, "flat-bytes", 5, dict(source=("long.txt",), val_fraction=0.5,
                                            tokenizer="bpe", vocab_size=257), flat=True)
    found = asked("runs/flat", "runs/flat-bytes", "--tokens", 0, "--ngram", 0, cwd=several)
    sizes = {}
    for a in found["rows"]:
        V = load_run(several / a["model"])[1].vocab_size if "runs" in a["model"] else (
            int(a["model"].split()[-1]))
        sizes[a["model"]] = V
        assert a["bits_per_byte"] == pytest.approx(math.log2(V) * a["tokens"] / a["bytes"])
        assert a["perplexity"] == pytest.approx(V) and a["loss"] == pytest.approx(math.log(V))
    assert sizes["runs/flat-bytes"] == 257 and sizes["runs/flat"] < 60
    assert {a["tokens"] for a in found["rows"]} == {len(LONG[len(LONG) // 2:]) - 1, len(
        LONG[len(LONG) // 2:].encode()) - 1}
    nothing = found["rows"][-1]
    assert nothing["accuracy"] == pytest.approx(1 / 257)
    assert nothing["top5_accuracy"] == pytest.approx(5 / 257)
    assert nothing["calibration_error"] == pytest.approx(0, abs=1e-12)


def windows_of_training(corpus, tokens):
    """As many as fill the validation split, of those that training draws: ids and targets."""
    n_windows = min(math.ceil((len(corpus.val) - 1) / 16), len(corpus.train) // 16 - 1)
    batches = [draw(tokens, 8, 16, 1, step) for step in range(math.ceil(n_windows / 8))]
    return (torch.cat(x)[:n_windows] for x in zip(*batches))


def test_ngram_rows_are_what_ngrams_say(several, table):
    corpus = corpus_of_a(several)
    ngram = NGram(corpus.train, corpus.tokenizer.vocab_size, 2)
    _, p = (x[:-1] for x in ngram.distributions(ngram.places(corpus.val)[:, 1:]))
    targets = corpus.val[1:].astype(int)
    found = next(a for a in table[1]["rows"] if a["model"].startswith("2-gram, char"))
    right = p[np.arange(len(targets)), targets]
    assert found["loss"] == pytest.approx(-np.log(right).mean())
    # Where guesses are equally likely, any of them may be the first.
    for key, n in (("accuracy", 1), ("top5_accuracy", 5)):
        surely = ((p >= right[:, None]).sum(1) <= n).mean()
        perhaps = ((p > right[:, None]).sum(1) < n).mean()
        assert surely <= found[key] <= perhaps < surely + 0.1
    _, places = windows_of_training(corpus, np.arange(len(corpus.train)))
    train_loss = -np.log(ngram.probabilities(corpus.train)[1])[places].mean()
    assert found["overfitting"]["train_loss"] == pytest.approx(train_loss)


def test_ngrams_know_what_stands_before_a_window():
    """All but those at the very beginning of the text are scored as in the whole of it."""
    train = np.random.default_rng(1).integers(0, 3, 300)
    ngram, starts = NGram(train, 3, 5), np.array([283, 4, 0, 100])
    nats = evaluation.judge_learned_ngrams(ngram, train, starts, 16)
    whole = -np.log(ngram.probabilities(train))
    for row, start in enumerate(starts):
        known = nats[:, row * 16:row * 16 + 16][:, 4 * (start == 0):]
        assert known == pytest.approx(whole[:, start + 1:start + 17][:, -known.shape[1]:])


def test_a_large_vocabulary_has_no_guesses(several):
    ngram = NGram(np.arange(3000), 3000, 2)
    judged = evaluation.judge_ngrams(ngram, np.arange(100))
    assert np.isfinite(judged[..., 0]).all() and np.isnan(judged[..., 1:]).all()
    judged = evaluation.judge_ngrams(NGram(np.arange(2000), 2000, 2), np.arange(100))
    assert (judged[1, :, 1] == 1).all()
    a = evaluation.measure("3", np.full((50, 4), np.nan), SimpleNamespace(
        stretch=np.arange(50), counts={"bytes": 1, "characters": 1}))
    assert a.figures["accuracy"] is None and a.intervals["accuracy"] is None


# ------------------------------------------------------------------------------------------
# By heart.


def test_the_training_loss_is_of_windows_that_training_draws(several, table):
    model, _ = load_run(several / "runs/a")
    corpus = corpus_of_a(several)
    ids, targets = windows_of_training(corpus, corpus.train)
    with torch.no_grad():
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).item()
    found = next(a for a in table[1]["rows"] if a["model"] == "runs/a")
    gap = found["overfitting"]
    assert gap["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert gap["gap"] == found["loss"] - gap["train_loss"]
    assert gap["interval"][0] < gap["gap"] < gap["interval"][1]


def test_what_a_model_has_learned_by_heart_shows():
    """Its training text surprises it half as much."""
    rng = np.random.default_rng(1)
    sums = np.stack([rng.normal(200, 5, 100), np.zeros(100), np.zeros(100), np.full(100, 100)], 1)
    by_heart = evaluation.overfitting(sums, rng.normal(1, 0.5, 10_000))
    assert by_heart["gap"] == pytest.approx(1, abs=0.05) and by_heart["interval"][0] > 0.9
    nothing = evaluation.overfitting(sums, rng.normal(2, 0.5, 10_000))
    assert nothing["interval"][0] < 0 < nothing["interval"][1]


def test_two_texts_are_not_resampled_as_if_they_were_one():
    """Equally hard, stretch by stretch; but only by chance, as they are different texts."""
    level = np.random.default_rng(1).normal(2, 0.5, 100)
    sums = np.stack([100 * level, np.zeros(100), np.zeros(100), np.full(100, 100)], 1)
    low, high = evaluation.overfitting(sums, np.repeat(level, 100))["interval"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2) * level.std() / 10, rel=0.15)


def test_a_copied_sample_is_found(several, tmp_path):
    (tmp_path / "copied.txt").write_text("No. " + LONG[2000:2300], encoding="utf-8")
    found = asked("runs/a", "--ngram", 0, "--sample", tmp_path / "copied.txt", cwd=several)
    m = found["memorised"]
    assert LONG[2000:2300].strip() in m["copied"] and m["copied_characters"] > m["honest_longest"]
    out, _ = ask("runs/a", "--ngram", 0, "--sample", tmp_path / "copied.txt", cwd=several)
    assert "it copies" in out and f"{tmp_path / 'copied.txt'}, beside what runs/a has read" in out
    assert "wrote" not in out


def test_what_a_model_writes_is_drawn_from_its_own_probabilities(several):
    """With the seed that sample.py has for its first text, on whatever device."""
    model, tokens = load_run(several / "runs/a")
    run = SimpleNamespace(model=model, tokens=tokens)
    start = tokens.separator
    pick = picker(SampleConfig(temperature=1.0, seed=1), [start])
    ids = list(generate(model, start, 50, pick))
    assert evaluation.sample_of(run, 50) == tokens.decode(ids).encode()


# ------------------------------------------------------------------------------------------
# Other texts, other corpora, pictures, mistakes.


def test_any_text(several, tmp_path):
    text = "Six bottles \u00e0 la caf\u00e9,\r\nhanging \U0001f44b."
    (tmp_path / "mine.txt").write_bytes(text.encode())
    found = asked("runs/a", "--text", tmp_path / "mine.txt", "--out", tmp_path / "p.png",
                  cwd=several)
    model, tokens = load_run(several / "runs/a")
    text = text.replace("\r", "")
    logits, targets = one_window_at_a_time(model, tokens.encode(text))
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
    assert (found["characters"], found["bytes"]) == (len(text), len(text.encode()))
    assert found["overfitting"] is None and found["memorised"] is None
    assert found["intervals"]["loss"] is None and len(found["rows"]) == 8
    out, _ = ask("runs/a", "--text", tmp_path / "mine.txt", "--out", tmp_path / "p.png",
                 cwd=several)
    assert "of the tokens are <unk>" in out and "too little text" in out


def test_a_special_token_in_a_text_is_text_like_any_other(several, tmp_path):
    (tmp_path / "mine.txt").write_text("a <|endoftext|> b")
    found = asked("runs/c", "--text", tmp_path / "mine.txt", "--ngram", 0, "--out",
                  tmp_path / "p.png", cwd=several)
    assert found["tokens"] == len("a <|endoftext|> b") - 1 and found["bytes"] == 17


def test_any_text_where_the_corpus_is_gone(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "mine.txt").write_text(TEXT, encoding="utf-8")
    out, err = ask("runs/first", "--text", "mine.txt", cwd=tmp_path)
    assert "knows nothing" in out and "gram" not in out and "no n-grams" in err
    assert ask("runs/first", "--text", "mine.txt", "--ngram", 0, cwd=tmp_path)[1] == ""
    assert (tmp_path / "eval.png").exists()


def test_a_corpus_of_another_tokenizer_is_refused(several):
    folder = next((several / "corpora").glob("long-bpe-*"))
    said = one_line("eval.py", "runs/a", "--data", folder, cwd=several)
    assert "another tokenizer (bpe, 257 tokens)" in said and "(char, " in said and "--text" in said
    said = one_line("eval.py", "runs/a", "--data", folder, "--text", "long.txt", cwd=several)
    assert "another tokenizer" in said and "--text" not in said
    shutil.copy(several / "runs/c/tokenizer.json", several / "runs/flat/tokenizer.json")
    assert "another tokenizer" in one_line("eval.py", "runs/flat", cwd=several)


def test_a_corpus_of_the_same_tokenizer_is_taken_with_a_warning(several):
    corpus = make_run(several, "later", 1, dict(source=("long.txt",), val_fraction=0.4))
    out, _ = ask("runs/a", "--data", corpus.folder, "--ngram", 1, cwd=several)
    assert "may have learned parts" in out and "wrote" not in out and "training text" not in out
    assert f"{len(corpus.val) - 1:,} tokens foretold" in out
    assert "leave one" in one_line("eval.py", "runs/a", "--data", corpus.folder, "--sample",
                                   "long.txt", cwd=several)


def test_pictures(several, tmp_path):
    ask("runs/a", "--tokens", 0, "--ngram", 0, cwd=several)
    ask("runs/a", "--tokens", 0, "--ngram", 0, "--out", tmp_path / "here.png", cwd=several)
    for path in (several / "runs/a/eval.png", tmp_path / "here.png", several / "eval.png"):
        assert path.read_bytes()[:4] == b"\x89PNG"
    assert not list((several / "runs/a").glob("*unfinished*"))
    ask("runs/a", "--tokens", 0, "--ngram", 0, "--out", tmp_path / "here.pdf", cwd=several)
    assert (tmp_path / "here.pdf").read_bytes()[:4] == b"%PDF"


def test_bad_input_is_one_line(trained, tmp_path):
    def said(*arguments):
        return one_line("eval.py", *arguments, cwd=trained)

    assert "no run" in said("runs/none") and "no run" in said("runs/first", "runs/none")
    assert "--ngram is 7" in said("--ngram", 7) and "--tokens is -1" in said("--tokens", -1)
    assert "no folder nowhere" in said("--out", "nowhere/x.png")
    assert "must end in .png" in said("--out", "picture.doc")
    assert "nowhere" in said("--text", "nowhere") and "nowhere" in said("--data", "nowhere")
    assert "leave one" in said("--text", "text.txt", "--sample", "text.txt")
    assert "--json" in said("--jsn")
    (tmp_path / "empty").write_text("\n")
    assert "no text" in said("--sample", tmp_path / "empty")
    assert "takes two" in said("--text", tmp_path / "empty")
