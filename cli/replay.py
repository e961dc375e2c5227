"""`paymaster replay`: what the same jobs would cost under each strategy, without calling anyone.

A generation is one posting: a parse job, and a generate job on the same posting. Input tokens are counted on the very
requests that workers would send, with the tokenizer of the model's entry (Claude's is not public: cl100k_base stands in
for it). Answers cannot be known; every one is taken to have the size given, whatever the model. The default sizes are
those of the simulator's answers to 64 real postings: 394 to 432 and 618 to 713 tokens on average, depending on the
model. No call fails, and nothing is read from a provider's cache.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from budget.money import Usage, nano_to_usd
from cli import output
from cli.inputs import generate_fields, parse_fields, records
from cli.output import console, print_json
from db.environment import read_settings
from selection.registry import Model, load_registry
from selection.select import select
from selection.settings import SelectionSettings
from selection.strategies import find_strategy, load_strategies
from worker.errors import InvalidJob
from worker.kind import JobKind, Request
from worker.tokens import count_tokens


@dataclass
class Total:
    """What all jobs take under one strategy or on one model. Cost in nano-USD."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    models: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Replayed:
    """One job: its kind and its payload, without a strategy or a model."""

    kind: JobKind
    payload: Any


def read_jobs(paths: list[str], artifacts: list[Any], preferences: dict[str, Any]) -> tuple[list[Replayed], int]:
    """A parse and a generate job per posting; what cannot be a job is named on standard error and counted."""
    from tasks.kinds import Generate, Parse

    jobs: list[Replayed] = []
    refused = 0
    for where, content in records(paths):
        for single in content if isinstance(content, list) else [content]:
            # what can be generated from holds the posting one level deeper
            posting = single["job_data"] if isinstance(single, dict) and "job_data" in single else single
            try:
                parse = Parse().payload(parse_fields(where, posting))
                generate = Generate().payload(generate_fields(where, single, artifacts, preferences))
            except InvalidJob as error:
                refused += 1
                output.errors.print(f"paymaster: {where}: {error}", highlight=False, markup=False)
                continue
            jobs += [Replayed(Parse(), parse), Replayed(Generate(), generate)]
    return jobs, refused


class Replay:
    """Prices jobs; each text is counted once per tokenizer."""

    def __init__(self, jobs: list[Replayed], answers: dict[str, int]) -> None:
        self.jobs = jobs
        self.answers = answers
        self.settings = read_settings(SelectionSettings)
        self._counted: dict[tuple[str, str], int] = {}

    def total(self, name: str) -> Total:
        """All jobs under the strategy of that name, or on the model of that name."""
        total = Total()
        for job in self.jobs:
            model = self._model(job, name)
            request = self._request(job, model)
            # a schema that the prompt holds already is not sent beside it
            texts = request.texts[:2] if model.json_by in ("object", "prompt") else request.texts
            usage = Usage(self._count(texts, model), min(self.answers[job.kind.name], request.max_tokens))
            total.input_tokens += usage.input
            total.output_tokens += usage.output
            total.cost += model.rates.cost(usage)
            total.models[model.id] += 1
        return total

    def _model(self, job: Replayed, name: str) -> Model:
        if name not in load_strategies():
            return load_registry().resolve(name, "chat")
        plain = {"strategy": name, "model": None, "x_llm_model": None, "api": None}
        facts = job.kind.facts(job.payload.model_copy(update=plain))

        def most_input(model: Model) -> int:
            provider = load_registry().provider_of(model)
            return provider.most_input(self._count(self._request(job, model).texts, model))

        return select(facts, self.settings, count=most_input).candidates[0]

    def _request(self, job: Replayed, model: Model) -> Request:
        (request,) = job.kind.requests(job.payload, model)
        return request

    def _count(self, texts: list[str], model: Model) -> int:
        for text in texts:
            if (model.tokenizer, text) not in self._counted:
                self._counted[model.tokenizer, text] = count_tokens(text, model.tokenizer)
        return sum(self._counted[model.tokenizer, text] for text in texts)


def rows_of(replay: Replay, names: list[str], against: str) -> list[dict[str, Any]]:
    """One row per name; costs in USD for 1000 generations, savings as shares of what `against` costs."""
    totals = {name: replay.total(name) for name in dict.fromkeys((*names, against))}
    generations = len(replay.jobs) // 2
    return [
        {
            "name": name,
            "generations": generations,
            "input_tokens_per_generation": round(total.input_tokens / generations),
            "output_tokens_per_generation": round(total.output_tokens / generations),
            "tokens_per_generation": round((total.input_tokens + total.output_tokens) / generations),
            "usd_per_1000_generations": nano_to_usd(total.cost * 1000 // generations),
            "saving": round(1 - total.cost / totals[against].cost, 4) if totals[against].cost else None,
            "models": dict(total.models),
        }
        for name, total in totals.items()
    ]


def run_replay(
    paths: list[str],
    *,
    strategies: list[str],
    models: list[str],
    against: str,
    artifacts: list[Any],
    preferences: dict[str, Any],
    answers: dict[str, int],
    as_json: bool,
) -> int:
    """Price and print. Exit status 1 if a posting was refused or there is none."""
    for strategy in strategies:
        find_strategy(strategy)
    for model in (*models, *([] if against in load_strategies() else [against])):
        load_registry().resolve(model, "chat")
    names = [*strategies, *models] or [*load_strategies()]
    jobs, refused = read_jobs(paths, artifacts, preferences)
    if not jobs:
        output.errors.print("paymaster: there is no posting to replay", highlight=False)
        return 1
    rows = rows_of(Replay(jobs, answers), names, against)
    if as_json:
        print_json({"against": against, "answer_tokens": answers, "rows": rows})
        return 1 if refused else 0
    # names of models fold where there is no room for them; `--json` has them all
    shown = 7 if console.width >= output.WIDE else 6
    columns = ("strategy or model", "tokens", "input", "output", "USD per 1000", f"saving against {against}", "models")[
        :shown
    ]
    table = [
        (
            row["name"], row["tokens_per_generation"], row["input_tokens_per_generation"],
            row["output_tokens_per_generation"], f"{row['usd_per_1000_generations']:,.2f}",
            "-" if row["saving"] is None else f"{row['saving']:.1%}",
            ", ".join(f"{model} {count}" for model, count in row["models"].items()),
        )[:shown]
        for row in rows
    ]  # fmt: skip
    generations = rows[0]["generations"]
    console.print(output.table(f"{generations} generations, replayed", columns, table, right=columns[1:6]))
    console.print(
        f"A generation is a parse and a generate job on one posting; answers are taken to have {answers['parse']} and "
        f"{answers['generate']} tokens. Nobody was called.",
        highlight=False,
    )
    return 1 if refused else 0
