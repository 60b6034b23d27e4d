"""The files in cluster/ against the schemas and the code that read them."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray._private.authentication import authentication_token_setup
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from jobs.build_index import app as build_app
from serve.app import NAME, validated
from shoal.cli.compact import app as compact_app
from shoal.cli.index import app as index_app
from shoal.settings import BuildSettings, CompactSettings

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = ["rayjob-build.yaml", "rayservice.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def kuberay(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Resource, cluster spec and network policy of a KubeRay file."""
    resource, policy = documents(f"kuberay/{name}")[:2]
    spec = resource["spec"]
    return resource, spec.get("rayClusterConfig") or spec["rayClusterSpec"], policy


def pods(name: str) -> Iterator[dict[str, Any]]:
    """Every pod template of a KubeRay file."""
    resource, cluster, _ = kuberay(name)
    yield cluster["headGroupSpec"]["template"]
    yield from (group["template"] for group in cluster["workerGroupSpecs"])
    if "submitterPodTemplate" in resource["spec"]:
        yield resource["spec"]["submitterPodTemplate"]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


def ray_up_environment() -> dict[str, str]:
    options = documents("ray-up.yaml")[0]["docker"]["run_options"]
    return dict(option.removeprefix("--env ").split("=", 1) for option in options if option.startswith("--env "))


def application(config: ServeDeploySchema) -> dict[str, Any]:
    [only] = config.applications
    return only.model_dump()


def serve_config() -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(documents("serve.yaml")[0])


def rayservice_config() -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(yaml.safe_load(kuberay("rayservice.yaml")[0]["spec"]["serveConfigV2"]))


class TestServeConfig:
    def test_the_application_is_ours_and_its_arguments_are_settings(self):
        described = application(serve_config())
        assert described["name"] == NAME
        assert described["import_path"] == "serve.app:build_app"
        assert validated(described["args"]).index == "s3://my-bucket/shoal"

    def test_nothing_listens_beyond_loopback_unless_asked(self):
        assert serve_config().http_options.host == "127.0.0.1"

    def test_where_it_listens_beyond_loopback_it_has_keys(self):
        config = rayservice_config()
        assert config.http_options.host == "0.0.0.0"
        assert not application(config)["args"].get("anonymous")
        for pod in pods("rayservice.yaml"):
            for container in pod["spec"]["containers"]:
                assert {"secretRef": {"name": "shoal-api-keys"}} in container["envFrom"]

    def test_kuberay_serves_the_same_application(self):
        assert application(rayservice_config()) == application(serve_config())
        assert rayservice_config().proxy_location == serve_config().proxy_location


