"""`litellm.BudgetManager` as its page has it: ask what was spent, call, add what it cost. It keeps a file in the
working folder, which the processes share."""

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.budget_manager import BudgetManager

from benchmarks.peers.calls import MAX_TOKENS, my_share, play

USER = "everybody"


async def main() -> None:
    """Make this process' calls."""
    share = my_share()
    manager = BudgetManager(project_name="benchmark", client_type="local")
    if not manager.is_valid_user(USER):
        manager.create_budget(total_budget=share.budget_usd, user=USER)

    async def call() -> None:
        for name in (share.model, share.fallback):
            if manager.get_current_cost(USER) > manager.get_total_budget(USER):  # type: ignore[no-untyped-call]  # litellm has no types here
                raise PermissionError("over budget")
            try:
                answer = await litellm.acompletion(
                    f"openai/{name}", share.messages, max_tokens=MAX_TOKENS, max_retries=0,
                    api_base=f"{share.simulator}/v1", api_key="simulated",
                )  # fmt: skip
            except Exception:
                if name == share.model and share.fallback:
                    continue
                raise
            manager.update_cost(completion_obj=answer, user=USER)
            return

    await play(share, call)


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    asyncio.run(main())
