"""
How fast the tokenizers learn and encode, beside what others wrote in Rust.

    python tests/bench_tokenizer.py [--file my.txt]     # Shakespeare's plays; about two minutes
    python tests/bench_tokenizer.py --quick             # does it run? The figures mean nothing

Hugging Face's trainer learns byte pairs from the same text; OpenAI's tiktoken encodes by the same
vocabulary, on one thread, where ours calls it on all cores. Written out, bpe is the few lines of
encode_word; that runs once. All benchmarks need what tests/requirements.txt lists.
"""
import contextlib
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

import regex
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # the other benchmarks rely on it
import data                                                             # noqa: E402
from tokenizer import BPETokenizer, Parser, build, clear_errors         # noqa: E402


def race(heading, contestants, rounds, beside, work=None, unit="seconds", once=()):
    """Run the functions in turn, so that a busy moment slows all alike; print a Markdown table.

    For each: the median, in seconds or as work (in units) a second; and how many times as fast as
    `beside` it is, the median of the ratios within a round. One more round warms up. Those in
    `once` take long, and run in the first round only. Returns the median seconds of each.
    """
    times = {name: [] for name in contestants}
    turns = [(r, n) for r in range(-1, rounds) for n in contestants if r == 0 or n not in once]
    for r, name in tqdm(turns, heading, leave=False, disable=None):
        start = time.perf_counter()
        contestants[name]()
        times[name] += [time.perf_counter() - start] * (r >= 0)
    print(f"\n| {heading} | {unit} | times as fast as {beside} |\n|---|---:|---:|")
    for name, seconds in times.items():
        value = work / median(seconds) if work else median(seconds)
        ratio = median(b / a for a, b in zip(seconds, times[beside]))
        print(f"| {name} | {value:,.{0 if value >= 100 else 3}f} | {ratio:.2f} |", flush=True)
    return {name: median(seconds) for name, seconds in times.items()}


def train_hugging_face(texts, vocab_size):
    tokenizer, byte_level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size - 1, show_progress=False, initial_alphabet=byte_level.alphabet()))


def main():
    parser = Parser("Measure how fast the tokenizers learn and encode.")
    parser.add_argument("--file", default="shakespeare", help="text (default: the plays)")
    parser.add_argument("--quick", action="store_true", help="little text, one round")
    options = parser.parse_args()
    with clear_errors():
        texts = [text for _, text in data.documents([options.file])]
    texts, rounds = ([texts[0][:100_000]], 1) if options.quick else (texts, 3)
    text, MB = "".join(texts), sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {MB:.1f} MB; medians of {rounds}")
    for vocab_size in (4096, 16_384):
        race(f"learning {vocab_size:,} tokens", {
            "ours": lambda: BPETokenizer.train(texts, vocab_size),
            "Hugging Face": lambda: train_hugging_face(texts, vocab_size)}, rounds, "Hugging Face")
    bpe = build("bpe", texts, 4096)
    encoders = {
        "char": build("char", texts).encode, "word": build("word", texts).encode,
        "bpe, written out": lambda text: [bpe.encode_word(word.encode())
                                          for word in regex.findall(bpe.pattern, text)],
        "bpe": bpe.encode, "tiktoken": bpe.tiktoken.encode_ordinary}
    with contextlib.suppress(ValueError):       # gpt2 must be downloaded
        gpt2 = build("gpt2")
        encoders |= {"gpt2": gpt2.encode, "tiktoken, gpt2": gpt2.tiktoken.encode_ordinary}
    runs = {name: partial(encode, text) for name, encode in encoders.items()}
    race("encoding", runs, rounds, "tiktoken", MB, "MB/s", once=["bpe, written out"])


if __name__ == "__main__":
    main()
