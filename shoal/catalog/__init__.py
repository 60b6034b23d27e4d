"""Several indexes in one process, by their names. Free of Ray and of HTTP."""
