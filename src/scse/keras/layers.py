"""The recalibration blocks cSE, sSE and scSE as Keras 3 layers, written with `keras.ops` alone.

Options and names are those of `scse.ChannelSE`, `scse.SpatialSE` and `scse.ConcurrentSE`, and the same weights give
the same numbers. Source: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully
Convolutional Networks", MICCAI 2018 (arXiv 1803.02579).
"""

import inspect
import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.vocabulary.options import (
    ACTIVATIONS,
    AGGREGATIONS,
    GATES,
    IDENTITY_SCALE,
    REDUCTION,
    check_aggregation,
    check_channel_options,
    hidden_width,
)

PACKAGE = "scse"
"""Under which Keras registers what is saved."""

DATA_FORMATS = ("channels_last", "channels_first")

SUFFIX = "_recalibration"
"""What the name of a block in a network adds to that of its place."""

Tensor = Any
"""A tensor of the backend, or a symbolic one of Keras."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": ops.relu,
    "silu": ops.silu,
    # TensorFlow's own has its slope in float32
    "leaky-relu": lambda x: ops.where(x > 0, x, 0.01 * x),
}
_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": ops.sigmoid,
    "hard-sigmoid": ops.hard_sigmoid,
    "relu": ops.relu,
}
_CHOICES = {"activation": ACTIVATIONS, "gate": GATES, "aggregation": AGGREGATIONS, "data_format": DATA_FORMATS}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where hooks are kept on the torch backend, on which every layer is a torch module."""


class Block(keras.Layer):
    """What the three blocks share: where the channels are, their parts, and the checks of arguments and input.

    Args:
        bias: whether the dense layers have biases.
        identity: start as the identity.
        data_format: `"channels_last"` or `"channels_first"`; by default `keras.config.image_data_format()`.
        parts: name and serialised form of the inner layers that are not as the block itself makes them, because they
            were quantised, adapted, replaced, wrapped or frozen. `get_config` returns them.
        **kwargs: `name`, `dtype` and `trainable` of any Keras layer.
    """

    part_names: tuple[str, ...]
    """The attributes that hold the inner layers."""

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
        self._given = dict(parts or {})
        self._made: dict[str, tuple[type, dict[str, Any]]] = {}
        self._made_ids: list[int] = []
        self.bias = bias
        self.identity = identity
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        with self._telling_name():
            check_choice("data_format", self.data_format, DATA_FORMATS)

    @property
    def channel_axis(self) -> int:
        """The axis of the channels."""
        return 1 if self.data_format == "channels_first" else -1

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for an input shape, whose channels must be known."""
        with self._telling_name():
            channels = self._channels(tuple(input_shape))
        # the weights are matrices: one block serves any number of spatial axes, as on the torch side
        self.input_spec = keras.layers.InputSpec(min_ndim=3, axes={self.channel_axis: channels})
        self._build(channels)
        self._arrange()

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this block again."""
        own = {"bias": self.bias, "identity": self.identity, "data_format": self.data_format}
        # a frozen block freezes its inner layers
        changed = self.changed_parts(but=() if self.trainable else ("trainable",))
        parts = {**self._given, **{name: _serialized(getattr(self, name)) for name in changed}}
        return {**super().get_config(), **own, **({"parts": parts} if parts else {})}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Block":
        """Make a block from what `get_config` returned."""
        block: Block = super().from_config(with_names(config))
        return block

    def changed_parts(self, *, but: Collection[str] = ()) -> list[str]:
        """The names of the inner layers that are not as the block makes them, but for some of their settings."""
        changed = []
        for name, (kind, made) in self._made.items():
            part = getattr(self, name)
            if _settings(part.get_config(), but) != _settings(made, but) or type(part) is not kind:
                changed.append(name)
        return changed

    def quantized_call(self, *args: Any, **kwargs: Any) -> Tensor:
        """The same as `call`: a quantised dtype policy is a matter of the dense layers, which have it too."""
        return self.call(*args, **kwargs)

    def _build(self, channels: int) -> None:
        raise NotImplementedError

    def _channels(self, shape: tuple[int | None, ...]) -> int:
        written = "(N, *spatial, C)" if self.data_format == "channels_last" else "(N, C, *spatial)"
        if len(shape) < 3:
            raise UserError(f"takes maps {written} of one spatial axis or more, got the shape {shape}")
        channels = shape[self.channel_axis]
        if channels is None:
            raise UserError(
                f"needs to know how many channels its maps {written} have, got the shape {shape}; give the input a "
                "shape with that number, or another data_format"
            )
        return channels

    def _projected(self, x: Tensor, dense: keras.Layer) -> Tensor:
        """What a dense layer makes of the last axis; calling the layer takes longer than its work on small maps."""
        if not is_linear(dense, self.compute_dtype):
            return ops.cast(dense(x), self.compute_dtype)
        # ops.matmul is of float32 in torch, ops.einsum has slow gradients in TensorFlow
        y = ops.einsum("...c,cu->...u", x, dense.kernel) if _is_double(x) else ops.matmul(x, dense.kernel)
        return y if dense.bias is None else y + dense.bias

    def _part(self, name: str, make: Callable[[], keras.Layer]) -> None:
        """Have an inner layer of a name: the one that was put there, or the given one, or else a new one."""
        part = make()
        self._made[name] = (type(part), part.get_config())
        if name in self._given:
            part = keras.saving.deserialize_keras_object(self._given.pop(name))
        else:
            self._made_ids.append(id(part))
        if not hasattr(self, name):
            setattr(self, name, part)

    def _arrange(self) -> None:
        """Bring the inner layers into the order in which weights are saved, and drop those that were replaced."""
        parts = [getattr(self, name) for name in self.part_names]
        known = {*map(id, parts), *self._made_ids}
        self._layers[:] = [*parts, *(layer for layer in self._layers if id(layer) not in known)]

    def _dense(self, name: str, given: int, units: int, *, zero: bool = False) -> None:
        """Build the dense layer of a name, for so many values."""
        self._part(name, lambda: self._new_dense(name, units, zero=zero))
        part = getattr(self, name)
        if not part.built:
            part.build((None, given))

    def _new_dense(self, name: str, units: int, *, zero: bool) -> keras.layers.Dense:
        # the uniform distribution from which torch draws, so that both sides train alike
        drawn = keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
        return keras.layers.Dense(
            units,
            use_bias=self.bias,
            kernel_initializer="zeros" if zero else drawn,
            name=name,
            dtype=self.dtype_policy,
        )

    @contextmanager
    def _telling_name(self) -> Generator[None]:
        """Name the layer in front of what is wrong, as Keras does."""
        try:
            yield
        except ValueError as error:
            raise UserError(f"{type(self).__name__} layer {self.name!r}: {error}") from error


