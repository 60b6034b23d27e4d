"""The names by which clients ask for models: those of what is served, and aliases that the operator has set."""

from collections.abc import Sequence

from shoal.engine.description import IndexDescription
from shoal.errors import InvalidArgument, NotFound
from shoal.inference.models import PRESETS

MOST_NAME = 100
"""Characters of a name that a message repeats."""


class ServedModels:
    """Checks the names of models that requests hold. Nothing is taken for another model without a word.

    A request that names no model means the one that is served: there is one encoder, and one reranker.

    Args:
        aliases: `NAME=SERVED`, as in the setting `model_alias`.
    """

    def __init__(self, aliases: Sequence[str]) -> None:
        self.aliases = dict(_parts(alias) for alias in aliases)

    def check_encoder(self, asked: str | None, description: IndexDescription) -> str:
        """Return the name of the encoder. Raises NotFound for a model that it is not, with what to do about it."""
        return self._check(asked, description.models.encoder, "encoder")

    def check_reranker(self, asked: str | None, description: IndexDescription) -> str:
        """Return the name of the reranker. Raises NotFound for a model that it is not, InvalidArgument without one."""
        served = description.models.reranker
        if served is None:
            raise InvalidArgument("this server has no reranker; start it with one (--reranker)")
        return self._check(asked, served, "reranker")

    def names_of(self, served: str) -> list[str]:
        """Every name by which a model that is served may be asked for, its own first."""
        return [served, *(name for name, meant in self.aliases.items() if _is_same(meant, served))]

    def _check(self, asked: str | None, served: str, role: str) -> str:
        if asked is None or _is_same(asked, served):
            return served
        shown = asked if len(asked) <= MOST_NAME else f"{asked[:MOST_NAME]}..."
        meant = self.aliases.get(asked)
        if meant is None:
            raise NotFound(
                f"the model {shown!r} is not served here; the {role} is {served!r}: ask for that, or start the server "
                f"with --model-alias {shown}={served}",
                param="model",
            )
        if not _is_same(meant, served):
            raise NotFound(
                f"the model {shown!r} is another name of {meant!r} here, and the {role} is {served!r}: ask for that, "
                "or change --model-alias",
                param="model",
            )
        return served


def _parts(alias: str) -> tuple[str, str]:
    name, _, served = alias.partition("=")
    return name.strip(), served.strip()


def _is_same(name: str, served: str) -> bool:
    """Whether two names are those of one model: also by its preset and by its repository."""
    return name == served or _repository(name) == _repository(served)


def _repository(name: str) -> str:
    preset = PRESETS.get(name)
    return preset.hub if preset else name
