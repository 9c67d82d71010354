"""What the page is told is what eval.py, sample.py and the model say; and only the page is told."""
import json
import shutil
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from http.client import HTTPConnection

import numpy as np
import pytest
import torch

from beyond import anatomy, playground
from conftest import ENVIRONMENT, SMALL, command, inside, run
from eval import log_probs
from model import ARCHS, GPT, GPTConfig
from tokenizer import visible

BOTTLE = "10 green bott"        # a token each character, of 16 that there is room for


def serving(folder):
    server = playground.serve(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def server(trained):
    server = serving(trained / "runs/first")
    yield server
    server.shutdown()


def ask(server, path, question, **headers):
    """The status and the last line of what is answered."""
    there = HTTPConnection("127.0.0.1", server.server_port)
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    there.request("POST", path, body, {k.title(): v for k, v in headers.items()})
    answer = there.getresponse()
    return answer.status, json.loads(answer.read().splitlines()[-1])


def ids_of(server, text=BOTTLE):
    return server.run[1].encode(text)


def test_tokens_are_scored_as_by_eval(server):
    (status, found), (model, tokenizer) = ask(server, "/read", {"text": BOTTLE}), server.run
    ids = ids_of(server)
    [(log_p, targets)] = log_probs(model, np.array(ids))
    rows = found["tokens"]
    assert status == 200 and [row["id"] for row in rows] == ids and "nats" not in rows[0]
    assert "".join(row["text"] for row in rows) == BOTTLE and rows[0]["bytes"] == "31"
    nats = -log_p.gather(-1, targets[:, None])[:, 0]
    assert [row["nats"] for row in rows[1:]] == pytest.approx(nats.tolist(), abs=1e-5)
    for row, best in zip(rows[1:], log_p.argsort(descending=True), strict=True):
        five = [visible(tokenizer.vocab[i]) for i in best[:5]]
        assert [text for text, _ in row["expected"]] == five
    _, empty = ask(server, "/read", {"text": ""})       # a document begins
    assert [row["id"] for row in empty["tokens"]] == [tokenizer.eot]


def test_a_position_looks_back(server):
    model, ids = server.run[0], ids_of(server)
    maps = anatomy.attention_maps(model, torch.tensor(ids))             # (n_layer, H, T, T)
    logits = model(torch.tensor([ids]))[0]                              # (T, V)
    for at in (0, 5, len(ids) - 1):
        _, found = ask(server, "/look", {"ids": ids, "at": at})
        weights = torch.tensor(found["attention"])                      # (n_layer, H, at + 1)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
        torch.testing.assert_close(weights, maps[:, :, at, :at + 1])
        p, best = logits[at].softmax(-1).topk(5)
        assert [x for _, x in found["lens"][-1]] == pytest.approx(p.tolist(), abs=1e-5)
        assert [text for text, _ in found["lens"][-1]] == [visible(server.run[1].vocab[i])
                                                           for i in best]


def test_questions_at_once_do_not_mix(server):
    """As they would: to watch the model, /look puts watched operations in place of its own."""
    ids = ids_of(server)
    questions = [("/look", {"ids": ids, "at": n % 8}) if n % 2 else
                 ("/write", {"ids": ids[:9], "seed": n % 8}) for n in range(48)]
    alone = [ask(server, *question) for question in questions]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda question: ask(server, *question), questions)) == alone


@pytest.mark.parametrize("arch", ARCHS)
def test_the_lens_is_the_model_without_its_later_blocks(arch):
    shape = dict(vocab_size=40, context_length=16, n_layer=3, n_head=4, n_embd=32, ngram_rows=60)
    gpt, ids = GPT(GPTConfig(**shape | ARCHS[arch])), torch.randint(40, (1, 9))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    lens = anatomy.logit_lens(gpt, anatomy.operations(gpt, ids))        # (4, 9, 40)
    for n, logits in enumerate(lens):
        shorter = deepcopy(gpt)
        shorter.blocks = shorter.blocks[:n]
        torch.testing.assert_close(logits, shorter(ids)[0])
    assert n == 3