@keras.saving.register_keras_serializable(PACKAGE)
class ChannelSE(Block):
    """Spatial squeeze and channel excitation (cSE; Hu et al. 2018, section 2.1 of the paper).

    One gate a channel: `sigmoid(W2 relu(W1 z))`, `z` the mean over all spatial axes.

    Args:
        reduction: the paper's r; the hidden width is `max(1, C // r)`, so that few channels keep a live gate.
        hidden: the hidden width itself, instead of a reduction.
        activation: after W1: `"relu"` (the paper), `"silu"` or `"leaky-relu"` (slope 0.01).
        gate: after W2: `"sigmoid"` (the paper), `"hard-sigmoid"` or `"relu"`, which has no identity.
        bias: whether the two dense layers have biases; the paper's count of parameters is without.
        identity: start as the identity, bit for bit: the last layer is zero and the gate is scaled by 2.
        data_format: `"channels_last"` or `"channels_first"`; by default `keras.config.image_data_format()`.
        **kwargs: `name`, `dtype` and `trainable` of any Keras layer.

    Call arguments:
        inputs: a map of one spatial axis or more.

    Input shape:
        `(N, *spatial, C)`, or `(N, C, *spatial)` for `data_format="channels_first"`; spatial sizes may be unknown.

    Output shape:
        The input's.

    Raises:
        ValueError: at construction, for `reduction` or `hidden` below 1 or both of them, an unknown `activation`,
            `gate` or `data_format`, or `identity=True` with a gate that has none; in the first call, for a map
            without a spatial axis or with an unknown number of channels.

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
        with self._telling_name():
            check_channel_options(reduction, hidden, activation, gate, identity=identity)
        self.reduction = reduction
        self.hidden = hidden
        self.activation = activation
        self.gate = gate

    def gates(self, x: Tensor) -> Tensor:
        """A gate a channel: (N, 1, ..., C), or (N, C, 1, ...) for channels first; not scaled."""
        positions = tuple(axis for axis in range(1, x.ndim) if axis != self.channel_axis % x.ndim)
        hidden = _ACTIVATIONS[self.activation](self._projected(_mean(x, positions), self.squeeze))
        return ops.expand_dims(_GATES[self.gate](self._projected(hidden, self.excite)), positions)

    def call(self, inputs: Tensor) -> Tensor:
        """Recalibrate the channels of a map."""
        return inputs * _scaled(self.gates(inputs), 2.0 if self.identity else 1.0)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this block again."""
        own = {"reduction": self.reduction, "hidden": self.hidden, "activation": self.activation, "gate": self.gate}
        return {**super().get_config(), **own}

    def _build(self, channels: int) -> None:
        width = hidden_width(channels, self.reduction, self.hidden)
        self._dense("squeeze", channels, width)
        self._dense("excite", width, channels, zero=self.identity)


