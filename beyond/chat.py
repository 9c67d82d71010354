"""
Chat: a model that was taught to take turns takes them with you.

To a language model a conversation is one text, in which each turn begins and ends with a special
token (ChatML; OpenAI, 2022), and it goes on with the text after "assistant":

    <|im_start|>user
    Who wrote Hamlet?<|im_end|>
    <|im_start|>assistant
    William Shakespeare.<|im_end|>

It reads all of it for each answer: that is its whole memory. What no longer fits into its context
is let go, the oldest turns first. What you type is text: if you type <|im_end|>, it is six tokens
of text and ends no turn. Models whose turns look otherwise (Llama 3's) only continue what you type,
as do models that were never taught to chat.

    python -m beyond.chat smollm2
    python -m beyond.chat smollm2 --system "Answer in one sentence." --temperature 0

Ctrl-C stops an answer, /reset forgets all turns, Ctrl-D or Ctrl-C at the prompt ends the chat.
"""
import sys
from dataclasses import replace

from data import add_flags, checked
from sample import SampleConfig, find_run, generate, load_run, pick_device, picker, stream
from tokenizer import Parser, clear_errors

try:
    import readline     # noqa: F401, then arrow keys work in input()
except ImportError:     # Windows has its own
    pass

START, END = b"<|im_start|>", b"<|im_end|>"
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
            "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def can_chat(tokenizer):
    return START in tokenizer.vocab and END in tokenizer.vocab


def closed(tokenizer, ids):
    """What was said (ids), ended as a turn is, however it has ended."""
    end = tokenizer.vocab.index(END)
    return [*(i for i in ids if i not in (end, tokenizer.eot)), end, *tokenizer.encode("\n")]


def turn(tokenizer, role, text=None):
    """The ids of one turn; without a text, of the beginning of one. TEMPLATE says the same."""
    begun = [tokenizer.vocab.index(START), *tokenizer.encode(f"{role}\n")]
    return begun if text is None else begun + closed(tokenizer, tokenizer.encode(text))


def fit(history, ids, room):
    """The exchanges that still have room before ids, the latest ones, and how many had to go."""
    kept = list(history)
    while kept and sum(map(len, [*kept, ids])) > room:
        del kept[0]
    if len(ids) > room:
        raise ValueError(f"that takes {len(ids):,} tokens, and beside an answer there is room for "
                         f"{max(room, 0):,}: say less, or give fewer --tokens to the answer")
    return kept, len(history) - len(kept)


def answer(model, tokenizer, ids, c):
    """Print what follows ids, as it is written, until it ends or Ctrl-C; return its ids."""
    written = []
    heard = (written.append(new) or new for new, in generate(model, [ids], c.tokens, picker(1, c)))
    try:
        for text in stream(tokenizer, heard):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(" ...", end="")
    print()
    return written


def main():
    parser = Parser("Chat with a model. Ctrl-C stops an answer, /reset forgets all turns, Ctrl-D "
                    "ends.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--system", default="", help="what the model is told before all else")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_flags(parser, SampleConfig)
    options = parser.parse_args()
    with clear_errors():
        c, system, folder = checked(SampleConfig, vars(options)), [], find_run(options.run)
        if c.prompt or c.samples > 1:
            raise ValueError("--prompt and --samples have no use here: type what you want to say")
        options.system.encode()         # refuses half a character
        model, tokenizer = load_run(folder, pick_device(options.device))
        chats, history, room = can_chat(tokenizer), [], model.config.context_length - c.tokens
        if not chats and options.system:
            raise ValueError(f"{folder} was never taught to chat: --system has no use")
        if not chats:
            print(f"{folder} was never taught to chat: it goes on with what you type.")
        if options.system:
            system = turn(tokenizer, "system", options.system)
        fit([], system, room)
        begin = turn(tokenizer, "assistant") if chats else []
        while True:
            try:
                said = input("> " if sys.stdin.isatty() else "")
            except EOFError:
                break
            said.encode()               # refuses half a character
            if said.strip() == "/reset":
                history = []
                print("(all turns are forgotten)")
                continue
            ids = (turn(tokenizer, "user", said) if chats else tokenizer.encode(said)) + begin
            ids = ids or [tokenizer.eot]        # which stands before a document
            try:
                history, gone = fit(history, ids, room - len(system))
            except ValueError as error:
                print(f"({error})")
                continue
            if gone:
                print(f"(the context is full: the oldest {gone} exchanges are forgotten)")
            written = answer(model, tokenizer, system + sum(history, []) + ids,
                             replace(c, seed=c.seed + len(history)))
            history.append(ids + (closed(tokenizer, written) if chats else written))


if __name__ == "__main__":
    main()
