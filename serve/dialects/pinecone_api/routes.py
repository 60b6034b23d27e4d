"""The routes of Pinecone's API that no other dialect has."""

from fastapi import APIRouter

from serve.dialects.pinecone_api.control import ServedIndex, add_control
from serve.dialects.pinecone_api.data import add_data
from serve.dialects.pinecone_api.inference import Inference
from serve.dialects.pinecone_api.records import add_records
from serve.dialects.pinecone_api.writes import add_writes
from serve.web.indexes import Indexes
from serve.web.json_body import JsonRoute
from shoal.settings import ServeSettings


def router(engine: Indexes, settings: ServeSettings) -> APIRouter:
    """Build the routes of this dialect."""
    routes = APIRouter(tags=["pinecone"], route_class=JsonRoute)
    index = ServedIndex(engine, settings)
    Inference(engine, settings).add_models(routes)
    add_control(routes, index)
    # In one router, not in a nested one, whose marks of scopes nobody would see.
    add_data(routes, index)
    add_records(routes, index)
    add_writes(routes, index)
    return routes
