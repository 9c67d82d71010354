"""
Sheet: what a model has answered so far, kept in a file, so that an exam can be broken off.

Its first line says under which settings the answers were given: which weights, which examples. Each
further line is an answer, put there as soon as it is given. After Ctrl-C, a crash or kill -9 all
are there but for, at most, the one in the writing; the same command asks what is not there yet.

    python -m beyond.sheet runs/nano/exams/mmlu.jsonl       # the settings, and how many answers
"""
import json
import time
from pathlib import Path

from data import sha256
from sample import fcntl
from tokenizer import Parser, clear_errors, write_whole


def alike(x, like):
    """Is x of the same form as an example: the same keys, as long a list, the same types?"""
    if isinstance(like, dict):
        return isinstance(x, dict) and all(k in x and alike(x[k], like[k]) for k in like)
    if isinstance(like, list):
        return isinstance(x, list) and len(x) == len(like) and all(map(alike, x, like))
    return isinstance(x, (int, float) if isinstance(like, float) else type(like))


def sheet(path, settings, like):
    """The answers that a file has from earlier, and a function that puts one behind them: dicts of
    the form of `like`, a line each. A last line that was cut short, as by kill -9, is dropped.
    Answers under other settings are kept, in a file beside it. One process at a time has a sheet;
    for a second, and for a damaged file, ValueError is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+b")        # locked as long as it is open; not on Windows
    try:
        fcntl and fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path} is in use by another process: let that end first") from None
    file.seek(0)
    text = file.read()
    try:
        lines = text.split(b"\n")[:-1]
        first, *rows = map(json.loads, lines) if lines else [settings]
        if not all(alike(row, like) for row in rows):
            raise ValueError("a line is no answer")
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: mend it, or move it away") from None
    if first != settings and rows:
        aside = path.with_name(f"{path.stem}-until-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
        write_whole(aside, lambda out: out.write(text))
    whole, rows = (text.rfind(b"\n") + 1, rows) if first == settings else (0, [])
    file.truncate(whole)

    def add(row):
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
    if not whole:
        add(settings)
    return rows, add


def weights_of(run):
    """A checksum of a run's weights, for the settings of a sheet; of a copy, it is the same."""
    return sha256(next(p for p in (Path(run) / "best.pt", Path(run) / "last.pt") if p.exists()))


def main():
    parser = Parser("Show under which settings answers were given, and how many there are.")
    parser.add_argument("file", help="such as runs/nano/exams/mmlu.jsonl")
    options = parser.parse_args()
    with clear_errors():
        try:
            settings, *rows = map(json.loads, open(options.file, encoding="utf-8"))
            width = max(map(len, [*settings, "answers"]))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{options.file} holds no answers ({error!r:.80})") from None
    for name, value in settings.items():
        print(f"{name:{width}}  {value!s:.80}")
    print(f"{'answers':{width}}  {len(rows):,}")


if __name__ == "__main__":
    main()
