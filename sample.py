"""
Sampling: a model that scores the next token becomes a writer, one token at a time.

The model says how likely every token is to come next. Pick one, put it at the end of the text,
ask again. How to pick is the only choice there is:

    greedy          always the likeliest: sure of itself, and soon going round in circles
    temperature t   at random, by the model's own probabilities, after dividing the logits by t:
                    t < 1 makes likely tokens likelier (safer), t > 1 evens them out (wilder)

    python sample.py                                          # the newest run, 500 tokens
    python sample.py runs/nano --prompt "ROMEO" --temperature 0.5
    python sample.py --greedy --tokens 200
    python sample.py --pretrained gpt2 --prompt "To be"       # OpenAI's GPT-2
"""
import codecs
import json
import sys
from pathlib import Path

import torch

import tokenizer
from data import Parser, clear_errors
from model import GPT, GPTConfig

RUNS = Path("runs")     # train.py keeps its runs here, one folder each

# ------------------------------------------------------------------------------------------
# A run on disk: config.json, tokenizer.json, and checkpoints best.pt and last.pt.


def find_run(name=None):
    """The folder of a run: from its path, its name in runs/, or, given neither, the newest."""
    if name:
        for folder in (Path(name), RUNS / name):
            if folder.is_dir():
                return folder
        raise ValueError(f"there is no run {name}")
    checkpoints = sorted(RUNS.glob("*/last.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise ValueError(f"there is no trained model in {RUNS}/ yet; python train.py makes one")
    return checkpoints[-1].parent


def load_checkpoint(path):
    """The content of a checkpoint, on the CPU. weights_only: it can hold data, never code."""
    if not path.exists():
        raise ValueError(f"there is no checkpoint {path}: the run stopped before its first one")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return {key: checkpoint[key] for key in ("model_config", "model")} | checkpoint
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        instead = "; without it, last.pt is used" if path.name == "best.pt" else ""
        raise ValueError(f"{path} is not a whole checkpoint ({reason[:80]}){instead}") from None


def read_config(folder, name="config.json"):
    """The settings of a run: a dict of dicts, data, model, train and corpus."""
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {part: config[part] for part in ("data", "model", "train", "corpus")}
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold the settings of a run ({error})") from None


def load_run(folder, device="cpu"):
    """The best model of a run (the last, if it has no best yet) and its tokenizer."""
    best, last = folder / "best.pt", folder / "last.pt"
    checkpoint = load_checkpoint(best if best.exists() else last)
    tokens = tokenizer.load(folder / "tokenizer.json")
    try:
        model = GPT(GPTConfig(**checkpoint["model_config"]))
        model.load_state_dict(checkpoint["model"])
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the checkpoint in {folder} does not fit this model.py "
                         f"({str(error).splitlines()[0][:80]})") from None
    return model.to(device).eval(), tokens


def pick_device(name):
    """auto takes the best there is: an NVIDIA GPU, an Apple GPU, the CPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    if name == "auto":
        return next(device for device in there if there[device])
    if name.split(":")[0] not in there:
        raise ValueError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if not there[name.split(":")[0]]:
        raise ValueError(f"this PyTorch sees no {name} device; --device auto takes what there is")
    return name


# ------------------------------------------------------------------------------------------
# How to pick the next token: from logits (B, V) to ids (B,).


def greedy(logits):
    return logits.argmax(dim=-1)                                            # (B,)


def temperature(logits, t, generator=None):
    """A draw from softmax(logits / t). t must be above 0; as it nears 0 this becomes greedy."""
    logits = logits.float() - logits.max(dim=-1, keepdim=True).values       # (B, V), all <= 0
    probabilities = torch.softmax(logits / t, dim=-1)                       # (B, V)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]   # (B,)


@torch.inference_mode()
def generate(model, ids, n_tokens, pick):
    """Yield n_tokens ids that continue ids, one at a time; pick turns logits into an id.

    The model reads each token once and keeps what attention will ask of it in a cache. It sees
    at most context_length tokens: of a longer text, the end, read anew for every token, since
    each has moved to another place.
    """
    longest = model.config.context_length
    text = torch.tensor([ids], device=next(model.parameters()).device)      # (1, T)
    cache, unread = model.new_cache(1, text.shape[1] + n_tokens), text[:, -longest:]
    for _ in range(n_tokens):
        if text.shape[1] > longest:
            cache, unread = None, text[:, -longest:]                        # (1, longest)
        next_id = pick(model(unread, cache, last_only=True)[:, -1])         # (1,)
        unread = next_id[:, None]                                           # (1, 1)
        text = torch.cat([text[:, -longest:], unread], dim=1)               # (1, T + 1)
        yield next_id.item()


def stream(tokens, ids):
    """The text of ids as they come; a character is held back until all its bytes are there."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for i in ids:
        yield decoder.decode(tokens.token_bytes(i))
    yield decoder.decode(b"", final=True)


def main():
    parser = Parser("Let a trained model write.")
    parser.add_argument("run", nargs="?", help="folder of the run (default: the newest)")
    parser.add_argument("--pretrained", metavar="PATH",
                        help="instead of a run: GPT-2's weights, a folder or gpt2, gpt2-medium, "
                             "gpt2-large, gpt2-xl")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to go on from")
    parser.add_argument("--prompt-file", metavar="FILE", help="the same, from a file")
    parser.add_argument("--tokens", type=int, default=500, metavar="N",
                        help="how many tokens to write (default: 500)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    how.add_argument("--temperature", type=float, default=0.8, metavar="T",
                     help="below 1 safer, above 1 wilder, 0 is greedy (default: 0.8)")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="another seed, another text; the same seed, the same (default: 1)")
    parser.add_argument("--samples", type=int, default=1, metavar="N",
                        help="how many texts to write (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    options = parser.parse_args()

    with clear_errors():
        if options.tokens < 1 or options.samples < 1:
            raise ValueError("--tokens and --samples must be at least 1")
        if not 0 <= options.temperature < float("inf"):
            raise ValueError(f"--temperature is {options.temperature}; it must be 0 or more")
        device = pick_device(options.device)
        if options.pretrained and options.run:
            raise ValueError("name a run or --pretrained weights, not both")
        if options.pretrained:
            from pretrained import load_gpt2_tokenizer      # further down the order
            tokens = load_gpt2_tokenizer(options.pretrained)
            model = GPT.from_pretrained(options.pretrained).to(device).eval()
        else:
            model, tokens = load_run(find_run(options.run), device)
        prompt = options.prompt
        if options.prompt_file:
            prompt = Path(options.prompt_file).read_text(encoding="utf-8")
        ids = tokens.encode(prompt) or tokens.separator or [0]

    if tokens.unk is not None and prompt:
        strange = {s for s in tokens.pattern.findall(prompt) if tokens.unk in tokens.encode(s)}
        if strange:
            print(f"sample.py: the model has never seen {', '.join(map(repr, sorted(strange)))}; "
                  "it reads <unk> there", file=sys.stderr)
    for i in range(options.samples):
        generator = torch.Generator(device).manual_seed(options.seed + i)
        pick = (greedy if options.greedy or options.temperature == 0 else
                lambda logits: temperature(logits, options.temperature, generator))
        if options.samples > 1:
            print(f"--- seed {options.seed + i}")
        print(prompt, end="")
        try:
            for text in stream(tokens, generate(model, ids, options.tokens, pick)):
                print(text, end="", flush=True)
        except KeyboardInterrupt:
            break
        finally:
            print()


if __name__ == "__main__":
    main()
