"""Shared in any way, a model learns what one process's does; its ranks keep and send what is said."""
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import data
from beyond import parallel, pipeline, plan
from conftest import ENVIRONMENT, TEXT, one_line, run
from model import ARCHS, GPT, GPTConfig

FLAGS = ["--source", "text.txt", "--vocab-size", "300", "--n-embd", "32", "--context-length", "32",
         "--ngram-rows", "64", "--batch-size", "8", "--micro-batches", "4"]


def shared(ranks, arch, steps, cwd):
    """The rows that torchrun prints, by way; one process's losses are worked out here, anew."""
    (cwd / "text.txt").write_text(TEXT, encoding="utf-8")
    rows = run("torch.distributed.run", "--standalone", "--nproc_per_node", ranks, "-m",
               "beyond.parallel", *FLAGS, "--arch", arch, "--steps", steps, "--json", cwd=cwd)[0]
    rows = {row["way"]: row for row in map(json.loads, rows.splitlines())}
    c = GPTConfig(**ARCHS[arch] | parallel.SMALL | dict(vocab_size=300, n_embd=32, mlp_width=0,
                                                        context_length=32, ngram_rows=64))
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        gpt, losses = GPT(c), []
        optimizer = torch.optim.AdamW(gpt.parameters(), 1e-3, weight_decay=0.1)
        tokens = data.load_corpus(next(cwd.glob("corpora/*"))).train
        for step in range(steps):
            ids, targets = data.batch(tokens, 8, 32, 1, step)
            loss = torch.nn.functional.cross_entropy(gpt(ids).flatten(0, 1), targets.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    finally:
        torch.set_default_dtype(torch.float32)
    return rows, losses


def check(rows, losses, ranks):
    assert [*rows] == [*parallel.WAYS] and losses[-1] < losses[0]
    for way, row in rows.items():
        assert row["losses"] == pytest.approx(losses, abs=1e-12), way
        assert row["weights_differ"] < 1e-10 and len(row["ranks"]) == ranks, way
        for rank, found in enumerate(row["ranks"]):
            for key, close in (("states", 1e-12), ("sent", 1e-12), ("activations", 0.05)):
                assert found[key] == pytest.approx(found["formula"][key], rel=close), (way, rank)


def test_two_ranks_learn_what_one_learns(tmp_path):
    check(*shared(2, "modern", 3, tmp_path), 2)
    assert (tmp_path / "parallel.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("arch", ARCHS)
def test_any_number_of_ranks_learns_what_one_learns(arch, ranks, tmp_path):
    rows, losses = shared(ranks, arch, 20, tmp_path)
    check(rows, losses, ranks)
    whole = rows["alone"]["ranks"][0]["states"]
    assert sum(rank["states"] for rank in rows["sharded"]["ranks"]) / whole < 1.01
    gpipe, one = [[rank["activations"] for rank in rows[way]["ranks"]] for way in ("gpipe", "1f1b")]
    for rank in range(ranks):           # it holds R - r micro-batches of four
        assert one[rank] == pytest.approx(gpipe[rank] * (ranks - rank) / 4, rel=0.03)


LOOPBACK = """
import fcntl, re, socket, struct, subprocess, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 73))    # the device is up
for steps in ("1", "6"):
    subprocess.run([*sys.argv[1:], "--steps", steps], check=True)
    print(re.search(r"lo: *([0-9]+)", open("/proc/net/dev").read())[1], flush=True)
"""


@pytest.mark.slow
def test_the_kernel_counts_the_same_bytes(tmp_path):
    """In a network of its own, what the loopback device carries. (Not sharded: gloo's reduce_scatter
    is an all_reduce.)"""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rn", "true"]).returncode:
        pytest.skip("no network of one's own here")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
                "--master_addr", "127.0.0.1", "--master_port", "29511", "-m", "beyond.parallel",
                "data", "tensor", "1f1b", *FLAGS, "--json"]
    done = subprocess.run(["unshare", "-rn", sys.executable, "-c", LOOPBACK, *torchrun], text=True,
                          cwd=tmp_path, env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "lo"},
                          capture_output=True)
    lines = done.stdout.splitlines()
    one, *_, six = [int(line) for line in lines if line.isdigit()]
    said = sum(rank["sent"] for line in lines[:4] for rank in json.loads(line)["ranks"])
    carried = (six - one - one) / 5                             # in a step, of six less one
    assert said <= carried <= 1.05 * said, done.stderr          # headers are in it, too


