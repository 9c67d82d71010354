"""Whatever text a person has is read as it is, or refused in a line that says where."""
import csv
import gzip
import hashlib
import http.server
import io
import json
import os
import threading
from pathlib import Path

import pytest

import ingest
from clean import Cleaner
from conftest import SHARED, one_line

FRENCH = "L'œuvre d'Æsop\u00a0: «\u00a0Naïve, la fﬁn\u00a0?\u00a0» 👋\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def read_all(*source, **reading):
    """What the names stand for, as {name of the document: its text}."""
    found = {}
    for name, open_file in ingest.find(source):
        with open_file() as file:
            for where, texts in ingest.documents(name, file, **reading):
                found[where] = "".join(texts)
    return found


def test_folders_are_searched_by_extension_and_hidden_ones_left_alone():
    for name in ("b.txt", "a/deep/c.md", "code.py", "d.TXT", "zipped.txt.gz", ".git/e.txt",
                 ".secret.txt", "picture.png", "sums.txt.sha"):
        write("notes/" + name, gzip.compress(b"zipped") if name.endswith("gz") else name)
    assert read_all("notes") == {
        "notes/a/deep/c.md": "a/deep/c.md", "notes/b.txt": "b.txt", "notes/code.py": "code.py",
        "notes/d.TXT": "d.TXT", "notes/zipped.txt.gz": "zipped"}


def test_patterns_paths_and_odd_names_in_the_order_given():
    for name in ("x/1.txt", "x/2.txt", "x/y/3.txt", "a[1].txt", "-b.text"):
        write(name, name)
    assert list(read_all("x/*.txt", "a[1].txt", "-b.text")) == [
        "x/1.txt", "x/2.txt", "a[1].txt", "-b.text"]
    assert list(read_all("x/**/*.txt")) == ["x/1.txt", "x/2.txt", "x/y/3.txt"]
    assert list(read_all("x*")) == ["x/1.txt", "x/2.txt", "x/y/3.txt"]         # a folder matches


def test_a_file_is_taken_once_however_often_it_is_named():
    for name in ("x/1.txt", "x/y/3.txt"):
        write(name, name)
    Path("x/empty").mkdir()
    Path("z.txt").symlink_to("x/1.txt")
    found = ingest.find(["x", "x/y/../1.txt", "z.txt", "x/**", str(Path("x").resolve())])
    assert [name for name, _ in found] == ["x/1.txt", "x/y/3.txt"]
    assert [name for name, _ in ingest.find(["x/*"])] == ["x/1.txt", "x/y/3.txt"]


def test_standard_input_can_be_read_twice(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(FRENCH.encode())))
    (name, open_file), = ingest.find(["-", "-"], "kept")
    for _ in range(2):
        with open_file() as file:
            assert file.read() == FRENCH.encode()
    assert os.listdir("kept") == []                     # and leaves no file behind


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_can_be_read_twice():
    os.mkfifo("pipe")
    threading.Thread(target=Path("pipe").write_bytes, args=[FRENCH.encode()], daemon=True).start()
    (name, open_file), = ingest.find(["pipe"])
    for _ in range(2):
        with open_file() as file:
            assert file.read() == FRENCH.encode()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_without_a_mark_the_order_of_bytes_must_be_named(encoding):
    write("text", FRENCH.encode(encoding + "-le"))
    with pytest.raises(ValueError, match=f"^text cannot be read .*{encoding}-le"):
        read_all("text", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32",
                                      "gb18030"])
def test_encodings_give_the_text_back(encoding, monkeypatch):
    write("text", (FRENCH * 50).encode(encoding))
    named = "utf-8" if encoding == "utf-8-sig" else encoding
    for size in (1 << 20, 7):               # blocks that end within characters
        monkeypatch.setattr(ingest, "MEGABYTE", size)
        assert read_all("text", encoding=named) == {"text": FRENCH * 50}


@pytest.mark.parametrize("size", [1 << 20, 3])
@pytest.mark.parametrize("raw, offset, byte", [
    (b"caf\xe9", 3, "0xe9"), (b"\xef\xbb\xbfcaf\xe9 au lait", 6, "0xe9"), (b"\xff\xfea", 0, "0xff"),
    ("é".encode() * 40 + b"\xc3", 80, "0xc3"), (b"a" * 50 + b"\x80", 50, "0x80")])
