"""What tests of replicas share."""

import time

from shoal.settings import EncoderSettings

HASHING = EncoderSettings(encoder="hashing:64")


def soon() -> float:
    return time.monotonic() + 30
