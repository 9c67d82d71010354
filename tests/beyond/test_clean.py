"""Each rule takes out what it says, counts it, shows an example, and leaves honest text alone."""
import random
import re

import pytest

import clean
from clean import RULES, Cleaner
from conftest import assume, given, run, st
from data import DataConfig

HONEST = """\
Honest text in many scripts: l'œuvre naïve d'Æsop, «BEAUTÉ», Straße, 你好, السلام,
ह\u093fन\u094dद\u0940, 한국어, a family 👨\u200d👩\u200d👧, non\u00a0breaking, “quotes” – and dashes —…

\tindented by a tab,  two  spaces  inside,

# Code, too
    if a < b: return [a[0], *b] ** 2  # 50 %


row, row, row your boat,
row, row, row your boat,
"""


def boilerplate(text):
    return clean.boilerplate(text, {})


def test_honest_text_is_left_alone():
    names = [name for name in RULES if name != "mojibake"]
    for name in names:
        text, count, example = (boilerplate if name == "boilerplate" else RULES[name])(HONEST)
        assert (text, count, example) == (HONEST, 0, None), name
    assert "".join(Cleaner(names).clean_stream([HONEST])) == HONEST.strip("\n")


def test_but_mojibake_can_hurt_it_and_so_waits_to_be_asked():
    assert RULES["mojibake"]("\u00abBEAUT\u00c9\u00bb")[1] == 1
    assert not DataConfig().mojibake and not DataConfig().boilerplate
    assert "mojibake" not in DataConfig().rules() and "nfc" in DataConfig().rules()


@pytest.mark.parametrize("rule, before, after, count", [
    ("mojibake", "cafÃ© â€˜thereâ€™ ðŸ‘‹", "café ‘there’ 👋", 4),
    ("mojibake", "lost \ufffd\ufffdletters", "lost letters", 2),
    ("mojibake", "\u00c3 \u00e2 \u00e2\u20ac", "\u00c3 \u00e2 \u00e2\u20ac", 0),
    ("line_ends", "a\r\nb\rc\n\rd\fe\u2028f\x85g\v", "a\nb\nc\n\nd\ne\nf\ng\n", 7),
    ("control_characters", "a\x00b\x07c\x7fd\x9fe\tf\ng\ufeffh", "abcde\tf\ngh", 5),
    ("control_characters", "\x1b[1;31mred\x1b[0m \x1b and [1m", "red  and [1m", 3),
    ("blank_lines", "a\n\n\n\nb" + "\n" * 5 + "c" + "\n" * 40 + "d",
     "a\n\n\n\nb\n\n\n\nc\n\n\n\nd", 2),
    ("nfc", "Cafe\u0301 a\u030a plain \u212b", "Caf\u00e9 \u00e5 plain \u00c5", 3),
    ("trailing_spaces", "a  \n\t\nb\t \n c", "a\n\nb\n c", 3),
])
def test_rules_by_hand(rule, before, after, count):
    text, n, example = RULES[rule](before)
    assert (text, n) == (after, count)
    assert (example is None) == (count == 0)
    assert not example or example in before
    assert RULES[rule](after) == (after, 0, None)


def test_mojibake_is_what_windows_and_latin_1_make_of_utf_8():
    text = "\u00c0 \u00e9 \u0153 \u201c \u201d \u2026 \u20ac \u4f60 \U0001f44b \u00df \u00ff"
    for encoding in ("latin-1", "cp1252"):
        spoilt = "".join(bytes([b]).decode(encoding, errors="ignore") or chr(b)
                         for b in text.encode())
        assert spoilt != text and clean.mojibake(spoilt)[0] == text


def test_boilerplate_is_a_long_line_that_comes_again_and_again():
    page = "Copyright 2024 by the author\nshort\nsome text of page {0}, and every page\n"
    text = "".join(page.format(n) for n in range(6)) + "read once, this line is 20+"
    seen = {}
    kept, n, example = clean.boilerplate(text, seen)
    assert kept.count("Copyright") == kept.count("of page") == 3 and n == 6
    assert kept.count("short") == 6 and kept.endswith("20+") and example.startswith("Copyright")
    again, n, _ = clean.boilerplate(text, seen)             # it remembers
    assert "Copyright" not in again and n == 12


def test_a_table_of_numbers_is_no_boilerplate():
    rows = "".join(f"{n}, 1.25, 1.50, 2.75, 3.00 kg\n" for n in range(9))
    assert boilerplate(rows) == (rows, 0, None)


