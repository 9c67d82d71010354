"""
Instruct: a model that goes on with any text learns to do what it is told.

Asked for the capital of France, a pretrained model may go on with three more questions, as lists of
questions do. Instruction tuning (Wei et al., 2021; Ouyang et al., 2022) shows it some thousand
instructions with their answers, as turns of a chat (beyond.chat). It is training as before, but for

    the loss    of the answer's tokens alone, and of <|im_end|> behind them: the model learns what
                to answer and when to stop, not how people ask
    packing     examples are short, so several share a window, each as if alone (beyond.packing)
    two tokens  <|im_start|> and <|im_end|>: two more rows in the tables of a model without them

    python -m beyond.instruct nano --learning-rate 3e-3 --data FILE --name taught
    python -m beyond.chat taught --tokens 100
    python -m beyond.instruct smollm2 --lora 8 --batch-size 2 --data FILE --name mine

FILE is JSON, one list, or JSONL, with the fields of Alpaca (instruction, input, output) or Dolly
(instruction, context, response). A tenth is held out: how probable does the model find the answers
that people gave, before and after (which flatters a little: best.pt is chosen on them, too), and
what does it answer itself? With --lora only a small change is learned, and merged in the end.

What mattered, with the nano of train.py and 1,100 short instructions: the rate, and when to stop.

    steps and rate       before   100, 3e-4   100, 1e-3   100, 3e-3   100, 1e-2   300, 3e-3
    perplexity            183.9        27.3        16.4        14.7        20.9        17.4
    p(<|im_end|>)          0.0%        1.0%       70.1%       84.5%       82.5%       89.5%

Each column is of best.pt. The last one's is of step 80, where the held-out loss (which, unlike the
perplexity, counts <|im_end|>) was lowest: 2.755, and 2.975 in the end. What is learned is form:
asked for Italy's capital, a nano says "The capital of Brazil is Brasília."

    for r in 3e-4 1e-3 3e-3 1e-2
    do python -m beyond.instruct nano --data FILE --learning-rate $r --name rate-$r; done
"""
import contextlib
import json
import math
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

from beyond.answers import write
from beyond.bootstrap import interval, resample
from beyond.chat import END, START, can_chat, turn
from beyond.learn import TuneConfig, learn, save_run
from beyond.lora import LoRA, LoRAConfig, digest
from beyond.packing import loss_of, nats, pack
from beyond.sheet import weights_of
from data import add_flags, checked, sha256
from model import GPT
from sample import RUNS, find_run, load_run, pick_device, stream
from tokenizer import BPETokenizer, Parser, clear_errors

import numpy as np
import torch
from tqdm import tqdm

# ------------ The examples.

def read(path):
    """The (question, answer) of each example: of a list in JSON, or of an object on each line."""
    try:
        text, pairs = Path(path).read_text(encoding="utf-8-sig"), []
        rows = json.loads(text) if text.lstrip()[:1] == "[" else [
            json.loads(line) for line in text.split("\n") if line.strip()]
        for number, row in enumerate(rows, start=1):
            parts = [row.get("instruction"), row.get("input") or row.get("context") or "",
                     row.get("output", row.get("response"))]
            if not all(isinstance(part, str) for part in parts):
                raise ValueError(f"example {number} has no text as its instruction, or none as its "
                                 f"output or response, but {', '.join(row)}")
            # encode() refuses half a character
            *question, answer = (part.encode().decode().strip() for part in parts)
            pairs.append(("\n".join(filter(None, question)), answer))
        return pairs
    except OSError:
        raise
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        raise ValueError(f"{path} has no instructions that can be read ({error!s:.150})") from None


def held_out(question):
    """A tenth, by a checksum, so that the same question is never in both parts."""
    return zlib.crc32(" ".join(question.lower().split()).encode()) % 10 == 0


def encode(words, pairs, T):
    """The examples that leave room for an answer in a window of T tokens: the ids of both turns, of
    which the first n are not the answer's. What is longer than the window is cut."""
    begin, end, found = turn(words, "assistant"), words.vocab.index(END), []
    for question, answer in pairs:
        asked = turn(words, "user", question) + begin
        if answer and len(asked) <= T:      # T + 1 ids: the last one is only a target
            ids = [*asked, *words.encode(answer), end][:T + 1]
            found.append(SimpleNamespace(question=question, answer=answer, ids=ids, n=len(asked)))
    return found


# ------------ Before and after.

@torch.no_grad()
def with_turns(model, words):
    """A model and its tokenizer, with the two tokens of a chat if they lack them. A row that is the
    mean of the others changes little of what the model does (Hewitt, 2021)."""
    if can_chat(words):
        return model, words
    more = [token for token in (START, END) if token not in words.vocab]
    words = BPETokenizer([*words.vocab, *more], words.pattern, words.kind)
    weights, new = model.state_dict(), GPT(replace(model.config, vocab_size=words.vocab_size))
    for name, dim in (("token_table", 0), ("W_vocab", 1)):
        if (W := weights.get(name)) is not None:                            # (V, C) or (C, V)
            weights[name] = torch.cat([W, *[W.mean(dim, keepdim=True)] * len(more)], dim)
    new.load_state_dict(weights)
    return new.to(model.token_table.device).eval(), words


