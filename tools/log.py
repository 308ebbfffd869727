"""
tools/log.py: a table that grows line by line, as a CSV file that a spreadsheet opens.
"""
import csv
import os

from tools.processes import rank


class Log:
    """
    The file and its columns, of which the first is "step". resume_at: goes on with the file that
    is there, whose lines from that step on are taken anew. Only the first of several processes
    writes.
    """

    def __init__(self, path, columns, resume_at=None):
        self.columns = columns
        if rank > 0:
            path = os.devnull
        else:
            write_anew(path, columns, resume_at)
        self.file = open(path, "a", newline="")
        self.writer = csv.writer(self.file)

    def record(self, **values):
        """A line. What is not given stays empty; numbers have six digits."""
        line = []
        for column in self.columns:
            value = values.get(column, "")
            line.append(f"{value:.6g}" if isinstance(value, float) else value)
        self.writer.writerow(line)

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


def write_anew(path, columns, resume_at):
    """The columns and the lines that stay, in a file that takes the old one's place when whole."""
    lines = [columns]
    if resume_at is not None and os.path.exists(path):
        with open(path, newline="") as f:
            old = list(csv.reader(f))
        for line in old[1:]:
            # a line that a kill cut short is done anew
            if len(line) == len(columns) and line[0].isdigit() and int(line[0]) < resume_at:
                lines.append(line)
    part = f"{path}.part"
    with open(part, "w", newline="") as f:
        csv.writer(f).writerows(lines)
    os.replace(part, path)
