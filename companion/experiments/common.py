"""What the experiments share: recipes in words, means over seeds, tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple


def in_words(value: Any) -> Any:
    """A function by its name and the arguments it has been given; all else as JSON holds it.

    What the function does is not looked at: one that changes takes a new name.

    >>> in_words(partial(max, 1, key=abs))
    'max(1, key=abs)'
    """
    if isinstance(value, partial):
        given = [f"{in_words(each)}" for each in value.args]
        given += [f"{key}={in_words(each)}" for key, each in value.keywords.items()]
        return f"{in_words(value.func)}({', '.join(given)})"
    if isinstance(value, tuple):
        return [in_words(each) for each in value]
    return value.__name__ if callable(value) else value


class Spread(NamedTuple):
    """A mean over seeds, its standard deviation (NaN for one seed), and the number of seeds."""

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        values = list(values)
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        return cls(statistics.fmean(values), deviation, len(values))

    def text(self, digits: int) -> str:
        """Mean ± standard deviation; of one seed, the value alone."""
        mean = f"{self.mean:.{digits}f}"
        return f"{mean} ± {self.deviation:.{digits}f}" if self.seeds > 1 else mean


def over_seeds(
    rows: Iterable[dict], names: tuple[str, str], keys: Iterable[tuple[str, str]], value: str
) -> dict[tuple[str, str], Spread]:
    """The spread of a value over the rows that share two settings, for each pair that has rows.

    Args:
        rows:  of `companion.results`.
        names: of the two settings.
        keys:  the pairs of settings, in the order of the answer.
        value: its name.
    """
    found = {}
    for key in keys:
        same = [row for row in rows if tuple(row["settings"][name] for name in names) == key]
        if same:
            found[key] = Spread.of(row["values"][value] for row in same)
    return found


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown: the first column to the left, the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
