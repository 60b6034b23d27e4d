"""Writers, readers and a compaction over one log in a simulated store, and what has to be true of them in the end."""

import threading
from dataclasses import dataclass, field, replace

from shoal.errors import DeadlineExceeded, NotFound, Unavailable
from shoal.index_root import layout
from shoal.index_root.entry_store import CreateOutcome
from shoal.index_root.log import KEY_LIFETIME_S, Log
from shoal.index_root.log_entry import LogEntry, LoggedRequest, decode_entry
from shoal.index_root.log_writer import LogWriter
from shoal.testing.entry_stores import Faults, SimulatedEntryStore, SimulatedObjects, entry_positions
from shoal.testing.virtual_threads import VirtualThreads
from tests.support import log_entries

ROUGH = Faults(0.08, 0.08, 0.08, 0.08, 0.08, 0.05, 0.004)
"""Much of everything that can go wrong."""
DEADLINE_S = 600.0
"""Seconds after which a writer no longer begins to answer a request."""
TRIES_FOR_S = KEY_LIFETIME_S - DEADLINE_S
"""Seconds for which a client repeats a request: as long as its key is known."""


class Answered(Exception):
    """The request was answered before, at this position."""


@dataclass
class State:
    """Documents as a process sees them: each with the text that was written last, up to a position."""

    position: int = 0
    texts: dict[str, str] = field(default_factory=dict)

    def apply(self, entry: LogEntry) -> None:
        assert entry.position == self.position + 1, "an entry is left out, or applied twice"
        self.position = entry.position
        for document in entry.documents:
            self.texts.pop(document.document, None)
            if document.passages:
                self.texts[document.document] = document.passages[0].text

    def copy(self) -> "State":
        return State(self.position, dict(self.texts))


def has_key(request: str) -> bool:
    """Whether a request has an Idempotency-Key. One without is not repeated where nobody knows if it was written."""
    return int(request.partition("-")[2]) % 3 != 1


class Simulation:
    """The processes of an index. Call `run`, then `check`.

    Args:
        seed: Decides everything.
        faults: Of the store, for every process.
        writers: Processes that write; each client may turn to another one when it repeats a request.
        requests: Of each writer's client, with a pause between them of up to `pause_s` seconds.
    """

    def __init__(
        self, seed: int, faults: Faults = ROUGH, writers: int = 3, requests: int = 8, pause_s: float = 1800.0
    ) -> None:
        self.threads = VirtualThreads(seed)
        self.objects = SimulatedObjects(self.threads)
        self.faults = faults
        self.writers = writers
        self.requests = requests
        self.pause_s = pause_s
        self.pauses_s = [0.0, 0.0]
        """How long the first writer sleeps before its first attempts to create an entry; not before later ones."""
        self.versions = [State()]
        """What compactions published; the last two are kept."""
        self.acknowledged: dict[str, int] = {}
        """Positions that clients were told, by the name of the request."""
        self.asked: set[str] = set()
        self.readers: list[State] = []
        self.removed: list[str] = []
        self.writing = writers

    def run(self) -> None:
        for number in range(self.writers):
            self.threads.start(f"writer {number}", lambda number=number: self._write(number))  # type: ignore[misc]
        for number in range(2):
            self.threads.start(f"reader {number}", self._read)
        self.threads.start("compaction", self._compact)
        self.threads.run()

    def store(self) -> SimulatedEntryStore:
        return PausingStore(self.objects, self.faults, self)

    def _log(self) -> Log:
        return Log(self.store(), self.threads.clock)

    def _write(self, number: int) -> None:
        writer = Writer(self)
        for request in range(self.requests):
            self.threads.sleep(self.threads.random.uniform(0, self.pause_s))
            name = f"{number}-{request}"
            self.asked.add(name)
            began = self.threads.clock()
            while self.threads.clock() - began < TRIES_FOR_S:
                try:
                    self.acknowledged[name] = writer.write(name)
                    break
                except Unavailable:  # certainly nothing was written
                    self.threads.sleep(self.threads.random.uniform(1, 60))
                except DeadlineExceeded:
                    if not has_key(name):
                        break
                    self.threads.sleep(self.threads.random.uniform(1, 60))
                if self.threads.random.random() < 0.3:  # a restart, or another process
                    writer = Writer(self)
        self.writing -= 1

    def _read(self) -> None:
        log, state = self._log(), self.versions[-1].copy()
        self.readers.append(state)
        while self.writing or state.position < entry_positions(self.objects)[-1]:
            try:
                for entry in log.read(state.position):
                    state.apply(entry)
            except Unavailable:
                pass
            except NotFound:
                version = self.versions[-1]
                state.position, state.texts = version.position, dict(version.texts)
            self.threads.sleep(self.threads.random.uniform(0, 30))

    def _compact(self) -> None:
        """Publish versions, keep the last two, and prune as `shoal index prune` does."""
        log = self._log()
        while self.writing:
            self.threads.sleep(self.threads.random.uniform(0, self.pause_s))
            version = self.versions[-1].copy()
            try:
                for entry in log.read(version.position):
                    version.apply(entry)
                self.versions.append(version)
                log.raise_floor(self.versions[-2].position)
                self.removed += log.prune()
            except Unavailable:
                pass

    def history(self) -> list[LogEntry]:
        """What was written first at each position, which is what the log says, whatever was removed since."""
        names = [layout.log_entry(position) for position in entry_positions(self.objects)]
        return [decode_entry(self.objects.first[name], name) for name in names]

    def check(self) -> None:
        """Check that positions have no gap, each acknowledged request is there once, and all readers see the same."""
        history = self.history()
        assert [entry.position for entry in history] == list(range(1, len(history) + 1))
        positions: dict[str, list[int]] = {name: [] for name in self.asked}
        expected, states = State(), {0: State()}
        for entry in history:
            expected.apply(entry)
            states[entry.position] = expected.copy()
            for request in entry.requests:
                positions[request.body_digest].append(entry.position)
        assert {name: [position] for name, position in self.acknowledged.items()} == {
            name: positions[name] for name in self.acknowledged
        }, "an acknowledged request is not there once"
        assert max(map(len, positions.values())) <= 1, "a request is there twice"
        for state in self.readers:
            # A write that was delayed and that nobody was told of may come when the readers have ended.
            assert state.position >= max(self.acknowledged.values(), default=0), "a reader lacks something acknowledged"
            assert state == states[state.position], "a reader sees something else"


