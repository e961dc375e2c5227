"""The only place that talks to providers, and the only one that imports litellm.

litellm translates; its retries, prices and exceptions stay here: one request per call, a deadline on the
whole call, the registry's prices, and `CallFailed` with one sentence of our own.
"""

import asyncio
import base64
import logging
import os
import warnings
from array import array
from collections.abc import Iterator
from typing import Any, NoReturn

import aiohttp
import httpx

from budget.money import Usage
from db.environment import read_settings
from db.once import once_per_process
from selection.registry import Model, load_registry
from worker import translated
from worker.errors import CallFailed, classify
from worker.kind import Answer, ChatRequest, EmbedRequest, Request, Vectors
from worker.settings import WorkerSettings

# More tokens than any model can hold: a usage beyond it is an error of the provider's.
ABSURD_TOKENS = 20_000_000
LONGEST_RETRY_AFTER_S = 86_400.0


@once_per_process
def _litellm() -> Any:
    """litellm, imported at first use: it takes seconds, and only workers need it."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.llms.custom_httpx import http_handler

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    # It warns of vectors in base64, which we ask for, and quotes them.
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings", category=UserWarning)
    # One call is one request. `max_retries=0` does not reach embeddings, where 0 counts as unset …
    litellm.DEFAULT_MAX_RETRIES = 0  # type: ignore[attr-defined]  # not in its __all__
    # … nor litellm's own HTTP handler, which sends again after a reset: the provider may bill both.
    http_handler.AsyncHTTPHandler.single_connection_post_request = (  # type: ignore[method-assign]  # that is the point
        _no_second_request
    )
    return litellm


async def _no_second_request(*_: Any, **__: Any) -> NoReturn:
    raise httpx.ReadError("the connection broke; nothing is sent twice")


def warm_up() -> None:
    """Import litellm now, so that the first job does not wait for it."""
    _litellm()


async def call(model: Model, request: Request, deadline_s: float) -> Answer:
    """Send one request and wait at most `deadline_s`. Raises `CallFailed`, and nothing else."""
    send = _chat if isinstance(request, ChatRequest) else _embed
    try:
        async with asyncio.timeout(deadline_s):
            return await send(model, request, deadline_s)  # type: ignore[arg-type]  # chosen by its type above
    except CallFailed:
        raise
    except TimeoutError:
        sentence = f"{model.id} gave no whole answer within {deadline_s:g} s"
        raise CallFailed("timeout", sentence, billed=True) from None
    except Exception as error:
        _raise_own(model, error)


async def _chat(model: Model, request: ChatRequest, deadline_s: float) -> Answer:
    address = _address(model, deadline_s)
    messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
    parameters = {
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        **_json_by(model, request),
    }
    if _is_translated(model):
        response = await translated.chat(
            _litellm(), model.litellm, messages, parameters, address["api_key"], address["api_base"]
        )
    else:
        response = await _litellm().acompletion(messages=messages, **parameters, **address)
    usage = _usage(getattr(response, "usage", None))
    choice = response.choices[0] if response.choices else None
    content = getattr(getattr(choice, "message", None), "content", None)
    finish = getattr(choice, "finish_reason", None)
    if finish == "content_filter":
        _refuse(model, "content_filter", "filtered its answer", usage)
    if finish == "length":
        _refuse(model, "answer_cut", "cut its answer at the token limit", usage)
    if not isinstance(content, str) or not content.strip():
        _refuse(model, "refused", "gave no answer", usage)
    # an answer without output tokens: the provider's count is not to be believed
    return Answer(content, None, usage if usage and usage.output > 0 else None)


def _is_translated(model: Model) -> bool:
    provider = model.litellm.partition("/")[0]
    return provider in translated.TRANSLATED and read_settings(WorkerSettings).llm_http == "own"


def _refuse(model: Model, code: str, what: str, usage: Usage | None) -> NoReturn:
    raise CallFailed(code, f"{model.id} {what}", billed=True, usage=usage)


async def _embed(model: Model, request: EmbedRequest, deadline_s: float) -> Answer:
    response = await _litellm().aembedding(input=request.texts, encoding_format="base64", **_address(model, deadline_s))
    rows = sorted(response.data, key=lambda row: row["index"])
    vectors = [_float32(row["embedding"]) for row in rows]
    usage = _usage(getattr(response, "usage", None))
    dimensions = model.dimensions or 0
    if len(vectors) != len(request.texts) or any(len(vector) != 4 * dimensions for vector in vectors):
        _refuse(model, "invalid_answer", "brought another number or size of vectors than asked for", usage)
    return Answer("", Vectors(b"".join(vectors), len(vectors), dimensions), usage)


def _float32(vector: str | list[float]) -> bytes:
    """Little-endian float32 of a vector, however the provider or litellm spelled it."""
    if isinstance(vector, str):
        return base64.b64decode(vector)
    return array("f", vector).tobytes()


def _json_by(model: Model, request: ChatRequest) -> dict[str, Any]:
    """What makes this model answer in JSON. For `tool` litellm turns the schema into a forced tool call."""
    schema = {"name": request.schema_name, "schema": request.schema, "strict": True}
    formats: dict[str, Any] = {
        "schema": {"type": "json_schema", "json_schema": schema},
        "tool": {"type": "json_schema", "json_schema": schema},
        "object": {"type": "json_object"},
    }
    return {"response_format": formats[model.json_by]} if model.json_by in formats else {}


def _address(model: Model, deadline_s: float) -> dict[str, Any]:
    """Where and as whom to call. Only the registry and the provider's own variables say so, never a job."""
    provider = load_registry().provider_of(model)
    key_env = model.api_key_env or provider.api_key_env
    base = model.api_base or (os.environ.get(provider.api_base_env) if provider.api_base_env else None)
    if not os.environ.get(key_env):
        _unset(model, key_env, "no_key")
    if provider.api_base_required and not base:
        _unset(model, provider.api_base_env or "api_base", "no_address")
    version = model.api_version or provider.api_version
    return {
        "model": model.litellm,
        "api_key": os.environ[key_env],
        "api_base": base or None,
        **({"api_version": version} if version else {}),
        "timeout": deadline_s,
        "max_retries": 0,
    }


