"""Adapters of frameworks for other vendors, as they are, against a server; docs/clients.md shows what came of each.

Each framework gets an environment of its own: its adapters want older SDKs of the vendors than the tests have. It is
kept between runs (tests/support/environments.py); newer versions are tried by naming them here.
`SHOAL_LONG_TESTS=1 SHOAL_WRITE_CLIENTS=1 python -m pytest tests/contract/test_adapters.py` writes the page's table.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.indexing.empty import create_index
from shoal.serving import keys
from shoal.settings import CreateSettings
from tests.support.dialects import ALIASES, ENCODER, RERANKER
from tests.support.environments import environment_of, installs, run_in
from tests.support.local_server import serving_locally
from tests.support.long import only_long

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN, END = "<!-- adapters -->", "<!-- end of adapters -->"
HEAD = "| package | version | client | call | what comes of it |\n| --- | --- | --- | --- | --- |"
WRITE = "SHOAL_WRITE_CLIENTS" in os.environ
SCRIPTS = Path(__file__).parents[1] / "support" / "adapters"
KEY = keys.make()
REQUIREMENTS = {
    "langchain": [
        "langchain-cohere==0.6.0",
        "langchain-huggingface==1.2.3",
        "langchain-openai==1.7.4",
        "langchain-pinecone==0.2.13",
    ],
    "llama_index": [
        "llama-index-embeddings-openai-like==0.4.0",
        "llama-index-embeddings-text-embeddings-inference==0.6.0",
        "llama-index-postprocessor-cohere-rerank==0.10.0",
        "llama-index-postprocessor-jinaai-rerank==0.6.0",
        "llama-index-postprocessor-pinecone-native-rerank==0.4.0",
        "llama-index-postprocessor-tei-rerank==0.6.0",
        "llama-index-postprocessor-xinference-rerank==0.5.0",
        "llama-index-vector-stores-pinecone==0.9.0",
    ],
    "haystack": [
        "haystack-ai==3.4.1",
        "cohere-haystack==11.0.0",
        "huggingface-api-haystack==3.1.0",
        "jina-haystack==2.0.1",
        "pinecone-haystack==7.0.0",
    ],
    "litellm": ["litellm==1.110.2"],
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server whose index, `articles`, may be written to with KEY, and one of the same index that wants no key."""
    folder = tmp_path_factory.mktemp("adapters")
    create_index(CreateSettings(index=str(folder / "articles"), encoder=ENCODER))
    (folder / "keys.txt").write_text(keys.line(KEY, "adapters", "write") + "\n")
    options = {"reranker": RERANKER, "model_alias": ALIASES}
    with (
        serving_locally(folder / "articles", api_keys_file=str(folder / "keys.txt"), **options) as url,
        serving_locally(folder / "articles", **options) as open_url,
    ):
        yield url, open_url


@pytest.fixture(scope="module")
def rows() -> Iterator[list[list[str]]]:
    """Collects the rows that calls gave; written to the page where that is asked for."""
    rows: list[list[str]] = []
    yield rows
    if WRITE:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        lines = [f"| {' | '.join(row)} |" for row in rows]
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join([HEAD, *lines]) + f"\n{END}{rest.partition(END)[2]}", "utf-8")


def shown() -> list[list[str]]:
    """The rows of the page."""
    table = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    return [[cell.strip("| ") for cell in row.split(" | ")] for row in table.strip().splitlines()[2:]]


@only_long
@installs
@pytest.mark.parametrize("framework", REQUIREMENTS)
def test_what_comes_of_a_call_is_what_the_page_says(
    framework: str, servers: tuple[str, str], rows: list[list[str]]
) -> None:
    url, open_url = servers
    python = environment_of(*REQUIREMENTS[framework])
    variables = {"HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = run_in(python, SCRIPTS / f"{framework}_calls.py", url, KEY, open_url, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert made
    assert KEY not in done.stdout
    rows += made
    for row in made:
        assert WRITE or row in shown()


def test_every_adapter_of_the_page_is_tried() -> None:
    """The page shows the packages that the long tests install, in these versions, and no others."""
    installed = {requirement for requirements in REQUIREMENTS.values() for requirement in requirements}
    assert {f"{row[0]}=={row[1]}" for row in shown()} == installed
