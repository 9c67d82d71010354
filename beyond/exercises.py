"""
Exercises: write the road's functions yourself, let its tests judge, then change what you know.

Who has read a function understands it; who has written it knows it. Here are nineteen of the
road, in reading order: what each takes and returns, a hint, the tests that prove it. pytest runs
these with your function in the place of ours, one at a time, and says where it first differs.

    python -m beyond.exercises model            # what there is to write and to try in model.py
    python -m beyond.exercises --start my.py    # a file to begin with: signatures, nothing in them
    pytest --mine=my.py                         # which of yours are right, and what is wrong?

Then three experiments a file: a question, a line to change if need be, and a command. Guess first;
docs/experiments.md has what we measured. Undo a change after its run.
"""
import ast
import inspect
import textwrap
from pathlib import Path

import data
import eval as evaluation
import model
import sample
import tokenizer
import train
from tokenizer import Parser, clear_errors, write_whole

ROAD = {file.__name__: file for file in (tokenizer, data, model, sample, train, evaluation)}
STRATEGIES = "test_strategies_by_hand test_strategies_are_those_of_transformers"
EXERCISES = {       # its name: where it is, the tests that prove it, what its docstring leaves open
    "encode": (tokenizer.SymbolTokenizer, "test_characters_and_words_by_hand",
        "A text in, a list of ids out, one for each symbol of self.split(text). self.id_of maps a "
        "symbol to its id; a symbol that it has not becomes self.unk."),
    "learn_merges": (tokenizer,
        "test_merges_by_hand test_learning_is_counting_all_pairs_again_and_again",
        "A generator of ((left, right), count), until no pair is left. Begin with the slow way: "
        "count all pairs in all words, yield the best, replace it in every word, and again."),
    "encode_word": (tokenizer.BPETokenizer,
        "test_any_text_is_encoded_word_by_word_or_in_pieces_and_comes_back",
        "Bytes in, a list of ids out. self.rank maps a token (bytes) to its id; the smaller it is, "
        "the earlier was it learned. End when no two neighbours together are a token."),
    "split": (data, "test_whole_documents_are_held_out_where_they_fit",
        "A list of lengths in, an array of as many integers out: 0 if a document is held out. Go "
        "through them in a random order, and hold out each that still fits."),
    "batch": (data, "test_a_batch_depends_on_seed_and_step_alone test_each_window_once_an_epoch_and"
                    "_each_token_but_the_first_a_target_in_some",
        "Window i of all that are ever trained on is number i % n of epoch i // n, where n "
        "windows are an epoch; epoch_order() says where it starts. Take T + 1 tokens of each."),
    "every_window": (data, "test_every_window_asks_for_each_token_but_the_first_once_in_order",
        "A generator of pairs of int64 tensors (b, T), where b is B or, in the end, less. If there "
        "are tokens left over, one pair of shape (1, fewer than T) comes last."),
    "softmax": (model, "test_each_function_equals_pytorchs",
        "(..., n) in, (..., n) out. e ** 1000 is infinite: first subtract the largest number of "
        "each row. Why does that change nothing?"),
    "cross_entropy": (model, "test_cross_entropy_even_of_huge_logits",
        "Logits (..., V) and ids (...) in, one number () out. The logarithm of softmax(x) is x - "
        "ln(sum of e ** x): work that out, as softmax may give a 0, which has no logarithm."),
    "layer_norm": (model, "test_each_function_equals_pytorchs",
        "x (..., C), gain and bias (C,) in, (..., C) out. The variance is the mean of the squares "
        "(divide by C, not by C - 1); eps is added to it, under the root."),
    "rotary": (model, "test_rotary",
        "x (..., T, H, D), cos and sin (T, 1, D) in, (..., T, H, D) out. rotary_table() has each "
        "number twice, and the first half of sin with a minus: which number joins which?"),
    "ngram_hash": (model, "test_ngram_rows_by_hand test_the_first_weights_and_ngrams_by_hand",
        "(B, S) in, (B, T, n - 1) out. From a token backwards, h = h * 2_654_435_761 + id + 1, and "
        "h = 0 at first; before the text, add 0. k tokens have row (k - 2) * rows + h % rows."),
    "attention": (model, "test_attention",
        "(..., H, T, D) out. Scores, a mask, softmax, a weighted sum. Query t of T stands at "
        "position S - T + t, and sees itself and what is before. dropout(weights, p) is ours."),
    "top_k": (sample, STRATEGIES,
        "(B, V) in, (B, V) out, with -inf where a token is out. k may be larger than V."),
    "top_p": (sample, STRATEGIES,
        "(B, V) in, (B, V) out, in the order in which they came. Sort; a token stays if those "
        "before it have less than p together. The most probable always stays."),
    "min_p": (sample, STRATEGIES,
        "(B, V) in, (B, V) out. With p = 1, or more, only the most probable are left."),
    "generate": (sample, "test_a_cache_changes_no_text "
                         "test_greedy_is_transformers_and_reads_each_token_once",
        "Begin without a cache: logits are model(window), the window's last L - L // 2 tokens stay "
        "when it has more than L. Then model(unread, cache, last=1), with a Cache that has room."),
    "learning_rate": (train, "test_learning_rate_by_hand",
        "Step s of the first warmup_steps has (s + 1) / warmup_steps of c.learning_rate. Then it "
        "falls in a line, to 0 at the last; or, if c.decay is cosine, by half a wave to a tenth."),
    "step": (train.Muon, "test_optimizers",
        "Each p moves in place. mean += 0.05 (grad - mean), in self.state[p]; x = 0.05 grad + 0.95 "
        "mean, turned so that it is wide, of length 1. Five times x = 3.4445 x + (2.0315 a @ a - "
        "4.775 a) @ x, a = x @ x.T. Weight decay, then a step of 0.2 lr sqrt(the longer side)."),
    "measure": (evaluation, "test_figures_by_hand",
        "Batches of log-probabilities in, six figures out: loss, perplexity, bits_per_byte, "
        "bits_per_character, top1_accuracy, top5_accuracy. Add up first, divide in the end."),
}
RUN = ("python train.py --ngram 1 --context-length 64 --batch-size 16 --steps 300 --eval-every 50 "
       "--eval-tokens 16384 --kernels raw --name ")
