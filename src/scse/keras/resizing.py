"""Layers that halve and double sizes: pooling that returns positions, un-pooling with them, up-sampling, cropping.

A size of 2n or 2n + 1 is pooled to n, and restored later. The results equal those of torch. Sizes may be unknown.
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
    """Base class of these layers, which determines the spatial axes."""

    def __init__(self, *, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = data_format

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that construct this layer again."""
        return {**super().get_config(), "data_format": self.data_format}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Resizing":
        """Construct a layer from the return value of `get_config`."""
        layer: Resizing = super().from_config(with_names(config))
        return layer

    def _axes(self, x: Tensor | Shape) -> range:
        """Return the spatial axes of a map or of its shape."""
        ndim = len(x.shape if hasattr(x, "shape") else x)
        return range(1, ndim - 1) if self.data_format == "channels_last" else range(2, ndim)

    def _resized(self, shape: Shape, like: Shape) -> tuple[int | None, ...]:
        axes = self._axes(shape)
        return tuple(like[axis] if axis in axes else size for axis, size in enumerate(shape))


@keras.saving.register_keras_serializable(PACKAGE)
class SizeCheck(Resizing):
    """Return the image unchanged, but refuse one that is too small for the number of halvings.

    Args:
        network: Name of the network for the error message.
        depth: Number of halvings.
        data_format: `"channels_last"` or `"channels_first"`.

    Raises:
        UserError: In a call, a spatial axis is shorter than `2 ** depth`. Unknown sizes are accepted.
    """

    def __init__(self, *, network: str, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.depth = depth

    def call(self, inputs: Tensor) -> Tensor:
        """Return the image."""
        self._check(inputs.shape)
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        """Return the shape of the image."""
        self._check(input_shape)
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that construct this layer again."""
        return {**super().get_config(), "network": self.network, "depth": self.depth}

    def _check(self, shape: Shape) -> None:
        check_size(self.network, self.depth, [shape[axis] for axis in self._axes(shape)])


@keras.saving.register_keras_serializable(PACKAGE)
class PositionPooling(Resizing):
    """Max-pooling of windows of size 2, which also returns the position of each maximum in its window.

    Call arguments:
        inputs: Feature map. The last row of an odd size is ignored.

    Output shape:
        Two tensors `(N, *halved, C)`, or `(N, C, *halved)` for `data_format="channels_first"`: the maxima, and the
        row-major index of the first maximum of each window as int8.
    """

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the maxima and their positions."""
        axes, maximum, position = self._axes(inputs), inputs, ops.zeros_like(inputs, dtype="int8")
        # One axis at a time: XLA fuses these operations, whereas a reduction over windows has a slow gradient. The
        # first maximum gets the whole gradient, as in torch.
        for number, axis in enumerate(reversed(axes)):
            size = ops.shape(inputs)[axis] // 2 * 2
            first, second = ((slice(None),) * axis + (slice(start, size, 2),) for start in (0, 1))
            later = maximum[second] > maximum[first]
            position = ops.where(later, position[second] + ops.cast(2**number, "int8"), position[first])
            maximum = ops.where(later, maximum[second], maximum[first])
        return maximum, position

    def compute_output_spec(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return shapes and dtypes of maxima and positions."""
        axes = self._axes(inputs)
        shape = [size // 2 if axis in axes and size is not None else size for axis, size in enumerate(inputs.shape)]
        return keras.KerasTensor(shape, self.compute_dtype), keras.KerasTensor(shape, "int8")


@keras.saving.register_keras_serializable(PACKAGE)
class PositionUnpooling(Resizing):
    """Un-pooling: place values at the positions of the maxima of `PositionPooling`, and zeros elsewhere.

    Call arguments:
        values: Feature map.
        positions: Positions that `PositionPooling` returned, in the shape of `values`.
        like: Map of the size to return, which is twice that of `values`, or one more.
    """

    def call(self, values: Tensor, positions: Tensor, like: Tensor) -> Tensor:
        """Compute a map of the size of `like`."""
        axes = self._axes(values)
        # one axis at a time, as in pooling, because TensorFlow cannot broadcast along all axes of a volume at once
        for number, axis in zip(reversed(range(len(axes))), axes, strict=True):
            sizes = [*ops.shape(values)]
            later = positions >= 2**number
            window = np.array([False, True]).reshape(2, *[1] * (len(sizes) - axis - 1))
            is_maximum = ops.equal(ops.expand_dims(later, axis + 1), window)
            values = ops.where(is_maximum, ops.expand_dims(values, axis + 1), 0.0)
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
        """Return the shape with the size of `like` and the channels of `values`."""
        return self._resized(values_shape, like_shape)


@keras.saving.register_keras_serializable(PACKAGE)
class NearestUpsampling(Resizing):
    """Nearest neighbour up-sampling to twice the size, or one more.

    Call arguments:
        inputs: Feature map.
        like: Map of the size to return.
    """

    def call(self, inputs: Tensor, like: Tensor) -> Tensor:
        """Compute a map of the size of `like`."""
        for axis in self._axes(inputs):
            size = ops.shape(inputs)[axis]
            inputs = ops.repeat(inputs, 2, axis=axis)
            over = ops.shape(like)[axis] - 2 * size
            if not _is_zero(over):
                # pixel i has the value of pixel floor(i * n / (2n + 1)), so the first of n pixels is repeated 3 times
                first = inputs[(slice(None),) * axis + (slice(over),)]
                inputs = ops.concatenate([first, inputs], axis=axis)
        return inputs

    def compute_output_shape(self, inputs_shape: Shape, like_shape: Shape) -> tuple[int | None, ...]:
        """Return the shape with the size of `like` and the channels of `inputs`."""
        return self._resized(inputs_shape, like_shape)


@keras.saving.register_keras_serializable(PACKAGE)
class Cropping(Resizing):
    """Crop the centre of a map of size 2n + 1 to a size of 2n or 2n + 1, which starts at the first pixel.

    Call arguments:
        inputs: Feature map.
        like: Map of the size to return.
    """

    def call(self, inputs: Tensor, like: Tensor) -> Tensor:
        """Compute a map of the size of `like`."""
        axes, sizes = self._axes(inputs), ops.shape(like)
        return inputs[tuple(slice(sizes[axis]) if axis in axes else slice(None) for axis in range(len(sizes)))]

    def compute_output_shape(self, inputs_shape: Shape, like_shape: Shape) -> tuple[int | None, ...]:
        """Return the shape with the size of `like` and the channels of `inputs`."""
        return self._resized(inputs_shape, like_shape)


def _is_zero(*sizes: Any) -> bool:
    """Return whether all sizes are known to be 0. In a TensorFlow graph, a size may be a tensor."""
    return all(isinstance(size, int) and size == 0 for size in sizes)