@keras.saving.register_keras_serializable(PACKAGE)
class SpatialSE(Block):
    """Channel squeeze and spatial excitation (sSE; section 2.2 of the paper).

    One gate a position: `sigmoid(w . x)`, a 1x1 convolution of all channels to one.

    Args:
        bias: whether the projection has a bias; the paper's count of parameters is without.
        identity: start as the identity, bit for bit: the projection is zero and the gate is scaled by 2.
        data_format: `"channels_last"` or `"channels_first"`; by default `keras.config.image_data_format()`.
        **kwargs: `name`, `dtype` and `trainable` of any Keras layer.

    Call arguments:
        inputs: a map of one spatial axis or more.

    Input shape:
        `(N, *spatial, C)`, or `(N, C, *spatial)` for `data_format="channels_first"`; spatial sizes may be unknown.

    Output shape:
        The input's.

    Raises:
        ValueError: at construction, for an unknown `data_format`; in the first call, for a map without a spatial
            axis or with an unknown number of channels.

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
        """A gate a position: (N, *spatial, 1), or (N, 1, *spatial) for channels first; not scaled."""
        if self.data_format == "channels_last":
            return ops.sigmoid(self._projected(x, self.project))
        return ops.sigmoid(ops.moveaxis(self._projected(ops.moveaxis(x, 1, -1), self.project), -1, 1))

    def call(self, inputs: Tensor) -> Tensor:
        """Recalibrate the positions of a map."""
        return inputs * _scaled(self.gates(inputs), 2.0 if self.identity else 1.0)

    def _build(self, channels: int) -> None:
        self._dense("project", channels, 1, zero=self.identity)


@keras.saving.register_keras_serializable(PACKAGE)
class ConcurrentSE(Block):
    """Concurrent spatial and channel squeeze & excitation (scSE; section 2.3 of the paper).

    Both gates see the same input; `aggregation` joins the two recalibrated maps.

    Args:
        reduction: the paper's r, see `ChannelSE`.
        aggregation: `"add"` (the paper), `"max"` (the authors' later code), `"multiply"`, or `"concat"`, which
            returns 2C channels.
        bias: whether all dense layers have biases; the paper's count of parameters is without.
        identity: start as the identity, bit for bit: the last layers are zero; with `"max"` the gates are scaled
            by 2. `"multiply"` and `"concat"` have no identity.
        data_format: `"channels_last"` or `"channels_first"`; by default `keras.config.image_data_format()`.
        **kwargs: `name`, `dtype` and `trainable` of any Keras layer.

    Call arguments:
        inputs: a map of one spatial axis or more.

    Input shape:
        `(N, *spatial, C)`, or `(N, C, *spatial)` for `data_format="channels_first"`; spatial sizes may be unknown.

    Output shape:
        The input's; with `"concat"`, 2C channels.

    Raises:
        ValueError: at construction, for `reduction` below 1, an unknown `aggregation` or `data_format`, or
            `identity=True` with an aggregation that has none; in the first call, for a map without a spatial axis
            or with an unknown number of channels.

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
        with self._telling_name():
            check_aggregation(aggregation, identity=identity)
            check_channel_options(reduction, None, "relu", "sigmoid", identity=identity)
        self.reduction = reduction
        self.aggregation = aggregation
        shared = {"bias": bias, "identity": identity, "data_format": self.data_format, "dtype": self.dtype_policy}
        self._part("channel", lambda: ChannelSE(reduction=reduction, name="channel", **shared))
        self._part("spatial", lambda: SpatialSE(name="spatial", **shared))

    def call(self, inputs: Tensor) -> Tensor:
        """Recalibrate the channels and the positions of a map."""
        scale = IDENTITY_SCALE[self.aggregation] if self.identity else 1.0
        if _acts_as(self.channel, ChannelSE, self.compute_dtype) and _acts_as(
            self.spatial, SpatialSE, self.compute_dtype
        ):
            channel = _scaled(self.channel.gates(inputs), scale)
            spatial = _scaled(self.spatial.gates(inputs), scale)
            if self.aggregation == "add":
                # U*c + U*s, one product of the whole map less
                return inputs * (channel + spatial)
            by_channel, by_position = inputs * channel, inputs * spatial
        else:
            by_channel, by_position = (self._map_of(part, inputs, scale) for part in (self.channel, self.spatial))
            if self.aggregation == "add":
                return by_channel + by_position
        if self.aggregation == "max":
            # of the products: where U is negative, the smaller gate wins; equal ones, as at an identity start, share
            # the gradient, which not every backend's ops.maximum lets them
            greater = ops.where(by_channel > by_position, by_channel, by_position)
            return ops.where(by_channel == by_position, 0.5 * by_channel + 0.5 * by_position, greater)
        if self.aggregation == "multiply":
            return by_channel * by_position
        return ops.concatenate([by_channel, by_position], axis=self.channel_axis)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the input, with "concat" of twice its channels."""
        shape = list(input_shape)
        if self.aggregation == "concat" and (channels := shape[self.channel_axis]) is not None:
            shape[self.channel_axis] = 2 * channels
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this block again."""
        return {**super().get_config(), "reduction": self.reduction, "aggregation": self.aggregation}

    def _build(self, channels: int) -> None:
        shape: list[int | None] = [None] * self.input_spec.min_ndim
        shape[self.channel_axis] = channels
        for part in (self.channel, self.spatial):
            if not part.built:
                part.build(shape)

    def _map_of(self, part: keras.Layer, inputs: Tensor, scale: float) -> Tensor:
        """The map that a part returns, which has scaled its own gates by 2 for an identity start."""
        own = 2.0 if getattr(part, "identity", self.identity) else 1.0
        return _scaled(ops.cast(part(inputs), self.compute_dtype), scale / own)


BLOCKS: dict[str, Callable[..., Block]] = {"cse": ChannelSE, "sse": SpatialSE, "scse": ConcurrentSE}
"""The variants by name; "none" is the plain network and has no block."""


def with_names(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A configuration that has names for functions.

    Where a string is the name of a function, as "add" of `keras.layers.add` or one of the user's `custom_objects`, the
    reader of `.h5` files puts the function in its place.
    """

    def name(key: str, function: Callable[..., Any]) -> str:
        registered = (choice for choice in _CHOICES.get(key, ()) if get(choice, custom_objects) is function)
        return next(registered, function.__name__)

    get = keras.saving.get_registered_object
    return {key: name(key, value) if inspect.isfunction(value) else value for key, value in config.items()}


def _acts_as(layer: keras.Layer, kind: type[keras.Layer], dtype: str) -> bool:
    """Whether calling a layer on a tensor of a type does what its kind does, and nothing more."""
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


def _mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean over axes: of half precision in float32, of float64 in float64."""
    if not _is_double(x):
        return ops.mean(x, axis=axes)
    # ops.mean is of float32 in JAX and torch
    shape = ops.shape(x)
    return ops.sum(x, axis=axes) / ops.cast(math.prod(shape[axis] for axis in axes), x.dtype)


def _is_double(x: Tensor) -> bool:
    return bool(keras.backend.standardize_dtype(x.dtype) == "float64")


def _settings(config: Any, but: Collection[str] = ()) -> Any:
    """A configuration without some of its settings, and without the numbers that objects have in a file."""
    if isinstance(config, Mapping):
        return {key: _settings(value) for key, value in config.items() if key not in {*but, "shared_object_id"}}
    return [_settings(value) for value in config] if isinstance(config, list | tuple) else config


def _serialized(part: keras.Layer) -> dict[str, Any]:
    # the block builds it, so that its weights have the name of the block
    return {k: v for k, v in keras.saving.serialize_keras_object(part).items() if k != "build_config"}


def is_linear(layer: keras.Layer, dtype: str) -> bool:
    """Whether a layer multiplies tensors of a type by its kernel and adds its bias, and does nothing more."""
    return (
        _acts_as(layer, keras.layers.Dense, dtype)
        and layer.quantization_mode is None
        and not layer.lora_enabled
        and layer.activation is keras.activations.linear
    )
