"""
Cleaning: what a model should not have to learn is taken out of the text, and nothing else.

A model learns what it is shown: the spaces at the ends of lines, the same notice ten times over,
somebody's telephone number. Each rule here is a small function from text to text that also says
how often it struck, with an example, so that you can see what it does before you trust it:

    clean       broken encodings, control characters, runaway blank lines, repeated lines
    redact      e-mail addresses, telephone and card numbers, and so on, become [EMAIL], [PHONE] ...
    normalise   one spelling for what looks the same

Rules that cannot hurt honest text are on unless you say otherwise; the others wait to be asked,
since verse repeats itself on purpose and "Â»" may be what its author wrote.

    python -m beyond.clean                          # the rules at work on a few lines of mess
    python -m beyond.clean notes/                   # what would they do? nothing is written
    python -m beyond.clean notes/ --redact -o out   # write out/documents.jsonl, for data.py

Patterns use the module regex where re, Python's own, cannot say it: \\p{L} for a letter of any
script, a look behind of any length.

Paper: Finding Repeated Elements (Misra and Gries, 1982), for the lines that repeat.
"""
import ipaddress
import re
import textwrap
import unicodedata
from dataclasses import dataclass, fields
from functools import partial

from beyond.ingest import ReadConfig, add_source_flags, documents, save
from data import add_flags, checked
from tokenizer import Parser, clear_errors

import regex

# ---- A rule takes a text and returns (the text without what it looks for, how often that was, an
# example). Nearly all of them look for a pattern and put something in its place.


def substitute(pattern, replacement, text):
    """Replace every match; replacement is a string, or a function of a match that may keep it."""
    count, first = 0, None

    def replace(match):
        nonlocal count, first
        new = replacement(match) if callable(replacement) else replacement
        if new != match[0]:
            count, first = count + 1, first or match.span()
        return new

    after = pattern.sub(replace, text)
    if not count:
        return text, 0, None
    start, stop = first                 # an example is shown with a little of what stands around it
    return after, count, text[max(0, start - 15):min(stop, start + 40) + 15]


# ---- Clean.

# The bytes of UTF-8, read as if each were a character of Windows or Latin-1: é has become Ã©.
HIGH = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹Œ\u017d‘’“”•–—˜™š›œ\u017eŸ]"
MOJIBAKE = re.compile(f"[Â-ß]{HIGH}|[à-ï]{HIGH}{{2}}|[ð-ô]{HIGH}{{3}}|\N{REPLACEMENT CHARACTER}")


def windows_byte(character):
    """The byte that Windows (cp1252), or else Latin-1, shows as this character."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def repaired(match):
    """What it was: "cafÃ©" is café again. U+FFFD, which is past repair, is dropped."""
    if match[0] == "\N{REPLACEMENT CHARACTER}":
        return ""
    try:
        return b"".join(map(windows_byte, match[0])).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


# A line's end, whatever Windows, old Macs, printers and Unicode call it.
LINE_ENDS = re.compile("[\r\v\f\x85\u2028\u2029](?:(?<=\r)\n)?")

# Characters that were meant for a machine: all but tab and line ends, with what follows ESC to set
# a terminal's colours; and U+FEFF, a byte-order mark that came along when files were joined.
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]"
                     r"(?:(?<=\x1b)\[[0-?]*[ -/]*[@-~])?")

BLANK_LINES = 3         # as many may stand one after the other
TOO_MANY = re.compile("\n{%d,}" % (BLANK_LINES + 2))
TRAILING_SPACES = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)

REPEATS = 3             # times a long line may stand in the documents, before it is boilerplate
LONG = 20               # characters that make a line long
LETTERS = 10            # of them letters: a row of a table is no boilerplate
REMEMBERED = 500_000    # different lines that are counted at a time


def boilerplate(text, seen):
    """Drop a long line that was seen REPEATS times before: "Copyright ...", "Page 12 of 90".

    Numbers count as equal. seen, a dict, holds the counts from one document to the next. When it
    is full, one is taken off every count and zeros are forgotten: what is frequent stays.
    """
    kept, dropped = [], []
    for line in text.split("\n"):
        if len(line) >= LONG and sum(map(str.isalpha, line)) >= LETTERS:
            key = hash(re.sub(r"\d+", "0", line.strip()))
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > REPEATS:
                dropped.append(line)
                continue
            while len(seen) > REMEMBERED:
                fewer = {key: n - 1 for key, n in seen.items() if n > 1}
                seen.clear()
                seen.update(fewer)
        kept.append(line)
    return "\n".join(kept), len(dropped), dropped[0][:70] if dropped else None


def nfc(text):
    """Unicode's composed form: "e" and an accent on it become one character. Counts words."""
    if unicodedata.is_normalized("NFC", text):
        return text, 0, None
    new = unicodedata.normalize("NFC", text)
    changed = [old for old, word in zip(text.split(), new.split()) if old != word]
    return new, len(changed), changed[0][:40] if changed else None


