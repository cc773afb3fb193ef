"""Weights travel between scse's torch side and Keras: the same numbers in blocks and networks of the same options.

torch is imported by `to_torch` alone; `from_torch` works on what it is given, or on the files of a segmenter.
"""

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from scse.inference.saved import REMEDY, read_saved, readable
from scse.keras.layers import SUFFIX, Block, ChannelSE, ConcurrentSE, SpatialSE
from scse.keras.networks import NETWORKS, EncoderDecoder, FCDenseNet, SDNet, Tiramisu, UNet
from scse.support.errors import DataError, UserError, in_short

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[Any]

_BLOCKS: dict[str, type[Block]] = {
    "scse.blocks.modules.ChannelSE": ChannelSE,
    "scse.blocks.modules.SpatialSE": SpatialSE,
    "scse.blocks.modules.ConcurrentSE": ConcurrentSE,
}
_NETWORKS: dict[str, type[EncoderDecoder]] = {
    "scse.networks.unet.UNet": UNet,
    "scse.networks.sdnet.SDNet": SDNet,
    "scse.networks.densenet.FCDenseNet": FCDenseNet,
    "scse.networks.densenet.Tiramisu": Tiramisu,
}
_KERAS_ALONE = {"name", "trainable", "dtype", "data_format", "input_size", "recalibration", "parts"}
"""What a Keras config has and the options of the torch side have not."""

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_LINEAR = {"weight": "kernel", "bias": "bias"}
WEIGHTS_TYPE = "float32"
"""In which segmenters are trained and kept."""

_COUNTER = "num_batches_tracked"
"""Of torch's batch normalisation, which does not use it where its momentum is a number; Keras has none."""


def from_torch(
    source: Any, *, data_format: str | None = None, dtype: str | keras.DTypePolicy | None = None
) -> keras.Layer:
    """Make the Keras layer or model of a block, network or segmenter of scse's torch side, with the same weights.

    The torch side is not imported: a block, network or segmenter brings it, and a folder is read without it.

    Args:
        source: a `scse.ChannelSE`, `scse.SpatialSE` or `scse.ConcurrentSE`; a network of `scse.networks`, with any
            blocks of scse after its encoder, bottleneck and decoder blocks; a `scse.Segmenter` with such a network;
            or the path of a segmenter's folder, or of a run that holds one as `segmenter`.
        data_format: `"channels_last"` or `"channels_first"`; by default `keras.config.image_data_format()`.
        dtype: type or policy of the layer or model; by default the type of the torch weights. JAX has float64 only
            with `jax_enable_x64`.

    Returns:
        A block as a layer that is built, a network as a model. It predicts what the source does in evaluation mode.

    Raises:
        ValueError: something else, a segmenter or network of another library or of your own, a block that is not
            scse's, or weights that do not fit; the message names them.
        DataError: a folder holds no segmenter that can be read.
    """
    if dtype is not None and (mode := keras.dtype_policies.get(dtype).quantization_mode):
        raise UserError(
            f"dtype {keras.dtype_policies.get(dtype).name!r} is quantised, where the weights are not; choose a "
            f"floating-point dtype, and then call quantize({mode!r}) of the model"
        )
    if isinstance(source, str | Path):
        return _from_folder(source, data_format, dtype)
    network = source.network if _kind(source) == "scse.inference.segmenter.Segmenter" else source
    kind = _kind(network)
    if kind not in _BLOCKS and kind not in _NETWORKS:
        of = f"a segmenter with {kind}" if network is not source else kind
        known = ", ".join(name.rpartition(".")[2] for name in [*_BLOCKS, *_NETWORKS])
        raise UserError(
            f"from_torch takes what scse itself has on the torch side ({known}), a Segmenter with such a network, or "
            f"the path of one, got {of}; export other networks with their own library's tools"
        )
    state = dict(network.state_dict())
    options: dict[str, Any] = {
        **network.options,
        "data_format": data_format,
        "dtype": dtype or str(next(iter(state.values())).dtype).removeprefix("torch."),
    }
    if kind in _BLOCKS:
        target: Any = _BLOCKS[kind](**options)
        channels = network.channels
        target.build((None, None, channels) if target.channel_axis == -1 else (None, channels, None))
    else:
        target = _NETWORKS[kind](**options, recalibration=_blocks(network))
    return _load(target, {name: _to_numpy(tensor) for name, tensor in state.items()})


