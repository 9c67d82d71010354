r"""
LaTeX: when are two answers the same?

\frac{1}{2}, \dfrac12, 1/2, .5 and \frac{\sqrt{4}}{4} are one number, and an exam must not care how
it is written. First, normalise() drops what does not count, as the authors of MATH do: spaces,
\left, dollars, degrees, \text{ inches}. If texts differ still, sympy compares what they stand for:

    numbers     1\frac{4}{5} is 9/5 (a mixed number); 3\sqrt{2}, 18+2\pi, 6-5i, 10^{-3}
    terms       2(k+1) is 2k+2; but 52_8 is a name, as it must stay in base 8
    in order    (1,2) is neither (2,1) nor [1,2]; matrices, row by row
    in any      1,-2 is \{-2,1\}; 3 \pm \sqrt{2} is two numbers; (0,1) \cup (2,3)
    equations   y = 4-2x is 4x+2y = 8: one is a multiple of the other; x = 5 is also 5

What cannot be read (inequalities, sentences, \cot x) is the same only as text. Nothing is evaluated
as code: arithmetic is rewritten as Python's, and of the tree that Python's own parser makes of it
only sums, products, powers, integers and names are taken. But 9^{9^{9^9}} is arithmetic, and sympy
would not come back: it works in a process of its own, which is killed when it takes too long.

    python -m beyond.latex '3 \pm \sqrt{2}' '\{3-\sqrt2, \sqrt2+3\}'

Paper: Measuring Mathematical Problem Solving With the MATH Dataset (Hendrycks et al., 2021).
"""
import ast
import json
import operator as op
import re
import subprocess
import sys
import threading
from pathlib import Path

from tokenizer import Parser, clear_errors

import sympy

SECONDS, LONGEST = 10, 400      # for a comparison; characters of what is more than text

LOOKS = [       # (pattern, what stands there instead); a matrix becomes ⟦⟦a,b⟧,⟦c,d⟧⟧
    (r"\\begin\{[pb]?matrix\}(.*?)\\end\{[pb]?matrix\}", lambda found:
     "⟦⟦" + found[1].replace(r"\\", "⟧,⟦").replace("&", ",") + "⟧⟧"),
    (r"\\\\", r"\\"),
    (r"\\[!,;:]\s*|\\(?=\s)|\\(left|right|displaystyle|q?quad)(?![A-Za-z])|~|\\?[$%]", ""),
    (r"\^\s*(\{\s*\\circ\s*\}|\\circ)|\\degree(?![A-Za-z])|°", ""),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\(text|mbox)\s*\{\s*,?\s*(and|or)\s*\}|(?<=\s)(and|or)(?=\s)", ","),
    (r"(?<=[\w})])\s*\\(text\w*|mbox|mathrm)\s*\{[^{}]*\}(\s*\^\s*(\{\d\}|\d))?", ""),  # inches^2
    (r"\\(text\w*|mbox|mathrm|mathbf)\s*\{([^{}]*)\}", r"\2"),
    (r"(?<=[\d}])\s+[A-Za-z]{3,}[\w\s.^]*$", ""),                   # a unit without \text
    (r"^\s*\w\s*\\in(?![A-Za-z])", ""),
    (r"^\s*([+-]?\d{1,3}(,\d{3})+(\.\d+)?)\s*$", lambda found: found[1].replace(",", "")),
    (r"^\s+|[\s.,]+$", "")]


def normalise(text, rules=LOOKS):
    """An answer without what does not count."""
    for pattern, instead in rules:
        text = re.sub(pattern, instead, text, flags=re.DOTALL)
    return text


# ---- From text to values: expressions of sympy's, or pairs (kind, values), where kind is brackets,
# or "," for what has no order, or "\cup" for a union, or "=" for left side minus right side.

ARGUMENT = r"\s*(?:\{([^{}]*)\}|(\d|[A-Za-z]|\\pi))"        # {...} or one character
INNERMOST = [       # while there are any: what has no braces inside
    (r"(?<![\w.^])(\d+)\s*\\frac" + 2 * r"\s*(?:\{(\d+)\}|(\d))", r"(\1+(\2\3)/(\4\5))"),
    (r"\\frac" + 2 * ARGUMENT, r"((\1\2)/(\3\4))"),
    (r"\\sqrt" + ARGUMENT, r"((\1\2)**(1/2))"),
    (r"\\sqrt\s*\[([^][{}]*)\]" + ARGUMENT, r"((\2\3)**(1/(\1)))"),
    (r"\^\s*\{([^{}]*)\}", r"**(\1)")]
SIGNS = [(r"(\w+)_(?:\{\s*(\w+)\s*\}|(\w))", r" base_\2\3_\1 "),          # 52_8, and x_1
         (r"\\(cdot|times)(?![A-Za-z])", "*"), (r"\\div(?![A-Za-z])", "/"), (r"\^", "**"),
         (r"\{", "("), (r"\}", ")"), (r"\\pi(?![A-Za-z])", " pi "), (r"\\infty", " oo "),
         (r"(\d*)\.(\d+)", lambda found: f"({int(found[1] + found[2])}/{10 ** len(found[2])})")]
