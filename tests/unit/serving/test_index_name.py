import re

import pytest

from shoal.serving.index_name import index_name


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("./index", "index"),
        ("/srv/My Articles/", "my-articles"),
        ("s3://bucket/deep/Ärzte_2026?region=eu&endpoint_override=http://x/y", "rzte-2026"),
        ("C:\\data\\cats", "cats"),
        ("/", "default"),
        ("日本", "default"),
        ("x" * 100, "x" * 63),
        (f"{'x' * 62}--y", "x" * 62),
    ],
)
def test_an_index_is_called_as_its_folder(place: str, name: str) -> None:
    assert index_name(place) == name
    assert re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", name)
