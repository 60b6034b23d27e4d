"""What takes minutes, or cores that nothing else keeps busy, runs with SHOAL_LONG_TESTS=1 only."""

import os

import pytest

LONG = os.environ.get("SHOAL_LONG_TESTS") == "1"
only_long = pytest.mark.skipif(not LONG, reason="runs with SHOAL_LONG_TESTS=1")
