"""What a server of an index needs, worked out and checked before anything is started."""

from dataclasses import dataclass

from shoal.encoders import is_weightless, load_encoder
from shoal.encoders._absent import is_absent
from shoal.errors import EncoderMismatch, InvalidArgument, ModelUnavailable
from shoal.fingerprint import Fingerprint
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.inference import models
from shoal.inference.names import is_remote
from shoal.records import ScoreScale
from shoal.rerankers import kind_over, rerankers, scale_of
from shoal.search.blend_model import read_blend
from shoal.search.learned_blend import check_blend
from shoal.settings import EncoderSettings, RerankerSettings, ServeSettings
from shoal.system.machine import usable_cores

NO_RERANKER = "none"
"""The name by which a server has no second stage."""
MOST_THREADS = 8
"""Threads that a model gets by default at most: batches of a few dozen texts do not fill more cores."""


@dataclass(frozen=True, slots=True)
class ServingShape:
    """What the versions have in common that one set of replicas can serve: how queries are encoded, how many shards."""

    encoder: Fingerprint
    shards: int

    @classmethod
    def of(cls, manifest: Manifest) -> "ServingShape":
        """The shape of a version."""
        return cls(manifest.encoder, len(manifest.shards))

    def fits(self, other: "ServingShape") -> bool:
        """Whether replicas for versions of one shape can serve versions of the other."""
        return self.shards == other.shards and self.encoder.matches(other.encoder)

    def __str__(self) -> str:
        return f"{self.shards} shard{'s' if self.shards > 1 else ''} of {self.encoder.model}"


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """A version, and the models that serve it.

    Args:
        manifest: Of the version.
        encoder: Settings of the encoder of queries.
        reranker: Settings of the reranker, None for stage one alone.
        reranker_kind: The kind of the reranker, found out here because a folder of jobs.train_reranker has to be read
            for it; None without a reranker.
        reranker_scale: Where its scores lie, found out here too.
    """

    manifest: Manifest
    encoder: EncoderSettings
    reranker: RerankerSettings | None
    reranker_kind: str | None
    reranker_scale: ScoreScale | None = None


def plan_serving(settings: ServeSettings, version: str | None = None) -> ServingPlan:
    """Decide how a version is served, or else the current one, and check all that takes seconds. Loads no model.

    Raises NotFound when there is nothing to serve, CorruptIndex for a damaged manifest, EncoderMismatch for another
    encoder than the index was built with, ModelUnavailable for a model that is not to be had, InvalidArgument.
    """
    if settings.reranker_min_replicas > settings.reranker_max_replicas:
        raise InvalidArgument(
            f"reranker_min_replicas ({settings.reranker_min_replicas}) is above reranker_max_replicas "
            f"({settings.reranker_max_replicas}); raise the second or lower the first",
            param="reranker_min_replicas",
        )
    storage = Storage(settings.index)
    manifest = versions.read_manifest(storage, version) if version else versions.current_manifest(storage)
    _check_address(settings, manifest.encoder)
    encoder = settings.part(
        EncoderSettings,
        **manifest.encoder.options | _where_models_lie(settings, manifest.encoder),
        threads=encoder_threads(settings),
    )
    try:
        _check_weights(encoder, manifest.encoder)
    except ModelUnavailable as error:
        if settings.encoder is not None:
            raise
        raise ModelUnavailable(
            f"the encoder that the index was built with is not on this machine: {error.message}; set encoder to where "
            "the same model lies here",
            param="encoder",
        ) from error
    reranker = _reranker(settings, encoder)
    if settings.blend is not None:
        check_blend(read_blend(settings.blend), manifest, reranker.reranker if reranker else None)
    if reranker is None:
        return ServingPlan(manifest, encoder, None, None)
    kind, scale = kind_over(reranker.reranker, manifest.encoder), scale_of(reranker.reranker)
    return ServingPlan(manifest, encoder, reranker, kind, scale)


def _where_models_lie(settings: ServeSettings, expected: Fingerprint) -> dict[str, str]:
    """The models that the settings name in the place of those that a version was built with, of those that it has."""
    named = {
        "encoder": settings.encoder,
        "sparse_encoder": settings.sparse_encoder if expected.sparse else None,
        "late_encoder": settings.late_encoder if expected.late else None,
    }
    return {option: name for option, name in named.items() if name is not None}


def reads_seldom(settings: ServeSettings, manifest: Manifest) -> bool:
    """Whether the token vectors that the shards of a version hold rerank where a request asks for no more than that."""
    late = settings.reranker == "late_interaction" and manifest.late is not None
    return late and settings.stored_tokens and settings.shortlist is None


def encoder_threads(settings: ServeSettings) -> int:
    """Threads of each encoder of a server."""
    return settings.encoder_threads or _share_of_cores(settings.encoder_replicas or settings.ingress_replicas)


def check_encoder(fingerprint: Fingerprint, expected: Fingerprint) -> None:
    """Raise EncoderMismatch, naming both, unless vectors of the two encoders may be compared."""
    if not fingerprint.matches(expected):
        raise EncoderMismatch(
            f"the index was built with the encoder {expected}, this server would encode queries with {fingerprint}; "
            "serve it with the encoder that it was built with, or build it again"
        )


def _check_address(settings: ServeSettings, expected: Fingerprint) -> None:
    """Raise InvalidArgument for an endpoint that the index alone names: it would get all queries, and a key."""
    address = expected.options["encoder"]
    if settings.encoder is None and is_remote(address):
        raise InvalidArgument(
            f"the encoder of this index is the endpoint {address}; set encoder to it, or to where the same model is, "
            "if queries and the key of that endpoint may be sent there",
            param="encoder",
        )


def _check_weights(settings: EncoderSettings, expected: Fingerprint) -> None:
    # Comparing the digest of the weights takes a fraction of a second, loading them several. What else belongs to a
    # fingerprint is compared by every encoder replica when it starts.
    if not is_weightless(settings.encoder):
        location = models.resolve(settings.encoder)
        if location.digest(location.fetch()) == expected.weights:
            return
    # Models beside it, which take seconds, are compared when they are loaded to search.
    alone = settings.model_copy(update={"sparse_encoder": None, "late_encoder": None})
    check_encoder(load_encoder(alone).fingerprint(), expected.model_copy(update={"sparse": None, "late": None}))


def _reranker(settings: ServeSettings, encoder: EncoderSettings) -> RerankerSettings | None:
    if settings.reranker == NO_RERANKER:
        return None
    if settings.reranker not in rerankers() and not is_remote(settings.reranker):
        models.resolve(settings.reranker).fetch()
    # Late interaction reads passages as the index did; a cross-encoder has a limit of its own, for pairs.
    late = settings.reranker == "late_interaction"
    if late and encoder.late_encoder is None and (is_absent(encoder.encoder) or is_remote(encoder.encoder)):
        return None  # there are no vectors of tokens
    return settings.part(
        RerankerSettings,
        encoder=encoder.encoder,
        max_length=encoder.max_length if late else None,
        dimensions=encoder.dimensions if late else None,
        passage_tokens=encoder.passage_tokens if late else 0,
        query_instruction=encoder.query_instruction if late else None,
        late_encoder=encoder.late_encoder if late else None,
        threads=settings.reranker_threads or _share_of_cores(settings.reranker_max_replicas),
    )


def _share_of_cores(replicas: int) -> int:
    """Threads of each of so many replicas by default."""
    return max(1, min(MOST_THREADS, usable_cores() // replicas))
