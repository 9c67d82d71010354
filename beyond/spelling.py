"""
Spelling: how many of the words that a run writes are words?

A model of byte pairs or characters spells as it goes, and what it spells need not exist. It writes
some texts; each word of them is looked up among those of its corpus, both splits, and in a word
list, if you have one. What it made up is shown: some of it might have been English.

    python -m beyond.spelling nano --tokens 5000
    python -m beyond.spelling nano --temperature 1 --words /usr/share/dict/words
"""
from collections import Counter
from pathlib import Path

import data
from sample import SampleConfig, find_run, generate, load_run, pick_device, picker, read_config
from tokenizer import Parser, clear_errors

import regex
from tqdm import tqdm

WORD = regex.compile(r"\p{L}+(?:['’]\p{L}+)*")


def words_of(text):
    """The words of a text, in lower case: letters, with apostrophes inside."""
    return [word.lower().replace("’", "'") for word in WORD.findall(text)]


def write(model, tokenizer, c, n_texts):
    """n_texts texts of c.tokens / n_texts tokens each, as one batch; each ends at <|endoftext|>."""
    steps = max(1, c.tokens // n_texts)
    batches = generate(model, [[tokenizer.eot]] * n_texts, steps, picker(n_texts, c))
    ids = zip(*tqdm(batches, "writing", steps, leave=False, disable=None))
    texts = [tokenizer.decode(text[:text.index(tokenizer.eot)] if tokenizer.eot in text else text)
             for text in map(list, ids)]
    return [text.rsplit(None, 1)[0] if " " in text else text for text in texts]     # whole words


def main():
    parser = Parser("Look up the words that a run writes.")
    parser.add_argument("run", nargs="?", help="name or folder of the run (default: the newest)")
    parser.add_argument("--words", metavar="FILE", help="a word list, one word a line")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    data.add_flags(parser, SampleConfig)
    options = parser.parse_args()
    with clear_errors():
        settings = {"tokens": 5000, "samples": 10} | vars(options)
        if settings.get("prompt"):
            raise ValueError("--prompt has no use here: each text begins as a document does")
        c, folder = data.checked(SampleConfig, settings), find_run(options.run)
        model, tokenizer = load_run(folder, pick_device(options.device))
        corpus = data.load_corpus(read_config(folder)["corpus"]["folder"], tokenizer)
        known = set(words_of(Path(options.words).read_text(encoding="utf-8", errors="replace")
                             if options.words else ""))
        for split in (corpus.train, corpus.val):
            known.update(words_of(tokenizer.decode(split.tolist())))
        written = Counter(word for text in write(model, tokenizer, c, c.samples)
                          for word in words_of(text))
        made_up = Counter({word: n for word, n in written.items() if word not in known})
        total, new = written.total(), made_up.total()
        if not total:
            raise ValueError(f"{folder} wrote no word in {c.tokens} tokens")
        print(f"{folder} wrote {total:,} words in {c.samples} texts; {1 - new / total:.1%} of them "
              f"are known, {new:,} it made up:")
        print("    " + ", ".join(word for word, _ in made_up.most_common(60)))


if __name__ == "__main__":
    main()
