"""
Cleaning: what a model should not have to learn is taken out of the text, and nothing else.

A model learns what it is shown: the spaces at the ends of lines, the same page ten times over,
somebody's telephone number. Each rule here is a small function from text to text that also says
how often it struck, with an example, so that you can see what it does before you trust it:

    clean       broken encodings, control characters, runaway blank lines, repeated lines
    redact      e-mail addresses, telephone and card numbers, and so on, become [EMAIL], [PHONE] ...
    normalise   one spelling for what looks the same

Rules that cannot hurt honest text are on unless you say otherwise; the others wait to be asked,
since verse repeats itself on purpose and "Â»" may be what its author wrote.

    python clean.py                     # the rules at work on a few lines of mess
    python clean.py letter.txt          # the same on a file: nothing is written

Patterns use the module regex where re, Python's own, cannot say it: \\p{L} for a letter of any
script, a look behind of any length, a search from the end.

Paper: Finding Repeated Elements (Misra and Gries, 1982), for the lines that repeat.
"""
import hashlib
import ipaddress
import re
import sys
import textwrap
import unicodedata
from pathlib import Path

import regex

# ------------------------------------------------------------------------------------------
# A rule takes a text and returns (the text without what it looks for, how often that was, an
# example). Nearly all of them look for a pattern and put something in its place.


def around(text, start, stop):
    """A place in a text, with a little of what stands around it."""
    return text[max(0, start - 15):min(stop, start + 40) + 15]


def substitute(pattern, replacement, text):
    """Replace every match; replacement is a string, or a function of a match that may keep it."""
    if isinstance(replacement, str):
        first = pattern.search(text)
        if first is None:
            return text, 0, None
        return *pattern.subn(replacement, text), around(text, *first.span())
    struck = []

    def replace(match):
        new = replacement(match)
        if new != match[0]:
            struck.append(match.span())
        return new

    text_after = pattern.sub(replace, text)
    return text_after, len(struck), around(text, *struck[0]) if struck else None


# ------------------------------------------------------------------------------------------
# Clean.

# The bytes of UTF-8, read as if each were a character of Windows or Latin-1: é has become Ã©.
HIGH = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹Œ\u017d‘’“”•–—˜™š›œ\u017eŸ]"
MOJIBAKE = re.compile(f"[Â-ß]{HIGH}|[à-ï]{HIGH}{{2}}|[ð-ô]{HIGH}{{3}}|\N{REPLACEMENT CHARACTER}")


def windows_byte(character):
    """The byte that Windows (cp1252), or else Latin-1, shows as this character."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def mojibake(text):
    """Undo what a wrong encoding did: "cafÃ©" is café again. U+FFFD, past repair, is dropped."""
    def repaired(match):
        if match[0] == "\N{REPLACEMENT CHARACTER}":
            return ""
        try:
            return b"".join(map(windows_byte, match[0])).decode("utf-8")
        except UnicodeDecodeError:
            return match[0]
    return substitute(MOJIBAKE, repaired, text)


LINE_ENDS = re.compile("[\r\v\f\x85\u2028\u2029](?:(?<=\r)\n)?")


def line_ends(text):
    """Every line ends with "\\n", whatever Windows, old Macs, printers and Unicode call it."""
    return substitute(LINE_ENDS, "\n", text)


# All but tab and line ends, with what follows ESC to set a terminal's colours; and U+FEFF, a
# byte-order mark that came along when files were joined.
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]"
                     r"(?:(?<=\x1b)\[[0-?]*[ -/]*[@-~])?")


def control_characters(text):
    """Drop the characters that were meant for a machine."""
    return substitute(CONTROL, "", text)


BLANK_LINES = 3     # as many may stand one after the other
TOO_MANY = re.compile("\n{%d,}" % (BLANK_LINES + 2))


def blank_lines(text):
    """Of more blank lines than that in a row, keep that many."""
    few = "\n" * (BLANK_LINES + 1)
    return substitute(TOO_MANY, few, text) if few + "\n" in text else (text, 0, None)


def hash_of(text):
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


REPEATS = 3             # times a long line may stand in a corpus before it counts as boilerplate
LONG = 20               # characters that make a line long
LETTERS = 10            # of them letters: a row of a table is no boilerplate
REMEMBERED = 500_000    # different lines that are counted at a time


def boilerplate(text, seen):
    """Drop a long line that was seen REPEATS times before: "Copyright ...", "Page 12 of 90".

    Numbers count as equal. seen, a dict, holds the counts from one call to the next. When it is
    full, one is taken off every count and zeros are forgotten: what is frequent stays.
    """
    kept, dropped = [], []
    for line in text.split("\n"):
        if len(line) >= LONG and sum(map(str.isalpha, line)) >= LETTERS:
            key = hash_of(re.sub(r"\d+", "0", line.strip()))
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > REPEATS:
                dropped.append(line)
                continue
        kept.append(line)
    while len(seen) > REMEMBERED:
        fewer = {key: n - 1 for key, n in seen.items() if n > 1}
        seen.clear()
        seen.update(fewer)
    return "\n".join(kept), len(dropped), dropped[0][:70] if dropped else None


# ------------------------------------------------------------------------------------------
# Normalise.


def nfc(text):
    """Unicode's composed form: "e" and an accent on it become one character. Counts words."""
    if unicodedata.is_normalized("NFC", text):
        return text, 0, None
    new = unicodedata.normalize("NFC", text)
    changed = [old for old, word in zip(text.split(), new.split()) if old != word]
    return new, len(changed), changed[0][:40] if changed else None


