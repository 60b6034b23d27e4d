"""Disks that fill up: file systems in memory of their own, which only root may mount; elsewhere a test is skipped."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Disk:
    """A file system of its own."""

    folder: Path

    def leave(self, free: int) -> None:
        """Fill it with a file, up to so many free bytes."""
        self.empty()
        status = os.statvfs(self.folder)
        with (self.folder / "filler").open("wb") as file:
            for _ in range(status.f_bavail - free // status.f_frsize):
                file.write(bytes(status.f_frsize))

    def empty(self) -> None:
        """Remove that file."""
        (self.folder / "filler").unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """Let it be written to (rw) or not (ro)."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk]:
    """A disk of so many bytes at a folder that is not there yet, until the end of the block."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "shoal-test", folder]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
