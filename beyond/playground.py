"""
Playground: a page in the browser that shows a model at work, on any run.

A text is shown as tokens, each coloured by its negative log-likelihood: how surprised the model is.
Of the token in focus one sees what was expected in its place; where each head of each layer looked
from it; and, by the logit lens, what would come next if the model stopped after a block. Then what
does come next, what each strategy of sample.py cuts away from it, and the text as it is written.

    python -m beyond.playground nano
    python -m beyond.playground smollm2 --port 8080 --no-browser

Paper: interpreting GPT: the logit lens (nostalgebraist, 2020).
"""
from beyond.anatomy import attention_weights, logit_lens, operations
from beyond.answers import copies
from beyond.probabilities import in_turn
from data import checked, load_corpus
from model import Cache
from sample import SampleConfig, find_run, generate, load_run, picker, read_config, stream
from tokenizer import Parser, clear_errors, visible

import contextlib
import html
import json
import secrets
import threading
import webbrowser
from dataclasses import asdict, dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import torch

ROOM, BODY = 1024, 1 << 16      # tokens that a text, and bytes that a question, may have


@dataclass
class Question(SampleConfig):
    """What the page asks with: the settings of sample.py, and these."""
    text: str = ""
    ids: list = ()      # its tokens, instead of the text
    at: int = 0         # the position in focus
    drawn: int = 0      # how many of the last tokens were drawn with these settings


def check(q, model, tokenizer):
    """Turn the text of a question into ids; raise ValueError if it cannot be answered."""
    V, T = model.config.vocab_size, model.config.context_length
    q.text.encode()                             # refuses half a character
    q.ids = tuple(q.ids or tokenizer.encode(q.text) or [tokenizer.eot])     # begins a document
    if not all(type(i) is int and 0 <= i < V for i in q.ids) or max(q.at, q.drawn) >= len(q.ids):
        raise ValueError("the question has ids, or a position among them, that are not there")
    if len(q.ids) > T:
        raise ValueError(f"{len(q.ids):,} tokens are {len(q.ids) - T:,} more than fit ({T:,})")


@lru_cache(maxsize=1)       # several questions are about one text
@torch.inference_mode()
def read(model, ids):
    """The logits (T, V) after each token of a text, and the KV cache."""
    cache = Cache(model.config, 1, len(ids), "cpu")
    return model(torch.tensor([ids]), cache)[0], cache


def five(tokenizer, logits):
    """The five most probable tokens by logits (V,): their texts and probabilities."""
    p, ids = torch.softmax(logits.float(), dim=-1).topk(min(5, len(logits)))    # (5,) each
    return [(visible(tokenizer.vocab[i]), x) for i, x in zip(ids.tolist(), p.tolist())]


def tokens(q, model, tokenizer):
    """Each token; and, of all but the first, how surprising it was and what was expected."""
    rows = [{"id": i, "text": visible(tokenizer.vocab[i]), "bytes": tokenizer.vocab[i].hex(" ")}
            for i in q.ids]
    for row, logits in zip(rows[1:], read(model, q.ids)[0]):                    # (V,)
        row["nats"] = -torch.log_softmax(logits.float(), dim=-1)[row["id"]].item()
        row["expected"] = five(tokenizer, logits)
    return {"tokens": rows}


@torch.inference_mode()
def look(q, model, tokenizer):
    """From one position: where each head looked, and what the model would say after each block."""
    cache = copies(model, read(model, q.ids)[1], 0, q.at, 1, 1)
    done = operations(model, torch.tensor([q.ids[q.at:q.at + 1]]), cache)
    return {"attention": attention_weights(done)[:, :, 0].tolist(),     # (n_layer, H, at + 1)
            "lens": [five(tokenizer, logits[0]) for logits in logit_lens(model, done)]}


def following(q, model, tokenizer):
    """What comes next: p by the model, left by the strategies; which cut it; how many each kept."""
    logits = read(model, q.ids)[0][-1:].double()                                    # (1, V)
    p, best = torch.softmax(logits[0], dim=-1).topk(min(20, logits.shape[-1]))      # (20,) each
    names = ("temperature", "top_k", "top_p", "min_p")
    turns = in_turn(logits, q.ids, {name: getattr(q, name) for name in names})
    left = torch.softmax(turns["min_p"][0], dim=-1)                                 # (V,)
    rows = [{"text": visible(tokenizer.vocab[i]), "p": x, "left": left[i].item(),
             "cut": next((name for name in names if turns[name][0, i].isinf()), "")}
            for i, x in zip(best.tolist(), p.tolist())]
    return {"rows": rows, "kept": {name: x.isfinite().sum().item() for name, x in turns.items()}}


