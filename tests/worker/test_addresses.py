"""Where a call goes and with which key, seen by a server that records what real litellm sends."""

from typing import Any

import pytest

from db.once import once_per_environment
from selection.registry import load_registry
from tests.worker.recorder import Recorder
from worker.errors import CallFailed
from worker.gateway import call
from worker.kind import ChatRequest
from worker.loop import run_on_loop

pytestmark = pytest.mark.xdist_group("litellm")

SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
REQUEST = ChatRequest("You read.", "A baker.", "Posting", SCHEMA, temperature=0.1, max_tokens=100)


def ask(name: str) -> Any:
    return run_on_loop(call(load_registry().resolve(name, "chat"), REQUEST, 20))


def test_an_azure_model_goes_to_its_deployment_with_the_version_of_the_api(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_API_KEY", "azure-key")
    monkeypatch.setenv("AZURE_API_BASE", recorder.url)
    assert ask("gpt4o-2").content == "{}"
    ((url, headers, body),) = recorder.seen
    assert url == "/openai/deployments/gpt4o-2/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == "azure-key"
    assert body["response_format"]["type"] == "json_schema", "not litellm's detour by way of a tool"
    assert (body["max_tokens"], body["temperature"]) == (100, 0.1)


def test_an_entry_may_name_another_version(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    own_models(tmp_path, monkeypatch, '[models."azure-gpt-4o"]\napi_version = "2025-01-01-preview"\n')
    monkeypatch.setenv("AZURE_API_KEY", "azure-key")
    monkeypatch.setenv("AZURE_API_BASE", recorder.url)
    ask("gpt4o-2")
    assert recorder.seen[0][0].endswith("?api-version=2025-01-01-preview")


def test_azure_without_an_address_is_not_called_and_costs_nothing(
    environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_API_KEY", "azure-key")
    with pytest.raises(CallFailed, match=r"^AZURE_API_BASE is not set, so azure cannot be called$") as failed:
        ask("gpt4o-2")
    assert (failed.value.code, failed.value.billed) == ("no_address", False)


LOCAL = """
[models."llama-local"]
provider = "openai"
litellm = "openai/llama-3.3"
api_base = "{url}/v1"
api_key_env = "LOCAL_LLM_KEY"
kind = "chat"
json_by = "object"
tokenizer = "o200k_base"
price = {{ input = 0, output = 0 }}
context = 8192
max_output = 4096
"""


def own_models(folder: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "own.toml").write_text(text)
    monkeypatch.setenv("MODEL_REGISTRY_FILE", str(folder / "own.toml"))
    once_per_environment.forget_all()


def test_a_server_of_our_own_gets_its_own_key_whatever_the_providers_variables_say(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    own_models(tmp_path, monkeypatch, LOCAL.format(url=recorder.url))
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:1/v1")
    with pytest.raises(CallFailed, match=r"^LOCAL_LLM_KEY is not set") as failed:
        ask("llama-local")
    assert (failed.value.code, failed.value.billed, recorder.seen) == ("no_key", False, [])
    monkeypatch.setenv("LOCAL_LLM_KEY", "local-key")
    ask("llama-local")
    ((url, headers, body),) = recorder.seen
    assert (url, headers["Authorization"], body["model"]) == ("/v1/chat/completions", "Bearer local-key", "llama-3.3")
    assert "openai-key" not in str(recorder.seen)


def test_the_providers_own_variable_still_says_where_its_other_models_are(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    own_models(tmp_path, monkeypatch, LOCAL.format(url="http://127.0.0.1:1"))
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    monkeypatch.setenv("OPENAI_API_BASE", f"{recorder.url}/v1")
    ask("gpt-4o")
    assert recorder.seen[0][0] == "/v1/chat/completions"
    assert recorder.seen[0][1]["Authorization"] == "Bearer openai-key"


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "api_version"])
def test_no_job_can_say_where_a_call_goes(field: str) -> None:
    from tasks.kinds import Parse
    from worker.errors import InvalidJob

    with pytest.raises(InvalidJob, match=f"field {field} is not known"):
        Parse().payload({"job_description": "A baker.", field: "http://evil.example"})
