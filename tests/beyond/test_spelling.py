"""Words are told from what only looks like them, and what was written is looked up."""
import shutil

from beyond.spelling import words_of
from conftest import inside, one_line


def test_words_by_hand():
    assert words_of("O'er the Café, 3rd time—don’t! 'tis") == [
        "o'er", "the", "café", "rd", "time", "don't", "tis"]


def test_what_a_run_writes(trained, tmp_path):
    """Of a text of twelve words, a model trained for 30 steps spells little; a list adds to it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    share, listed = [], tmp_path / "list.txt"
    for more in ([], ["--words", listed]):
        said = inside("beyond.spelling", "first", "--tokens", 600, *more, cwd=tmp_path)
        counts, made_up = said.splitlines()
        share.append(float(counts.split(";")[1].split("%")[0]))
        listed.write_text(made_up.replace(", ", "\n"))
    assert 0 <= share[0] < share[1] <= 100
    for said, *arguments in (("--prompt", "--prompt", "x"), ("gone", "--words", "gone")):
        assert said in one_line("beyond.spelling", "first", *arguments, cwd=tmp_path)
