"""How much of what a CV claims the given artifacts support, by rules. docs/quality.md says what counts as a claim, and
what as support."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

# what a class of claims without any support leaves of the score
LEAST = 0.25

# C++, C#, .NET and Node.js are words, the full stop at the end of a sentence is not part of one
_WORD = re.compile(r"\.?\w[\w+#]*(?:[.-]\w[\w+#]*)*")
# scripts without spaces: each character is a word
_IDEOGRAPH = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]")
_ACCENT = re.compile(r"[\u0300-\u036f]")
_NUMBER = re.compile(r"\d+(?:[.,’']\d+)*")
# a digit within a word (B2B, S3) is no figure
_CLAIMED_NUMBER = re.compile(rf"(?<![\w.,]){_NUMBER.pattern}")
_THOUSANDS = re.compile(r"[.,’'](?=\d{3}(?!\d))")
_NUMBER_WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12",
}  # fmt: skip
# words that name nothing, and legal forms, which one writes and another leaves out
_SILENT = {
    "a", "an", "and", "at", "by", "de", "der", "des", "die", "du", "for", "in", "la", "le", "les", "of", "on", "the",
    "to", "und", "von", "with", "ag", "co", "company", "corp", "corporation", "gmbh", "inc", "kg", "limited", "llc",
    "ltd", "plc", "sa", "se", "srl",
}  # fmt: skip
# of words with so many letters or more, the first five are compared: managed, management
_STEM = 5


def normal(text: str) -> str:
    """Lower case, without accents and compatibility forms, ideographs apart."""
    plain = _ACCENT.sub("", unicodedata.normalize("NFKD", text.casefold()))
    return _IDEOGRAPH.sub(r" \g<0> ", plain)


def words_of(text: str) -> list[str]:
    """The words of a text in their order, in their normal form."""
    return _WORD.findall(normal(text))


def texts_of(value: Any) -> Iterator[str]:
    """All texts and numbers in an object of JSON, at any depth; its names are none of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)


class _Known:
    """The words and numbers of what was given."""

    def __init__(self, given: Any) -> None:
        text = normal("\n".join(texts_of(given)))
        found = _WORD.findall(text)
        # of a word with hyphens its parts, too
        self.words = set(found) | {part for word in found if "-" in word for part in word.split("-")}
        self.stems = {word[:_STEM] for word in self.words}
        self.numbers = {_plain(number) for number in _NUMBER.findall(text)}
        self.numbers |= {_NUMBER_WORDS[word] for word in self.words & _NUMBER_WORDS.keys()}

    def name(self, text: str) -> float:
        """1 if all telling words of a name were given, else 0."""
        return float(all(word in self.words for word in _telling(text)))

    def wording(self, text: str) -> float:
        """The share of its telling words that were given in some form."""
        words = _telling(text)
        return sum(word[:_STEM] in self.stems for word in words) / len(words) if words else 1.0

    def skill(self, text: str) -> float:
        """1 if any of its longer words was given in some form, or all of its short ones."""
        words = _telling(text)
        longer = [word for word in words if len(word) > 3]
        if longer:
            return float(any(word[:_STEM] in self.stems for word in longer))
        return float(all(word in self.words for word in words))


def grounding(content: dict[str, Any], artifacts: list[Any], posting: str) -> float:
    """A factor of 0-1 for the score of a CV: 1 if all that it claims is in the artifacts, or none were given. Each
    class of claims multiplies it by 0.25 to 1, as its support goes from nothing to all."""
    known = _Known(artifacts)
    if not known.words:
        return 1.0
    factor = 1.0
    for support in _classes(content, known, posting):
        if support:
            factor *= LEAST + (1 - LEAST) * sum(support) / len(support)
    return factor


def _classes(content: dict[str, Any], known: _Known, posting: str) -> Iterator[list[float]]:
    jobs, schools = content["experience"], content["education"]
    yield [known.name(job["organization"]) for job in jobs]
    yield [known.wording(job["title"]) for job in jobs]
    yield [(known.name(one["institution"]) + known.wording(one["qualification"])) / 2 for one in schools]
    yield [known.skill(skill) for skill in content["skills"]]
    # a note to the company may quote the posting
    quoted = _numbers([posting], _NUMBER)
    rest = {name: value for name, value in content.items() if name != "cover_note"}
    claimed = _numbers(texts_of(rest), _CLAIMED_NUMBER) | (_numbers([content["cover_note"]], _CLAIMED_NUMBER) - quoted)
    yield [float(number in known.numbers) for number in sorted(claimed)]


def _numbers(texts: Iterable[str], pattern: re.Pattern[str]) -> set[str]:
    return {_plain(number) for text in texts for number in pattern.findall(normal(text))}


def _plain(number: str) -> str:
    """A number as it compares: 1,200 and 1.200 are 1200, 3,5 is 3.5, 03 is 3, digits of all scripts are alike."""
    if not number.isascii():
        number = "".join(str(unicodedata.digit(sign)) if sign.isdigit() else sign for sign in number)
    return _THOUSANDS.sub("", number).replace(",", ".").lstrip("0") or "0"


def _telling(text: str) -> list[str]:
    words = [part for word in words_of(text) for part in (word.split("-") if "-" in word else [word])]
    return [word for word in words if word not in _SILENT]
