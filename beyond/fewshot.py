"""
Few-shot: a model sees some solved examples in its prompt, and goes on; nothing is trained.

That this works was GPT-3's discovery (Brown et al., 2020). With one example:

    The sentiment of each text is one of: negative, neutral, positive.

    Text: my bag is still in Rome
    Sentiment: negative

    Text: thank you all
    Sentiment:

The answer is the label that is most probable next. How good it is depends on which examples were
drawn: each draw brings a bias. Most of them are negative, or the last one is, and the model says
"negative" of almost anything. But a bias can be seen: ask about a text that says nothing, such as
"N/A". What the model says of it, it says because of the prompt. Subtract that, and what is left is
due to the text. This contextual calibration takes no training (Zhao et al., 2021):

    ln p(label | examples, text) - ln p(label | examples, "N/A")

    python -m beyond.fewshot smollm2                # tweets: a table, and fewshot.png
    python -m beyond.fewshot smollm2 --shots 0 8 --draws 10 --questions 1000

Held-out texts are asked about, examples drawn from the others. A draw's 4 shots are the first of
its 8; those that do not fit into the context before a text are dropped, from the last on. Answers
are kept in RUN/exams: what was broken off goes on there, and so do more shots, draws or questions.
A mark's interval is for other questions; what other examples would do, the draws show.
"""
import hashlib
import json
from bisect import bisect_right
from collections import Counter
from itertools import accumulate, product
from pathlib import Path

from beyond.answers import choose, mark
from beyond.curves import picture
from beyond.sheet import sheet, weights_of
from beyond.tweets import add_task_flags, read_task
from sample import find_run, load_run, pick_device
from tokenizer import Parser, clear_errors, write_whole

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

NOTHING = ("N/A", "[MASK]", "")     # texts that say nothing; the authors average over these


def calibrated(log_p, of_nothing):
    """ln p of the labels after a text, (n, labels), less what it is after texts that say nothing,
    (n, nothings, labels): of those, the mean of the probabilities the labels have among them."""
    mean = torch.log_softmax(of_nothing, dim=-1).logsumexp(dim=-2) - np.log(of_nothing.shape[-2])
    return log_p - mean                                                     # (n, labels)


def asked(task, text, label=""):
    """A question; with its label, an example. The blank line stands in front, so that the ids of a
    prompt are those of its parts, side by side (see BOUNDARY in tokenizer.py)."""
    names = [name.capitalize() for name in task.columns]
    return f"\n\n{names[0]}: {text}\n{names[1]}: {label}".rstrip()


def drawn(seed, pairs, n):
    """n of the pairs, drawn by chance; who draws more gets these first."""
    return [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))[:n]]


def ask(model, prompts, ids, labels, wanted, path, settings):
    """ln p of each label for what is wanted: each (draw, m, text), a question after m examples of a
    draw. What the file has from earlier is not asked again. prompts, ids, labels hold ids."""
    rows, add = sheet(path, settings, {"prompt": [0, 0], "text": "", "log_p": [0.0] * len(labels)})
    known = {(*row["prompt"], row["text"]): row["log_p"] for row in rows}
    todo = [key for key in wanted if key not in known]
    with tqdm(total=len(todo), desc="asking", leave=False, disable=None) as bar:
        for draw, m in dict.fromkeys(key[:2] for key in todo):
            texts = [key[2] for key in todo if key[:2] == (draw, m)]
            prefix, questions = sum(prompts[draw][:m + 1], []), [ids[text] for text in texts]
            for i, found in choose(model, prefix, questions, [labels] * len(texts)):
                known[draw, m, texts[i]] = log_p = [x.sum().item() for x in found]
                add({"prompt": [draw, m], "text": texts[i], "log_p": log_p})
                bar.update()
    return known


