"""What may be submitted. Every fault is one sentence that names the field and what would be right."""

import json
import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from worker.errors import InvalidJob

MOST_TEXT_CHARS = 200_000
MOST_NAME_CHARS = 300
MOST_JSON_CHARS = 1_000_000
MOST_LEVELS = 50
MOST_ARTIFACTS = 200
# what fits into one result in Redis, whose values end at 512 MB: 20,000 vectors of 3072 dimensions take 330 MB
MOST_TEXTS = 20_000
MOST_TEXTS_CHARS = 20_000_000


def _sendable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold NUL characters; remove them")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode; it holds half a surrogate pair") from None
    return text


def _proper_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty; give the text")
    return _sendable(text)


_USER_ID = {"anyOf": [{"type": "integer"}, {"type": "string", "minLength": 1, "maxLength": 64}]}


def _user_id(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be an integer or a string of 1 to 64 characters")
    return str(value)


def _proper_json(value: Any) -> Any:
    _check_json(value, MOST_LEVELS)
    return value


def _check_json(value: Any, levels: int) -> None:
    """Raise `ValueError` for what JSON, SQL or a provider cannot take."""
    if levels == 0:
        raise ValueError(f"is nested too deeply; at most {MOST_LEVELS} levels are taken")
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("must be plain JSON; a name in it is no string")
        for item in (*value, *value.values()):
            _check_json(item, levels - 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, levels - 1)
    elif isinstance(value, str):
        _sendable(value)
    elif not isinstance(value, int | float | None):
        raise ValueError(f"must be plain JSON; it holds a {type(value).__name__}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be plain JSON, without NaN or infinity")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must hold printable characters only")
    return text


def _header(value: Any) -> str | None:
    """What a proxy passes on, unseen: whether it names a model is asked only where headers are honoured."""
    if value is None or value == "":
        return None
    return value if isinstance(value, str) and len(value) <= 100 and value.isprintable() else "(unreadable)"


Text = Annotated[str, Field(max_length=MOST_TEXT_CHARS), AfterValidator(_proper_text)]
Name = Annotated[str, Field(max_length=MOST_NAME_CHARS), AfterValidator(_proper_text)]
Key = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
ModelName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
# the whole value is checked before pydantic looks at it: its own messages would quote names from it
Json = Annotated[dict[str, Any], BeforeValidator(_proper_json)]


class Payload(BaseModel):
    """What every job may carry."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user_id: Annotated[Key, BeforeValidator(_user_id), WithJsonSchema(_USER_ID)] | None = Field(
        None, description="The application's own key of the user: an integer or a short string."
    )
    api: Key | None = Field(None, description="Which API of the product submits the job, such as `keywords`.")
    model: ModelName | None = Field(None, description="The model to use, by id or alias.")
    # whatever it is, it fails no job
    x_llm_model: Annotated[str | None, BeforeValidator(_header), WithJsonSchema({})] = Field(
        None, description="The value of the HTTP header X-LLM-Model."
    )
    strategy: ModelName | None = Field(None, description="The strategy to use instead of the current one.")
    idempotency_key: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)] | None = Field(
        None, description="The submitter's own name of the job: submitting it once more brings the same job."
    )
    on_budget: Literal["downgrade", "reject", "defer"] = Field(
        "downgrade",
        description="Where a budget has no room: take the next cheaper model that fits, refuse, or wait for room.",
    )


class ParsePayload(Payload):
    """A job posting to be parsed."""

    job_description: Text = Field(description="The text of the posting.")
    company_name: Name | None = Field(None, description="The company that hires.")
    role_title: Name | None = Field(None, description="The title of the position.")


class GeneratePayload(Payload):
    """A CV to be written for a posting."""

    job_data: Json = Field(description="An object with `raw_job_description`; a parse result fits.")
    artifacts: Annotated[list[Json], Field(max_length=MOST_ARTIFACTS)] = Field(
        default_factory=list, description="What the CV may draw on: a list of objects."
    )
    preferences: Json = Field(default_factory=dict, description='Wishes, such as `{"tone": "creative"}`.')
    _json_bytes: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _has_description(self) -> "GeneratePayload":
        description = self.job_data.get("raw_job_description")
        if not isinstance(description, str) or not description.strip():
            raise ValueError("job_data.raw_job_description: is missing; give the text of the posting")
        if len(description) > MOST_TEXT_CHARS:
            raise ValueError(f"job_data.raw_job_description: may have at most {MOST_TEXT_CHARS} characters")
        # json.dumps writes what is not ASCII as \uXXXX, so a character here is a byte at least
        sizes = {name: len(json.dumps(getattr(self, name))) for name in ("job_data", "artifacts", "preferences")}
        if sum(sizes.values()) > MOST_JSON_CHARS:
            largest = max(sizes, key=lambda name: sizes[name])
            raise ValueError(
                f"{largest}: has {sizes[largest]} characters as JSON; {', '.join(sizes)} may have {MOST_JSON_CHARS} "
                "together"
            )
        self._json_bytes = sum(sizes.values())
        return self

    @property
    def json_bytes(self) -> int:
        """No less than the bytes of all fields as JSON in UTF-8."""
        return self._json_bytes

    @property
    def description(self) -> str:
        return str(self.job_data["raw_job_description"])


class EmbedPayload(Payload):
    """Texts to be turned into vectors."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)] = Field(description="The texts, in order.")
    use_case: Key = Field("similarity", description="`semantic_analysis` and `complex_matching` use the large model.")

    @model_validator(mode="after")
    def _not_too_much(self) -> "EmbedPayload":
        if (size := sum(map(len, self.texts))) > MOST_TEXTS_CHARS:
            raise ValueError(f"texts: have {size} characters together, at most {MOST_TEXTS_CHARS} are taken")
        return self


P = TypeVar("P", bound=Payload)


def check(kind: str, payload: type[P], fields: dict[str, Any]) -> P:
    """The payload of these fields; `InvalidJob` says in one sentence what is wrong with the first bad one."""
    try:
        return payload.model_validate(fields)
    except ValidationError as error:
        raise InvalidJob(f"{kind}: {_sentence(payload, error)}") from None
    except RecursionError:
        raise InvalidJob(f"{kind}: the fields are nested too deeply; flatten them") from None


def _sentence(payload: type[Payload], error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # below a field, only positions: a name in there is the submitter's text
    field = ".".join(str(part) for level, part in enumerate(fault["loc"]) if level == 0 or isinstance(part, int))[:80]
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"field {field} is missing: {payload.model_fields[field].description}"
    if fault["type"] == "extra_forbidden":
        shown = field if field.isprintable() else "?"
        return f"field {shown} is not known; known fields: {', '.join(payload.model_fields)}"
    return f"field {field}: {message}" if field else f"field {message}"
