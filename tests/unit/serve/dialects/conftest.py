"""One index for all tests of dialects, and a client of one server over it.

Tests that use the client share its event loop: `pytestmark = pytest.mark.asyncio(loop_scope="session")`.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.support.dialects import client_of, publish_articles


@pytest.fixture(scope="session")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_articles(tmp_path_factory.mktemp("dialects"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(articles: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(articles) as client:
        yield client
