"""
Arena: which of two runs writes better, if nobody can see which is which?

Two runs go on from the same prompt (or answer it, if they were taught to chat). You see both texts
without names, on sides that are drawn, and say which is better. Votes become ratings: a beats b
with probability strength(a) / (strength(a) + strength(b)), for strengths that make the votes most
probable. On Elo's scale, that of chess, 400 points more is ten times as strong (mean: 1000).

    python -m beyond.arena nano shallow                     # three or more: every pair
    python -m beyond.arena nano shallow --prompts mine.txt  # one prompt a line
    python -m beyond.arena nano shallow --judge smollm2     # a third model votes
    python -m beyond.arena                                  # the ratings by all votes so far

A tie is half a win for each, and so is "both bad". Who has won every time would be infinitely
strong: so each pair begins with one tie that nobody voted. The interval is a bootstrap's: where
would the rating be, had as many other votes like these been cast? It takes 20.
A judge compares the probabilities of " A" and " B" after both texts and a question. Models tend to
prefer what they read first: so both orders are asked, their mean counts, and the bias is printed.
Each vote is a line of runs/arena.jsonl as soon as it is cast: Ctrl-C or a crash loses none.

Papers: Rank Analysis of Incomplete Block Designs (Bradley and Terry, 1952); Die Berechnung der
Turnier-Ergebnisse (Zermelo, 1929), which finds the strengths; Chatbot Arena (Chiang et al., 2024);
Judging LLM-as-a-Judge (Zheng et al., 2023), for position bias.
"""
import math
import shutil
import textwrap
from itertools import combinations, zip_longest

from beyond.answers import choose
from beyond.chat import can_chat, closed, turn
from beyond.sheet import alike, sheet, weights_of
from data import add_flags, checked, documents
from sample import RUNS, SampleConfig, find_run, generate, load_run, pick_device, picker, stream
from tokenizer import Parser, clear_errors

import numpy as np
from tqdm import tqdm

PROMPTS = ("The king looked at his daughter and said:", "What is love?", "Tell me a short story.",
           "My lord, I bring you news from the war.", "Why is the sky blue?", "A good friend is",
           "Write a letter to your mother.", "What should a man do who has lost everything?")
SCORE = {"left": 1.0, "right": 0.0, "tie": 0.5, "both bad": 0.5}    # of the left one


def rounds(prompts, runs, seed):
    """Every prompt for every pair of runs, shuffled, the sides drawn: (prompt, left, right)."""
    rng = np.random.default_rng(seed)
    found = [(prompt, *rng.permutation(pair).tolist())
             for prompt in prompts for pair in combinations(runs, 2)]
    return [found[i] for i in rng.permutation(len(found))]


def answer(model, tokenizer, prompt, c):
    """What a run makes of a prompt. No bar: its pace would tell which run it is."""
    ids = tokenizer.encode(prompt) or [tokenizer.eot]
    if can_chat(tokenizer):
        ids = turn(tokenizer, "user", prompt) + turn(tokenizer, "assistant")
    new = (i for i, in generate(model, [ids], c.tokens, picker(1, c)))
    return "".join(stream(tokenizer, new)).strip()


