"""Each rule takes out what it says, counts it, shows an example, and leaves honest text alone."""
import json
import random
import re
from functools import partial

import pytest

import data
from beyond import clean
from beyond.clean import RULES, CleanConfig
from conftest import inside, one_line

HONEST = """\
Honest text: l'œuvre naïve d'Æsop, «BEAUTÉ», Straße, 你好, السلام, ह\u093fन\u094dद\u0940, 한국어, family
👨\u200d👩\u200d👧, non\u00a0breaking, “quotes” – and dashes —…\n\n\tindented by a tab,  two  spaces
# Code, too\n    if a < b: return [a[0], *b] ** 2  # 50 %\n\n\nrow, row, row your boat,\n""" * 2


def cleaned(text, report=None, **switches):
    return clean.clean(text, CleanConfig(**switches).rules(), {} if report is None else report)


def test_honest_text_is_left_alone_and_rules_that_can_hurt_it_wait_to_be_asked():
    for name in RULES:
        rule = partial(RULES[name], seen={}) if name == "boilerplate" else RULES[name]
        assert rule(HONEST) == (HONEST, 0, None) or name == "mojibake"
    assert cleaned(HONEST, boilerplate=True, redact=True) == HONEST.strip("\n")
    assert RULES["mojibake"]("\u00abBEAUT\u00c9\u00bb")[1] == 1
    assert {*RULES} - {*CleanConfig().rules()} == {"mojibake", "boilerplate", *clean.PRIVATE}
    on = CleanConfig(mojibake=True, boilerplate=True, redact=True, redact_except=["ip"], nfc=False)
    assert {*RULES} - {*on.rules()} == {"ip", "nfc"}


@pytest.mark.parametrize("rule, before, after, count", [
    ("mojibake", "cafÃ© â€˜thereâ€™ ðŸ‘‹", "café ‘there’ 👋", 4),
    ("mojibake", "lost \ufffd\ufffdletters", "lost letters", 2),
    ("mojibake", "\u00c3 \u00e2 \u00e2\u20ac", "\u00c3 \u00e2 \u00e2\u20ac", 0),
    ("line_ends", "a\r\nb\rc\n\rd\fe\u2028f\x85g\v", "a\nb\nc\n\nd\ne\nf\ng\n", 7),
    ("control_characters", "a\x00b\x07c\x7fd\x9fe\tf\ng\ufeffh", "abcde\tf\ngh", 5),
    ("control_characters", "\x1b[1;31mred\x1b[0m \x1b and [1m", "red  and [1m", 3),
    ("blank_lines", "a\n\n\n\nb" + "\n" * 5 + "c" + "\n" * 40, "a\n\n\n\nb\n\n\n\nc\n\n\n\n", 2),
    ("nfc", "Cafe\u0301 a\u030a plain \u212b", "Caf\u00e9 \u00e5 plain \u00c5", 3),
    ("trailing_spaces", "a  \n\t\nb\t \n c", "a\n\nb\n c", 3)])
def test_rules_by_hand(rule, before, after, count):
    text, n, example = RULES[rule](before)
    assert (text, n) == (after, count) and (example is None) == (count == 0)
    assert not example or example in before
    assert RULES[rule](after) == (after, 0, None)


def test_mojibake_is_what_windows_and_latin_1_make_of_utf_8():
    text = "\u00c0 \u00e9 \u0153 \u201c \u201d \u2026 \u20ac \u4f60 \U0001f44b \u00df \u00ff"
    for encoding in ("latin-1", "cp1252"):
        spoilt = "".join(bytes([b]).decode(encoding, "ignore") or chr(b) for b in text.encode())
        assert spoilt != text and RULES["mojibake"](spoilt)[0] == text


def test_boilerplate_is_a_long_line_that_comes_again_and_again(monkeypatch):
    page = "Copyright 2024 by the author\nshort\nsome text of page {0}, and every page\n"
    table = "".join(f"{n}, 1.25, 1.50, 2.75, 3.00 kg\n" for n in range(9))
    text = "".join(page.format(n) for n in range(6)) + table + "read once, this line is 20+"
    kept, n, example = clean.boilerplate(text, seen := {})
    assert kept.count("Copyright") == kept.count("of page") == 3 and n == 6
    assert kept.count("short") == 6 and kept.endswith(table + "read once, this line is 20+")
    assert example.startswith("Copyright") and clean.boilerplate(text, seen)[1] == 12   # remembered
    monkeypatch.setattr(clean, "REMEMBERED", 100)           # what is rare is forgotten
    seen, rng, dropped = {}, random.Random(1), 0
    for n_lines in [20] * 200 + [5000]:
        lines = sorted(2 * ["".join(rng.choices("abcdefgh", k=30)) for _ in range(n_lines)])
        kept, n, _ = clean.boilerplate("\n".join(["the very same long line"] * 2 + lines), seen)
        assert len(seen) <= 100 and all(line in kept for line in lines)
        dropped += n
    assert dropped > 350 and clean.boilerplate("another long line, late\n" * 99, seen)[1] > 90


