"""The providers' own error bodies, as data: by HTTP status, and by code where a status has several.

litellm classes errors by their wording, so the texts are the providers'. `{model}` and `{context}` (tokens) are
filled in. 502 and 504 come from the proxy in front of the API, as HTML.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from simulator.catalogue import Family, Served
from simulator.generation import Refused

Status = Literal[400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529]
Code = Literal[
    "insufficient_quota",
    "rate_limit_exceeded",
    "context_length_exceeded",
    "content_filter",
    "content_policy_violation",
    "invalid_api_key",
    "model_not_found",
    "credit_balance",
    "overloaded",
]

BAD = "invalid_request_error"


class Text(NamedTuple):
    """An error's type, message, and (OpenAI) param and code."""

    type: str | None
    message: str
    param: str | None = None
    code: str | None = None


_QUOTA = Text(
    "insufficient_quota",
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
    None,
    "insufficient_quota",
)
_RATE = Text(
    "tokens",
    "Rate limit reached for {model} in organization org-simulator on tokens per min (TPM): Limit 30000, Used 29500, "
    "Requested 1500. Please try again in 2s. Visit https://platform.openai.com/account/rate-limits to learn more.",
    None,
    "rate_limit_exceeded",
)
_KEY = Text(
    BAD,
    "Incorrect API key provided: sk-inval*d. You can find your API key at "
    "https://platform.openai.com/account/api-keys.",
    None,
    "invalid_api_key",
)
_MODEL = Text(BAD, "The model `{model}` does not exist or you do not have access to it.", None, "model_not_found")
_BUSY = Text(
    "server_error",
    "The server is currently overloaded with other requests. Sorry about that! You can retry your request, or "
    "contact us through our help center at help.openai.com if the error persists.",
)

OPENAI: dict[Status | Code, Text] = {
    400: Text(BAD, "Invalid value for 'messages': the request could not be processed.", "messages", "invalid_value"),
    401: _KEY,
    403: Text(
        "request_forbidden",
        "Country, region, or territory not supported",
        None,
        "unsupported_country_region_territory",
    ),
    404: _MODEL,
    408: Text("server_error", "Request timed out."),
    409: Text(BAD, "The resource was updated by another request."),
    413: Text("server_error", "Maximum content size limit (26214400) exceeded (26228948 bytes read)"),
    422: Text(BAD, "Unable to process the request despite the format being correct. Please try your request again."),
    429: _RATE,
    500: Text("server_error", "The server had an error while processing your request. Sorry about that!"),
    503: Text("server_error", "The engine is currently overloaded, please try again later"),
    529: _BUSY,
    "insufficient_quota": _QUOTA,
    "credit_balance": _QUOTA,
    "rate_limit_exceeded": _RATE,
    "context_length_exceeded": Text(
        BAD,
        "This model's maximum context length is {context} tokens. However, your messages resulted in more tokens. "
        "Please reduce the length of the messages.",
        "messages",
        "context_length_exceeded",
    ),
    # Azure's filter; OpenAI itself answers content_policy_violation.
    "content_filter": Text(
        None,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please "
        "modify your prompt and retry. To learn more about our content filtering policies please read our "
        "documentation: https://go.microsoft.com/fwlink/?linkid=2198766",
        "prompt",
        "content_filter",
    ),
    "content_policy_violation": Text(
        BAD,
        "Your request was rejected as a result of our safety system. Your prompt may contain text that is not "
        "allowed by our safety system.",
        None,
        "content_policy_violation",
    ),
    "invalid_api_key": _KEY,
    "model_not_found": _MODEL,
    "overloaded": _BUSY,
}

_CREDIT = Text(
    BAD,
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or "
    "purchase credits.",
)
_CLAUDE_RATE = Text(
    "rate_limit_error",
    "This request would exceed the rate limit for your organization (org-simulator) of 50,000 input tokens per "
    "minute. For details, refer to: https://docs.claude.com/en/api/rate-limits. You can see the response headers for "
    "current usage. Please reduce the prompt length or the maximum tokens requested, or try again later.",
)
_OVERLOADED = Text("overloaded_error", "Overloaded")
_FILTERED = Text(BAD, "Output blocked by content filtering policy")

ANTHROPIC: dict[Status | Code, Text] = {
    400: Text(BAD, "messages: the request could not be processed"),
    401: Text("authentication_error", "invalid x-api-key"),
    403: Text("permission_error", "Your API key does not have permission to use the specified resource."),
    404: Text("not_found_error", "model: {model}"),
    408: Text("timeout_error", "Request timed out"),
    409: Text(BAD, "The request conflicts with another request."),
    413: Text("request_too_large", "Request exceeds the maximum size"),
    422: Text(BAD, "The request could not be processed."),
    429: _CLAUDE_RATE,
    500: Text("api_error", "Internal server error"),
    503: Text("api_error", "Service unavailable"),
    529: _OVERLOADED,
    "insufficient_quota": _CREDIT,
    "credit_balance": _CREDIT,
    "rate_limit_exceeded": _CLAUDE_RATE,
    "context_length_exceeded": Text(BAD, "prompt is too long: {over} tokens > {context} maximum"),
    "content_filter": _FILTERED,
    "content_policy_violation": _FILTERED,
    "invalid_api_key": Text("authentication_error", "invalid x-api-key"),
    "model_not_found": Text("not_found_error", "model: {model}"),
    "overloaded": _OVERLOADED,
}

HTML = {
    502: "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1>"
    "</center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n",
    504: "<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body>\r\n<center><h1>504 Gateway Time-out"
    "</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n",
}


def body(family: Family, text: Text) -> dict[str, object]:
    """An error in the provider's JSON."""
    if family == "anthropic":
        return {"type": "error", "error": {"type": text.type, "message": text.message}}
    return {"error": text._asdict() | {"message": text.message}}


def bad_request(family: Family, message: str, param: str | None = None, code: str | None = None) -> Refused:
    """A 400 with the provider's words."""
    return Refused(400, body(family, Text(BAD, message, param, code)))


def no_model(family: Family, name: object) -> Refused:
    """The 404 for a model that is not on sale on that route."""
    text = (ANTHROPIC if family == "anthropic" else OPENAI)["model_not_found"]
    return Refused(404, body(family, text._replace(message=text.message.format(model=name))))


def by_order(model: Served, status: Status, code: Code | None, retry_after: float | None) -> Refused:
    """The refusal that a fault rule asks for. `retry_after` in seconds becomes the header."""
    if code is None and status in HTML:
        return Refused(status, HTML[status], retry_after)
    table = ANTHROPIC if model.family == "anthropic" else OPENAI
    text = table[code or status]
    context = model.context or 128_000
    message = text.message.format(model=model.wire_name, context=context, over=context + 1)
    return Refused(status, body(model.family, text._replace(message=message)), retry_after)
