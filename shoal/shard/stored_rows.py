"""Rows of one shard of a published version, read where they lie, local or remote: nothing is opened for searching."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.index_root.arrow_files import checked, damage_of
from shoal.index_root.digests import document_digests
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import ShardIndex, index_kind, precision
from shoal.late.codec import Codes, code_width
from shoal.records import FloatArray, RowArray, content_of
from shoal.settings import IndexSettings
from shoal.shard.documents import Documents
from shoal.shard.positions import Deleted, read_deleted
from shoal.shard.writer import BATCH_ROWS
from shoal.system.array_files import load_array
from shoal.system.temporary import temporary_folder

T = TypeVar("T")

_GAP = 256 * 2**10
"""Most bytes between two rows that are read over, rather than asking for the second one by itself."""
_REQUEST = 16 * 2**20
"""Bytes from which on one request reads no further row."""
_HEADER = 4096
"""Bytes at the beginning of a NumPy file that hold its whole header."""


class StoredRows:
    """The passages, vectors and codes of one shard by their rows. One call at a time; files are opened when needed.

    Args:
        storage: The index root.
        manifest: Of the version.
        shard: Which of its shards.
        keep_batch: Whether the texts that were read last are kept in memory, some thousand passages, because the next
            call is likely to ask for their neighbours and the root is remote.
    """

    def __init__(self, storage: Storage, manifest: Manifest, shard: int, keep_batch: bool = False) -> None:
        self._storage = storage
        self._manifest = manifest
        self._entry = next(entry for entry in manifest.shards if entry.shard == shard)
        self._folder = layout.shard_dir(manifest.version, shard)
        self._sources: dict[str, pa.NativeFile] = {}
        self._texts: pa.ipc.RecordBatchFileReader | None = None
        self._whole: pa.ipc.RecordBatchFileReader | None = None
        self._keep_batch = keep_batch
        self._batch: tuple[int, pa.RecordBatch] | None = None
        self._checked: set[int] = set()
        self._documents: Documents | None = None
        self._vectors: Callable[[RowArray], FloatArray] | None = None
        self._codes_at = 0

    @property
    def count(self) -> int:
        """Number of passages."""
        return self._entry.count

    @property
    def has_documents(self) -> bool:
        """Whether the shard brings its look-up of records; versions from before it was written do not."""
        return self._has(layout.DOCUMENTS)

    @property
    def documents(self) -> Documents:
        """The look-up of the shard; of a shard without one, it is made of the ids, each of which is a record then.

        Memory: none where files can be mapped; 12 bytes a passage for one that is made.
        """
        if self._documents is None:
            if self.has_documents:
                names = layout.DOCUMENTS, layout.ORDER
                self._documents = self._with_local(names, lambda paths: Documents.open(paths[0], paths[1], self.count))
            else:
                columns = id_columns(self._storage, self._manifest.version, self._entry.shard)
                ids = (identity for column in columns for identity in column.to_pylist())
                self._documents = Documents.of_rows(document_digests(ids))
        return self._documents

    def passages(self, rows: RowArray) -> tuple[list[str], list[str]]:
        """Ids of rows, int64 (n,) ascending, and what an encoder reads of each: the title, if any, before the text."""
        ids: list[str] = []
        contents: list[str] = []
        for number in np.unique(rows // BATCH_ROWS).tolist():
            inside = rows[rows // BATCH_ROWS == number] - number * BATCH_ROWS
            found = self._text_batch(number).take(pa.array(inside))
            ids += found.column(0).to_pylist()
            texts, titles = found.column(1).to_pylist(), found.column(2).to_pylist()
            contents += map(content_of, titles, texts)
        return ids, contents

    def batch(self, number: int) -> pa.RecordBatch:
        """All columns of a record batch of passages.arrow: of BATCH_ROWS rows, the last one of the rest."""
        path = f"{self._folder}/{layout.PASSAGES}"
        with self._storage.errors(path), damage_of(self._storage.place(path)):
            if self._whole is None:
                self._whole = pa.ipc.open_file(self._source(layout.PASSAGES))
            return checked(self._whole.get_batch(number))

    def positions(self, rows: RowArray) -> RowArray:
        """Positions of the log at which rows, int64 (n,) ascending and distinct, were written; int64 (n,)."""
        if not self._has(layout.POSITIONS):
            return np.zeros(len(rows), np.int64)
        return self._array(layout.POSITIONS, rows, np.dtype("<i8"), 1)[:, 0]

    def deleted(self) -> Deleted:
        """Records of the shard that were deleted while it was served."""
        if not self._has(layout.DELETED):
            return []
        path = f"{self._folder}/{layout.DELETED}"
        with self._storage.errors(path), damage_of(self._storage.place(path)):
            return read_deleted(self._source(layout.DELETED))

    def vectors(self, rows: RowArray) -> FloatArray:
        """Vectors of rows, int64 (n,) ascending and distinct: float32 (n, dim), as exact as the index keeps them.

        Raises ValueError for an index kind that keeps approximations only, and CorruptIndex for a file of another size.
        """
        if self._vectors is None:
            self._vectors = self._vector_reader()
        return self._vectors(rows)

    def codes(self, rows: RowArray) -> list[Codes]:
        """Codes of the tokens of rows, int64 (n,) ascending and distinct: uint8 (t_i, width) each."""
        late = self._manifest.late
        if late is None:
            raise ValueError("this version stores no token vectors")
        width = code_width(late.dims, late.bits)
        borders = np.unique(np.concatenate([rows, rows + 1]))
        offsets = self._array(layout.LATE_OFFSETS, borders, np.dtype("<i8"), 1)[:, 0]
        first, stop = (offsets[np.searchsorted(borders, places)] for places in (rows, rows + 1))
        if not self._codes_at:
            self._codes_at = self._header(layout.LATE_CODES)
        parts = self._ranges(layout.LATE_CODES, self._codes_at + first * width, self._codes_at + stop * width)
        return [np.frombuffer(part, np.uint8).reshape(-1, width) for part in parts]

    def projection(self) -> FloatArray:
        """What the token vectors were reduced with, float32 (dims, hidden + 2); see FORMAT.md."""
        data = self._storage.read(f"{self._folder}/{layout.LATE_PROJECTION}")
        found: FloatArray = load_array(io.BytesIO(data))
        return found

    def _has(self, name: str) -> bool:
        return any(file.path.partition("/")[2] == name for file in self._entry.files)

    def _vector_reader(self) -> Callable[[RowArray], FloatArray]:
        kind, dim = self._manifest.index.kind, self._manifest.dim
        exactness = precision(kind, dim)
        if exactness is None:
            raise ValueError(f"an index of kind {kind} keeps approximations of vectors only")
        if exactness == "float16":
            return lambda rows: self._array(layout.EXACT, rows, np.dtype("<f2"), dim).astype(np.float32)
        if kind == "flat":
            return self._flat_vectors
        settings = IndexSettings(index_kind=kind, index_search=self._manifest.index.search)
        index: ShardIndex = self._with_local(
            (layout.VECTORS,), lambda paths: index_kind(kind).open(paths[0], settings, 1)
        )
        return index.vectors

    def _flat_vectors(self, rows: RowArray) -> FloatArray:
        # The vectors are the end of the file.
        size = 4 * self._manifest.dim
        begin = self._source(layout.VECTORS).size() - size * self.count
        parts = self._ranges(layout.VECTORS, begin + rows * size, begin + (rows + 1) * size)
        return np.frombuffer(b"".join(parts), "<f4").reshape(-1, self._manifest.dim)

    def _array(self, name: str, rows: RowArray, dtype: np.dtype[Any], columns: int) -> np.ndarray[Any, Any]:
        """Rows, int64 (n,) ascending and distinct, of a NumPy file whose rows have so many columns: (n, columns)."""
        begin, size = self._header(name), dtype.itemsize * columns
        parts = self._ranges(name, begin + rows * size, begin + (rows + 1) * size)
        return np.frombuffer(b"".join(parts), dtype).reshape(-1, columns)

    def _header(self, name: str) -> int:
        """Bytes before the first element of a NumPy file."""
        with self._storage.errors(f"{self._folder}/{name}"):
            source = self._source(name)
            file = io.BytesIO(source.read_at(min(_HEADER, source.size()), 0))
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        return file.tell()

    def _ranges(self, name: str, starts: RowArray, stops: RowArray) -> list[memoryview]:
        """The bytes from starts[i] to stops[i] of a file, both int64 (n,) ascending; neighbours are read together."""
        found: list[memoryview] = []
        begins, ends = starts.tolist(), stops.tolist()
        with self._storage.errors(f"{self._folder}/{name}"):
            source = self._source(name)
            first = 0
            while first < len(begins):
                last = first
                while (
                    last + 1 < len(begins)
                    and begins[last + 1] - ends[last] <= _GAP
                    and ends[last] - begins[first] < _REQUEST
                ):
                    last += 1
                data = memoryview(source.read_at(ends[last] - begins[first], begins[first]))
                if len(data) < ends[last] - begins[first]:
                    place = self._storage.place(f"{self._folder}/{name}")
                    raise CorruptIndex(f"{place} ends before its last row; restore it or activate another version")
                cut = zip(begins[first : last + 1], ends[first : last + 1], strict=True)
                found += [data[low - begins[first] : high - begins[first]] for low, high in cut]
                first = last + 1
        return found

    def _text_batch(self, number: int) -> pa.RecordBatch:
        if self._batch is not None and self._batch[0] == number:
            return self._batch[1]
        path = f"{self._folder}/{layout.PASSAGES}"
        with self._storage.errors(path), damage_of(self._storage.place(path)):
            if self._texts is None:
                options = pa.ipc.IpcReadOptions(included_fields=[0, 1, 2])
                self._texts = pa.ipc.open_file(self._source(layout.PASSAGES), options=options)
            batch = self._texts.get_batch(number)
            if number not in self._checked:  # which reads all of it
                checked(batch)
                self._checked.add(number)
        if self._keep_batch:
            self._batch = number, batch
        return batch

    def _source(self, name: str) -> pa.NativeFile:
        """An open file of the shard, for reading at any place."""
        if name not in self._sources:
            path = f"{self._folder}/{name}"
            with self._storage.errors(path):
                local = self._storage.is_local
                opened = pa.memory_map(str(self._storage.local_path(path))) if local else self._storage.open_input(path)
            self._sources[name] = opened
        return self._sources[name]

    def _with_local(self, names: Sequence[str], use: Callable[[Sequence[Path]], T]) -> T:
        """Hand over files of the shard that lie on this machine's disk, mapped by whoever takes them.

        Copies of remote ones are removed at once: what is mapped stays readable.
        """
        if self._storage.is_local:
            return use([self._storage.local_path(f"{self._folder}/{name}") for name in names])
        with temporary_folder("base-") as folder:
            for name in names:
                with (folder / name).open("wb") as file:
                    for chunk in self._storage.chunks(f"{self._folder}/{name}"):
                        file.write(chunk)
            return use([folder / name for name in names])


def id_columns(storage: Storage, version: str, shard: int) -> Iterator[pa.StringArray]:
    """Yield the ids of one shard of a published version, a batch of rows at a time, in their order.

    Raises Unavailable when the root cannot be reached, CorruptIndex for a file that no build writes.
    """
    path = f"{layout.shard_dir(version, shard)}/{layout.PASSAGES}"
    with storage.errors(path), damage_of(storage.place(path)), storage.open_input(path) as source:
        # The first column is the id.
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[0]))
        for number in range(reader.num_record_batches):
            yield checked(reader.get_batch(number)).column(0)
