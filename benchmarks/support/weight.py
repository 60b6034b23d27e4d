"""What opening an index in this process takes, step by step: processor time and memory.

Run by benchmarks.in_process in a process of its own; nothing of Shoal is imported before it begins.
"""

import builtins
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.support.vector_stores import memory

Cost = tuple[float, float]
"""Seconds of processor time, and MiB of resident memory."""
_STEPS = {
    "shoal.engine.models.plan_serving": "plan: manifest, weights hashed",
    "shoal.engine.models.load_encoder": "load the encoder",
    "shoal.search.local.open_shards": "open the shards",
}
"""Functions that are measured while an index is opened."""
_LEAST_S, _LEAST_MIB = 0.01, 1.0
"""A library that takes less of both is told among the others."""
_LARGEST = 8
"""Mapped files that are told of."""


class Ledger:
    """Charges processor time and memory to what goes on, the innermost alone."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self._open = ["Python, and what this benchmark imports"]
        self._last: Cost = (0.0, 0.0)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Charge what happens in this block to a step."""
        self.charge()
        self._open.append(name)
        try:
            yield
        finally:
            self.charge()
            self._open.pop()

    def charge(self) -> None:
        """Charge what has been used since the last time."""
        now = time.process_time(), memory("VmRSS")
        seconds, mib = self.costs.get(self._open[-1], (0.0, 0.0))
        self.costs[self._open[-1]] = seconds + now[0] - self._last[0], mib + now[1] - self._last[1]
        self._last = time.process_time(), memory("VmRSS")

    @contextmanager
    def imports(self) -> Iterator[None]:
        """Charge the first import of each library to it."""
        original = builtins.__import__

        def charged(name: str, *arguments: Any, **named: Any) -> Any:
            library = name.partition(".")[0]
            relative = (arguments[3] if len(arguments) > 3 else named.get("level", 0)) > 0
            step = f"import {library}"
            if relative or name in sys.modules or library in sys.stdlib_module_names or step == self._open[-1]:
                return original(name, *arguments, **named)
            with self.step(step):
                return original(name, *arguments, **named)

        with patch.object(builtins, "__import__", charged):
            yield

    def measured(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are charged to a step."""

        def called(*arguments: Any, **named: Any) -> Any:
            with self.step(name):
                return function(*arguments, **named)

        return called


def weigh(index: str, text: str, settings: dict[str, str]) -> dict[str, Cost]:
    """Open an index and ask twice; return what each step takes, and then what lies in memory at the end."""
    ledger = Ledger()
    with ledger.imports():
        import shoal.engine.index

        patches = []
        for target, name in _STEPS.items():
            module, _, function = target.rpartition(".")
            patches.append(patch(target, ledger.measured(name, getattr(sys.modules[module], function))))
        for each in patches:
            each.start()
        with ledger.step("the rest of opening"):
            opened = shoal.open(index, **settings)
        for number in ("first", "second"):
            with ledger.step(f"{number} answer"):
                opened.search(text, timeout_ms=60_000)
        for each in patches:
            each.stop()
        ledger.charge()
        opened.close()
    total = time.process_time(), memory("VmRSS")
    return {**_grouped(ledger.costs), "all": total, **{f"of it {name}": (0.0, mib) for name, mib in _maps()}}


def _grouped(costs: dict[str, Cost]) -> dict[str, Cost]:
    """Join the libraries that take little."""
    told, others = {}, (0.0, 0.0)
    for name, (seconds, mib) in costs.items():
        if name.startswith("import ") and seconds < _LEAST_S and mib < _LEAST_MIB:
            others = others[0] + seconds, others[1] + mib
        else:
            told[name] = seconds, mib
    return {**told, "import others": others}


def _maps() -> list[tuple[str, float]]:
    """What memory is mapped to, in MiB, the largest first."""
    sizes: Counter[str] = Counter()
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            parts = line.split(maxsplit=5)
            name = Path(parts[5]).name if len(parts) > 5 and parts[5] != "[heap]" else "memory of no file"
        elif line.startswith("Rss:"):
            sizes[name] += int(line.split()[1])
    return [(name, kib / 1024) for name, kib in sizes.most_common(_LARGEST)]
