"""The gates of trained blocks: their values, explanations of one image, and the channel gates of a study."""

from scse.gates.computing import BlockGates, gates_of

__all__ = ["BlockGates", "gates_of"]