EXPERIMENTS = {     # of each file: a question; a piece of code, and what to put there; a command
    "tokenizer": [
        ("Are more merges better?", "", "", RUN + "merges-4096 --vocab-size 4096"),
        ("Are single characters better tokens?", "", "", RUN + "characters --tokenizer char"),
        ("Why does a word take the space before it along?", r"| ?\p{L}+|", r"|\p{L}+|",
         RUN + "spaces-apart")],
    "data": [
        ("Does it matter in which order the windows come?",
         "T * rng.permutation(n)", "T * np.arange(n)", RUN + "in-order"),
        ("Hold out the end of each play, not whole plays: is the loss the same?",
         "len(lengths) >= 10 and lengths[i]", "len(lengths) >= 99 and lengths[i]", RUN + "ends"),
        ("What becomes of a model that has only one play to read, again and again?",
         "val_fraction=0.1, seed=1", "val_fraction=0.99, seed=1", RUN + "one-play")],
    "model": [
        ("What is the / sqrt(D) for?", " / math.sqrt(q.shape[-1])", "", RUN + "no-scale"),
        ("What if a position sees what comes after it?",
         "scores.masked_fill(~past, -math.inf)", "scores", RUN + "cheat"),
        ("Must a model be told where a token stands?",
         "x * cos + partner * sin", "x", RUN + "no-position")],
    "sample": [
        ("How wild may it write before its words are no words?", "", "",
         "python -m beyond.spelling nano --tokens 4000 --temperature 1.5"),
        ("Why not always take the most probable token?", "", "",
         "python sample.py nano --temperature 0 --tokens 400"),
        ("What is the KV cache worth?",
         "if cache is None:", "if True:", "time python sample.py nano --tokens 1000")],
    "train": [
        ("Is ten times the learning rate faster?", "", "", RUN + "fast --learning-rate 3e-2"),
        ("What is Muon worth?", "", "", RUN + "adamw --optimizer adamw"),
        ("Why does the learning rate fall?",
         'c.learning_rate * (cosine if c.decay == "cosine" else left)', "c.learning_rate",
         RUN + "no-decay")],
    "eval": [
        ("How much must the model have read to predict well?",
         "T, device = model.config.context_length,", "T, device = 16,", "python eval.py nano"),
        ("It has read Shakespeare. What does it know of the English of today?", "", "",
         "python eval.py nano --text README.md"),
        ("How far down its list must one look to find the token that came?",
         "rank == 0, rank < 5", "rank == 0, rank < 50", "python eval.py nano")],
}
ORIGINAL = {name: vars(place)[name] for name, (place, *_) in EXERCISES.items()}
FILE = {name: inspect.unwrap(f).__module__ for name, f in ORIGINAL.items()}     # such as model
DOC = {n: inspect.cleandoc(f.__doc__ or EXERCISES[n][0].__doc__) for n, f in ORIGINAL.items()}
START = """'My own GPT. pytest --mine={} judges what no longer raises NotImplementedError.'
import math
from collections import Counter, defaultdict

import numpy as np
import torch
import torch.distributed as dist

from data import epoch_order
from model import Cache, dropout
from train import RANK
"""


