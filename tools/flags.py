"""
tools/flags.py: how the commands' --help looks, what they say of flags that are wrong, and what they
print where not all can be shown.
"""
import argparse
import codecs
import difflib
import os
import sys


class Parser(argparse.ArgumentParser):
    """
    A command's flags. --step is not taken for --steps, and no value may be empty: either would be
    something else than was meant. What is wrong is said in one line.
    """

    def __init__(self, **about):
        super().__init__(formatter_class=Help, allow_abbrev=False, **about)

    def parse_args(self, words=None):
        args = super().parse_args(words)
        for action in self._actions:  # argparse has no other list of them
            value = getattr(args, action.dest, None)
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str):
                    refuse_word(action, word)
        return args

    def error(self, message):
        """What argparse calls with what is wrong; it would print all flags, too."""
        kind, _, words = message.partition(": ")
        if kind != "unrecognized arguments":
            sys.exit(f"{printable(message.removeprefix('argument '))}; see --help")
        word = (words.split() or [repr(words)])[0]  # an empty word is one, too
        flags = [flag for action in self._actions for flag in action.option_strings]
        near = difflib.get_close_matches(word.split("=")[0], flags, 1, .75)
        remedy = f"is {near[0]} meant?" if near else "see --help"
        kind = "no such flag" if word.startswith("-") else "is one word too many"
        sys.exit(f"{printable(word)}: {kind}; {remedy}")


def refuse_word(action, word):
    """Exits with one line if a flag's value is empty, or a name that would break a line."""
    name = action.option_strings[0] if action.option_strings else action.dest
    if word == "":
        sys.exit(f"{name}: is empty; leave it out, or say what is meant")
    if action.type is not text and any(ord(c) < 32 or ord(c) == 127 for c in word):
        sys.exit(f"{name} {printable(word)}: holds a line break or another control character; "
                 "name something without")


def text(word):
    """The type of a flag that is a text, not a name, in UTF-8 whatever the terminal's locale is."""
    return os.fsencode(word).decode("utf-8", "replace")


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
    Otherwise the name of a file could end a command. What is typed is UTF-8 where the locale knows
    only ASCII.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's has not
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):
        is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else None, errors="replace")


def printable(text):
    """A text that somebody typed, with escapes for what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def refuse_beyond(args, name, least, most):
    """Exits with one line if a flag is a number outside of these, or none."""
    value = getattr(args, name)
    if not least <= value <= most:
        sys.exit(f"--{name} {value}: wanted is a number from {least:,} to {most:,}")
