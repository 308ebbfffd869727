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
        lines = [columns]
        if resume_at is not None:
            with open(path, newline="") as f:
                _, *old = csv.reader(f)
            lines += [line for line in old if int(line[0]) < resume_at]
        self.columns = columns
        self.file = open(os.devnull if rank > 0 else path, "w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerows(lines)
        self.file.flush()

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
