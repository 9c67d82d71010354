"""Whatever text a person has is read as it is, or refused in a line that says where."""
import csv
import gzip
import io
import json
import os
import threading
from pathlib import Path

import pytest

import data
from beyond import ingest
from conftest import inside, one_line

FRENCH = "L'œuvre d'Æsop\u00a0: «\u00a0Naïve,\r\nla fﬁn\u00a0?\u00a0» 👋\n\u2028\x85\r"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def read_all(*source, **reading):
    """What the names stand for, as {name of the document: its text}."""
    return dict(ingest.documents(source, ingest.ReadConfig(**reading)))


def names(*source):
    return [str(path) for path in ingest.find(source)]


def test_folders_are_searched_by_ending_and_hidden_ones_left_alone_unless_named():
    for name in ("b.txt", "a/deep/c.md", "code.py", "d.TXT", "zipped.txt.gz", ".git/e.txt",
                 ".secret.txt", "picture.png", "sums.txt.sha", "f.txt/g.txt"):
        write("notes/" + name, gzip.compress(b"zipped") if name.endswith("gz") else name)
    expected = {"a/deep/c.md": "a/deep/c.md", "b.txt": "b.txt", "code.py": "code.py",
                "d.TXT": "d.TXT", "f.txt/g.txt": "f.txt/g.txt", "zipped.txt.gz": "zipped"}
    assert read_all("notes") == {f"notes/{name}": text for name, text in expected.items()}
    os.chdir("notes")
    assert read_all(".") == expected
    assert names(".git", ".secret.txt") == [".git/e.txt", ".secret.txt"]


def test_patterns_and_odd_names_in_the_order_given_each_file_once():
    for name in ("x/1.txt", "x/2.txt", "x/y/3.txt", "x/y/[z]/4.txt", "x/.h/5.txt", "a[1].txt"):
        write(name, name)
    Path("x/empty").mkdir()
    Path("z.txt").symlink_to("x/1.txt")
    all_of_x = ["x/1.txt", "x/2.txt", "x/y/3.txt", "x/y/[z]/4.txt"]
    assert names("x/*.txt", "a[1].txt") == ["x/1.txt", "x/2.txt", "a[1].txt"]
    assert names("x/**/*.txt") == names("**/[1-5].txt") == names("x*") == names("x/*") == all_of_x
    assert sorted(names("**/y/*")) == all_of_x[2:]
    assert names("z.txt", "x", "x/y/../1.txt", str(Path("x").resolve())) == ["z.txt", *all_of_x[1:]]


def test_a_folder_with_circles_lost_links_or_a_locked_folder(monkeypatch):
    write("x/private/1.txt", "one")
    for name in "abcd":
        Path("x", name).symlink_to(".")
        Path("x", name + ".txt").symlink_to("../x")
    assert names("x") == ["x/private/1.txt"] and len(names("x/**/*.txt")) == 1
    Path("x/lost.txt").symlink_to("lost.txt")
    assert "x/lost.txt cannot be read" in one_line("beyond.ingest", "x", cwd=Path())
    scandir = os.scandir

    def refuse(path="."):
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for source in ("x", "x/**/*.txt"):
        assert "x/private cannot be searched" in one_line("beyond.ingest", source, cwd=Path())


def test_standard_input_and_pipes(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(FRENCH.encode())))
    assert read_all("-", "-") == {"standard input": FRENCH}
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input is closed" in one_line("beyond.ingest", "-", cwd=Path())
    os.mkfifo("pipe.txt")
    threading.Thread(target=Path("pipe.txt").write_bytes, args=[FRENCH.encode()]).start()
    assert read_all("pipe.txt") == {"pipe.txt": FRENCH}


@pytest.mark.parametrize("encoding", "utf-8 utf-8-sig utf-16 utf-16-le utf-32 gb18030".split())
def test_encodings_give_the_text_back_in_every_form(encoding):
    texts, named = [FRENCH * 500, 'a "quoted"\r\nline, of two'], encoding.removesuffix("-sig")
    lines = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\r\n\n" for t in texts)
    write("text", texts[0].encode(encoding))
    write("a.jsonl", lines.encode(encoding))
    write("a.jsonl.gz", gzip.compress(lines.encode(encoding)))
    with open("a.csv", "w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([["text", "id"], *zip(texts, "12")])
    assert read_all("text", encoding=named) == {"text": texts[0]}
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv"):
        assert list(read_all(name, encoding=named).values()) == texts
    assert read_all("a.csv", encoding=named, field="id") == {
        "a.csv, line 2": "1", f"a.csv, line {3 + texts[0].count(chr(10))}": "2"}


def test_what_is_undecodable_is_replaced_on_request_and_counted():
    raw, replace = b"caf\xe9 \xe2\x82 \xff!", ("--undecodable", "replace", "-o", "out")
    said = inside("beyond.ingest", write("odd.txt", raw), *replace, cwd=Path())
    assert said == "1 documents, 9 characters, 3 undecodable, written to out/documents.jsonl\n"
    assert list(read_all("out").values()) == [raw.decode(errors="replace")]
    write("a.jsonl", '{"text": "a\\ud83d b \\ud83d\\udc4b"}')
    assert list(read_all("a.jsonl", undecodable="replace").values()) == ["a\ufffd b \U0001f44b"]


@pytest.mark.parametrize("name, content, says", [
    ("odd.txt", b"one\ncaf\xe9", "odd.txt, line 2: the byte 0xe9 is not UTF-8; name its"),
    ("odd.txt", b"\xff\xfea\x00", "odd.txt, line 1: the byte 0xff .* looks like utf-16"),
    ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}', "a.jsonl, line 2: the byte 0xe9"),
    ("a.csv", b"text,b\nx,y\nz,caf\xe9", "a.csv, line 3: the byte 0xe9"),
    ("a.jsonl", '{"text": "x"}\n{"b": "y"}', "a.jsonl, line 2, .*'text' .it has b: str.*--field"),
    ("a.jsonl", '{"text": null}', "line 1, has no text in a field 'text' .it has text: NoneType"),
    ("a.jsonl", '["x"]', "line 1, has no text .*it has no fields: list"),
    ("a.jsonl", '{"text": "x"}\n{"text": ', "what begins in line 2 is not JSONL"),
    ("a.jsonl", "[" * 200_000, "what begins in line 1 is not JSONL"),
    ("a.jsonl", '{"text": "\\ud83d"}', "line 1: half a character, '.ud83d'"),
    ("a.csv", "id,b\n1,x", "a.csv, line 2, has no text in a field 'text' .it has id: str, b: str"),
    ("a.csv", "id,text\n1,x\n2\n", "begins in line 3 is not CSV: it has not 2 columns"),
    ("a.csv", "text\nx\ny, z\n", "begins in line 3 is not CSV: it has not 1 columns"),
    ("a.csv", 'id,text\n1,"x\ny"\n2,"z\n3,u\n', "begins in line 4 is not CSV.* quote left open"),
    ("a.txt.gz", "not zipped", "a.txt.gz cannot be read .Not a gzipped"),
    ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], "a.txt.gz cannot be read .Compressed file"),
    ("a.csv", "", "there is no text in a.csv"), ("a.txt", " \n", "there is no text in a.txt")])
