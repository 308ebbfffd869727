"""
tools/sheet.py: pictures beside each other on one page, each with what belongs to it below.
"""
import math
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tools.files import refuse_unwritable

INK = (40, 40, 46)
MARGIN = 12  # pixels around each picture
LINE = 16    # pixels a line of text


def refuse_no_picture(flag, file):
    """Exits with one line unless a picture can be written as this file."""
    file = Path(file)
    if Image.registered_extensions().get(file.suffix.lower()) not in Image.SAVE:
        sys.exit(f"{flag} {file}: is no name of a picture; one that ends in .png is wanted")
    if file.parent.exists() and not file.parent.is_dir():
        sys.exit(f"{flag} {file}: {file.parent} is a file; name a picture in a folder")
    if not file.parent.is_dir():
        sys.exit(f"{flag} {file}: there is no folder {file.parent}; make it, or name another")
    if file.is_dir():
        sys.exit(f"{flag} {file}: is a folder; the name of a picture is wanted")
    refuse_unwritable(flag, file.parent)


def sheet(pictures, texts, path, columns=8, zoom=144):
    """
    Writes a contact sheet as PNG.

      pictures  (N, S, S, 3) uint8, enlarged to zoom pixels a side
      texts     N strings, at most six lines of each are written
      columns   pictures side by side, at most
    """
    wrapped = [wrap(text, zoom) for text in texts]
    most_lines = max(len(lines) for lines in wrapped)
    cell_width = zoom + MARGIN
    cell_height = zoom + MARGIN + LINE * most_lines
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)

    size = (columns * cell_width + MARGIN, rows * cell_height + MARGIN)
    page = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    for i, (picture, lines) in enumerate(zip(pictures, wrapped)):
        row, column = divmod(i, columns)
        x = MARGIN + column * cell_width
        y = MARGIN + row * cell_height
        # the nearest pixel: enlarged, each pixel is a square
        large = Image.fromarray(picture).resize((zoom, zoom), Image.NEAREST)
        page.paste(large, (x, y))
        below = (x + zoom // 2, y + zoom + 3)
        text = "\n".join(lines)
        drawing.text(below, text, INK, font, "ma", spacing=3, align="center")
    page.save(path)


def wrap(text, width):
    """A text in lines of at most so many pixels, about: a letter takes 7."""
    return textwrap.wrap(text, width // 7, max_lines=6, placeholder=" ...")
