"""
Retrieve: a model answers from your documents, and shows the passages that it was given.

Asked for what it never read, a small model makes something up. Either train it on the documents
(beyond.lora), or look passages up and put them before the question: retrieval-augmented generation,
RAG (Lewis et al., 2020). That takes no training, knows a line as soon as it is written, and names
its source. Chunks of some hundred words are found in three ways:

    words      BM25 (Robertson et al., 1994): a chunk has the question's words, above all those that
               few others have. Exact with names and numbers, blind to a synonym
    meaning    its vector, the mean of a run's residual stream over the tokens, points where the
               question's does. All are compared; of millions, FAISS would compare a few
    both       reciprocal rank fusion (Cormack et al., 2009): 1 / (60 + rank) in each, added up

    python -m beyond.retrieve notes/ --ask "When does the museum open?"
    python -m beyond.retrieve notes/            # question after question, to Ctrl-C or Ctrl-D
    python -m beyond.retrieve --questions FILE  # how good is it? In SQuAD's format

In the prompt each line of a note begins with "> ", and a <|im_end|> in it is text: it ends neither
quotation nor turn. The model may still do what a note says: let no answer set anything in motion.
"""
import hashlib
import json
import sys
import time
from collections import Counter, defaultdict, namedtuple
from functools import cached_property
from pathlib import Path
from textwrap import indent

from beyond.answers import write
from beyond.chat import END, can_chat, turn
from beyond.sheet import weights_of
from data import CORPORA, documents
from sample import RUNS, find_run, load_run, pick_device, stream
from tokenizer import Parser, chunks, clear_errors, write_whole

import numpy as np
import regex
import torch
from tqdm import tqdm

# ------------ Documents become chunks, which overlap by a sentence, and chunks are found.

SIZE = 600      # characters of a chunk, unless a sentence is longer
Chunk = namedtuple("Chunk", "name start line text")     # where in which document it is

# A sentence ends behind . ! or ?, but not behind an initial; at an empty line; before an item.
SENTENCE = regex.compile(r"(?s).+?(?:(?<!\b\p{Lu})[.!?][\"'”)]*\s+|[。！？]|\n\s*\n|\n(?=[-*#])|$)")


def cut(name, text):
    """The chunks of a document. A sentence that is too long for one is cut between words."""
    pieces = [piece for sentence in SENTENCE.findall(text) for piece in chunks(sentence, SIZE)]
    at = np.cumsum([0, *map(len, pieces)]).tolist()     # piece i is text[at[i]:at[i + 1]]
    first = last = 0
    while last < len(pieces):
        last += 1
        while last < len(pieces) and at[last + 1] - at[first] <= SIZE:
            last += 1
        yield Chunk(name, at[first], 1 + text.count("\n", 0, at[first]), text[at[first]:at[last]])
        room = last < len(pieces) and at[last + 1] - at[last - 1] <= SIZE
        first = last - 1 if room else last


WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{M}\p{N}]+")       # 你好 is two
STOP = set("""a an and are as at be by did do does for from how if in is it its of on or that the to
    was were what when where which who whom whose why will with""".split())


def words_of(text):
    """The words of a text, but for those that any English text has; and without a plural's s."""
    found = [word for word in WORD.findall(text.casefold()) if word not in STOP]
    return [word[:-1] if len(word) > 3 and word[-1] == "s" else word for word in found]


class BM25:
    """A chunk's score is a sum over the question's words. A word counts for more if few of the N
    chunks have it (idf), and if this one has it often: but the second time less than the first
    (k1), and less in a long chunk, which has more of every word (b)."""
    def __init__(self, texts, k1=1.5, b=0.75):
        counts = [Counter(words_of(text)) for text in texts]
        length = np.array([count.total() for count in counts])                  # (N,)
        self.half = k1 * (1 - b + b * length / (length.mean() or 1))            # (N,)
        self.k1, self.having = k1, defaultdict(list)
        for i, count in enumerate(counts):
            for word, n in count.items():
                self.having[word].append((i, n))

    def idf(self, word):
        return np.log((len(self.half) + 1) / max(1, len(self.having.get(word, []))))

    def scores(self, question):
        scores = np.zeros(len(self.half))                                       # (N,)
        for word in words_of(question):
            if word in self.having:
                i, n = np.array(self.having[word]).T    # which chunks, how often: (chunks,) each
                scores[i] += self.idf(word) * n * (self.k1 + 1) / (n + self.half[i])
        return scores

    def share(self, question, text):
        """How much of what the question's words count for a text has: 0 to 1."""
        asked, there = words_of(question), set(words_of(text))
        has = sum(self.idf(word) for word in asked if word in there)
        return has / (sum(map(self.idf, asked)) or 1)