def test_undecodable_bytes_are_refused_with_their_place(raw, offset, byte, size, monkeypatch):
    monkeypatch.setattr(ingest, "MEGABYTE", size)
    assert raw[offset] == int(byte, 16)
    with pytest.raises(ValueError, match=rf"^odd\.txt: .*{byte} at offset {offset} ") as error:
        read_all(write("odd.txt", raw))
    assert "\n" not in str(error.value)
    assert ("looks like utf-16" in str(error.value)) == (offset == 0)


def test_or_replaced_on_request_and_counted():
    told = []
    write("odd.txt", b"caf\xe9 \xe2\x82 \xff!")
    text, = read_all("odd.txt", undecodable="replace",
                     note=lambda *what: told.append(what)).values()
    assert text == b"caf\xe9 \xe2\x82 \xff!".decode(errors="replace") == "caf\ufffd \ufffd \ufffd!"
    assert [what[:2] for what in told] == [("undecodable", 1)] * 3
    assert told[0][2] == "byte 0xe9 in odd.txt"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_json_lines(ending):
    records = [{"text": FRENCH, "n": 1}, {"text": "a\u2028b\x85c\\", "body": "other"}, {"text": ""}]
    raw = "\n\n".join(map(json.dumps, records)) + "\r\n"
    write("some.jsonl" + ending, gzip.compress(raw.encode()) if ending else raw)
    assert list(read_all("some.jsonl" + ending).values()) == [r["text"] for r in records]
    raw = "\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    assert list(read_all(write("raw.jsonl", raw)).values()) == [r["text"] for r in records]


