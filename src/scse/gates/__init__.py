"""Gates of trained blocks: values, explanations of one image, and channel gates of a study."""

from scse.gates.computing import BlockGates, gates_of

__all__ = ["BlockGates", "gates_of"]
