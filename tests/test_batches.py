"""Batches are what they promise to be: every window once, whoever draws it and whenever."""
import itertools
import threading

import numpy as np
import pytest
import torch

from batches import draw, every_window, prefetch, windows_per_epoch


def tokens(n):
    return np.arange(n, dtype=np.uint16)


def test_targets_are_one_token_later():
    ids, targets = draw(tokens(1000), 5, 16, seed=1, step=3)
    assert ids.shape == targets.shape == (5, 16) and ids.dtype == torch.int64
    assert torch.equal(ids + 1, targets)


def test_a_batch_depends_on_seed_and_step_alone():
    first = [draw(tokens(1000), 5, 16, seed=1, step=s)[0] for s in range(40)]
    again = [draw(tokens(1000), 5, 16, seed=1, step=s)[0] for s in reversed(range(40))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again)))
    assert not torch.equal(first[0], draw(tokens(1000), 5, 16, seed=2, step=0)[0])


@pytest.mark.parametrize("n, T", [(1000, 16), (33, 16), (17, 16), (100, 7), (2, 1)])
def test_an_epoch_uses_each_window_once_and_starts_elsewhere_each_time(n, T):
    n_windows = windows_per_epoch(n, T)
    ids = torch.cat([draw(tokens(n), 1, T, seed=1, step=s)[1] for s in range(8 * n_windows)])
    starts = []
    for epoch in ids.view(8, n_windows, T):
        used = epoch.flatten().tolist()
        assert len(set(used)) == len(used)              # no token is asked for twice
        assert sorted(used) == list(range(min(used), max(used) + 1))    # nor left out between
        assert max(used) < n and len(used) >= min(n - 1, n - 2 * T)
        starts.append(min(used))
    assert len(set(starts)) > 1 or n_windows * T == n - 1


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_what_the_ranks_draw_together_is_the_batch(ranks, accumulation):
    """At steps within an epoch and across two: 1,000 tokens are 61 windows of 16."""
    for step in range(8):
        whole = draw(tokens(1000), 16, 16, seed=1, step=step)
        parts = [draw(tokens(1000), 16, 16, 1, step, a * ranks + r, ranks * accumulation)
                 for a in range(accumulation) for r in range(ranks)]
        assert torch.equal(torch.cat([ids for ids, _ in parts]), whole[0])
        assert torch.equal(torch.cat([targets for _, targets in parts]), whole[1])


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="batch of 6 windows cannot be cut into 4 equal parts"):
        draw(tokens(1000), 6, 16, seed=1, step=0, part=0, parts=4)


def test_a_batch_may_span_epochs():
    ids, _ = draw(tokens(50), 40, 16, seed=1, step=0)
    single = torch.cat([draw(tokens(50), 1, 16, seed=1, step=s)[0] for s in range(40)])
    assert torch.equal(ids, single)


@pytest.mark.parametrize("n, T, B", [
    (1000, 16, 4), (17, 16, 4), (18, 16, 4), (64, 16, 1), (5, 16, 2)])
def test_validation_asks_for_each_token_once_in_order(n, T, B):
    batches = list(every_window(tokens(n), B, T))
    assert torch.cat([y.flatten() for _, y in batches]).tolist() == list(range(1, n))
    assert torch.cat([x.flatten() for x, _ in batches]).tolist() == list(range(n - 1))
    assert all(x.shape[0] <= B and x.shape[1] <= T for x, _ in batches)


def test_a_resumed_run_draws_what_an_unbroken_one_would():
    whole = [draw(tokens(1000), 6, 16, seed=3, step=s) for s in range(30)]
    for ids, targets in (draw(tokens(1000), 6, 16, seed=3, step=s) for s in range(17, 30)):
        expected = whole.pop(17)
        assert torch.equal(ids, expected[0]) and torch.equal(targets, expected[1])


def test_the_windows_of_a_seed_are_what_they_always_were():
    """Recorded curves stay true: these are numbers that draw gave when they were recorded."""
    starts = draw(tokens(60_000), 4, 128, seed=1, step=0)[0][:, 0].tolist()
    assert starts == [36668, 31292, 38332, 17980]


def batches(n):
    return [(torch.full((2, 3), i), torch.full((2, 3), -i)) for i in range(n)]


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_prefetch_gives_the_same_batches_in_order(n):
    for (a, b), (c, d) in zip(prefetch(iter(batches(n)), "cpu"), batches(n), strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_prefetch_draws_ahead_but_not_far():
    drawn = []
    ahead = prefetch((drawn.append(i) or batch for i, batch in enumerate(batches(9))), "cpu")
    next(ahead)
    threading.Event().wait(0.2)
    assert 2 <= len(drawn) <= 3
    ahead.close()


def test_prefetch_raises_what_drawing_raised_where_it_would_have():
    def failing():
        yield from batches(3)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        for ids, _ in prefetch(failing(), "cpu"):
            got.append(ids[0, 0].item())
    assert got == [0, 1, 2]


@pytest.mark.parametrize("end", ["close", "break", "raise", "forget"])
def test_prefetch_leaves_no_thread(end):
    before = set(threading.enumerate())
    stream = prefetch(((i, i) for i in map(torch.tensor, itertools.count())), "cpu")
    next(stream)
    if end == "close":
        stream.close()
    elif end == "raise":
        with pytest.raises(RuntimeError):
            stream.throw(RuntimeError("stop"))
    del stream
    assert set(threading.enumerate()) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_prefetch_moves_to_the_gpu():
    for (a, b), (c, d) in zip(prefetch(batches(5), "cuda"), batches(5), strict=True):
        assert a.is_cuda and torch.equal(a.cpu(), c) and torch.equal(b.cpu(), d)


def test_the_script_shows_who_draws_what(capsys):
    import batches
    batches.main()
    said = capsys.readouterr().out
    assert "60 tokens, windows of 7: 7 windows an epoch" in said and said.count("process 1") == 4
