"""Shoal's own dialect, `/v1`: both stages in one call, with scores, coverage and timings of each."""

from serve.dialects.native.routes import router

__all__ = ["router"]
