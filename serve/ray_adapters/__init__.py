"""Where Ray Serve meets the core: handles, metrics and the environment of a private Ray."""
