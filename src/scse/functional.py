"""The blocks as functions: `cse`, `sse` and `scse`. See `scse.blocks.functional`."""

from scse.blocks.functional import cse, scse, sse

__all__ = ["cse", "scse", "sse"]