def test_boilerplate_forgets_what_is_rare_and_keeps_what_is_frequent(monkeypatch):
    monkeypatch.setattr(clean, "REMEMBERED", 100)
    seen, rng, dropped = {}, random.Random(1), 0
    for _ in range(200):
        lines = ["".join(rng.choices("abcdefgh", k=30)) for _ in range(20)]
        kept, n, _ = clean.boilerplate("\n".join(["the same long line again"] * 2 + lines), seen)
        assert len(seen) <= 100 and all(line in kept for line in lines)
        dropped += n
    assert dropped > 350


# What is redacted: the text, and what should be there instead.
PRIVATE = {
    "email": [("write to anna.smith+x@mail.example.co.uk.", "write to [EMAIL]."),
              ("<a_b-c@d.org>, b@c.museum", "<[EMAIL]>, [EMAIL]"),
              ("jos\u00e9@m\u00fcller.de", "[EMAIL]")],
    "phone": [("call +44 20 7946 0958 or +49 (0)30 1234567.", "call [PHONE] or [PHONE]."),
              ("+1 (555) 123-4567; (555) 123-4567; 555-123-4567; 555.123.4567",
               "[PHONE]; [PHONE]; [PHONE]; [PHONE]"),
              ("1-800-555-0199", "[PHONE]"), ("+4915112345678", "[PHONE]"),
              ("030 1234567, 0171/1234567, 01 23 45 67 89", "[PHONE], [PHONE], [PHONE]"),
              ("(020) 7946 0958", "[PHONE]"), ("Tel. 01711234567", "Tel. [PHONE]"),
              ("Phone: 5551234567", "Phone: [PHONE]"), ("tel:5551234567", "tel:[PHONE]"),
              ("Tel:+44 20 7946 0958", "Tel:[PHONE]")],
    "iban": [("GB29 NWBK 6016 1331 9268 19", "[IBAN]"),
             ("to DE89370400440532013000,", "to [IBAN],"),
             ("FR14 2004 1010 0505 0001 3M02 606", "[IBAN]"),
             ("PL61 1090 1014 0000 0712 1981 2874 EUR", "[IBAN] EUR"),
             ("NO93 8601 1117 947", "[IBAN]")],
    "card": [("4111 1111 1111 1111", "[CARD]"), ("5500-0000-0000-0004.", "[CARD]."),
             ("378282246310005", "[CARD]"), ("3782 822463 10005", "[CARD]"),
             ("6011111111111117", "[CARD]"), ("6304 0000 0000 0000 018", "[CARD]"),
             ("4111 1111 1111 1111 123", "[CARD] 123")],
    "ip": [("from 192.0.2.10:8080,", "from [IP]:8080,"), ("10.0.0.1", "[IP]"),
           ("255.255.255.255.", "[IP]."), ("http://203.0.113.7/x", "http://[IP]/x"),
           ("10.0.0.1-10.0.0.9", "[IP]-[IP]"),
           ("2001:db8::ff00:42:8329", "[IP]"), ("fe80::1", "[IP]"), ("::1", "[IP]"),
           ("ping ::1, please", "ping [IP], please"),
           ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "[IP]")],
    "key": [("AKIAIOSFODNN7EXAMPLE", "[KEY]"), ("ghp_" + "aB3" * 12, "[KEY]"),
            ("key sk-proj-" + "aB3-" * 10 + "x.", "key [KEY]."),
            ("xoxb-123456789012-abcdef", "[KEY]"),
            ("AIza" + "Sy0" * 11 + "xy", "[KEY]"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhb", "[KEY]"),
            ('password = "correct9horse7battery"', 'password = "[KEY]"'),
            ("API_KEY=0123456789abcdef0123", "API_KEY=[KEY]"),
            ('SECRET_KEY = "n0t-so-secret-after-all"', 'SECRET_KEY = "[KEY]"'),
            ("password: correct9horse!battery", "password: [KEY]"),
            ("token = 'correct_horse_9'", "token = '[KEY]'"),
            ("-----BEGIN PRIVATE KEY-----\\nMIIE\\nAbc+/=\\n-----END PRIVATE KEY-----", "[KEY]"),
            ("-----BEGIN PRIVATE KEY-----\n" + ("Ab+/" * 16 + "\n") * 9 + "=", "[KEY]\n="),
            ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2.0 (MingW32)\n\nlQOY\n=ab1\n"
             "-----END PGP PRIVATE KEY BLOCK-----", "[KEY]"),
            ("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4\n\nAbc+\n-----END EC PRIVATE KEY-----",
             "[KEY]"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n\nAbc+/=\n-----END RSA PRIVATE KEY-----\nend",
             "[KEY]\nend")],
}
NEAR_MISSES = [
    # dates, times
    "2024-01-31", "31.12.2023", "12/31/2023", "01/02/2023 10:30", "01-02-2023", "1914-1918",
    "2024-01-31T12:30:45.123Z", "12:30:45", "0001-01-01 00:00:00", "20240131123045", "01.02.2023",
    # books
    "978-3-16-148410-0", "ISBN 0-306-40615-2", "ISBN 0306406152", "9780306406157", "0 306 40615 2",
    "ISSN 0378-5955",
    # versions, sections
    "version 1.2.3.4", "Version 10.0.0.1", "v10.0.19041.1", "Section 1.2.3.4", "numpy 1.26.4",
    "v1.2.3.4", "torch-2.13.0.1",
    "bash 5.2.15.1-1ubuntu2", "1.2.3.4.5", "256.1.1.1", "10.0.19041.1288",
    # prices, numbers
    "1,234,567.89", "$12 345 678.90", "EUR 1.234.567,89", "3.14159265358979", "100 200 300",
    "1e-10",
    "-0.123456789", "$5551234567", "12345", "line 1234567", "0123456789", "1637507675123",
    "   42: 0 1 2 3 4 5 6 7 8 9", "1 000 000 000 000",
    # nearly an account, a card, an address
    "GB29 NWBK 6016 1331 9268 18", "DE88370400440532013000", "4111 1111 1111 1112",
    "5500 0000 0000 0005", "std::vector<int>", "a[1::2]", "x[10::200]", "a :: Int -> Int",
    "00:1A:2B:3C:4D:5E", "Matthew 5:3",
    # nearly an address, nearly a key
    "@anna, see a @ b", "user@localhost", "x = a @ b.T", "@dataclass", "the token: nothing at all",
    "password: ", "token = tokenizer.encode(text)", "secret = os.environ['SECRET_NUMBER_1']",
    "token: correcthorsebattery", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "123e4567-e89b-12d3-a456-426614174000", "sk-learn", "-----BEGIN PUBLIC KEY-----\nMIIB",
    "q@k.transpose(-2,-1)", "x@self.weight", "opencv-python==4.8.0.76", '"version": "4.8.0.74"',
    "__version__ = '4.8.0.74'", "01 02 03 04 05 06", "01 02 03 04 05 06 07 08 09 10",
    "sk-toggleable__label-arrow 1", "secret = compute_value_2", "x[::1]", "x[0][::1]",
    "-----BEGIN PRIVATE KEY----- is its first line,\n" + "what follows are 9 words. " * 40,
    "from -----BEGIN PRIVATE KEY----- to -----END PRIVATE KEY-----",
]


