"""What the records of documents and their passages say of the document, and of where in it they stand."""

PAGE_FIELD, LINE_FIELD = "_page", "_line"
"""Metadata of a passage of a document: the page (or slide) and the line it begins on, counted from 1."""
TITLE_FIELD = "_title"
"""Field of the title that a document has outside its text, for all of its passages."""
