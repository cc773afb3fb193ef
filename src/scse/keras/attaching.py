"""Attach blocks to an existing Keras model, and detach them."""

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from scse.keras.layers import BLOCKS, DATA_FORMATS, SUFFIX, Block, Tensor
from scse.support.errors import UserError
from scse.vocabulary.options import attach_options
from scse.vocabulary.patterns import named

Where = str | type[keras.Layer] | tuple[type[keras.Layer], ...] | Callable[[keras.Layer], bool]
"""Selection of layers: patterns of names, a class or classes, or a function of the layer."""

_REARRANGING = (keras.layers.Permute, keras.layers.Reshape)
"""Layers after which the channels may be on any axis."""

_UNCONFIGURED = ("lora_alpha", "is_gptq_calibrated", "is_awq_calibrated")
"""Attributes of layers with adapters and of quantised layers that Keras does not restore from the configuration."""


def attach(
    model: keras.Model,
    recalibration: str | Callable[[int], Block] = "scse",
    *,
    to: Where,
    reduction: int = 2,
    aggregation: str = "add",
    identity: bool = True,
) -> keras.Model:
    """Copy a model, and add a recalibration block after each of the selected layers.

    The original model does not change, and the copy shares no weights with it. The copy has the weights, names, dtype
    policies and frozen layers of the original. The blocks can be trained, even in a frozen model. With `identity`, the
    outputs equal those of the original, bit for bit, until the blocks are trained. `summary()` shows the blocks with
    the names `<layer>_recalibration`. `scse.keras.detach` removes them.

    The copy is not compiled. Layers are copied by their configuration, as in `keras.models.clone_model`. A layer with a
    lambda therefore needs `keras.config.enable_unsafe_deserialization()`.

    Args:
        model: A functional model, such as those of `keras.applications`, or a `keras.Sequential` with a known input
            shape. Layers of models inside it can be selected too. A subclass whose constructor does not take inputs and
            outputs is copied to a plain functional model.
        recalibration: Variant `"cse"`, `"sse"`, `"scse"` or `"pe"`, or a function of the number of channels that
            returns a new block.
        to: Layers that the blocks follow. One of: patterns of layer names joined by `"|"`, with `*` and `?`, where
            `"outer/inner"` is a layer of a model inside the model and `**` matches any number of such parts; a class or
            a tuple of classes; a function of the layer that returns whether to attach a block.
        reduction: Reduction r of the paper, see `ChannelSE`. Not for `"sse"` or a function.
        aggregation: How `"scse"` joins its two maps, see `ConcurrentSE`. Only for `"scse"`.
        identity: Whether the blocks start as the identity. Not for a function.

    Returns:
        Copy of the model. Each block has the dtype policy and the data format of the layer that it follows. After a
        quantised layer, the policy is that from which the layer was quantised. After a layer without `data_format`, the
        data format is that of the nearest preceding layer with one, or `keras.config.image_data_format()`.

    Raises:
        UserError: An option or pattern is invalid, the model is neither functional nor sequential or has no input
            shape, or a layer is called more than once, does not return one feature map with a known number of channels,
            or already has a block.

    Reference:
        [Roy et al., 2018](https://arxiv.org/abs/1803.02579)

    Example:
    >>> model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 64, 3))
    >>> attached = scse.keras.attach(model, "scse", to="conv?_block?_out")
    >>> for layer in attached.layers:  # train the blocks alone
    ...     layer.trainable = layer.name.endswith("_recalibration")
    """
    options = attach_options(recalibration, reduction=reduction, aggregation=aggregation, identity=identity)
    _check_model(model)
    hosts = _choose(model, to)

    def make(name: str, channels: int, form: _Form) -> Block:
        if isinstance(recalibration, str):
            own: dict[str, Any] = {"name": name, "dtype": form.policy, "data_format": form.data_format}
            return BLOCKS[recalibration](**options, **own)
        return _made_by_function(recalibration, name, channels, form)

    return _Copy(hosts={id(host): path for path, host in hosts.items()}, make=make).of(model)


