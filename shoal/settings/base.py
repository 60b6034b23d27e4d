"""What all settings have in common."""

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A string that is not empty."""
REPEATS = "repeats"
"""Key in `json_schema_extra` of a field that has no option of its own: it takes what the option of another field, which
this names, has after its first value."""
SettingsPart = TypeVar("SettingsPart", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown name is an error, never ignored."""

    # Built when it is first used: a process needs few of all these models, and building them takes a tenth of a second.
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, protected_namespaces=())

    help_panel: ClassVar[str | None] = None
    """Heading above the options in `--help` that this model itself declares, not its bases; None: the name of the model
    without `Settings`."""

    def part(self, model: type[SettingsPart], **values: Any) -> SettingsPart:
        """Return settings of another model: what both have a field for is taken from here.

        Args:
            model: The model of the settings that are returned.
            values: Values that replace or complete those taken from here, by field.

        Raises:
            pydantic.ValidationError: A field that has no default is in neither, or a value does not fit the model.
        """
        shared = self.model_dump(include=set(model.model_fields))
        return model.model_validate(shared | values)
