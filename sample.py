"""Sampling: a model that scores the next token becomes a writer, one token at a time.

Pick a token by its score, put it at the end of the text, ask for the next scores. How to pick?
Always the most probable (greedy decoding) is safe, and soon goes round in circles. So draw one by
the model's own probabilities, and let strategies first cut off the long tail of bad ideas.

    python sample.py nano --prompt "ROMEO" --temperature 0.5
"""
import tokenizer
from data import add_flags, checked
from model import GPT, Cache, GPTConfig
from tokenizer import Parser, clear_errors

import atexit
import codecs
import json
import math
import os
import shutil
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:     # Windows, where a run is not locked and memory not asked for
    fcntl = None

# ---- The strategies: logits (B, V) in, logits (B, V) out, -inf where a token is out.

def temperature(logits, t):
    return logits / t           # (B, V); below 1 what is probable gets more so, above 1 less


def top_k(logits, k):
    """Keep the k most probable, and what is exactly as probable as the last of them."""
    least = logits.topk(min(k, logits.shape[-1])).values[:, -1:]            # (B, 1)
    return logits.masked_fill(logits < least, -math.inf)                    # (B, V)


def top_p(logits, p):
    """Keep the fewest that together reach p (nucleus sampling; Holtzman et al., 2020)."""
    ordered, order = logits.sort(descending=True)                           # (B, V) each
    probabilities = torch.softmax(ordered, dim=-1)                          # (B, V)
    before = probabilities.cumsum(dim=-1) - probabilities                   # (B, V), from 0
    ordered = ordered.masked_fill((before >= p) & (before > 0), -math.inf)  # (B, V)
    return torch.empty_like(logits).scatter(-1, order, ordered)             # (B, V), put back


def min_p(logits, p):
    """Keep what is at least p times as probable as the most probable (Nguyen et al., 2024)."""
    probabilities = torch.softmax(logits, dim=-1)                           # (B, V)
    least = min(p, 1) * probabilities.max(dim=-1, keepdim=True).values      # (B, 1)
    return logits.masked_fill(probabilities < least, -math.inf)             # (B, V)


@dataclass
class SampleConfig:
    """How to write. A trailing comment is the flag's --help."""
    prompt: str = ""            # text to go on from
    tokens: int = 300           # how many tokens to write, at most
    temperature: float = 0.8    # below 1 safer, above 1 wilder; 0: always the most probable token
    top_k: int = 0              # pick from the K most probable tokens only; 0: from all
    top_p: float = 1.0          # pick from the most probable that have this probability together
    min_p: float = 0.0          # pick from those this many times as probable as the most probable
    samples: int = 1            # how many texts to write
    seed: int = 1               # another seed, another text; sample i has seed + i


def picker(n, c):
    """A function that picks the next token of each of n texts: logits (n, V) -> ids (n,).
    Text i draws with a generator of its own, seeded with c.seed + i."""
    generators = [torch.Generator().manual_seed(c.seed + i) for i in range(n)]

    def pick(logits):
        logits = logits.cpu().double()                                      # (n, V)
        if c.temperature < 1e-9:
            return logits.argmax(dim=-1)                                    # (n,)
        for strategy, off in ((temperature, 1), (top_k, 0), (top_p, 1), (min_p, 0)):
            value = getattr(c, strategy.__name__)
            logits = logits if value == off else strategy(logits, value)    # (n, V)
        draws = zip(torch.softmax(logits, dim=-1), generators)              # n times (V,)
        return torch.cat([p.multinomial(1, generator=g) for p, g in draws])     # (n,)
    return pick


