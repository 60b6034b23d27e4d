import threading
from collections.abc import Sequence

import numpy as np
import pytest

from jobs.build.embedding import Busy
from jobs.build.tasks import BusyEncoder
from shoal.encoders import load_encoder
from shoal.records import FloatArray
from shoal.settings import EncoderSettings


def test_workers_are_counted_from_their_first_unit_to_the_end_of_their_last() -> None:
    busy = Busy()
    busy.add("a", 100.0, 104.0, 4.0)
    busy.add("b", 100.0, 105.0, 2.5)
    busy.add("a", 103.0, 110.0, 5.0)  # read while the first was encoded
    assert busy.shares() == pytest.approx([0.5, 0.9])
    assert Busy().shares() == []


def test_one_thread_encodes_at_a_time() -> None:
    inside: list[str] = []

    class Encoder:
        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            inside.append("in")
            release.wait(0.05)
            inside.append("out")
            return np.zeros((len(texts), 2), np.float32)

    release = threading.Event()
    encoder = BusyEncoder(Encoder())  # type: ignore[arg-type]
    threads = [threading.Thread(target=encoder.encode_passages, args=(["a"],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == ["in", "out"] * 3
    assert encoder.busy_s == 0  # of this thread


def test_all_is_encoded_in_one_thread_of_the_encoder_whoever_asks() -> None:
    """A thread of Ray's that has run OpenVINO crashes its worker when it ends."""
    threads: set[threading.Thread] = set()

    class Encoder:
        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            threads.add(threading.current_thread())
            return np.zeros((len(texts), 2), np.float32)

    encoder = BusyEncoder(Encoder())  # type: ignore[arg-type]
    asking = [threading.Thread(target=encoder.encode_passages, args=(["a"],)) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(threads) == 1
    assert not threads & {*asking, threading.main_thread()}


def test_texts_that_were_read_to_the_limit_are_counted_for_the_thread_that_asked() -> None:
    encoder = BusyEncoder(load_encoder(EncoderSettings(encoder="hashing:8", max_length=8)))
    long = threading.Thread(target=encoder.encode_passages, args=(["word " * 9] * 7,))
    long.start()
    long.join()
    encoder.encode_passages(["word " * 8, "word " * 4, "word " * 9])
    assert encoder.full_texts == 2
