"""
When should retrieval say that it does not know, and how does searching scale?

    python tests/bench_retrieve.py FILE     # in SQuAD's format
"""
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from beyond.retrieve import BM25, Index, read       # noqa: E402


def threshold(path):
    """The share of the question's words from which on the best chunk is believed: chosen on every
    other article, reported on the rest. Half of the questions are asked without their passage."""
    passages, questions = read(path)
    index, shares = Index(passages, None, None, None), []
    for name, text, _ in questions:
        found = index.find(text, "words")
        best = found[:1], [chunk for chunk in found if chunk.name != name][:1]
        shares.append([sum(index.bm25.share(text, chunk.text) for chunk in few) for few in best])
    shares = np.array(shares)                                           # (questions, 2)
    titles = [name.rsplit(" ", 1)[0] for name, _, _ in questions]
    half = np.array([list(dict.fromkeys(titles)).index(title) % 2 for title in titles])
    right = lambda cut, of: ((shares[half == of] >= cut) == [True, False]).mean(axis=0)
    cut = max(np.unique(shares), key=lambda cut: right(cut, 0).mean())
    answered, refused = right(cut, 1)
    print(f"threshold {cut:.3f}: with the passage {answered:.1%} are answered, without it "
          f"{refused:.1%} are refused ({sum(half)} questions)")


def scale():
    """Seconds of one question."""
    rng = np.random.default_rng(1)
    vectors, q = rng.standard_normal((1_000_000, 576), dtype=np.float32), rng.standard_normal(576)
    for n in (10_000, 100_000, 1_000_000):
        began = time.perf_counter()
        (vectors[:n] @ q.astype(np.float32)).argmax()
        print(f"product with {n:,} vectors: {time.perf_counter() - began:.4f} s")
    words = [f"w{i}" for i in range(20_000)]
    for n in (1_000, 10_000):
        texts = [" ".join(words[i] for i in rng.zipf(1.3, 80) % 20_000) for _ in range(n)]
        began = time.perf_counter()
        bm25 = BM25(texts)
        built, began = time.perf_counter() - began, time.perf_counter()
        bm25.scores("w1 w5 w50 w500 w5000")
        print(f"BM25 of {n:,} chunks: built in {built:.2f} s, asked in "
              f"{time.perf_counter() - began:.4f} s")


if __name__ == "__main__":
    threshold(sys.argv[1])
    scale()
