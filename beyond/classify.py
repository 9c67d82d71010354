"""
Classify: a model that has read much is taught to sort texts, by some labelled ones.

The body of a GPT stays; its last matrix, which has a column for every token, is replaced by one
with a column for every label. Its products at the last token, where the model has read the whole
text, are the logits of the labels; the loss is cross-entropy, as for tokens. Is it worth it? In
one table, on texts held out:

    majority    says of everything what is most often right
    words       a bag of words (beyond/bag.py): a weight for each word and label, added up
    scratch     the model, with random weights
    full        the model as it was trained, all of its weights learning on
    lora        the same, but what is learned is a change of low rank, at ten times the rate

beyond.fewshot asks about the same texts in words, without training: --questions 1000 --shots 0 8.

    python -m beyond.classify nano                              # minutes: tweets, by sentiment
    python -m beyond.classify smollm2 --ways lora --steps 80 --batch-size 16 --learning-rate 1e-4
    python -m beyond.classify nano --task mails.csv --columns body folder --steps 100

What mattered, for `nano --ways full --steps 200`: to read whole texts, to go on, less so the rate.

    rate 3e-4, 1e-3, 3e-3   70.0 %, 71.6 %, 72.0 %    --window 24   60.8 %    50 steps   64.1 %

Each way that learns has a folder, runs/NAME/WAY, for this chapter alone: its loss is drawn there,
and after a kill the same command goes on. Papers: Improving Language Understanding by Generative
Pre-Training (Radford et al., 2018); F1 (van Rijsbergen, 1979), whose mean over labels is macro-F1.
"""
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace

from beyond.answers import batches, interval
from beyond.bag import by_words
from beyond.fewshot import asked, drawn
from beyond.learn import TuneConfig, learn
from beyond.lora import LoRA, LoRAConfig
from beyond.sheet import weights_of
from beyond.tweets import add_task_flags, read_task
from data import add_flags, checked
from model import GPT, weight
from sample import RUNS, find_run, load_run, pick_device, read_config
from tokenizer import Parser, clear_errors

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm


@dataclass
class ClassifyConfig(TuneConfig):
    """beyond/learn.py's settings, where this wants others."""
    steps: int = 600            # batches to learn from
    batch_size: int = 32        # texts in a batch
    learning_rate: float = 1e-3     # at the end of the warm-up; of lora ten times that
    warmup_steps: int = 10      # steps over which the learning rate rises from 0
    eval_every: int = 100       # steps from one evaluation to the next
    seed: int = 1               # fixes the first weights, the texts' order, which are asked about


# ---- The model.

def with_labels(model, n_labels):
    """The same model, with a column of its last matrix for each label instead of each token."""
    model.config.tie_embeddings = False
    model.W_vocab = weight(model.config.n_embd, n_labels).to(model.token_table.device)
    return model


def encode(tokenizer, task, pairs, T):
    """Each text, as fewshot asks about it ("Text: ... Sentiment:"), as (ids, number of its label);
    of a longer one the last T tokens. And how many were longer."""
    found = [tokenizer.encode(asked(task, text)) for text, _ in pairs]
    return [(ids[-T:], task.labels.index(label)) for ids, (_, label) in zip(found, pairs)], sum(
        len(ids) > T for ids in found)


def stacked(examples):
    """ids (B, longest), the place of each text's last token (B,), the labels (B,)."""
    longest = max(len(ids) for ids, _ in examples)
    return [torch.tensor(x) for x in (
        [ids + [0] * (longest - len(ids)) for ids, _ in examples],      # none sees what follows
        [len(ids) - 1 for ids, _ in examples], [label for _, label in examples])]


def logits_of(net, ids, last):
    return net(ids)[torch.arange(len(ids)), last]                           # (B, labels)


