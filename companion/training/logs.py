"""A training run's history on disk: a CSV file, and TensorBoard's events where it is installed."""

from __future__ import annotations

import csv
import io
import itertools
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from companion.data.files import replace


class Log:
    """Writes a row an epoch to ``log.csv`` of a folder, and its numbers to TensorBoard.

    The file is replaced whole, so that a run that is killed leaves no half of a row, and one that
    goes on from its checkpoint leaves no row twice.

    Args:
        folder:     is made if it is not there.
        step:       the run goes on from here: what an earlier try logged beyond it is dropped.
        batch_size: of a step, for the speed.
        history:    rows to begin with where there is no log. A file of that name that is none is
                    kept aside.
    """

    def __init__(
        self, folder: str | os.PathLike, step: int, batch_size: int, history: Iterable[dict] = ()
    ):
        self.path, self.batch_size = Path(folder) / "log.csv", batch_size
        self.rows = [*history]
        if self.path.exists():
            try:
                with self.path.open(encoding="utf-8", newline="") as file:
                    self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
            except (KeyError, TypeError, ValueError, csv.Error):
                names = (self.path.with_name(f"log-{i}.csv") for i in itertools.count(1))
                aside = next(path for path in names if not path.exists())
                os.rename(self.path, aside)
                print(f"{self.path} was no log of a run: it is now {aside.name}", file=sys.stderr)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(folder), purge_step=step + 1)
        self._last = step, time.perf_counter()

    def add(self, row: dict, seconds: float) -> None:
        """Write a row: ``step`` (of those done) and numbers, to which time and speed are added."""
        now, (step, since) = time.perf_counter(), self._last
        self._last = row["step"], now
        speed = (row["step"] - step) * self.batch_size / (now - since)
        times = {"seconds": round(seconds, 1), "examples_per_second": round(speed, 1)}
        self.rows.append(row | times)
        names = list(dict.fromkeys(name for each in self.rows for name in each))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(self.rows)
        replace(self.path, text.getvalue().encode())
        if self._board is not None:
            for name in self.rows[-1].keys() - {"epoch", "step"}:
                self._board.add_scalar(name, self.rows[-1][name], row["step"])
            self._board.flush()

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        if self._board is not None:
            self._board.close()
