"""The request that Open WebUI's external reranker makes, since its package, with all its models, is too big to install.

It stands for `ExternalReranker.predict` of open_webui/retrieval/models/external.py: one POST to the address that an
administrator gives, with the documents in the order of its own search and `top_n` as many as they are, with headers
that name its user where it forwards those. It reads `index` and `relevance_score` of `results`, and wants one score
for each document; of an error it reads the status alone. docs/clients.md has the row.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shoal.serving import keys
from tests.support.dialects import ALIASES, DOCUMENTS, QUERY, RERANKER, publish_articles, scores_of
from tests.support.local_server import serving_locally

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
KEY = keys.make()
USER = {"X-OpenWebUI-User-Name": "Ada%20L", "X-OpenWebUI-User-Id": "7", "X-OpenWebUI-User-Role": "admin"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("open-webui")
    root = publish_articles(folder)
    (folder / "keys.txt").write_text(keys.line(KEY, "open-webui", "read") + "\n")
    options = {"reranker": RERANKER, "model_alias": ALIASES, "api_keys_file": str(folder / "keys.txt")}
    with serving_locally(root, **options) as address:
        yield f"{address}/v1/rerank"


def ask(url: str, model: str, documents: list[str], key: str = KEY, **headers: str) -> httpx.Response:
    """POST what Open WebUI posts."""
    body = {"model": model, "query": QUERY, "documents": documents, "top_n": len(documents)}
    return httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}", **headers}, timeout=60)


@pytest.mark.parametrize("model", [RERANKER, "bge-reranker-v2-m3"])
@pytest.mark.parametrize("headers", [{}, USER], ids=["without a user", "with its user"])
def test_one_score_for_each_document(url: str, model: str, headers: dict[str, str]) -> None:
    response = ask(url, model, DOCUMENTS, **headers)
    assert response.status_code == 200, response.text
    results = sorted(response.json()["results"], key=lambda result: result["index"])
    assert [result["index"] for result in results] == list(range(len(DOCUMENTS)))
    assert [result["relevance_score"] for result in results] == pytest.approx(scores_of(QUERY, DOCUMENTS))


def test_equal_documents_have_a_score_each(url: str) -> None:
    """Chunks overlap, so that its search may find one text twice."""
    results = ask(url, RERANKER, [DOCUMENTS[2], DOCUMENTS[0], DOCUMENTS[2]]).json()["results"]
    scores = {result["index"]: result["relevance_score"] for result in results}
    assert sorted(scores) == [0, 1, 2]
    assert scores[0] == scores[2] > scores[1]


@pytest.mark.parametrize(
    ("model", "key", "status"), [("reranker", KEY, 404), (RERANKER, "sk-wrong", 401)], ids=["model", "key"]
)
def test_errors_have_a_status_of_their_own(url: str, model: str, key: str, status: int) -> None:
    """Its default name of a model, `reranker`, is none of the server's."""
    assert ask(url, model, DOCUMENTS, key).status_code == status


def test_the_page_says_that_it_is_the_request_alone() -> None:
    [row] = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| open-webui |")]
    assert "its request, not its package" in row
