"""Which index version is served, and by which services. Free of Ray."""
