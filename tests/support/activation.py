"""An activation over fake shards."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.versions.activation import Activation
from shoal.errors import DeadlineExceeded
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.serving.plan import ServingShape


class FakeControl:
    """A shard whose replicas load what they are told to, unless `fails` holds an error for the version."""

    def __init__(self, log: list[str], now: Callable[[], float] = lambda: 0.0) -> None:
        self._now = now
        self.patience_s = 0.0
        self.loaded: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.tries = 0
        self.busy = False
        self.meanwhile: Callable[[], object] = lambda: None
        self._log = log

    async def prepare(self, version: str, deadline: float) -> None:
        self.tries += 1
        self.patience_s = deadline - self._now()
        await asyncio.sleep(0)
        self.meanwhile()
        if version in self.fails:
            raise self.fails[version]
        self.loaded.append(version)
        self._log.append(f"prepare {version}")

    async def retire(self, keep: Sequence[str], deadline: float) -> None:
        self.loaded = [version for version in self.loaded if version in keep]
        self._log.append(f"retire all but {' '.join(keep)}")

    async def holds(self, version: str, deadline: float) -> bool:
        if self.busy:
            raise DeadlineExceeded("shard-00000 had not answered")
        return version in self.loaded


@dataclass(eq=False)
class FakeServices:
    """Shards that serve versions of one shape."""

    shape: ServingShape
    shards: list[FakeControl]


class Server:
    """An activation over fake shards, and what it did, in order. `beside` are the other replicas that there are."""

    def __init__(self, root: Path, shards: int = 2, expected: Manifest | None = None) -> None:
        self.log: list[str] = []
        self.time = 1000.0
        self.storage = Storage(str(root))
        self.shards = [FakeControl(self.log, lambda: self.time) for _ in range(shards)]
        self.counts: list[int] = []
        self.beside: list[FakeServices] = []
        self.find: Callable[[], list[FakeServices]] = lambda: self.beside
        manifest = expected or versions.read_manifest(self.storage, versions.list_versions(self.storage)[0])
        services = FakeServices(ServingShape(manifest.encoder, shards), self.shards) if shards else None
        self.activation = Activation(self.storage, services, self._switch, self._find, lambda: self.time)

    def _switch(self, services: FakeServices, manifest: Manifest, absent: Sequence[int]) -> None:
        self.log.append(f"switch {manifest.version}" + "".join(f" without {shard}" for shard in absent))
        self.counts = [shard.count for shard in manifest.shards]
        self.shards = services.shards

    async def _find(self, shape: ServingShape, in_use: FakeServices | None) -> FakeServices | None:
        return next((services for services in self.find() if services.shape.fits(shape)), None)

    @property
    def current(self) -> str:
        current = versions.read_current(self.storage)
        assert current is not None
        return current.version
