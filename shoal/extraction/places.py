"""Where in its document a passage stands, as its metadata say."""

PAGE_FIELD, LINE_FIELD = "_page", "_line"
"""Metadata of a passage of a document: the page (or slide) and the line it begins on, counted from 1."""