def trailing_spaces(text):
    """No spaces or tabs at the end of a line. Counts lines."""
    lines = text.split("\n")
    bare = [line.rstrip(" \t") for line in lines]
    changed = [line for line, other in zip(lines, bare) if line != other]
    return "\n".join(bare), len(changed), changed[0][-40:] if changed else None


# ------------------------------------------------------------------------------------------
# Redact. What looks like private data becomes a placeholder. A pattern finds candidates; where
# there is a checksum, it decides. Patterns look at a bounded stretch of text, since those that do
# not can take a day over a megabyte without spaces. They are careful rather than greedy: a date,
# an ISBN, a price or a version number must stay. So look at the result before you rely on it.

DIGIT = re.compile("[0-9]")


def substitute_where(hint, pattern, replacement, text):
    """The same as substitute, in the lines where a hint is found, which is quick to look for."""
    lines, count, example = text.split("\n"), 0, None
    for i, line in enumerate(lines):
        if hint.search(line):
            lines[i], n, found = substitute(pattern, replacement, line)
            count, example = count + n, example or found
    return "\n".join(lines), count, example


EMAIL = regex.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?!self\.)[\p{L}\d-]{1,63}"
                      r"(?:\.[\p{L}\d-]{1,63}){0,5}\.\p{L}{2,24}(?![\w@(])")


def emails(text):
    """anna@example.org becomes [EMAIL]."""
    return substitute(EMAIL, "[EMAIL]", text) if "@" in text else (text, 0, None)


PRIVATE_KEY = regex.compile(r"""
    -----BEGIN\ [A-Z\ ]{0,20}PRIVATE\ KEY(?:\ BLOCK)?-----
    (?:\s{1,40}[A-Z][\w-]{2,20}:\ [^\n]{0,100}){0,9}                     # Version: 1
    (?: (?:[\ \t\r]*(?:\n|\\[nr])(?:\s|\\[nr]){0,40}[\w+/=]{1,16000}){1,400}+
        (?:\s|\\[nr]){0,40}-----END[A-Z\ ]{1,40}-----
      | (?:(?:\s|\\[nr]){1,40}[\w+/=]{64,16000}){1,400}+ )              # its end is missing
    """, regex.VERBOSE)
KEY = regex.compile(r"""
    \b(?: A[KS]IA[0-9A-Z]{16} | gh[pousr]_\w{36,255} | github_pat_\w{22,255} | glpat-[\w-]{20,64}
        | hf_\w{30,64} | [sr]k_(?:live|test)_\w{16,128} | sk-(?=[\w-]{0,200}\d)[\w-]{20,200}
        | xox[abeoprs]-[\w-]{10,250} | AIza[\w-]{35}
        | eyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{8,2000} )(?![\w-])        # a JSON web token
    | (?<=(?i:password|passwd|secret|token|(?:api|access|secret|private)[_-]?key)
          ["']?\ {0,3}[:=]\ {0,3}["']?)
      (?:(?<=["'])|(?![a-z]+(?:_[a-z]+|_\d+)+(?![\w+/=~!@\#$%-])))            # no compute_value_2
      (?=[\w+/=~!@\#$%-]{0,200}\d)(?=[\w+/=~!@\#$%-]{0,200}\p{L})[\w+/=~!@\#$%-]{12,200}
      (?![\w(\[]|\.\w)
    """, regex.VERBOSE)
KEY_HINT = re.compile(r"[0-9A](?:(?<=[0-9])|[KS]IA)")


def keys(text):
    """Secrets: what the big services' keys look like, private keys, password = ... become [KEY]."""
    whole, n, example = (substitute(PRIVATE_KEY, "[KEY]", text) if "-----BEGIN" in text
                         else (text, 0, None))
    text, more, other = substitute_where(KEY_HINT, KEY, "[KEY]", whole)
    return text, n + more, example or other


IBAN = regex.compile(r"(?<![\p{L}\d])[A-Z]{2}\d\d(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,3})?"
                     r"(?![\p{L}\d])")


