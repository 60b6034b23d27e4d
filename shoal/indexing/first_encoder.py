"""What an index that begins without passages knows of its encoder, so that what is written is kept as a build would."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from shoal.encoders import Encoder, check_dimensions, check_instruction, check_passage_tokens, is_weightless
from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.indexing.sample import stratified
from shoal.indexing.tokens import learn_reduction, token_width
from shoal.late.codec import Codec
from shoal.settings import CreateSettings

TEXTS = 128
"""Texts that the reduction of token vectors is learned from where nothing was written yet."""
TEXT_CHARACTERS = (200, 1000)
"""Least and most characters of such a text."""


@dataclass(frozen=True, slots=True)
class FirstEncoder:
    """The encoder of an index without passages.

    fingerprint: what it is. codec: what reduces the token vectors of whatever is written; None where none are stored.
    """

    fingerprint: Fingerprint
    codec: Codec | None = None


def describe_first(settings: CreateSettings, encoder: Encoder) -> FirstEncoder:
    """Tell what an index without passages has to know of its encoder.

    Args:
        settings: Of the index.
        encoder: As they name it.

    Raises:
        InvalidArgument: The encoder does not give what the settings ask for.
    """
    fingerprint = encoder.fingerprint()
    check_dimensions(settings, fingerprint)
    check_instruction(settings, fingerprint)
    check_passage_tokens(settings, fingerprint)
    if not _stores_tokens(settings, encoder):
        return FirstEncoder(fingerprint)
    return FirstEncoder(fingerprint, learn_reduction(general_texts(), encoder, fingerprint, settings))


def _stores_tokens(settings: CreateSettings, encoder: Encoder) -> bool:
    """Whether token vectors of what is written are stored; a weightless encoder is for trials, where they only cost.

    Raises InvalidArgument where they are asked for and cannot be.
    """
    if settings.late_interaction == "none":
        return False
    is_asked = settings.late_interaction == "stored"
    if not is_asked and is_weightless(settings.encoder):
        return False
    try:
        token_width(encoder, settings.late_dims)
    except InvalidArgument:
        if is_asked:
            raise
        return False
    return True


@cache
def general_texts() -> tuple[str, ...]:
    """English prose that is on every machine: paragraphs of the manual that `help()` of Python shows.

    The axes along which token vectors vary most are mostly the model's, whatever the texts are about.
    """
    least, most = TEXT_CHARACTERS
    texts = [text for text in _paragraphs() if least <= len(text) <= most]
    return tuple(texts[place] for place in stratified(len(texts), TEXTS, seed=5).tolist())


def _paragraphs() -> Iterator[str]:
    from pydoc_data.topics import topics  # most of a megabyte, which nothing else needs

    for topic in sorted(topics):
        for paragraph in topics[topic].split("\n\n"):
            if ">>>" not in paragraph and "::=" not in paragraph:
                yield " ".join(paragraph.split())
