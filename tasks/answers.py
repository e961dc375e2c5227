"""What a model must answer, as schemas that OpenAI's strict mode and Anthropic's tools both take: every field
is required, nothing else is allowed, and what may be absent is null."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.kind import AnswerInvalid


class StrictAnswer(BaseModel):
    """What a model must answer holds its fields and nothing else."""

    model_config = ConfigDict(extra="forbid")


class ParsedPosting(StrictAnswer):
    """A job posting as structured data."""

    company_name: str | None = Field(description="The company that hires, if it is named.")
    role_title: str = Field(description="The title of the position.")
    seniority: str | None = Field(description="Such as junior, senior or lead, if it is said.")
    employment_type: str | None = Field(description="Such as full-time or contract, if it is said.")
    location: str | None = Field(description="Where the work is done, if it is said.")
    salary: str | None = Field(description="The pay as written, if it is said.")
    summary: str = Field(description="The position in two or three sentences.")
    responsibilities: list[str] = Field(description="What the person will do.")
    required_skills: list[str] = Field(description="Skills that the posting demands.")
    preferred_skills: list[str] = Field(description="Skills that are welcome.")
    qualifications: list[str] = Field(description="Degrees, certificates and experience asked for.")
    benefits: list[str] = Field(description="What the company offers.")
    keywords: list[str] = Field(description="Words that an applicant's CV should hold.")
    confidence_score: float = Field(ge=0, le=1, description="How sure you are of this reading, 0 to 1.")


class Experience(StrictAnswer):
    """One position in a CV."""

    title: str
    organization: str
    period: str | None = Field(description="From when to when, as the artifacts say.")
    highlights: list[str] = Field(description="What was achieved, fitted to the posting.")


class Education(StrictAnswer):
    """One degree or course in a CV."""

    institution: str
    qualification: str
    period: str | None


class CVContent(StrictAnswer):
    """The content of a CV."""

    headline: str = Field(description="One line that says who applies.")
    summary: str = Field(description="Three to five sentences for the top of the CV.")
    skills: list[str] = Field(description="Skills that the artifacts show and the posting asks for.")
    experience: list[Experience]
    education: list[Education]
    achievements: list[str] = Field(description="Awards, publications and projects worth naming.")
    cover_note: str = Field(description="A short note to the company, in the tone asked for.")


def read_answer(model: type[BaseModel], text: str) -> dict[str, Any]:
    """The answer's JSON as checked data; `AnswerInvalid` names the field at fault and holds none of its text.

    What is almost JSON (fenced, after a sentence, with a trailing comma) is repaired once before that counts."""
    fault: Any = None
    for repair in (False, True):
        try:
            return model.model_validate_json(_repaired(text) if repair else text).model_dump(mode="json")
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if fault["type"] != "json_invalid":
            break
    where = ".".join(str(part) for part in fault["loc"] if isinstance(part, int) or part in _names(model))
    raise AnswerInvalid(f"{where or 'the answer'}: {fault['type']}")


def _repaired(text: str) -> str:
    from json_repair import repair_json

    try:
        return str(repair_json(text, skip_json_loads=True))
    except (ValueError, RecursionError):
        return text


def _names(model: type[BaseModel]) -> set[str]:
    """The names that we gave: an unknown field's name is the answer's text."""
    schema = model.model_json_schema()
    return {name for part in (schema, *schema.get("$defs", {}).values()) for name in part["properties"]}
