"""Haystack's adapters for Cohere, Jina, TEI, OpenAI and Pinecone."""

import os
import time

from calls import BEST, DIMENSION, DOCUMENTS, ENCODER, QUERY, RERANKER, Server, call, run
from haystack import Document
from haystack.utils import Secret


def documents() -> list[Document]:
    return [Document(content=text) for text in DOCUMENTS]


@call("cohere-haystack", "`CohereRanker`", "`run`")
def cohere_ranker(server: Server) -> None:
    from haystack_integrations.components.rankers.cohere import CohereRanker

    ranker = CohereRanker(top_k=2, api_key=Secret.from_token(server.key), api_base_url=server.url)
    assert [document.content for document in ranker.run(QUERY, documents())["documents"]] == BEST


@call("jina-haystack", "`JinaRanker`", "`run`")
def jina_ranker(server: Server) -> None:
    from haystack_integrations.components.rankers.jina import JinaRanker

    ranker = JinaRanker(RERANKER, Secret.from_token(server.key), top_k=2, base_url=f"{server.url}/v1/rerank")
    assert [document.content for document in ranker.run(QUERY, documents())["documents"]] == BEST


@call("huggingface-api-haystack", "`HuggingFaceTEIRanker`", "`run`")
def tei_ranker(server: Server) -> None:
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    ranker = HuggingFaceTEIRanker(url=server.url, top_k=2, token=Secret.from_token(server.key))
    assert [document.content for document in ranker.run(QUERY, documents())["documents"]] == BEST


@call("haystack-ai", "`OpenAITextEmbedder`, `OpenAIDocumentEmbedder`", "`run`")
def openai_embedders(server: Server) -> None:
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder

    key = Secret.from_token(server.key)
    query = OpenAITextEmbedder(api_key=key, model=f"{ENCODER}:query", api_base_url=f"{server.url}/v1").run(QUERY)
    assert len(query["embedding"]) == DIMENSION
    embedder = OpenAIDocumentEmbedder(api_key=key, model=ENCODER, api_base_url=f"{server.url}/v1")
    made = embedder.run(documents())["documents"]
    assert [len(document.embedding) for document in made] == [DIMENSION] * len(DOCUMENTS)


@call(
    "pinecone-haystack",
    '`PineconeDocumentStore(namespace="")`',
    "`write_documents`, `count_documents`, `delete_documents`",
)
def pinecone_store(server: Server) -> None:
    from haystack_integrations.components.retrievers.pinecone import PineconeEmbeddingRetriever
    from haystack_integrations.document_stores.pinecone import PineconeDocumentStore

    os.environ["PINECONE_CONTROLLER_HOST"] = server.url
    store = PineconeDocumentStore(api_key=Secret.from_token(server.key), index="articles", namespace="")
    made = [
        Document(id=f"haystack-{place}", content=text, meta={"place": place}, embedding=[1.0, place] * (DIMENSION // 2))
        for place, text in enumerate(DOCUMENTS)
    ]
    assert store.write_documents(made) == len(DOCUMENTS)
    end = time.monotonic() + 30
    while store.count_documents() < len(DOCUMENTS) and time.monotonic() < end:
        pass
    retriever = PineconeEmbeddingRetriever(document_store=store, top_k=2)
    answer = retriever.run(query_embedding=[1.0, 2.0] * (DIMENSION // 2))["documents"]
    assert answer[0].content == DOCUMENTS[2]
    store.delete_documents([document.id for document in made])


if __name__ == "__main__":
    run()
