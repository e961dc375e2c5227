"""The bill is exact: true tokens times the registry's prices, for every answer that was generated."""

from __future__ import annotations

from typing import Any

from simulator.bill import Bill
from simulator.catalogue import from_registry, served
from simulator.server import running

# `hi` from the user is 8 tokens for OpenAI (3 the message, 1 role, 1 text, 3 the answer), 10 for Claude (8 * 1.2,
# rounded up); 10 tokens of answer are asked for and cut there. nano-USD per token: USD per million times 1000.
CHAT_COSTS = {
    "gpt-4o": 8 * 2_500 + 10 * 10_000,
    "gpt-4o-mini": 8 * 150 + 10 * 600,
    "gpt-4.1-mini": 8 * 400 + 10 * 1_600,
    "gpt-3.5-turbo": 8 * 500 + 10 * 1_500,
    "gpt-4": 8 * 30_000 + 10 * 60_000,
    "claude-sonnet-4-20250514": 10 * 3_000 + 10 * 15_000,
    "claude-opus-4-1-20250805": 10 * 15_000 + 10 * 75_000,
    "claude-3-haiku-20240307": 10 * 250 + 10 * 1_250,
    "claude-3-sonnet-20240229": 10 * 3_000 + 10 * 15_000,
}
EMBEDDING_COSTS = {"text-embedding-3-small": 2 * 20, "text-embedding-3-large": 2 * 130}


def test_every_model_of_the_registry_costs_what_the_customer_wrote(sim: Any) -> None:
    with running(catalogue=from_registry()) as url:
        client = type(sim)(url)
        for model, cost in CHAT_COSTS.items():
            ask = client.message if model.startswith("claude") else client.chat
            assert ask("hi", model=model, max_tokens=10).status == 200
            assert client.bill()["models"][model]["cost_nano"] == cost, model
        for model, cost in EMBEDDING_COSTS.items():
            assert client.embed("hello world", model=model).status == 200
            assert client.bill()["models"][model]["cost_nano"] == cost, model
        assert client.bill()["cost_nano"] == sum(CHAT_COSTS.values()) + sum(EMBEDDING_COSTS.values())


def test_a_fraction_of_a_nano_dollar_is_rounded_up_once_per_request(sim: Any) -> None:
    # 8 + 3 tokens at half a nano-dollar: 5.5, not 4 + 2.
    sim.chat("hi", model="cheap", max_tokens=3)
    assert sim.bill()["cost_nano"] == 6
    sim.chat("hi", model="cheap", max_tokens=3)
    assert sim.bill()["cost_nano"] == 12


def test_cached_tokens_have_their_own_price() -> None:
    model = served("m", input="2.50", output="10", cached_input="1.25")
    assert model.cost_nano(1000, 400, 10) == 600 * 2_500 + 400 * 1_250 + 10 * 10_000
    assert served("m", input="2.50", output="10").cost_nano(1000, 400, 0) == 1000 * 2_500


def test_totals_are_the_sum_of_the_entries_and_of_the_usage_shown(sim: Any, posting: str) -> None:
    shown = [sim.chat(f"{posting} {number}").json["usage"] for number in range(5)]
    sim.message()
    sim.embed(["a", "b c"])
    bill = sim.bill("?entries=1")
    entries = bill["entries"]
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
    for name in ("input_tokens", "output_tokens", "cost_nano"):
        assert bill[name] == sum(entry[name] for entry in entries)
        assert bill[name] == sum(model[name] for model in bill["models"].values())
    assert [(u["prompt_tokens"], u["completion_tokens"]) for u in shown] == [
        (entry["input_tokens"], entry["output_tokens"]) for entry in entries[:5]
    ]
    assert posting[:20] not in str(bill)
    assert [entry["seq"] for entry in sim.bill("?entries=1&after=5")["entries"]] == [6, 7]
    assert "entries" not in sim.bill()


def test_an_entry_is_found_by_the_id_of_the_answer(sim: Any) -> None:
    reply = sim.chat("hi")
    (entry,) = sim.bill("?entries=1")["entries"]
    assert reply.json["id"] == f"chatcmpl-{entry['request_id']}"
    assert reply.headers["x-request-id"] == f"req_{entry['request_id']}"
    message = sim.message("hi")
    assert message.json["id"] == "msg_" + sim.bill("?entries=1")["entries"][1]["request_id"]


def test_a_repeated_request_is_billed_each_time(sim: Any) -> None:
    first = sim.chat("hi").json
    assert sim.bill()["requests"] == 1
    second = sim.chat("hi").json
    bill = sim.bill()
    assert bill["requests"] == 2
    assert bill["output_tokens"] == 2 * first["usage"]["completion_tokens"]
    assert first["choices"] == second["choices"]
    assert first["id"] != second["id"]


def test_what_is_refused_is_counted_and_not_billed(sim: Any) -> None:
    sim.chat("hi", model="nobody")
    sim.post("chat", b"{not json")
    sim.fault(fault="status", status=500)
    sim.chat("hi")
    assert sim.bill()["cost_nano"] == 0
    counted = sim.send("GET", "/requests").json
    assert counted == {
        "requests": 3,
        "routes": {"chat": 3},
        "refused": {"404": 1, "400": 1, "500": 1},
        "billed": 0,
        "in_flight": 0,
        "most_in_flight": 1,
    }


def test_reset_forgets_bill_counts_and_faults(sim: Any) -> None:
    sim.chat("hi")
    sim.fault(fault="status", status=500)
    assert sim.send("POST", "/reset").status == 200
    assert sim.bill("?entries=1")["entries"] == []
    assert sim.send("GET", "/requests").json["requests"] == 0
    assert sim.chat("hi").status == 200


def test_entries_end_at_the_limit_and_totals_do_not() -> None:
    bill = Bill(max_entries=2)
    model = served("m", input="1", output="1")
    for number in range(3):
        bill.record(
            model=model,
            route="chat",
            input_tokens=1,
            output_tokens=1,
            fault=None,
            received=0.0,
            request_id=str(number),
        )
    report = bill.report(entries=True)
    assert (report["requests"], report["cost_nano"], len(report["entries"])) == (3, 6_000, 2)
    assert report["entries_dropped"] == 1
