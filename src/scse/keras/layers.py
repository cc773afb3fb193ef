"""The recalibration blocks cSE, sSE, scSE and Project & Excite as Keras 3 layers.

They are written with `keras.ops`. On the torch backend, the fused kernels of the torch modules compute cSE, sSE and
scSE, as long as the inner layers are those that the block itself creates (`scse.keras.kernels`).

Options and names are those of `scse.ChannelSE`, `scse.SpatialSE`, `scse.ConcurrentSE` and `scse.ProjectExcite`, and the
same weights give the same values. Source: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation
in Fully Convolutional Networks", MICCAI 2018 (arXiv 1803.02579); for Project & Excite, see `ProjectExcite`.
"""

import inspect
import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from scse.keras.kernels import FUNCTIONS, recalibrated
from scse.support.checks import check_choice, check_positive
from scse.support.errors import UserError
from scse.vocabulary.options import (
    ACTIVATIONS,
    AGGREGATIONS,
    GATES,
    REDUCTION,
    check_aggregation,
    check_channel_options,
    hidden_width,
)

PACKAGE = "scse"
"""Package name under which Keras registers the classes."""

DATA_FORMATS = ("channels_last", "channels_first")

SUFFIX = "_recalibration"
"""Suffix of the names of blocks in a network, after the name of their place."""

Tensor = Any
"""A tensor of the backend, or a symbolic one of Keras."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": ops.relu,
    "silu": ops.silu,
    # not ops.leaky_relu, because TensorFlow's uses a slope in float32
    "leaky-relu": lambda x: ops.where(x > 0, x, 0.01 * x),
}
_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": ops.sigmoid,
    "hard-sigmoid": ops.hard_sigmoid,
    "relu": ops.relu,
}
_CHOICES = {"activation": ACTIVATIONS, "gate": GATES, "aggregation": AGGREGATIONS, "data_format": DATA_FORMATS}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Attributes with the hooks of a layer on the torch backend, where every layer is a torch module."""


