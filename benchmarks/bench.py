"""What is said of a bench in benchmarks/table.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Aim:
    """A figure that must be no more (or no less) than a limit. `path` leads to it: keys with slashes between."""

    text: str
    path: str
    limit: float
    at_least: bool = False


@dataclass(frozen=True)
class Table:
    """`rows` have a label and the path of a dict, of which each column shows a key: (heading, key)."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str], ...]
    first: str = ""


@dataclass(frozen=True)
class Picture:
    """Horizontal bars: (label, path of a figure)."""

    title: str
    bars: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Bench:
    """One module of this package. Without `tables` all its figures are shown as they are."""

    name: str
    title: str
    what: str
    options: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    aims: tuple[Aim, ...] = ()
    said: str = ""  # below the table: how to read it, and why an aim is missed
    in_tests: bool = True  # whether tests/test_benchmarks.py runs the short form
    by_name_only: bool = False  # `make bench` leaves it out
