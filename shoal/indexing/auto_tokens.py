"""Whether a build with late_interaction=auto may store token vectors; the plan knows whether they fit."""

from shoal.encoders import is_weightless
from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.indexing.embed import PassageEncoder
from shoal.indexing.over_log import has_log
from shoal.indexing.tokens import token_width
from shoal.settings import BuildSettings

ANY_GIB = 1e6
"""Budget for token vectors that is none, in GiB: the most that late_gib may be."""


def follow_current(settings: BuildSettings, storage: Storage) -> tuple[BuildSettings, str | None]:
    """Settings whose late_interaction, if that is auto, goes by the current version, and a remark if it rules them out.

    So a build copies the vectors of a version without token vectors, instead of embedding all of it anew. Who names a
    multi-vector model wants its vectors stored.
    """
    if settings.late_interaction != "auto":
        return settings, None
    names_model = settings.late_encoder is not None
    if names_model:
        settings = settings.model_copy(update={"late_interaction": "stored"})
    if settings.reembed:
        return settings, None
    try:
        manifest = versions.current_manifest(storage)
    except (NotFound, CorruptIndex):
        return settings, None
    if not manifest.counts.passages and not has_log(storage):
        return settings, None
    if manifest.late is None and names_model:
        return settings, None
    if manifest.late is None:
        remark = (
            f"no token vectors are stored, as in {manifest.version} (--late-interaction stored embeds everything anew "
            "for them)"
        )
        return settings.model_copy(update={"late_interaction": "none"}), remark
    # At any size, which somebody has decided or let grow: without them reranking would take many times as long.
    stored = {"late_dims": manifest.late.dims, "late_bits": manifest.late.bits, "late_gib": ANY_GIB}
    kept = {name: value for name, value in stored.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=kept), None


def width_for_auto(settings: BuildSettings, encoder: PassageEncoder) -> int:
    """Dimensions of an encoder's token vectors if a build with late_interaction=auto may store them; 0 if it may not.

    A weightless encoder is for trials, where they would only cost, unless the current version has them
    (`follow_current`).
    """
    follows = settings.late_gib == ANY_GIB
    if settings.late_interaction != "auto" or (is_weightless(settings.encoder) and not follows):
        return 0
    try:
        return token_width(encoder, settings.late_dims)
    except InvalidArgument:
        return 0
