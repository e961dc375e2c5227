"""A client of the litellm proxy. A call whose connection breaks is made again, as the product's own retry would."""

import asyncio

import aiohttp

from benchmarks.peers.calls import MAX_TOKENS, my_share, play

AGAIN_AFTER_S = 0.2


async def main() -> None:
    """Make this process' calls."""
    share = my_share()
    body = {"model": share.model, "messages": share.messages, "max_tokens": MAX_TOKENS}
    headers = {"Authorization": f"Bearer {share.key}"}
    url = f"{share.server}/v1/chat/completions"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def call() -> None:
            while True:
                try:
                    async with session.post(url, json=body, headers=headers) as answer:
                        text = await answer.text()
                        if answer.status != 200:
                            raise PermissionError(f"{answer.status} {text}")
                        return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(AGAIN_AFTER_S)

        await play(share, call)


if __name__ == "__main__":
    asyncio.run(main())