# ---- Redact. What looks like private data becomes a placeholder. A pattern finds candidates; where
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
    text, n, example = substitute(PRIVATE_KEY, "[KEY]", text)
    text, more, other = substitute_where(KEY_HINT, KEY, "[KEY]", text)
    return text, n + more, example or other


IBAN = regex.compile(r"(?<![\p{L}\d])[A-Z]{2}\d\d(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,3})?"
                     r"(?![\p{L}\d])")


def is_iban(iban):
    """The checksum of ISO 13616: as one number, its head behind it and A as 10, it is 1 mod 97."""
    iban = iban.replace(" ", "")
    return 15 <= len(iban) <= 34 and int("".join(
        str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def if_valid(is_valid, placeholder):
    """For substitute: as much of a match, up to a space or hyphen or its end, as is valid."""
    def replace(match):
        for end in sorted({m.start() for m in re.finditer("[ -]|$", match[0])}, reverse=True):
            if is_valid(match[0][:end]):
                return placeholder + match[0][end:]
        return match[0]
    return replace


CARD = regex.compile(r"(?<![\w.,+-])[2-6]\d{3}(?:([ -]?)\d{4}\1\d{4}\1(?:\d{4}\1\d{1,3}|\d{1,7})"
                     r"|([ -]?)\d{6}\2\d{5})(?![\w-]|[.,]\d)")


def is_card(number):
    """Luhn's checksum: from the right, every other digit doubled; the sum of all digits ends in 0.
    """
    digits = [int(c) for c in reversed(number) if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[1::2]]
    return 13 <= len(digits) <= 19 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


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


PHONE = regex.compile(r"""(?<![\w+/=$€£-]|\d[.,:\ ])(?:
      \+\d{1,3}(?:[ ./-]?(?:\d{1,5}|\(\d{1,5}\))){2,6}                    # +44 20 7946 0958
    | (?:1[ .-])?(?:\([2-9]\d\d\)\ ?|[2-9]\d\d([.-]))\d{3}(?(1)\1|[ .-])\d{4}   # (555) 123-4567
    | (?!\(?(?:\d\d?[./-]\d\d?|\d{4}-\d\d)[./-]\d|\d\d(?:[ ]\d\d){5})  # 030 1234567; no date, list
      (?:0\d{1,4}|\(0\d{1,4}\))(?:[ /-]\d{2,8}){1,5}
    | (?<=\b(?i:tel|telefon|téléphone|phone|fax|mobile|cell|call)[.:]?\ {0,2})\d{7,15}
    )(?![\w-]|[.,/:]\d)""", regex.VERBOSE)


def phone(match):
    """[PHONE], if there are as many digits as telephone numbers have."""
    n = sum(c.isdigit() for c in match[0])
    return "[PHONE]" if (7 if match[0][0].isdigit() else 8) <= n <= 15 and (
        match[0][0] != "0" or n >= 9) else match[0]


# ---- All rules, in the order they are applied: each sees what those before it have left. What a
# wrong encoding made of a letter may hold \x85, a line end to the next rule; a key may hold
# what looks like an address.

PRIVATE = {"key": keys,
           "email": partial(substitute, EMAIL, "[EMAIL]"),
           "iban": partial(substitute, IBAN, if_valid(is_iban, "[IBAN]")),
           "card": partial(substitute, CARD, if_valid(is_card, "[CARD]")),
           "ip": partial(substitute_where, DIGIT, IP, if_valid(is_ip, "[IP]")),
           "phone": partial(substitute_where, DIGIT, PHONE, phone)}
RULES = {"mojibake": partial(substitute, MOJIBAKE, repaired),
         "line_ends": partial(substitute, LINE_ENDS, "\n"),
         "control_characters": partial(substitute, CONTROL, ""),
         **PRIVATE,
         "nfc": nfc,
         "trailing_spaces": partial(substitute, TRAILING_SPACES, ""),
         "boilerplate": boilerplate,
         "blank_lines": partial(substitute, TOO_MANY, "\n" * (BLANK_LINES + 1))}


@dataclass
class CleanConfig:
    """Which rules are on. A trailing comment is the flag's --help."""
    mojibake: bool = False              # repair what a wrong encoding did, such as Ã© for é
    line_ends: bool = True              # one kind of line end
    control_characters: bool = True     # drop characters that were meant for a machine
    nfc: bool = True                    # one character for a letter and its accent
    trailing_spaces: bool = True        # no spaces at the end of a line
    boilerplate: bool = False           # drop a long line from the fourth time on
    blank_lines: bool = True            # of more than three blank lines in a row keep three
    redact: bool = False                # private data becomes [EMAIL], [PHONE], [IBAN], [KEY] ...
    redact_except: tuple = ()           # but leave alone: key, email, iban, card, ip, phone

    def __post_init__(self):
        for kind in self.redact_except:
            if kind not in PRIVATE:
                raise ValueError(f"--redact-except names {kind!r}, not {', '.join(PRIVATE)}")
        if self.redact_except and not self.redact:
            raise ValueError("--redact-except has no use without --redact")

    def rules(self):
        """The rules that are on, by name."""
        return {name: partial(rule, seen={}) if name == "boilerplate" else rule
                for name, rule in RULES.items()
                if (self.redact and name not in self.redact_except if name in PRIVATE
                    else getattr(self, name))}


def clean(text, rules, report):
    """The text after all the rules, without blank lines around it.

    report[name] becomes (how often a rule struck, its first example). If private data is redacted,
    examples show what it looked like, letters as x and digits as 0, and not what it was.
    """
    for name, rule in rules.items():
        text, count, example = rule(text)
        if example and PRIVATE.keys() & rules.keys():
            example = re.sub(r"\d", "0", re.sub(r"[^\W\d_]", "x", example))
        before, first = report.get(name, (0, None))
        report[name] = before + count, first or example
    return text.strip("\n")


def cleaned(documents, rules, report):
    """The documents, (name, text), cleaned one by one; what is empty then is left out."""
    report["empty_documents"] = 0, None
    for name, text in documents:
        text = clean(text, rules, report)
        if text.strip():
            yield name, text
        else:
            n, first = report["empty_documents"]
            report["empty_documents"] = n + 1, first or name


# ---- See the rules at work.

MESS = """Caf\u0065\u0301 and cafÃ©:   the same word,\ttwice\t\r
A bell\x07, a colour \x1b[31mred\x1b[0m, and a mark left over: \ufeff.\r






Write to anna@example.org or call +44 20 7946 0958; pay to GB29 NWBK 6016 1331 9268 19 or with
4111 1111 1111 1111. The server is 192.0.2.10, its password: correct9horse7battery.
On 2024-01-31, version 1.2.3.4 of ISBN 978-3-16-148410-0 cost 1,234.50, see line 12345.
"""


def report_lines(report):
    """What was counted, a line for each rule that struck, then the names of those that did not."""
    for name, (count, example) in sorted(report.items(), key=lambda item: -item[1][0]):
        if count:
            yield f"  {name.replace('_', ' '):20}{count:10,}   {example!r}"
    idle = [name.replace("_", " ") for name, (count, _) in report.items() if not count]
    if idle:
        yield textwrap.fill("nothing to do for: " + ", ".join(idle), 99, initial_indent="  ",
                            subsequent_indent="  ")


def main():
    parser = Parser("Clean documents. Without SOURCE, show every rule at work on a few lines.")
    add_source_flags(parser, nargs="*")
    add_flags(parser, CleanConfig)
    options = parser.parse_args()
    with clear_errors():
        config, report = checked(CleanConfig, vars(options)), {}
        if options.source:
            found = documents(options.source, checked(ReadConfig, vars(options)))
            said = save(cleaned(found, config.rules(), report), options.source, options.output)
        elif unused := [name for name, value in vars(options).items() if value not in ([], None)]:
            raise ValueError(f"--{unused[0].replace('_', '-')} has no use without a SOURCE")
        else:
            config = CleanConfig(mojibake=True, boilerplate=True, redact=True)
            print(clean(MESS, config.rules(), report), end="\n\n")
            said = "python -m beyond.clean SOURCE does the same for text of yours"
        print("every rule that is on, with how often it struck and an example"
              + " (its letters as x: it may be private)" * config.redact)
        print(*report_lines(report), sep="\n")
        off = [f.name for f in fields(config) if getattr(config, f.name) is False]
        print("  switched off: " + (", ".join(off).replace("_", " ") or "nothing"), said, sep="\n")


if __name__ == "__main__":
    main()
