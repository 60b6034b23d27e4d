"""LlamaIndex's adapters for Cohere, Jina, Xinference, TEI, OpenAI and Pinecone."""

import os
import time
from typing import Any

from calls import BEST, DIMENSION, DOCUMENTS, ENCODER, QUERY, RERANKER, Server, call, run
from llama_index.core.schema import NodeWithScore, TextNode


def check_order(reranker: Any) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]
    best = reranker.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node.get_content() for node in best] == BEST
    assert best[0].score > best[1].score


@call("llama-index-postprocessor-cohere-rerank", "`CohereRerank`", "`postprocess_nodes`")
def cohere_rerank(server: Server) -> None:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    check_order(CohereRerank(top_n=2, model="rerank-v3.5", api_key=server.key, base_url=server.url))


@call("llama-index-postprocessor-jinaai-rerank", "`JinaRerank`", "`postprocess_nodes`")
def jina_rerank(server: Server) -> None:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    check_order(JinaRerank(top_n=2, model=RERANKER, api_key=server.key, base_url=f"{server.url}/v1"))


@call("llama-index-postprocessor-jinaai-rerank", "`JinaRerank`", "`postprocess_nodes` with a model that is not served")
def jina_model(server: Server) -> str:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    try:
        check_order(JinaRerank(top_n=2, api_key=server.key, base_url=f"{server.url}/v1"))
    except RuntimeError as error:
        return str(error)
    raise AssertionError("it was not refused")


@call(
    "llama-index-postprocessor-xinference-rerank",
    "`XinferenceRerank`, which sends no key",
    "`postprocess_nodes`, on a server without keys",
)
def xinference_rerank(server: Server) -> None:
    from llama_index.postprocessor.xinference_rerank import XinferenceRerank

    check_order(XinferenceRerank(top_n=2, model=RERANKER, base_url=server.open_url))


@call("llama-index-postprocessor-tei-rerank", "`TextEmbeddingInference`", "`postprocess_nodes`")
def tei_rerank(server: Server) -> None:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    check_order(TextEmbeddingInference(top_n=2, base_url=server.url, auth_token=server.key))


@call("llama-index-postprocessor-pinecone-native-rerank", "`PineconeNativeRerank`", "`postprocess_nodes`")
def pinecone_rerank(server: Server) -> None:
    from llama_index.postprocessor.pinecone_native_rerank import PineconeNativeRerank

    os.environ["PINECONE_CONTROLLER_HOST"] = server.url
    check_order(PineconeNativeRerank(top_n=2, model=RERANKER, api_key=server.key))


@call(
    "llama-index-embeddings-text-embeddings-inference",
    "`TextEmbeddingsInference`",
    "`get_text_embedding_batch`, `get_query_embedding`",
)
def tei_embeddings(server: Server) -> None:
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    check_vectors(TextEmbeddingsInference(model_name=ENCODER, base_url=server.url, auth_token=server.key))


@call(
    "llama-index-embeddings-openai-like",
    "`OpenAILikeEmbedding`",
    "`get_text_embedding_batch`, `get_query_embedding`",
)
def openai_embeddings(server: Server) -> None:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    check_vectors(OpenAILikeEmbedding(model_name=ENCODER, api_base=f"{server.url}/v1", api_key=server.key))


def check_vectors(embeddings: Any) -> None:
    vectors = embeddings.get_text_embedding_batch(DOCUMENTS)
    assert [len(vector) for vector in vectors] == [DIMENSION] * len(DOCUMENTS)
    assert len(embeddings.get_query_embedding(QUERY)) == DIMENSION


@call("llama-index-vector-stores-pinecone", "`PineconeVectorStore`", "`add`, `query`, `delete_nodes`")
def pinecone_store(server: Server) -> None:
    from llama_index.core.vector_stores.types import VectorStoreQuery
    from llama_index.vector_stores.pinecone import PineconeVectorStore
    from pinecone import Pinecone

    index = Pinecone(api_key=server.key, host=server.url).Index("articles")
    store = PineconeVectorStore(pinecone_index=index)
    nodes = [
        TextNode(id_=f"llama-{place}", text=text, embedding=[1.0, float(place)] * (DIMENSION // 2))
        for place, text in enumerate(DOCUMENTS)
    ]
    store.add(nodes)
    query = VectorStoreQuery(query_embedding=[1.0, 2.0] * (DIMENSION // 2), similarity_top_k=4)
    end = time.monotonic() + 30
    while len(store.query(query).ids) < 4 and time.monotonic() < end:
        pass
    answer = store.query(query)
    assert answer.ids[0] == "llama-2"
    assert answer.nodes[0].get_content() == DOCUMENTS[2]
    store.delete_nodes([node.node_id for node in nodes])


if __name__ == "__main__":
    run()