@pytest.mark.parametrize("kind, text, redacted", [
    (kind, *pair) for kind, pairs in PRIVATE.items() for pair in pairs])
def test_private_data_becomes_a_placeholder(kind, text, redacted):
    for before, after in (("", ""), ("Words before ", " and after"), ("(", ")"), ("a\n", "\nb")):
        cleaner = Cleaner(clean.PRIVATE)
        assert cleaner.clean(before + text + after) == before + redacted + after
        assert cleaner.report[kind]["count"] == redacted.count(f"[{kind.upper()}]")
        assert sum(entry["count"] for entry in cleaner.report.values()) == redacted.count("[")
    assert Cleaner([other for other in clean.PRIVATE if other != kind]).clean(text) != redacted


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_near_misses_stay_untouched(text):
    for before, after in (("", ""), ("Words before ", " and after"), ("(", ")"), ("a\n", "\nb")):
        cleaner = Cleaner(clean.PRIVATE)
        whole = before + text + after
        assert cleaner.clean(whole) == whole, cleaner.report


def test_checksums_catch_every_single_wrong_digit():
    """What both were made for. Ours pass for the numbers that the standards print as examples."""
    for valid, check in (("GB29NWBK60161331926819", clean.is_iban),
                         ("4111111111111111", clean.is_card), ("79927398713000", clean.is_card)):
        if valid.startswith("799"):
            valid = "0007992739871" + "3"
        assert check(valid)
        for i, c in enumerate(valid):
            for other in "0123456789".replace(c, ""):
                if c.isdigit():
                    assert not check(valid[:i] + other + valid[i + 1:])