def is_iban(iban):
    """The checksum of ISO 13616: as one number, its head behind it and A as 10, it is 1 mod 97."""
    iban = iban.replace(" ", "")
    return 15 <= len(iban) <= 34 and int("".join(
        str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def checked(is_valid, placeholder):
    """For substitute: as much of a match, up to a space or hyphen or its end, as is valid."""
    def replace(match):
        for end in sorted({m.start() for m in re.finditer("[ -]|$", match[0])}, reverse=True):
            if is_valid(match[0][:end]):
                return placeholder + match[0][end:]
        return match[0]
    return replace


def ibans(text):
    """Bank accounts become [IBAN]; a word in capitals behind one stays."""
    return substitute_where(DIGIT, IBAN, checked(is_iban, "[IBAN]"), text)


CARD = regex.compile(r"(?<![\w.,+-])[2-6]\d{3}(?:([ -]?)\d{4}\1\d{4}\1(?:\d{4}\1\d{1,3}|\d{1,7})"
                     r"|([ -]?)\d{6}\2\d{5})(?![\w-]|[.,]\d)")


def is_card(number):
    """Luhn's checksum: from the right, every other digit doubled; the sum of all digits ends in 0.
    """
    digits = [int(c) for c in reversed(number) if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[1::2]]
    return 13 <= len(digits) <= 19 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def cards(text):
    """Credit and debit cards become [CARD]."""
    return substitute_where(DIGIT, CARD, checked(is_card, "[CARD]"), text)


IP = regex.compile(r"""
      (?<![\w.]|\p{L}-|[<>=~!]=)
      (?<!(?i:version|version__|release|section|chapter|v\.|§)["']?\ ?[:=]?\ ?["']?)
      (?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\w|\.\w|-(?!\d+\.\d+\.)\w)
    | (?<![\w:.])(?:[\da-fA-F]{1,4}:{1,2}){1,7}(?:[\da-fA-F]{1,4})?(?![\w:]|\.\w)
    | (?<![\w:.)\]]\[?)::1(?![\w:]|\.\w)
    """, regex.VERBOSE)


def is_ip(address):
    """An address, and not 1::2, which is a slice in Python, or add::face."""
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    return version == 4 or address == "::1" or any(c.isdigit() for c in address) and (
        any(c.isalpha() for c in address) or address.count(":") >= 4)


def ips(text):
    """192.0.2.1 and 2001:db8::1 become [IP]."""
    return substitute_where(DIGIT, IP, checked(is_ip, "[IP]"), text)


PHONE = regex.compile(r"""(?<![\w+/=$€£-]|\d[.,:\ ])(?:
      \+\d{1,3}(?:[ ./-]?(?:\d{1,5}|\(\d{1,5}\))){2,6}                    # +44 20 7946 0958
    | (?:1[ .-])?(?:\([2-9]\d\d\)\ ?|[2-9]\d\d([.-]))\d{3}(?(1)\1|[ .-])\d{4}   # (555) 123-4567
    | (?!\(?(?:\d\d?[./-]\d\d?|\d{4}-\d\d)[./-]\d|\d\d(?:[ ]\d\d){5})    # 030 1234567; no date, no list
      (?:0\d{1,4}|\(0\d{1,4}\))(?:[ /-]\d{2,8}){1,5}
    | (?<=\b(?i:tel|telefon|téléphone|phone|fax|mobile|cell|call)[.:]?\ {0,2})\d{7,15}
    )(?![\w-]|[.,/:]\d)""", regex.VERBOSE)


def phones(text):
    """Telephone numbers: international, American, those that begin with 0, those called one."""
    def replace(match):
        n = sum(c.isdigit() for c in match[0])
        return "[PHONE]" if (7 if match[0][0].isdigit() else 8) <= n <= 15 and (
            match[0][0] != "0" or n >= 9) else match[0]
    return substitute_where(DIGIT, PHONE, replace, text)


# ------------------------------------------------------------------------------------------
# All rules, in the order they are applied: each sees what those before it have left. What a wrong
# encoding made of a letter may hold \x85, which is a line end to the next rule; a key may hold what
# looks like an address. Those that are not private have a switch of the same name in DataConfig.

PRIVATE = {"key": keys, "email": emails, "iban": ibans, "card": cards, "ip": ips, "phone": phones}
RULES = {"mojibake": mojibake, "line_ends": line_ends, "control_characters": control_characters,
         **PRIVATE, "nfc": nfc, "trailing_spaces": trailing_spaces, "boilerplate": boilerplate,
         "blank_lines": blank_lines}


# Where a text can be cut, and no rule notices: before a line that is not blank; within a long
# line between two words; if it has none, after what is no space and before what stands by itself
# (not an accent, or a part of a Korean syllable). White space without end is cut anywhere.
CUTS = [regex.compile("(?r)" + place) for place in (
    r"(?<=\n)(?=[^\r\n\p{M}])", r"(?<=\p{Ll})(?= \p{Ll})",
    r"(?<=[^\s\p{C}])(?=[^\p{M}\u1160-\u11ff])", r"(?<!\r)(?=\s)")]


def last_cut(text):
    """The last such place (each pattern is searched from the end), or 0."""
    for place in CUTS:
        found = place.search(text)
        if found and found.start():
            cut = found.start()
            begin = text.rfind("-----BEGIN ", max(0, cut - 20_000), cut)    # a key has many lines
            if begin > 0 and "-----END" not in text[begin:cut]:
                cut = text.rfind("\n", 0, begin) + 1 or cut
            return cut
    return 0


def blocks(texts, size=1 << 20):
    """A stream of text, cut anew into blocks of about this size that can be cleaned one by one."""
    waiting = ""
    for text in texts:
        for start in range(0, len(text), size):
            waiting += text[start:start + size]
            if len(waiting) > size:
                cut = last_cut(waiting)
                if cut:
                    yield waiting[:cut]
                waiting = waiting[cut:]
    if waiting:
        yield waiting


def masked(example):
    """Letters as x, digits as 0: what private data looked like, and not what it was."""
    return example and re.sub(r"\d", "0", re.sub(r"[^\W\d_]", "x", example))


class Cleaner:
    """Applies rules, and keeps count.

    names       the rules that are on
    report      for each of them, how often it struck, and its first example
    """

    def __init__(self, names):
        seen = {}                               # boilerplate's memory
        self.rules = {name: (lambda text: boilerplate(text, seen)) if name == "boilerplate"
                      else rule for name, rule in RULES.items() if name in names}
        self.report = {name: {"count": 0, "example": None} for name in self.rules}
        self.private = any(name in PRIVATE for name in self.rules)

    def note(self, name, count, example):
        entry = self.report.setdefault(name, {"count": 0, "example": None})
        entry["count"] += count
        if count and not entry["example"]:
            entry["example"] = example

    def clean(self, text):
        """One text through all the rules."""
        for name, rule in self.rules.items():
            text, count, example = rule(text)
            if count:
                self.note(name, count, masked(example) if self.private else example)
        return text

    def clean_stream(self, texts):
        """A document that comes in pieces, cleaned, in bounded memory; no blank lines around it.

        The same text comes out, whatever the pieces.
        """
        newlines = None                         # those since the last text; None before it
        for block in blocks(texts):
            text = self.clean(block)
            body = text.strip("\n")
            if body:
                start = text.index(body)
                if newlines is not None:
                    newlines += text[:start]
                    yield blank_lines(newlines)[0] if "blank_lines" in self.rules else newlines
                yield body
                newlines = text[start + len(body):]
            elif newlines is not None:
                newlines += text


# ------------------------------------------------------------------------------------------
# See the rules at work.

MESS = """Caf\u0065\u0301 and cafÃ©:   the same word,\ttwice\t\r
A bell\x07, a colour \x1b[31mred\x1b[0m, and a mark left over: \ufeff.\r






Write to anna@example.org or call +44 20 7946 0958; pay to GB29 NWBK 6016 1331 9268 19 or with
4111 1111 1111 1111. The server is 192.0.2.10, its password: correct9horse7battery.
On 2024-01-31, version 1.2.3.4 of ISBN 978-3-16-148410-0 cost 1,234.50, see line 12345.
"""


def report_lines(report):
    """What was counted, a line for each rule that struck, then the names of those that did not."""
    names = sorted((name for name in report if report[name]["count"]),
                   key=lambda name: -report[name]["count"])
    for name in names:
        entry = report[name]
        yield f"  {name.replace('_', ' '):20}{entry['count']:10,}   {entry['example']!r}"
    idle = [name.replace("_", " ") for name in report if name not in names]
    if idle:
        yield textwrap.fill("nothing to do for: " + ", ".join(idle), 99, initial_indent="  ",
                            subsequent_indent="  ")


def main():
    if sys.argv[1:2] in (["-h"], ["--help"]):
        return print(__doc__.strip())
    try:
        texts = [Path(name).read_bytes().decode() for name in sys.argv[1:]] or [MESS]
    except (OSError, ValueError) as error:
        print(f"clean.py: {error}", file=sys.stderr)
        sys.exit(2)
    cleaner = Cleaner([*RULES])
    for text in texts:
        for piece in cleaner.clean_stream([text]):
            print(piece, end="")
        print("\n")
    print("every rule, with how often it struck and an example (private data masked)")
    print(*report_lines(cleaner.report), sep="\n")


if __name__ == "__main__":
    main()
