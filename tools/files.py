"""
tools/files.py: files that are whole or not there.
"""
import json
import os
from pathlib import Path


def save_json(path, value):
    """
    Writes a value as JSON, atomically: whoever reads meanwhile sees the old file or the new one,
    never half of one.
    """
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)
