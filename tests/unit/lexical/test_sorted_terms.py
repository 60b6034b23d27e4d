import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from shoal.lexical.sorted_terms import SortedTerms

words = st.text(st.sampled_from("abé東😀"), max_size=4)


@given(st.sets(words, max_size=30), words, st.integers(0, 5))
def test_a_term_is_where_it_lies_in_the_array(terms: set[str], other: str, start: int) -> None:
    listed = sorted(terms, key=str.encode)
    for array, held in (
        (pa.array(listed, pa.large_string()), listed),
        (pa.array(listed, pa.large_string()).slice(start), listed[start:]),
    ):
        found = SortedTerms(array)
        assert [found.place(term) for term in held] == list(range(len(held)))
        assert [term.decode() for term in found] == held
        if other not in held:
            assert found.place(other) is None


def test_what_is_no_unicode_is_no_term() -> None:
    assert SortedTerms(pa.array(["a", "b"], pa.large_string())).place("\ud800") is None
