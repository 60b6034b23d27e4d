"""A server with the settings that it has by default."""

import pytest

from tests.support.api_server import Server


@pytest.fixture
def server() -> Server:
    return Server()
