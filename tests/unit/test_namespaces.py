"""Names of namespaces, and ids inside of an index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.namespaces import MARK, check_namespace, namespace_of, own_id, prefix_of, qualified

IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda id_: not id_.startswith(MARK))
NAMES = st.text(st.sampled_from("ab#/:1 ü"), min_size=1, max_size=4).filter(lambda name: not name.isspace())


@given(NAMES, NAMES, IDS, IDS)
def test_ids_of_two_namespaces_are_never_the_same_and_lie_together(a: str, b: str, first: str, second: str) -> None:
    assert (qualified(a, first) == qualified(b, second)) == ((a, first) == (b, second))
    assert qualified(a, first).startswith(prefix_of(b)) == (a == b)
    assert first < qualified(a, second)
    assert (qualified(a, first) < qualified(a, second)) == (first < second)
    assert (own_id(qualified(a, first)), namespace_of(qualified(a, first))) == (first, a)
    assert (qualified("", first), own_id(first), namespace_of(first)) == (first, first, "")


@pytest.mark.parametrize("name", ["", "__default__"])
def test_the_default_namespace_has_two_names(name: str) -> None:
    assert check_namespace(name) == ""


@pytest.mark.parametrize("name", ["acme", "a" * 256, "Ünïcode/日本:1#2", "with space"])
def test_names_are_printable_text(name: str) -> None:
    assert check_namespace(name) == name


@pytest.mark.parametrize("name", ["a" * 257, " ", "\x00", "a\tb", "\ud800", MARK, f"a{MARK}", "\u200b"], ids=ascii)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_namespace(name, "field")
    assert refused.value.param == "field"
    refused.value.message.encode()


def test_an_id_that_would_lead_into_another_namespace_is_refused() -> None:
    for namespace in ("", "acme"):
        with pytest.raises(InvalidArgument, match=r"^ids should not begin with U\+10FFFF"):
            qualified(namespace, f"{MARK}acme{MARK}doc", "ids")
