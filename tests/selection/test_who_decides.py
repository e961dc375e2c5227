"""Who names the model: requested model, header, the API's setting, the strategy's rules, the default."""

import pytest

from selection.errors import ModelNotAllowed, UnknownModel, UnknownStrategy
from selection.rules import JobFacts
from selection.select import select
from selection.settings import SelectionSettings
from selection.strategies import find_strategy

REQUESTED, HEADER, API = "claude-opus-4-1-20250805", "claude-sonnet-4-20250514", "gpt-4.1-mini"
RULES = "gpt-4o"


@pytest.fixture(autouse=True)
def _only_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEYWORDS", "GAP_ANALYSIS", "RESUME_FORMAT", "RESUME_TAILOR", "DEFAULT", "ÜBER", "ALLOWED"):
        monkeypatch.delenv(f"LLM_MODEL_{name}", raising=False)


def settings_of(*, override: bool = True, header: bool = True, **more: str) -> SelectionSettings:
    return SelectionSettings(enable_llm_model_override=override, enable_llm_model_header=header, **more)  # type: ignore[arg-type]


# voices that speak, (override on, header on), who wins, the reason
TABLE = [
    ("rha", (True, True), REQUESTED, "requested_model"),
    ("rh", (True, True), REQUESTED, "requested_model"),
    ("ra", (True, True), REQUESTED, "requested_model"),
    ("r", (True, True), REQUESTED, "requested_model"),
    ("ha", (True, True), HEADER, "header_model"),
    ("h", (True, True), HEADER, "header_model"),
    ("a", (True, True), API, "api_model_setting"),
    ("", (True, True), RULES, "balanced_strategy_general_complexity"),
    ("rha", (False, True), HEADER, "header_model"),
    ("rh", (False, True), HEADER, "header_model"),
    ("ra", (False, True), API, "api_model_setting"),
    ("r", (False, True), RULES, "balanced_strategy_general_complexity"),
    ("rha", (True, False), REQUESTED, "requested_model"),
    ("ha", (True, False), API, "api_model_setting"),
    ("h", (True, False), RULES, "balanced_strategy_general_complexity"),
    ("rha", (False, False), API, "api_model_setting"),
    ("rh", (False, False), RULES, "balanced_strategy_general_complexity"),
]