def stub(name):
    """Our function without its body: decorators, signature and docstring."""
    code = textwrap.dedent(inspect.getsource(ORIGINAL[name]))
    body = ast.parse(code).body[0].body[0].lineno       # its first line, often the docstring's
    doc = textwrap.indent(f'"""{DOC[name]}"""', "    ")
    return "\n".join([*code.splitlines()[:body - 1], doc, "    raise NotImplementedError\n"])


def show(file):
    """Print what there is to write in a file of the road, and what to try."""
    print(f"==== {file}.py: to write\n")
    for name in [name for name in EXERCISES if FILE[name] == file]:
        place, tests, hint = EXERCISES[name]
        method = f", a method of {place.__name__}" if inspect.isclass(place) else ""
        print(f"{name}{inspect.signature(ORIGINAL[name])}{method}")
        for text in (DOC[name], f"Hint: {hint}", f"Tests: {tests.replace(' ', ', ')}"):
            print(textwrap.indent(textwrap.fill(text, 94, break_long_words=False), "    "))
        print()
    print(f"==== {file}.py: to try\n")
    lines = Path(ROAD[file].__file__).read_text(encoding="utf-8").splitlines()
    for question, old, new, command in EXPERIMENTS[file]:
        print(question)
        if old:
            number = next(n for n, line in enumerate(lines, start=1) if old in line)
            print(f"    {file}.py, line {number}:  {old}\n    becomes  {new or '(nothing)'}")
        print(f"    {command}\n")


def main():
    parser = Parser("List exercises and experiments, or begin a file of your own.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="of the road (default: all)")
    parser.add_argument("--start", metavar="FILE", help="write this file, with all that is to do")
    options = parser.parse_args()
    with clear_errors():
        files = [name.removesuffix(".py") for name in options.files] or list(ROAD)
        if unknown := [name for name in files if name not in ROAD]:
            raise ValueError(f"{unknown[0]!r} is no file of the road; choose {', '.join(ROAD)}")
        if options.start is not None:
            if Path(options.start).exists():
                raise ValueError(f"{options.start} is there, and stays as it is: name another")
            stubs = [stub(name) for name in EXERCISES if FILE[name] in files]
            text = "\n\n".join([START.format(Path(options.start).name), *stubs])
            write_whole(options.start, lambda file: file.write(text.encode()))
            return print(f"{options.start} has {len(stubs)} functions to write. Which are right: "
                         f"pytest --mine={options.start}")
        for file in files:
            show(file)
        print(f"Compare bits per byte, not losses, with those of this run:\n    {RUN}base")


if __name__ == "__main__":
    main()
