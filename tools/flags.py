"""
tools/flags.py: how the commands' --help looks.
"""
import argparse


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """
    --help that adds its default to a flag's line, but only where there is one to tell. The
    method is argparse's own, and the one place where a formatter can choose.
    """

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)