@pytest.mark.parametrize(("voices", "flags", "model", "reason"), TABLE)
def test_the_first_voice_that_is_honoured_wins(
    voices: str, flags: tuple[bool, bool], model: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "a" in voices:
        monkeypatch.setenv("LLM_MODEL_KEYWORDS", API)
    facts = JobFacts(
        kind="parse",
        words=300,
        api="keywords",
        requested_model=REQUESTED if "r" in voices else None,
        header_model=HEADER if "h" in voices else None,
    )
    found = select(facts, settings_of(override=flags[0], header=flags[1]))
    assert (found.candidates[0].id, found.reason) == (model, reason)


def test_the_requested_model_is_honoured_and_the_header_is_not_unless_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ENABLE_LLM_MODEL_OVERRIDE", "ENABLE_LLM_MODEL_HEADER", "MODEL_SELECTION_STRATEGY"):
        monkeypatch.delenv(name, raising=False)
    found = SelectionSettings()
    assert (found.enable_llm_model_header, found.model_selection_strategy) == (False, "balanced")
    monkeypatch.setenv("ENABLE_LLM_MODEL_OVERRIDE", "false")
    monkeypatch.setenv("ENABLE_LLM_MODEL_HEADER", "true")
    monkeypatch.setenv("MODEL_SELECTION_STRATEGY", "experimental")
    found = SelectionSettings()
    assert (found.enable_llm_model_override, found.enable_llm_model_header) == (False, True)
    assert found.model_selection_strategy == "experimental"


@pytest.mark.parametrize(
    ("api", "variable"),
    [
        ("keywords", "LLM_MODEL_KEYWORDS"),
        ("gap_analysis", "LLM_MODEL_GAP_ANALYSIS"),
        ("gap-analysis", "LLM_MODEL_GAP_ANALYSIS"),
        ("Resume_Format", "LLM_MODEL_RESUME_FORMAT"),
        ("resume_tailor", "LLM_MODEL_RESUME_TAILOR"),
        ("über", "LLM_MODEL_ÜBER"),
    ],
)
def test_the_variable_of_an_api_is_its_name_in_capitals(
    api: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, API)
    assert select(JobFacts(kind="parse", words=300, api=api), settings_of()).candidates[0].id == API
    assert select(JobFacts(kind="parse", words=300, api="other"), settings_of()).candidates[0].id == RULES
    assert select(JobFacts(kind="parse", words=300), settings_of()).candidates[0].id == RULES


def test_an_empty_setting_of_an_api_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODEL_KEYWORDS", "")
    assert select(JobFacts(kind="parse", words=300, api="keywords"), settings_of()).candidates[0].id == RULES


def test_a_chat_model_of_an_api_leaves_its_embed_jobs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODEL_KEYWORDS", API)
    found = select(JobFacts(kind="embed", api="keywords"), settings_of())
    assert found.candidates[0].id == "text-embedding-3-small"


@pytest.mark.parametrize(("alias", "model"), [("gpt41-mini", "gpt-4.1-mini"), ("gpt4o-2", "azure-gpt-4o")])
@pytest.mark.parametrize("voice", ["requested_model", "header_model", "api"])
def test_an_alias_is_as_good_as_the_id(alias: str, model: str, voice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if voice == "api":
        monkeypatch.setenv("LLM_MODEL_KEYWORDS", alias)
        facts = JobFacts(kind="parse", api="keywords")
    else:
        facts = JobFacts(kind="parse", **{voice: alias})  # type: ignore[arg-type]
    assert select(facts, settings_of()).candidates[0].id == model


@pytest.mark.parametrize("voice", ["requested_model", "header_model", "api"])
@pytest.mark.parametrize("name", ["gpt-5-nano", "GPT-4O", "gpt- 4o", "openai/gpt-4o"])
def test_an_unknown_name_is_refused_with_the_known_ones(voice: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if voice == "api":
        monkeypatch.setenv("LLM_MODEL_KEYWORDS", name)
        facts = JobFacts(kind="parse", api="keywords")
    else:
        facts = JobFacts(kind="parse", **{voice: name})  # type: ignore[arg-type]
    with pytest.raises(UnknownModel, match="is not in the model registry") as refused:
        select(facts, settings_of())
    assert (repr(name) in str(refused.value)) == (voice != "header_model")
    assert "claude-opus-4-1-20250805, claude-sonnet-4-20250514, gpt-3.5-turbo" in str(refused.value)
    assert "text-embedding" not in str(refused.value)


@pytest.mark.parametrize("voice", ["requested_model", "header_model"])
@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("parse", "text-embedding-3-large", "is no chat model"),
        ("generate", "text-embedding-3-small", "is no chat model"),
        ("embed", "gpt-4o", "is no embedding model"),
        ("embed", "gpt41-mini", "is no embedding model"),
    ],
)
def test_a_model_of_the_wrong_kind_is_refused(voice: str, kind: str, name: str, sentence: str) -> None:
    with pytest.raises(UnknownModel, match=sentence):
        select(JobFacts(kind=kind, **{voice: name}), settings_of())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "hostile",
    ["gpt-4o\r\nSet-Cookie: a=b", "\0", "a\x1b[31mred", "\ud800", "x" * 5000 + "END", "gpt-4o; DROP TABLE jobs",
     "'; --", "../../etc/passwd", "{0.__class__}", "%s%n", "\u202egpt-4o"],
)  # fmt: skip
def test_a_hostile_header_is_refused_and_comes_back_short_and_printable(hostile: str) -> None:
    with pytest.raises(UnknownModel) as refused:
        select(JobFacts(kind="parse", header_model=hostile), settings_of())
    sentence = str(refused.value)
    assert sentence.isprintable()
    assert len(sentence) < 500
    assert "END" not in sentence
    sentence.encode()


@pytest.mark.parametrize("name", ["", "balance", "BALANCED", "x" * 5000 + "END", "a\nb"])
def test_an_unknown_strategy_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownStrategy) as refused:
        select(JobFacts(kind="parse"), settings_of(model_selection_strategy=name))
    sentence = str(refused.value)
    assert "known: cost_optimized, balanced, quality_optimized, experimental" in sentence
    assert sentence.isprintable() and len(sentence) < 300


def test_the_jobs_own_strategy_comes_before_the_current_one() -> None:
    found = select(JobFacts(kind="parse", words=300, strategy="quality_optimized"), settings_of())
    assert found.strategy.name == "quality_optimized"
    assert found.candidates[0].id == "claude-sonnet-4-20250514"


