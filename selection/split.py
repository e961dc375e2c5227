"""The split test: which strategy a user falls into. The same user falls into the same one in every process and
release: the bucket is a plain hash of the user's key, and nothing is kept."""

from hashlib import sha256
from itertools import accumulate
from typing import Any

# (strategy, percent of the users), in alphabetical order: users move only if shares do
Shares = tuple[tuple[str, int], ...]

DEFAULT: Shares = (("balanced", 50), ("cost_optimized", 25), ("experimental", 5), ("quality_optimized", 20))
BUCKETS = 10_000
WORDS: dict[str, Shares] = {"": (), "false": (), "0": (), "off": (), "no": ()}
WORDS |= dict.fromkeys(("true", "1", "on", "yes"), DEFAULT)


def parse_shares(value: Any) -> Shares:
    """The shares of `true` (the default ones), `false`, or `strategy=percent,…`, which must add up to 100."""
    text = str(value or "").strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    shares: dict[str, int] = {}
    for part in text.split(","):
        name, _, percent = (word.strip() for word in part.partition("="))
        if not name or not percent.isascii() or not percent.isdigit() or name in shares:
            raise ValueError(f"{text[:100]!r} are no shares; give true, false or cost_optimized=25,balanced=75")
        shares[name] = int(percent)
    if sum(shares.values()) != 100:
        raise ValueError(f"the shares add up to {sum(shares.values())} and must add up to 100")
    return tuple(sorted(shares.items()))


def bucket(name: str, buckets: int = BUCKETS) -> int:
    """A number from 0 to `buckets` - 1 that is always the same for the same name, and evenly spread over names."""
    return int.from_bytes(sha256(name.encode()).digest()[:8]) % buckets


def strategy_of_user(user_id: str, shares: Shares) -> str:
    """The strategy that the user falls into; `shares` must not be empty."""
    place = bucket(f"split:{user_id}")
    ends = accumulate(percent * BUCKETS // 100 for _, percent in shares)
    return next(name for (name, _), end in zip(shares, ends, strict=True) if place < end)
