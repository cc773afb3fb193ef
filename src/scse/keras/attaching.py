"""Blocks into an existing Keras model, and out again."""

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
"""Layers of a model: patterns of their names, their classes, or a function of the layer."""

_REARRANGING = (keras.layers.Permute, keras.layers.Reshape)
"""After these the channels may be on any axis."""

_UNCONFIGURED = ("lora_alpha", "is_gptq_calibrated", "is_awq_calibrated")
"""What Keras does not bring back from the configuration of a layer with adapters or of a quantised one."""


def attach(
    model: keras.Model,
    recalibration: str | Callable[[int], Block] = "scse",
    *,
    to: Where,
    reduction: int = 2,
    aggregation: str = "add",
    identity: bool = True,
) -> keras.Model:
    """Copies a model, with a recalibration block after each of the chosen layers.

    The given model stays as it is, and the copy shares no weights with it. The copy has its weights, names, dtype
    policies and frozen layers; the blocks can be trained, also in a frozen model. With `identity` the outputs are
    those of the given model too, bit for bit, until the blocks are trained. `summary()` shows the blocks, named
    `<layer>_recalibration`; `scse.keras.detach` takes them out.

    The copy is not compiled. Layers are copied by their configuration, as in `keras.models.clone_model`: a lambda in
    one needs `keras.config.enable_unsafe_deserialization()`.

    Args:
        model: a functional model, also one of `keras.applications`, or a `keras.Sequential` whose input shape is
            known. Layers of models within it can be chosen too. A subclass whose constructor does not take inputs and
            outputs comes back as a plain functional model.
        recalibration: `"cse"`, `"sse"` or `"scse"`, or a function of the number of channels that returns a new block.
        to: after which layers. Patterns of their names joined by `"|"`, with `*` and `?`; `"outer/inner"` is a layer
            of a model within the model, and `**` stands for any number of such parts. Or a class or tuple of
            classes; or a function of the layer that says yes or no.
        reduction: the paper's r, see `ChannelSE`; not for `"sse"` or a function.
        aggregation: how `"scse"` joins its two maps, see `ConcurrentSE`; for `"scse"` alone.
        identity: start as the identity; not for a function.

    Returns:
        The copy. Its blocks have the dtype policy and the data format of the layers that they follow; of a quantised
        layer, the policy that it was quantised from; of a layer without a `data_format`, that of the nearest one
        before it, or else `keras.config.image_data_format()`.

    Raises:
        ValueError: for an option or pattern that is wrong, a model that is neither functional nor sequential or has
            no input shape, or a layer that is called more than once, does not return one feature map with a known
            number of channels, or has a block already.

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
            own = {"name": name, "dtype": form.policy, "data_format": form.data_format}
            return BLOCKS[recalibration](**options, **own)
        return _made_by_function(recalibration, name, channels, form)

    return _Copy(hosts={id(host): path for path, host in hosts.items()}, make=make).of(model)


def detach(model: keras.Model) -> keras.Model:
    """Copies a model without its blocks: the model as it was before they were attached, with the weights of now.

    Names and order of the layers and weights are those from before, so old `.weights.h5` files load into it. Blocks
    are found by their type and name, `<layer>_recalibration`, also in a model that was saved and loaded.

    Args:
        model: a model that `scse.keras.attach` returned, or one of `scse.keras.networks` with blocks; it stays as it
            is.

    Returns:
        The copy, which is not compiled.

    Raises:
        ValueError: for a model without blocks.

    Example:
    >>> plain = scse.keras.detach(attached)
    """
    _check_model(model)
    blocks = {id(layer) for _, layer in _walk(model) if _is_block(layer)}
    if not blocks:
        raise UserError(f"{_told_model(model)} has no block that could be taken out; was it attached to another?")
    return _Copy(dropped=blocks).of(model)


@dataclass(frozen=True)
class _Form:
    """The data format and dtype policy of a tensor, from the layers that it came through; None where none has one."""

    data_format: str | None = None
    policy: keras.DTypePolicy | None = None


Make = Callable[[str, int, _Form], Block]
"""Makes the block of a name for a map of so many channels."""


class _Copy:
    """Copies a model layer by layer, with blocks after some of them and without others.

    Args:
        hosts: the layers that get a block, and where they are, by their id.
        make: makes the blocks.
        dropped: the ids of the layers that are left out.
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
        # by the id of a tensor of the copy; entries are what follows an input
        self.entries: dict[int, Tensor] = {}
        self.recalibrated: dict[int, str] = {}
        self.forms: dict[int, _Form] = {}

    def of(self, model: keras.Model) -> keras.Model:
        """The copy, with the state of the model."""
        copied = self._copied_model(model)
        graphs = [model, *(layer for _, layer in _walk(model) if _is_graph(layer))]
        frozen = {id(layer) for graph in graphs if not graph.trainable for _, layer in _walk(graph)}
        for copy in self.copies.values():
            source = self.sources[id(copy)]
            if isinstance(source, keras.Layer) and not _is_graph(source) and id(source) not in self.dropped:
                _take_over(source, copy, frozen=id(source) in frozen)
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
            # not compiled: clone_model takes a loss function by its name, and would find keras.losses.dice for a dice
            keras.Model(model.input, model.output, name=model.name),
            input_tensors=keras.tree.map_structure(self._entry, model.input),
            clone_function=self._copied,
            call_function=self._call,
        )
        own_class = type(model) is not type(copied) and _is_made_of_inputs_and_outputs(type(model))
        return type(model)(copied.input, copied.output, name=model.name) if own_class else copied

    def _sequential(self, model: keras.Sequential) -> tuple[keras.Sequential, Tensor]:
        """The copy, which clone_model cannot add layers to, and its output."""
        x = self._entry(model.inputs[0])
        layers = [x]
        for layer in model.layers:
            copy = self._copied(layer)
            # under which a Sequential builds its layers
            with keras.name_scope(model.name):
                x = self._call(copy, x)
            layers += [copy] if id(layer) not in self.dropped else []
            layers += [self.blocks[id(layer)]] if id(layer) in self.blocks else []
        return keras.Sequential(layers, name=model.name), x

    def _entry(self, given: Tensor) -> Tensor:
        """The copy of an input."""
        layer = given._keras_history.operation
        entry = self._copied(layer).output
        self.entries[id(entry)] = self._followed(layer, entry, _form(layer, _Form()))
        return entry

    def _copied(self, source: keras.Operation) -> keras.Operation:
        """The copy of a layer; its state comes later."""
        if id(source) not in self.copies:
            copy = self._copied_model(source) if _is_graph(source) else type(source).from_config(source.get_config())
            self.copies[id(source)] = copy
            self.sources[id(copy)] = source
        return self.copies[id(source)]

    def _call(self, copy: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Call the copy of a layer, and the block that follows it."""
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
        """What a layer returned, recalibrated if the layer gets a block."""
        if self.make and (where := self.hosts.get(id(source))):
            block = self.make(f"{source.name}{SUFFIX}", _channels(_told(where, source), output, form), form)
            recalibrated = block(output)
            _check_kept(block, output, recalibrated)
            self.blocks[id(source)] = block
            self.recalibrated[id(recalibrated)] = _told(where, source)
            output = recalibrated
        for tensor in keras.tree.flatten(output):
            self.forms[id(tensor)] = form
        return output

    def _check_place(self, source: keras.Operation, given: Tensor) -> None:
        """Refuse a second block after a layer, and one block for several calls of a layer."""
        if isinstance(source, Block) and id(given) in self.recalibrated:
            raise UserError(
                f"{self.recalibrated[id(given)]} has a block already, {source.name!r}; detach it first, or leave the "
                "layer out of to="
            )
        if id(source) not in self.called:
            return
        inside = [layer for _, layer in _walk(source)] if _is_graph(source) else []
        for layer in (source, *inside):
            if id(layer) in self.hosts:
                within = "" if layer is source else f"in {source.name!r}, which is "
                raise UserError(
                    f"{_told(self.hosts[id(layer)], layer)} is {within}called more than once, but a block recalibrates "
                    "one map; leave it out of to=, and attach to layers that are called once"
                )


def _is_graph(layer: object) -> bool:
    """Whether a layer is a model whose layers and connections are known."""
    if isinstance(layer, keras.Sequential):
        return hasattr(layer, "inputs")
    return isinstance(layer, keras.Model) and isinstance(layer, keras.Function)


def _is_made_of_inputs_and_outputs(kind: type[keras.Model]) -> bool:
    """Whether a class has the constructor of keras.Model, or hands on to it what it is given."""
    own = [p for p in inspect.signature(kind.__init__).parameters.values() if p.name != "self"]
    if [p.name for p in own[:2]] == ["inputs", "outputs"]:
        return all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in own[2:])
    return [p.kind for p in own] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]


def _check_model(model: keras.Model) -> None:
    if _is_graph(model):
        return
    if isinstance(model, keras.Sequential):
        raise UserError(
            f"{_told_model(model)} does not know its input shape; start it with keras.Input(shape), or call its build()"
        )
    raise UserError(
        f"{type(model).__name__} is neither a functional model nor a keras.Sequential, so that it is not known how its "
        "layers are connected; make it of keras.Input and keras.Model(inputs, outputs)"
    )


def _walk(model: keras.Model, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, keras.Operation]]:
    """Every layer and operation of a model and of the models in it, once, by its path."""
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
    """The layers that `to` names, by their paths."""
    layers = {path: layer for path, layer in _walk(model) if not _is_block(layer)}
    if isinstance(to, str):
        chosen = named(to, list(layers), what=f"layer of {_told_model(model)}", separator="/")
        return {path: layer for path, layer in layers.items() if path in chosen}
    # operations such as x + y have a name, but are no layers
    layers = {path: layer for path, layer in layers.items() if isinstance(layer, keras.Layer)}
    if isinstance(to, type | tuple):
        found = {path: layer for path, layer in layers.items() if isinstance(layer, to)}
    else:
        found = {path: layer for path, layer in layers.items() if to(layer)}
    if not found:
        raise UserError(f"no layer of {_told_model(model)} is what to={to!r} asks for; see its summary()")
    return found


def _form(source: keras.Operation, before: _Form) -> _Form:
    """The form of what a layer returns, for that of its first input."""
    data_format = getattr(source, "data_format", None)
    if isinstance(source, _REARRANGING):
        data_format = None
    elif data_format not in DATA_FORMATS:
        data_format = before.data_format
    policy = getattr(source, "dtype_policy", before.policy)
    if isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        # quantised kernels start at zero and are not trained
        policy = keras.dtype_policies.get(policy.get_config()["source_name"])
    return _Form(data_format, policy)


def _channels(told: str, output: Any, form: _Form) -> int:
    """The number of channels of the map that a layer returned."""
    if not isinstance(output, keras.KerasTensor):
        raise UserError(
            f"{told} returns a {type(output).__name__} of {len(output)}, no feature map; leave it out of to=, and "
            "attach to a layer that returns one"
        )
    data_format = form.data_format or keras.config.image_data_format()
    written, axis = ("(N, *spatial, C)", -1) if data_format == "channels_last" else ("(N, C, *spatial)", 1)
    if len(output.shape) < 3:
        raise UserError(
            f"{told} returns a tensor of shape {output.shape}, where a feature map {written} has three axes or more; "
            "leave it out of to=, and attach to a layer before it"
        )
    channels: int | None = output.shape[axis]
    if channels is None:
        raise UserError(
            f"{told} returns maps {written} of shape {output.shape}, so that it is not known how many channels they "
            "have; give the keras.Input a shape with that number"
        )
    return channels


def _made_by_function(make: Callable[[int], Block], name: str, channels: int, form: _Form) -> Block:
    block = make(channels)
    if not isinstance(block, Block):
        raise UserError(
            f"the function for {name!r} must return a ChannelSE, SpatialSE or ConcurrentSE of scse.keras, got "
            f"{type(block).__name__}"
        )
    if block.built:
        raise UserError(f"the function for {name!r} returned a block that is in use already; make a new one each time")
    if form.data_format not in {None, block.data_format}:
        raise UserError(
            f"the function for {name!r} returned a block for {block.data_format}, but its map is {form.data_format}; "
            f"make the block with data_format={form.data_format!r}"
        )
    block.name = name
    return block


def _check_kept(block: Block, given: Tensor, returned: Tensor) -> None:
    """Refuse a block after which the rest of the model would not fit."""
    if (given.shape, given.dtype) != (returned.shape, returned.dtype):
        raise UserError(
            f"{type(block).__name__} layer {block.name!r} turns {given.dtype} of shape {given.shape} into "
            f"{returned.dtype} of shape {returned.shape}; what follows would not fit"
        )


def _take_over(source: keras.Layer, copy: keras.Layer, *, frozen: bool) -> None:
    """Give the copy of a layer the state of its source: weights, random seeds, and what is frozen."""
    parts, copied_parts = source._flatten_layers(), copy._flatten_layers()
    if [v.shape for v in source.variables] != [v.shape for v in copy.variables] or len(parts) != len(copied_parts):
        raise UserError(
            f"{_told(source.name, source)} cannot be copied: made again from its get_config(), it has not the same "
            "weights; see that get_config() has every argument of its constructor"
        )
    for variable, copied in zip(source.variables, copy.variables, strict=True):
        # a copy of its own: JAX deletes arrays that it was given to train with
        copied.assign(keras.ops.copy(variable))
    # a layer comes before its parts, which it freezes with itself
    for part, copied_part in zip(parts, copied_parts, strict=True):
        copied_part.trainable = part.trainable and not frozen
        for name in _UNCONFIGURED:
            if hasattr(part, name):
                setattr(copied_part, name, getattr(part, name))
        if isinstance(copied_part, keras.layers.Normalization):
            copied_part.finalize_state()


def _told(path: str, layer: keras.Operation) -> str:
    return f"{path!r} ({type(layer).__name__})"


def _told_model(model: keras.Model) -> str:
    return f"the model {model.name!r}"
