"""Pinecone's API over REST: inference, the index that is served, and its passages."""

from serve.dialects.pinecone_api.routes import router

__all__ = ["router"]