def sit(run, task, questions=200, seed=1, device="cpu", shots=(0, 1, 4, 8, 16), draws=3):
    """Ask a run about so many held-out texts of a task, after so many examples, so often drawn."""
    if min(questions, seed, *shots) < 0 or draws < 1 or max(shots) > len(task.train):
        raise ValueError(f"--shots takes 0 to {len(task.train):,}, --draws 1 or more, others 0 on")
    model, tokenizer = load_run(run, device)
    encode, context = tokenizer.encode, model.config.context_length
    labels = [encode(f" {label}") for label in task.labels]
    if not all(labels) or len({*map(tuple, labels)}) < len(labels):
        raise ValueError(f"the tokenizer of {run} cannot tell {', '.join(task.labels)} apart")
    head = [tokenizer.eot, *encode(f"The {task.columns[1]} of each {task.columns[0]} is one of: "
                                   f"{', '.join(task.labels)}.")]
    examples = [drawn((seed, draw), task.train, max(shots)) for draw in range(draws)]
    prompts = [[head, *(encode(asked(task, *example)) for example in some)] for some in examples]
    chosen = drawn(seed, task.held_out, questions or len(task.held_out))
    ids = {text: encode(asked(task, text)) for text in (*NOTHING, *dict(chosen))}

    # A longer question leaves room for fewer examples. Without any, all draws are the same.
    nothing, usable = max(len(ids[text]) for text in NOTHING), context - max(map(len, labels))
    room = {text: usable - max(len(x), nothing) for text, x in ids.items()}
    fitting = [(text, label) for text, label in chosen if room[text] >= len(head)]
    if not fitting:
        raise ValueError(f"no question fits into the {context:,} tokens of {run}'s context")
    lengths = [[*accumulate(map(len, prompt))] for prompt in prompts]   # with 0, 1, 2 ... examples
    cells = {(k, draw): [] for k in sorted({*shots}) for draw in range(draws if k else 1)}
    for ((k, draw), cell), (text, _) in product(cells.items(), fitting):
        m = min(k, bisect_right(lengths[draw], room[text]) - 1)
        cell.append((draw if m else 0, m, text))
    wanted = dict.fromkeys((draw, m, x) for cell in cells.values() for draw, m, text in cell
                           for x in (*NOTHING, text))
    about = hashlib.sha256(repr([task.columns, task.labels, task.train]).encode()).hexdigest()
    known = ask(model, prompts, ids, labels, wanted,
                Path(run) / "exams" / f"fewshot-{Path(task.name).stem}-{about[:8]}.jsonl",
                {"exam": "fewshot", "task": about, "seed": seed, "weights": weights_of(run)})

    n, truth = len(fitting), torch.tensor([task.labels.index(x) for _, x in fitting])   # (n,)
    shares = lambda which: [x / n for x in which.bincount(minlength=len(labels)).tolist()]
    result = {"exam": "fewshot", "run": str(run), "task": task.name, "questions": n, "cells": [],
              "not_askable": len(chosen) - n, "labels": task.labels, "shares": shares(truth)}
    for (k, draw), cell in cells.items():
        log_p = torch.tensor([known[key] for key in cell])                          # (n, labels)
        of_nothing = torch.tensor([[known[*key[:2], text] for text in NOTHING] for key in cell])
        count = Counter(label for _, label in examples[draw][:k])
        row = {"shots": k, "draw": draw + 1, "fit": sum(m for _, m, _ in cell) / n,
               "examples": [count[label] for label in task.labels]}
        for name, scores in (("raw", log_p), ("calibrated", calibrated(log_p, of_nothing))):
            said = scores.argmax(dim=-1)                                            # (n,)
            row[name] = {"right": (said == truth).sum().item(), "says": shares(said)}
        result["cells"].append(row)
    return result


def draw_picture(result, path):
    """Accuracy, and the label most said, against shots: a dot for each draw, a line their mean."""
    cells, shots = result["cells"], [*dict.fromkeys(cell["shots"] for cell in result["cells"])]
    left, right = (figure := Figure(figsize=(10, 4), layout="constrained")).subplots(1, 2)
    for axes, title, of in ((left, "accuracy", lambda x: x["right"] / result["questions"]),
                            (right, "share of the label it says most", lambda x: max(x["says"]))):
        axes.axhline(max(result["shares"]), color="grey", linestyle="--", label="majority")
        for name, colour, aside in (("raw", "C0", -0.03), ("calibrated", "C1", 0.03)):
            found = [[of(cell[name]) for cell in cells if cell["shots"] == k] for k in shots]
            axes.plot([np.mean(y) for y in found], color=colour, label=name)
            for x, y in enumerate(found):
                axes.plot([x + aside] * len(y), y, "o", color=colour, alpha=0.6)
        axes.set(title=title, xlabel="examples in the prompt", ylim=(0, 1.02),
                 xticks=range(len(shots)), xticklabels=shots)
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))


def show(result):
    n, names, cells = result["questions"], ("raw", "calibrated"), result["cells"]
    percent = lambda shares: "/".join(f"{100 * x:.0f}" for x in shares)
    print(f"{n:,} held-out texts ({result['not_askable']:,} more do not fit into the context): "
          f"{percent(result['shares'])} % are {'/'.join(result['labels'])}\n\nshots  draw  "
          f"{'examples':12}" + "".join(f"{name:>12}  {'% said':12}" for name in names))
    for cell in cells:
        print(f"{cell['shots']:5}{cell['draw']:6}  {'/'.join(map(str, cell['examples'])):12}"
              + "".join(f"{cell[x]['right'] / n:12.1%}  {percent(cell[x]['says']):12}"
                        for x in names) + f"{cell['fit']:.1f} fit" * (cell["fit"] < cell["shots"]))
    print("\nMean of the draws; to guess is to say the same of all:")
    for k, name in product(dict.fromkeys(cell["shots"] for cell in cells), names):
        right = np.mean([cell[name]["right"] for cell in cells if cell["shots"] == k])
        print(f"{k:5} shots, {name:12}{mark(round(right), n, max(result['shares']))}")


def main():
    parser = Parser("How well does a run label texts, by the number of examples in its prompt?")
    parser.add_argument("run", help="name or folder of the run")
    add_task_flags(parser)
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 1, 4, 8, 16], metavar="K",
                        help="examples in the prompt (default: 0 1 4 8 16)")
    parser.add_argument("--draws", type=int, default=3, help="of examples (default: 3)")
    parser.add_argument("--questions", type=int, default=200, help="drawn (default: 200; 0: all)")
    parser.add_argument("--seed", type=int, default=1, help="of questions and draws (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.add_argument("--out", metavar="PNG", default="fewshot.png", help="the picture")
    o = parser.parse_args()
    with clear_errors():
        path, run, device = picture(o.out), find_run(o.run), pick_device(o.device)
        task = read_task(o.task, o.columns)
        result = sit(run, task, o.questions, o.seed, device, o.shots, o.draws)
        draw_picture(result, path)
        if o.json:
            return print(json.dumps(result | {"picture": str(path)}))
        show(result)
        print(f"drew {path}")


if __name__ == "__main__":
    main()
