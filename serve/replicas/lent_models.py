"""The models of the indexes that have replicas of their own, for those of a catalog with the same encoder. No Ray."""

import threading
from collections.abc import Callable, Iterable

from serve.versions.discovery import EncoderServer, RerankServer, ServiceSet
from shoal.fingerprint import Fingerprint
from shoal.records import ScoreScale


class ServiceModels:
    """The models of services, as `shoal.search.services.SearchModels`.

    Args:
        services: Whose models they are.
    """

    def __init__(self, services: ServiceSet) -> None:
        self.services = services
        """Whose models they are."""
        self.fingerprint: Fingerprint = services.shape.encoder
        self.encoder: EncoderServer = services.encoder
        self.reranker: RerankServer | None = services.reranker
        self.reranker_kind: str | None = services.reranker_kind
        self.reranker_scale: ScoreScale | None = services.reranker_scale

    def close(self) -> None:
        """Do nothing: they belong to others."""


class LentModels:
    """Lends models of services, those of one set always as the same object.

    Args:
        services: Gives those that are in use now.
        reranker: The reranker that is wanted; services with another one lend nothing.
    """

    def __init__(self, services: Callable[[], Iterable[ServiceSet | None]], reranker: str) -> None:
        self._services = services
        self._reranker = reranker
        self._lock = threading.Lock()
        self._models: list[ServiceModels] = []

    def __call__(self, encoder: Fingerprint) -> ServiceModels | None:
        """Return models of services in use whose encoder gives the same vectors; None without any. In any thread."""
        in_use = [services for services in self._services() if services is not None and self._has_reranker(services)]
        with self._lock:
            known = {id(models.services): models for models in self._models}
            self._models = [known.get(id(services)) or ServiceModels(services) for services in in_use]
            return next((models for models in self._models if models.fingerprint.matches(encoder)), None)

    def _has_reranker(self, services: ServiceSet) -> bool:
        return bool(services.service_settings.get("reranker", self._reranker) == self._reranker)