def test_examples_do_not_give_private_data_away():
    cleaner = Cleaner(RULES)
    cleaner.clean("write\x07 to anna@example.org or 030 1234567, Cafe\u0301 4111 1111 1111 1111\n")
    shown = " ".join(entry["example"] or "" for entry in cleaner.report.values())
    assert "xxxx@xxxxxxx.xxx" in shown and "000 0000000" in shown
    assert not re.search("anna|example|[1-9]", shown)
    assert "anna" in Cleaner(["control_characters"]).clean("anna\x07")


def test_hostile_text_takes_no_longer_than_honest_text():
    """No rule is quadratic: these would take hours if one were. It ends, is all we ask."""
    for unit in ("a", "1", "+1", " ", "-", "(0", "a@", "a.", "1.", "0 1", ":", "f:", "GB29", "eyJ",
                 "\n", "\r", "Ã", "token=", "-----BEGIN PRIVATE KEY-----", "e\u0301", "\u0301"):
        Cleaner(RULES).clean(unit * (100_000 // len(unit)))


def random_mess(seed):
    parts = ["a word ", "line of words", "\n", "\n\n\n", "\r\n", "\r", "  \n", "\t", "e\u0301",
             "\u0301",
             "Ã©", "\x07", "\ufeff", "anna@example.org", "+44 20 7946 0958", "한", "한",
             "GB29 NWBK 6016 1331 9268 19", "192.0.2.1", "\ufffd", "x" * 40,
             "Copyright by me 2020\n",
             "\n-----BEGIN PRIVATE KEY-----\nab\ncd\n-----END PRIVATE KEY-----\n"]
    return "".join(random.Random(seed).choices(parts, k=400))


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_is_cleaned_as_a_whole_would_be_however_it_is_cut(seed, monkeypatch):
    """Blocks of a few hundred characters, so that every rule meets many cuts."""
    blocks = clean.blocks
    mess = random_mess(seed)
    whole = Cleaner(RULES)
    expected = whole.clean(mess).strip("\n")
    for size in (3, 50, 10_000):
        texts = [mess[i:i + size] for i in range(0, len(mess), size)]
        assert "".join(Cleaner(RULES).clean_stream(texts)) == expected
        assert "".join(blocks(texts, 300)) == mess
        cleaner = Cleaner(RULES)
        monkeypatch.setattr(clean, "blocks", lambda texts: blocks(texts, 300))
        assert "".join(cleaner.clean_stream(texts)) == expected
        counts, expected_counts = ({name: entry["count"] for name, entry in c.report.items()
                                    if name != "blank_lines"} for c in (cleaner, whole))
        assert counts == expected_counts


NUMBERS = st.sampled_from(["1", "-2.5", " ", "  ", "\t", ",", "\n", "\r\n", "\n\n", "0 ", "$", "é",
                           "e\u0301", "NaN", " 10"])


@given(st.lists(NUMBERS, min_size=1, max_size=300).map("".join), st.integers(1, 60))
def test_tables_of_numbers_lose_nothing_at_a_cut(text, size):
    """They have no two words to cut between, and their lines may all begin with a space."""
    assume(not re.search(r"\s{15}", text))
    names, blocks = DataConfig().rules(), clean.blocks
    expected = Cleaner(names).clean(text).strip("\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "blocks", lambda texts: blocks(texts, 20))
        cut = [text[i:i + size] for i in range(0, len(text), size)]
        assert "".join(Cleaner(names).clean_stream(cut)) == expected


@pytest.mark.parametrize("seed", range(6))
def test_what_is_clean_stays_as_it_is(seed):
    names = [name for name in RULES if name not in clean.PRIVATE]
    once = "".join(Cleaner(names).clean_stream([random_mess(seed)]))
    assert "".join(Cleaner(names).clean_stream([once])) == once


def test_blocks_of_a_line_without_end_are_bounded():
    for text in ("a" * 5000, "\u4f60" * 5000, "word and word " * 400, "e\u0301" * 2500):
        blocks = list(clean.blocks([text], 100))
        assert "".join(blocks) == text and max(map(len, blocks)) <= 200
        assert "".join(clean.nfc(block)[0] for block in blocks) == clean.nfc(text)[0]


def test_the_script_shows_every_rule(tmp_path):
    said, _ = run("clean.py", cwd=tmp_path)
    for placeholder in ("[EMAIL]", "[PHONE]", "[IBAN]", "[CARD]", "[IP]", "[KEY]"):
        assert placeholder in said
    assert "978-3-16-148410-0" in said and "anna@" not in said
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert "clean.py: " in run("clean.py", "a.txt", cwd=tmp_path, rc=2)[1]
    assert "nowhere.txt" in run("clean.py", "nowhere.txt", cwd=tmp_path, rc=2)[1]
