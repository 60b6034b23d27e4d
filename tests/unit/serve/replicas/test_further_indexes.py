"""An ingress replica of several indexes: what it lacks and what is noted is told of each by its name."""

from pathlib import Path

import pytest

from serve.replicas.ingress import FurtherIndex, Ingress
from serve.versions.discovery import find_no_services
from shoal.errors import NotFound
from shoal.settings import ServeSettings
from tests.support.indexes import passages, publish
from tests.support.replicas import soon


async def test_each_index_has_an_engine_and_problems_of_its_own(settings: ServeSettings, tmp_path: Path) -> None:
    publish(tmp_path / "birds", "v1", passages(12))
    birds = settings.model_copy(update={"index": str(tmp_path / "birds")})
    ingress = Ingress(settings, None, further=[FurtherIndex(birds, find_no_services)])
    assert list(ingress.engines)[1:] == ["birds"]
    assert ingress.engines["birds"]._admission is ingress._admission
    loading = "the index version is being loaded"
    assert await ingress.ready() == [loading, f"birds: {loading}"]
    await ingress.note("it cannot be compacted", soon(), "birds")
    problems = [engine.noted_problem() for engine in ingress.engines.values()]
    assert problems == [None, "it cannot be compacted"]
    with pytest.raises(NotFound):
        await ingress.note("it cannot be compacted", soon(), "nothing")
    for task in (ingress._sampling, ingress._comparing, *(engine._watch for engine in ingress.engines.values())):
        task.cancel()
