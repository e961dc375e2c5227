"""Every fault: what the client sees, and whether it was billed."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from typing import Any

import pytest

OPENAI_ERRORS = [
    (400, None, "invalid_value", "could not be processed"),
    (
        400,
        "context_length_exceeded",
        "context_length_exceeded",
        "This model's maximum context length is 128000 tokens",
    ),
    (400, "content_filter", "content_filter", "content management policy"),
    (
        400,
        "content_policy_violation",
        "content_policy_violation",
        "rejected as a result of our safety system",
    ),
    (401, None, "invalid_api_key", "Incorrect API key provided"),
    (401, "invalid_api_key", "invalid_api_key", "Incorrect API key provided"),
    (403, None, "unsupported_country_region_territory", "Country, region, or territory not supported"),
    (404, None, "model_not_found", "The model `gpt-4o` does not exist"),
    (408, None, None, "Request timed out."),
    (409, None, None, "updated by another request"),
    (413, None, None, "Maximum content size limit"),
    (422, None, None, "Unable to process"),
    (429, None, "rate_limit_exceeded", "Rate limit reached for gpt-4o"),
    (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
    (500, None, None, "The server had an error while processing your request"),
    (503, None, None, "currently overloaded"),
    (529, None, None, "currently overloaded"),
]
ANTHROPIC_ERRORS = [
    (400, None, "invalid_request_error", "could not be processed"),
    (
        400,
        "credit_balance",
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API.",
    ),
    (
        400,
        "context_length_exceeded",
        "invalid_request_error",
        "prompt is too long: 200001 tokens > 200000 maximum",
    ),
    (400, "content_filter", "invalid_request_error", "Output blocked by content filtering policy"),
    (401, None, "authentication_error", "invalid x-api-key"),
    (403, None, "permission_error", "does not have permission"),
    (404, None, "not_found_error", "model: claude-sonnet-4-20250514"),
    (408, None, "timeout_error", "Request timed out"),
    (409, None, "invalid_request_error", "conflicts"),
    (413, None, "request_too_large", "Request exceeds the maximum size"),
    (422, None, "invalid_request_error", "could not be processed"),
    (429, None, "rate_limit_error", "would exceed the rate limit"),
    (500, None, "api_error", "Internal server error"),
    (503, None, "api_error", "Service unavailable"),
    (529, None, "overloaded_error", "Overloaded"),
]


def only_entry(sim: Any) -> Any:
    (entry,) = sim.bill("?entries=1")["entries"]
    return entry


@pytest.mark.parametrize(("status", "code", "shown", "text"), OPENAI_ERRORS)
def test_openai_errors_are_in_its_words_and_unbilled(sim: Any, status: int, code: Any, shown: Any, text: str) -> None:
    sim.fault(fault="status", status=status, **({"code": code} if code else {}))
    reply = sim.chat("hi")
    assert reply.status == status
    error = reply.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == shown
    assert text in error["message"]
    assert sim.bill()["requests"] == 0


@pytest.mark.parametrize(("status", "code", "kind", "text"), ANTHROPIC_ERRORS)
def test_anthropic_errors_are_in_its_words_and_unbilled(sim: Any, status: int, code: Any, kind: str, text: str) -> None:
    sim.fault(fault="status", status=status, **({"code": code} if code else {}))
    reply = sim.message("hi")
    assert reply.status == status
    assert reply.json["type"] == "error"
    assert reply.json["error"]["type"] == kind
    assert text in reply.json["error"]["message"]
    assert sim.bill()["requests"] == 0


@pytest.mark.parametrize("status", [502, 504])
def test_gateway_errors_are_html(sim: Any, status: int) -> None:
    sim.fault(fault="status", status=status)
    for reply in (sim.chat("hi"), sim.message("hi")):
        assert reply.status == status
        assert reply.headers["content-type"].startswith("text/html")
        assert str(status).encode() in reply.raw
    assert sim.bill()["requests"] == 0


def test_retry_after_is_a_header(sim: Any) -> None:
    sim.fault(fault="status", status=429, retry_after=7)
    assert sim.chat("hi").headers["retry-after"] == "7"
    sim.fault(fault="status", status=429)
    assert "retry-after" not in sim.chat("hi").headers


def test_hang_is_billed_and_silent(sim: Any) -> None:
    sim.fault(fault="hang", seconds=30)
    sim.timeout = 0.4
    with pytest.raises(TimeoutError):
        sim.chat("hi")
    sim.timeout = 20
    assert only_entry(sim)["fault"] == "hang"


def test_hang_ends_after_its_seconds(sim: Any) -> None:
    sim.fault(fault="hang", seconds=0.3)
    start = time.monotonic()
    assert sim.chat("hi").status == 200
    assert time.monotonic() - start >= 0.3


def test_drip_sends_the_whole_answer_slowly(sim: Any) -> None:
    sim.fault(fault="drip", bytes=300, seconds=0.1)
    start = time.monotonic()
    reply = sim.chat("hi", max_tokens=20)
    pieces = -(-len(reply.raw) // 300)
    assert pieces >= 2
    assert time.monotonic() - start >= (pieces - 1) * 0.1
    assert reply.json["usage"]["completion_tokens"] == 20
    assert only_entry(sim)["output_tokens"] == 20


def test_reset_after_generating_is_billed(sim: Any) -> None:
    sim.fault(fault="reset")
    with pytest.raises(ConnectionResetError):
        sim.chat("hi")
    assert only_entry(sim)["fault"] == "reset"


def test_reset_before_generating_is_not(sim: Any) -> None:
    sim.fault(fault="reset", before=True)
    with pytest.raises(ConnectionResetError):
        sim.chat("hi")
    assert sim.bill()["requests"] == 0
    assert sim.send("GET", "/requests").json["requests"] == 1


def test_cut_closes_in_the_middle_of_the_body(sim: Any) -> None:
    sim.fault(fault="cut")
    with pytest.raises(http.client.IncompleteRead) as caught:
        sim.chat("hi")
    assert caught.value.expected and caught.value.expected > 0
    assert caught.value.partial.startswith(b'{"id":')
    assert only_entry(sim)["fault"] == "cut"


def test_malformed_bodies_come_as_200_and_are_billed(sim: Any) -> None:
    sim.fault(fault="malformed")
    html = sim.chat("hi")
    assert (html.status, html.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"Bad Gateway" in html.raw
    sim.fault(fault="malformed", body="json")
    broken = sim.message("hi")
    assert broken.status == 200
    with pytest.raises(json.JSONDecodeError):
        _ = broken.json
    assert sim.bill()["requests"] == 2


def test_invalid_json_breaks_the_content_only(sim: Any, schema: Any) -> None:
    sim.fault(fault="invalid_json")
    reply = sim.chat(schema=schema).json
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply["choices"][0]["message"]["content"])
    assert only_entry(sim)["output_tokens"] == reply["usage"]["completion_tokens"]
    # Anthropic's tool input is an object by nature: what is broken comes empty.
    assert sim.message(schema=schema).json["content"][0]["input"] == {}


def test_invalid_json_can_miss_required_fields(sim: Any, schema: Any) -> None:
    sim.fault(fault="invalid_json", form="missing")
    content = json.loads(sim.chat(schema=schema).json["choices"][0]["message"]["content"])
    used = sim.message(schema=schema).json["content"][0]["input"]
    for found in (content, used):
        assert found
        assert set(schema["required"]) - found.keys()


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("zero", (0, 0)), ("absurd", (10**12 + 8, 10**12 + 10)), ("negative", (-8, -10)), ("half", (4, 5))],
)
def test_wrong_usage_is_shown_and_the_true_one_billed(sim: Any, kind: str, shown: tuple[int, int]) -> None:
    sim.fault(fault="usage", usage=kind)
    usage = sim.chat("hi", max_tokens=10).json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == shown
    entry = only_entry(sim)
    assert (entry["input_tokens"], entry["output_tokens"], entry["fault"]) == (8, 10, "usage")


def test_usage_can_be_missing_on_every_route(sim: Any) -> None:
    sim.fault(fault="usage", usage="missing")
    for reply in (sim.chat("hi"), sim.message("hi"), sim.embed("hi")):
        assert reply.status == 200
        assert "usage" not in reply.json
    assert sim.bill()["requests"] == 3
    assert sim.bill()["output_tokens"] > 0


def test_refusal_is_in_the_providers_form(sim: Any, schema: Any) -> None:
    sim.fault(fault="refusal")
    choice = sim.chat(schema=schema).json["choices"][0]
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"].startswith("I'm sorry")
    assert choice["finish_reason"] == "stop"
    message = sim.message(schema=schema).json
    assert message["stop_reason"] == "refusal"
    assert message["content"][0]["type"] == "text"
    # "I'm sorry, but I can't help with that request." is 11 tokens.
    assert sim.bill()["models"]["gpt-4o"]["output_tokens"] == 11


def test_content_filter_ends_the_answer_early(sim: Any) -> None:
    whole = sim.chat().json
    sim.fault(fault="content_filter")
    cut = sim.chat().json
    assert cut["choices"][0]["finish_reason"] == "content_filter"
    assert whole["choices"][0]["message"]["content"].startswith(cut["choices"][0]["message"]["content"])
    assert 0 < cut["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
    assert sim.bill()["requests"] == 2


def test_truncate_cuts_json_with_finish_reason_length(sim: Any, schema: Any) -> None:
    sim.fault(fault="truncate")
    choice = sim.chat(schema=schema).json["choices"][0]
    assert choice["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice["message"]["content"])
    message = sim.message(schema=schema).json
    assert message["stop_reason"] == "max_tokens"
    assert set(schema["required"]) - message["content"][0]["input"].keys()
    assert sim.bill()["requests"] == 2


def test_latency_delays_a_normal_answer(sim: Any) -> None:
    normal = sim.chat("hi").json
    sim.fault(fault="latency", seconds=0.3)
    start = time.monotonic()
    late = sim.chat("hi").json
    assert time.monotonic() - start >= 0.3
    assert late["choices"] == normal["choices"]


def test_latency_spread_has_its_percentiles() -> None:
    import random

    from simulator.faults import LatencyFault

    rule = LatencyFault(fault="latency", p50=0.5, p95=2.0)
    source = random.Random(1)
    drawn = sorted(rule.draw(source) for _ in range(4000))
    assert statistics.median(drawn) == pytest.approx(0.5, rel=0.1)
    assert drawn[3800] == pytest.approx(2.0, rel=0.15)


def test_the_bill_is_written_before_a_late_answer_leaves(sim: Any) -> None:
    sim.fault(fault="latency", seconds=30)
    sim.timeout = 0.4
    with pytest.raises(TimeoutError):
        sim.chat("hi")
    sim.timeout = 20
    assert sim.bill()["requests"] == 1


def statuses(sim: Any, number: int, **more: Any) -> list[int]:
    return [sim.chat("hi", **more).status for _ in range(number)]


def test_first_and_after_choose_by_order(sim: Any) -> None:
    sim.fault(fault="status", status=500, after=2, first=2)
    assert statuses(sim, 6) == [200, 200, 500, 500, 200, 200]


def test_share_is_seeded(sim: Any) -> None:
    sim.fault(fault="status", status=500, share=0.5)
    first = statuses(sim, 30)
    sim.fault(fault="status", status=500, share=0.5)
    assert statuses(sim, 30) == first
    assert 5 < first.count(500) < 25


def test_rules_match_by_model_and_route(sim: Any) -> None:
    sim.fault(fault="status", status=500, model="gpt-4o-mini")
    assert [sim.chat("hi").status, sim.chat("hi", model="gpt-4o-mini").status] == [200, 500]
    sim.fault(fault="status", status=500, route="embeddings")
    assert [sim.chat("hi").status, sim.embed("hi").status, sim.message("hi").status] == [200, 500, 200]


def test_the_first_rule_that_hits_is_played_and_latency_goes_with_it(sim: Any) -> None:
    rules = [
        {"fault": "latency", "seconds": 0.2},
        {"fault": "status", "status": 503, "first": 1},
        {"fault": "status", "status": 500, "first": 2},
    ]
    assert sim.send("PUT", "/faults", {"rules": rules}).status == 200
    start = time.monotonic()
    assert statuses(sim, 3) == [503, 500, 200]
    assert time.monotonic() - start >= 0.6


def test_text_faults_leave_embeddings_alone(sim: Any) -> None:
    sim.fault(fault="refusal")
    assert len(sim.embed("hi").json["data"]) == 1
    assert only_entry(sim)["fault"] is None


def test_faults_can_be_read_and_deleted(sim: Any) -> None:
    sim.fault(fault="status", status=500)
    (rule,) = sim.send("GET", "/faults").json["rules"]
    assert (rule["fault"], rule["status"]) == ("status", 500)
    assert sim.send("DELETE", "/faults").json["rules"] == []
    assert sim.chat("hi").status == 200


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"fault": "status", "status": 418}, "status"),
        ({"fault": "status"}, "status"),
        ({"fault": "status", "status": 400, "code": "nonsense"}, "code"),
        ({"fault": "magic"}, "rules.0"),
        ({"fault": "hang", "seconds": -1}, "seconds"),
        ({"fault": "cut", "share": 2}, "share"),
        ({"fault": "cut", "colour": "red"}, "colour"),
        ({"fault": "latency", "p50": 1}, "p95"),
        ({"fault": "usage", "usage": "odd"}, "usage"),
    ],
)
def test_a_bad_rule_is_refused_by_one_sentence_that_names_the_field(sim: Any, rule: Any, field: str) -> None:
    sim.fault(fault="status", status=500)
    reply = sim.send("PUT", "/faults", {"rules": [rule]})
    assert reply.status == 422
    assert field in reply.json["error"]
    assert "\n" not in reply.json["error"]
    # What was in force stays in force.
    assert sim.chat("hi").status == 500


def test_faults_that_are_no_json_are_refused(sim: Any) -> None:
    assert sim.send("PUT", "/faults", b"{nope").status == 422
