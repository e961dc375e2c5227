"""What the programs here are given: what people would use instead, each run by a bench beside ours."""

import json
from pathlib import Path


def peer_environment(home: Path, broker: str, number: int = 1) -> dict[str, str]:
    """What a peer's program reads: its broker, its database, and the request of our own parse job to gpt-4o."""
    from tasks.answers import ParsedPosting
    from tasks.prompts import PARSE, system_message

    schema = {"name": ParsedPosting.__name__, "schema": ParsedPosting.model_json_schema(), "strict": True}
    request = {
        "system": system_message(PARSE, "schema", schema),
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    (home / "request.json").write_text(json.dumps(request))
    return {
        "PEER_REDIS": broker,
        "PEER_REQUEST": str(home / "request.json"),
        "PEER_DATABASE": f"sqlite:///{home}/peer-{number}.db",
        # else it would ask the network for its prices, and wait
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