class Index:
    """The chunks of documents (name, text), and what finds them."""
    def __init__(self, documents, run, model, words):
        self.run, self.model, self.tokenizer = run, model, words
        self.chunks = [chunk for name, text in documents for chunk in cut(name, text)]
        if not self.chunks:
            raise ValueError("there is no text to answer from")
        self.bm25 = BM25([chunk.text for chunk in self.chunks])

    @torch.inference_mode()
    def embed(self, text):
        """The mean over the tokens of a text: (C,). What stands first is left out: there models
        have numbers hundreds of times as large, whatever the text."""
        model, found = self.model, []
        ids = [self.tokenizer.eot, *self.tokenizer.encode(text)][:model.config.context_length]
        hook = model.blocks[len(model.blocks) * 9 // 10].register_forward_hook(
            lambda _, inputs, x: found.append(x[0, 1:]))                        # (T, C)
        model(torch.tensor([ids], device=model.token_table.device), last=1)
        hook.remove()
        return found[0].mean(dim=0).cpu().numpy()

    @cached_property
    def vectors(self):
        """Of all chunks, (N, C). A file, which other weights do not share, has those computed
        earlier, each under a checksum of its text. Delete it after a change of embed()."""
        file = CORPORA / f"vectors-{self.run.name}-{weights_of(self.run)[:16]}.npz"
        keys = [hashlib.sha256(c.text.encode()).hexdigest() for c in self.chunks]
        try:
            with np.load(file) as arrays:       # it never unpickles
                known = dict(zip(arrays["keys"].tolist(), arrays["vectors"]))
        except Exception:       # not there, or damaged in as many ways as there are bytes
            known = {}
        missing = {key: c.text for key, c in zip(keys, self.chunks) if key not in known}
        try:
            for key, text in tqdm(missing.items(), "embedding", leave=False, disable=None):
                known[key] = self.embed(text)
        finally:                # after Ctrl-C, too: the rest follows next time
            if missing:
                file.parent.mkdir(exist_ok=True)
                write_whole(file, lambda f: np.savez(f, keys=[*known], vectors=[*known.values()]))
        return np.array([known[key] for key in keys])

    def meaning(self, question):
        """The cosine between each chunk's vector and the question's, both without the mean of all
        chunks, which tells nothing of one."""
        mean = self.vectors.mean(axis=0)                                        # (C,)
        x, q = self.vectors - mean, self.embed(question) - mean                 # (N, C), (C,)
        return x @ q / (np.linalg.norm(x, axis=1) * np.linalg.norm(q) + 1e-12)  # (N,)

    def find(self, question, by):
        """The chunks that are found, the best ones first."""
        ways, fused = {"words": self.bm25.scores, "meaning": self.meaning}, 0
        for way in ways if by == "both" else [by]:
            scores = ways[way](question)                                        # (N,)
            rank = 1 + np.argsort(np.argsort(-scores, kind="stable"))           # (N,)
            fused = fused + ((scores != 0) | (way == "meaning")) / (60 + rank)  # 0: no word of it
        return [self.chunks[i] for i in np.argsort(-fused, kind="stable") if fused[i] > 0]


# ------------ The answer.

WAYS = ("words", "meaning", "both")
TOKENS = 40     # of an answer, at most
KNOWN = 0.44    # of the question's words: if no chunk has that, the answer is mostly not there


def prompt(words, question, found, room):
    """The ids of a question behind the chunks found, and those: the best ones, if not all fit."""
    for n in range(len(found), -1, -1):
        quoted = [indent(chunk.text.strip(), "> ", lambda line: True) for chunk in found[:n]]
        text = "\n\n".join(["Read this and answer the question.", *quoted, f"Question: {question}"])
        ids = turn(words, "user", text) + turn(words, "assistant")
        if len(ids) <= room:
            return ids, found[:n]
    raise ValueError(f"the question takes {len(ids):,} tokens, and there is room for {room:,}")


def written(model, words, prompts):
    """What the model writes after each prompt, always the most probable token."""
    found = write(model, prompts, TOKENS, lambda logits: logits.argmax(dim=-1),
                  lambda ids: words.vocab[ids[-1]] == END or ids[-1] == words.eot)
    found = dict(tqdm(found, "answering", len(prompts), leave=False, disable=None))
    return ["".join(stream(words, found[i])) for i in range(len(prompts))]


def respond(o, index, model, words, question):
    """The answer, and the chunks that the model had before it."""
    found = index.find(question, o.by)[:o.chunks]
    ids, found = prompt(words, question, found, model.config.context_length - TOKENS)
    share = max((index.bm25.share(question, chunk.text) for chunk in found), default=0)
    said = written(model, words, [ids])[0] if found and share >= KNOWN else "I don't know."
    return {"question": question, "answer": said, "share": share,
            "chunks": [chunk._asdict() for chunk in found]}


# ------------ How good is it?

def normal(text):
    """The words by which SQuAD compares answers: without case, punctuation and articles."""
    text = regex.sub(r"[!-/:-@[-`{-~]", "", text.lower())
    return regex.sub(r"\b(a|an|the)\b", " ", text).split()


