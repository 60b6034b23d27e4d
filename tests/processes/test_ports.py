"""Who listens on a port: this user or another one."""

import os
import socket

import pytest

from shoal.errors import Unavailable
from shoal.system.ports import require_own


@pytest.mark.parametrize(
    ("listens", "reached"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")]
)
def test_another_user_who_was_faster_is_noticed(listens: str, reached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = socket.AF_INET6 if ":" in listens else socket.AF_INET
    with socket.create_server((listens, 0), family=family, dualstack_ipv6=listens == "::") as server:
        port = server.getsockname()[1]
        require_own(reached, port)
        stranger = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: stranger)
        with pytest.raises(Unavailable, match=f"another user of this machine .* listens on port {port}"):
            require_own(reached, port)
    require_own(reached, port)  # nobody


def test_who_listens_on_another_address_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        stranger = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: stranger)
        require_own("127.0.0.1", server.getsockname()[1])
