"""Conversion of blocks and networks between torch and Keras, with the same options and weights.

Only `to_torch` imports torch. `from_torch` works on torch objects of the caller, or on the files of a segmenter.
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

from scse.inference.saved import REMEDY, read_saved, readable, refuse_regions
from scse.keras.layers import BLOCKS, SUFFIX, Block
from scse.keras.networks import NETWORKS, EncoderDecoder, FCDenseNet, SDNet, Tiramisu, UNet
from scse.support.errors import DataError, UserError, in_short

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[Any]

_BLOCKS = {f"scse.blocks.modules.{block.__name__}": block for block in BLOCKS.values()}
_NETWORKS: dict[str, type[EncoderDecoder]] = {
    "scse.networks.unet.UNet": UNet,
    "scse.networks.sdnet.SDNet": SDNet,
    "scse.networks.densenet.FCDenseNet": FCDenseNet,
    "scse.networks.densenet.Tiramisu": Tiramisu,
}
_KERAS_ALONE = {"name", "trainable", "dtype", "data_format", "input_size", "recalibration", "parts"}
"""Keys of Keras configurations that are not options of the torch classes."""

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_LINEAR = {"weight": "kernel", "bias": "bias"}
WEIGHTS_TYPE = "float32"
"""Dtype in which segmenters are trained and saved."""

_COUNTER = "num_batches_tracked"
"""Counter of torch's batch normalisation, unused if its momentum is a number. Keras has no such counter."""


