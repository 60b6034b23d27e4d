"""LangChain's adapters for Cohere, OpenAI, Hugging Face and Pinecone."""

import os
import time

from calls import BEST, DIMENSION, DOCUMENTS, ENCODER, QUERY, RERANKER, Server, call, run
from langchain_core.documents import Document


@call("langchain-cohere", "`CohereRerank`", "`compress_documents`")
def cohere_rerank(server: Server) -> None:
    from langchain_cohere import CohereRerank

    reranker = CohereRerank(base_url=server.url, cohere_api_key=server.key, model="rerank-v3.5", top_n=2)
    documents = reranker.compress_documents([Document(text) for text in DOCUMENTS], QUERY)
    assert [document.page_content for document in documents] == BEST
    assert documents[0].metadata["relevance_score"] > documents[1].metadata["relevance_score"]


@call("langchain-openai", "`OpenAIEmbeddings(check_embedding_ctx_length=False)`", "`embed_documents`, `embed_query`")
def openai_embeddings(server: Server) -> None:
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key=server.key, model=ENCODER, check_embedding_ctx_length=False
    )
    vectors = embeddings.embed_documents(DOCUMENTS)
    assert [len(vector) for vector in vectors] == [DIMENSION] * len(DOCUMENTS)
    assert len(embeddings.embed_query(QUERY)) == DIMENSION


@call("langchain-huggingface", "`HuggingFaceEndpointEmbeddings`", 'with `model="URL/embed"`')
def huggingface_embeddings(server: Server) -> str:
    from langchain_huggingface import HuggingFaceEndpointEmbeddings

    try:
        HuggingFaceEndpointEmbeddings(model=f"{server.url}/embed", huggingfacehub_api_token=server.key)
    except ValueError as error:
        message: str = error.errors()[0]["msg"]  # type: ignore[attr-defined]
        return f"refused by the adapter: {message}"
    raise AssertionError("it was not refused")


@call("langchain-pinecone", "`PineconeVectorStore`, `PineconeEmbeddings`", "`add_texts`, `similarity_search`, `delete`")
def pinecone_store(server: Server) -> None:
    from langchain_pinecone import PineconeEmbeddings, PineconeVectorStore
    from pinecone import Pinecone

    os.environ |= {"PINECONE_API_KEY": server.key, "PINECONE_CONTROLLER_HOST": server.url}
    embeddings = PineconeEmbeddings(model=ENCODER)
    store = PineconeVectorStore(index=Pinecone().Index("articles"), embedding=embeddings)
    ids = store.add_texts(DOCUMENTS, metadatas=[{"place": place} for place in range(len(DOCUMENTS))])
    found = store.similarity_search(QUERY, k=4)
    end = time.monotonic() + 30
    while len(found) < 4 and time.monotonic() < end:
        found = store.similarity_search(QUERY, k=4)
    assert sorted(document.page_content for document in found) == sorted(DOCUMENTS)
    [only] = store.similarity_search(QUERY, k=4, filter={"place": 2})
    assert only.page_content == DOCUMENTS[2]
    store.delete(ids)


@call("langchain-pinecone", "`PineconeRerank`", "`compress_documents`")
def pinecone_rerank(server: Server) -> None:
    from langchain_pinecone import PineconeRerank

    os.environ |= {"PINECONE_API_KEY": server.key, "PINECONE_CONTROLLER_HOST": server.url}
    reranker = PineconeRerank(model=RERANKER, top_n=2)
    documents = reranker.compress_documents([Document(text) for text in DOCUMENTS], QUERY)
    assert [document.page_content for document in documents] == BEST


if __name__ == "__main__":
    run()
