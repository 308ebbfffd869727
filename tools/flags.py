"""
tools/flags.py: how the commands' --help looks, and what they print where not all can be shown.
"""
import argparse
import sys


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