# What is redacted, «marked», and what is nearly such a thing and stays.
PRIVATE = {
    "email": ["write to «anna.smith+x@mail.example.co.uk».", "<«a_b-c@d.org»>, «b@c.museum»",
              "«jos\u00e9@m\u00fcller.de»"],
    "phone": ["call «+44 20 7946 0958» or «+49 (0)30 1234567».", "«1-800-555-0199»",
              "«+1 (555) 123-4567»; «(555) 123-4567»; «555-123-4567»; «555.123.4567»",
              "«+4915112345678»", "«030 1234567», «0171/1234567», «01 23 45 67 89»",
              "«(020) 7946 0958»", "Tel. «01711234567»", "Phone: «5551234567»", "tel:«5551234567»",
              "Tel:«+44 20 7946 0958»"],
    "iban": ["«GB29 NWBK 6016 1331 9268 19»", "to «DE89370400440532013000»,",
             "«NO93 8601 1117 947»", "«FR14 2004 1010 0505 0001 3M02 606»",
             "«PL61 1090 1014 0000 0712 1981 2874» EUR"],
    "card": ["«4111 1111 1111 1111»", "«5500-0000-0000-0004».", "«378282246310005»",
             "«3782 822463 10005»", "«6011111111111117»", "«6304 0000 0000 0000 018»",
             "«4111 1111 1111 1111» 123"],
    "ip": ["from «192.0.2.10»:8080,", "«10.0.0.1»", "«255.255.255.255».", "http://«203.0.113.7»/x",
           "«10.0.0.1»-«10.0.0.9»", "«2001:db8::ff00:42:8329»", "«fe80::1»", "«::1»",
           "ping «::1», please", "«2001:0db8:85a3:0000:0000:8a2e:0370:7334»"],
    "key": ["«AKIAIOSFODNN7EXAMPLE»", "«ghp_" + "aB3" * 12 + "»", "«xoxb-123456789012-abcdef»",
            "key «sk-proj-" + "aB3-" * 10 + "x».", "«AIza" + "Sy0" * 11 + "xy»",
            "«eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhb»",
            'password = "«correct9horse7battery»"', "API_KEY=«0123456789abcdef0123»",
            'SECRET_KEY = "«n0t-so-secret-after-all»"', "password: «correct9horse!battery»",
            "token = '«correct_horse_9»'",
            "«-----BEGIN PRIVATE KEY-----\\nMIIE\\nAbc+/=\\n-----END PRIVATE KEY-----»",
            "«-----BEGIN PRIVATE KEY-----\n" + ("Ab+/" * 16 + "\n") * 8 + "Ab+/" * 16 + "»\n=",
            "«-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2.0 (MingW32)\n\nlQOY\n=ab1\n"
            "-----END PGP PRIVATE KEY BLOCK-----»",
            "«-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4\n\nAbc+\n-----END EC PRIVATE KEY-----»",
            "«-----BEGIN RSA PRIVATE KEY-----\nMII\n\nA+/=\n-----END RSA PRIVATE KEY-----»\nend"],
    "nothing": ["2024-01-31", "31.12.2023", "12/31/2023", "01/02/2023 10:30", "01-02-2023",
        "1914-1918", "2024-01-31T12:30:45.123Z", "12:30:45", "0001-01-01 00:00:00",
        "20240131123045", "01.02.2023", "978-3-16-148410-0", "ISBN 0-306-40615-2",
        "ISBN 0306406152", "9780306406157", "0 306 40615 2", "ISSN 0378-5955", "version 1.2.3.4",
        "Version 10.0.0.1", "v10.0.19041.1", "Section 1.2.3.4", "numpy 1.26.4", "v1.2.3.4",
        "torch-2.13.0.1", "bash 5.2.15.1-1ubuntu2", "1.2.3.4.5", "256.1.1.1", "10.0.19041.1288",
        "1,234,567.89", "$12 345 678.90", "EUR 1.234.567,89", "3.14159265358979", "100 200 300",
        "1e-10", "-0.123456789", "$5551234567", "12345", "line 1234567",
        "+49 12345 12345 12345 12345", "0123456789", "1637507675123", "   42: 0 1 2 3 4 5 6 7 8 9",
        "1 000 000 000 000", "GB29 NWBK 6016 1331 9268 18", "DE88370400440532013000",
        "4111 1111 1111 1112", "5500 0000 0000 0005", "std::vector<int>", "a[1::2]", "x[10::200]",
        "a :: Int -> Int", "00:1A:2B:3C:4D:5E", "Matthew 5:3", "@anna, see a @ b", "user@localhost",
        "x = a @ b.T", "@dataclass", "the token: nothing at all", "password: ",
        "token = tokenizer.encode(text)", "secret = os.environ['SECRET_NUMBER_1']",
        "token: correcthorsebattery", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "123e4567-e89b-12d3-a456-426614174000", "sk-learn", "-----BEGIN PUBLIC KEY-----\nMIIB",
        "q@k.transpose(-2,-1)", "x@self.weight", "opencv-python==4.8.0.76", '"version": "4.8.0.74"',
        "__version__ = '4.8.0.74'", "01 02 03 04 05 06", "01 02 03 04 05 06 07 08 09 10",
        "sk-toggleable__label-arrow 1", "secret = compute_value_2", "x[::1]", "x[0][::1]",
        "-----BEGIN PRIVATE KEY----- is its first line,\n" + "what follows are 9 words. " * 40,
        "from -----BEGIN PRIVATE KEY----- to -----END PRIVATE KEY-----"]}