def from_torch(
    source: Any, *, data_format: str | None = None, dtype: str | keras.DTypePolicy | None = None
) -> keras.Layer:
    """Convert a torch block, network or segmenter of scse to a Keras layer or model with the same weights.

    This function does not import torch, so a folder can be read without it.

    Args:
        source: A `scse.ChannelSE`, `scse.SpatialSE`, `scse.ConcurrentSE` or `scse.ProjectExcite`; a network of
            `scse.networks`, with any blocks of scse after its encoder, bottleneck and decoder blocks; a
            `scse.Segmenter` with such a network; or the path of the folder of a segmenter, or of a run with a folder
            `segmenter`.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`.
        dtype: Dtype or dtype policy of the layer or model. Default: dtype of the torch weights. JAX supports float64
            only with `jax_enable_x64`.

    Returns:
        Built layer for a block, model for a network. Its outputs equal those of the source in evaluation mode.

    Raises:
        UserError: The source is something else, such as a network of another library or of your own, or a segmenter of
            regions of labels; a block is not a class of scse, or the weights do not match.
        DataError: A folder has no readable segmenter.
    """
    if dtype is not None and (mode := keras.dtype_policies.get(dtype).quantization_mode):
        raise UserError(
            f"dtype {keras.dtype_policies.get(dtype).name!r} is quantised, but the weights are not; choose a "
            f"floating-point dtype, and then call quantize({mode!r}) of the model"
        )
    if isinstance(source, str | Path):
        return _from_folder(source, data_format, dtype)
    network = source
    if _kind(source) == "scse.inference.segmenter.Segmenter":
        refuse_regions("the segmenter", source.regions)
        network = source.network
    kind = _kind(network)
    if kind not in _BLOCKS and kind not in _NETWORKS:
        found = f"a segmenter with {kind}" if network is not source else kind
        known = ", ".join(name.rpartition(".")[2] for name in [*_BLOCKS, *_NETWORKS])
        raise UserError(
            f"from_torch takes a torch block or network of scse ({known}), a Segmenter with such a network, or the "
            f"path of a Segmenter, got {found}; export other networks with the tools of their own library"
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
    """Convert a Keras block or network of scse to a torch module with the same weights and running statistics.

    Args:
        source: A built `ChannelSE`, `SpatialSE`, `ConcurrentSE` or `ProjectExcite` of `scse.keras`, or a network of
            `scse.keras.networks`.

    Returns:
        Module on the CPU with the dtype of the Keras weights. Like every new module, it is in training mode.

    Raises:
        UserError: The source is something else, a block has no weights yet, a network has a block that is not a class
            of scse, or a layer was quantised, replaced, wrapped, or has LoRA enabled.
        ImportError: torch is not installed.
    """
    import torch  # noqa: PLC0415 (scse.keras needs torch only here)

    from scse.attachment.hosts import attach_block  # noqa: PLC0415

    names = {made: name for name, made in (_BLOCKS | _NETWORKS).items()}
    if type(source) not in names:
        known = ", ".join(made.__name__ for made in names)
        raise UserError(f"to_torch takes a block or network of scse.keras ({known}), got {type(source).__name__}")
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
    """Refuse layers that differ from those of torch, so that the same weights would give other outputs."""
    for layer in source._flatten_layers():
        # the inner layers are checked on their own
        changed = layer.changed_parts(but=("trainable", "parts")) if isinstance(layer, Block) else []
        if layer.quantization_mode or getattr(layer, "lora_enabled", False):
            changed = ["kernel"]
        if changed:
            raise UserError(
                f"{type(layer).__name__} layer {layer.path!r} has been quantised, given LoRA or had parts replaced "
                f"({', '.join(changed)}), which the torch classes do not support; convert the original model. For LoRA "
                "alone, save_weights() merges it into the kernels, and a new model can load them"
            )


def _from_folder(folder: str | Path, data_format: str | None, dtype: Any) -> keras.Layer:
    saved = read_saved(folder)
    refuse_regions(saved.description, saved.regions)
    if saved.network not in NETWORKS:
        known = ", ".join(map(repr, NETWORKS))
        raise UserError(
            f"{saved.description}: the network is {saved.network!r}, but scse.keras has only the networks of scse "
            f"({known}); export other networks with the tools of their own library"
        )
    weights = _read_weights(saved.weights)
    with readable(saved.description):
        network = NETWORKS[saved.network](
            **saved.arguments,
            spatial_dims=saved.dims,
            recalibration=saved.variant,
            data_format=data_format,
            dtype=dtype or WEIGHTS_TYPE,
        )
    with readable(saved.weights):
        return _load(network, weights)


def _read_weights(path: Path) -> dict[str, Array]:
    """Read the weights of a saved segmenter.

    Raises:
        DataError: The file cannot be read, or a weight has another dtype than float32, or holds NaN or infinite values.
    """
    try:
        with safe_open(path, "numpy") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                counted = key.endswith(_COUNTER)
                found, wanted = file.get_slice(key).get_dtype(), "I64" if counted else "F32"
                if found != wanted:
                    raise DataError(f"{path}: {key} has the type {found}, but {wanted} is needed; {REMEDY}")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({in_short(error)}); {REMEDY}") from error
    for key, value in weights.items():
        if not np.isfinite(value).all():
            raise DataError(f"{path}: {key} holds values that are NaN or infinite; {REMEDY}")
    return weights


def _blocks(network: Any) -> dict[str, Block]:
    """Convert the blocks of a torch network to unbuilt layers, by the names of their places."""
    blocks = {}
    for name, module in network.named_modules():
        host, _, last = name.rpartition(".")
        if last != SUFFIX[1:]:
            continue
        if _kind(module) not in _BLOCKS:
            known = ", ".join(made.__name__ for made in _BLOCKS.values())
            raise UserError(f"the block at {host!r} must be a block of scse ({known}), got {_kind(module)}")
        blocks[host.replace(".", "_")] = _BLOCKS[_kind(module)](**module.options)
    return blocks


def _load(target: Any, weights: Mapping[str, Array]) -> Any:
    """Load torch weights into a layer or model."""
    for key, variable in _match(target, weights).items():
        value = _keras_layout(weights[key])
        _check_shape(key, value.shape, tuple(variable.shape))
        variable.assign(value)
    return target


def _match(target: keras.Layer, keys: Iterable[str]) -> dict[str, Any]:
    """Map each key of the torch state to the variable of the Keras layer.

    Raises:
        UserError: A key has no variable, or a variable has no key.
    """
    found = {key: _variable(target, key) for key in keys if not key.endswith(_COUNTER)}
    matched = {id(variable) for variable in found.values()}
    missing = [key for key, variable in found.items() if variable is None]
    left = [variable.path for variable in target.weights if id(variable) not in matched]
    if missing or left:
        raise UserError(
            f"the weights of {type(target).__name__} do not match: missing in Keras {missing or 'none'}, "
            f"missing in torch {left or 'none'}"
        )
    return found


def _variable(target: keras.Layer, key: str) -> Any:
    """Return the variable for a key of the torch state, None if there is none."""
    *path, leaf = key.split(".")
    layer: Any = target
    if isinstance(target, EncoderDecoder):
        # the name of a layer is the path of its torch module; inside a block, the path consists of attributes
        depth = path.index(SUFFIX[1:]) + 1 if SUFFIX[1:] in path else len(path)
        name, path = "_".join(path[:depth]), path[depth:]
        layer = next((layer for layer in target.layers if layer.name == name), None)
    for attribute in path:
        layer = getattr(layer, attribute, None)
    names = _NORM if isinstance(layer, keras.layers.BatchNormalization) else _LINEAR
    return getattr(layer, names.get(leaf, leaf), None)


def _check_shape(key: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise UserError(f"{key} has the shape {found}, but {expected} is needed")


def _keras_layout(value: Array) -> Array:
    """Copy a kernel with its first two axes moved to the end and swapped: (O, I, *size) -> (*size, I, O).

    The rule is the same for transposed convolutions. The copy is necessary because JAX uses the memory of a NumPy array
    instead of copying it, and torch trains in place.
    """
    return np.array(value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value)


def _torch_layout(value: Array) -> Array:
    """Copy a kernel with the inverse of `_keras_layout`."""
    last = value.ndim - 1
    return np.array(value.transpose(last, last - 1, *range(last - 1)) if value.ndim > 1 else value)


def _to_numpy(tensor: Any) -> Array:
    tensor = tensor.detach().cpu()
    value: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return value


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
