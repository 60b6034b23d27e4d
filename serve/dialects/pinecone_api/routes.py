"""The routes of Pinecone's API that no other dialect has."""

from collections.abc import Callable

from fastapi import APIRouter

from serve.dialects.base import Engine
from serve.dialects.pinecone_api.inference import Inference
from serve.web.json_body import JsonRoute
from shoal.settings import ServeSettings


def router(engine: Callable[[], Engine], settings: ServeSettings) -> APIRouter:
    """Build the routes of this dialect."""
    routes = APIRouter(tags=["pinecone"], route_class=JsonRoute)
    Inference(engine, settings).add_models(routes)
    return routes
