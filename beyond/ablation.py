"""
Ablation: from GPT-2's model to today's default, one change at a time, and what each is worth.

First comes GPT-2's model, trained as in 2019; each run after it makes one more change (a cumulative
ablation), and the last takes the n-gram tables out again. A change that likes another learning
rate must not be judged at the rate of the one before: each gets the best of three, chosen on the
last tenth of the training split, which those runs do not learn from. Then it learns from the whole
split: for as many steps as the others, and for as many seconds as GPT-2's model took for them.
Changes that seem worth less than 0.02 nats are measured with a second seed, too.

    python -m beyond.ablation                               # 60 runs, of some two minutes each
    python -m beyond.ablation --steps 200 --source my.txt   # other flags go to train.py

The runs are runs/ablation-00-gpt2 and so on; after Ctrl-C the same command goes on, and keeps what
is finished. Do nothing else on the machine meanwhile, as seconds are counted. Some changes were
made for larger models: they have little to show here.
"""
import contextlib
import json
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np

import train
from beyond.curves import draw_curves, picture, read_metrics
from data import DataConfig, add_flags, checked, load_corpus, prepare
from model import ARCHS, GPTConfig
from sample import RUNS, pick_device, read_config
from tokenizer import Parser, clear_errors, write_whole

CHANGES = (     # its name, why, and the flags that make it
    ("gpt2", "as in 2019", "--arch gpt2 --optimizer adamw --decay cosine --warmup-steps 100"
                           " --weight-decay 0.1"),
    ("no-bias", "one thing less to learn", "--no-bias"),
    ("rmsnorm", "scaling helps, centring does not", "--norm rmsnorm"),
    ("rotary", "a position is an angle: attention sees distances", "--position rotary"),
    ("qk-norm", "no query matches a key too well", "--qk-norm"),
    ("relu2", "a simpler function in the MLP", "--activation relu2"),
    ("zero-init", "blocks fade in, where they help", "--zero-init"),
    ("untied", "reading and writing a token are two tasks", "--no-tie-embeddings"),
    ("ngram", "which tokens follow which is looked up", "--ngram 3"),
    ("muon", "the whole matrix takes the step", "--optimizer muon"),
    ("schedule", "a short rise, a line down to zero, more weight decay",
     "--decay linear --warmup-steps 20 --weight-decay 0.5"),
    ("no-tables", "the default without its n-grams", "--ngram 1"),
)
FIRST_RATE = 1e-3       # GPT-2's; each change tries half and twice the rate of the one before


def settings(flags):
    """What train.py starts a run with, given these flags: every setting, by name."""
    parser = Parser(description="")
    parser.add_argument("--arch", choices=ARCHS)
    for flag in ("--data", "--device"):
        parser.add_argument(flag)
    add_flags(parser, train.TrainConfig, GPTConfig)
    given = vars(parser.parse_args([str(flag) for flag in flags]))
    return {name: value for part in (GPTConfig, train.TrainConfig)
            for name, value in asdict(checked(part, ARCHS[given["arch"]] | given)).items()}


def is_done(folder, flags):
    """Has this run, started with these flags, taken all its steps? ValueError: with others."""
    config = read_config(folder)
    found = config["model"] | config["train"] | {"data": config["corpus"]["folder"]}
    wanted = settings(flags) | {"data": flags[flags.index("--data") + 1]}
    for name in wanted.keys() - {"vocab_size"}:         # which the corpus decides on
        if found.get(name) != wanted[name]:
            raise ValueError(f"{folder} was trained with {name} {found.get(name)}, not "
                             f"{wanted[name]}: give the flags of that ablation, or delete its runs")
    return [m["step"] for m in read_metrics(folder)][-1:] == [wanted["steps"]]


def trained(name, flags):
    """The metrics of a run: a finished one is left alone, a stopped one goes on."""
    folder, flags = RUNS / f"ablation-{name}", [str(flag) for flag in flags]
    if not folder.exists() or not is_done(folder, flags):
        print(f"\n--- {folder.name}", flush=True)
        child = subprocess.Popen([sys.executable, train.__file__, "--name", folder.name,
                                  *(["--resume"] if folder.exists() else flags)])
        with contextlib.suppress(KeyboardInterrupt):    # train.py has heard it too, and saves
            child.wait()
        if child.wait():
            sys.exit(child.returncode)      # train.py has said why
    return read_metrics(folder)