def test_csv_rows():
    rows = [["id", "text", "more"], ["1", FRENCH, ""], ["2", 'a "quoted"\r\nline, of two', "x"]]
    with open("table.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    found = read_all("table.csv")
    assert list(found.values()) == [row[1] for row in rows[1:]]
    assert list(read_all("table.csv", field="id").values()) == ["1", "2"]


@pytest.mark.parametrize("name, content, says", [
    ("a.jsonl", '{"text": "x"}\n{"body": "y"}', "a.jsonl, line 2, .*'text' .it has 'body'..*field"),
    ("a.jsonl", '{"text": null}', "line 1, has no text in a field 'text'"),
    ("a.jsonl", '["x"]', "line 1, has no text"),
    ("a.jsonl", '{"text": "x"}\n{"text": ', "line 2, is not JSON"),
    ("a.jsonl", "[" * 200_000, "line 1, is not JSON"),
    ("a.jsonl", '{"text": "\\ud83d"}', "line 1, has half a character"),
    ("a.csv", "id,body\n1,x", "a.csv has no column 'text' .it has 'id', 'body'."),
    ("a.csv", "", "has no column"),
    ("a.csv", "id,text\n1,x\n2\n", "line 3, has 1 columns, and the first line has 2"),
    ("a.csv", "text\nx\ny, z\n", "line 3, has 2 columns, and the first line has 1"),
    ("a.csv", 'id,text\n1,"x\ny"\n2,"z\n3,u\n4,v\n', "begins in line 4 is not CSV .*quote"),
    ("a.txt.gz", "not zipped", "a.txt.gz is not a whole .gz file"),
    ("a.txt.gz", gzip.compress(os.urandom(9999))[:5000], "a.txt.gz is not a whole .gz file"),
])
def test_what_cannot_be_read_is_refused_with_its_place(name, content, says):
    with pytest.raises(ValueError, match=says) as error:
        read_all(write(name, content))
    assert "\n" not in str(error.value)


def test_half_characters_in_json_can_be_replaced():
    write("a.jsonl", '{"text": "a\\ud83d b \\ud83d\\udc4b"}')
    assert list(read_all("a.jsonl", undecodable="replace").values()) == ["a\ufffd b \U0001f44b"]


def test_a_witness_vouches_for_what_was_read_though_the_file_grows():
    write("log.txt", "first\n")
    (_, open_file), = ingest.find(["log.txt"])
    with open_file() as file:
        witness = ingest.Witness(file)
        texts = ingest.decoded("log.txt", ingest.unzipped("log.txt", witness))
        assert next(texts) == "first\n"
        with open("log.txt", "a") as log:
            log.write("second\n")
        seen = "first\n" + "".join(texts)
    assert witness.digest.hexdigest() == hashlib.sha256(seen.encode()).hexdigest()


def test_lines_are_those_of_the_text_wherever_it_is_cut():
    text = "one\n\ntwo\u2028still two\nthree"
    for size in (1, 2, 5, 100):
        cut = [text[i:i + size] for i in range(0, len(text), size)]
        assert list(ingest.lines(cut)) == text.split("\n")
    assert list(ingest.lines(["one\n"])) == ["one"] and list(ingest.lines([])) == []


def test_what_was_gathered_is_read_again_and_must_be_all_there():
    for n, text in enumerate([FRENCH, "", "two\nlines \n"]):
        write(f"{n}.txt", text)
    found, digests = ingest.gather(ingest.find(["0.txt", "1.txt", "2.txt"]), "pile", Cleaner([]))
    assert len(digests) == 3 and found.characters.tolist() == [len(FRENCH) - 1, 10]
    texts, told = [FRENCH.strip("\n"), "two\nlines "], []
    again = ["".join(texts) for texts in ingest.read("pile", ingest.spans(found), told.append)]
    assert again == texts and sum(told) == sum(len(text.encode()) for text in texts)
    os.truncate("pile", 20)
    with pytest.raises(OSError, match="pile is shorter"):
        for texts in ingest.read("pile", ingest.spans(found)):
            list(texts)


def test_the_script_lists_documents(monkeypatch, capsys):
    write("notes/a.txt", "one\n")
    write("notes/b.jsonl", '{"text": "two and more"}')
    monkeypatch.setattr("sys.argv", ["ingest.py", "notes"])
    ingest.main()
    assert capsys.readouterr().out.splitlines()[1:] == [
        "         4  notes/a.txt: 'one\\n'", "        12  notes/b.jsonl, line 1: 'two and more'"]
    assert "nowhere" in one_line("ingest.py", "nowhere", cwd=Path())


@pytest.fixture
def website(tmp_path, monkeypatch):
    """Serves the folder site, as the place where tinyshakespeare is."""
    def handler(*args):
        return http.server.SimpleHTTPRequestHandler(*args, directory=tmp_path / "site")

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    (tmp_path / "site").mkdir()
    server = http.server.HTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setattr(ingest, "TINY_URL", f"http://localhost:{server.server_port}/input.txt")
    yield tmp_path / "site"
    server.shutdown()
    server.server_close()


def test_tinyshakespeare_is_downloaded_once(website, monkeypatch):
    (website / "input.txt").write_bytes(b"First Citizen:\n")
    monkeypatch.setattr(ingest, "TINY_SHA256", hashlib.sha256(b"First Citizen:\n").hexdigest())
    path = ingest.tiny_shakespeare("kept")
    assert path.read_bytes() == b"First Citizen:\n" and os.listdir("kept") == [path.name]
    (website / "input.txt").unlink()
    assert ingest.tiny_shakespeare("kept") == path          # from the folder
    path.write_bytes(b"First Cit")
    with pytest.raises(ValueError, match="not found"):      # a damaged one is not taken
        ingest.tiny_shakespeare("kept")


def test_tinyshakespeare_must_be_the_one_that_all_compare_on(website):
    (website / "input.txt").write_bytes(b"<html>please log in</html>")
    with pytest.raises(ValueError, match="is not tinyshakespeare: its sha256"):
        ingest.tiny_shakespeare("kept")
    assert not Path("kept").exists()


def test_a_download_that_breaks_off_is_one_line(website, monkeypatch):
    def break_off(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"First Cit")

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "do_GET", break_off)
    with pytest.raises(ValueError, match="cannot be downloaded .IncompleteRead"):
        ingest.tiny_shakespeare("kept")


def test_without_a_network_a_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(ingest, "TINY_URL", "http://localhost:1/input.txt")
    monkeypatch.setenv("no_proxy", "localhost")
    with pytest.raises(ValueError, match="cannot be downloaded .*save .* as kept.*leave") as error:
        ingest.tiny_shakespeare("kept")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_the_checksum_is_that_of_tinyshakespeare():
    raw = (SHARED / "tinyshakespeare.txt").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == ingest.TINY_SHA256