def judge(model, words, windows, shown):
    """How well a model answers: the perplexity of answers by people, with its interval; how
    probable <|im_end|> is behind them; and what it writes, always the most probable token."""
    end = words.vocab.index(END)
    nll, targets, of = nats(model, windows).numpy()                         # (n,) each
    text = targets != end
    sums = np.stack([np.bincount(of.astype(int), x) for x in (nll * text, text)], axis=1)
    perplexity = lambda sums: np.exp(sums[..., 0] / sums[..., 1])           # (..., 2) -> (...)
    figure = float(perplexity(sums.sum(axis=0)))
    said = write(model, [e.ids[:e.n] for e in shown], 60, lambda logits: logits.argmax(dim=-1),
                 lambda ids: ids[-1] in (end, words.eot))
    said = dict(tqdm(said, "answering", len(shown), leave=False, disable=None))
    return {"perplexity": figure, "p_end": float(np.exp(-nll[~text]).sum() / max(1, (~text).sum())),
            "interval": interval(figure, perplexity(resample(sums)), len(sums)),
            "answers": ["".join(stream(words, said[i])) for i in range(len(shown))]}


def main():
    parser = Parser("Teach a run to follow instructions; show what it answers before and after.")
    parser.add_argument("run", help="name or folder of the run whose weights to start from")
    parser.add_argument("--data", metavar="FILE", required=True,
                        help="instructions and answers, .json or .jsonl, Alpaca's or Dolly's")
    parser.add_argument("--name", default="taught", help="name of the new run (default: taught)")
    parser.add_argument("--lora", type=int, metavar="RANK",
                        help="learn a change of this rank, say 8, and not the weights themselves")
    parser.add_argument("--window", type=int, metavar="T", help="tokens in a window; longer "
                        "examples are cut (default: 256, or the run's context if shorter)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no tables")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_flags(parser, TuneConfig)
    given = vars(parser.parse_args())
    with clear_errors():
        c, device, name = checked(TuneConfig, given), pick_device(given["device"]), given["name"]
        lora = given["lora"] is not None and checked(LoRAConfig, {"rank": given["lora"]})
        run, folder, pairs = find_run(given["run"]), RUNS / name, read(given["data"])
        model, words = load_run(run, device)
        L = model.config.context_length
        T = min(256, L) if given["window"] is None else given["window"]
        begun = (folder / "adapter" if lora else folder) / "last.pt"
        if folder.parent != RUNS or folder.exists() and not begun.exists():
            raise ValueError(f"{name} is taken, or is no name: give another --name")
        if not 1 <= T <= L:
            raise ValueError(f"--window takes 1 to {L:,}, the context of {run}, not {T:,}")
        if not can_chat(words) and (lora or words.kind in ("char", "word")):
            raise ValueError(f"{run} lacks the two tokens of a chat: to learn them, it takes byte "
                             "pairs, and no --lora")
        model, words = with_turns(model, words)
        examples, end = encode(words, pairs, T), words.vocab.index(END)
        learned, held = ([e for e in examples if held_out(e.question) is x] for x in (False, True))
        cut, without = sum(e.ids[-1] != end for e in examples), len(pairs) - len(examples)
        if not learned or not held:
            raise ValueError(f"{given['data']} has too few examples: {len(pairs):,}, of which "
                             f"{without:,} have no answer, or no room for one in a window")
    windows, val = (pack([(e.ids, e.n) for e in part], T, words.eot) for part in (learned, held))
    some = val[::math.ceil(len(val) * T / (c.eval_tokens or math.inf)) or 1]   # while learning
    settings = {"data": {"source": [given["data"]], "sha256": sha256(given["data"])},
                "model": asdict(model.config), "corpus": {"folder": given["data"]},
                "train": asdict(c) | {"base": str(run), "weights": weights_of(run), "window": T}}

    def batch(step, part, parts):
        # Drawn with replacement: an epoch is as many windows as there are, not each of them once.
        rows = np.random.default_rng((c.seed, step)).integers(len(windows), size=c.batch_size)
        return windows[rows[part::parts]].unbind(dim=1)                     # (B / parts, T) each

    with (clear_errors((ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)),
          contextlib.redirect_stdout(sys.stderr if given["json"] else sys.stdout)):
        print(f"{len(learned):,} examples in {len(windows):,} windows of {T} tokens, "
              f"{(windows[:, 2] >= 0).double().mean():.0%} full; {len(held):,} held out\n{cut:,} "
              f"are longer and cut; {without:,} without an answer, or room for one, are left out")
        torch.manual_seed(c.seed)
        net, more, where = model, {}, name
        if lora:
            more, where = asdict(lora) | {"digest": digest(model)}, f"{name}/adapter"
            net = LoRA(model, lora).to(device)
        learn(where, net, settings | {"train": settings["train"] | more}, words, c, batch,
              lambda net, *tensors: loss_of(model, *tensors),
              lambda net: {"val_loss": nats(model, some)[0].mean().item()}, len(windows) * T)
        if lora:
            save_run(net.merge(), words, settings, folder)
        shown, found = held[::math.ceil(len(held) / 10)], {}
        for when, path in (("before", run), ("after", folder)):
            found[when] = judge(*with_turns(*load_run(path, device)), val, shown)
        for i, e in enumerate(shown):
            said = [(when, row["answers"][i]) for when, row in found.items()]
            for who, text in (("", ""), (">", e.question), ("a person", e.answer), *said):
                print(f"{who:11}{text.strip()}".replace("\n", "\n" + " " * 11).rstrip())
        print(f"\nheld-out answers{'perplexity':>14}{'95 % interval':>24}{'p(<|im_end|>)':>16}")
        for when, row in found.items():
            between = "{:,.2f} to {:,.2f}".format(*row["interval"] or (-math.inf, math.inf))
            print(f"{when:16}{row['perplexity']:14,.2f}{between:>24}{row['p_end']:16.1%}")
        print(f"\npython -m beyond.chat {name} --tokens 100")
    if given["json"]:
        asked = [{"question": e.question, "answer": e.answer} for e in shown]
        print(json.dumps({"run": str(folder), "learned": len(learned), "held_out": len(held),
                          "cut": cut, "left_out": without, "asked": asked, **found}))


if __name__ == "__main__":
    main()
