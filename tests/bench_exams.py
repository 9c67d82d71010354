"""
How many of MMLU's questions a run answers in a second, beside a plain loop over transformers.

    python -m beyond.pretrained smollm2
    python tests/bench_exams.py smollm2 --data ../shared/data/mmlu
    python tests/bench_exams.py nano --data ../shared/data/mmlu --questions 6 --rounds 1    # runs?

For a run with --arch gpt2 or llama: beyond/export.py makes of it what transformers reads. The same
questions and prompts, the letter that is the most probable. The plain loop reads each prompt from
its beginning; once as anybody would write it, once with the logits of the last position alone.
"""
import random
import tempfile
from pathlib import Path

import torch

from bench_model import ABOUT
from bench_tokenizer import race
from beyond.export import export
from beyond.mmlu import LETTERS, ask, load, prompt
from sample import find_run, load_run
from tokenizer import Parser, clear_errors

import transformers


@torch.inference_mode()
def plain(theirs, tokenizer, questions, examples, **last):
    """The letter of each question, one by one."""
    letters, found = [id for x in LETTERS for id in tokenizer.encode(" " + x)], {}      # 4
    for q in questions:
        ids = torch.tensor([tokenizer.encode(prompt(q, examples[q.subject], "letter"))])    # (1, T)
        found[q.id] = theirs(ids, use_cache=False, **last).logits[0, -1, letters].argmax().item()
    return found


def ours(model, tokenizer, questions, examples):
    return {row["id"]: max(range(4), key=row["ln_p"].__getitem__)
            for row in ask(model, tokenizer, questions, examples, "letter")}


def main():
    parser = Parser("Measure how fast a run answers MMLU's questions by their letter.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--data", default="mmlu", help="folder of dev/ and test/ (default: mmlu)")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 5], help="(default: 0 5)")
    parser.add_argument("--questions", type=int, default=100, help="(default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    options = parser.parse_args()
    n, rounds = options.questions, options.rounds
    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_run(find_run(options.run))
        if any(len(tokenizer.encode(" " + letter)) > 1 for letter in LETTERS):
            raise ValueError(f"{options.run}: a letter is more than one token to its tokenizer")
        export(model, tokenizer, Path(folder))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        data = {shots: load(Path(options.data), shots) for shots in options.shots}
    print(f"{ABOUT}, {torch.get_num_threads()} threads; medians of {rounds}")
    for shots, (every, examples) in data.items():
        asked = random.Random(1).sample(every, n), examples
        a, b = ours(model, tokenizer, *asked), plain(theirs, tokenizer, *asked)
        same = sum(a[id] == b[id] for id in b)
        race(f"{n} questions, {shots} shots; the same letter for {same}", {
            "ours": lambda: ours(model, tokenizer, *asked),
            "transformers": lambda: plain(theirs, tokenizer, *asked),
            "transformers, last logits": lambda: plain(theirs, tokenizer, *asked,
                                                       logits_to_keep=1)},
            rounds, "transformers", n, "questions/s")


if __name__ == "__main__":
    main()
