"""Which models a job may run on, in order, and why: a pure function of the job, the settings and the data.

Sources: SPEC 3 for the levels, the rules and who decides. No I/O, no litellm, far under a millisecond.
"""

from dataclasses import dataclass

from selection.registry import Model, ModelKind, Registry, load_registry
from selection.settings import SelectionSettings
from selection.strategies import Strategy, find_strategy

SHORT_WORDS = 200
LONG_WORDS = 1000
COMPLEX_WORDS = 500
MANY_ARTIFACTS = 10
SEMANTIC_USE_CASES = frozenset({"semantic_analysis", "complex_matching"})
MODEL_KIND: dict[str, ModelKind] = {"parse": "chat", "generate": "chat", "embed": "embedding"}


@dataclass(frozen=True, slots=True)
class JobFacts:
    """All that selection looks at. `words` need not be exact above 1001 (see `count_words`)."""

    kind: str
    words: int = 0
    artifacts: int = 0
    creative: bool = False
    use_case: str = "similarity"
    api: str | None = None
    strategy: str | None = None
    requested_model: str | None = None
    header_model: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The models to try, first to last (ids of the registry), and why the first one is first."""

    candidates: tuple[Model, ...]
    reason: str
    strategy: Strategy
    complexity: float | None


def count_words(text: str) -> int:
    """Words of a text, exact up to 1001; of a longer text nothing more is split."""
    words = text.split(None, LONG_WORDS + 1)
    return len(words)


def complexity_score(facts: JobFacts) -> float:
    """How demanding a generate job is, 0-1. Summed in hundredths, so that 0.5 and 0.8 are met exactly."""
    hundredths = 30 * (facts.words > COMPLEX_WORDS) + min(40, 5 * facts.artifacts) + 30 * facts.creative
    return min(100, hundredths) / 100


def level_of(facts: JobFacts) -> tuple[str, float | None]:
    """The rung of the strategy's ladder that a job stands on, and its complexity where it has one."""
    if facts.kind == "embed":
        return ("semantic" if facts.use_case in SEMANTIC_USE_CASES else "standard"), None
    complexity = complexity_score(facts)
    if facts.kind == "parse":
        low, high = facts.words < SHORT_WORDS, facts.words > LONG_WORDS
    else:
        low = complexity <= 0.5
        high = complexity > 0.8 or facts.artifacts > MANY_ARTIFACTS
    return ("high" if high else "low" if low else "general"), complexity


def select(facts: JobFacts, settings: SelectionSettings, registry: Registry | None = None) -> Selection:
    """The candidates of a job. Raises `UnknownModel` or `UnknownStrategy`, whose message says what is known."""
    registry = registry or load_registry()
    strategy = find_strategy(facts.strategy or settings.model_selection_strategy)
    kind = MODEL_KIND[facts.kind]
    level, complexity = level_of(facts)
    chosen, reason = _decide(facts, settings, strategy, level, registry)
    first = registry.resolve(chosen, kind)
    return Selection(_chain(first, facts.kind, strategy, registry), reason, strategy, complexity)


def _decide(
    facts: JobFacts, settings: SelectionSettings, strategy: Strategy, level: str, registry: Registry
) -> tuple[str, str]:
    """Model and reason by the first voice that speaks, in SPEC 3's order. An API's setting speaks for the kind
    of model that it names: a chat model for `keywords` leaves that API's embed jobs alone."""
    api_model = settings.model_for_api(facts.api)
    if facts.requested_model and settings.enable_llm_model_override:
        return facts.requested_model, "requested_model"
    if facts.header_model and settings.enable_llm_model_header:
        return facts.header_model, "header_model"
    if api_model and registry.kind_of(api_model) in (MODEL_KIND[facts.kind], None):
        return api_model, "api_model_setting"
    suffix = "use_case" if facts.kind == "embed" else "complexity"
    if level in strategy.ladder(facts.kind):
        return strategy.ladder(facts.kind)[level], f"{strategy.name}_strategy_{level}_{suffix}"
    return settings.llm_model_default, "default_model"


def _chain(first: Model, kind: str, strategy: Strategy, registry: Registry) -> tuple[Model, ...]:
    """The chosen model, the strategy's fallback, then what else is offered: other providers first, then the
    cheaper ones, none twice, premium ones only where the strategy uses such itself. Embeddings of two models
    cannot be compared, so embed has no fallback."""
    if kind == "embed":
        return (first,)
    fallback = registry.resolve(strategy.fallback[kind], "chat")
    premium = any(registry.resolve(model, "chat").premium for model in strategy.ladder(kind).values())
    others = sorted(
        (m for m in registry.offered("chat") if premium or not m.premium),
        key=lambda m: (m.provider == first.provider, m.rates.output, m.rates.input),
    )
    return tuple({model.id: model for model in (first, fallback, *others)}.values())
