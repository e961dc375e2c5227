"""Counting tokens: exact for OpenAI's encodings, offline, and bounded in time."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from functools import cache, lru_cache
from pathlib import Path

import tiktoken

# Tokens around each message and before the answer, as OpenAI counts them.
PER_MESSAGE, PER_ANSWER = 3, 3

# A run of one character costs tiktoken quadratic time, so no piece is longer than this (characters).
PIECE = 4096

# Cut before a single space between two words: there both encodings start a new token anyway, so that the
# count stays exact. Only 4,096 characters without such a place are cut elsewhere (one token more or less).
_PIECES = re.compile(rf".{{1,{PIECE - 1}}}(?<=\S)(?= \S)|.{{1,{PIECE}}}", re.DOTALL)


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    """The encoding, from the files that litellm carries. litellm itself is not imported."""
    spec = importlib.util.find_spec("litellm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(Path(folder) / "litellm_core_utils" / "tokenizers"))
    return tiktoken.get_encoding(name)


def _pieces(text: str) -> list[str]:
    return _PIECES.findall(text) if len(text) > PIECE else [text]


@lru_cache(maxsize=4096)
def _count_piece(encoding: str, piece: str) -> int:
    return len(_encoding(encoding).encode_ordinary(piece))


def count(encoding: str, text: str) -> int:
    """Number of tokens of `text`."""
    return sum(_count_piece(encoding, piece) for piece in _pieces(text))


def first_tokens(encoding: str, text: str, tokens: int) -> str:
    """The text of the first `tokens` tokens; half a character at the end is left out."""
    coder = _encoding(encoding)
    encoded: list[int] = []
    for piece in _pieces(text):
        encoded += coder.encode_ordinary(piece)
        if len(encoded) >= tokens:
            break
    return coder.decode_bytes(encoded[:tokens]).decode("utf-8", errors="ignore")


def warm(encodings: set[str]) -> None:
    """Load the encodings (about half a second), so that the first request does not wait for them."""
    for name in encodings:
        _encoding(name)


def compact(value: object) -> str:
    """JSON without spaces: the form in which schemas and tools are counted."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def message_tokens(encoding: str, messages: list[tuple[str, str]], beside: str = "") -> int:
    """Tokens of (role, text) messages, and of the schema or tools given beside them."""
    texts = sum(count(encoding, role) + count(encoding, text) for role, text in messages)
    return PER_ANSWER + len(messages) * PER_MESSAGE + texts + (count(encoding, beside) if beside else 0)
