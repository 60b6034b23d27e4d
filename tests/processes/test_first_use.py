"""Models that several threads use for the first time side by side, as a client's threads do."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST_USE = """
import sys, threading
from pydantic import ValidationError
from shoal.client import answers
sys.setswitchinterval(1e-6)
models = [model for model in vars(answers).values() if isinstance(model, type) and issubclass(model, answers.Answer)]
together, failures = threading.Barrier(8), []
def use():
    together.wait()
    for model in models:
        try:
            model.model_validate({})
        except ValidationError:
            pass
        except BaseException as error:
            failures.append(f"{model.__name__}: {error!r}")
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(models) > 10, models
assert not failures, failures
"""


def test_threads_may_be_the_first_to_read_answers() -> None:
    subprocess.run([sys.executable, "-c", FIRST_USE], cwd=ROOT, check=True, timeout=120)


def test_no_pydantic_is_allowed_that_lets_two_threads_build_one_model() -> None:
    """2.11.3 took the validator of the base for that of a model which another thread was building."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (floor,) = [name.partition(">=")[2] for name in project["dependencies"] if name.startswith("pydantic>=")]
    assert tuple(map(int, floor.split("."))) >= (2, 14)
