"""LangChain's own tests of retrievers, over ours: run by pytest in an environment of their own."""

import os
from typing import Any

from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

import shoal
from shoal.integrations.langchain import ShoalRetriever


class TestShoalRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return ShoalRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"client": shoal.Client(os.environ["SHOAL_URL"])}

    @property
    def retriever_query_example(self) -> str:
        return "how do fish sleep"
