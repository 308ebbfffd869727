"""
tools/flags.py: how the commands' --help looks, and what they print where not all can be shown.
"""
import argparse
import sys


class Parser(argparse.ArgumentParser):
    """
    A command's flags. --step is not taken for --steps, and no value may be empty: either would be
    something else than was meant.
    """

    def __init__(self, **about):
        super().__init__(formatter_class=Help, allow_abbrev=False, **about)

    def parse_args(self, words=None):
        args = super().parse_args(words)
        for name, value in vars(args).items():
            if value == "":
                sys.exit(f"--{name}: is empty; leave it out, or say what is meant")
        return args


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """
    --help that adds its default to a flag's line, but only where there is one to tell. The
    method is argparse's own, and the one place where a formatter can choose.
    """

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def speak_plainly():
    """
    A character that the terminal cannot show, under LANG=C for example, is printed as an escape.
    Otherwise the name of a file could end a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's has not
            stream.reconfigure(errors="backslashreplace")


def printable(text):
    """A text that somebody typed, with escapes for what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
