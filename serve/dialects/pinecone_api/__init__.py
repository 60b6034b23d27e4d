"""Pinecone's API over REST: inference."""

from serve.dialects.pinecone_api.routes import router

__all__ = ["router"]