def marks(said, rights):
    """SQuAD's marks, exact match and F1 of the words; and is a right answer within what is said?"""
    said, rights = normal(said), [normal(right) for right in rights]
    f1 = [2 * (Counter(said) & Counter(right)).total() / (len(said + right) or 1)
          for right in rights]
    return {"exact": said in rights, "F1": max(f1), "contains": any(
        f" {' '.join(right)} " in f" {' '.join(said)} " for right in rights)}


def read(path):
    """The passages and the questions, (passage, text, right answers), of a file."""
    passages, questions = [], []
    try:
        for article in json.loads(Path(path).read_text(encoding="utf-8"))["data"]:
            for n, passage in enumerate(article["paragraphs"]):
                passages.append((f"{article['title']} {n}", passage["context"]))
                for q in passage["qas"]:
                    answers = [a["text"] for a in q["answers"]]
                    questions += [(passages[-1][0], q["question"], answers)][:len(answers)]
        if not questions:
            raise ValueError("no question with an answer")
        return passages, questions
    except Exception as error:      # a damaged file fails in as many ways as there are bytes
        raise ValueError(f"{path} cannot be read as SQuAD's ({error!r:.90})") from None


def measure(o, run, model, words):
    """Rows of figures: are the passages found, and how good are answers with them or without?"""
    passages, questions = read(o.questions)
    began, index, whole = time.perf_counter(), Index(passages, run, model, words), dict(passages)
    yield {"": "vectors", "chunks": len(index.chunks), "MB": index.vectors.nbytes / 1e6,
           "seconds": time.perf_counter() - began}
    for by in WAYS:
        began, first = time.perf_counter(), []
        for name, text, answers in tqdm(questions, f"by {by}", leave=False, disable=None):
            has = [chunk.name == name and any(answer in chunk.text for answer in answers)
                   for chunk in index.find(text, by)]
            first.append(has.index(True) if True in has else np.inf)
        row = {f"recall@{k}": np.mean(np.array(first) < k) for k in (1, 5, 10)}
        yield {"": by} | row | {"seconds": (time.perf_counter() - began) / len(questions)}
    drawn = questions[::max(1, len(questions) // o.count)][:o.count]        # from all passages
    for way, chunks_of in {
            "closed book": lambda name, text: [],
            "found": lambda name, text: index.find(text, o.by)[:o.chunks],
            "given": lambda name, text: [Chunk(name, 0, 1, whole[name])]}.items():
        began, room = time.perf_counter(), model.config.context_length - TOKENS
        prompts = [prompt(words, q[1], chunks_of(*q[:2]), room)[0] for q in drawn]
        rows = [marks(said, q[2]) for said, q in zip(written(model, words, prompts), drawn)]
        yield {"": way} | {name: np.mean([row[name] for row in rows]) for name in rows[0]} | {
            "tokens": sum(map(len, prompts)) / len(drawn),
            "seconds": (time.perf_counter() - began) / len(drawn)}


def main():
    parser = Parser("Answer questions from documents, and show where it is written.")
    parser.add_argument("source", nargs="*", help="files and folders of text, your notes")
    parser.add_argument("--ask", metavar="TEXT", help="one question, not one after the other")
    parser.add_argument("--run", default="smollm2", help="a run that can chat (default: smollm2)")
    parser.add_argument("--by", choices=WAYS, default="words", help="find chunks (default: words)")
    parser.add_argument("--chunks", type=int, default=1, help="the model is given (default: 1)")
    parser.add_argument("--questions", metavar="FILE", help="measure: a file in SQuAD's format")
    parser.add_argument("--count", type=int, default=100, help="answers to mark (default: 100)")
    parser.add_argument("--json", action="store_true", help="print JSON, an object a row")
    o = parser.parse_args()
    with clear_errors():
        if bool(o.source) == (o.questions is not None) or min(o.chunks, o.count) < 1:
            raise ValueError("name notes, or --questions; --chunks and --count are at least 1")
        if o.run == "smollm2" and not (RUNS / o.run).exists():
            raise ValueError("no runs/smollm2: python -m beyond.pretrained smollm2 makes it")
        run = find_run(o.run)
        model, words = load_run(run, pick_device("auto"))
        if not can_chat(words):
            raise ValueError(f"{run} cannot chat; python -m beyond.pretrained smollm2 makes one")
        for row in measure(o, run, model, words) if o.questions is not None else []:
            print(json.dumps(row) if o.json else "".join(
                f"{value:14}" if type(value) is str else f"{name} {value:<9.4g}"
                for name, value in row.items()))
        if o.source and o.ask is None and not o.json:
            print(f"{len(Index(documents(o.source), run, model, words).chunks):,} chunks. Ask:")
        for said in [] if not o.source else sys.stdin if o.ask is None else [o.ask]:
            said.encode()               # refuses half a character
            index = Index(documents(o.source), run, model, words)   # with what was just written
            row = respond(o, index, model, words, said.strip())
            print(json.dumps(row) if o.json else f"{row['answer']}\n")
            for c in [] if o.json else row["chunks"]:
                print(f"  {c['name']}:{c['line']}\n" + indent(c["text"].strip(), "  > "))


if __name__ == "__main__":
    main()
