"""LiteLLM, as it asks Cohere, Jina, vLLM and OpenAI."""

import litellm
from calls import DIMENSION, DOCUMENTS, ENCODER, QUERY, RERANKER, Server, call, run


def check_order(model: str, base: str, key: str) -> None:
    answer = litellm.rerank(model=model, query=QUERY, documents=DOCUMENTS, top_n=2, api_base=base, api_key=key)
    assert [result["index"] for result in answer.results] == [2, 3]
    assert answer.results[0]["relevance_score"] > answer.results[1]["relevance_score"]


@call("litellm", '`rerank(model="cohere/…")`', "`api_base` with and without `/v2/rerank`")
def cohere(server: Server) -> None:
    check_order(f"cohere/{RERANKER}", server.url, server.key)
    check_order(f"cohere/{RERANKER}", f"{server.url}/v2/rerank", server.key)


@call("litellm", '`rerank(model="jina_ai/…")`', "`api_base` of `/v1`")
def jina(server: Server) -> None:
    check_order(f"jina_ai/{RERANKER}", f"{server.url}/v1", server.key)


@call("litellm", '`rerank(model="hosted_vllm/…")`', "`api_base` of the server")
def vllm(server: Server) -> None:
    check_order(f"hosted_vllm/{RERANKER}", server.url, server.key)


@call("litellm", '`embedding(model="openai/…")`', "`api_base` of `/v1`")
def openai(server: Server) -> None:
    answer = litellm.embedding(
        model=f"openai/{ENCODER}", input=DOCUMENTS, api_base=f"{server.url}/v1", api_key=server.key
    )
    assert [len(one["embedding"]) for one in answer.data] == [DIMENSION] * len(DOCUMENTS)


if __name__ == "__main__":
    run()