@pytest.mark.parametrize("M, R", [(8, 4), (4, 2), (3, 3), (1, 2), (2, 4)])
def test_the_bubble_is_what_the_formula_says(M, R):
    """If each forward lasts one unit of time, each backward two; and what is held is M, or R - r."""
    for name in ("gpipe", "1f1b"):
        ranks, most = [], []
        for r in range(R):
            turns, held, n = pipeline.schedule(M, M if name == "gpipe" else R - r), [], 0
            assert sorted(turns) == sorted((w, m) for w in ("forward", "backward")
                                           for m in range(M))
            for what, m in turns:
                n += 1 if what == "forward" else -1
                held.append(n)
            most.append(max(held))
            ranks.append([(w, m, 0.0, 0.0, 1.0 if w == "forward" else 2.0) for w, m in turns])
        assert most == [M if name == "gpipe" else min(M, R - r) for r in range(R)]
        laid = pipeline.own_cores(ranks)
        assert pipeline.bubble(laid) == pytest.approx((R - 1) / (M + R - 1)), name
        assert max(turns[-1][3] for turns in laid) == 3 * (M + R - 1)


def test_gradients_are_sent_while_backward_computes(monkeypatch):
    """When the last block's are on their way, the first block's are not there yet."""
    missing = []

    def all_reduce(x, async_op):
        missing.append([name for name, p in gpt.named_parameters() if p.grad is None])
        return torch.futures.Future()

    monkeypatch.setattr(parallel, "all_reduce", all_reduce)
    gpt = GPT(GPTConfig(vocab_size=20, n_layer=3, n_embd=16, ngram_rows=10, context_length=8))
    way = parallel.DataParallel(gpt, bucket_size=2000)
    parallel.loss_of(gpt, *torch.randint(20, (2, 2, 8))).backward()
    assert len(missing) > 2 and "blocks.0.W_qkv" in missing[1] and not missing[-1]
    assert sum(len(flat) for _, flat, _ in way.on_their_way) == sum(
        p.numel() for p in gpt.parameters())


@pytest.mark.parametrize("flags, says", [
    (["tensor", "--n-head", "6", "--n-kv-head", "2", "--n-embd", "36"], "n_head 6"),
    (["tensor", "--n-kv-head", "2"], "n_kv_head 2"), (["tensor", "--vocab-size", "301"], "301"),
    (["1f1b", "--n-layer", "3"], "no block"), (["gpipe", "--micro-batches", "3"], "multiple"),
    (["data", "--batch-size", "6"], "batch_size 6"), (["sharded", "--batch-size", "2"], "share"),
    (["data", "--context-length", "99999"], "--context-length")])
def test_what_cannot_be_shared_is_one_line(flags, says, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(parallel, "WORLD", 4)
    for message in ("init_process_group", "broadcast_object_list"):     # nobody else is there
        monkeypatch.setattr(parallel.dist, message, lambda _: None)
    assert says in one_line("beyond.parallel", *FLAGS, *flags, cwd=tmp_path)


def test_plan():
    """Llama 2's numbers of parameters are known; the rest is worked out by hand."""
    shapes = [sum(plan.parameters(c).values()) for c in plan.MODELS.values()]
    assert shapes == [6_738_415_616, 68_976_648_192]
    gpt = GPTConfig(**ARCHS["gpt2"] | dict(n_layer=6))
    for c in (gpt, plan.MODELS["7B"]):
        n = sum(plan.parameters(c).values())
        twice = c.n_embd * c.vocab_size * c.tie_embeddings
        assert sum(plan.per_rank("1f1b", c, 8, 9, 4, r)[0] for r in range(4)) == n + twice
        assert plan.per_rank("data", c, 8, 9, 4)[2] == 1.5 * n
    o = SimpleNamespace(batch=2 ** 22, texts=1, share=0.5, gpu="A100", inside=300, across=25)
    n, row = shapes[0], plan.plan(plan.MODELS["7B"], 1, 1, 512, False, o)
    assert row["states_GB"] == pytest.approx(16e-9 * n)
    assert row["sends"] == pytest.approx(2 * 511 / 512 * 2 * n / 25e9)
    sharded = plan.plan(plan.MODELS["7B"], 1, 1, 512, True, o)     # 2 texts, each gathered for
    assert sharded["sends"] == pytest.approx(3 * row["sends"])
