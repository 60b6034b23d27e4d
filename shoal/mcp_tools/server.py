"""The MCP server: search, similar, get and describe_index, none of which changes anything."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any, Protocol

from pydantic import Field

from shoal.client.answers import FetchResponse, IndexDescription
from shoal.errors import InvalidArgument, ShoalError
from shoal.mcp_tools.answers import ToolIndex, ToolPassages, ToolResults
from shoal.modes import Mode
from shoal.system.version import __version__

MAX_RESULTS = 50
"""Passages that one call of `search` returns at most: they are read by a model."""
MAX_IDS = 100
"""Passages that one call of `get` returns at most."""
INSTRUCTIONS = (
    "Searches a collection of text passages by meaning and by words. Begin with `search`; ask in a full sentence. "
    "`describe_index` names the metadata fields that `filter` may use. `similar` finds passages like one, and `get` "
    "returns passages, by the ids that results have. Nothing is changed."
)
"""What an assistant is told of all tools together."""


class Asker(Protocol):
    """What answers the tools: `shoal.AsyncClient`, `shoal.AsyncIndex`, or the server that the tools are part of."""

    async def search(self, query: str | None, /, **options: Any) -> Any:
        """Search for one query, or with the option `id` for passages like one; returns a SearchResponse."""
        ...

    async def fetch(self, ids: Sequence[str], /) -> FetchResponse:
        """Fetch passages by their ids."""
        ...

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        ...


def require_sdk() -> None:
    """Raise InvalidArgument, with the remedy, unless the SDK is installed."""
    if find_spec("mcp") is None:
        raise InvalidArgument("MCP needs its SDK: pip install 'shoal[mcp]'")


def make_server(asker: Asker) -> Any:
    """Return the `mcp.server.mcpserver.MCPServer` whose tools ask this asker.

    Raises InvalidArgument without the SDK.
    """
    require_sdk()
    from mcp.server.mcpserver import MCPServer
    from mcp_types import ToolAnnotations

    server: MCPServer[Any] = MCPServer(
        "shoal", title="Shoal", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    reading = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

    @server.tool(title="Search the passages", annotations=reading)
    async def search(
        query: Annotated[str, Field(min_length=1, description="What to look for, as a question or in words.")],
        top_n: Annotated[int, Field(ge=1, le=MAX_RESULTS, description="Passages to return.")] = 5,
        filter: Annotated[
            dict[str, Any] | None,
            Field(
                description='Conditions on metadata fields, such as {"year": {"$gte": 2020}, "lang": "en"}; operators: '
                "$eq $ne $gt $gte $lt $lte $in $nin $exists $and $or $not."
            ),
        ] = None,
        mode: Annotated[Mode | None, Field(description="By vectors, by words, or both. Left out: the best.")] = None,
        one_per_document: Annotated[bool, Field(description="Return only the best passage of each document.")] = False,
    ) -> ToolResults:
        """Find the passages that best answer a question. Returns their texts, best first."""
        group: Mapping[str, Any] | None = {"field": "$document"} if one_per_document else None
        given = {"top_n": top_n, "highlight": True, "filter": filter, "mode": mode, "group_by": group}
        options = {name: value for name, value in given.items() if value is not None}
        with _told():
            return ToolResults.of(await asker.search(query, **options))

    @server.tool(title="Find passages like one", annotations=reading)
    async def similar(
        id: Annotated[str, Field(min_length=1, description="Id of the passage, which is left out.")],
        top_n: Annotated[int, Field(ge=1, le=MAX_RESULTS, description="Passages to return.")] = 5,
    ) -> ToolResults:
        """Find the passages that are nearest in meaning to one that is known by its id."""
        with _told():
            return ToolResults.of(await asker.search(None, id=id, top_n=top_n))

    @server.tool(title="Get passages by their ids", annotations=reading)
    async def get(
        ids: Annotated[list[str], Field(min_length=1, max_length=MAX_IDS, description="Ids of passages.")],
    ) -> ToolPassages:
        """Return whole passages by their ids."""
        with _told():
            return ToolPassages.of(await asker.fetch(ids))

    @server.tool(title="Describe the index", annotations=reading)
    async def describe_index() -> ToolIndex:
        """Tell how many passages there are, which metadata fields filters may use, and how can be searched."""
        with _told():
            return ToolIndex.of(await asker.describe())

    return server


@contextmanager
def _told() -> Iterator[None]:
    """Hand what is meant for the caller to the assistant; anything else is hidden by the SDK, and logged."""
    from mcp.server.mcpserver.exceptions import ToolError

    try:
        yield
    except ShoalError as error:
        raise ToolError(error.message) from None
