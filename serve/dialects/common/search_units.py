"""What answers to rerankings say of what they took, as Cohere has it."""

from typing import Any

SEARCH_UNIT = 100
"""Documents that Cohere bills as one search unit."""


def search_units(documents: int) -> int:
    """Count the search units of so many documents."""
    return -(-documents // SEARCH_UNIT)


def cohere_meta(documents: int, tokens: int, version: str) -> dict[str, Any]:
    """Say what reranking so many documents took, as Cohere does. version: of its API."""
    return {
        "api_version": {"version": version},
        "billed_units": {"search_units": search_units(documents)},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
