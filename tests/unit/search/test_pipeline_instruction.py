"""Instructions of requests: what is asked of the encoder."""

import asyncio

import pytest

from shoal.errors import InvalidArgument
from shoal.search.served_version import ServedVersion
from shoal.testing.fakes import fingerprint, served_version, virtual_time
from tests.support.search_system import SIZES, System, request

PROMPT = "Instruct: Given a question, find passages that answer it\nQuery:"
CLAIM = "Given a claim, find what refutes it"


def version(prompt: str) -> ServedVersion:
    made = served_version("v1", SIZES, late=True)
    return ServedVersion(
        made.name,
        made.counts,
        made.retrievers,
        made.fields,
        made.index,
        made.has_token_vectors,
        encoder=fingerprint(512).model_copy(update={"query_prompt": prompt}),
    )


@virtual_time
async def test_queries_with_one_instruction_share_a_call_and_others_have_their_own() -> None:
    system = System()
    system.pipeline.switch(version(PROMPT))
    requests = [("a", CLAIM), ("b", None), ("c", CLAIM), ("d", "another")]
    await asyncio.gather(
        *(system.pipeline.search(request(query, instruction=instruction)) for query, instruction in requests)
    )
    calls = zip(system.encoder.calls, system.encoder.instructions, strict=True)
    asked = [(query, told) for queries, told in calls for query in queries]
    assert sorted(map(str, asked)) == sorted(map(str, requests))
    late = await system.pipeline.search(request("e", instruction=CLAIM, rerank="late"))
    assert (late.reranker, system.encoder.instructions[-1]) == ("late", CLAIM)


@virtual_time
@pytest.mark.parametrize(
    ("prompt", "instruction", "message"),
    [
        ("", CLAIM, "takes no instruction: it reads queries as they are"),
        ("query: ", CLAIM, "takes no instruction: before queries it reads 'query: '"),
        (PROMPT, "find it\nQuery:all", "does not hold"),
    ],
)
async def test_an_instruction_that_is_not_read_is_refused(prompt: str, instruction: str, message: str) -> None:
    system = System()
    system.pipeline.switch(version(prompt))
    with pytest.raises(InvalidArgument, match=message) as refused:
        await system.pipeline.search(request("a", instruction=instruction))
    assert (refused.value.param, system.encoder.calls) == ("instruction", [])
