"""Dify's external knowledge: `POST /retrieval`, both stages of a search for a knowledge base of Dify."""

from serve.dialects.dify_api.routes import choose_error_body, router

__all__ = ["choose_error_body", "router"]