def detach(model: keras.Model) -> keras.Model:
    """Copy a model without its blocks, with its current weights.

    Names and order of the layers and weights are as before the blocks were attached, so old `.weights.h5` files can be
    loaded into the copy. Blocks are identified by their type and name, `<layer>_recalibration`, which also works for a
    model that was saved and loaded.

    Args:
        model: Model returned by `scse.keras.attach`, or a network of `scse.keras.networks` with blocks. It is not
            changed.

    Returns:
        Copy of the model, which is not compiled.

    Raises:
        UserError: The model has no block.

    Example:
    >>> plain = scse.keras.detach(attached)
    """
    _check_model(model)
    blocks = {id(layer) for _, layer in _walk(model) if _is_block(layer)}
    if not blocks:
        raise UserError(f"{_describe_model(model)} has no block to remove; were the blocks attached to another model?")
    return _Copy(dropped=blocks).of(model)


@dataclass(frozen=True)
class _Form:
    """Data format and dtype policy of a tensor, from the preceding layers; None if none of these has one."""

    data_format: str | None = None
    policy: keras.DTypePolicy | None = None


Make = Callable[[str, int, _Form], Block]
"""Function of (name, channels, form) that returns a block."""


class _Copy:
    """Copies a model layer by layer, and thereby adds blocks and omits layers.

    Args:
        hosts: Paths of the layers that get a block, by the ids of the layers.
        make: Function that makes the blocks.
        dropped: Ids of the layers that are omitted.
    """

    def __init__(
        self, *, hosts: Mapping[int, str] | None = None, make: Make | None = None, dropped: Container[int] = ()
    ) -> None:
        self.hosts = hosts or {}
        self.make = make
        self.dropped = dropped
        self.copies: dict[int, keras.Operation] = {}
        self.sources: dict[int, keras.Operation] = {}
        self.blocks: dict[int, Block] = {}
        self.called: set[int] = set()
        # by the id of a tensor of the copy; an entry is an input of the copy, recalibrated if it is a host
        self.entries: dict[int, Tensor] = {}
        self.recalibrated: dict[int, str] = {}
        self.forms: dict[int, _Form] = {}

    def of(self, model: keras.Model) -> keras.Model:
        """Return the copy of a model, with its state."""
        copied = self._copied_model(model)
        graphs = [model, *(layer for _, layer in _walk(model) if _is_graph(layer))]
        frozen = {id(layer) for graph in graphs if not graph.trainable for _, layer in _walk(graph)}
        for copy in self.copies.values():
            source = self.sources[id(copy)]
            if isinstance(source, keras.Layer) and not _is_graph(source) and id(source) not in self.dropped:
                _copy_state(source, copy, frozen=id(source) in frozen)
        return copied

    def _copied_model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            copied, output = self._sequential(model)
        else:
            copied = self._functional(model)
            output = copied.outputs[0]
        copied.dtype_policy = model.dtype_policy
        self.forms[id(copied)] = self.forms[id(output)]
        return copied

    def _functional(self, model: keras.Model) -> keras.Model:
        copied = keras.models.clone_model(
            # A new model, which is not compiled: clone_model looks up the loss of a compiled model by its name, and
            # would replace the user's function `dice` by keras.losses.dice.
            keras.Model(model.input, model.output, name=model.name),
            input_tensors=keras.tree.map_structure(self._entry, model.input),
            clone_function=self._copied,
            call_function=self._call,
        )
        own_class = type(model) is not type(copied) and _is_made_of_inputs_and_outputs(type(model))
        return type(model)(copied.input, copied.output, name=model.name) if own_class else copied

    def _sequential(self, model: keras.Sequential) -> tuple[keras.Sequential, Tensor]:
        """Return the copy and its output. clone_model cannot add layers to a Sequential."""
        x = self._entry(model.inputs[0])
        layers = [x]
        for layer in model.layers:
            copy = self._copied(layer)
            # a Sequential builds its layers in this scope
            with keras.name_scope(model.name):
                x = self._call(copy, x)
            layers += [copy] if id(layer) not in self.dropped else []
            layers += [self.blocks[id(layer)]] if id(layer) in self.blocks else []
        return keras.Sequential(layers, name=model.name), x

    def _entry(self, original: Tensor) -> Tensor:
        """Return the copy of an input."""
        layer = original._keras_history.operation
        entry = self._copied(layer).output
        self.entries[id(entry)] = self._followed(layer, entry, _form(layer, _Form()))
        return entry

    def _copied(self, source: keras.Operation) -> keras.Operation:
        """Return the copy of a layer, without its state."""
        if id(source) not in self.copies:
            copy = self._copied_model(source) if _is_graph(source) else type(source).from_config(source.get_config())
            self.copies[id(source)] = copy
            self.sources[id(copy)] = source
        return self.copies[id(source)]

    def _call(self, copy: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Call the copy of a layer, and then its block."""
        source = self.sources[id(copy)]
        args, kwargs = keras.tree.map_structure(lambda x: self.entries.get(id(x), x), (args, kwargs))
        inputs = keras.tree.flatten((args, kwargs))
        if id(source) in self.dropped:
            return inputs[0]
        self._check_place(source, inputs[0])
        self.called.add(id(source))
        output = copy(*args, **kwargs)
        before = next((self.forms[id(x)] for x in inputs if id(x) in self.forms), _Form())
        return self._followed(source, output, self.forms[id(copy)] if _is_graph(copy) else _form(source, before))

    def _followed(self, source: keras.Operation, output: Any, form: _Form) -> Any:
        """Return the output of a layer, recalibrated if the layer gets a block."""
        if self.make and (where := self.hosts.get(id(source))):
            block = self.make(f"{source.name}{SUFFIX}", _channels(_describe(where, source), output, form), form)
            recalibrated = block(output)
            _check_kept(block, output, recalibrated)
            self.blocks[id(source)] = block
            self.recalibrated[id(recalibrated)] = _describe(where, source)
            output = recalibrated
        for tensor in keras.tree.flatten(output):
            self.forms[id(tensor)] = form
        return output

    def _check_place(self, source: keras.Operation, x: Tensor) -> None:
        """Refuse a second block after a layer, and a block after a layer that is called several times."""
        if isinstance(source, Block) and id(x) in self.recalibrated:
            raise UserError(
                f"{self.recalibrated[id(x)]} has a block already, {source.name!r}; detach it first, or leave the "
                "layer out of to="
            )
        if id(source) not in self.called:
            return
        inside = [layer for _, layer in _walk(source)] if _is_graph(source) else []
        for layer in (source, *inside):
            if id(layer) in self.hosts:
                within = "" if layer is source else f"in {source.name!r}, which is "
                raise UserError(
                    f"{_describe(self.hosts[id(layer)], layer)} is {within}called more than once, but a block "
                    "recalibrates one map; leave it out of to=, and attach to layers that are called once"
                )


def _is_graph(layer: object) -> bool:
    """Return whether a layer is a model whose layers and connections are known."""
    if isinstance(layer, keras.Sequential):
        return hasattr(layer, "inputs")
    return isinstance(layer, keras.Model) and isinstance(layer, keras.Function)


def _is_made_of_inputs_and_outputs(kind: type[keras.Model]) -> bool:
    """Return whether a class has the constructor of keras.Model, or passes all arguments on to it."""
    own = [p for p in inspect.signature(kind.__init__).parameters.values() if p.name != "self"]
    if [p.name for p in own[:2]] == ["inputs", "outputs"]:
        return all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in own[2:])
    return [p.kind for p in own] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]


def _check_model(model: keras.Model) -> None:
    if _is_graph(model):
        return
    if isinstance(model, keras.Sequential):
        raise UserError(
            f"{_describe_model(model)} has no known input shape; start it with keras.Input(shape), or call its build()"
        )
    raise UserError(
        f"{type(model).__name__} is neither a functional model nor a keras.Sequential, so the connections of its "
        "layers are unknown; build it with keras.Input and keras.Model(inputs, outputs)"
    )


def _walk(model: keras.Model, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, keras.Operation]]:
    """Iterate over the paths of all layers and operations of a model and of the models inside it, once each."""
    seen = set() if seen is None else seen
    for member in model.layers if isinstance(model, keras.Sequential) else model.operations:
        if id(member) not in seen:
            seen.add(id(member))
            path = f"{prefix}{member.name}"
            yield path, member
            if _is_graph(member):
                yield from _walk(member, f"{path}/", seen)


def _is_block(layer: keras.Operation) -> bool:
    return isinstance(layer, Block) and layer.name.endswith(SUFFIX)


def _choose(model: keras.Model, to: Where) -> dict[str, keras.Operation]:
    """Select the layers of `to`, by their paths."""
    layers = {path: layer for path, layer in _walk(model) if not _is_block(layer)}
    if isinstance(to, str):
        chosen = named(to, list(layers), what=f"layer of {_describe_model(model)}", separator="/")
        return {path: layer for path, layer in layers.items() if path in chosen}
    # operations such as x + y have a name, but are not layers
    layers = {path: layer for path, layer in layers.items() if isinstance(layer, keras.Layer)}
    if isinstance(to, type | tuple):
        found = {path: layer for path, layer in layers.items() if isinstance(layer, to)}
    else:
        found = {path: layer for path, layer in layers.items() if to(layer)}
    if not found:
        raise UserError(f"no layer of {_describe_model(model)} matches to={to!r}; see its summary()")
    return found


def _form(source: keras.Operation, before: _Form) -> _Form:
    """Return the form of the output of a layer, given the form of its first input."""
    data_format = getattr(source, "data_format", None)
    if isinstance(source, _REARRANGING):
        data_format = None
    elif data_format not in DATA_FORMATS:
        data_format = before.data_format
    policy = getattr(source, "dtype_policy", before.policy)
    if isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        # a block needs the unquantised policy, because quantised kernels start at zero and are not trained
        policy = keras.dtype_policies.get(policy.get_config()["source_name"])
    return _Form(data_format, policy)


def _channels(layer: str, output: Any, form: _Form) -> int:
    """Return the number of channels of the map that a layer returned."""
    if not isinstance(output, keras.KerasTensor):
        raise UserError(
            f"{layer} returns a {type(output).__name__} of {len(output)}, not a feature map; leave it out of to=, and "
            "attach to a layer that returns one"
        )
    data_format = form.data_format or keras.config.image_data_format()
    written, axis = ("(N, *spatial, C)", -1) if data_format == "channels_last" else ("(N, C, *spatial)", 1)
    if len(output.shape) < 3:
        raise UserError(
            f"{layer} returns a tensor of shape {output.shape}, but a feature map {written} has at least three axes; "
            "leave it out of to=, and attach to a layer before it"
        )
    channels: int | None = output.shape[axis]
    if channels is None:
        raise UserError(
            f"{layer} returns maps {written} of shape {output.shape}, whose number of channels is unknown; give the "
            "keras.Input a shape with that number"
        )
    return channels


def _made_by_function(make: Callable[[int], Block], name: str, channels: int, form: _Form) -> Block:
    block = make(channels)
    if not isinstance(block, Block):
        raise UserError(
            f"the function for {name!r} must return a ChannelSE, SpatialSE, ConcurrentSE or ProjectExcite of "
            f"scse.keras, got {type(block).__name__}"
        )
    if block.built:
        raise UserError(
            f"the function for {name!r} returned a block that is in use already; return a new one each time"
        )
    if form.data_format not in {None, block.data_format}:
        raise UserError(
            f"the function for {name!r} returned a block for {block.data_format}, but its map is {form.data_format}; "
            f"make the block with data_format={form.data_format!r}"
        )
    block.name = name
    return block


def _check_kept(block: Block, x: Tensor, y: Tensor) -> None:
    """Refuse a block that changes shape or dtype."""
    if (x.shape, x.dtype) != (y.shape, y.dtype):
        raise UserError(
            f"{type(block).__name__} layer {block.name!r} turns {x.dtype} of shape {x.shape} into {y.dtype} of shape "
            f"{y.shape}, but a block must keep the shape and dtype of its input"
        )


def _copy_state(source: keras.Layer, copy: keras.Layer, *, frozen: bool) -> None:
    """Copy the state of a layer: weights, random seeds, and whether its parts are frozen."""
    parts, copied_parts = source._flatten_layers(), copy._flatten_layers()
    if [v.shape for v in source.variables] != [v.shape for v in copy.variables] or len(parts) != len(copied_parts):
        raise UserError(
            f"{_describe(source.name, source)} cannot be copied: a layer made from its get_config() has other weights; "
            "make sure that get_config() has every argument of its constructor"
        )
    for variable, copied in zip(source.variables, copy.variables, strict=True):
        # copied, because JAX deletes arrays that are passed to a training step
        copied.assign(keras.ops.copy(variable))
    # a layer comes before its parts in this order, so that freezing it does not override the setting of its parts
    for part, copied_part in zip(parts, copied_parts, strict=True):
        copied_part.trainable = part.trainable and not frozen
        for name in _UNCONFIGURED:
            if hasattr(part, name):
                setattr(copied_part, name, getattr(part, name))
        if isinstance(copied_part, keras.layers.Normalization):
            copied_part.finalize_state()


def _describe(path: str, layer: keras.Operation) -> str:
    return f"{path!r} ({type(layer).__name__})"


def _describe_model(model: keras.Model) -> str:
    return f"the model {model.name!r}"
