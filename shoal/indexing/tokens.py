"""How the token vectors of a build are reduced: learned once from a sample of the input, before it is embedded."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout
from shoal.index_root.manifest import LateInfo
from shoal.index_root.storage import Storage
from shoal.indexing.base import Base
from shoal.indexing.embed import PassageEncoder, encode_tokens, require_tokens
from shoal.indexing.plan import Plan
from shoal.indexing.sample import stratified
from shoal.indexing.unit_input import read_unit
from shoal.late import codec
from shoal.late.codec import Codec
from shoal.records import FloatArray
from shoal.settings import LateSettings

PASSAGES = 512
"""Passages that the reduction of token vectors is learned from, about and at most."""
SHARE = 16
"""One passage in so many is learned from, so that a small build does not encode everything twice."""
LEAST = 32
"""Passages that are learned from at least: their tokens are several times the dimensions of a vector."""
UNITS = 32
"""Most units that the passages to learn from come from."""
TOKENS = 64
"""Most tokens of one passage that the reduction is learned from, evenly spread over it."""


def train_codec(plan: Plan, encoder: PassageEncoder, storage: Storage) -> None:
    """Learn how token vectors are reduced, once. The same input and encoder give the same reduction.

    Two runs of one build, on different machines, may learn reductions that differ in their last bits: the later one
    keeps what is there, and every unit names the one that its token vectors were reduced with.
    Raises InvalidArgument when the encoder has no token vectors, or too short ones, or the input holds no passage.
    """
    if storage.exists(layout.codec(plan.hash)):
        return
    texts = _sample(plan, storage)
    if not texts:
        raise InvalidArgument(
            "nothing to index: the input holds no passage whose token vectors could be stored", param="source"
        )
    learned = learn_reduction(texts, encoder, plan.encoder, plan.late)
    if not storage.exists(layout.codec(plan.hash)):  # encoding takes long: another run may have been faster
        storage.write(layout.codec(plan.hash), learned.to_bytes())


def learn_reduction(
    texts: Sequence[str], encoder: PassageEncoder, fingerprint: Fingerprint, late: LateSettings
) -> Codec:
    """Learn from passages how the token vectors of an encoder are reduced.

    Args:
        texts: At least one.
        encoder: Reads them.
        fingerprint: What it is.
        late: Dimensions and bits.

    Raises:
        InvalidArgument: It has no token vectors, or too short ones, or such as are not finite.
    """
    hidden = token_width(encoder, late.late_dims)
    kept: dict[int, FloatArray] = {}
    for row, encoded in encode_tokens(require_tokens(encoder), texts, fingerprint.token_length, hidden):
        part = encoded.tokens[stratified(len(encoded.tokens), TOKENS, seed=4)]
        if np.isfinite(part).all():
            kept[row] = part
    if not kept:
        raise InvalidArgument("the token vectors are not finite; check the encoder and its dtype", param="dtype")
    sample = np.concatenate([kept[row] for row in sorted(kept)])
    return codec.train(sample, late.late_dims, late.late_bits)


def inherited_version(plan: Plan) -> str | None:
    """The version whose reduction of token vectors a build goes on with, as it takes codes over; None learns one.

    That of its base, or the one that what is carried over was written to, which may hold nothing itself.
    """
    if plan.base is not None or plan.carried is None or plan.carried.embedded:
        return plan.base
    return plan.carried.version or None


def inherit_codec(plan: Plan, storage: Storage) -> None:
    """Take over how a version has reduced its token vectors, once (`inherited_version`).

    Raises Conflict when the version is gone, CorruptIndex when it is damaged.
    """
    version = inherited_version(plan)
    if version is not None and not storage.exists(layout.codec(plan.hash)):
        storage.write(layout.codec(plan.hash), Base(storage, version, stores_tokens=True).codec().to_bytes())


def token_width(encoder: PassageEncoder, dims: int) -> int:
    """Tell of how many dimensions an encoder's token vectors are, by encoding a word.

    Raises InvalidArgument, naming the option, when it has no token vectors, or shorter ones than `dims`.
    """
    encoder = require_tokens(encoder)
    try:
        [encoded] = encoder.encode_passage_tokens(["width"])
    except InvalidArgument as error:
        raise InvalidArgument(f"late_interaction=stored: {error.message}", param="late_interaction") from error
    width = int(encoded.tokens.shape[1])
    if dims > width:
        raise InvalidArgument(
            f"late_dims={dims}, but the encoder's token vectors have {width} dimensions; take {width} at most, or "
            "another encoder",
            param="late_dims",
        )
    return width


def read_codec(plan: Plan, storage: Storage) -> Codec:
    """Read what `train_codec` learned. Raises NotFound."""
    return Codec.from_bytes(storage.read(layout.codec(plan.hash)))


def codec_digest(plan: Plan, storage: Storage) -> str | None:
    """Digest of what `train_codec` learned, as commit records name it; None when the build stores no token vectors."""
    return read_codec(plan, storage).digest if plan.stores_tokens else None


def describe_tokens(plan: Plan) -> LateInfo | None:
    """Describe the stored token vectors for the manifest; None when the build stores none."""
    return LateInfo(dims=plan.late.late_dims, bits=plan.late.late_bits) if plan.stores_tokens else None


def _sample(plan: Plan, storage: Storage) -> list[str]:
    """Texts from all over the input and its units; of an input whose chosen units hold none, whatever there is first.

    Memory: the texts of one unit, and the sample.
    """
    before = 0 if plan.carried is None else sum(1 for _ in plan.carried.units())  # which are no part of the input
    count = len(plan.units) - before
    units = [plan.units[before + number] for number in stratified(count, UNITS, seed=3).tolist()]
    wanted = min(PASSAGES, max(LEAST, plan.estimated_passages // SHARE))
    each = -(-wanted // max(1, len(units)))

    def texts(number: int) -> Iterator[str]:
        for item in read_unit(plan, plan.units[number], storage):
            if isinstance(item, tuple):
                yield item[1].content

    sample: list[str] = []
    for unit in units:
        held = list(texts(unit.number))
        sample += [held[number] for number in stratified(len(held), each, seed=unit.number)]
    everything = (text for number in range(before, len(plan.units)) for text in texts(number))
    return sample or list(islice(everything, PASSAGES))
