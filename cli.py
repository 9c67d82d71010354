"""
The command line: settings come from the person who runs a program, and mistakes are answered.

Each chapter keeps its settings in a dataclass, with what they mean in a comment behind each. That
comment is the flag's --help, so a new field is a new flag and nothing can be out of date. A
mistake ends in one line that says what was wrong and what to do, never in a traceback.

    python cli.py --colour green --no-loud      # try it: a small dataclass, read from flags
    python cli.py --color green
"""
import argparse
import contextlib
import difflib
import inspect
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line, and which says what an unknown flag may have meant."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False)

    def parse_args(self):
        options, unknown = self.parse_known_args()
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], flags)
            if not near and "--source" in flags and Path(unknown[0]).exists():
                near = [f"--source {unknown[0]}"]
            self.error(f"unknown argument {unknown[0]}"
                       + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return options

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists every flag)\n")


def add_flags(parser, config_class, skip=()):
    """One flag for each field of a config dataclass; the comment behind the field, on the same
    line, is its help, so every field needs a default and a comment.

    A flag that is not given leaves no trace in the parsed options, so defaults stay in one place.
    """
    source = inspect.getsource(config_class)
    file = Path(inspect.getfile(config_class)).name
    group = parser.add_argument_group(f"settings of {config_class.__name__}, {file}")
    for f in fields(config_class):
        if f.name not in skip:
            comment = re.search(rf"^    {f.name}: .*?# (.*)$", source, re.MULTILINE)[1]
            kind, default = type(f.default), f.default
            if kind is tuple:
                shape = dict(type=str, nargs="+", metavar="...")
                default = " ".join(f.default) or None
            elif kind is bool:      # --name and --no-name
                shape = dict(action=argparse.BooleanOptionalAction)
            else:
                shape = dict(type=kind, metavar=kind.__name__.upper())
            group.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS, **shape,
                               help=f"{comment} (default: {default})".replace("%", "%%"))


def chosen(options, config_class):
    """The fields of config_class that were given on the command line."""
    return {f.name: getattr(options, f.name) for f in fields(config_class) if f.name in options}


@contextlib.contextmanager
def clear_errors(kinds=(ValueError, OSError)):
    """Wrap what reads a person's input: a mistake in it ends in one line and exit code 2."""
    try:
        yield
    except kinds as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@dataclass
class Example:
    """Settings to try with."""
    colour: str = "red"     # of the paint
    layers: int = 2         # how often it is painted
    loud: bool = True       # say so in capitals


def main():
    parser = Parser("Read the settings of a small dataclass from the command line.")
    add_flags(parser, Example)
    example = Example(**chosen(parser.parse_args(), Example))
    said = f"{example.layers} layers of {example.colour}"
    print(said.upper() if example.loud else said)


if __name__ == "__main__":
    main()
