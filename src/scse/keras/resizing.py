"""How the networks go down and up by two: pooling that keeps positions, un-pooling with them, up-sampling, cropping.

A size of 2n or 2n + 1 becomes n, and comes back; the numbers are torch's, and sizes may be unknown.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from scse.keras.layers import PACKAGE, Tensor, with_names
from scse.vocabulary.options import check_size

Shape = Sequence[int | None]


class Resizing(keras.Layer):
    """What these layers share: which axes are the spatial ones."""

    def __init__(self, *, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = data_format

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {**super().get_config(), "data_format": self.data_format}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Resizing":
        """Make a layer from what `get_config` returned."""
        layer: Resizing = super().from_config(with_names(config))
        return layer

    def _axes(self, x: Tensor | Shape) -> range:
        """The spatial axes of a map or of its shape."""
        ndim = len(x.shape if hasattr(x, "shape") else x)
        return range(1, ndim - 1) if self.data_format == "channels_last" else range(2, ndim)

    def _resized(self, shape: Shape, like: Shape) -> tuple[int | None, ...]:
        axes = self._axes(shape)
        return tuple(like[axis] if axis in axes else size for axis, size in enumerate(shape))


@keras.saving.register_keras_serializable(PACKAGE)
class SizeCheck(Resizing):
    """Returns the image as it is; refuses one that a network cannot halve as often as it has levels.

    Args:
        network: its name, for the message.
        depth: number of halvings.
        data_format: `"channels_last"` or `"channels_first"`.

    Raises:
        ValueError: in a call, for a spatial axis shorter than `2 ** depth`; a size that is unknown is let by.
    """

    def __init__(self, *, network: str, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.depth = depth

    def call(self, inputs: Tensor) -> Tensor:
        """The image itself."""
        self._check(inputs.shape)
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        """The shape of the image."""
        self._check(input_shape)
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {**super().get_config(), "network": self.network, "depth": self.depth}

    def _check(self, shape: Shape) -> None:
        check_size(self.network, self.depth, [shape[axis] for axis in self._axes(shape)])


@keras.saving.register_keras_serializable(PACKAGE)
class PositionPooling(Resizing):
    """Max-pooling of windows of 2, which also returns where in its window each maximum was.

    Call arguments:
        inputs: a map; what an odd size has over is left out.

    Output shape:
        Two of `(N, *halved, C)`, or `(N, C, *halved)` for `data_format="channels_first"`: the maxima, and as int8
        the number of the window's first maximum, in the order of rows.
    """

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The maxima and their positions."""
        axes, maximum, position = self._axes(inputs), inputs, ops.zeros_like(inputs, dtype="int8")
        # by halves: fuses under XLA, where a window's reduction has a slow gradient, and all of the gradient goes to
        # the first maximum, as in torch
        for number, axis in enumerate(reversed(axes)):
            size = ops.shape(inputs)[axis] // 2 * 2
            first, second = ((slice(None),) * axis + (slice(start, size, 2),) for start in (0, 1))
            later = maximum[second] > maximum[first]
            position = ops.where(later, position[second] + ops.cast(2**number, "int8"), position[first])
            maximum = ops.where(later, maximum[second], maximum[first])
        return maximum, position

    def compute_output_spec(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The shapes and types of both."""
        axes = self._axes(inputs)
        shape = [size // 2 if axis in axes and size is not None else size for axis, size in enumerate(inputs.shape)]
        return keras.KerasTensor(shape, self.compute_dtype), keras.KerasTensor(shape, "int8")


@keras.saving.register_keras_serializable(PACKAGE)
class PositionUnpooling(Resizing):
    """Un-pooling: puts values back to where `PositionPooling` found its maxima, zeros elsewhere.

    Call arguments:
        values: a map.
        positions: as `PositionPooling` returned them, of the same shape.
        like: a map of the size to return, that of `values` times two, or one more.
    """

    def call(self, values: Tensor, positions: Tensor, like: Tensor) -> Tensor:
        """The map of the size of `like`."""
        axes = self._axes(values)
        # the way of the pooling back; TensorFlow does not broadcast along all axes of a volume at once
        for number, axis in zip(reversed(range(len(axes))), axes, strict=True):
            sizes = [*ops.shape(values)]
            later = positions >= 2**number
            window = np.array([False, True]).reshape(2, *[1] * (len(sizes) - axis - 1))
            there = ops.equal(ops.expand_dims(later, axis + 1), window)
            values = ops.where(there, ops.expand_dims(values, axis + 1), 0.0)
            sizes[axis] *= 2
            values = ops.reshape(values, sizes)
            if number:
                positions = ops.where(later, positions - ops.cast(2**number, "int8"), positions)
                positions = ops.repeat(positions, 2, axis=axis)
        over = [ops.shape(like)[axis] - size if axis in axes else 0 for axis, size in enumerate(ops.shape(values))]
        return values if _is_zero(*over) else ops.pad(values, [[0, more] for more in over])

    def compute_output_shape(
        self, values_shape: Shape, positions_shape: Shape, like_shape: Shape
    ) -> tuple[int | None, ...]:
        """The size of `like`, the channels of `values`."""
        return self._resized(values_shape, like_shape)


@keras.saving.register_keras_serializable(PACKAGE)
class NearestUpsampling(Resizing):
    """Nearest up-sampling to twice the size, or one more.

    Call arguments:
        inputs: a map.
        like: a map of the size to return.
    """

    def call(self, inputs: Tensor, like: Tensor) -> Tensor:
        """The map of the size of `like`."""
        for axis in self._axes(inputs):
            size = ops.shape(inputs)[axis]
            inputs = ops.repeat(inputs, 2, axis=axis)
            over = ops.shape(like)[axis] - 2 * size
            if not _is_zero(over):
                # i reads floor(i * n / (2n + 1)): the first of n is read three times
                first = inputs[(slice(None),) * axis + (slice(over),)]
                inputs = ops.concatenate([first, inputs], axis=axis)
        return inputs

    def compute_output_shape(self, inputs_shape: Shape, like_shape: Shape) -> tuple[int | None, ...]:
        """The size of `like`, the channels of the map."""
        return self._resized(inputs_shape, like_shape)


@keras.saving.register_keras_serializable(PACKAGE)
class Cropping(Resizing):
    """The centre of a map of size 2n + 1, for a size of 2n or 2n + 1: its beginning.

    Call arguments:
        inputs: a map.
        like: a map of the size to return.
    """

    def call(self, inputs: Tensor, like: Tensor) -> Tensor:
        """The map of the size of `like`."""
        axes, sizes = self._axes(inputs), ops.shape(like)
        return inputs[tuple(slice(sizes[axis]) if axis in axes else slice(None) for axis in range(len(sizes)))]

    def compute_output_shape(self, inputs_shape: Shape, like_shape: Shape) -> tuple[int | None, ...]:
        """The size of `like`, the channels of the map."""
        return self._resized(inputs_shape, like_shape)


def _is_zero(*sizes: Any) -> bool:
    """Whether all are known to be 0; in a graph of TensorFlow a size may be a tensor."""
    return all(isinstance(size, int) and size == 0 for size in sizes)
