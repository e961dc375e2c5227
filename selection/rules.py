"""What selection looks at in a job, and the rules that put a job on a rung of a strategy's ladder. The rules' figures
are data (`strategies.toml`)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from selection.data import Data

Level = Literal["low", "general", "high", "standard", "semantic"]

# Words are counted exactly up to here, so no rule may look further.
MOST_WORDS = 1001
# of a text that are looked at at a time: 1,001 words of prose are about 6,500 characters
STRETCH_CHARS = 2048


@dataclass(frozen=True, slots=True)
class JobFacts:
    """All that selection looks at. `words` need not be exact above 1001 (see `count_words`). `prompt_bytes` is no
    less than the UTF-8 of all that is sent, and so than its tokens; `answer_tokens` is what the answer may take."""

    kind: str
    words: int = 0
    artifacts: int = 0
    creative: bool = False
    use_case: str = "similarity"
    prompt_bytes: int = 0
    answer_tokens: int = 0
    api: str | None = None
    user_id: str | None = None
    strategy: str | None = None
    requested_model: str | None = None
    header_model: str | None = None


def count_words(text: str) -> int:
    """Words of a text as `str.split` finds them, exact up to 1001; of a longer text nothing more is looked at."""
    words = 0
    in_word = False
    for start in range(0, len(text), STRETCH_CHARS):
        stretch = text[start : start + STRETCH_CHARS]
        # a word that goes on from the stretch before has been counted there
        words += len(stretch.split()) - (in_word and not stretch[0].isspace())
        if words > MOST_WORDS:
            break
        in_word = not stretch[-1].isspace()
    return words


class Complexity(Data):
    """How demanding a job is: what many words, each artifact and creative writing add, in hundredths."""

    words_above: int = Field(ge=0, lt=MOST_WORDS)
    words: int = Field(ge=0, le=100)
    per_artifact: int = Field(ge=0, le=100)
    most_by_artifacts: int = Field(ge=0, le=100)
    creative: int = Field(ge=0, le=100)

    def score(self, facts: JobFacts) -> float:
        """The complexity of a job, 0-1. Summed in hundredths, so that 0.5 and 0.8 are met exactly."""
        by_words = self.words if facts.words > self.words_above else 0
        by_artifacts = min(self.most_by_artifacts, self.per_artifact * facts.artifacts)
        return min(100, by_words + by_artifacts + (self.creative if facts.creative else 0)) / 100


class Rung(Data):
    """A level, and the jobs that stand on it: those for which any of the conditions holds. What is not given holds
    for no job; the last rung of a kind takes all that are left."""

    level: Level
    words_below: int = Field(0, le=MOST_WORDS)
    words_above: int | None = Field(None, ge=0, lt=MOST_WORDS)
    complexity_above: float = Field(1, ge=0, le=1)
    artifacts_above: int | None = Field(None, ge=0)
    use_cases: frozenset[str] = frozenset()

    def holds(self, facts: JobFacts, complexity: float) -> bool:
        """Whether the job stands here."""
        return (
            facts.words < self.words_below
            or (self.words_above is not None and facts.words > self.words_above)
            or complexity > self.complexity_above
            or (self.artifacts_above is not None and facts.artifacts > self.artifacts_above)
            or facts.use_case in self.use_cases
        )


def _last_takes_all(rungs: tuple[Rung, ...]) -> tuple[Rung, ...]:
    if rungs[-1].model_fields_set != {"level"}:
        raise ValueError("the last rung takes all jobs that are left, so it has no condition")
    return rungs


# of one kind of job, in the order in which they are tried
Rungs = Annotated[tuple[Rung, ...], Field(min_length=1), AfterValidator(_last_takes_all)]


def level_of(rungs: tuple[Rung, ...], facts: JobFacts, complexity: float) -> Level:
    """The level of the first rung on which the job stands."""
    return next((rung.level for rung in rungs[:-1] if rung.holds(facts, complexity)), rungs[-1].level)
