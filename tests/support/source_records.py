"""What tests of input formats share."""

from collections.abc import Callable

from tests.support.reading import Reading

Read = Callable[..., Reading]


GOOD = {"id": "good", "text": "a good passage"}
