"""Vectors on their way to whoever asked: float32 bytes in the message, a plain list of floats out of it."""

import base64
import sys
from array import array
from collections.abc import Iterator
from typing import Any

from kombu.utils.json import register_type


class Vector:
    """Little-endian float32 values. In a message it is their bytes in base64, and a list when it arrives."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def tolist(self) -> list[float]:
        values = array("f", self.data)
        if sys.byteorder == "big":
            values.byteswap()
        return values.tolist()


def split(data: bytes, dimensions: int) -> Iterator[Vector]:
    """The vectors of `dimensions` values each that stand one after another in `data`."""
    for start in range(0, len(data), 4 * dimensions):
        yield Vector(data[start : start + 4 * dimensions])


def _decode(text: str) -> Any:
    return Vector(base64.b64decode(text)).tolist()


register_type(Vector, "paymaster.float32", lambda vector: base64.b64encode(vector.data).decode(), _decode)
