"""
Bag of words: how far does one get at sorting texts without reading them?

Throw the words of a text into a bag: how often each is there is still known, their order is not.
Give each word a weight for each label, add the weights up, and take the label with the largest sum.
Learning is to find the weights that make the labels of known texts most probable and stay small:
logistic regression. It has one best answer, so no learning rate is to be chosen. It is the rival
that beyond/classify.py has to beat, and often hard to beat. To it, "not good" is "good" and "not".

    python -m beyond.bag                    # tweets; and the words that weigh most
    python -m beyond.bag --task mails.csv --columns body folder
"""
from collections import Counter

from beyond.answers import mark
from beyond.tweets import add_task_flags, read_task
from tokenizer import Parser, clear_errors

import regex
import torch
import torch.nn.functional as F


def words_of(text):
    """Words, and punctuation marks one by one, in small letters."""
    return regex.findall(r"\w+|[^\w\s]", text.lower())


def bag(texts, vocabulary):
    """How often each word of the vocabulary stands in each text: (texts, V), sparse."""
    at = [(i, vocabulary[word]) for i, text in enumerate(texts) for word in words_of(text)
          if word in vocabulary]
    rows = torch.tensor(at, dtype=torch.long).T.reshape(2, -1)              # (2, words)
    return torch.sparse_coo_tensor(rows, torch.ones(rows.shape[1]), (len(texts), len(vocabulary)),
                                   check_invariants=True)


def logistic_regression(x, y, n_labels, decay=1.0):
    """The W (V, labels) and b (labels,) that make the labels y (n,) of x (n, V) most probable, but
    for decay / 2 times the sum of the squares of W: a word seen once proves little."""
    W, b = torch.zeros(x.shape[1], n_labels), torch.zeros(n_labels)
    parameters = [W.requires_grad_(), b.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        nats = F.cross_entropy(torch.sparse.mm(x, W) + b, y, reduction="sum")
        nats = (nats + decay / 2 * W.square().sum()) / len(y)
        nats.backward()
        return nats
    optimizer.step(loss)
    return W.detach(), b.detach()


def by_words(task):
    """What a bag of words says of the texts held out, (n,); the words that stand in more than one
    text; their weights (V, labels)."""
    count = Counter(word for text, _ in task.train for word in {*words_of(text)})
    vocabulary = {word: i for i, word in enumerate(word for word, n in count.items() if n > 1)}
    y = torch.tensor([task.labels.index(label) for _, label in task.train])
    x, held_out = (bag([text for text, _ in part], vocabulary)
                   for part in (task.train, task.held_out))                 # (n, V) each
    W, b = logistic_regression(x, y, len(task.labels))
    return (torch.sparse.mm(held_out, W) + b).argmax(-1).numpy(), [*vocabulary], W


def main():
    parser = Parser("Sort texts by the words in them, and show which words weigh most.")
    add_task_flags(parser)
    options = parser.parse_args()
    with clear_errors():
        task = read_task(options.task, options.columns)
    said, words, W = by_words(task)
    truth = [task.labels.index(label) for _, label in task.held_out]
    majority = max(Counter(truth).values()) / len(truth)
    print(f"{len(words):,} words; texts held out: {mark(sum(said == truth), len(truth), majority)}")
    for label, weights in zip(task.labels, (W - W.mean(dim=1, keepdim=True)).T):
        print(f"{label:12}", *(words[i] for i in weights.topk(min(12, len(words))).indices))


if __name__ == "__main__":
    main()
