"""How settings name networks, web pages and models."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _network(text: str) -> str:
    try:
        return str(ip_network(text.strip(), strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is no address and no network such as 10.0.0.0/8") from None


Network = Annotated[str, AfterValidator(_network)]
"""An IP address, or a network of them: 10.0.0.0/8."""
ModelAlias = Annotated[
    str, StringConstraints(pattern=r"^[^=,]*[^=,\s][^=,]*=[^=,]*[^=,\s][^=,]*$", strip_whitespace=True)
]
"""Another name of a model: NAME=SERVED."""
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+$", strip_whitespace=True)]
"""A web page's origin as browsers send it: scheme, host, and port if it is not the scheme's own."""
