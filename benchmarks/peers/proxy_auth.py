"""The keys of a litellm proxy without a database: `sk-BUDGET-NAME` is the key NAME with so many nano-USD to spend."""

from fastapi import Request
from litellm.proxy._types import UserAPIKeyAuth


async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Who it is, and what it may spend."""
    budget, name = api_key.removeprefix("sk-").split("-")
    return UserAPIKeyAuth(api_key=api_key, token=f"hashed-{name}", max_budget=int(budget) / 1e9, spend=0.0)
