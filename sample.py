"""
Sampling: a model that scores the next token becomes a writer, one token at a time.

The model says how likely every token is to come next. Pick one, put it at the end of the text,
ask again. How to pick is the only choice there is, and it makes the same model babble or shine:

    greedy                always the likeliest: sure of itself, and soon going round in circles
    temperature t         at random, by the model's own probabilities, after dividing the logits
                          by t: t < 1 makes likely tokens likelier (safer), t > 1 evens them out
    top-k                 only the k likeliest: the long tail of bad ideas is cut off
    top-p                 only the likeliest that together have probability p: few where the model
                          is sure, many where it is not
    min-p                 only those at least p times as likely as the likeliest
    repetition penalty    what the text has already is made less likely

    python sample.py                                          # the newest run, 500 tokens
    python sample.py runs/nano --prompt "ROMEO" --temperature 0.5
    python sample.py --greedy --tokens 200 --repetition-penalty 1.2
    python sample.py --explain                                # what each strategy does, in figures
    python sample.py --log-probs "To be, or not to be"        # how surprising is each token?
    python sample.py --pretrained gpt2 --prompt "To be"       # OpenAI's GPT-2

Papers: CTRL, for the repetition penalty (Keskar et al., 2019); The Curious Case of Neural Text
Degeneration, for top-p (Holtzman et al., 2020); Turning Up the Heat: Min-p Sampling (Nguyen et
al., 2024).
"""
import codecs
import contextlib
import math
import os
import sys
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, permutations
from operator import add
from pathlib import Path

import torch

from checkpoint import find_run, load_run, pick_device
from cli import Parser, add_flags, chosen, clear_errors
from model import GPT
from tokenizer import special_pattern, utf8

# ------------------------------------------------------------------------------------------
# The strategies. Each takes logits (B, V) and returns logits (B, V), -inf where a token is out.
# softmax of -inf is 0, so they can be put one behind the other.


def repetition_penalty(logits, texts, penalty):
    """Make every token that a text has already less likely. texts: the ids so far, B lists.

    A logit above 0 is divided by the penalty, one below 0 multiplied: both lower it.
    """
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in enumerate(texts):
        seen[row, ids] = True                                               # (B, V)
    lower = torch.where(logits > 0, logits / penalty, logits * penalty)     # (B, V)
    return torch.where(seen, lower, logits)                                 # (B, V)


def temperature(logits, t):
    """Divide by t > 0. The largest is taken to 0 first, which no softmax notices, and so no
    temperature, however small, is out of range: as it nears 0 this becomes greedy. No logit is
    above 0 then, so repetition_penalty(), which looks at signs, must come before.
    """
    return (logits - logits.max(dim=-1, keepdim=True).values) / t           # (B, V), all <= 0


def top_k(logits, k):
    """Keep the k likeliest, and what is exactly as likely as the last of them."""
    k = min(k, logits.shape[-1])
    last = logits.topk(k).values[:, -1:]                                    # (B, 1)
    return logits.masked_fill(logits < last, -math.inf)                     # (B, V)


def top_p(logits, p):
    """Keep the fewest of the likeliest that together have probability p."""
    ordered, order = logits.sort(descending=True)                           # (B, V) each
    probabilities = torch.softmax(ordered, dim=-1)                          # (B, V)
    before = probabilities.cumsum(dim=-1) - probabilities                   # (B, V), from 0
    ordered = ordered.masked_fill(before >= p, -math.inf)                   # (B, V)
    return torch.empty_like(logits).scatter(-1, order, ordered)             # (B, V), put back


def min_p(logits, p):
    """Keep what is at least p times as likely as the likeliest."""
    probabilities = torch.softmax(logits, dim=-1)                           # (B, V)
    least = p * probabilities.max(dim=-1, keepdim=True).values              # (B, 1)
    return logits.masked_fill(probabilities < least, -math.inf)             # (B, V)


# ------------------------------------------------------------------------------------------
# How to pick: from logits (B, V) to ids (B,).


def greedy(logits):
    return logits.argmax(dim=-1)                                            # (B,)


def draw(logits, generators):
    """A draw from softmax(logits) for each row, with the row's own generator.

    Lay the probabilities end to end: a stick of length 1. A uniform number is a place on it, and
    the token whose piece that place is in is drawn. In float64, on the CPU: a logit that differs
    in its last bits, as it may from one batch size to another, moves no border so far that a draw
    is likely ever to notice.
    """
    ends = torch.softmax(logits.cpu().double(), dim=-1).cumsum(dim=-1)      # (B, V), up to 1
    places = [torch.rand(1, dtype=torch.float64, generator=g) for g in generators]
    return torch.searchsorted(ends / ends[:, -1:], torch.stack(places), right=True)[:, 0]   # (B,)


