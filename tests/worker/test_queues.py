"""Which queue a kind of job has, and what is said of a file that does not tell."""

import pytest

from worker.queues import check_kinds, queue_of, read_queues


def test_a_kind_has_a_queue_and_may_have_one_for_premium_models() -> None:
    assert (queue_of("parse"), queue_of("parse", premium=True)) == ("parse", "parse")
    assert (queue_of("generate"), queue_of("generate", premium=True)) == ("generate", "generate-premium")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[parse", "not valid TOML"),
        ("parse = 1", "parse: give it `queue`"),
        ("[parse]\nqeue = 'parse'", "parse: give it `queue`"),
        ("[parse]\nqueue = 'parse'\npremum = 'x'", "parse: give it `queue`"),
        ("[parse]\nqueue = ['a']", r"parse.queue: \['a'\] is no name"),
        ("[parse]\nqueue = 'eu.parse'", "parse.queue: 'eu.parse' is no name"),
        (
            "[parse]\nqueue = 'parse'\npremium = 'maintenance'",
            "parse.premium: 'maintenance' is no name such as parse, or",
        ),
    ],
)
def test_a_file_that_does_not_tell_is_refused_by_kind_and_field(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^queues.toml: {says}"):
        read_queues(text)


def test_a_kind_without_a_queue_is_named() -> None:
    with pytest.raises(ValueError, match=r"tasks\.KINDS: summarize$"):
        check_kinds(["parse", "generate", "embed", "summarize"])
