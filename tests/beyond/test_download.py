"""What is fetched is what was asked for, fetched once, and never half there."""
import csv
import hashlib
import io
import tarfile
import urllib.error

import pytest

from beyond import download, mmlu
from conftest import inside, one_line


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive like MMLU's, at an address; its file, and whether it is the one in FILES."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open("theirs.tar", "w") as tar:
        for name, rows in (("dev/x_dev.csv", 5), ("test/x_test.csv", 9), ("val/x_val.csv", 1)):
            text = io.StringIO(newline="")
            csv.writer(text).writerows([f"{i}, why?", *"abcd", "B"] for i in range(rows))
            member = tarfile.TarInfo(f"data/{name}")
            member.size = len(text.getvalue())
            tar.addfile(member, io.BytesIO(text.getvalue().encode()))
    file = tmp_path / "theirs.tar"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(download.FILES, "mmlu", ("mmlu.tar", file.as_uri(), 9999, digest))
    return file


def test_fetched_once_and_unpacked(archive, tmp_path):
    questions, examples = mmlu.load(None, 3)
    assert len(questions) == 9 and len(examples["x"]) == 3 and questions[4].text == "4, why?"
    archive.unlink()                            # from here on, nothing is at the address
    assert len(mmlu.load(None, 0)[0]) == 9
    said = inside("beyond.download", "mmlu", cwd=tmp_path)
    assert said == "mmlu: corpora/mmlu.tar\n"
    assert {path.name for path in tmp_path.joinpath("corpora").iterdir()} == {"mmlu.tar", "mmlu"}
    listed = inside("beyond.download", cwd=tmp_path)
    assert f"here     corpora/mmlu.tar\n{'':30}file://" in listed and "not here corpora/math" in listed


def test_another_file_is_refused_and_nothing_is_left(archive, tmp_path):
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace(b"why", b"Why"))
    assert "its checksum differs" in one_line("beyond.download", "mmlu", cwd=tmp_path)
    assert not list(tmp_path.joinpath("corpora").iterdir())
    archive.unlink()
    said = one_line("beyond.download", "mmlu", cwd=tmp_path)
    assert f"{archive.as_uri()} ({urllib.error.URLError.__name__}" in said
    assert "or save it as corpora/mmlu.tar" in said and not list(tmp_path.glob("corpora/*"))
    (tmp_path / "corpora/mmlu.tar").write_bytes(raw)        # somebody has brought it
    assert len(mmlu.load(None, 0)[0]) == 9
    (tmp_path / "corpora/mmlu.tar").write_bytes(raw[:-1])   # it is looked at each time
    assert "mmlu.tar has another checksum" in one_line("beyond.download", "mmlu", cwd=tmp_path)