def _unset(model: Model, variable: str, code: str) -> NoReturn:
    sentence = f"{variable} is not set, so {model.provider} cannot be called"
    raise CallFailed(code, sentence, billed=False)


def _usage(reported: Any) -> Usage | None:
    """The provider's own count, or None where it is missing or cannot be true."""

    def tokens(holder: Any, field: str) -> int:
        value = getattr(holder, field, None) or 0
        return value if isinstance(value, int) else -1

    details = getattr(reported, "prompt_tokens_details", None)
    usage = Usage(
        input=tokens(reported, "prompt_tokens"),
        output=tokens(reported, "completion_tokens"),
        cached=tokens(details, "cached_tokens"),
        cache_write=tokens(reported, "cache_creation_input_tokens"),
        reasoning=tokens(getattr(reported, "completion_tokens_details", None), "reasoning_tokens"),
    )
    parts = (usage.input, usage.output, usage.cached, usage.cache_write, usage.reasoning)
    believable = usage.input > 0 and min(parts) >= 0 and max(parts) < ABSURD_TOKENS
    return usage if believable and usage.cached + usage.cache_write <= usage.input else None


def _raise_own(model: Model, error: Exception) -> NoReturn:
    """The provider's error as our own. litellm's classes and statuses drift between versions (a reset arrives
    as a 500), so what counts is what lies beneath: the HTTP answer, or the connection that never was."""
    causes = list(_causes(error))
    answer = next((cause.response for cause in causes if isinstance(cause, httpx.HTTPStatusError)), None)
    if answer is not None:
        code = _code_of(answer)
        sentence = f"{model.provider} answered {answer.status_code}{f' ({code})' if code else ''} for {model.id}"
        raise CallFailed(
            code or f"http_{answer.status_code}",
            sentence,
            billed=False,
            retry_after_s=_retry_after(answer),
            sort=classify(answer.status_code, code),
        ) from None
    if any(isinstance(cause, (aiohttp.ClientConnectorError, httpx.ConnectTimeout)) for cause in causes):
        sentence = f"no connection to {model.provider} for {model.id}"
        raise CallFailed("no_connection", sentence, billed=False) from None
    # encoding, not decoding: an answer in broken UTF-8 has been billed
    if any(isinstance(cause, UnicodeEncodeError) for cause in causes):
        sentence = f"the request to {model.id} could not be encoded"
        raise CallFailed("not_sent", sentence, billed=False) from None
    if isinstance(error, _litellm().Timeout):
        sentence = f"{model.id} gave no whole answer in time"
        raise CallFailed("timeout", sentence, billed=True) from None
    sentence = f"{model.provider} broke off or sent something unreadable for {model.id}"
    raise CallFailed("broken_answer", sentence, billed=True) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


# Providers say some things only in the text of the message.
CODE_BY_TEXT = {
    "credit balance is too low": "credit_balance",
    "prompt is too long": "context_length_exceeded",
}


def _code_of(answer: httpx.Response) -> str | None:
    """The provider's own error code, if it is a short word; never its message, which may quote the prompt."""
    try:
        told = answer.json()["error"]
        code = next((code for text, code in CODE_BY_TEXT.items() if text in str(told.get("message"))), None)
        code = code or told.get("code") or told.get("type")
    except (ValueError, LookupError, AttributeError, TypeError, httpx.StreamError):
        return None
    return code if isinstance(code, str) and len(code) <= 32 and code.replace("_", "").isalnum() else None


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds. What a provider asks for is bounded, since `inf` is a number to Python, too."""
    try:
        return min(LONGEST_RETRY_AFTER_S, max(0.0, float(answer.headers["retry-after"])))
    except (KeyError, ValueError):
        return None
