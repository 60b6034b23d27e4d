"""Answers of Shoal's own dialect as JSON, written by hand: what is built here needs no second validation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from shoal.engine.answer_fields import answer_fields, fetch_fields, result_fields
from shoal.engine.request_models import Part
from shoal.records import FetchedPassages, SearchAnswer


def render(body: Any) -> Response:
    """Build the response of anything that JSON can hold."""
    return _response(_json(body))


def render_fetched(fetched: FetchedPassages, include: Sequence[Part]) -> Response:
    """Build the response of passages that were fetched by their ids."""
    return render(fetch_fields(fetched, include))


def render_search(answers: Sequence[SearchAnswer], request_id: str, include: Sequence[Part], several: bool) -> Response:
    """Build the response of a search: its answer, or a list of them where `several` queries were asked."""
    if not several:
        return _response(render_answer(answers[0], request_id, include))
    parts = (render_answer(answer, f"{request_id}-{number}", include) for number, answer in enumerate(answers))
    return _response(b'{"responses":[' + b",".join(parts) + b"]}")


def render_answer(answer: SearchAnswer, id_: str, include: Sequence[Part]) -> bytes:
    """Serialise an answer, result by result: all at once would keep the other threads waiting until the end."""
    rest = answer_fields(answer)
    head = _json({"id": id_, "index_version": answer.index_version})
    results = b",".join([_json(result_fields(result, include)) for result in answer.results])
    return b"".join((head[:-1], b',"results":[', results, b"],", _json(rest)[1:]))


def render_embedded(fields: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> Response:
    """Build the response of texts and their vectors, text by text, so that the other threads get their turn."""
    data = b",".join(map(_json, parts))
    return _response(b"".join((_json(fields)[:-1], b',"data":[', data, b"]}")))


def _json(body: Any) -> bytes:
    return to_json(body, inf_nan_mode="null")


def _response(content: bytes) -> Response:
    return Response(content, media_type="application/json")
