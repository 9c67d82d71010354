"""
How fast a run writes HumanEval's functions, ten at a time, one at a time, and by transformers.

    python -m beyond.pretrained smollm2 && python tests/bench_humaneval.py smollm2
    python tests/bench_humaneval.py smollm2 --quick     # does it run? The figures mean nothing

Greedy, 20 problems, each until its function ends or has 150 tokens: whoever writes ten at a time
also waits for the longest. The plain loop over transformers is for a run that beyond/export.py can
write (--arch gpt2 or llama); it ends where ours does.
"""
import tempfile
from pathlib import Path

import torch

from bench_model import ABOUT
from bench_tokenizer import race
from beyond.answers import write
from beyond.export import export
from beyond.humaneval import cut, read
from sample import SampleConfig, find_run, load_run, picker
from tokenizer import EOT, Parser, clear_errors

import transformers


def main():
    parser = Parser("Measure how fast a run writes HumanEval's functions.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--data", metavar="FOLDER", help="of the problems (default: fetch them)")
    parser.add_argument("--quick", action="store_true", help="10 tokens of 3 problems, one round")
    options = parser.parse_args()
    count, most, rounds = (3, 10, 1) if options.quick else (20, 150, 3)
    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_run(find_run(options.run))
        problems = read(options.data)[:count]
        export(model, tokenizer, Path(folder))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompts = [tokenizer.encode(problem["prompt"].rstrip()) for problem in problems]
    ends = [i for i, token in enumerate(tokenizer.vocab) if token in (EOT.encode(), b"<|im_end|>")]
    config, ended = SampleConfig(temperature=0.0), lambda ids: (
        ids[-1] in ends or cut(tokenizer.decode(ids)) != tokenizer.decode(ids))

    def ours(B):
        return dict(write(model, prompts, most, picker(B, config), ended, B))

    def one_by_one(ids):
        prompt = torch.tensor([ids])                                            # (1, T)
        stop = lambda text, _: torch.tensor([ended(text[0, len(ids):].tolist())])       # (1,)
        return theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                               max_new_tokens=most, pad_token_id=tokenizer.eot,
                               stopping_criteria=[stop])[0, len(ids):].tolist()
    written = ours(10)
    same = sum(written[i] == one_by_one(ids) for i, ids in enumerate(prompts))
    print(f"{ABOUT}, {torch.get_num_threads()} threads; medians of {rounds}; ours and theirs wrote "
          f"{same} of {count} functions alike")
    race(f"{count} functions", {
        "ours, ten at a time": lambda: ours(10), "ours, one at a time": lambda: ours(1),
        "transformers, one at a time": lambda: [one_by_one(ids) for ids in prompts]},
        rounds, "transformers, one at a time", count, "functions/s")


if __name__ == "__main__":
    main()