@torch.inference_mode()
def generate(model, prompts, n_tokens, pick):
    """Yield n_tokens lists: the next id of each of the texts that begin with prompts.
    prompts are lists of ids of one length. The model reads each token once, and keeps what
    attention needs of it in the KV cache. It sees a window of context_length tokens: when that is
    full, its older half is let go, and the rest is read again at its new positions."""
    L, device = model.config.context_length, model.token_table.device
    window, cache = torch.tensor(prompts, device=device)[:, -L:], None      # (B, T)
    for _ in range(n_tokens):
        if window.shape[1] > L:
            window, cache = window[:, L // 2 + 1:], None
        if cache is None:
            room = min(L, window.shape[1] + n_tokens)
            cache, unread = Cache(model.config, len(prompts), room, device), window
        ids = pick(model(unread, cache, last=1)[:, -1])                     # (B,)
        yield ids.tolist()
        unread = ids[:, None].to(device)                                    # (B, 1)
        window = torch.cat([window, unread], dim=1)                         # (B, T + 1)


def stream(tokenizer, ids):
    """The text of ids as they come, up to its end, or a chat's, and never half a character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for i in ids:
        if i == tokenizer.eot or tokenizer.vocab[i] == b"<|im_end|>":
            break
        yield decoder.decode(tokenizer.vocab[i])
    yield decoder.decode(b"", final=True)


RUNS = Path("runs")     # train.py leaves a folder here for each run


def find_run(name=None):
    """The folder of a run: from its name in runs/, its path, or, given neither, the newest."""
    there = sorted(RUNS.glob("*/*.pt"), key=lambda path: path.stat().st_mtime)
    for folder in (RUNS / name, Path(name)) if name else [path.parent for path in there[-1:]]:
        if (folder / "config.json").exists():
            return folder
    others = ", ".join(dict.fromkeys(path.parent.name for path in there)) or "none"
    raise ValueError(f"there is no run {name or 'yet'} in {RUNS}/; those there: {others}")


def lock(folder):
    """Hold a run until this process ends; then delete it, if no last.pt has been saved in it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)     # never closed: it ends with us
    try:
        fcntl and fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 20).decode().strip()
        raise ValueError(f"{folder} is being trained by process {holder}") from None
    atexit.register(lambda f=folder.absolute(): (f / "last.pt").exists() or shutil.rmtree(f, True))
    os.write(file, f"{os.getpid():<20}".encode())
    for half_written in folder.glob("*.unfinished"):
        half_written.unlink()


def read_config(folder):
    """The settings of a run: a dict of dicts, data, model, train and corpus."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        Path(config["corpus"]["folder"])        # raises if it is absent, or no path
        return {part: dict(config[part]) for part in ("data", "model", "train", "corpus")}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not hold the settings of a run ({error!r:.80})") from None


def make_model(settings, B=0):
    """A GPT; raises ValueError if, with what it keeps to learn from B texts, memory lacks room."""
    c = checked(GPTConfig, settings, strict=True)
    C, T, V = c.n_embd, c.context_length, c.vocab_size
    weights = C * (V + (c.ngram - 1) * c.ngram_rows + c.n_layer * 2 * (C + c.mlp_width))
    numbers = weights * (3 if B else 1) + T * c.head_size + B * T * (c.n_layer * C + V)   # at least
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if fcntl else math.inf
    if 4 * numbers > there:
        raise ValueError(f"this model would take more than {4e-9 * numbers:,.0f} GB of memory, and "
                         f"there are {1e-9 * there:.0f}: make it or its batch smaller")
    return GPT(c)


def load_weights(model, path):
    """Put the weights of a checkpoint into the model; return all that the file holds."""
    path = path if path.exists() else path.with_name("last.pt")     # no evaluation yet
    try:                            # weights_only: it may hold tensors, never code
        saved = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise                       # that is no damage; a file cut short is another OSError
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        raise ValueError(f"{path} is damaged, or of another model ({error!r:.150})") from None
    if not all(p.isfinite().all() for p in model.parameters()):
        raise ValueError(f"{path} is damaged: its weights are not finite numbers")
    return saved


def load_run(folder, device="cpu"):
    """The best model of a run (the last, if none was evaluated yet) and its tokenizer."""
    model = make_model(read_config(folder)["model"])
    load_weights(model, Path(folder) / "best.pt")
    found = tokenizer.load(Path(folder) / "tokenizer.json")
    if found.vocab_size != model.config.vocab_size:
        raise ValueError(f"{folder}/tokenizer.json has {found.vocab_size:,} tokens, its model not")
    return model.to(device).eval(), found


def pick_device(name):
    """auto takes the best there is: an NVIDIA GPU, an Apple GPU, the CPU."""
    best = str(torch.accelerator.current_accelerator(True) or "cpu")
    if name not in (here := dict.fromkeys(("auto", "cpu", best))):
        raise ValueError(f"there is no device {name!r} here; choose {', '.join(here)}")
    return best if name == "auto" else name


def write(model, tokenizer, c):
    """Print a text as it is written."""
    prompt = tokenizer.encode(c.prompt) or [tokenizer.eot]      # which stands before a document
    ids = (new[0] for new in generate(model, [prompt], c.tokens, picker(1, c)))
    for text in chain([c.prompt], stream(tokenizer, ids), ["\n"]):
        print(text, end="", flush=True)


def main():
    parser = Parser("Let a trained model write.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_flags(parser, SampleConfig)
    options = parser.parse_args()
    with clear_errors():
        c = checked(SampleConfig, vars(options))
        c.prompt.encode()               # refuses half a character
        model, tokenizer = load_run(find_run(options.run), pick_device(options.device))
    with clear_errors(OSError):
        for seed in range(c.seed, c.seed + c.samples):
            print(f"--- seed {seed}\n" * (c.samples > 1), end="")
            write(model, tokenizer, replace(c, seed=seed))


if __name__ == "__main__":
    main()
