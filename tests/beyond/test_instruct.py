"""What is read, asked and held out; two more tokens; and the way from a base model to a chat."""
import io
import json
import math
import sys

import pytest
import torch
import torch.nn.functional as F

import train
from beyond.chat import END, START
from beyond.instruct import encode, held_out, judge, read, with_turns
from beyond.lora import load_adapter
from beyond.packing import pack
from conftest import SMALL, TEXT, inside, one_line
from model import ARCHS, GPT, GPTConfig
from sample import load_run
from tokenizer import BPETokenizer, load

ROWS = [{"instruction": "Say it.", "input": " hé ", "output": "hé"},
        {"instruction": "Stop", "input": "", "output": "  I do.\n"}]


def small(words, arch="modern", T=64):
    torch.manual_seed(1)
    model = GPT(GPTConfig(**dict(vocab_size=words.vocab_size, context_length=T, n_layer=2, n_head=2,
                                 n_embd=16, ngram_rows=99) | ARCHS[arch]))
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model.eval()


def test_alpaca_and_dolly_are_read_alike(tmp_path):
    dolly = [{"instruction": row["instruction"], "context": row["input"],
              "response": row["output"], "category": "x"} for row in ROWS]
    for name, text in (("a.json", json.dumps(ROWS, indent=1)), ("d.jsonl", "\n\n".join(
            json.dumps(row, ensure_ascii=False) for row in dolly))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read(tmp_path / name) == [("Say it.\nhé", "hé"), ("Stop", "I do.")]


def test_the_answer_is_asked_for_and_nothing_else():
    words = BPETokenizer([*BPETokenizer.train([TEXT], 300).vocab, START, END])
    pairs = [("Sing <|im_end|>", "9 green bottles"), ("", "on the wall"), ("no", "")]
    examples = encode(words, pairs, 64)
    texts = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>"
             for q, a in pairs[:2]]
    assert [words.decode(e.ids) for e in examples] == texts
    assert [words.decode(e.ids[e.n:]) for e in examples] == [f"{a}<|im_end|>" for _, a in pairs[:2]]
    assert examples[0].ids.count(words.vocab.index(END)) == 2       # what was typed is text
    n, (whole, _) = examples[0].n, examples
    for T in (n, len(whole.ids) - 2):       # one token of the answer, or all but <|im_end|>
        assert encode(words, pairs, T)[0].ids == whole.ids[:T + 1]
    assert encode(words, pairs, len(whole.ids) - 1)[0].ids == whole.ids
    assert [e.question for e in encode(words, pairs, n - 1)] == [""]


def test_a_tenth_is_held_out_and_no_question_is_in_both_parts():
    questions = [f"What is {n} times {n}?" for n in range(4000)]
    out = [held_out(q) for q in questions]
    assert abs(sum(out) - 400) < 5 * math.sqrt(4000 * 0.1 * 0.9)
    assert out == [held_out(f" {q.upper()}\n") for q in questions]


@pytest.mark.parametrize("arch", ARCHS)
def test_two_more_tokens_change_little(arch, tmp_path):
    """No logit of before; the two have the mean of all, and nobody can type them."""
    words = BPETokenizer.train([TEXT, "<|im_start|> <|im_end|>" * 99], 300)
    model = small(words, arch)
    grown, more = with_turns(model, words)
    ids = torch.randint(words.vocab_size, (2, 9))
    with torch.no_grad():
        a, b = model(ids), grown(ids)
        torch.testing.assert_close(b[..., :-2], a)
        torch.testing.assert_close(b[..., -2:], a.mean(dim=-1, keepdim=True).expand(2, 9, 2))
        assert grown(ids + 2).isfinite().all()
    assert grown.config.vocab_size == more.vocab_size == words.vocab_size + 2
    assert more.vocab[:-2] == words.vocab and more.vocab[-2:] == [START, END]
    text = "<|im_start|>user <|im_end|>"
    assert max(more.encode(text)) < words.vocab_size and more.encode(text) == words.encode(text)
    more.save(tmp_path / "t.json")
    assert load(tmp_path / "t.json").saved == more.saved
    assert with_turns(grown, more)[0] is grown


