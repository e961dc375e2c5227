"""How many tokens a request can be at most. Counted with the model's tokenizer where it is public; the
provider's margin covers what is not known. Counting runs at about 15 MB/s and needs no network: litellm
carries the tokenizers' data, which is used here without importing litellm."""

import os
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import tiktoken

from db.once import once_per_process
from selection.registry import Model, Provider

# Texts are cut into chunks, so that the time is linear whatever the text. A cut changes the count by a token or so,
# which the margin covers.
CHUNK_CHARS = 4096
MOST_REMEMBERED = 512


def litellm_folder() -> Path:
    """Where litellm is installed, found without the seconds that importing it takes."""
    litellm = find_spec("litellm")
    if litellm is None or litellm.origin is None:
        raise ModuleNotFoundError("litellm is not installed")
    return Path(litellm.origin).parent


@once_per_process
def encodings() -> dict[str, tiktoken.Encoding]:
    """The tokenizers by name; half a second of loading."""
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(litellm_folder() / "litellm_core_utils" / "tokenizers"))
    return {name: tiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base")}


def count_tokens(text: str, tokenizer: str) -> int:
    """Tokens of a text."""
    chunks = (text[start : start + CHUNK_CHARS] for start in range(0, len(text), CHUNK_CHARS))
    return sum(_count(chunk, tokenizer) for chunk in chunks)


# prompts and schemas are the same in all jobs of a kind, and a job is counted twice: to select, and to reserve
@lru_cache(MOST_REMEMBERED)
def _count(chunk: str, tokenizer: str) -> int:
    return len(encodings()[tokenizer].encode_ordinary(chunk))


def most_input_tokens(texts: Iterable[str], model: Model, provider: Provider) -> int:
    """No provider counts more input tokens than this for a request made of these texts."""
    counted = sum(count_tokens(text, model.tokenizer) for text in texts)
    return provider.most_input(counted)