TOKEN = r"\*\*|\d+|base_\w+|[A-Za-z]{4,}|pi|oo|[A-Za-z]|\S"        # four letters: a word
CONSTANTS = {"pi": sympy.pi, "oo": sympy.oo, "i": sympy.I, "e": sympy.E}
SIGN = {ast.Add: op.add, ast.Sub: op.sub, ast.Mult: op.mul, ast.Div: op.truediv, ast.Pow: op.pow,
        ast.USub: op.neg, ast.UAdd: op.pos}


def arithmetic(text):
    """The value of what has no commas: 2\\sqrt{x} -> 2*((x)**(1/2)) -> an expression of sympy's."""
    python = ""
    while text != (text := normalise(text, INNERMOST)):
        pass
    for token in re.findall(TOKEN, normalise(text, SIGNS), re.ASCII):   # side by side: a product
        python += (" * " if re.search(r"[\w)]$", python) and re.match(r"[A-Za-z(]", token)
                   or python.endswith(")") and token.isdigit() else " ") + token
    if not re.fullmatch(r"[\w\s+*/()-]+", python, re.ASCII):
        raise ValueError(f"{python} is not arithmetic")
    return value(ast.parse(python.strip(), mode="eval").body)


def value(node):
    if isinstance(node, ast.BinOp):
        return SIGN[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.UnaryOp):
        return SIGN[type(node.op)](value(node.operand))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return sympy.Integer(node.value)
    if isinstance(node, ast.Name):
        return CONSTANTS.get(node.id, sympy.Symbol(node.id))
    raise ValueError(f"{type(node).__name__} is not arithmetic")


def split(text, separator):
    """The parts of a text between separators that stand in no brackets."""
    marked, depth = "", 0
    for piece in re.findall(r"\\[A-Za-z]+|\\.|.", text, re.DOTALL):
        depth += (piece[-1] in "([{⟦") - (piece[-1] in ")]}⟧")
        if depth < 0:
            return [text]       # as in a+1)(b+2
        marked += "\0" if piece == separator and not depth else piece
    return marked.split("\0")


def parse(text):
    """The value of an answer. ValueError, or an error of sympy's, if none can be read from it."""
    if "\\pm" in text:
        text = ",".join(text.replace("\\pm", sign) for sign in "+-")
    for separator in ("\\cup", ",", "="):
        if len(parts := split(text, separator)) > 1:
            values = [parse(part) for part in parts]
            return (separator, values) if separator != "=" else ("=", [op.sub(*values)])
    if found := re.fullmatch(r"\s*(\\\{|[(\[⟦])(.*)(\\\}|[)\]⟧])\s*", text, re.DOTALL):
        left, inside, right = found.groups()
        if len(parts := split(inside, ",")) > 1 or left in ("\\{", "⟦"):
            return "," if left == "\\{" else left + right, [parse(part) for part in parts]
    return arithmetic(text)


def same_value(a, b):
    """Are two values equal? What sympy cannot decide is not."""
    if not isinstance(a, tuple) or not isinstance(b, tuple):
        return (not isinstance(a, tuple) and not isinstance(b, tuple)
                and not a.has(sympy.zoo, sympy.nan) and bool(a == b or (a - b).equals(0)))
    (kind, a), (other, b) = a, b
    if kind == other == "=":
        ratio = sympy.cancel(a[0] / b[0])
        return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)
    if kind not in (",", "\\cup") or kind != other or len(a) != len(b):
        return kind == other and len(a) == len(b) and all(map(same_value, a, b))
    for x in a:                                 # in any order: each needs a partner of its own
        partner = [i for i, y in enumerate(b) if same_value(x, y)][:1]
        b = [y for i, y in enumerate(b) if [i] != partner]
    return not b


def compare_lines():
    """The process that compares: a line in, two answers as JSON; a line out, True or False."""
    print("ready")
    for line in sys.stdin:
        try:
            same = same_value(*map(parse, json.loads(line)))
        except Exception:       # text fails in as many ways as there are bytes
            same = False
        print(same, flush=True)


def comparer():
    """A function: are two answers the same? Those that take longer than SECONDS are not."""
    process = None

    def same(a, b):
        nonlocal process
        a, b = normalise(a), normalise(b)
        if ("=" in a) != ("=" in b):
            a, b = (re.sub(r"^[A-Za-z](_\d|\([a-z]\))?\s*=\s*", "", text) for text in (a, b))
        if (equal := "".join(a.split()) == "".join(b.split())) or max(len(a), len(b)) > LONGEST:
            return equal
        if process is None or process.poll() is not None:
            process = subprocess.Popen(
                [sys.executable, "-m", "beyond.latex", "-"], cwd=Path(__file__).parents[1],
                text=True, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            process.stdout.readline()           # it is ready
        alarm = threading.Timer(SECONDS, process.kill)
        alarm.daemon = True                     # it keeps nobody from leaving
        alarm.start()
        print(json.dumps([a, b]), file=process.stdin, flush=True)
        said = process.stdout.readline() or process.wait()      # nothing, if it was killed
        alarm.cancel()
        return said == "True\n"
    return same


def main():
    parser = Parser("Are two answers in LaTeX the same?")
    parser.add_argument("answers", nargs="+", help="two, each in single quotes")
    options = parser.parse_args()
    with clear_errors():
        if options.answers == ["-"]:
            return compare_lines()
        if len(options.answers) != 2:
            raise ValueError(f"it takes two answers to compare, not {len(options.answers)}")
        print(*map(normalise, options.answers), sep="\n")
        print("the same" if comparer()(*options.answers) else "not the same")


if __name__ == "__main__":
    main()