def hold_out(folder):
    """A corpus beside this one, whose validation split is the last tenth of its training split."""
    corpus = load_corpus(folder)
    ids, made = np.array(corpus.train), folder.with_name(folder.name + "-tenth")
    cut = len(ids) * 9 // 10
    text = corpus.tokenizer.decode(ids[cut:].tolist())
    counts = {"documents": 1, "characters": len(text), "bytes": len(text.encode())}
    made.mkdir(exist_ok=True)
    for name, part in (("train", ids[:cut]), ("val", ids[cut:])):
        write_whole(made / f"{name}.bin", lambda file, part=part: file.write(part.tobytes()))
        corpus.meta[name] = counts | {"tokens": len(part)}
    corpus.tokenizer.save(made / "tokenizer.json")
    write_whole(made / "meta.json", lambda file: file.write(json.dumps(corpus.meta).encode()))
    return made


def climb(corpus, extra):
    """Train everything. For each change: its name, why, learning rate; the losses after the same
    steps, of one seed or two; the loss after the same seconds, and the steps that fit in these."""
    tenth, rate, change_flags, rungs = hold_out(corpus), FIRST_RATE, [], []
    loss = lambda name, flags: trained(name, flags)[-1]["val_loss"]
    for i, (name, why, change) in enumerate(CHANGES):
        run, change_flags = f"{i:02}-{name}", [*change_flags, *change.split()]
        tried = {r: loss(f"{run}-rate-{r:g}", [*change_flags, *extra, "--learning-rate", r,
                                               "--data", tenth])
                 for r in (rate / 2, rate, rate * 2)}
        rate = min(tried, key=tried.get)
        flags = [*change_flags, *extra, "--learning-rate", rate, "--data", corpus]
        end = trained(run, flags)[-1]
        rung = SimpleNamespace(run=run, flags=flags, name=name, why=why, rate=rate, equal_steps=[
            end["val_loss"]], steps=end["step"], equal_seconds=end["val_loss"])
        if rungs:
            rung.steps = max(1, round(end["step"] * seconds / end["seconds"]))
            rung.equal_seconds = loss(f"{run}-seconds", [*flags, "--steps", rung.steps])
        else:
            seconds = end["seconds"]
        rungs.append(rung)
    close = [pair for pair in zip(rungs, rungs[1:])
             if abs(pair[0].equal_steps[0] - pair[1].equal_steps[0]) < 0.02]
    for rung in [rung for rung in rungs if any(rung in pair for pair in close)]:
        rung.equal_steps.append(loss(f"{rung.run}-seed-2", [*rung.flags, "--seed", 2]))
    return rungs


def table(rungs):
    """One row a change: its validation loss, and what that gained on the row before."""
    means = [float(np.mean(rung.equal_steps)) for rung in rungs]
    gains = ["", *(f"{loss - before:+.3f}" for before, loss in zip(means, means[1:]))]
    return "\n".join([
        "| run | what changes | rate | loss | by | seeds | in the same seconds | steps in these |",
        "|---|---|--:|--:|--:|--:|--:|--:|", *(
            f"| {rung.name} | {rung.why} | {rung.rate:g} | {loss:.3f} | {gain} "
            f"| {len(rung.equal_steps)} | {rung.equal_seconds:.3f} | {rung.steps:,} |"
            for rung, loss, gain in zip(rungs, means, gains))])


def main():
    parser = Parser(description="From GPT-2 to the default, step by step. Other flags: train.py's.")
    parser.add_argument("--out", metavar="FILE", default="ablation.png", help="the picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_flags(parser, DataConfig)
    options, extra = parser.parse_known_args()
    ours = {"--name", "--resume", "--preset", "--init", "--data", "--learning-rate", "--seed", *(
        " ".join(change for _, _, change in CHANGES).replace("--no-", "--").split())}
    with clear_errors():
        for flag in (word.split("=")[0] for word in extra if word.startswith("--")):
            if flag.replace("--no-", "--") in ours:
                raise ValueError(f"{flag} is for the ablation to say: leave it out")
        path, extra = picture(options.out), [*extra, "--device", pick_device(options.device)]
        settings([*CHANGES[0][2].split(), *extra])      # what train.py would refuse is refused here
        rungs = climb(prepare(checked(DataConfig, vars(options))), extra)
        folders = [RUNS / f"ablation-{rung.run}" for rung in rungs]
        draw_curves([read_metrics(folder) for folder in folders],
                    [folder.name for folder in folders], path)
        print(f"\nvalidation loss in nats per token\n\n{table(rungs)}\n\ndrew {path}")


if __name__ == "__main__":
    main()