def test_each_strategy_cuts_in_its_turn(server):
    question = {"text": BOTTLE, "temperature": 0.5, "top_k": 4, "top_p": 1, "min_p": 0}
    p = server.run[0](torch.tensor([ids_of(server)]))[0, -1].double().softmax(-1)
    best, V = p.sort(descending=True).values, len(p)
    _, found = ask(server, "/next", question)
    assert [row["p"] for row in found["rows"]] == pytest.approx(best[:20].tolist(), rel=1e-4)
    four = (best[:4] ** 2 / (best[:4] ** 2).sum()).tolist()     # temperature 1/2: squared
    assert [row["left"] for row in found["rows"][:5]] == pytest.approx([*four, 0], rel=1e-4)
    assert [row["cut"] for row in found["rows"][:5]] == [""] * 4 + ["top_k"]
    assert list(found["kept"].values()) == [V, 4, 4, 4]
    _, found = ask(server, "/next", question | {"top_p": four[0] / 2, "temperature": 0.5})
    assert list(found["kept"].values()) == [V, 4, 1, 1] and found["rows"][1]["cut"] == "top_p"
    _, found = ask(server, "/next", question | {"min_p": 1})
    assert list(found["kept"].values()) == [V, 4, 4, 1] and found["rows"][1]["cut"] == "min_p"
    _, found = ask(server, "/next", question | {"temperature": 0})
    assert found["kept"]["temperature"] == 1 and found["rows"][1]["cut"] == "temperature"


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "top_k": 9, "seed": 3},
                                      {"temperature": 0}, {"top_p": 0.7, "min_p": 0.1, "seed": 2}])
def test_the_text_is_that_of_sample(server, trained, settings):
    """In one piece, and in three, each of which goes on from the tokens of the one before."""
    flags = [x for k, v in settings.items() for x in ("--" + k.replace("_", "-"), v)]
    for prompt in ("10 g", ""):
        expected = inside("sample.py", "first", "--prompt", prompt, "--tokens", 11, *flags,
                          cwd=trained)
        _, whole = ask(server, "/write", {"text": prompt, "tokens": 11} | settings)
        assert f"{prompt}{whole['text']}\n" == expected
        ids, n = ids_of(server, prompt) or [server.run[1].eot], 0
        for tokens in (1, 4, 6):
            _, part = ask(server, "/write", {"ids": ids, "drawn": n, "tokens": tokens} | settings)
            new = [token["id"] for token in part["new"]]
            ids, n = ids + new, n + len(new)
        assert part["text"] == whole["text"]
        assert ids[len(ids) - n:] == [token["id"] for token in whole["new"]]
    _, full = ask(server, "/write", {"text": "10 green bottle", "tokens": 50} | settings)
    assert len(full["new"]) == 1        # there is room for 16


def test_what_is_no_question_is_refused_in_one_line(server):
    rows = [("/read", b"{", "line 1"), ("/read", b"\xff", "utf-8"), ("/read", b"", "value"),
            ("/read", b"[" * 60_000, "recursion"), ("/read", [1], "question"),
            ("/else", {}, "question"), ("/read", {"text": 7}, "text"),
            ("/read", {"text": "\ud83d"}, "surrogate"), ("/read", {"ids": [True]}, "ids"),
            ("/read", {"ids": [10 ** 9]}, "ids"), ("/read", {"ids": [-1]}, "ids"),
            ("/look", {"ids": [3], "at": 1}, "position"), ("/look", {"ids": [3], "at": -1}, "at"),
            ("/write", {"ids": [3], "drawn": 1}, "position"), ("/write", {"seed": 1.5}, "seed"),
            ("/next", b'{"temperature": NaN}', "temperature"), ("/next", {"top_k": -1}, "top_k"),
            ("/read", {"text": "1" * 20}, "20 tokens are 4 more than fit (16)"),
            ("/read", {"text": "1" * 70_000}, "70,012 bytes")]
    for path, question, says in rows:
        status, found = ask(server, path, question)
        assert status == 400 and says in found["error"] and "\n" not in found["error"], found
        assert "Traceback" not in found["error"]


def test_only_the_page_itself_may_ask(server):
    port, question = server.server_port, {"text": "1"}
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert ask(server, "/read", question, host=host, origin=f"http://{host}")[0] == 200
    for headers in ({"host": f"evil.example:{port}"}, {"host": "127.0.0.1"}, {"host": ""},
                    {"origin": "http://evil.example"}, {"origin": "null"}):
        assert ask(server, "/read", question, **headers)[0] == 403, headers
    assert server.server_address[0] == "127.0.0.1"
    there = HTTPConnection("127.0.0.1", port)
    there.request("GET", "/")
    page = there.getresponse()
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and playground.NONCE in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff" and b"NONCE" not in page.read()