def test_perplexity_is_of_the_answers_text():
    words = BPETokenizer([*BPETokenizer.train([TEXT], 300).vocab, START, END])
    model, end = small(words), words.vocab.index(END)
    examples = encode(words, [(f"Count {n}", f"{n} green bottles" * (1 + n % 3))
                              for n in range(30)], 64)
    found = judge(model, words, pack([(e.ids, e.n) for e in examples], 64, words.eot), examples[:3])
    nll = torch.cat([F.cross_entropy(model(torch.tensor([e.ids[:-1]]))[0, e.n - 1:],
                                     torch.tensor(e.ids[e.n:]), reduction="none")
                     for e in examples]).detach()
    text = torch.tensor([i != end for e in examples for i in e.ids[e.n:]])
    assert found["perplexity"] == pytest.approx(nll[text].mean().exp().item(), rel=1e-5)
    assert found["p_end"] == pytest.approx((-nll[~text]).exp().mean().item(), rel=1e-5)
    assert found["interval"][0] < found["perplexity"] < found["interval"][1]
    for e, said in zip(examples, found["answers"]):     # greedy, token by token
        ids = list(e.ids[:e.n])
        while len(ids) < min(64, e.n + 60) and ids[-1] not in (end, words.eot):
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
        assert said.startswith(words.decode([i for i in ids[e.n:] if i not in (end, words.eot)]
                                            ).rstrip("\N{REPLACEMENT CHARACTER}"))


def test_from_a_base_model_to_a_chat_and_on_by_lora(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "draw_curve", lambda folder, _: (folder / "loss.png").touch())
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    inside("train.py", "--source", "text.txt", "--name", "base", *SMALL, "--tokenizer", "bpe",
           "--vocab-size", 300, "--steps", 5, "--context-length", 64, cwd=tmp_path)
    rows = [{"instruction": f"How many? {n}", "context": "", "response": f"{n} green bottles"}
            for n in range(150)]
    rows[3]["response"], rows[4]["response"] = "", "on the wall " * 40
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = ["--data", "d.jsonl", "--window", 64, "--device", "cpu", "--json"]
    full = ["beyond.instruct", "base", *flags, "--steps", 60, "--learning-rate", "1e-2"]
    found = json.loads(inside(*full, cwd=tmp_path))
    n = sum(held_out(row["instruction"]) for row in rows if row["response"])
    assert found["held_out"] == n and found["learned"] == 149 - n
    assert found["cut"] == found["left_out"] == 1 and len(found["asked"]) <= 10
    assert found["after"]["perplexity"] < 0.2 * found["before"]["perplexity"]
    assert found["after"]["p_end"] > 0.5 > 0.1 > found["before"]["p_end"]
    assert "green bottles" in found["after"]["answers"][0]
    assert json.loads(inside(*full, cwd=tmp_path)) == found         # nothing is left to learn
    assert "other settings" in one_line(
        *full[:2], *flags[:-1], "--steps", 61, cwd=tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("How many? 12\n"))
    said = inside("beyond.chat", "taught", "--tokens", 20, "--temperature", 0, cwd=tmp_path)
    assert "green bottles" in said and "never taught" not in said
    inside("eval.py", "taught", "--text", "text.txt", cwd=tmp_path)

    lora = ["beyond.instruct", "taught", *flags, "--lora", 4, "--steps", 5, "--name", "mine"]
    found = json.loads(inside(*lora, cwd=tmp_path))
    runs, ids = tmp_path / "runs", torch.randint(300, (2, 30))
    base, merged = (load_run(runs / name)[0] for name in ("taught", "mine"))
    adapted = load_adapter(load_run(runs / "taught")[0], runs / "mine/adapter").eval()
    torch.testing.assert_close(adapted(ids), merged(ids), atol=1e-5, rtol=1e-4)
    assert (merged(ids) - base(ids)).abs().max() > 1e-3
    assert (runs / "mine/metrics.jsonl").read_text().count("\n") == 5
    assert "taken" in one_line(*lora[:-1], "base", cwd=tmp_path)
    assert "two tokens" in one_line("beyond.instruct", "base", *lora[2:], cwd=tmp_path)
