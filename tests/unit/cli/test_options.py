import json
from typing import Any, Literal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from typer.testing import CliRunner

from shoal.cli.options import AsJson, parse, settings_command, to_arguments
from shoal.errors import InvalidArgument, NotFound
from shoal.settings import BuildSettings, RunSettings, Settings
from shoal.settings.base import REPEATS


class EngineSettings(Settings):
    power: int = Field(3, ge=1, le=100, description="Power [kW] of the engine.")


class BoatSettings(EngineSettings):
    name: str = Field(min_length=1, description="Name of the boat.")
    colour: Literal["red", "blue"] = Field("red", description="Colour.")
    crew: list[str] | None = Field(None, description="Who comes along.")
    length: float | None = Field(None, gt=0, description="Length in metres.")
    sails: bool = Field(True, description="Whether it has sails.")


app = typer.Typer()


@settings_command(app, BoatSettings)
def sail(settings: BoatSettings, knots: int = 5, as_json: AsJson = False) -> None:
    """Sail away."""
    if settings.name == "Titanic":
        raise NotFound("it sank")
    typer.echo(
        json.dumps({"settings": settings.model_dump(), "given": sorted(settings.model_fields_set), "knots": knots})
    )


def run(*arguments: str, **variables: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env=variables)


def test_options_that_are_not_given_keep_their_defaults_and_stay_unset() -> None:
    result = json.loads(run("--name", "Ann").stdout)
    assert result["settings"] == {
        "power": 3, "name": "Ann", "colour": "red", "crew": None, "length": None, "sails": True
    }  # fmt: skip
    assert result["given"] == ["name"]
    assert result["knots"] == 5


def test_every_kind_of_value() -> None:
    flags = ["--name=Ann", "--colour=blue", "--crew", "a, b", "--length=2.5", "--no-sails", "--power=7", "--knots=9"]
    result = json.loads(run(*flags).stdout)
    assert result["settings"] == {
        "power": 7, "name": "Ann", "colour": "blue", "crew": ["a", "b"], "length": 2.5, "sails": False
    }  # fmt: skip
    assert result["knots"] == 9


def test_an_empty_string_is_an_empty_list() -> None:
    assert json.loads(run("--name", "Ann", "--crew", "").stdout)["settings"]["crew"] == []


def test_variables_count_as_given_and_options_win_over_them() -> None:
    variables = {"SHOAL_NAME": "Ann", "SHOAL_SAILS": "0", "SHOAL_POWER": "8", "SHOAL_CREW": "a,b"}
    result = json.loads(run("--power", "9", **variables).stdout)
    assert result["settings"]["power"] == 9
    assert result["settings"]["sails"] is False
    assert result["settings"]["crew"] == ["a", "b"]
    assert result["given"] == ["crew", "name", "power", "sails"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--name (or SHOAL_NAME) is required"),
        (["--name", ""], "--name: string should have at least 1 character (got '')"),
        (["--name", "x", "--power", "0"], "--power: input should be greater than or equal to 1 (got '0')"),
        (["--name", "x", "--power", "much"], "--power: input should be a valid integer"),
        (["--name", "x", "--colour", "green"], "--colour: input should be 'red' or 'blue' (got 'green')"),
        (["--name", "x", "--length", "0"], "--length: input should be greater than 0 (got '0')"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_all_wrong_values_are_named_at_once() -> None:
    stderr = run("--power", "0", "--colour", "green").stderr
    assert all(option in stderr for option in ("--power", "--colour", "--name"))


def test_json_of_an_error() -> None:
    result = run("--name", "x", "--power", "0", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"] | {"message": ""} == {
        "code": "INVALID_ARGUMENT", "message": "", "param": "--power"
    }  # fmt: skip


def test_errors_of_the_command_itself_are_reported_too() -> None:
    result = run("--name", "Titanic")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: it sank\n")


def test_help_shows_required_options_first_then_groups_by_class() -> None:
    text = run("--help", COLUMNS="120", TERM="dumb").stdout
    places = [
        text.index(part) for part in ("Sail away.", "Required", "--name", "Boat", "--colour", "Engine", "--power")
    ]
    assert places == sorted(places)
    assert "Power [kW] of the engine. (from 1 to 100; default 3)" in text
    assert "(red, blue; default red)" in text
    assert "(default yes)" in text
    assert "--no-sails" in text


def test_the_function_stays_callable() -> None:
    sail(settings=BoatSettings(name="Ann"))


@pytest.mark.parametrize("model", [BuildSettings, RunSettings])
def test_real_settings_have_an_option_for_every_field(model: type[Settings]) -> None:
    real = typer.Typer()

    @settings_command(real, model)
    def command(settings: Settings) -> None: ...

    text = CliRunner().invoke(real, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    for field, info in model.model_fields.items():
        option = (info.json_schema_extra or {}).get(REPEATS, field)  # type: ignore[union-attr]
        assert f"--{option.replace('_', '-')} " in text  # type: ignore[union-attr]
        assert info.description


class FleetSettings(Settings):
    boat: str = Field(min_length=1, description="A boat.")
    more_boats: list[str] = Field([], json_schema_extra={REPEATS: "boat"}, description="Further boats.")


def test_an_option_may_be_given_several_times_and_its_values_hold_any_character() -> None:
    fleet = typer.Typer()

    @settings_command(fleet, FleetSettings)
    def command(settings: FleetSettings) -> None:
        typer.echo(json.dumps([settings.boat, *settings.more_boats]))

    def sailed(*arguments: str, **variables: str) -> Any:
        return json.loads(CliRunner().invoke(fleet, list(arguments), env=variables).stdout)

    assert sailed("--boat", "Ann, of Hull", "--boat=b") == ["Ann, of Hull", "b"]
    assert sailed("--boat", "a") == ["a"]
    assert sailed(SHOAL_BOAT="the old one") == ["the old one"]
    settings = FleetSettings(boat="a", more_boats=["b, c", "d"])
    assert to_arguments(settings) == ["--boat=a", "--boat=b, c", "--boat=d"]
    assert CliRunner().invoke(fleet, [], env={}).exit_code == 2


def test_arguments_are_those_that_were_given() -> None:
    settings = BoatSettings(name="-x=1", crew=["a", "b"], sails=False)
    assert to_arguments(settings) == ["--name=-x=1", "--crew=a,b", "--no-sails"]
    assert to_arguments(BoatSettings(name="x", crew=[], sails=True)) == ["--name=x", "--crew=", "--sails"]


words = st.text(min_size=1, alphabet=st.characters(exclude_characters=",", exclude_categories=["Cs", "Cc", "Z"]))


@given(
    st.fixed_dictionaries(
        {"name": st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))},
        optional={
            "power": st.integers(1, 100),
            "colour": st.sampled_from(["red", "blue"]),
            "crew": st.lists(words),
            "length": st.floats(0, exclude_min=True, allow_infinity=False),
            "sails": st.booleans(),
        },
    )
)
def test_settings_survive_the_command_line(values: dict[str, Any]) -> None:
    settings = BoatSettings(**values)
    assert BoatSettings(**json.loads(run(*to_arguments(settings)).stdout)["settings"]) == settings


def test_parse_refuses_what_pydantic_refuses() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(BoatSettings, {"name": "x", "power": "101"})
    assert caught.value.param == "--power"