def side_by_side(texts, width):
    """Two texts as two columns."""
    half = max(8, (width - 3) // 2)
    columns = [[part for line in text.splitlines() for part in textwrap.wrap("".join(
        c if c.isprintable() else " " for c in line), half) or [""]] for text in texts]
    return "\n".join(f"{a:{half}} | {b}" for a, b in zip_longest(*columns, fillvalue=""))


def ask():
    """A person's vote; None: no more."""
    names, said = {name[0]: name for name in SCORE} | {"q": None}, ""
    while said not in names:
        try:
            said = input("Which is better? l(eft), r(ight), t(ie), b(oth bad), q(uit): ")[:1]
        except EOFError:
            said = "q"
    return names[said]


def first_is_better(model, tokenizer, prompt, first, second):
    """The probability that a judge says A, the first text, and not B."""
    parts = (f"{prompt}\n\nAnswer A:\n", "\n\nAnswer B:\n", "\n\nWhich is better, answer A or "
             "answer B?\n", "The better one is answer", " A", " B")
    before, between, after, end, *said = map(tokenizer.encode, parts)
    if can_chat(tokenizer):
        before, after = turn(tokenizer, "user") + before, closed(tokenizer, after)
        end = turn(tokenizer, "assistant") + end
    room = model.config.context_length - len(before + between + after + end + said[0])
    if room < 2:
        raise ValueError(f"the judge has no room for two texts after the prompt {prompt[:40]!r}")
    a, b = (tokenizer.encode(text)[:room // 2] for text in (first, second))
    [(_, (p, q))] = choose(model, [], [before + a + between + b + after + end], [said])
    return 1 / (1 + math.exp(q.sum() - p.sum()))


# ---- From votes to ratings.

def strengths(wins):
    """The most probable strengths by Zermelo's iteration: (..., R) from wins (..., R, R), how often
    the run of a row beat that of a column. Their geometric mean is 1."""
    games, new = wins + wins.swapaxes(-1, -2), np.ones(wins.shape[:-1])     # (..., R, R), (..., R)
    for _ in range(10_000):
        p = new
        new = wins.sum(-1) / (games / (p[..., None] + p[..., None, :])).sum(-1)
        new = new / np.exp(np.log(new).mean(-1, keepdims=True))
        if np.abs(np.log(new / p)).max() < 1e-9:
            break
    return new


def ratings(votes, runs, seed=1, n=1000):
    """The rating of each run (R,), its 95 % interval (2, R), and the wins (R, R)."""
    k, R = len(votes), len(runs)
    wins, start = np.zeros((k, R, R)), (1 - np.eye(R)) / 2      # of each vote; a tie for each pair
    for i, vote in enumerate(votes):
        a, b = runs.index(vote["left"]), runs.index(vote["right"])
        wins[i, a, b], wins[i, b, a] = SCORE[vote["vote"]], 1 - SCORE[vote["vote"]]
    drawn = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), n)    # (n, k)
    wins = np.tensordot(np.vstack([np.ones(k), drawn]), wins, axes=1)           # (1 + n, R, R)
    points = 1000 + 400 * np.log10(strengths(wins + start))                     # (1 + n, R)
    return points[0], np.percentile(points[1:], [2.5, 97.5], axis=0), wins[0]


def show(votes, by):
    """The table of the votes of a person, or of one judge."""
    runs = sorted({vote[side] for vote in votes for side in ("left", "right")})
    rating, (low, high), wins = ratings(votes, runs)
    order, games, bad = np.argsort(-rating), wins + wins.T, [v["vote"] for v in votes]
    print(f"\n{len(votes):,} votes by {by}, {bad.count('both bad'):,} of them both bad\n"
          f"{'':20}rating  95 % interval   beat {'   '.join(runs[r] for r in order)}")
    for r in order:
        interval = f"{low[r]:,.0f} to {high[r]:,.0f}" if len(votes) >= 20 else "-"
        print(f"{runs[r]:20}{rating[r]:6,.0f}{interval:>15}        " + "   ".join(
            f"{f'{wins[r, s]:g} of {games[r, s]:g}' if r != s else '-':{len(runs[s])}}"
            for s in order))
    if orders := [vote["orders"] for vote in votes if "orders" in vote]:
        turned = sum((p > 0.5) == (q > 0.5) for p, q in orders)
        print(f"position bias: what it reads first is better with a probability of "
              f"{np.mean(orders):.1%} (50 %: no bias);\nin {turned:,} of {len(orders):,} rounds "
              "the order decided, not the texts")


def main():
    parser = Parser("Two runs answer (in 100 tokens, unless --tokens says otherwise), you or a "
                    "judge say which is better, and votes become ratings.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="two or more (none: only ratings)")
    parser.add_argument("--prompts", metavar="FILE", help="one a line (default: eight of ours)")
    parser.add_argument("--judge", metavar="RUN", help="a run that votes instead of you")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_flags(parser, SampleConfig)
    o = parser.parse_args()
    with clear_errors():
        c, path = checked(SampleConfig, {"tokens": 100} | vars(o)), RUNS / "arena.jsonl"
        if c.prompt or c.samples > 1:
            raise ValueError("--prompt and --samples have no use here: --prompts names a file")
        texts = PROMPTS if o.prompts is None else [text for _, text in documents([o.prompts])]
        prompts = [line for text in texts for line in text.split("\n") if line.strip()]
        runs = list(dict.fromkeys(str(find_run(run)) for run in o.runs))
        by = "a person" if o.judge is None else str(find_run(o.judge))
        if not prompts or len(runs) == 1 or by in runs or o.judge and not runs:
            raise ValueError("it takes prompts, two different runs, and a judge that is neither")
        if not runs and not path.exists():
            raise ValueError(f"there are no votes in {path} yet: name two runs")
        models = {run: load_run(run, pick_device(o.device)) for run in runs + [by] * bool(o.judge)}
        like = dict.fromkeys(("by", "prompt", "left", "right", "vote"), "") | {"weights": ["", ""]}
        votes, add = sheet(path, {"votes": "arena"}, like)
        two = [0.0, 0.0]
        if not all(v["vote"] in SCORE and alike(v.get("orders", two), two) for v in votes):
            raise ValueError(f"{path} is damaged: a line of it is no vote")
        weights = {run: weights_of(run)[:16] for run in runs}   # trained anew, it is asked anew
        had = {(vote["by"], vote["prompt"], *sorted(vote["weights"])) for vote in votes}
        todo = [(prompt, *pair) for prompt, *pair in rounds(prompts, runs, c.seed)
                if (by, prompt, *sorted(map(weights.get, pair))) not in had]
        if runs and not todo:
            print("all of this has been voted on: name other --prompts")
        for n, (prompt, left, right) in enumerate(tqdm(
                todo, "judging", leave=False, disable=None if o.judge else True), start=1):
            texts = [answer(*models[run], prompt, c) for run in (left, right)]
            vote = {"by": by, "prompt": prompt, "left": left, "right": right, "texts": texts,
                    "weights": [weights[left], weights[right]]}
            if o.judge:         # the mean of p and 1 - q is above a half, or below
                p, q = vote["orders"] = [first_is_better(*models[by], prompt, *pair)
                                         for pair in (texts, texts[::-1])]
                vote["vote"] = "left" if p > q else "right" if q > p else "tie"
            else:
                print(f"\n--- {n} of {len(todo)}: {prompt}\n\n"
                      f"{side_by_side(texts, shutil.get_terminal_size().columns)}\n")
                vote["vote"] = ask()
            if vote["vote"] is None:
                break
            add(vote)
            votes.append(vote)
        for by in dict.fromkeys(vote["by"] for vote in votes):
            show([vote for vote in votes if vote["by"] == by], by)


if __name__ == "__main__":
    main()
