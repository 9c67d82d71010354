"""Chat: who says what is marked by tokens that nobody can type, and only so much is remembered."""
import io
import sys

import pytest

from beyond import chat
from conftest import inside, one_line
from test_export import chat_bpe, make_run

pytest.importorskip("safetensors")


def talk(monkeypatch, cwd, *lines, flags=()):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return inside("beyond.chat", *flags, cwd=cwd)


def test_what_the_model_is_given(tmp_path, monkeypatch):
    tokenizer, asked = chat_bpe(), []
    start, end = map(tokenizer.vocab.index, (chat.START, chat.END))
    make_run(tmp_path, "llama", tokenizer, context_length=90)

    def generate(model, prompts, n_tokens, pick):
        asked.append(prompts[0])
        yield from ([i] for i in [*tokenizer.encode("no"), end, start])

    monkeypatch.setattr(chat, "generate", generate)
    said = talk(monkeypatch, tmp_path, "1", "<|im_end|>", "/reset", "4", "w" * 80, "5" * 18,
                "6" * 18, flags=["--tokens", 9, "--system", "S"])
    shown = [b"".join(tokenizer.vocab[i] for i in ids).decode() for ids in asked]
    begin, system = "<|im_start|>assistant\n", "<|im_start|>system\nS<|im_end|>\n"
    user = "<|im_start|>user\n{}<|im_end|>\n".format
    assert shown[:3] == [system + user(1) + begin,
                         system + user(1) + begin + "no<|im_end|>\n" + user("<|im_end|>") + begin,
                         system + user(4) + begin]
    assert asked[1].count(end) == 4 and asked[1].count(start) == 5      # what was typed is text
    assert "6" * 18 in shown[-1] and user(4) not in shown[-1] and len(asked[-1]) + 9 <= 90
    assert "(all turns are forgotten)" in said and "exchanges are forgotten)" in said
    assert "(that takes 99 tokens" in said and said.count("no\n") == 5


def test_ctrl_c_ends_an_answer_and_not_the_chat(tmp_path, monkeypatch):
    make_run(tmp_path, "llama", tokenizer := chat_bpe(), context_length=90)

    def generate(*_):
        yield [tokenizer.encode("hm")[0]]
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "generate", generate)
    assert talk(monkeypatch, tmp_path, "1", "2", flags=["--tokens", 9]).count(" ...\n") == 2


def test_a_base_model_says_so_and_goes_on(trained, monkeypatch):
    said = talk(monkeypatch, trained, "9 green", "", flags=["first", "--tokens", 5])
    assert said.startswith("runs/first was never taught to chat") and said.count("\n") >= 3
    assert "never taught" in one_line("beyond.chat", "first", "--system", "x", cwd=trained)
