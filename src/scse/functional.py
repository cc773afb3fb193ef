"""The blocks as functions: `cse`, `sse`, `scse` and `pe`. See `scse.blocks.functional`."""

from scse.blocks.functional import cse, pe, scse, sse

__all__ = ["cse", "pe", "scse", "sse"]