def to_torch(source: keras.Layer) -> "nn.Module":
    """Make the torch block or network of a Keras one, with the same weights and running statistics.

    Args:
        source: a built `ChannelSE`, `SpatialSE` or `ConcurrentSE` of `scse.keras`, or a network of
            `scse.keras.networks`.

    Returns:
        A module on the CPU, of the type of the Keras weights, in training mode as every new module.

    Raises:
        ValueError: something else, a block that has no weights yet, a network with a block that is not scse's, or
            layers that were quantised, given LoRA, replaced or wrapped.
        ImportError: torch is not installed.
    """
    import torch  # noqa: PLC0415 (the one place where Keras' side needs it)

    from scse.attachment.hosts import attach_block  # noqa: PLC0415

    names = {made: name for name, made in (_BLOCKS | _NETWORKS).items()}
    if type(source) not in names:
        known = ", ".join(made.__name__ for made in names)
        raise UserError(f"to_torch takes what scse.keras has ({known}), got {type(source).__name__}")
    if not source.built:
        raise UserError(f"{type(source).__name__} layer {source.name!r} has no weights yet; call it on a map first")
    _check_plain(source)
    options = {name: value for name, value in source.get_config().items() if name not in _KERAS_ALONE}
    if isinstance(source, Block):
        options["channels"] = source.input_spec.axes[source.channel_axis]
    module, _, name = names[type(source)].rpartition(".")
    made: nn.Module = getattr(import_module(module), name)(**options)
    if isinstance(source, EncoderDecoder):
        for place, block in source.blocks.items():
            attach_block(made.get_submodule(place.replace("_", ".")), to_torch(block))
    made.to(getattr(torch, source.variable_dtype))
    state = made.state_dict()
    exact = "float32" if source.variable_dtype == "bfloat16" else source.variable_dtype  # NumPy has no bfloat16
    for key, variable in _match(source, state).items():
        value = _torch_layout(ops.convert_to_numpy(ops.cast(variable, exact)))
        _check_shape(key, value.shape, tuple(state[key].shape))
        state[key] = torch.from_numpy(value)
    made.load_state_dict(state)
    return made


def _check_plain(source: keras.Layer) -> None:
    """Refuse layers that do what torch's do not, so that the same weights would not give the same numbers."""
    for layer in source._flatten_layers():
        # the inner layers are checked on their own
        changed = layer.changed_parts(but=("trainable", "parts")) if isinstance(layer, Block) else []
        if layer.quantization_mode or getattr(layer, "lora_enabled", False):
            changed = ["kernel"]
        if changed:
            raise UserError(
                f"{type(layer).__name__} layer {layer.path!r} has been quantised, given LoRA or had parts replaced "
                f"({', '.join(changed)}), which the torch side has not; convert the model as it was before. Where it "
                "has LoRA alone, save_weights() merges that into the kernels, and a new model can load them"
            )


def _from_folder(folder: str | Path, data_format: str | None, dtype: Any) -> keras.Layer:
    saved = read_saved(folder)
    if saved.network not in NETWORKS:
        known = ", ".join(map(repr, NETWORKS))
        raise UserError(
            f"{saved.description}: the network is {saved.network!r}, and Keras has scse's own only ({known}); "
            "export other networks with their own library's tools"
        )
    weights = _read_weights(saved.weights)
    with readable(saved.description):
        network = NETWORKS[saved.network](
            **saved.arguments, recalibration=saved.variant, data_format=data_format, dtype=dtype or WEIGHTS_TYPE
        )
    with readable(saved.weights):
        return _load(network, weights)