def write(q, model, tokenizer):
    """Go on, as sample.py does: after each token yield all new ones, and the text of all drawn."""
    pick, new, text = picker(1, q), [], ""
    for _ in range(q.drawn):
        pick(torch.zeros(1, model.config.vocab_size))       # uses up the random numbers of one
    n = min(q.tokens, model.config.context_length - len(q.ids))     # so no window ever slides
    more = (new.append(i) or i for i, in generate(model, [q.ids], n, pick))
    for piece in stream(tokenizer, chain(q.ids[len(q.ids) - q.drawn:], more)):
        text += piece
        yield {"new": [{"id": i, "text": visible(tokenizer.vocab[i])} for i in new], "text": text}


ANSWERS = {"/read": tokens, "/look": look, "/next": following, "/write": write}
NONCE = secrets.token_urlsafe()     # the browser runs the script, and uses the style, that know it
POLICY = ("default-src 'none'; connect-src 'self'; img-src data:; frame-ancestors 'none'; "
          f"style-src 'nonce-{NONCE}'; script-src 'nonce-{NONCE}'")


class Handler(BaseHTTPRequestHandler):
    timeout, log_message = 60, lambda *_: None      # seconds to wait; nothing is printed

    def handle(self):
        with contextlib.suppress(ConnectionError, TimeoutError):    # the browser has gone
            super().handle()

    def reply(self, status, parts, kind="application/json"):
        self.send_response(status)
        for header in (("Content-Type", f"{kind}; charset=utf-8"), ("Cache-Control", "no-store"),
                       ("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", POLICY)):
            self.send_header(*header)
        self.end_headers()
        for part in parts:
            self.wfile.write((part if kind == "text/html" else json.dumps(part) + "\n").encode())

    def do_GET(self):
        host, origin = self.headers["Host"], self.headers["Origin"]
        if host not in self.server.hosts or origin not in (None, f"http://{host}"):
            self.reply(403, [{"error": "only the page itself may ask"}])
        elif self.command == "POST":
            self.answer()
        else:
            self.reply(200, [self.server.page], "text/html")

    do_POST = do_GET

    def answer(self):
        try:
            body = self.rfile.read(min(abs(int(self.headers["Content-Length"] or 0)), 256 * BODY))
            if len(body) > BODY:
                raise ValueError(f"{len(body):,} bytes are more than a question may have: {BODY:,}")
            settings = json.loads(body)
            if type(settings) is not dict or self.path not in ANSWERS:
                raise ValueError("that is no question of the page's")
            check(q := checked(Question, settings), *self.server.run)
        except (ValueError, RecursionError) as error:
            return self.reply(400, [{"error": str(error)}])
        with self.server.lock:                  # one question at a time
            found = ANSWERS[self.path](q, *self.server.run)
            self.reply(200, [found] if type(found) is dict else found)


def serve(folder, port):
    """A server for a run, on this port or the next that is free."""
    model, tokenizer = run = load_run(folder)
    n = model.config.context_length = min(model.config.context_length, ROOM)
    about = asdict(model.config) | asdict(SampleConfig()) | {"run": folder.name, "example": ""}
    with contextlib.suppress(ValueError, OSError):      # its corpus need not be here
        val = load_corpus(read_config(folder)["corpus"]["folder"], tokenizer).val
        about["example"] = tokenizer.decode(i for i in val[:min(n, 48)] if i != tokenizer.eot)
    server = None
    while not server:
        with contextlib.suppress(OSError):              # a port may be taken
            server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        port += 1
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8").replace("NONCE", NONCE)
    server.page = page.replace("ABOUT", html.escape(json.dumps(about)))
    server.run, server.lock = run, threading.Lock()
    server.hosts = [f"{name}:{server.server_port}" for name in ("127.0.0.1", "localhost")]
    return server


def main():
    parser = Parser("Show a model at work, on a page in the browser. Ctrl-C ends it.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--port", type=int, default=8000, help="or the next free (default: 8000)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    options = parser.parse_args()
    with clear_errors((ValueError, OSError, OverflowError)):    # of a port above 65,535
        server = serve(find_run(options.run), options.port)
    print(f"http://{server.hosts[0]} shows it; Ctrl-C ends it")
    options.no_browser or threading.Timer(0, webbrowser.open, [f"http://{server.hosts[0]}"]).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
