"""Chat calls to OpenAI and Anthropic over our own connections, with litellm as their translator only: it writes the
request and reads the answer, and the rest of what it does for a call, which is most of its cost, is left out.
tests/worker/test_translated.py holds this to `litellm.acompletion`, request by request and error by error."""

import asyncio
import atexit
import json
import os
import ssl
from functools import lru_cache
from typing import Any

import aiohttp
import httpx

from db.once import once_per_process

# litellm's names of those whose translators are used, and where they are
TRANSLATED = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
PATHS = {"openai": "chat/completions", "anthropic": "v1/messages"}


class _Silent:
    """What litellm's translators would log to."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


_SILENT = _Silent()


@once_per_process
def _session() -> aiohttp.ClientSession:
    import certifi

    trusted = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    session = aiohttp.ClientSession(
        # as many at once as there are jobs; the deadline is the caller's
        connector=aiohttp.TCPConnector(limit=0, ssl=trusted),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=any(name.lower() in ("http_proxy", "https_proxy") for name in os.environ),
        headers={"User-Agent": "paymaster"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    atexit.register(_close, session, asyncio.get_running_loop())
    return session


def _close(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop).result(1)


@lru_cache(16)
def _request(url: str) -> httpx.Request:
    """What litellm's translators want to see of the request: nothing."""
    return httpx.Request("POST", url)


def _translator(litellm: Any, provider: str, model: str) -> Any:
    kind = litellm.types.utils.LlmProviders(provider)
    return litellm.utils.ProviderConfigManager.get_provider_chat_config(model, kind)


async def chat(
    litellm: Any, model: str, messages: list[Any], parameters: dict[str, Any], api_key: str, api_base: str | None
) -> Any:
    """What `litellm.acompletion` would return for a model such as `openai/gpt-4o`. One request is sent, whatever
    becomes of it.

    Raises `httpx.HTTPStatusError` for an answer that is an error, aiohttp's errors for a connection that broke, and
    whatever litellm makes of an answer that it cannot read."""
    provider, _, name = model.partition("/")
    translator = _translator(litellm, provider, name)
    options = translator.map_openai_params(parameters, {}, name, drop_params=False)
    json_mode = options.pop("json_mode", False)
    headers = translator.validate_environment({}, name, messages, options, {}, api_key=api_key, api_base=api_base)
    body = translator.transform_request(name, messages, options, {}, headers)
    base = (api_base or TRANSLATED[provider]).rstrip("/").removesuffix(f"/{PATHS[provider]}")
    url = f"{base}/{PATHS[provider]}"
    # a redirect would take the key elsewhere
    sent = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    async with _session().post(url, data=sent, headers=headers, allow_redirects=False) as answer:
        told = httpx.Response(
            answer.status,
            headers=[(key, value) for key, value in answer.headers.items() if key.lower() != "content-encoding"],
            content=await answer.read(),
            request=_request(url),
        )
    if told.status_code >= 300:
        raise httpx.HTTPStatusError(f"answered {told.status_code}", request=told.request, response=told)
    return translator.transform_response(
        name, told, litellm.ModelResponse(), _SILENT, body, messages, options, {}, None, api_key, json_mode
    )