@pytest.mark.parametrize("name", KUBERAY)
class TestKubeRay:
    def test_kind_and_fields(self, name):
        resource, cluster, _ = kuberay(name)
        assert resource["apiVersion"] == "ray.io/v1"
        allowed = {
            "RayService": {"serveConfigV2", "rayClusterConfig"},
            "RayJob": {
                "entrypoint",
                "submissionMode",
                "backoffLimit",
                "shutdownAfterJobFinishes",
                "ttlSecondsAfterFinished",
                "submitterPodTemplate",
                "rayClusterSpec",
            },
        }
        assert set(resource["spec"]) == allowed[resource["kind"]]
        assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
        assert set(cluster["headGroupSpec"]) == {"serviceType", "enableIngress", "rayStartParams", "template"}
        for group in cluster["workerGroupSpecs"]:
            assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        start = [group["rayStartParams"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
        assert all(isinstance(value, str) for parameters in start for value in parameters.values())

    def test_the_image_has_this_version_and_the_ray_that_is_declared(self, name):
        _, cluster, _ = kuberay(name)
        version = re.search(r'__version__ = "(.+)"', (ROOT / "shoal/system/version.py").read_text())[1]
        images = {container["image"] for pod in pods(name) for container in pod["spec"]["containers"]}
        assert len(images) == 1
        assert re.fullmatch(rf"\S+/shoal:{re.escape(version)}-(cpu|gpu)@sha256:[0-9a-f]{{64}}", images.pop())
        [requirement] = [line for line in PROJECT["optional-dependencies"]["core"] if line.startswith("ray[")]
        [lowest] = re.findall(r">=([0-9.]+)", requirement)
        assert cluster["rayVersion"].startswith(lowest)

    def test_pods_run_without_privileges(self, name):
        for pod in pods(name):
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["spec"]["automountServiceAccountToken"] is False
            for container in pod["spec"]["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
                assert mounts >= {"/tmp", "/home/ray"}  # where Ray, jobs and models write

    def test_containers_have_resources_and_ray_containers_have_probes_and_their_volumes(self, name):
        for pod in pods(name):
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
            for container in pod["spec"]["containers"]:
                assert container["resources"]["requests"] == container["resources"]["limits"]
                assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes
                if container["name"].startswith("ray-job"):
                    continue
                assert {"readinessProbe", "livenessProbe"} <= set(container)

    def test_the_dashboard_needs_the_token_and_is_not_reachable_from_other_pods(self, name):
        _, cluster, policy = kuberay(name)
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert cluster["headGroupSpec"]["enableIngress"] is False
        selected = policy["spec"]["podSelector"]["matchLabels"]
        assert all(pod["metadata"]["labels"].items() >= selected.items() for pod in pods(name))
        rules = policy["spec"]["ingress"]
        assert rules[0] == {"from": [{"podSelector": {"matchLabels": selected}}]}
        for rule in rules[1:]:
            [peer] = rule["from"]
            operator = peer["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
            # A pod of that name may run in any namespace.
            namespace = {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}} if operator else None
            assert peer.get("namespaceSelector") == namespace
            assert {port["port"] for port in rule["ports"]} <= ({8265, 8000} if operator else {8000})

    def test_pods_may_ask_each_other_the_name_server_and_the_store_alone(self, name):
        _, _, policy = kuberay(name)
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        among, names, store = policy["spec"]["egress"]
        assert among == {"to": [{"podSelector": policy["spec"]["podSelector"]}]}
        assert names["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
        assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
        [peer] = store["to"]
        assert store["ports"] == [{"port": 443}]
        # Whoever reaches these gets the role of the machine.
        assert "169.254.0.0/16" in peer["ipBlock"]["except"]

    def test_who_has_the_key_of_signatures_is_every_pod_that_reads_or_writes_the_index(self, name):
        _, cluster, _ = kuberay(name)
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            for container in group["template"]["spec"]["containers"]:
                assert {"secretRef": {"name": "shoal-signing-key", "optional": True}} in container["envFrom"]

    def test_no_container_holds_a_secret(self, name):
        for pod in pods(name):
            for container in pod["spec"]["containers"]:
                assert not re.search("KEY|SECRET|TOKEN|PASSWORD", " ".join(environment(container)))


def test_a_drain_takes_one_serving_pod_at_a_time():
    budget = documents("kuberay/rayservice.yaml")[2]
    assert (budget["apiVersion"], budget["kind"]) == ("policy/v1", "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    selected = budget["spec"]["selector"]["matchLabels"].items()
    assert all(pod["metadata"]["labels"].items() >= selected for pod in pods("rayservice.yaml"))


def test_ray_is_bounded_where_it_is_patched():
    """Parts of Serve are replaced in serve/ray_adapters and serve/worker_setup.py; another Ray has others."""
    everywhere = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    bounded = [line for line in everywhere if re.match(r"ray\b(?!-)", line)]
    assert bounded
    assert all(line.endswith(",<2.61") for line in bounded)


def test_every_node_has_the_same_known_serve_variables():
    source = Path(authentication_token_setup.__file__).parents[2] / "serve" / "_private"
    known = "".join(path.read_text() for path in source.glob("constants*.py"))
    everywhere = [environment(container) for pod in pods("rayservice.yaml") for container in pod["spec"]["containers"]]
    everywhere.append({name: value for name, value in ray_up_environment().items() if name != "RAY_AUTH_MODE"})
    assert all(variables == everywhere[0] for variables in everywhere)
    names = [name for name in everywhere[0] if name.startswith("RAY_SERVE_")]
    assert names
    assert [name for name in names if f'"{name}"' not in known] == []


class TestCapacity:
    """Every replica of the shipped application over the shipped build has a place, and so has a shard's second one."""

    def cpus(self) -> float:
        settings = validated(application(serve_config())["args"])
        words = shlex.split(kuberay("rayjob-build.yaml")[0]["spec"]["entrypoint"])
        replicas = int(words[words.index("--shards") + 1]) * settings.retriever_replicas
        replicas += settings.encoder_replicas + settings.ingress_replicas + settings.reranker_max_replicas
        return replicas * settings.cpus_per_replica

    def test_of_kubernetes(self):
        groups = kuberay("rayservice.yaml")[1]["workerGroupSpecs"]
        assert self.cpus() <= sum(
            group["minReplicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
            for group in groups
        )

    def test_of_virtual_machines(self):
        group = documents("ray-up.yaml")[0]["available_node_types"]["cpu"]
        size = {"m6i.2xlarge": 8}[group["node_config"]["InstanceType"]]
        assert self.cpus() <= group["max_workers"] * size


class TestBuildJob:
    def test_the_entrypoint_is_the_build_and_its_options_are_settings(self):
        words = shlex.split(kuberay("rayjob-build.yaml")[0]["spec"]["entrypoint"])
        assert words[:3] == ["python", "-m", "jobs.build_index"]
        given = typer.main.get_command(build_app).make_context("build_index", words[3:]).params
        fields = {
            name: value for name, value in given.items() if name in BuildSettings.model_fields and value is not None
        }
        settings = BuildSettings.model_validate(fields)
        assert settings.index == application(serve_config())["args"]["index"]

    def test_there_is_a_gpu_for_every_worker(self):
        resource, cluster, _ = kuberay("rayjob-build.yaml")
        gpus = sum(
            group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
            for group in cluster["workerGroupSpecs"]
        )
        words = shlex.split(resource["spec"]["entrypoint"])
        assert words[words.index("--workers") + 1] == str(gpus)
        assert words[words.index("--gpus-per-worker") + 1] == "1"


class TestRayUp:
    def test_ray_accepts_it(self):
        validate_config(prepare_config(documents("ray-up.yaml")[0]))

    def test_the_dashboard_listens_on_loopback_and_needs_the_token(self):
        config = documents("ray-up.yaml")[0]
        [start] = [command for command in config["head_start_ray_commands"] if "--head" in command]
        assert "--dashboard-host=127.0.0.1" in start
        assert ray_up_environment()["RAY_AUTH_MODE"] == "token"
        assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
        assert "security_group" not in config["provider"]

    def test_its_image_is_named_by_digest(self):
        assert re.search(r"/shoal:[0-9.]+-gpu@sha256:[0-9a-f]{64}$", documents("ray-up.yaml")[0]["docker"]["image"])

    def test_it_holds_no_secret(self):
        assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|ssh_private_key", (CLUSTER / "ray-up.yaml").read_text())

    def test_node_types(self):
        config = documents("ray-up.yaml")[0]
        assert config["head_node_type"] in config["available_node_types"]
        assert re.match(r"(g|p)\d", config["available_node_types"]["gpu"]["node_config"]["InstanceType"])

    def test_the_head_may_start_workers_that_have_a_profile(self):
        """Ray gives a head without a profile a role that may not pass another role on to the workers."""
        types = documents("ray-up.yaml")[0]["available_node_types"]
        assert {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in types.items()} == {
            "head": "shoal-head", "gpu": "shoal-storage", "cpu": "shoal-storage"
        }  # fmt: skip


class TestDockerfile:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    instructions = tuple(line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#"))

    def rest(self, keyword: str) -> list[str]:
        return [rest for name, rest in self.instructions if name == keyword]

    def test_instructions_are_known_and_the_user_is_not_root(self):
        known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}
        assert {name for name, _ in self.instructions} == known
        assert self.rest("USER") == ["ray"]
        assert "useradd --uid 1000" in self.text

    def test_what_it_copies_exists_and_passes_the_ignore_file(self):
        ignore = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
        sources = [source for copy in self.rest("COPY") for source in copy.split()[:-1]]
        assert all((ROOT / source).exists() for source in sources)
        assert {f"!{source.split('/')[0]}" for source in sources} == {line for line in ignore if line.startswith("!")}
        assert "*" in ignore

    def test_the_extra_is_one_of_the_project(self):
        assert "EXTRA=cpu" in self.rest("ARG")
        assert '".[$EXTRA,documents,mcp,tracing]"' in self.text
        assert {"cpu", "gpu"} <= set(PROJECT["optional-dependencies"])
        assert set(re.findall(r"--build-arg EXTRA=(\w+)", self.text)) == {"cpu", "gpu"}

    def test_dependencies_are_installed_before_the_code_is_copied(self):
        order = [rest for name, rest in self.instructions if name in ("RUN", "COPY")]
        install = next(index for index, rest in enumerate(order) if "pip install" in rest)
        assert order[install + 1 : -1] == ["shoal shoal", "jobs jobs", "serve serve"]

    def test_its_python_is_supported(self):
        [version] = [
            argument.removeprefix("PYTHON=") for argument in self.rest("ARG") if argument.startswith("PYTHON=")
        ]
        assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_second_application_of_the_documentation_is_one_that_the_endpoint_finds() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
    [beside] = yaml.safe_load(block)
    config = documents("serve.yaml")[0]
    both = ServeDeploySchema.model_validate({**config, "applications": [*config["applications"], beside]})
    assert both.applications[1].import_path == "serve.app:build_services"
    assert both.applications[1].route_prefix is None
    assert both.applications[1].name.startswith(f"{NAME}-")
    arguments = dict(beside["args"])
    assert arguments.pop("version")
    assert validated(arguments).index == validated(config["applications"][0]["args"]).index


class TestCompaction:
    """The CronJob that compacts what was written to the served index."""

    def pod(self) -> dict[str, Any]:
        job = documents("kuberay/cronjob-compact.yaml")[0]
        assert (job["apiVersion"], job["kind"], job["spec"]["concurrencyPolicy"]) == ("batch/v1", "CronJob", "Forbid")
        template = job["spec"]["jobTemplate"]["spec"]["template"]
        assert template["metadata"]["labels"] == {"app.kubernetes.io/name": "shoal-compact"}
        return template["spec"]

    def test_it_compacts_the_served_index_and_then_prunes_it(self):
        served = application(serve_config())["args"]["index"]
        [compacting], [pruning] = self.pod()["initContainers"], self.pod()["containers"]
        assert compacting["command"][:2] == ["shoal", "compact"]
        given = typer.main.get_command(compact_app).make_context("compact", compacting["command"][2:]).params
        fields = {name: given[name] for name in CompactSettings.model_fields if given[name] is not None}
        assert CompactSettings.model_validate(fields).index == served
        assert pruning["command"][:3] == ["shoal", "index", "prune"]
        commands = typer.main.get_command(index_app)
        assert commands.commands["prune"].make_context("prune", pruning["command"][3:]).params["index"] == served

    def test_its_pod_may_do_no_more_than_it_needs(self):
        pod = self.pod()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["initContainers"], *pod["containers"]):
            security = container["securityContext"]
            assert security == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert re.fullmatch(r"\S+/shoal:[0-9.]+-cpu@sha256:[0-9a-f]{64}", container["image"])
            secrets = [source["secretRef"]["name"] for source in container["envFrom"]]
            assert secrets == ["shoal-storage", "shoal-signing-key"]
        policy = documents("kuberay/cronjob-compact.yaml")[1]["spec"]
        assert (policy["policyTypes"], policy["ingress"]) == (["Ingress", "Egress"], [])
        _, store = policy["egress"]
        assert store["to"][0]["ipBlock"]["except"] == ["169.254.0.0/16"]
