"""Settings are read as they were given, and a mistake is one line that helps."""
import pytest
from cli import Parser, add_flags, chosen
from conftest import one_line
from data import DataConfig


def parsed(config_class, *arguments, monkeypatch):
    parser = Parser("")
    add_flags(parser, config_class)
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    return chosen(parser.parse_args(), config_class)


def test_a_bool_is_two_flags(monkeypatch):
    from model import GPTConfig
    assert parsed(GPTConfig, "--no-qk-norm", "--bias", "--n-head", "3", monkeypatch=monkeypatch) \
        == {"qk_norm": False, "bias": True, "n_head": 3}


def test_a_tuple_takes_several(monkeypatch):
    given = parsed(DataConfig, "--source", "a", "b", "--redact", "--redact-except", "ip",
                   monkeypatch=monkeypatch)
    assert given == {"source": ["a", "b"], "redact": True, "redact_except": ["ip"]}
    assert DataConfig(**given).source == ("a", "b")


def test_help_explains_every_field(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed(DataConfig, "--help", monkeypatch=monkeypatch)
    said = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert "--val-fraction FLOAT share of the text kept aside for validation (default: 0.1)" in said
    assert "--near-duplicates, --no-near-duplicates" in said and "(default: None)" in said


def test_unknown_flags_name_the_near_one(tmp_path):
    assert "--source" in one_line("data.py", "--sorce", "x", cwd=tmp_path)
    (tmp_path / "a.txt").touch()
    assert "did you mean --source a.txt?" in one_line("data.py", "a.txt", cwd=tmp_path)
    assert "--color; did you mean --colour" in one_line("cli.py", "--color", "x", cwd=tmp_path)
