"""The chart, rendered and checked by Helm itself, against the commands and the configuration that it writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal import __version__
from tests.support.deployments import CHART, ROOT, check_command, check_serve_config, find_helm, run_helm

KUBERAY = ROOT / "cluster" / "kuberay"
OTHER_VALUES = {
    "index": "s3://corpora/fish",
    "image": {"digest": f"sha256:{'ab' * 32}", "pullSecrets": ["registry"]},
    "storage": {"secret": "fish-storage", "endpoint": "https://store.example:9443", "ports": [9443]},
    "store": {"enabled": False},
    "build": {"source": "s3://corpora/texts", "shards": 4, "options": ["--title-field", "title"]},
    "apiKeysSecret": "fish-keys",
    "tracing": {"endpoint": "http://collector:4318"},
}
SIGNING = {"secretRef": {"name": "shoal-signing-key", "optional": True}}

Documents = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = find_helm(tmp_path_factory.mktemp("helm"))
    if program is None:
        pytest.skip("there is no Helm here: make charts")
    return program


def render(helm: str, folder: Path, values: dict[str, Any]) -> Documents:
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    rendered = run_helm(helm, "template", "fish", str(CHART), "--values", str(folder / "values.yaml"))
    assert rendered.returncode == 0, rendered.stderr
    documents = [document for document in yaml.safe_load_all(rendered.stdout) if document]
    by_name = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(by_name) == len(documents)
    return by_name


@pytest.fixture(scope="module", params=["defaults", "others"])
def rendered(request: pytest.FixtureRequest, helm: str, tmp_path_factory: pytest.TempPathFactory) -> Documents:
    values = OTHER_VALUES if request.param == "others" else {}
    return render(helm, tmp_path_factory.mktemp("values"), values)


@pytest.fixture(scope="module")
def defaults(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return render(helm, tmp_path_factory.mktemp("defaults"), {})


@pytest.fixture(scope="module")
def others(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return render(helm, tmp_path_factory.mktemp("others"), OTHER_VALUES)


def pods(documents: Documents) -> Iterator[dict[str, Any]]:
    for document in documents.values():
        spec = document.get("spec", {})
        match document["kind"]:
            case "Job" | "StatefulSet":
                yield spec["template"]
            case "CronJob":
                yield spec["jobTemplate"]["spec"]["template"]
            case "RayService":
                cluster = spec["rayClusterConfig"]
                yield cluster["headGroupSpec"]["template"]
                yield from (group["template"] for group in cluster["workerGroupSpecs"])


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def container(documents: Documents, name: str) -> dict[str, Any]:
    (found,) = [each for pod in pods(documents) for each in containers(pod) if each["name"] == name]
    return found


def environment(each: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in each["env"]}


def test_helm_lints_it_without_a_word(helm: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(OTHER_VALUES))
    for more in ([], ["--values", str(tmp_path / "values.yaml")]):
        linted = run_helm(helm, "lint", "--strict", "--quiet", str(CHART), *more)
        assert (linted.returncode, linted.stdout.strip(), linted.stderr) == (0, "", ""), linted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"serv": {"workers": 3}}, "serv"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"serve": {"args": {"anonymous": True}}}, "args"),
        ({"store": {"enabled": False}}, "set index to the URI of the index root"),
    ],
)
def test_helm_refuses_values_that_mean_nothing(values: dict[str, Any], message: str, helm: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    refused = run_helm(helm, "template", "fish", str(CHART), "--values", str(tmp_path / "values.yaml"))
    assert refused.returncode != 0
    assert message in refused.stderr


def test_what_it_brings_up(defaults: Documents, others: Documents) -> None:
    assert sorted(defaults) == [
        *[("CronJob", "fish-compact"), ("Job", "fish-build-1")],
        *[("NetworkPolicy", f"fish-{part}") for part in ("build", "compact", "serve", "store")],
        *[("PodDisruptionBudget", "fish-serve"), ("RayService", "fish")],
        *[("Secret", "fish-store"), ("Service", "fish-store"), ("StatefulSet", "fish-store")],
    ]
    assert {name for _, name in others} == {"fish", "fish-build", "fish-build-1", "fish-compact", "fish-serve"}


def test_pods_run_without_privileges_and_have_what_they_need(rendered: Documents) -> None:
    for pod in pods(rendered):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in spec["volumes"]}
        for each in containers(pod):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["requests"] == each["resources"]["limits"]
            assert {mount["name"] for mount in each["volumeMounts"]} - {"data"} == volumes
            assert "/tmp" in {mount["mountPath"] for mount in each["volumeMounts"]}
            assert all("value" in variable or "valueFrom" in variable for variable in each["env"])
            if each["name"] != "store":
                assert each["image"].startswith(f"registry.example.com/shoal:{__version__}-cpu")
                assert SIGNING in each["envFrom"]


def test_the_cluster_is_that_of_the_files_for_kuberay(rendered: Documents) -> None:
    shipped = next(yaml.safe_load_all((KUBERAY / "rayservice.yaml").read_text()))["spec"]["rayClusterConfig"]
    cluster = rendered["RayService", "fish"]["spec"]["rayClusterConfig"]
    for name in ("rayVersion", "authOptions"):
        assert cluster[name] == shipped[name]
    for name in ("serviceType", "enableIngress", "rayStartParams"):
        assert cluster["headGroupSpec"][name] == shipped["headGroupSpec"][name]
    pairs = [(cluster["headGroupSpec"], shipped["headGroupSpec"])]
    pairs += list(zip(cluster["workerGroupSpecs"], shipped["workerGroupSpecs"], strict=True))
    for ours, theirs in pairs:
        (one,), (other,) = (group["template"]["spec"]["containers"] for group in (ours, theirs))
        for name in ("readinessProbe", "livenessProbe", "ports", "securityContext", "volumeMounts"):
            assert one[name] == other[name]
        assert environment(one).items() >= environment(other).items()


def test_every_command_takes_its_options(rendered: Documents) -> None:
    checked = set()
    for pod in pods(rendered):
        for each in containers(pod):
            if each["name"] in ("build", "compact", "prune", "corpus"):
                options = check_command(each["command"])
                checked.add(each["name"])
                if each["name"] != "corpus":
                    assert options["index"] in ("s3://shoal/index", "s3://corpora/fish")
    assert checked >= {"build", "compact", "prune"}


def test_the_head_waits_for_the_first_version(defaults: Documents) -> None:
    *_, script, index = container(defaults, "index")["command"]
    assert script == 'until shoal index show --index "$0" > /dev/null; do sleep 5; done'
    assert check_command(["shoal", "index", "show", "--index", index])["index"] == "s3://shoal/index"


def test_what_is_served(defaults: Documents, others: Documents) -> None:
    trial = check_serve_config(defaults["RayService", "fish"]["spec"]["serveConfigV2"])
    own = check_serve_config(others["RayService", "fish"]["spec"]["serveConfigV2"])
    assert (trial.index, trial.anonymous) == ("s3://shoal/index", True)
    assert (own.index, own.anonymous) == ("s3://corpora/fish", False)
    for documents, keyed in ((defaults, False), (others, True)):
        for name in ("ray-head", "ray-worker"):
            assert ({"secretRef": {"name": "fish-keys"}} in container(documents, name)["envFrom"]) is keyed


def test_every_replica_has_a_place(defaults: Documents) -> None:
    settings = check_serve_config(defaults["RayService", "fish"]["spec"]["serveConfigV2"])
    (group,) = defaults["RayService", "fish"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    shards = int(check_command(container(defaults, "build")["command"])["shards"])
    replicas = shards * settings.retriever_replicas + settings.encoder_replicas
    replicas += settings.ingress_replicas + settings.reranker_max_replicas
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert replicas * settings.cpus_per_replica <= group["minReplicas"] * cpus
    assert group["minReplicas"] >= settings.retriever_replicas  # replicas_per_node is 1


def test_who_may_ask_whom(rendered: Documents) -> None:
    policies = {name: document["spec"] for (kind, name), document in rendered.items() if kind == "NetworkPolicy"}
    for pod in pods(rendered):
        labels = pod["metadata"]["labels"].items()
        (policy,) = [each for each in policies.values() if each["podSelector"]["matchLabels"].items() <= labels]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
    has_store = "fish-store" in policies
    for name, policy in policies.items():
        outside = [rule for rule in policy["egress"] if "ipBlock" in rule["to"][0]]
        assert all("169.254.0.0/16" in rule["to"][0]["ipBlock"]["except"] for rule in outside)
        ports = [[port["port"] for port in rule["ports"]] for rule in outside]
        assert ports == ([] if name == "fish-store" else [[443]] if has_store else [[443, 9443]])
    dashboard = [rule for rule in policies["fish-serve"]["ingress"] if {"port": 8265} in rule.get("ports", [])]
    (peer,) = [each for rule in dashboard for each in rule["from"]]
    assert peer["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
    assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}}
    budget = rendered["PodDisruptionBudget", "fish-serve"]["spec"]
    assert budget == {"maxUnavailable": 1, "selector": policies["fish-serve"]["podSelector"]}


def test_how_the_index_root_is_reached(defaults: Documents, others: Documents) -> None:
    secret = defaults["Secret", "fish-store"]
    assert set(secret["data"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    for documents, name, endpoint in (
        (defaults, "fish-store", "http://fish-store:9000"),
        (others, "fish-storage", "https://store.example:9443"),
    ):
        for pod in pods(documents):
            for each in (each for each in containers(pod) if each["name"] != "store"):
                assert {"secretRef": {"name": name}} in each["envFrom"]
                assert environment(each)["AWS_ENDPOINT_URL"] == endpoint
    assert environment(container(others, "ray-worker"))["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in environment(container(defaults, "ray-worker"))