@dataclass
class SampleConfig:
    """How to write. The defaults pick a little more safely than the model's own probabilities."""
    temperature: float = 0.8            # below 1 safer, above 1 wilder, 0: always the likeliest
    top_k: int = 0                      # pick from the K likeliest tokens only; 0: from all
    top_p: float = 1.0                  # from the likeliest that have this probability together
    min_p: float = 0.0                  # from those this many times as likely as the likeliest
    repetition_penalty: float = 1.0     # above 1: what the text has already is less likely
    tokens: int = 500                   # how many tokens to write, at most
    samples: int = 1                    # how many texts to write for each prompt, in one batch
    seed: int = 1                       # another seed, another text; sample i has seed + i

    def __post_init__(self):
        for name, good, must in (
                ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
                ("top_k", self.top_k >= 0, "1 or more, or 0 for all"),
                ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
                ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
                ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
                ("tokens", self.tokens >= 1, "at least 1"),
                ("samples", self.samples >= 1, "at least 1"),
                ("seed", 0 <= self.seed < 2 ** 63, "0 or more, and below 2^63")):
            if not good:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} is {getattr(self, name)}; it must be {must}")

    def strategies(self):
        """Those that are asked for, in order: name -> function of the logits and the texts."""
        c, chain = self, {}
        if c.repetition_penalty != 1:
            chain[f"penalty {c.repetition_penalty:g}"] = (
                lambda logits, texts: repetition_penalty(logits, texts, c.repetition_penalty))
        if c.temperature not in (0, 1):
            chain[f"temperature {c.temperature:g}"] = lambda x, _: temperature(x, c.temperature)
        if c.top_k:
            chain[f"top-k {c.top_k}"] = lambda logits, _: top_k(logits, c.top_k)
        if c.top_p < 1:
            chain[f"top-p {c.top_p:g}"] = lambda logits, _: top_p(logits, c.top_p)
        if c.min_p > 0:
            chain[f"min-p {c.min_p:g}"] = lambda logits, _: min_p(logits, c.min_p)
        if c.temperature == 0:
            chain["greedy"] = lambda logits, _: top_k(logits, 1)
        return chain


def picker(c, prompts, watch=lambda stages: None):
    """A function that picks the next token of each of the texts that begin with the prompts.

    Text i draws with a generator of its own, seeded with c.seed + i. watch sees what each
    strategy made of the logits: name -> (B, V).
    """
    generators = [torch.Generator().manual_seed(c.seed + i) for i in range(len(prompts))]
    texts, strategies = [list(ids) for ids in prompts], c.strategies()

    def pick(logits):
        logits = logits.cpu().double()                                      # (B, V)
        stages = {"the model": logits}
        for name, strategy in strategies.items():
            logits = stages[name] = strategy(logits, texts)                 # (B, V)
        ids = greedy(logits) if c.temperature == 0 else draw(logits, generators)    # (B,)
        for text, i in zip(texts, ids.tolist()):
            text.append(i)
        watch(stages)
        return ids
    return pick


# ------------------------------------------------------------------------------------------
# One token at a time.


