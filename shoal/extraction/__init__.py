"""Makes Markdown of documents that are no text: HTML, PDF, Word, PowerPoint, EPUB.

Files come from anywhere, and their parsers are large: they run in a process of their own (`child`), with bounds on
memory and time, and without a network. `worker.Extractor` is the side of whoever wants the text. Nothing in here
imports more than the standard library, but for the parsers themselves, where they are needed.
"""
