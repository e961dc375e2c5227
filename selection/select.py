"""Which models a job may run on, in order, and why: a pure function of the job, the settings and the data.

Sources: SPEC 3 for who decides, the rules and the chain; docs/selection.md explains the whole. No I/O, no litellm, far
under a millisecond.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from selection.adaptive import Statistics, adapt
from selection.errors import ModelNotAllowed, NothingFits
from selection.reasons import Reason, by_rule
from selection.registry import HEADER, Model, ModelKind, Registry, load_registry
from selection.rules import JobFacts, level_of
from selection.settings import SelectionSettings, variable_of
from selection.split import strategy_of_user
from selection.strategies import Strategies, Strategy, find_strategy

# The most input tokens that a provider can count for the job on a model.
CountTokens = Callable[[Model], int]


@dataclass(frozen=True, slots=True)
class Selection:
    """The models to try, first to last, and why the first one is first; and the models that would have come but
    cannot take the job, each with the reason."""

    candidates: tuple[Model, ...]
    reason: str
    strategy: Strategy
    complexity: float | None
    passed_over: tuple[tuple[Model, Reason], ...] = ()


def select(
    facts: JobFacts,
    settings: SelectionSettings,
    *,
    strategy: str | None = None,
    registry: Registry | None = None,
    strategies: Strategies | None = None,
    statistics: Statistics | None = None,
    job_id: str = "",
    today: date | None = None,
    count: CountTokens | None = None,
) -> Selection:
    """The candidates of a job. Raises `CannotSelect`, whose message says what would be right.

    `strategy` is the current one, if it is not the environment's. With `statistics` models are chosen by their record,
    and `job_id` says which jobs explore. `today` tells deprecated models. `count` is asked only for models of which
    the prompt's size alone does not say whether they hold it; without it they count as holding it."""
    registry = registry or load_registry()
    plan = find_strategy(_strategy_name(facts, settings, strategy), strategies)
    chat = plan.kinds[facts.kind] == "chat"
    complexity = plan.complexity.score(facts) if chat else None
    asked = _asked_for(facts, settings, plan.kinds[facts.kind], registry)
    first, reason = asked or _by_rule(facts, settings, plan, complexity or 0, registry)
    chain = _chain(first, facts.kind, plan, registry)
    candidates, passed = _that_fit(chain, facts, registry, today, count)
    if candidates[0] is not first:
        reason = next(why for model, why in passed if model is first)
    elif statistics is not None and asked is None and chat:
        other, why = adapt(first, facts.kind, plan, candidates, statistics, job_id)
        if why is not None:
            reason = why
            chain = _chain(other, facts.kind, plan, registry)
            candidates = tuple(model for model in chain if model in candidates)
    return Selection(candidates, str(reason), plan, complexity, passed)


def _strategy_name(facts: JobFacts, settings: SelectionSettings, current: str | None) -> str:
    """The job's own, else the one that its user falls into, else the current one."""
    if facts.strategy:
        return facts.strategy
    if facts.user_id and settings.model_split_test:
        return strategy_of_user(facts.user_id, settings.model_split_test)
    return current or settings.model_selection_strategy


def _asked_for(
    facts: JobFacts, settings: SelectionSettings, kind: ModelKind, registry: Registry
) -> tuple[Model, Reason] | None:
    """What the first voice says that speaks and is honoured, in SPEC 3's order; None if the rules decide."""
    voices = (
        ("model", facts.requested_model, settings.enable_llm_model_override, Reason.REQUESTED_MODEL),
        (HEADER, facts.header_model, settings.enable_llm_model_header, Reason.HEADER_MODEL),
    )
    for voice, name, honoured, reason in voices:
        if name and honoured:
            model = registry.resolve(name, kind, voice)
            _check_allowed(model, facts, settings, registry, voice)
            return model, reason
    # an API's setting speaks for the kind of model that it names: a chat model leaves embed jobs alone
    name = settings.model_for_api(facts.api)
    if name and ((found := registry.find(name)) is None or found.kind == kind):
        return found or registry.resolve(name, kind, variable_of(facts.api or "")), Reason.API_MODEL_SETTING
    return None


def _check_allowed(model: Model, facts: JobFacts, settings: SelectionSettings, registry: Registry, voice: str) -> None:
    names = settings.allowed_for_api(facts.api)
    if not names:
        return
    allowed = [found.id for name in names if (found := registry.find(name)) and found.kind == model.kind]
    if model.id not in allowed:
        whose = f" for the API {facts.api}" if facts.api else ""
        raise ModelNotAllowed(
            f"{voice}: {model.id} is not allowed{whose}; allowed {model.kind} models: {', '.join(allowed) or 'none'}"
        )


def _by_rule(
    facts: JobFacts, settings: SelectionSettings, strategy: Strategy, complexity: float, registry: Registry
) -> tuple[Model, str]:
    """The model of the rung that the job stands on, else the default."""
    level = level_of(strategy.rungs[facts.kind], facts, complexity)
    kind = strategy.kinds[facts.kind]
    if name := strategy.models[facts.kind].get(level):
        return registry.resolve(name, kind), by_rule(strategy.name, level)
    return registry.resolve(settings.llm_model_default, kind, "LLM_MODEL_DEFAULT"), Reason.DEFAULT_MODEL


def _chain(first: Model, kind: str, strategy: Strategy, registry: Registry) -> tuple[Model, ...]:
    """The chosen model, the strategy's fallback, then what else is offered: other providers first, then the
    cheaper ones, none twice, premium ones only where the strategy uses such itself. Embeddings of two models
    cannot be compared, so what runs on them has no fallback."""
    if strategy.kinds[kind] == "embedding":
        return (first,)
    fallback = registry.resolve(strategy.fallback[kind], "chat")
    premium = any(registry.resolve(model, "chat").premium for model in strategy.models[kind].values())
    others = sorted(
        (m for m in registry.offered("chat") if premium or not m.premium),
        key=lambda m: (m.provider == first.provider, m.rates.output, m.rates.input),
    )
    return tuple({model.id: model for model in (first, fallback, *others)}.values())


def _that_fit(
    chain: tuple[Model, ...], facts: JobFacts, registry: Registry, today: date | None, count: CountTokens | None
) -> tuple[tuple[Model, ...], tuple[tuple[Model, Reason], ...]]:
    """The models of the chain that can take the job, and the others with what stands against them."""
    against = [(model, _what_is_against(model, facts, registry, today, count)) for model in chain]
    # a date alone is no reason to fail a job
    for excused in (None, Reason.MODEL_DEPRECATED):
        if candidates := tuple(model for model, why in against if why is excused):
            return candidates, tuple((model, why) for model, why in against if why and why is not excused)
    sizes = ", ".join(f"{model.id} ({model.context})" for model in chain)
    raise NothingFits(
        f"the prompt and an answer of {facts.answer_tokens} tokens are more than any candidate can take: {sizes}; "
        "shorten the job, or ask for a model with a larger context"
    )


def _what_is_against(
    model: Model, facts: JobFacts, registry: Registry, today: date | None, count: CountTokens | None
) -> Reason | None:
    if facts.answer_tokens > model.max_output:
        return Reason.MAX_OUTPUT_TOO_SMALL
    room = model.context - facts.answer_tokens
    if registry.provider_of(model).most_input(facts.prompt_bytes) > room and count is not None and count(model) > room:
        return Reason.CONTEXT_TOO_SMALL
    return Reason.MODEL_DEPRECATED if model.over(today) else None
