"""A catalog of three indexes, one for each name, and how tests ask them."""

import time

from shoal.catalog.catalog import Catalog
from shoal.records import SearchRequest

NAMES = ("birds", "fish", "otters")
"""Names of the indexes of the folder that the tests of catalogs share."""


def soon() -> float:
    return time.monotonic() + 30


def request(query: str) -> SearchRequest:
    return SearchRequest(query=query, top_k=5, top_n=1, rerank=False, deadline=soon())


def loaded(catalog: Catalog) -> list[str]:
    return sorted(name for name, entry in catalog.entries.items() if entry.engine is not None)
