"""One run of a training: its files in `OUTPUT.work` while it goes on, the folder OUTPUT when it is done.

Everything is written under another name and renamed, so the same command continues after a kill at any moment.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.encoders import load_encoder
from shoal.errors import Conflict, InvalidArgument
from shoal.inference import models
from shoal.lexical.analyzer import Analyzer
from shoal.settings import EncoderSettings, TrainSettings
from shoal.system.atomic_files import replace_file
from shoal.training import judgements
from shoal.training.mining import Examples, mine

PLAN, LOCK, EXAMPLES, RESULT = "plan.json", "lock", "examples.json", "result"
_FREE = {"output", "threads", "workers", "gpus_per_worker", "checkpoint_s", "licence", "device"}
"""Settings that may differ between the runs of one training: they change how fast the result comes, not what it is."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One training: what was asked for and where its files are."""

    settings: TrainSettings
    data_digest: str

    @property
    def output(self) -> Path:
        """The folder of the result."""
        return Path(self.settings.output)

    @property
    def work(self) -> Path:
        """The folder of the files that are needed until the result is there."""
        return self.output.with_name(f"{self.output.name}.work")

    def on_threads(self, threads: int) -> "TrainingRun":
        """Return the same training with this many CPU threads in a worker."""
        return TrainingRun(self.settings.model_copy(update={"threads": threads}), self.data_digest)

    @property
    def plan(self) -> str:
        """The digest of all that decides the result."""
        asked = self.settings.model_dump(exclude=_FREE | {"data"})
        return hashlib.sha256(json.dumps([asked, self.data_digest], sort_keys=True).encode()).hexdigest()

    def finished(self) -> dict[str, Any] | None:
        """Return what the result says of itself if this training has ended before.

        Raises Conflict when the folder holds something else.
        """
        if not self.output.exists():
            return None
        try:
            description: dict[str, Any] = json.loads((self.output / models.TRAINED).read_bytes())
        except (OSError, ValueError):
            description = {}
        if description.get("plan") != self.plan:
            raise Conflict(f"{self.output} exists and is not the result of this training: name another --output")
        return description

    def begin(self) -> None:
        """Make the working folder, or find that of an earlier run. Raises Conflict if it was for another training."""
        path = self.work / PLAN
        if path.exists():
            if json.loads(path.read_bytes())["plan"] != self.plan:
                raise Conflict(
                    f"{self.work} holds an unfinished training with other settings or data: give the same ones to go "
                    "on, name another --output, or remove the folder"
                )
            return
        self.work.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps({"plan": self.plan}).encode())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this machine out of the working folder. Raises Conflict if one is in there."""
        with (self.work / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Conflict(f"another process is training in {self.work}: wait for it, or end it") from None
            yield

    def examples(self, threads: int) -> Examples:
        """Return what is trained on, mined if no earlier run has done it."""
        path, settings = self.work / EXAMPLES, self.settings
        if not path.exists():
            read = judgements.read(Path(settings.data), settings.dev_share, settings.dev_queries, settings.seed)
            encoder = load_encoder(EncoderSettings(encoder=settings.encoder, device=settings.device, threads=threads))
            examples = mine(read, encoder, Analyzer(settings), settings.mine_top_k, settings.dev_top_k)
            if not examples.train:
                raise InvalidArgument(
                    f"{settings.data} has no passage that could serve as a negative: give more passages, or negatives",
                    param="data",
                )
            examples.save(path)
        return Examples.load(path)

    def publish(self) -> dict[str, Any]:
        """Turn the finished result into the output, remove what was needed on the way, and return what it says."""
        (self.work / RESULT).rename(self.output)
        shutil.rmtree(self.work)
        description: dict[str, Any] = json.loads((self.output / models.TRAINED).read_bytes())
        return description


def plan_training(settings: TrainSettings) -> TrainingRun:
    """Look at the data. Raises NotFound or InvalidArgument when there is none."""
    data = Path(settings.data).expanduser().absolute()
    if not data.is_dir():
        raise InvalidArgument(f"there is no folder {data}: --data names one with judgements", param="data")
    # Workers run in folders of their own, where relative paths would mean something else.
    paths = {"data": str(data), "output": str(Path(settings.output).expanduser().absolute())}
    for field in ("encoder", "base"):
        name = getattr(settings, field)
        if name is not None and Path(name).expanduser().is_dir():
            paths[field] = str(Path(name).expanduser().absolute())
    return TrainingRun(settings.model_copy(update=paths), judgements.digest(data))
