"""What lies on disk: every path, the manifest, the versions, the storage. FORMAT.md is the specification."""