@pytest.mark.parametrize("kind, text", [(kind, text) for kind in PRIVATE for text in PRIVATE[kind]])
def test_private_data_becomes_a_placeholder_and_near_misses_stay(kind, text):
    rules = {name: RULES[name] for name in clean.PRIVATE}
    before, after = re.sub("[«»]", "", text), re.sub("(?s)«.*?»", f"[{kind.upper()}]", text)
    for left, right in (("", ""), ("Words before ", " and after"), ("(", ")"), ("a\n", "\nb")):
        assert clean.clean(left + before + right, rules, report := {}) == left + after + right
        found = {name: n for name, (n, _) in report.items() if n}
        assert found == ({kind: text.count("«")} if kind in rules else {})
    assert not rules.pop(kind, None) or clean.clean(before, rules, {}) != after     # it was that


@pytest.mark.parametrize("valid, check", [("GB29NWBK60161331926819", clean.is_iban), (
    "4111111111111111", clean.is_card), ("00079927398713", clean.is_card)])
def test_checksums_catch_every_single_wrong_digit(valid, check):
    assert check(valid)
    assert not any(check(valid[:i] + other + valid[i + 1:]) for i, c in enumerate(valid)
                   for other in "0123456789" if c.isdigit() and other != c)


def test_hostile_text_takes_no_longer_than_honest_text():
    """No rule is quadratic: these would take hours if one were. It ends, is all we ask."""
    for unit in ("a", "1", "+1", " ", " \t", "-", "(0", "a@", "a.", "1.", "0 1", ":", "f:", "GB29",
                 "eyJ", "\n", "\r", "Ã", "token=", "-----BEGIN PRIVATE KEY-----", "e\u0301"):
        cleaned(unit * (100_000 // len(unit)) + "x", mojibake=True, boilerplate=True, redact=True)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_clean_stays_as_it_is(seed):
    parts = ["a word ", "\n", "\n\n\n", "\r\n", "\r", "  \n", "\t", "e\u0301", "\u0301", "Ã©",
             "\x07", "\ufeff", "한", "\u1112\u1161\u11ab", "\ufffd", "x" * 40, "\x1b[0m"]
    once = cleaned("".join(random.Random(seed).choices(parts, k=400)), mojibake=True)
    assert cleaned(once, report := {}, mojibake=True) == once and {*report.values()} == {(0, None)}


def test_the_script_shows_every_rule_or_cleans_documents_and_reports(tmp_path):
    said = inside("beyond.clean", cwd=tmp_path)
    assert all(f"[{kind.upper()}]" in said for kind in clean.PRIVATE) and "anna@" not in said
    assert "978-3-16-148410-0" in said and not [*tmp_path.iterdir()]
    lines = [f"{n}: anna{n}@example.org, 192.0.2.{n}, costs 1,234.{n:02} \r\n" for n in range(90)]
    texts = ["".join(lines), " \x07\n", "caf\u00c3\u00a9 b@c.de" + "\n" * 7 + "end"]
    (tmp_path / "b.txt").write_text("anna\x07")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": t}) + "\n" for t in texts))
    command = "a.jsonl --field body --redact --redact-except ip --mojibake --no-trailing-spaces"
    said = inside("beyond.clean", *command.split(), cwd=tmp_path)
    assert len([*tmp_path.iterdir()]) == 2 and said.endswith("; -o DIR writes them\n")
    report = inside("beyond.clean", *command.split(), "-o", "out", cwd=tmp_path)
    assert report.splitlines()[:-1] == said.splitlines()[:-1]
    assert "  switched off: trailing spaces, boilerplate\n2 documents, " in report
    assert re.search(r"email +91 .*'0: xxxx0@xxxxxxx.xxx, 000\.0\.0", report)     # masked
    assert re.search(r"empty documents +1 +'a.jsonl, line 2'", report)
    assert not re.search("anna| ip ", report)
    (_, first), (_, last) = data.documents([str(tmp_path / "out")])
    assert first.startswith("0: [EMAIL], 192.0.2.0, costs 1,234.00 \n1: [EMAIL], ")
    assert last == "caf\u00e9 [EMAIL]\n\n\n\nend"
    assert "'anna\\x07'" in inside("beyond.clean", "b.txt", cwd=tmp_path)
