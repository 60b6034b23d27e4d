"""What the names of models tell."""


def is_remote(model: str) -> bool:
    """Whether the name of a model is the address of an endpoint that computes it."""
    return model.startswith(("http://", "https://"))
