"""What must be known before a server starts: which services an index needs, and who may ask."""
