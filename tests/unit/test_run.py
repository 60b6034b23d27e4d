"""What `serve.run` works out before it starts anything."""

import pytest

from serve import private_ray
from serve.run import _require_free, _url
from shoal.errors import InvalidArgument


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("search.example.org", "http://search.example.org:80"),
    ],
)
def test_the_url_that_this_machine_reaches(host: str, url: str) -> None:
    assert _url(host, 80) == url


@pytest.mark.parametrize(
    ("found", "param", "words"),
    [
        (False, "--port", "port 80 is in use on 127.0.0.1; choose another with --port"),
        (PermissionError(13, "Permission denied"), "--port", "choose one from 1024 with --port"),
        (OSError(99, "Cannot assign requested address"), "--host", "(Cannot assign requested address); correct --host"),
    ],
)
def test_an_address_that_cannot_be_had(
    found: bool | OSError, param: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_free(host: str, port: int) -> bool:
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(private_ray, "is_free", is_free)
    with pytest.raises(InvalidArgument) as caught:
        _require_free("127.0.0.1", 80)
    assert words in caught.value.message
    assert caught.value.param == param
