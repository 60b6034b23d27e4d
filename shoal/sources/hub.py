"""Files of the Hugging Face hub, by its own file system: `hf://datasets/USER/NAME/...`."""

import hashlib
from functools import lru_cache
from typing import Any

import pyarrow.fs as pafs

from shoal.errors import InvalidArgument

SCHEME = "hf"
"""Of the URIs."""
EXTRA = "hub"
"""The extra that brings the file system."""


class HubHandler(pafs.FSSpecHandler):  # type: ignore[misc]
    """Shows the files of the hub to pyarrow. They have no time there; a digest of their content stands in its place."""

    @staticmethod
    def _create_file_info(path: str, info: dict[str, Any]) -> pafs.FileInfo:
        if info["type"] != "file":
            return pafs.FileInfo(path, pafs.FileType.Directory)
        content = (info.get("lfs") or {}).get("sha256") or info.get("blob_id") or info.get("ETag") or ""
        digest = hashlib.blake2b(str(content).encode(), digest_size=8).digest()
        # Positive, and as whole in what JSON makes of it as any other time.
        return pafs.FileInfo(path, pafs.FileType.File, size=info["size"], mtime_ns=int.from_bytes(digest) >> 11)


@lru_cache(maxsize=1)
def hub_filesystem() -> pafs.FileSystem:
    """Return the file system of the hub, with the token that `hf auth login` or HF_TOKEN gives.

    Raises InvalidArgument where its library is not installed.
    """
    try:
        import fsspec

        files = fsspec.filesystem(SCHEME)
    except ImportError:
        raise InvalidArgument(
            f"{SCHEME}:// needs huggingface_hub: pip install 'shoal[{EXTRA}]'", param="source"
        ) from None
    return pafs.PyFileSystem(HubHandler(files))
