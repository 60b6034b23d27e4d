"""A store of log entries in memory, which loses, delays and doubles what real ones do, by a seed"""

from dataclasses import dataclass, field

from shoal.errors import Unavailable
from shoal.index_root import layout
from shoal.index_root.entry_store import CreateOutcome
from shoal.testing.virtual_threads import VirtualThreads

_TIMEOUT_S = 10.0
"""Seconds until a client takes a call for lost."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely it is that a call goes wrong, from 0 to 1, and how.

    lost_request: The client sees a timeout, and nothing was written.
    lost_answer: The client sees a timeout, and it was written.
    retried_answer: It was written, the answer was lost, and the client's library tried again and met its own object.
    conflict: The store asks to try again, which the library takes for an object that is there.
    delayed: The client sees a timeout, and it is written later, if nothing is there then.
    unreachable: The store cannot be reached; nothing was written.
    paused: The client sleeps before the call, or before it sees the answer.
    delay_s, pause_s: Longest of each, in seconds.
    """

    lost_request: float = 0.0
    lost_answer: float = 0.0
    retried_answer: float = 0.0
    conflict: float = 0.0
    delayed: float = 0.0
    unreachable: float = 0.0
    paused: float = 0.0
    delay_s: float = 60.0
    pause_s: float = 3 * 3600.0


@dataclass
class SimulatedObjects:
    """What lies in the store, for all of its clients, and what ever lay there.

    objects: Content and time of creation, by name.
    first: Content with which each name was created for the first time.
    created_again: Names that were created again after they had been removed.
    """

    threads: VirtualThreads
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    first: dict[str, bytes] = field(default_factory=dict)
    created_again: list[str] = field(default_factory=list)

    def create(self, name: str, data: bytes) -> bool:
        """Create an object, unless there is one; say whether it was created."""
        if name in self.objects:
            return False
        if name in self.first:
            self.created_again.append(name)
        self.objects[name] = (data, self.threads.clock())
        self.first.setdefault(name, data)
        return True


class SimulatedEntryStore:
    """One client of the store, as an `EntryStore`. Every call is a place where other threads may go on.

    Args:
        objects: What lies in the store.
        faults: What goes wrong for this client.
    """

    read_ahead = 1

    def __init__(self, objects: SimulatedObjects, faults: Faults) -> None:
        self._objects = objects
        self._faults = faults
        self._threads = objects.threads
        self.conditional = True
        """Whether objects are created only if absent; otherwise they are overwritten, as pyarrow does."""

    def create(self, name: str, data: bytes) -> CreateOutcome:
        """Create an object, unless there is one."""
        self._arrive()
        if not self.conditional:
            self._objects.objects[name] = (data, self._threads.clock())
            return CreateOutcome.CREATED
        outcome = self._created(name, data)
        self._pause()
        return outcome

    def _created(self, name: str, data: bytes) -> CreateOutcome:
        faults = self._faults
        likelihoods = {
            "lost request": faults.lost_request,
            "lost answer": faults.lost_answer,
            "retried answer": faults.retried_answer,
            "conflict": faults.conflict,
            "delayed": faults.delayed,
        }
        likelihoods[""] = 1 - sum(likelihoods.values())
        (fault,) = self._threads.random.choices(list(likelihoods), list(likelihoods.values()))
        if fault == "":
            return CreateOutcome.CREATED if self._objects.create(name, data) else CreateOutcome.EXISTS
        if fault in ("lost answer", "retried answer"):
            self._objects.create(name, data)
        if fault == "delayed":
            self._later(name, data)
        self._threads.sleep(_TIMEOUT_S)
        return CreateOutcome.EXISTS if fault in ("conflict", "retried answer") else CreateOutcome.UNKNOWN

    def _later(self, name: str, data: bytes) -> None:
        delay_s = self._threads.random.uniform(0, self._faults.delay_s)

        def arrive() -> None:
            self._threads.sleep(delay_s)
            self._objects.create(name, data)

        self._threads.start(f"delayed {name}", arrive)

    def read(self, name: str) -> bytes | None:
        """Read an object; None if there is none."""
        self._arrive()
        found = self._objects.objects.get(name)
        self._pause()
        return None if found is None else found[0]

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self.written_at(name) is not None

    def names(self, prefix: str, after: str = "") -> list[str]:
        """Names of all objects of a folder, sorted; only those behind the name `after`."""
        self._arrive()
        names = sorted(name for name in self._objects.objects if name.startswith(prefix) and name > after)
        self._pause()
        return names

    def delete(self, name: str) -> None:
        """Remove an object."""
        self._arrive()
        self._objects.objects.pop(name, None)

    def written_at(self, name: str) -> float | None:
        """When an object was created; None if there is none."""
        self._arrive()
        found = self._objects.objects.get(name)
        return None if found is None else found[1]

    def confirm(self) -> None:
        """Do nothing: what can be read is durable."""

    def clean(self) -> None:
        """Do nothing."""

    def place(self, name: str) -> str:
        """How messages name an object."""
        return f"simulated://{name}"

    def _arrive(self) -> None:
        self._pause()
        self._threads.switch()
        if self._threads.random.random() < self._faults.unreachable:
            raise Unavailable("the simulated store cannot be reached")

    def _pause(self) -> None:
        if self._threads.random.random() < self._faults.paused:
            self._threads.sleep(self._threads.random.uniform(0, self._faults.pause_s))


def entry_positions(objects: SimulatedObjects) -> list[int]:
    """Positions of all entries that ever were created, ascending."""
    begin = len(layout.LOG_ENTRIES)
    return sorted(int(name[begin : begin + 20]) for name in objects.first if name.startswith(layout.LOG_ENTRIES))