def fit(way, run, task, name, c, lora, T, device):
    """Train one way in runs/NAME/WAY, on all but a twentieth of the texts, by which the best step
    is chosen: what it says of those held out (n,), how many numbers it learned, seconds."""
    torch.manual_seed(c.seed)
    model, tokenizer = load_run(run, device)
    if way == "scratch":
        model = GPT(model.config).to(device)
    net = with_labels(model, len(task.labels))
    own = {"base": str(run), "weights": weights_of(run), "window": T}
    if way == "lora":
        own, c = own | asdict(lora), replace(c, learning_rate=10 * c.learning_rate)
        net = LoRA(model, lora).to(device)
        net.labels = model.W_vocab.requires_grad_()     # beside the change, this is learned, too
    train, long = encode(tokenizer, task, task.train, T)
    held_out, more = encode(tokenizer, task, task.held_out, T)
    train = drawn(c.seed, train, len(train))        # a table's first rows are often of one kind
    examples, chosen_by = train[len(train) // 20:], train[:len(train) // 20]
    if long + more:
        print(f"{way}: {long + more:,} texts are longer than {T} tokens: their beginnings are cut")

    def batch(step, part, parts):
        rows = np.random.default_rng((c.seed, step)).integers(len(examples), size=c.batch_size)
        return stacked([examples[i] for i in rows[part::parts]])

    @torch.no_grad()
    def say(asked):
        """The logits of all that is asked: (n, labels)."""
        net.eval()
        parts, logits = batches([len(ids) for ids, _ in asked], 4096), {}
        for part in tqdm([*parts], f"asking {way}", leave=False, disable=None):
            ids, last, _ = stacked([asked[i] for i in part])
            logits.update(zip(part, logits_of(net, ids.to(device), last).cpu()))
        net.train()
        return torch.stack([logits[i] for i in range(len(asked))])

    def evaluate(_):
        logits, y = say(chosen_by), torch.tensor([label for _, label in chosen_by])
        return {"val_loss": F.cross_entropy(logits, y).item(),
                "val_accuracy": (logits.argmax(-1) == y).double().mean().item()}

    settings = {"data": {"task": task.name, "columns": list(task.columns)},
                "model": {"chapter": "beyond.classify", "labels": task.labels}
                | asdict(model.config),
                "train": asdict(c) | own, "corpus": {"folder": task.name}}
    loss = lambda net, ids, last, labels: F.cross_entropy(logits_of(net, ids, last), labels)
    tokens = sum(len(ids) for ids, _ in examples)       # the loop counts padding, too, as read
    history = learn(f"{name}/{way}", net, settings, tokenizer, c, batch, loss, evaluate, tokens)
    n = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return say(held_out).argmax(-1).numpy(), n, history[-1]["seconds"]


# ---- What it is worth.

def macro_f1(confusion):
    """F1 of a label: 2 hits / (how many are it + how many are called it). The mean over labels,
    from counts (..., true label, said label)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)                       # (..., labels)
    return (2 * hits / np.maximum(1, confusion.sum(-1) + confusion.sum(-2))).mean(-1)


def figures(truth, said, n_labels):
    """Accuracy and macro-F1 with their 95 % intervals, and the confusion matrix."""
    confusion = np.bincount(truth * n_labels + said, minlength=n_labels ** 2)
    n, right = len(truth), int((truth == said).sum())
    others = np.random.default_rng(1).multinomial(n, confusion / n, 1000)   # as in bootstrap.py
    square = (-1, n_labels, n_labels)
    return {"questions": n, "right": right, "accuracy": right / n, "interval": interval(right, n),
            "macro_f1": float(macro_f1(confusion.reshape(square))[0]), "f1_interval": np.percentile(
                macro_f1(others.reshape(square)), [2.5, 97.5]).tolist(),
            "confusion": confusion.reshape(n_labels, n_labels).tolist()}


def main():
    parser = Parser("Teach a run to sort texts by label, and compare ways to do it.")
    parser.add_argument("run", help="name or folder of the run")
    add_task_flags(parser)
    parser.add_argument("--ways", nargs="+", metavar="WAY", choices=(
        ways := ["majority", "words", "scratch", "full", "lora"]), default=ways[:4],
        help=f"of {', '.join(ways)} (default: the first four)")
    parser.add_argument("--name", default="labels", help="name of the run (default: labels)")
    parser.add_argument("--questions", type=int, default=1000, help="texts held out that are "
                        "asked about (default: 1000; 0: all)")
    parser.add_argument("--window", type=int, default=96, metavar="T", help="tokens of a text that "
                        "are read, the last ones (default: 96)")
    parser.add_argument("--json", action="store_true", help="print JSON, an object for each way")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_flags(parser, ClassifyConfig, LoRAConfig)
    given = vars(parser.parse_args())
    with clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)):
        c, lora = checked(ClassifyConfig, given), checked(LoRAConfig, given)
        run, device = find_run(given["run"]), pick_device(given["device"])
        task, name = read_task(given["task"], given["columns"]), given["name"]
        L = read_config(run)["model"]["context_length"]
        if (RUNS / name).parent != RUNS or (RUNS / name / "config.json").exists():
            raise ValueError(f"{name} is taken, or is no name: give another --name")
        if given["questions"] < 0 or not 1 <= (T := min(given["window"], L)):
            raise ValueError("--questions takes a number from 0 on, --window from 1 on")
        task.held_out = drawn(c.seed, task.held_out, given["questions"] or None)
        truth = np.array([task.labels.index(label) for _, label in task.held_out])
        rows = []
        for way in dict.fromkeys(given["ways"]):
            n = seconds = 0
            if way == "majority":
                usual = Counter(label for _, label in task.train).most_common(1)[0][0]
                said = np.full(len(truth), task.labels.index(usual))
            elif way == "words":
                said, _, W = by_words(task)
                n = W.numel() + len(task.labels)
            else:
                said, n, seconds = fit(way, run, task, name, c, lora, T, device)
            rows.append({"way": way, "learned": n, "seconds": seconds}
                        | figures(truth, said, len(task.labels)))
        if given["json"]:
            return print(*map(json.dumps, rows), sep="\n")
        print(f"\n{len(truth):,} texts held out, of {len(task.train):,} to learn from\n\n{'':12}"
              f"{'learned':>12}{'seconds':>9}{'accuracy':>10}  95 %{'macro-F1':>20}  95 %")
        for row in rows:
            between = ["{:.1%} to {:.1%}".format(*row[key]) for key in ("interval", "f1_interval")]
            print(f"{row['way']:12}{row['learned']:12,}{row['seconds']:9.1f}{row['accuracy']:10.1%}"
                  f"  {between[0]:16}{row['macro_f1']:8.1%}  {between[1]}")
        best = max(rows, key=lambda row: row["right"])
        print(f"\n{best['way']}: a row for each true label, a column for what it says\n{'':14}"
              + "".join(f"{label[:12]:>14}" for label in task.labels))
        for label, row in zip(task.labels, best["confusion"]):
            print(f"{label[:12]:14}" + "".join(f"{count:14,}" for count in row))


if __name__ == "__main__":
    main()
