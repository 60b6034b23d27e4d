"""Models that the engines of one process share: each is loaded once, whichever index needs it first."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakSet

from shoal.encoders import Encoder, load_encoder
from shoal.engine.models import load_models
from shoal.fingerprint import Fingerprint
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.indexing.first_encoder import FirstEncoder, describe_first
from shoal.rerankers import load_reranker
from shoal.search.local import LocalModels, LocalReranker
from shoal.search.services import SearchModels
from shoal.serving.plan import ServingPlan, plan_serving
from shoal.settings import CreateSettings, EncoderSettings, RerankerSettings, ServeSettings
from shoal.system.threads import Threads

ENCODES_ITSELF = "late_interaction"
"""The reranker that computes with the encoder of its index, so that it is shared with that."""
Lender: TypeAlias = Callable[[Fingerprint], SearchModels | None]
"""Gives the models of others for an encoder; None if they have none for it."""


@dataclass(slots=True)
class _Shared:
    """Models of indexes with one encoder. uses: engines that have them now. unused_since: by the clock of the pool."""

    loading: threading.Lock = field(default_factory=threading.Lock)
    models: LocalModels | None = None
    uses: int = 0
    unused_since: float = 0.0


class ModelPool:
    """A `ModelSource` for several engines, all with the same settings but for their index roots. For any threads.

    Indexes with the same encoder have the same models; a reranker that computes without the encoder is one for all.

    Args:
        clock: Seconds from any start.
        lend: Gives the models of others for an encoder, always the same ones as long as they may be used; None for an
            encoder that others have none of, which is loaded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, lend: Lender = lambda encoder: None) -> None:
        self._clock = clock
        self._lend = lend
        self._lent = WeakSet[SearchModels]()
        self._lock = threading.Lock()
        self._shared: dict[str, _Shared] = {}
        self._naming = threading.Lock()
        self._named: dict[str, FirstEncoder] = {}
        self._spare: dict[str, tuple[Encoder, float]] = {}
        self._reranking = threading.Lock()
        self._rerankers: dict[str, tuple[LocalReranker, Threads]] = {}

    def take(self, settings: ServeSettings, version: str) -> SearchModels:
        """Return the models for a version of an index root, loading what is not loaded yet, and nobody lends.

        Raises what `plan_serving` and `load_models` raise.
        """
        encoder = versions.read_manifest(Storage(settings.index), version).encoder
        if (lent := self._lend(encoder)) is not None:
            self._lent.add(lent)
            return lent
        fingerprint = _key(encoder)
        with self._lock:
            shared = self._shared.setdefault(fingerprint, _Shared())
            shared.uses += 1
        try:
            with shared.loading:  # whoever comes meanwhile waits, and finds them
                if shared.models is None:
                    shared.models = self._load(plan_serving(settings, version), settings, self._take_spare(fingerprint))
                return shared.models
        except BaseException:
            self._leave(shared)
            raise

    def may_be_used(self, models: SearchModels) -> bool:
        """Whether models that were taken may still be used, as those that others lend may not be at some time."""
        return models not in self._lent or self._lend(models.fingerprint) is models

    def give_back(self, models: SearchModels) -> None:
        """Let go of models; they stay loaded until `drop_unused`. After `close` it does nothing."""
        with self._lock:
            shared = next((shared for shared in self._shared.values() if shared.models is models), None)
        if shared is not None:
            self._leave(shared)

    def first_encoder(self, settings: CreateSettings) -> FirstEncoder:
        """Tell what a new index has to know of its encoder.

        That is loaded the first time, and kept for the first index with it that takes models. Settings that name the
        same encoder are the same. Raises what loading it raises, and what `describe_first` raises.
        """
        with self._naming:
            if settings.encoder not in self._named:
                encoder = load_encoder(settings.part(EncoderSettings))
                first = self._named[settings.encoder] = describe_first(settings, encoder)
                with self._lock:
                    key = _key(first.fingerprint)
                    shared = self._shared.get(key)
                    if shared is None or shared.models is None:
                        self._spare[key] = encoder, self._clock()
            return self._named[settings.encoder]

    def _take_spare(self, fingerprint: str) -> Encoder | None:
        with self._lock:
            spare = self._spare.pop(fingerprint, None)
        return None if spare is None else spare[0]

    def drop_unused(self, idle_s: float) -> None:
        """Close models that no engine has had for so many seconds. Rerankers that are shared by all stay."""
        before = self._clock() - idle_s
        with self._lock:
            idle = [key for key, shared in self._shared.items() if not shared.uses and shared.unused_since <= before]
            dropped = [self._shared.pop(key) for key in idle]
            self._spare = {key: spare for key, spare in self._spare.items() if spare[1] > before}
        for shared in dropped:
            if shared.models is not None:
                shared.models.close()

    def close(self) -> None:
        """Close all models. No engine may use them any more."""
        with self._lock:
            shared, self._shared = list(self._shared.values()), {}
            rerankers, self._rerankers = list(self._rerankers.values()), {}
            self._spare.clear()
        for each in shared:
            if each.models is not None:
                each.models.close()
        for _, threads in rerankers:
            threads.close()

    def _leave(self, shared: _Shared) -> None:
        with self._lock:
            shared.uses -= 1
            shared.unused_since = self._clock()

    def _load(self, plan: ServingPlan, settings: ServeSettings, encoder: Encoder | None) -> LocalModels:
        reranker = plan.reranker
        if reranker is None or reranker.reranker == ENCODES_ITSELF:
            return load_models(plan, settings, loaded_encoder=encoder)
        return load_models(plan, settings, self._reranker(reranker, settings), encoder)

    def _reranker(self, reranker: RerankerSettings, settings: ServeSettings) -> LocalReranker:
        key = reranker.model_dump_json(exclude={"encoder"})  # which it does not compute with
        with self._reranking:
            if key not in self._rerankers:
                threads = Threads(1, "reranker")
                self._rerankers[key] = LocalReranker(load_reranker(reranker), threads, settings.max_waiting), threads
            return self._rerankers[key][0]


def _key(encoder: Fingerprint) -> str:
    """What the models of indexes have in common that share them."""
    return encoder.model_dump_json()
