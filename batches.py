"""
Batches: from a long row of token ids to the windows that a step of training looks at.

A corpus is one row of ids, memory-mapped, perhaps larger than memory. A step learns from B windows
of T tokens, and is asked at every place for the token that comes next. Which windows? An epoch
lays them side by side over the whole corpus, shuffles them, and uses each once.

Step s of training always sees the same windows, whatever happened before it: a batch is a pure
function of (seed, step). So a run that was interrupted goes on as if it had never stopped, and two
processes that draw half a batch each learn what one would.

    python batches.py                   # the windows of two epochs, and who draws them
"""
import functools
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


def windows_per_epoch(n_tokens, context_length):
    """How many windows an epoch has, side by side: one less than would fit, which leaves room to
    start elsewhere each time.
    """
    return max(1, n_tokens // context_length - 1)


@functools.lru_cache(maxsize=2)
def epoch_order(n_tokens, context_length, seed, epoch):
    """The order of one epoch: where its windows start, shuffled.

    Each epoch starts at a token drawn anew, up to a window's length in, so that the windows of
    one epoch straddle the borders of the last one's.
    """
    rng = np.random.default_rng((seed, epoch))
    n_windows = windows_per_epoch(n_tokens, context_length)
    spare = n_tokens - 1 - n_windows * context_length
    first = rng.integers(min(spare, context_length - 1) + 1)
    return first + context_length * rng.permutation(n_windows)              # (n_windows,)


def draw(tokens, batch_size, context_length, seed, step, part=0, parts=1):
    """The batch of one step, or one of its equal parts: ids and targets, targets one token later.

    Both are (B / parts, T) int64. Rank r of R, when it accumulates A parts, draws at its a-th the
    part a * R + r of A * R; all of them together draw what one process would at once. Raises
    ValueError if the batch cannot be shared out equally.
    """
    if batch_size % parts:
        raise ValueError(f"a batch of {batch_size} windows cannot be cut into {parts} equal parts "
                         "(processes times accumulation)")
    n_windows = windows_per_epoch(len(tokens), context_length)
    rows = batch_size // parts
    window = step * batch_size + part * rows + np.arange(rows)              # (B / parts,)
    epoch, place = window // n_windows, window % n_windows                  # the same shape
    start = np.empty_like(window)
    for e in np.unique(epoch).tolist():                                     # nearly always one
        order = epoch_order(len(tokens), context_length, seed, e)
        start[epoch == e] = order[place[epoch == e]]
    both = tokens[start[:, None] + np.arange(context_length + 1)]           # (B / parts, T + 1)
    both = torch.from_numpy(both.astype(np.int64))
    return both[:, :-1], both[:, 1:]


def every_window(tokens, batch_size, context_length):
    """The whole split as (ids, targets) batches, in order: each token but the first is a target
    exactly once.
    """
    T = context_length
    whole = (len(tokens) - 1) // T * T                  # targets that fill windows
    for start in range(0, whole, batch_size * T):
        stop = min(start + batch_size * T, whole)
        part = torch.from_numpy(tokens[start:stop + 1].astype(np.int64))    # (B * T + 1,)
        yield part[:-1].view(-1, T), part[1:].view(-1, T)
    if len(tokens) - 1 > whole:                         # the last window is a short one
        part = torch.from_numpy(tokens[whole:].astype(np.int64))
        yield part[None, :-1], part[None, 1:]


def prefetch(batches, device, ahead=2):
    """Yield the (ids, targets) of an iterator on a device, the next ones being drawn meanwhile.

    A thread draws them, at most `ahead`, and for a GPU puts them into pinned memory, from which
    the copy runs while the model computes. What the iterator raises is raised here. The thread
    ends with this generator, even if that is closed before its end.
    """
    batches, device = iter(batches), torch.device(device)

    def fetch():
        batch = next(batches, None)
        return [t.pin_memory() for t in batch] if batch and device.type == "cuda" else batch

    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = deque(thread.submit(fetch) for _ in range(ahead))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(fetch))
            yield tuple(t.to(device, non_blocking=True) for t in batch)


def main():
    n, B, T, R = 60, 4, 7, 2
    print(f"{n} tokens, windows of {T}: {windows_per_epoch(n, T)} windows an epoch; batches of "
          f"{B}, shared by {R} processes\n")
    for step in range(4):
        drawn = [draw(np.arange(n), B, T, 1, step, part=r, parts=R) for r in range(R)]
        print(f"step {step}   " + "     ".join(f"process {r}: " + "  ".join(
            f"{row[0]:2}-{row[-1]:2}" for row in targets.tolist())
            for r, (_, targets) in enumerate(drawn)))
    print("\nEach pair says from which token to which a window asks for. In an epoch no token is "
          "asked for\ntwice, and the next one cuts the text elsewhere.")


if __name__ == "__main__":
    main()
