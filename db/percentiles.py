"""Percentiles by nearest rank, the same everywhere: the shortest time that so many of 100 stayed within."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Float, case, cast, func


def rank(time: Any, group: Sequence[Any]) -> Any:
    """A column `rank`: which share of its group's rows took no longer than this one. What is not to count must be a
    group of its own."""
    return func.cume_dist().over(partition_by=group or None, order_by=time).label("rank")


def within(percent: int, rows: Any, time: Any, counts: Any) -> Any:
    """The percentile of `time` of those rows, of which each has its `rank`, for which `counts` is true."""
    return func.min(case((counts & (cast(rows.c.rank, Float) >= percent / 100), time)))


def nearest(percent: int, times: Sequence[int]) -> int | None:
    """The percentile of times that are sorted; None of none."""
    return times[-(-len(times) * percent // 100) - 1] if times else None
