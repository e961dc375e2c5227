"""`litellm.Router` with `provider_budget_config`; its processes share through Redis what was spent."""

import asyncio
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.router import Router
from litellm.types.utils import BudgetConfig

from benchmarks.peers.calls import MAX_TOKENS, my_share, play


async def main() -> None:
    """Make this process' calls."""
    share = my_share()
    models = [share.model, *([share.fallback] if share.fallback else [])]
    router = Router(
        model_list=[
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_base": f"{share.simulator}/v1",
                    "api_key": "simulated",
                    "max_retries": 0,
                },
            }
            for name in models
        ],
        provider_budget_config={"openai": BudgetConfig(budget_limit=share.budget_usd, time_period="1d")},
        redis_host="127.0.0.1",
        redis_port=share.redis_port,
        fallbacks=[{share.model: [share.fallback]}] if share.fallback else [],
        num_retries=0,
        disable_cooldowns=True,
    )
    # the class wants litellm's own types; its documentation gives plain dicts
    messages: Any = share.messages
    await play(share, lambda: router.acompletion(share.model, messages, max_tokens=MAX_TOKENS))


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    asyncio.run(main())
