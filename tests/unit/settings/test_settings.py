"""How settings of one model are taken out of those of another."""

import pytest
from pydantic import ValidationError

from shoal.settings import BuildSettings, EncoderSettings, RunSettings, ServeSettings


def test_a_part_has_the_values_of_the_fields_that_both_have() -> None:
    settings = RunSettings(index="root", top_k=7, port=9000)
    assert settings.part(ServeSettings) == ServeSettings(index="root", top_k=7)


def test_values_that_are_given_replace_and_complete_a_part() -> None:
    settings = ServeSettings(index="root", device="cpu")
    encoder = settings.part(EncoderSettings, encoder="hashing", threads=3)
    assert (encoder.device, encoder.encoder, encoder.threads) == ("cpu", "hashing", 3)


def test_a_part_lacks_no_field() -> None:
    with pytest.raises(ValidationError, match="source"):
        ServeSettings(index="root").part(BuildSettings, encoder="hashing")


def test_a_part_knows_no_other_value() -> None:
    with pytest.raises(ValidationError, match="unknown"):
        RunSettings(index="root").part(ServeSettings, unknown=1)


@pytest.mark.parametrize("alias", ["a=b", "rerank-v3.5=BAAI/bge-reranker-v2-m3", " a b = /models/c d "])
def test_an_alias_of_a_model_has_two_names(alias: str) -> None:
    assert ServeSettings(index="root", model_alias=[alias]).model_alias == [alias.strip()]


@pytest.mark.parametrize("alias", ["a", "=b", "a=", " = ", "a=b=c", ""])
def test_what_is_no_alias_of_a_model_is_refused(alias: str) -> None:
    with pytest.raises(ValidationError, match="model_alias"):
        ServeSettings(index="root", model_alias=[alias])