def test_the_default_model_speaks_only_where_no_rule_names_one() -> None:
    settings = settings_of(llm_model_default="gpt-4.1-mini")
    assert select(JobFacts(kind="parse", words=300), settings).candidates[0].id == RULES
    balanced = find_strategy("balanced")
    bare = balanced.model_copy(update={"models": {**balanced.models, "parse": {"low": "gpt-4o"}}})
    found = select(JobFacts(kind="parse", words=300), settings, strategies={"balanced": bare})
    assert (found.candidates[0].id, found.reason) == ("gpt-4.1-mini", "default_model")


OPUS = REQUESTED
ALLOWED = [
    # general list, list of the API, the model asked for, whether it may
    ("", "", OPUS, True),
    ("gpt-4o,gpt41-mini", "", "gpt-4o", True),
    ("gpt-4o, gpt41-mini ,", "", "gpt-4.1-mini", True),
    ("gpt-4.1-mini", "", "gpt41-mini", True),
    ("gpt-4o", "", OPUS, False),
    ("gpt-4o", OPUS, OPUS, True),
    ("gpt-4o", OPUS, "gpt-4o", False),
    ("", OPUS, "gpt-4o", False),
    (" , ", "", OPUS, True),
]


@pytest.mark.parametrize("voice", ["requested_model", "header_model"])
@pytest.mark.parametrize(("general", "own", "name", "may"), ALLOWED)
def test_only_allowed_models_may_be_asked_for(
    voice: str, general: str, own: str, name: str, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MODEL_ALLOWED", general)
    monkeypatch.setenv("LLM_MODEL_ALLOWED_KEYWORDS", own)
    facts = JobFacts(kind="parse", api="keywords", **{voice: name})  # type: ignore[arg-type]
    if may:
        assert select(facts, settings_of()).reason == voice
        return
    with pytest.raises(ModelNotAllowed) as refused:
        select(facts, settings_of())
    field = "model" if voice == "requested_model" else "X-LLM-Model"
    allowed = own or general
    assert str(refused.value) == f"{field}: {name} is not allowed for the API keywords; allowed chat models: {allowed}"


def test_a_list_without_a_model_of_the_kind_allows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODEL_ALLOWED", "gpt-4o")
    with pytest.raises(ModelNotAllowed, match="is not allowed; allowed embedding models: none"):
        select(JobFacts(kind="embed", requested_model="text-embedding-3-small"), settings_of())


def test_the_lists_bind_neither_the_rules_nor_an_apis_setting_nor_what_is_not_honoured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLM_MODEL_ALLOWED", "gpt-4")
    assert select(JobFacts(kind="parse", words=300), settings_of()).candidates[0].id == RULES
    asking = JobFacts(kind="parse", words=300, requested_model=REQUESTED, header_model=HEADER)
    assert select(asking, settings_of(override=False, header=False)).candidates[0].id == RULES
    monkeypatch.setenv("LLM_MODEL_KEYWORDS", API)
    assert select(JobFacts(kind="parse", api="keywords"), settings_of()).candidates[0].id == API


@pytest.mark.parametrize("api", ["default", "allowed", "ALLOWED", "allowed_keywords"])
def test_the_variables_that_look_like_an_apis_are_nobodys(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLM_MODEL_DEFAULT", "LLM_MODEL_ALLOWED", "LLM_MODEL_ALLOWED_KEYWORDS"):
        monkeypatch.setenv(name, "gpt-4")
    assert select(JobFacts(kind="parse", words=300, api=api), settings_of()).candidates[0].id == RULES


def test_spaces_around_an_apis_model_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODEL_KEYWORDS", f" {API} ")
    assert select(JobFacts(kind="parse", api="keywords"), settings_of()).candidates[0].id == API


def test_the_environment_is_read_when_the_settings_are_made_and_not_by_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings_of()
    monkeypatch.setenv("LLM_MODEL_KEYWORDS", API)
    assert select(JobFacts(kind="parse", words=300, api="keywords"), made).candidates[0].id == RULES


def test_the_current_strategy_of_the_caller_comes_before_the_environments_and_after_the_jobs() -> None:
    facts = JobFacts(kind="parse", words=300)
    assert select(facts, settings_of(), strategy="experimental").strategy.name == "experimental"
    assert select(facts, settings_of(), strategy=None).strategy.name == "balanced"
    own = JobFacts(kind="parse", words=300, strategy="legacy")
    assert select(own, settings_of(), strategy="experimental").strategy.name == "legacy"
    with pytest.raises(UnknownStrategy):
        select(facts, settings_of(), strategy="gone")
