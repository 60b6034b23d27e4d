"""Signs entries of the log that were written without a key."""

from shoal.index_root import layout
from shoal.index_root.log import open_entry_store
from shoal.index_root.log_entry import with_signature
from shoal.index_root.storage import Storage


def sign_log(storage: Storage) -> int:
    """Sign every entry of the log that is not signed with a key of this process; return how many were signed.

    Only who knows that nobody else has written them should ask for that. Segments, which repeat entries as they were,
    are removed; writers make them anew. Raises CorruptIndex for an entry that is not as it was written.
    """
    store, signed = open_entry_store(storage), 0
    for name in store.names(layout.LOG_ENTRIES):
        data = store.read(name)
        if data is not None and (better := with_signature(data, store.place(name))) is not None:
            storage.write(name, better)
            signed += 1
    if signed:
        for name in store.names(layout.LOG_SEGMENTS):
            store.delete(name)
    return signed