@torch.inference_mode()
def generate_batch(model, prompts, n_tokens, pick, cached=True, slide=None):
    """Yield n_tokens lists: the next id of each of the texts that begin with prompts, lists of ids.

    The model reads each token once and keeps what attention will ask of it in a cache; with
    cached=False it reads the text anew for every token, which is the same, and slow.

    A model sees context_length tokens. When a text has filled this window, its oldest `slide`
    tokens (half of the window, unless told otherwise) are let go at once. What is left has moved
    to other places and is read anew, once; then the cache serves again until the window is full.
    With slide=1 the model always sees all it can, and reads the whole window for every token.

    Texts of unequal length are padded at their left. Each slides by itself, so that it is given
    the tokens it would be given alone.
    """
    L, device = model.config.context_length, model.token_table.device
    slide = slide or max(1, L // 2)
    windows, cache = [list(ids[-L:]) for ids in prompts], None
    for _ in range(n_tokens):
        if cache is None:
            longest = max(map(len, windows))
            padding = [longest - len(window) for window in windows]
            pad = torch.tensor(padding, device=device) if any(padding) else None        # (B,)
            unread = torch.tensor([[0] * n + window for n, window in zip(padding, windows)],
                                  device=device)                            # (B, longest)
            cache = model.new_cache(len(prompts), longest + n_tokens) if cached else None
        ids = pick(model(unread, cache, last_only=True, pad=pad)[:, -1])    # (B,)
        unread = ids[:, None].to(device)                                    # (B, 1)
        yield ids.tolist()
        for window, i in zip(windows, ids.tolist()):
            if len(window) == L:
                del window[:slide]
                cache = None
            window.append(i)


def generate(model, ids, n_tokens, pick, **settings):
    """The same for one text: yield the n_tokens ids that continue ids, one at a time."""
    for (i,) in generate_batch(model, [ids], n_tokens, pick, **settings):
        yield i


class Writer:
    """One text as it comes: from ids to what can be shown.

    A character is held back until all its bytes are there, and what may be the beginning of a
    stop text until it is sure not to be. done says that <|endoftext|> or a stop text has come.
    """

    def __init__(self, tokens, stops=()):
        self.tokens, self.stops, self.held, self.done = tokens, stops, "", False
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, i):
        """What can be shown once token i is there."""
        if self.done:
            return ""
        if i == self.tokens.eot:
            shown, self.done = self.end(), True
            return shown
        return self.show(self.decoder.decode(self.tokens.token_bytes(i)))

    def end(self):
        """What was held back, when no more tokens come."""
        return "" if self.done else self.show(self.decoder.decode(b"", final=True), last=True)

    def show(self, text, last=False):
        self.held += text
        found = [(at + len(stop), at) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:               # (where it ends, where it begins): the one complete first
            _, cut = min(found)
            shown, self.held, self.done = self.held[:cut], "", True
            return shown
        beginnings = (stop[:n] for stop in self.stops for n in range(1, len(stop)))
        keep = max((len(b) for b in beginnings if self.held.endswith(b) and not last), default=0)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown


def stream(tokens, ids, stops=()):
    """The text of ids as they come, up to <|endoftext|> or a stop text."""
    writer = Writer(tokens, stops)
    for i in ids:
        yield writer.add(i)
        if writer.done:
            return
    yield writer.end()


# ------------------------------------------------------------------------------------------
# At the terminal.


def read_file(path):
    """The text of a file, as it is."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (see byte {error.start:,})") from None


@cache
def say_once(message):
    """A remark, beside the text. A cached function does its work once for each argument."""
    print(f"sample.py: {message}", file=sys.stderr)


def read_prompt(tokens, text):
    """The ids of a prompt. An empty one starts where a document does: at the separator."""
    if tokens.unk is not None:
        plain = special_pattern(tokens.special_ids).split(text)[::2]
        symbols = {symbol for part in plain for symbol in tokens.pattern.findall(part)}
        strange = [s for s in sorted(symbols) if tokens.unk in tokens.encode(s)]
        if strange:
            say_once(f"the model has never seen {', '.join(map(repr, strange))}; "
                     "it reads <unk> there")
    return tokens.encode(text) or tokens.separator or [0]


def write(model, tokens, prompts, c, stops=(), cached=True):
    """Print c.samples texts for each prompt, all of them written in one pass.

    The first is shown as it comes, the others when those before them are done. Ctrl-C stops the
    writing, and shows how far each has come.
    """
    starts = {prompt: read_prompt(tokens, prompt) for prompt in prompts}
    prompts = [prompt for prompt in prompts for _ in range(c.samples)]
    ids = [starts[prompt] for prompt in prompts]
    L = model.config.context_length
    if max(map(len, ids)) + c.tokens > L + 1:       # what is written last is not read
        say_once(f"the model sees {L} tokens at once; of a longer text it reads only the end, "
                 f"the last {L - max(1, L // 2) + 1} to {L}")
    headers = [f"--- seed {c.seed + row}\n" if len(ids) > 1 else "" for row in range(len(ids))]
    waiting = list(map(add, headers, prompts))
    writers, row = [Writer(tokens, stops) for _ in ids], 0      # row: the one that is shown

    def show():
        print(waiting[row], end="", flush=True)
        waiting[row] = ""

    try:
        show()
        for step in generate_batch(model, ids, c.tokens, picker(c, ids), cached):
            waiting = [text + writer.add(i) for text, writer, i in zip(waiting, writers, step)]
            show()
            while writers[row].done and row < len(ids) - 1:
                print()
                row += 1
                show()
            if all(writer.done for writer in writers):
                break
    finally:
        for row in range(row, len(ids)):
            waiting[row] += writers[row].end()
            show()
            print()


def converse(write_from):
    """Ask for a prompt and go on from it, again and again. Ctrl-C stops a text, Ctrl-D ends."""
    with contextlib.suppress(ImportError):
        import readline     # noqa: F401, input() then knows the arrow keys and what was typed
    print("Type how a text begins; Ctrl-C stops it, Ctrl-D ends.", file=sys.stderr)
    for i in count():
        try:
            write_from(i, input("> ").encode().decode())    # raises on half a character
        except KeyboardInterrupt:
            print()
        except UnicodeError as error:
            print(f"sample.py: {error}", file=sys.stderr)
        except EOFError:
            return print()


UNHEARD = {     # option -> those that would go unheard beside it
    "log_probs": ("prompt", "prompt_file", "interactive", "explain", "no_cache", "stop", "greedy",
                  *SampleConfig.__annotations__),
    "explain": ("interactive", "no_cache", "stop", "tokens", "samples"),
    "interactive": ("prompt", "prompt_file"), "greedy": ("temperature",)}


def main():
    parser = Parser("Let a trained model write.")
    parser.add_argument("run", nargs="?", help="folder of the run (default: the newest)")
    parser.add_argument("--pretrained", metavar="PATH",
                        help="instead of a run: GPT-2's weights, a folder or gpt2, gpt2-medium, "
                             "gpt2-large, gpt2-xl")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT",
                        help="text to go on from; several --prompt are written in one batch")
    parser.add_argument("--prompt-file", metavar="FILE", help="the same, from a file")
    parser.add_argument("--interactive", action="store_true",
                        help="type prompts; Ctrl-C stops a text, Ctrl-D ends")
    parser.add_argument("--greedy", action="store_true", help="the same as --temperature 0")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT",
                        help="write up to this text; there may be several --stop")
    parser.add_argument("--explain", action="store_true",
                        help="show what each strategy makes of the next tokens' probabilities")
    parser.add_argument("--plot", action="store_true", help="draw that, into sampling.png")
    parser.add_argument("--log-probs", metavar="TEXT",
                        help="write nothing: show how likely each token of TEXT, or of a file, is")
    parser.add_argument("--json", action="store_true", help="print --log-probs as JSON")
    parser.add_argument("--no-cache", action="store_true",
                        help="read the whole text anew for each token: the same text, slowly")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="what a weight is stored as (default: float32)")
    parser.add_argument("--compile", action="store_true",
                        help="have torch.compile fuse the steps: a minute to start, then faster")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_flags(parser, SampleConfig)
    options = parser.parse_args()

    with clear_errors():
        options.explain |= options.plot
        named = [name for name, value in vars(options).items() if value != parser.get_default(name)]
        for one, other in permutations(named, 2):
            if other in UNHEARD.get(one, ()):
                clash = f"--{one} has no use for --{other}".replace("_", "-")
                raise ValueError(f"{clash}: leave one of them out")
        given = chosen(options, SampleConfig) | (dict(temperature=0.0) if options.greedy else {})
        c = SampleConfig(**given)
        if "" in options.stop:
            raise ValueError("--stop needs a text that is not empty")
        prompts = options.prompt + ([read_file(options.prompt_file)] if options.prompt_file else [])
        if options.explain and len(prompts) > 1:
            raise ValueError("--explain has no use for a second prompt: it shows one text")
        if options.json and options.log_probs is None:
            raise ValueError("--json goes with --log-probs")
        if options.pretrained and options.run:
            raise ValueError("name a run or --pretrained weights, not both")
        prompts, score = prompts or [""], options.log_probs
        if score and os.path.isfile(score):
            score = read_file(score)
        if score == "":
            raise ValueError("--log-probs has no text to score")
        for text in (*prompts, score or ""):
            utf8(text)          # raises on half a character
        device = pick_device(options.device)
        if options.pretrained:
            from pretrained import load_gpt2_tokenizer      # further down the order
            tokens = load_gpt2_tokenizer(options.pretrained)
            model = GPT.from_pretrained(options.pretrained).to(device).eval()
        else:
            model, tokens = load_run(find_run(options.run), device)

    with clear_errors(OSError):
        model = model.to(getattr(torch, options.dtype))
        if c.samples * len(prompts) == 1 and device == "cpu":
            model.lay_out()         # it pays for one text at a time, on a CPU
        if options.compile:
            model.compile(dynamic=True)

        import odds         # further down the order
        if score:
            odds.show_log_probs(model, tokens, score, options.json)
        elif options.explain:
            odds.explain(model, tokens, prompts[0], given, options.plot)
        elif options.interactive:
            converse(lambda i, prompt: write(model, tokens, [prompt], replace(c, seed=c.seed + i),
                                             options.stop, not options.no_cache))
        else:
            write(model, tokens, prompts, c, options.stop, not options.no_cache)


if __name__ == "__main__":
    main()