class Block(keras.Layer):
    """Base class of the blocks: the axis of the channels, the inner layers, and the checks of arguments and input.

    Args:
        bias: Whether the dense layers have biases.
        identity: Whether the block starts as the identity.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`.
        parts: Name -> serialised form of each inner layer that differs from the layer that the block itself creates,
            because it was quantised, adapted, replaced, wrapped or frozen. `get_config` returns them.
        **kwargs: Arguments `name`, `dtype` and `trainable` of any Keras layer.
    """

    part_names: tuple[str, ...]
    """Names of the attributes that hold the inner layers."""

    def __init__(
        self,
        *,
        bias: bool,
        identity: bool,
        data_format: str | None,
        parts: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._part_configs = dict(parts or {})
        self._default_parts: dict[str, tuple[type, dict[str, Any]]] = {}
        self._default_part_ids: list[int] = []
        self.bias = bias
        self.identity = identity
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        with self._name_in_errors():
            check_choice("data_format", self.data_format, DATA_FORMATS)

    @property
    def channel_axis(self) -> int:
        """Axis of the channels."""
        return 1 if self.data_format == "channels_first" else -1

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights for an input shape, whose number of channels must be known."""
        with self._name_in_errors():
            channels = self._channels(tuple(input_shape))
        # the weights are matrices, so a block works for any number of spatial axes, as in torch
        self.input_spec = keras.layers.InputSpec(min_ndim=3, axes={self.channel_axis: channels})
        self._build(channels)
        self._arrange()

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that construct this block again."""
        own = {"bias": self.bias, "identity": self.identity, "data_format": self.data_format}
        # in a frozen block, the inner layers are frozen too, so this is no change of their own
        changed = self.changed_parts(but=() if self.trainable else ("trainable",))
        parts = {**self._part_configs, **{name: _serialized(getattr(self, name)) for name in changed}}
        return {**super().get_config(), **own, **({"parts": parts} if parts else {})}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Block":
        """Construct a block from the return value of `get_config`."""
        block: Block = super().from_config(with_names(config))
        return block

    def changed_parts(self, *, but: Collection[str] = ()) -> list[str]:
        """Return the names of the inner layers that differ, except in settings `but`, from those that it creates."""
        changed = []
        for name, (kind, config) in self._default_parts.items():
            part = getattr(self, name)
            if _settings(part.get_config(), but) != _settings(config, but) or type(part) is not kind:
                changed.append(name)
        return changed

    def quantized_call(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run `call`. A quantised dtype policy affects only the dense layers, which have it too."""
        return self.call(*args, **kwargs)

    def _build(self, channels: int) -> None:
        raise NotImplementedError

    def _channels(self, shape: tuple[int | None, ...]) -> int:
        written = "(N, *spatial, C)" if self.data_format == "channels_last" else "(N, C, *spatial)"
        if len(shape) < 3:
            raise UserError(f"takes maps {written} with at least one spatial axis, got the shape {shape}")
        channels = shape[self.channel_axis]
        if channels is None:
            raise UserError(
                f"needs the number of channels of its maps {written}, got the shape {shape}; give the input a shape "
                "with that number, or set another data_format"
            )
        return channels

    def _fused(self, variant: str, x: Tensor, *dense: keras.Layer, **options: Any) -> Tensor | None:
        """Compute the block as torch does, on the torch backend; return None if the layers must compute it."""
        # a derived class may compute its gates differently
        if FUNCTIONS and type(self) is BLOCKS[variant] and all(is_linear(layer, self.compute_dtype) for layer in dense):
            return recalibrated(variant, x, dense, channel_axis=self.channel_axis, **options)
        return None

    def _projected(self, x: Tensor, dense: keras.Layer) -> Tensor:
        """Apply a dense layer to the last axis. It is not called if possible, because calls are slow on small maps."""
        if not is_linear(dense, self.compute_dtype):
            return ops.cast(dense(x), self.compute_dtype)
        y = _product(x, dense.kernel)
        return y if dense.bias is None else y + dense.bias

    def _part(self, name: str, make: Callable[[], keras.Layer]) -> None:
        """Set an inner layer: keep one that was assigned before, or deserialise it from `parts`, or create it."""
        part = make()
        self._default_parts[name] = (type(part), part.get_config())
        if name in self._part_configs:
            part = keras.saving.deserialize_keras_object(self._part_configs.pop(name))
        else:
            self._default_part_ids.append(id(part))
        if not hasattr(self, name):
            setattr(self, name, part)

    def _arrange(self) -> None:
        """Sort the inner layers in the order in which weights are saved, and remove those that were replaced."""
        parts = [getattr(self, name) for name in self.part_names]
        known = {*map(id, parts), *self._default_part_ids}
        self._layers[:] = [*parts, *(layer for layer in self._layers if id(layer) not in known)]

    def _dense(self, name: str, inputs: int, units: int, *, zero: bool = False) -> None:
        """Build the dense layer `name` for this number of input values."""
        self._part(name, lambda: self._new_dense(name, units, zero=zero))
        part = getattr(self, name)
        if not part.built:
            part.build((None, inputs))

    def _new_dense(self, name: str, units: int, *, zero: bool) -> keras.layers.Dense:
        # the uniform distribution of torch, so that training is the same in Keras and torch
        drawn = keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
        return keras.layers.Dense(
            units,
            use_bias=self.bias,
            kernel_initializer="zeros" if zero else drawn,
            name=name,
            dtype=self.dtype_policy,
        )

    @contextmanager
    def _name_in_errors(self) -> Generator[None]:
        """Prefix error messages with the name of the layer, as Keras does."""
        try:
            yield
        except ValueError as error:
            raise UserError(f"{type(self).__name__} layer {self.name!r}: {error}") from error


@keras.saving.register_keras_serializable(PACKAGE)
class ChannelSE(Block):
    """Spatial squeeze and channel excitation (cSE; Hu et al. 2018, section 2.1 of the paper).

    The gate of each channel is `sigmoid(W2 relu(W1 z))`, where `z` is the mean over all spatial axes.

    Args:
        reduction: Reduction r of the paper. The hidden layer has `max(1, C // r)` units.
        hidden: Width of the hidden layer, instead of a reduction.
        activation: Activation after W1: `"relu"` (the paper), `"silu"` or `"leaky-relu"` (slope 0.01).
        gate: Gate function after W2: `"sigmoid"` (the paper), `"hard-sigmoid"` or `"relu"`. With `"relu"` the block
            cannot start as the identity.
        bias: Whether the two dense layers have biases. The paper's parameter count excludes them.
        identity: Whether the block starts as the identity, bit for bit: the last layer is initialised to zero and the
            gate is scaled by 2.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`.
        **kwargs: Arguments `name`, `dtype` and `trainable` of any Keras layer.

    Call arguments:
        inputs: Feature map with at least one spatial axis.

    Input shape:
        `(N, *spatial, C)`, or `(N, C, *spatial)` for `data_format="channels_first"`. Spatial sizes may be unknown.

    Output shape:
        Same as the input.

    Raises:
        UserError: At construction, `reduction` or `hidden` is below 1, both are given, `activation`, `gate` or
            `data_format` is unknown, or `identity=True` is combined with gate `"relu"`. In the first call, the map has
            no spatial axis or an unknown number of channels.

    Reference:
        [Roy et al., 2018](https://arxiv.org/abs/1803.02579)

    Example:
    >>> block = scse.keras.ChannelSE(reduction=2)
    >>> keras.ops.shape(block(keras.ops.ones((4, 32, 32, 16))))
    (4, 32, 32, 16)
    """

    part_names = ("squeeze", "excite")

    def __init__(
        self,
        *,
        reduction: int = REDUCTION,
        hidden: int | None = None,
        activation: str = "relu",
        gate: str = "sigmoid",
        bias: bool = True,
        identity: bool = False,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(bias=bias, identity=identity, data_format=data_format, **kwargs)
        with self._name_in_errors():
            self.scale = check_channel_options(reduction, hidden, activation, gate, identity=identity)
        self.reduction = reduction
        self.hidden = hidden
        self.activation = activation
        self.gate = gate

    def gates(self, x: Tensor) -> Tensor:
        """Compute the unscaled gates of the channels: (N, 1, ..., C), or (N, C, 1, ...) for channels first."""
        positions = tuple(axis for axis in range(1, x.ndim) if axis != self.channel_axis % x.ndim)
        hidden = _ACTIVATIONS[self.activation](self._projected(_mean(x, positions), self.squeeze))
        return ops.expand_dims(_GATES[self.gate](self._projected(hidden, self.excite)), positions)

    def call(self, inputs: Tensor) -> Tensor:
        """Recalibrate the channels of a map."""
        options = {"activation": self.activation, "gate": self.gate, "scale": self.scale}
        if (fused := self._fused("cse", inputs, self.squeeze, self.excite, **options)) is not None:
            return fused
        return inputs * _scaled(self.gates(inputs), self.scale)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that construct this block again."""
        own = {"reduction": self.reduction, "hidden": self.hidden, "activation": self.activation, "gate": self.gate}
        return {**super().get_config(), **own}

    def _build(self, channels: int) -> None:
        width = hidden_width(channels, self.reduction, self.hidden)
        self._dense("squeeze", channels, width)
        self._dense("excite", width, channels, zero=self.identity)


@keras.saving.register_keras_serializable(PACKAGE)
class SpatialSE(Block):
    """Channel squeeze and spatial excitation (sSE; section 2.2 of the paper).

    The gate of each position is `sigmoid(w . x)`, a 1x1 convolution of all channels to one.

    Args:
        bias: Whether the projection has a bias. The paper's parameter count excludes it.
        identity: Whether the block starts as the identity, bit for bit: the projection is initialised to zero and the
            gate is scaled by 2.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`.
        **kwargs: Arguments `name`, `dtype` and `trainable` of any Keras layer.

    Call arguments:
        inputs: Feature map with at least one spatial axis.

    Input shape:
        `(N, *spatial, C)`, or `(N, C, *spatial)` for `data_format="channels_first"`. Spatial sizes may be unknown.

    Output shape:
        Same as the input.

    Raises:
        UserError: At construction, `data_format` is unknown. In the first call, the map has no spatial axis or an
            unknown number of channels.

    Reference:
        [Roy et al., 2018](https://arxiv.org/abs/1803.02579)

    Example:
    >>> block = scse.keras.SpatialSE()
    >>> keras.ops.shape(block(keras.ops.ones((4, 32, 32, 16))))
    (4, 32, 32, 16)
    """

    part_names = ("project",)

    def __init__(
        self, *, bias: bool = True, identity: bool = False, data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(bias=bias, identity=identity, data_format=data_format, **kwargs)

    def gates(self, x: Tensor) -> Tensor:
        """Compute the unscaled gates of the positions: (N, *spatial, 1), or (N, 1, *spatial) for channels first."""
        if self.data_format == "channels_last":
            return ops.sigmoid(self._projected(x, self.project))
        return ops.sigmoid(ops.moveaxis(self._projected(ops.moveaxis(x, 1, -1), self.project), -1, 1))

    def call(self, inputs: Tensor) -> Tensor:
        """Recalibrate the positions of a map."""
        scale = 2.0 if self.identity else 1.0
        if (fused := self._fused("sse", inputs, self.project, scale=scale)) is not None:
            return fused
        return inputs * _scaled(self.gates(inputs), scale)

    def _build(self, channels: int) -> None:
        self._dense("project", channels, 1, zero=self.identity)


@keras.saving.register_keras_serializable(PACKAGE)
class ConcurrentSE(Block):
    """Concurrent spatial and channel squeeze & excitation (scSE; section 2.3 of the paper).

    Both gates are computed from the same input, and `aggregation` joins the two recalibrated maps.

    Args:
        reduction: Reduction r of the paper, see `ChannelSE`.
        aggregation: How the maps are joined: `"add"` (the paper), `"max"` (the authors' later code), `"multiply"` or
            `"concat"`, which returns 2C channels.
        bias: Whether all dense layers have biases. The paper's parameter count excludes them.
        identity: Whether the block starts as the identity, bit for bit: the last layers are initialised to zero, and
            with `"max"` the gates are scaled by 2. Not possible with `"multiply"` and `"concat"`.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`.
        **kwargs: Arguments `name`, `dtype` and `trainable` of any Keras layer.

    Call arguments:
        inputs: Feature map with at least one spatial axis.

    Input shape:
        `(N, *spatial, C)`, or `(N, C, *spatial)` for `data_format="channels_first"`. Spatial sizes may be unknown.

    Output shape:
        Same as the input; with `"concat"`, 2C channels.

    Raises:
        UserError: At construction, `reduction` is below 1, `aggregation` or `data_format` is unknown, or
            `identity=True` is combined with `"multiply"` or `"concat"`. In the first call, the map has no spatial axis
            or an unknown number of channels.

    Reference:
        [Roy et al., 2018](https://arxiv.org/abs/1803.02579)

    Example:
    >>> block = scse.keras.ConcurrentSE(reduction=2)
    >>> keras.ops.shape(block(keras.ops.ones((4, 32, 32, 16))))
    (4, 32, 32, 16)
    """

    part_names = ("channel", "spatial")

    def __init__(
        self,
        *,
        reduction: int = REDUCTION,
        aggregation: str = "add",
        bias: bool = True,
        identity: bool = False,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(bias=bias, identity=identity, data_format=data_format, **kwargs)
        with self._name_in_errors():
            self.scale = check_aggregation(aggregation, identity=identity)
            check_channel_options(reduction, None, "relu", "sigmoid", identity=identity)
        self.reduction = reduction
        self.aggregation = aggregation
        shared = {"bias": bias, "identity": identity, "data_format": self.data_format, "dtype": self.dtype_policy}
        self._part("channel", lambda: ChannelSE(reduction=reduction, name="channel", **shared))
        self._part("spatial", lambda: SpatialSE(name="spatial", **shared))

    def call(self, inputs: Tensor) -> Tensor:
        """Recalibrate the channels and the positions of a map."""
        if _acts_as(self.channel, ChannelSE, self.compute_dtype) and _acts_as(
            self.spatial, SpatialSE, self.compute_dtype
        ):
            if (fused := self._fused_map(inputs)) is not None:
                return fused
            channel = _scaled(self.channel.gates(inputs), self.scale)
            spatial = _scaled(self.spatial.gates(inputs), self.scale)
            if self.aggregation == "add":
                # U * (c + s) takes one product of the whole map less than U*c + U*s
                return inputs * (channel + spatial)
            by_channel, by_position = inputs * channel, inputs * spatial
        else:
            by_channel, by_position = (self._map_of(part, inputs) for part in (self.channel, self.spatial))
            if self.aggregation == "add":
                return by_channel + by_position
        if self.aggregation == "max":
            # Maximum of the products, not of the gates: where U is negative, the smaller gate wins. Equal products, as
            # in an identity start, must share the gradient, which ops.maximum does not do on every backend.
            greater = ops.where(by_channel > by_position, by_channel, by_position)
            return ops.where(by_channel == by_position, 0.5 * by_channel + 0.5 * by_position, greater)
        if self.aggregation == "multiply":
            return by_channel * by_position
        return ops.concatenate([by_channel, by_position], axis=self.channel_axis)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the shape of the input; with "concat", it has twice the channels."""
        shape = list(input_shape)
        if self.aggregation == "concat" and (channels := shape[self.channel_axis]) is not None:
            shape[self.channel_axis] = 2 * channels
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that construct this block again."""
        return {**super().get_config(), "reduction": self.reduction, "aggregation": self.aggregation}

    def _build(self, channels: int) -> None:
        shape: list[int | None] = [None] * self.input_spec.min_ndim
        shape[self.channel_axis] = channels
        for part in (self.channel, self.spatial):
            if not part.built:
                part.build(shape)

    def _fused_map(self, inputs: Tensor) -> Tensor | None:
        """Compute the block as torch does, if torch has a kernel for the options of the parts, see `_fused`."""
        channel, spatial = self.channel, self.spatial
        # torch has no kernel for "concat", and its scSE has only the gate of the paper
        if self.aggregation == "concat" or (channel.activation, channel.gate) != ("relu", "sigmoid"):
            return None
        dense = (channel.squeeze, channel.excite, spatial.project)
        return self._fused("scse", inputs, *dense, aggregation=self.aggregation, scale=self.scale)

    def _map_of(self, part: keras.Layer, inputs: Tensor) -> Tensor:
        """Call a part, and correct the scale of its map: in an identity start, the part scales its own gates by 2."""
        own = 2.0 if getattr(part, "identity", self.identity) else 1.0
        return _scaled(ops.cast(part(inputs), self.compute_dtype), self.scale / own)


@keras.saving.register_keras_serializable(PACKAGE)
class ProjectExcite(Block):
    """Project & Excite (PE): a gate for every channel at every position, from the means of the map along its axes.

    The map is projected onto each spatial axis: the mean over all other spatial axes, one vector per channel. Z is the
    sum of the projections, each tiled to the size of the map, and the gate is `sigmoid(V2 relu(V1 Z))`, where V1 and V2
    are 1x1 convolutions. The paper is about volumes, with three projections. Images have two, rows and columns; in 1D
    the map is its own projection, so that Z is the map.

    Args:
        reduction: Reduction r of the paper. The hidden layer has `max(1, C // r)` channels. The default is that of the
            other blocks and of the authors' code.
        bias: Whether the two dense layers have biases.
        identity: Whether the block starts as the identity, bit for bit: the last layer is initialised to zero and the
            gate is scaled by 2.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`.
        **kwargs: Arguments `name`, `dtype` and `trainable` of any Keras layer.

    Call arguments:
        inputs: Feature map with at least one spatial axis.

    Input shape:
        `(N, *spatial, C)`, or `(N, C, *spatial)` for `data_format="channels_first"`. Spatial sizes may be unknown.

    Output shape:
        Same as the input.

    Raises:
        UserError: At construction, `reduction` is below 1 or `data_format` is unknown. In the first call, the map has
            no spatial axis or an unknown number of channels.

    Reference:
        [Rickmann et al., 2019](https://arxiv.org/abs/1906.04649)

    Example:
    >>> block = scse.keras.ProjectExcite(reduction=2)
    >>> keras.ops.shape(block(keras.ops.ones((4, 8, 8, 8, 16))))
    (4, 8, 8, 8, 16)
    """

    part_names = ("squeeze", "excite")

    def __init__(
        self,
        *,
        reduction: int = REDUCTION,
        bias: bool = True,
        identity: bool = False,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(bias=bias, identity=identity, data_format=data_format, **kwargs)
        with self._name_in_errors():
            self.reduction = check_positive("reduction", reduction)

    def gates(self, x: Tensor) -> Tensor:
        """Compute the unscaled gates of all elements, in the shape of the map."""
        parts = self._projections(x)
        if is_linear(self.squeeze, self.compute_dtype):
            # a linear layer is applied to the projections, which are small, instead of to Z; its bias counts once
            parts = [_product(part, self.squeeze.kernel) for part in parts]
            hidden = _tiled_sum(parts if self.squeeze.bias is None else [parts[0] + self.squeeze.bias, *parts[1:]])
        else:
            hidden = self._projected(_tiled_sum(parts), self.squeeze)
        gates = ops.sigmoid(self._projected(ops.relu(hidden), self.excite))
        return gates if self.data_format == "channels_last" else ops.moveaxis(gates, -1, 1)

    def call(self, inputs: Tensor) -> Tensor:
        """Recalibrate every element of a map."""
        return inputs * _scaled(self.gates(inputs), 2.0 if self.identity else 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that construct this block again."""
        return {**super().get_config(), "reduction": self.reduction}

    def _build(self, channels: int) -> None:
        width = hidden_width(channels, self.reduction, None)
        self._dense("squeeze", channels, width)
        self._dense("excite", width, channels, zero=self.identity)

    def _projections(self, x: Tensor) -> list[Tensor]:
        """Compute the means over all spatial axes but one: (N, size, C) per axis."""
        first = 1 if self.data_format == "channels_last" else 2
        found = []
        while x.ndim > 3:
            last = first + x.ndim - 3
            found.append(_mean(x, tuple(range(first, last))))
            # the other projections are means of this mean, so that the map is read twice, however many axes it has
            x = _mean(x, (last,))
        found = [*reversed(found)]
        return [x, *found] if first == 1 else [ops.moveaxis(part, 1, -1) for part in (x, *found)]


BLOCKS: dict[str, type[Block]] = {
    "cse": ChannelSE,
    "sse": SpatialSE,
    "scse": ConcurrentSE,
    "pe": ProjectExcite,
}
"""Block class of each variant. Variant "none" is the plain network and has no block."""


def with_names(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Replace functions in a configuration by their names.

    When Keras reads `.h5` files, it replaces every string that is the name of a function by that function, for instance
    "add" by `keras.layers.add`, or the name of one of the user's `custom_objects`.
    """

    def name(key: str, function: Callable[..., Any]) -> str:
        registered = (choice for choice in _CHOICES.get(key, ()) if get(choice, custom_objects) is function)
        return next(registered, function.__name__)

    get = keras.saving.get_registered_object
    return {key: name(key, value) if inspect.isfunction(value) else value for key, value in config.items()}


def _acts_as(layer: keras.Layer, kind: type[keras.Layer], dtype: str) -> bool:
    """Return whether calling a layer on a tensor of this dtype does what its class does and nothing else."""
    own = vars(layer)
    return (
        type(layer) is kind
        and layer.compute_dtype == dtype
        and layer.activity_regularizer is None
        and "call" not in own
        and not any(own.get(hooks) for hooks in _HOOKS)
    )


def _scaled(gate: Tensor, scale: float) -> Tensor:
    return gate if scale == 1.0 else gate * scale


def _product(x: Tensor, kernel: Tensor) -> Tensor:
    """Multiply the last axis by a kernel."""
    # for float64, ops.matmul computes in float32 on torch; otherwise, ops.einsum has slow gradients on TensorFlow
    return ops.einsum("...c,cu->...u", x, kernel) if _is_double(x) else ops.matmul(x, kernel)


def _tiled_sum(parts: Sequence[Tensor]) -> Tensor:
    """Tile one part (N, size, C) per spatial axis over the other axes, and add all: (N, *spatial, C)."""
    total = parts[0]
    for part in parts[1:]:
        total = ops.expand_dims(total, -2) + ops.expand_dims(part, tuple(range(1, total.ndim - 1)))
    return total


def _mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Compute the mean over axes, in float32 for half precision and in float64 for float64."""
    if not _is_double(x):
        return ops.mean(x, axis=axes)
    # ops.mean computes in float32 on JAX and torch
    shape = ops.shape(x)
    return ops.sum(x, axis=axes) / ops.cast(math.prod(shape[axis] for axis in axes), x.dtype)


def _is_double(x: Tensor) -> bool:
    return bool(keras.backend.standardize_dtype(x.dtype) == "float64")


def _settings(config: Any, but: Collection[str] = ()) -> Any:
    """Return a configuration without some settings, and without the numbers that identify shared objects in a file."""
    if isinstance(config, Mapping):
        return {key: _settings(value) for key, value in config.items() if key not in {*but, "shared_object_id"}}
    return [_settings(value) for value in config] if isinstance(config, list | tuple) else config


def _serialized(part: keras.Layer) -> dict[str, Any]:
    # without build_config, so that the block builds the layer and its weights have the name of the block
    return {k: v for k, v in keras.saving.serialize_keras_object(part).items() if k != "build_config"}


def is_linear(layer: keras.Layer, dtype: str) -> bool:
    """Return whether a layer multiplies tensors of this dtype by its kernel, adds its bias, and does nothing else."""
    return (
        _acts_as(layer, keras.layers.Dense, dtype)
        and layer.quantization_mode is None
        and not layer.lora_enabled
        and layer.activation is keras.activations.linear
    )