class PausingStore(SimulatedEntryStore):
    """A store before whose answer one writer sleeps, in the middle of an attempt."""

    def __init__(self, objects: SimulatedObjects, faults: Faults, simulation: Simulation) -> None:
        super().__init__(objects, faults)
        self._simulation = simulation

    def create(self, name: str, data: bytes) -> CreateOutcome:
        pauses_s = self._simulation.pauses_s
        if name.startswith(layout.LOG_ENTRIES) and threading.current_thread().name == "writer 0" and pauses_s:
            self._simulation.threads.sleep(pauses_s.pop(0))
        return super().create(name, data)


class Writer:
    """A process that writes: it serves a version, and what was written behind it."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._open()

    def _open(self) -> None:
        self.state = self._simulation.versions[-1].copy()
        self.log = LogWriter(self._simulation._log(), self.state.position, self._simulation.threads.sleep)
        self._knows_keys = False

    def write(self, request: str) -> int:
        """Write one document of a few, and return the position. Raises what `LogWriter` raises, but for NotFound."""
        try:
            return self._write(request)
        except Answered as answered:
            return int(answered.args[0])
        except NotFound:
            self._open()
            raise Unavailable("opened anew") from None

    def _write(self, request: str) -> int:
        threads = self._simulation.threads
        received = threads.clock()
        if not self._knows_keys:
            self.log.learn_keys()
            self._knows_keys = True
        if threads.clock() - received > DEADLINE_S:
            raise DeadlineExceeded("the writer was paused")
        name = f"document {int(request.partition('-')[2]) % 3}"
        key = request if has_key(request) else None

        def make(position: int) -> LogEntry:
            if key is not None and (found := self.log.answered(key)) is not None:
                raise Answered(found[0])
            nonce = f"{request} {position} {threads.random.random()}"
            document = log_entries.delete(name) if request.endswith("5") else log_entries.upsert(name, request)
            requests = (LoggedRequest(key, request, 0, 1, {"position": position}),)
            return replace(log_entries.entry(position, [document], nonce), requests=requests)

        return self.log.append(make, self.state.apply).position
