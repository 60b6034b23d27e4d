"""What several dialects of other vendors share; no dialect itself."""
