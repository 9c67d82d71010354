"""
How fast tokenizer.py is, next to the Rust that others wrote, all in one run.

    python tests/bench_tokenizer.py           # pip install tokenizers, for the training rows

A time is the best of three: what the machine can do when nothing else disturbs it.
"""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tokenizer import (EOT, BPETokenizer, CharTokenizer, WordTokenizer,    # noqa: E402
                       build, plays)

try:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
except ImportError:
    Tokenizer = None


def seconds(*functions, repeat=3):
    """The best time of each, taken in turn, so that a busy moment troubles all of them alike."""
    best = [float("inf")] * len(functions)
    for _ in range(repeat):
        for n, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[n] = min(best[n], time.perf_counter() - start)
    return best


def train_hugging_face(texts, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def main():
    texts = plays()
    text = "".join(texts)
    megabytes = len(text.encode()) / 1e6
    print(f"{len(texts)} texts, {megabytes:.1f} MB\n\n"
          f"{'training':14}{'ours':>8}{'Hugging Face':>16}{'ratio':>8}")
    for vocab_size in 4096, 16384:
        def ours():
            BPETokenizer.train(texts, vocab_size, progress=False)
        if Tokenizer is None:
            print(f"{vocab_size:<14,}{seconds(ours)[0]:6.2f} s   (pip install tokenizers)")
        else:
            a, b = seconds(ours, lambda: train_hugging_face(texts, vocab_size))
            print(f"{vocab_size:<14,}{a:6.2f} s{b:14.2f} s{a / b:8.2f}")

    char, word = CharTokenizer.train(texts), WordTokenizer.train(texts, 8192)
    fused = BPETokenizer.train(texts, 4096, progress=False)
    raw = BPETokenizer(dict(enumerate(fused.tokens)), fused.merges, [EOT])
    raw.kernels = "raw"
    rows = {"char": char.encode, "word": word.encode, "bpe 4,096, written out": raw.encode,
            "bpe 4,096, twin": fused.encode,
            "the same in tiktoken itself": fused.twin.encode_ordinary,
            "bpe 4,096, twin, as a stream": lambda text: list(fused.encode_iterable([text]))}
    try:
        gpt2 = build("gpt2")
        rows |= {"gpt2": gpt2.encode, "gpt2 in tiktoken itself": gpt2.encoding.encode_ordinary}
    except OSError as error:
        print(f"\n{error}")
    print(f"\n{'encoding':30}{'MB/s':>8}")
    times = seconds(*[lambda encode=encode: encode(text) for encode in rows.values()])
    for name, time_ in zip(rows, times):
        print(f"{name:30}{megabytes / time_:8.1f}")


if __name__ == "__main__":
    main()
