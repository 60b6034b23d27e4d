"""Indexes of a catalog compute with the models of an index that has replicas of its own, as long as it uses these."""

from dataclasses import replace
from pathlib import Path

from serve.replicas.catalog_replica import CatalogOptions
from serve.replicas.encoder import QueryEncoder
from serve.replicas.ingress import Ingress
from serve.replicas.lent_models import LentModels
from serve.replicas.reranker import Reranker
from serve.replicas.shard import Retriever
from serve.versions.discovery import ServiceSet
from shoal.encoders import load_encoder
from shoal.records import SearchRequest
from shoal.serving.plan import ServingShape
from shoal.settings import CatalogSettings, EncoderSettings, RerankerSettings, ServeSettings
from tests.support.indexes import passages, publish
from tests.support.replicas import HASHING, soon


def services_of(settings: ServeSettings) -> ServiceSet:
    fingerprint = load_encoder(HASHING).fingerprint()
    return ServiceSet(
        ServingShape(fingerprint, 2),
        QueryEncoder(HASHING, fingerprint, 10),
        [Retriever(settings, shard) for shard in (0, 1)],
        Reranker(RerankerSettings(reranker="overlap"), max_waiting=10),
        reranker_kind="overlap",
    )


async def test_indexes_with_the_encoder_of_the_default_index_have_its_models(
    settings: ServeSettings, tmp_path: Path
) -> None:
    folder = tmp_path / "catalog"
    publish(folder / "same", "v1", passages(12, "same"), shards=1)
    publish(folder / "other", "v1", passages(12, "other"), shards=1, encoder="hashing:32")
    of_all = settings.model_copy(update={"encoder": None})  # that of each index
    options = CatalogOptions(of_all, CatalogSettings(catalog=str(folder)), [settings.index])
    services = services_of(settings)
    ingress = Ingress(settings, lambda _: services, catalog=options)
    assert ingress.catalog is not None
    catalog = ingress.catalog.indexes.catalog
    try:
        await ingress.catalog._opening
        await ingress._activation.follow()
        for name in ("same", "other"):
            request = SearchRequest(query="a red fish n0", top_k=9, top_n=1, rerank=True, deadline=soon())
            (answer,) = await ingress.catalog.indexes.engine(name).search([request])
            assert (answer.reranked, answer.results[0].passage.text.split()[-1]) == (True, name)
        async with catalog.use("same", soon()) as same, catalog.use("other", soon()) as other:
            assert same.models.encoder is services.encoder
            assert same.models.reranker is services.reranker
            assert other.models.encoder is not services.encoder

        # Once the default index is answered by other services, their models are others too.
        later = services_of(settings)
        ingress._services = later
        await catalog.look()
        assert [name for name, entry in catalog.entries.items() if entry.engine] == ["other"]
        async with catalog.use("same", soon()) as same:
            assert same.models.encoder is later.encoder
    finally:
        for task in (ingress._sampling, ingress._comparing, ingress._watch):
            task.cancel()
        ingress.catalog.close()


def test_services_with_another_reranker_or_encoder_lend_nothing(settings: ServeSettings) -> None:
    services = services_of(settings)
    encoder = services.shape.encoder
    lend = LentModels(lambda: [None, services], "overlap")
    lent = lend(encoder)
    assert lent is not None
    assert lent.services is services
    assert lend(encoder) is lent
    assert lend(load_encoder(EncoderSettings(encoder="hashing:32")).fingerprint()) is None
    assert LentModels(lambda: [replace(services, service_settings={"reranker": "none"})], "overlap")(encoder) is None
    assert LentModels(lambda: [None], "overlap")(encoder) is None