def _read_weights(path: Path) -> dict[str, Array]:
    """The weights of a segmenter on disk.

    Raises:
        DataError: the file cannot be read, or a weight is of another type than they are trained in, NaN or infinite.
    """
    try:
        with safe_open(path, "numpy") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                counted = key.endswith(_COUNTER)
                found, wanted = file.get_slice(key).get_dtype(), "I64" if counted else "F32"
                if found != wanted:
                    raise DataError(f"{path}: {key} is of type {found}, where {wanted} is needed; {REMEDY}")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({in_short(error)}); {REMEDY}") from error
    for key, value in weights.items():
        if not np.isfinite(value).all():
            raise DataError(f"{path}: {key} holds values that are NaN or infinite; {REMEDY}")
    return weights


def _blocks(network: Any) -> dict[str, Block]:
    """The blocks of a torch network as unbuilt layers, by the place that they follow."""
    blocks = {}
    for name, module in network.named_modules():
        host, _, last = name.rpartition(".")
        if last != SUFFIX[1:]:
            continue
        if _kind(module) not in _BLOCKS:
            known = ", ".join(made.__name__ for made in _BLOCKS.values())
            raise UserError(f"the block at {host!r} must be one of scse's ({known}), got {_kind(module)}")
        blocks[host.replace(".", "_")] = _BLOCKS[_kind(module)](**module.options)
    return blocks


def _load(target: Any, weights: Mapping[str, Array]) -> Any:
    """Give a layer or model all weights of the torch side."""
    for key, variable in _match(target, weights).items():
        value = _keras_layout(weights[key])
        _check_shape(key, value.shape, tuple(variable.shape))
        variable.assign(value)
    return target


def _match(target: keras.Layer, keys: Iterable[str]) -> dict[str, Any]:
    """Key of the torch side -> variable, for all of both.

    Raises:
        ValueError: a key without a variable, or a variable without a key.
    """
    found = {key: _variable(target, key) for key in keys if not key.endswith(_COUNTER)}
    matched = {id(variable) for variable in found.values()}
    missing = [key for key, variable in found.items() if variable is None]
    left = [variable.path for variable in target.weights if id(variable) not in matched]
    if missing or left:
        raise UserError(
            f"the weights of {type(target).__name__} do not fit: not in Keras {missing or 'none'}, "
            f"not in torch {left or 'none'}"
        )
    return found


def _variable(target: keras.Layer, key: str) -> Any:
    """The variable that holds a weight of the torch side, None if there is none."""
    *path, leaf = key.split(".")
    layer: Any = target
    if isinstance(target, EncoderDecoder):
        # a layer of the model is named after the path of its module, a block is walked by attributes as in torch
        depth = path.index(SUFFIX[1:]) + 1 if SUFFIX[1:] in path else len(path)
        name, path = "_".join(path[:depth]), path[depth:]
        layer = next((layer for layer in target.layers if layer.name == name), None)
    for attribute in path:
        layer = getattr(layer, attribute, None)
    names = _NORM if isinstance(layer, keras.layers.BatchNormalization) else _LINEAR
    return getattr(layer, names.get(leaf, leaf), None)


def _check_shape(key: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise UserError(f"{key} has the shape {found} where {expected} is expected")


def _keras_layout(value: Array) -> Array:
    """A kernel with its first two axes last and swapped: (O, I, *size) -> (*size, I, O), and transposed likewise.

    In memory of its own, because JAX keeps a NumPy array instead of copying it, and torch trains in place.
    """
    return np.array(value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value)


def _torch_layout(value: Array) -> Array:
    """The inverse of `_keras_layout`, in memory of its own."""
    last = value.ndim - 1
    return np.array(value.transpose(last, last - 1, *range(last - 1)) if value.ndim > 1 else value)


def _to_numpy(tensor: Any) -> Array:
    tensor = tensor.detach().cpu()
    value: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return value


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