@pytest.mark.slow
def test_a_taken_port_and_ctrl_c(trained):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = command("beyond.playground", "first", "--no-browser", "--port", port)
        page = subprocess.Popen(arguments, cwd=trained, env=ENVIRONMENT, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, preexec_fn=lambda:
                                signal.signal(signal.SIGINT, signal.SIG_DFL))   # behind "&", too
        said = page.stdout.readline()
        assert int(said.split()[0].rpartition(":")[2]) > port
        page.send_signal(signal.SIGINT)
        assert page.communicate(timeout=20) == ("", "")
        assert page.returncode in (0, -signal.SIGINT)       # which a shell calls 130


# ---- In a real browser.

CONTRAST = """() => {           // the least of any text, on the strongest colours
    const pen = document.createElement("canvas").getContext("2d");
    const light = colour => {
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const part = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map(x => x / 255)
            .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2] + 0.05;
    };
    return Math.min(...[...document.querySelectorAll(".token, td, .pale")].map(node => {
        node.style.setProperty("--heat", 1);
        const style = getComputedStyle(node);
        const paper = getComputedStyle(node.closest("section, body"));
        const clear = style.backgroundColor === "rgba(0, 0, 0, 0)";
        const two = [style.color, (clear ? paper : style).backgroundColor].map(light);
        return Math.max(...two) / Math.min(...two);
    }));
}"""


@pytest.mark.slow
def test_in_chromium(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    if not (chromium := shutil.which("chromium")):
        pytest.skip("needs chromium")
    (tmp_path / "text.txt").write_text("10 green bottles hanging on the wall,\n" * 300)
    run("train.py", "--source", "text.txt", "--name", "bpe", "--steps", 30, *SMALL, "--tokenizer",
        "bpe", "--vocab-size", 290, "--context-length", 64, cwd=tmp_path)
    with playwright.sync_playwright() as p:
        server = serving(tmp_path / "runs/bpe")
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        see, tokens = playwright.expect, page.locator("#tokens .token")

        def type_text(text, shown):
            page.fill("#text", text)
            page.wait_for_function("""shown => shown === [...document.querySelectorAll(
                "#tokens .token")].map(token => token.textContent).join("")""", arg=shown)

        type_text("10 green b\N{BUG}", "10 green b\\xf0\\x9f\\x90\\x9b")    # bytes of a character
        tokens.nth(1).hover()
        see(page.locator("#token-title")).to_have_text("Token 2: " + tokens.nth(1).text_content()
                                                       .replace(" ", "\N{OPEN BOX}"))
        tokens.nth(1).focus()
        page.keyboard.press("ArrowRight")
        see(page.locator("#token-title")).to_contain_text("Token 3:")
        see(tokens.nth(2)).to_have_attribute("aria-selected", "true")
        see(page.locator("#strip .token")).to_have_count(3)
        see(page.locator("#lens tr")).to_have_count(3)          # embedding and two blocks
        page.locator("#strip .token").first.click()
        see(page.locator("#found")).to_contain_text("looks most at")

        type_text("10 green", "10 green")
        page.focus("#top_k")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        see(page.locator("#top_k-kept")).to_have_text("leaves 3 tokens")
        see(page.locator("#next .cut")).to_have_count(17)
        for name, n in (("step", 1), ("write", 21)):            # one, and twenty more
            page.fill("#count", "20")
            page.click(f"#{name}")
            expected = inside("sample.py", "bpe", "--prompt", "10 green", "--top-k", 3, "--tokens",
                              n, cwd=tmp_path)
            see(page.locator("#text")).to_have_value(expected[:-1])
            see(page.locator("#command")).to_contain_text(f"--tokens {n} --top-k 3")

        vocab = server.run[1].vocab
        attack = "<img src=x onerror=document.title='x'><script>0</script>"
        type_text(attack, attack)
        vocab[vocab.index(b" green")] = attack.encode()         # all of it as one token, too
        type_text("10 green", f"10{attack}")
        assert page.locator("img").count() == 0 and page.locator("script").count() == 1
        assert page.title() == "Playground: bpe" and said == []

        page.set_viewport_size({"width": 400, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") == 400
            assert page.evaluate(CONTRAST) >= 4.5
        page.fill("#text", "\x01" * 70)
        see(page.locator("#message")).to_have_text("70 tokens are 6 more than fit (64)")
        server.shutdown()
        server.server_close()
        page.fill("#text", "gone")
        see(page.locator("#message")).to_contain_text("has ended")
        browser.close()