def test_what_cannot_be_read_is_refused_with_its_place(name, content, says):
    write("out/documents.jsonl", "what was there")
    with pytest.raises(ValueError, match=says) as error:
        ingest.save(ingest.documents([write(name, content)], ingest.ReadConfig()), [name], "out")
    assert "\n" not in str(error.value) and len(os.listdir("out")) == 1
    assert Path("out/documents.jsonl").read_text() == "what was there"


@pytest.mark.parametrize("command, says", [
    ("ingest ", "''"), ("ingest a.txt no*.txt", "'no*.txt'"), ("clean bare", "bare"),
    ("ingest a.txt --encoding base64", "cannot be read as base64"), ("ingest . -o new", "be one"),
    ("ingest a.txt --encoding utf-16", "; name its --encoding, such as latin-1 or utf-16-le"),
    ("overlap a.txt --undecodable drop", "'replace'"), ("ingest a.txt --fields body", "--fields"),
    ("ingest a.txt --field body", "has no use"), ("clean b.txt -o new", "no text in b.txt"),
    ("ingest . -o out", "out/documents.jsonl would be one of the sources"),
    ("clean out/documents.jsonl -o out", "be one of"), ("overlap out -o link", "be one of"),
    ("clean a.txt --redact --redact-except mail", "'mail'"), ("clean c.txt -o new", "0xe9"),
    ("clean a.txt --redact-except ip", "no use without --redact"), ("clean -o new", "output has"),
    ("clean --no-nfc", "nfc has no use"), ("overlap --near", "near has no use without"),
    ("overlap --leaks bare --near", "near has no use with"), ("overlap --leaks bare", "bare is no"),
    ("overlap a.txt --leaks bare", "source has no use with --leaks")])
def test_mistakes_are_one_line_and_nothing_is_written(command, says):
    for name, content in (("a.txt", "text"), ("b.txt", b"\x07\n"), ("c.txt", b"caf\xe9")):
        write(name, content)
    write("out/documents.jsonl", before := '{"text": "what was there"}\n')
    Path("bare").mkdir()
    Path("link").symlink_to("out")
    script, *arguments = command.split(" ")
    assert says in one_line(f"beyond.{script}", *arguments, cwd=Path())
    assert not [*Path().glob("new/*")] and Path("out/documents.jsonl").read_text() == before


def test_documents_are_listed_or_written_so_that_data_and_the_next_command_read_them():
    write("a/a.txt", FRENCH)
    write("a/b.csv", "text\nsome  \nsome\nmore\n")
    total = f"4 documents, {len(FRENCH) + 14} characters"
    said = inside("beyond.ingest", "a", cwd=Path())
    assert said.endswith(f"4 characters  a/b.csv, line 4: 'more'\n{total}; -o DIR writes them\n")
    assert os.listdir() == ["a"]
    assert inside("beyond.ingest", "a", "-o", "1/2", cwd=Path()).startswith(f"{total}, written to")
    assert list(read_all("1/2").values()) == [FRENCH, "some  ", "some", "more"]
    inside("beyond.clean", "1/2", "-o", "3", cwd=Path())
    inside("beyond.overlap", "3", "-o", "4", cwd=Path())
    lines = [text for _, text in data.documents(["4"])]
    assert lines[0].startswith("L'œuvre") and lines[1:] == ["some", "more"]
    one = ingest.documents([write("b.jsonl", '{"text": "one"}\nno JSON')], ingest.ReadConfig())
    assert next(one) == ("b.jsonl, line 1", "one")                 # they come one at a time


def test_the_road_knows_the_plays(monkeypatch):
    monkeypatch.setattr(data, "find", lambda source: [Path(write("plays.whl", b"PK"))])
    monkeypatch.setattr(data, "documents", lambda source: [("Hamlet", f"To be {source}")])
    write("shakespeare/a.txt", "a folder of that name")
    assert read_all("shakespeare") == {"Hamlet": "To be ['plays.whl']"}
