"""What is said of modes that a version cannot answer names what exists."""

import re
from itertools import chain
from pathlib import Path

import pytest

from shoal.cli.options import option
from shoal.errors import InvalidArgument
from shoal.modes import BUILD_OPTION_OF, RETRIEVERS_OF, Mode, how_to_build
from shoal.settings import BuildSettings
from shoal.shard.messages import ShardQuery
from shoal.shard.retrieval import retrieve

ROOT = Path(__file__).parents[2]


def test_options_that_give_a_version_its_retrievers_exist() -> None:
    assert set(BUILD_OPTION_OF) <= set(chain.from_iterable(RETRIEVERS_OF.values()))
    assert set(BUILD_OPTION_OF.values()) <= {option(field) for field in BuildSettings.model_fields}
    assert how_to_build("lexical") == "build it with --lexical"


def test_every_option_of_a_build_that_a_message_names_exists() -> None:
    named = set()
    for package in ("shoal", "serve", "jobs"):
        for file in (ROOT / package).rglob("*.py"):
            named |= set(re.findall(r"build it with (--[a-z-]+)", file.read_text()))
    assert "--late-interaction" in named
    assert named <= {option(field) for field in BuildSettings.model_fields}


@pytest.mark.parametrize(("mode", "remedy"), [("dense", "build it again"), ("lexical", "build it with --lexical")])
def test_a_shard_that_lacks_a_retriever_names_no_option_that_does_not_exist(mode: Mode, remedy: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        retrieve({}, [ShardQuery("fish", None, mode)], 1, [None])
    assert caught.value.message == f"this version has no {mode} index; {remedy}"
