r"""LaTeX answers: each line holds ways to write one answer, and no two lines hold the same answer."""
import time

from beyond import latex
from conftest import inside, one_line

ANSWERS = r"""
\frac{1}{2} | \frac12 | \dfrac{1}{2} | \tfrac 12 | 1/2 | 0.5 | .5 | \frac{\sqrt{4}}{4} | 2^{-1}
    | \left(\frac12\right)
-\frac{1}{2} | -0.5 | \frac{-1}{2} | \frac{1}{-2} | - 1/2
\frac{9}{5} | 1\frac{4}{5} | 1\frac45 | 1.8 | 1.80 | x = \frac95 | \frac{9}{5}\text{ cm}
    | 1.8 \text{ cm}^2
\frac{4}{5} | 0.8 | 80/100
14 | 14. | 14.0 | x=14 | y = 14 | \$14 | 14\% | 14^\circ | 14^{\circ} | 14 apples | 2 \cdot 7
    | 2 \times 7 | 28 \div 2
32348 | \$32,\!348 | 32,348 | 32\,348
11111111100 | 11,\! 111,\! 111,\! 100 | 11,111,111,100
3\sqrt{13} | 3 \sqrt{13} | \sqrt{117} | \sqrt{13}\cdot 3 | \frac{39}{\sqrt{13}} | 3(13)^{1/2}
11\sqrt2 | 11\sqrt{2} | \sqrt{242} | \frac{22}{\sqrt 2}
\sqrt[3]{2} | 2^{1/3} | 2^{\frac13}
\sqrt[3]{3} | 3^\frac{1}{3}
\pi | 3\pi/3 | \frac{\pi^2}{\pi}
18+2\pi | 2\pi + 18 | 2(\pi+9) | 2(9 + \pi)
6 - 5i | -5i+6 | 6-5i | 1+5(1-i)
6 + 5i | 5i + 6
\frac{270}7\text{ degrees} | \frac{270}{7} | 270/7 | 38\frac{4}{7}
.0000672 | 0.0000672 | 6.72 \times 10^{-5} | 6.72 \cdot 10^-5
1024 | 2^{10} | 2^10 | 4^5 | 1,024
2k+2 | 2(k+1) | 2 + 2k | 2k + 2
(a+5)(b+2) | (b+2)(a+5) | ab + 2a + 5b + 10
x^5 - x^4 + x^3 - x^2 + x - 1 | (x-1)(x^4+x^2+1) | -1+x-x^2+x^3-x^4+x^5
\frac{x}{y} | x/y | xy^{-1}
2\frac{x}{3} | \frac{2x}{3} | \frac23 x
52_8 | 52_{8} | 52_{ 8}
42 | 42.00
(3, \frac{\pi}{2}) | \left( 3, \frac{\pi}{2} \right) | (3,\pi/2) | (3, 0.5\pi)
(\frac{\pi}{2}, 3) | (0.5\pi, 3)
(3,4] | \left(3,4\right] | x \in (3,4] | (\frac62,4]
[3,4] | \left[3, 4\right]
(3,4) | (3.0, 4)
(2,\infty) | \left(2,\infty\right) | (2, +\infty)
(-\infty,2) | \left(-\infty, \frac{4}{2}\right)
(0,1) \cup (2,3) | (2,3)\cup(0,1) | (0,1)\cup\left(2,\frac{6}{2}\right)
1,-2 | -2, 1 | \{1,-2\} | \left\{-2, 1\right\} | -2 \text{ and } 1 | 1 \text{ or } -2 | 1 and -2
1,2 | \{2,1\}
3, 5, 7 | 7,5,3 | 3,\ 5,\ 7
3, 5, 5
1 \pm \sqrt{19} | 1+\sqrt{19}, 1-\sqrt{19} | x = 1 \pm \sqrt{19} | \{1-\sqrt{19},1+\sqrt{19}\}
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}
    | \begin{pmatrix} -\frac13 \\ \frac{2}{3} \end{pmatrix} | \begin{bmatrix}-1/3\\2/3\end{bmatrix}
\begin{pmatrix} -1/3 & 2/3 \end{pmatrix}
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix} | \begin{pmatrix}-1&0\\0&-1\end{pmatrix}
5x - 7y + 11z + 4 = 0 | 5x+11z=7y-4 | 10x - 14y + 22z + 8 = 0 | 0 = -5x+7y-11z-4
5x - 7y + 11z + 4 = 1
y = 4-2x | 2x + y = 4
\text{Evelyn} | Evelyn | \text{Evelyn }
\text{Evelyns}
\text{east} | east | \mathrm{east}
\text{seat} | seat
\text{(C)} | (C) | C | \text{C}
\text{(B)} | B
\cot x
x \le 3
x < 3
7.0001
"""
GROUPS = [group.split(" | ") for group in ANSWERS.strip().replace("\n    | ", " | ").split("\n")]


def test_ways_to_write_an_answer():
    """Every way against the first; every first against the four before it, and one in reverse."""
    same, firsts = latex.comparer(), [group[0] for group in GROUPS]
    equal = [(group[0], other) for group in GROUPS for other in group[1:]]
    unequal = [(a, b) for i, a in enumerate(firsts) for b in firsts[max(0, i - 4):i]]
    assert len(equal) > 100 and len(unequal) > 100
    assert not [pair for pair in equal if not same(*pair) or not same(*pair[::-1])]
    assert not [pair for pair in unequal if same(*pair)]


def test_nothing_takes_long_and_nothing_is_run(monkeypatch, tmp_path):
    same, began = latex.comparer(), time.monotonic()
    monkeypatch.setattr(latex, "SECONDS", 2)
    assert not same("9^{9^{9^9}}", "1")                 # the process is killed
    monkeypatch.undo()
    assert same("1/2", ".5") and not same("(" * 399, "1") and not same("{" * 9999, "1")
    assert not same(r"\frac{1}{0}", r"\frac{2}{0}") and not same("", "0")
    assert time.monotonic() - began < 60
    for text in ("__import__('os')", "().__class__", "open", "print(1)", "x.y", "[1][0]", "1 if 1",
                 "lambda: 1", "'a'*9", "a or b", "1 # 2", "f(x,y)", "True", "1_000", "{1: 2}", "1;2",
                 r"\input{x}", "x:=1", "1//2", "1 < 2", "é²"):
        try:
            found = latex.parse(text)
        except (ValueError, SyntaxError, KeyError):
            continue
        assert isinstance(found, (tuple, latex.sympy.Basic)), text


def test_from_the_command_line(tmp_path):
    said = inside("beyond.latex", r"\frac{\sqrt{4}}{4}", ".5", cwd=tmp_path)
    assert said.endswith("\nthe same\n") and said.startswith(r"\frac{\sqrt{4}}{4}")
    assert inside("beyond.latex", "naïve été", "1", cwd=tmp_path).endswith("not the same\n")
    assert "two answers" in one_line("beyond.latex", "1", cwd=tmp_path)
