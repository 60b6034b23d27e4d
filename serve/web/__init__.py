"""The HTTP layer: application, middleware, access and errors. Free of Ray."""
