"""How the token vectors of a build are reduced: learned once from a sample of the input, before it is embedded."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from shoal import layout
from shoal.build.commits import committed_units
from shoal.build.embed import PassageEncoder, require_tokens
from shoal.build.sample import stratified
from shoal.errors import InvalidArgument
from shoal.late import codec
from shoal.late.codec import Codec
from shoal.manifest import LateInfo
from shoal.plan import Plan
from shoal.records import Passage
from shoal.sources import read_unit
from shoal.storage import Storage

PASSAGES, UNITS = 512, 32
"""Passages that are read to learn from, and units that they come from at most."""
TOKENS = 64
"""Tokens of one passage that are learned from, evenly spread over it."""


def train_codec(plan: Plan, encoder: PassageEncoder, storage: Storage) -> None:
    """Learn how token vectors are reduced, once. The same input and encoder give the same reduction.

    Raises InvalidArgument when the encoder has no token vectors, or too short ones, or the input holds no passage.
    """
    if storage.exists(layout.codec(plan.hash)):
        return
    texts = [passage.content for passage in _sample(plan, storage)]
    if not texts:
        raise InvalidArgument(
            "nothing to index: the input holds no passage whose token vectors could be stored", param="source"
        )
    encoder = require_tokens(encoder)
    try:
        encoded = encoder.encode_passage_tokens(texts)
    except InvalidArgument as error:
        raise InvalidArgument(f"late_interaction=stored: {error.message}", param="late_interaction") from error
    tokens = [one.tokens[stratified(len(one.tokens), TOKENS, seed=4)] for one in encoded]
    finite = [part for part in tokens if np.isfinite(part).all()]
    if not finite:
        raise InvalidArgument("the token vectors are not finite; check the encoder and its dtype", param="dtype")
    sample = np.concatenate(finite)
    # Clearing the staging folder may have been interrupted: units of before were perhaps reduced otherwise.
    for unit in committed_units(storage, plan.hash):
        storage.delete(layout.unit_commit(plan.hash, unit))
    learned = codec.train(sample, plan.late.late_dims, plan.late.late_bits)
    storage.write(layout.codec(plan.hash), learned.to_bytes())


def read_codec(plan: Plan, storage: Storage) -> Codec:
    """Read what `train_codec` learned. Raises NotFound."""
    return Codec.from_bytes(storage.read(layout.codec(plan.hash)))


def describe_tokens(plan: Plan) -> LateInfo | None:
    """Describe the stored token vectors for the manifest; None when the build stores none."""
    return LateInfo(dims=plan.late.late_dims, bits=plan.late.late_bits) if plan.stores_tokens else None


def _sample(plan: Plan, storage: Storage) -> list[Passage]:
    """Passages from all over the input; of an input whose chosen units hold none, whatever there is first."""
    units = [plan.units[number] for number in stratified(len(plan.units), UNITS, seed=3).tolist()]
    each = -(-PASSAGES // max(1, len(units)))

    def passages(number: int) -> Iterator[Passage]:
        for item in read_unit(plan, plan.units[number], storage):
            if isinstance(item, tuple):
                yield item[1]

    found = [passage for unit in units for passage in islice(passages(unit.number), each)]
    everything = (passage for number in range(len(plan.units)) for passage in passages(number))
    return found or list(islice(everything, PASSAGES))
