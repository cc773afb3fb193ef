"""The networks of the paper as functional Keras models: U-Net, SD-Net and FC-DenseNet, with or without blocks.

The arguments are those of `scse.networks`, and the same weights give the same logits. The name of a layer is that of
the corresponding module of the torch network, with "_" instead of ".".
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from scse.keras.layers import BLOCKS, DATA_FORMATS, PACKAGE, SUFFIX, Tensor, with_names
from scse.keras.resizing import Cropping, NearestUpsampling, PositionPooling, PositionUnpooling, SizeCheck
from scse.support.checks import check_choice, check_positive
from scse.support.errors import UserError
from scse.vocabulary.options import TIRAMISU, check_kernel_size, check_layers, check_spatial_dims, check_tiramisu
from scse.vocabulary.variants import Variant

__all__ = ["NETWORKS", "EncoderDecoder", "FCDenseNet", "SDNet", "Tiramisu", "UNet"]

Recalibration = str | Callable[[int], keras.Layer] | Mapping[str, keras.Layer] | None
"""Blocks: None, a variant (see `scse.variants`), a function of the number of channels, or a mapping place -> block."""

CONV: dict[int, Callable[..., keras.Layer]] = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
CONV_TRANSPOSE: dict[int, Callable[..., keras.Layer]] = {
    2: keras.layers.Conv2DTranspose,
    3: keras.layers.Conv3DTranspose,
}


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation in float64 for float64 inputs. Keras' own computes in float32 on JAX and torch.

    The moving variance is that of the biased batch variance, as in Keras. torch uses the unbiased one.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        """Normalise a map."""
        if keras.backend.standardize_dtype(inputs.dtype) != "float64":
            return super().call(inputs, training=training, mask=mask)
        mean, variance = self.moving_mean, self.moving_variance
        if training and self.trainable:
            # sums, because Keras computes means in float32 too
            others = [axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape)]
            count = ops.cast(ops.size(inputs) // inputs.shape[self.axis], inputs.dtype)
            batch_mean = ops.sum(inputs, axis=others, keepdims=True) / count
            variance = ops.sum(ops.square(inputs - batch_mean), axis=others) / count
            mean = ops.squeeze(batch_mean, others)
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving.value * self.momentum + value * (1 - self.momentum))
        return ops.batch_normalization(
            inputs, mean, variance, axis=self.axis, offset=self.beta, scale=self.gamma, epsilon=self.epsilon
        )


class Parts:
    """Factory for the layers of a network. Each method creates a layer and calls it.

    Args:
        network: Name of the network for error messages.
        spatial_dims: Number of spatial axes, 2 or 3.
        recalibration: Blocks to place.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`.
        dtype: Dtype or dtype policy of all layers, including blocks.
    """

    def __init__(
        self, network: str, *, spatial_dims: int, recalibration: Recalibration, data_format: str | None, dtype: Any
    ) -> None:
        self.network = network
        self.spatial_dims = check_spatial_dims(spatial_dims)
        self.data_format = check_choice(
            "data_format", keras.config.image_data_format() if data_format is None else data_format, DATA_FORMATS
        )
        self.dtype = keras.dtype_policies.get(dtype)
        self.recalibration = (
            Variant.parse(recalibration, name="recalibration") if isinstance(recalibration, str) else recalibration
        )

    @property
    def channel_axis(self) -> int:
        """Axis of the channels."""
        return 1 if self.data_format == "channels_first" else -1

    def image(self, in_channels: int, input_size: Sequence[int | None] | None, *, depth: int) -> tuple[Tensor, Tensor]:
        """Return the input of the network, and the input after the check of its size."""
        check_positive("depth", depth)
        size = (None,) * self.spatial_dims if input_size is None else tuple(input_size)
        if len(size) != self.spatial_dims:
            raise UserError(f"input_size must have {self.spatial_dims} spatial sizes, got {size}")
        channels = (check_positive("in_channels", in_channels),)
        shape = (*size, *channels) if self.channel_axis == -1 else (*channels, *size)
        image = keras.Input(shape, dtype=self.dtype.variable_dtype, name="image")
        return image, self._resize(SizeCheck, "size", network=self.network, depth=depth)(image)

    def conv(self, x: Tensor, name: str, channels: int, kernel_size: int, *, bias: bool = True) -> Tensor:
        """Apply a convolution that keeps the size."""
        options = {"padding": "same", "use_bias": bias, **self._conv_options(name)}
        return CONV[self.spatial_dims](channels, kernel_size, **options)(x)

    def conv_transpose(self, x: Tensor, name: str) -> Tensor:
        """Apply a transposed convolution that turns a size n into 2n + 1."""
        options = {"strides": 2, "padding": "valid", **self._conv_options(name)}
        return CONV_TRANSPOSE[self.spatial_dims](x.shape[self.channel_axis], 3, **options)(x)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Apply batch normalisation with the constants of torch."""
        return BatchNorm(axis=self.channel_axis, momentum=0.9, epsilon=1e-5, name=name, dtype=self.dtype)(x)

    def relu(self, x: Tensor, name: str) -> Tensor:
        """Apply ReLU."""
        return keras.layers.ReLU(name=name, dtype=self.dtype)(x)

    def dropout(self, x: Tensor, name: str, rate: float) -> Tensor:
        """Apply dropout to single values."""
        return keras.layers.Dropout(rate, name=name, dtype=self.dtype)(x)

    def join(self, maps: Sequence[Tensor], name: str) -> Tensor:
        """Concatenate the channels of maps."""
        return keras.layers.Concatenate(axis=self.channel_axis, name=name, dtype=self.dtype)(maps)

    def conv_unit(self, x: Tensor, name: str, channels: int, kernel_size: int) -> Tensor:
        """Apply a convolution without bias, batch normalisation and ReLU."""
        x = self.conv(x, f"{name}_0", channels, kernel_size, bias=False)
        return self.relu(self.norm(x, f"{name}_1"), f"{name}_2")

    def pre_conv(self, x: Tensor, name: str, channels: int, kernel_size: int) -> Tensor:
        """Apply batch normalisation, ReLU and a convolution."""
        x = self.relu(self.norm(x, f"{name}_0"), f"{name}_1")
        return self.conv(x, f"{name}_2", channels, kernel_size)

    def pool(self, x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return the maxima of windows of size 2, and their positions."""
        pooled: tuple[Tensor, Tensor] = self._resize(PositionPooling, f"pool_{level}")(x)
        return pooled

    def unpool(self, x: Tensor, positions: Tensor, like: Tensor, level: int) -> Tensor:
        """Place values at the positions of the maxima, and zeros elsewhere."""
        return self._resize(PositionUnpooling, f"unpool_{level}")(x, positions, like)

    def upsample(self, x: Tensor, like: Tensor, level: int) -> Tensor:
        """Upsample to the size of `like` with the nearest value."""
        return self._resize(NearestUpsampling, f"upsample_{level}")(x, like)

    def crop(self, x: Tensor, like: Tensor, level: int) -> Tensor:
        """Crop the centre to the size of `like`."""
        return self._resize(Cropping, f"crop_{level}")(x, like)

    def recalibrate(self, x: Tensor, place: str) -> Tensor:
        """Recalibrate the map at a place of the network if the place has a block.

        Raises:
            UserError: The block is not a layer, or it changes the shape of the map.
        """
        block = self._block(place, x.shape[self.channel_axis])
        if block is None:
            return x
        y = block(x)
        if y.shape != x.shape:
            raise UserError(
                f"the block at {place!r} turns a tensor of shape {x.shape} into {y.shape}, but a block must keep the "
                "shape of its input"
            )
        return y

    def _block(self, place: str, channels: int) -> keras.Layer | None:
        own = {"name": place + SUFFIX, "dtype": self.dtype, "data_format": self.data_format}
        if isinstance(self.recalibration, Mapping):
            block = self.recalibration.get(place)
        elif isinstance(self.recalibration, Variant):
            if place.partition("_")[0] not in self.recalibration.parts:
                return None
            return BLOCKS[self.recalibration.kind](**self.recalibration.block_options, **own)
        elif place == "bottleneck" or self.recalibration is None:
            block = None
        else:
            block = self.recalibration(channels)
        if block is None:
            return None
        if not isinstance(block, keras.Layer):
            raise UserError(f"recalibration must give Keras layers, got {type(block).__name__} for {place!r}")
        config = block.get_config()
        copy: keras.Layer = type(block).from_config({**config, **{name: own[name] for name in own if name in config}})
        return copy

    def _conv_options(self, name: str) -> dict[str, Any]:
        # the uniform distribution of torch, so that training is the same in Keras and torch
        drawn = keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
        return {"kernel_initializer": drawn, "data_format": self.data_format, "name": name, "dtype": self.dtype}

    def _resize(self, layer: Callable[..., keras.Layer], name: str, **options: Any) -> keras.Layer:
        return layer(name=name, data_format=self.data_format, dtype=self.dtype, **options)


class EncoderDecoder(keras.Model):
    """Base class of the networks: encoder blocks, a bottleneck, as many decoder blocks, and a 1x1 classifier.

    Recalibration blocks follow every encoder and decoder block, unless the variant has another placement.
    """

    options: dict[str, Any]
    """Arguments that construct this network again, without its recalibration blocks and options of Keras alone."""

    def __init__(
        self,
        parts: Parts,
        image: Tensor,
        x: Tensor,
        *,
        depth: int,
        options: Mapping[str, Any],
        block: Callable[[Tensor, str], Tensor],
        down: Callable[[Tensor, int], tuple[Tensor, Tensor]],
        up: Callable[[Tensor, Tensor, Tensor, int], Tensor],
        input_size: Sequence[int | None] | None,
        **kwargs: Any,
    ) -> None:
        """Build the graph.

        Args:
            parts: Factory for the layers.
            image: Input of the network.
            x: Input of the first encoder block.
            depth: Number of halvings.
            options: Options of the network.
            block: Function (map, name) -> map.
            down: Function (map, level) -> halved map, and its positions for `up`.
            up: Function (map, skip, positions, level) -> map of the size of the skip.
            input_size: Spatial size of the input, with None where unknown.
            **kwargs: Arguments `name` and `trainable` of any Keras model.
        """
        levels = range(depth)
        encoder, decoder = ([f"{part}_{level}" for level in levels] for part in ("encoder", "decoder"))
        if isinstance(parts.recalibration, Mapping):
            for place in parts.recalibration:
                check_choice("a place of recalibration", place, [*encoder, "bottleneck", *decoder])
        skips = []
        for level in levels:
            skip = parts.recalibrate(block(x, encoder[level]), encoder[level])
            x, positions = down(skip, level)
            skips.append((skip, positions))
        x = parts.recalibrate(block(x, "bottleneck"), "bottleneck")
        for level in levels:
            skip, positions = skips.pop()
            x = parts.join([skip, up(x, skip, positions, level)], f"skip_{level}")
            x = parts.recalibrate(block(x, decoder[level]), decoder[level])
        logits = parts.conv(x, "classifier", check_positive("classes", options["classes"]), 1)
        super().__init__(inputs=image, outputs=logits, **kwargs)
        self.dtype_policy = parts.dtype
        self.data_format = parts.data_format
        self.input_size = None if input_size is None else list(input_size)
        self.options = dict(options)

    @property
    def blocks(self) -> dict[str, keras.Layer]:
        """Recalibration blocks by the names of their places."""
        return {layer.name.removesuffix(SUFFIX): layer for layer in self.layers if layer.name.endswith(SUFFIX)}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that construct this network again, including its blocks."""
        blocks = {place: keras.saving.serialize_keras_object(block) for place, block in self.blocks.items()}
        return {
            **self.options,
            "recalibration": blocks or None,
            "data_format": self.data_format,
            "input_size": self.input_size,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "EncoderDecoder":
        """Construct a network from the return value of `get_config`."""
        config = with_names(config, custom_objects)
        blocks = config["recalibration"]
        if isinstance(blocks, dict):
            blocks = {
                place: keras.saving.deserialize_keras_object(block, custom_objects) for place, block in blocks.items()
            }
        return cls(**{**config, "recalibration": blocks})


class UniformNetwork(EncoderDecoder):
    """A network of the same kind of block and the same width at every level, as the three networks of the paper."""

    def __init__(
        self,
        in_channels: int = 1,
        *,
        classes: int = 28,
        width: int = 64,
        depth: int = 4,
        kernel_size: int = 5,
        spatial_dims: int = 2,
        recalibration: Recalibration = None,
        data_format: str | None = None,
        input_size: Sequence[int | None] | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        parts = Parts(
            type(self).__name__,
            spatial_dims=spatial_dims,
            recalibration=recalibration,
            data_format=data_format,
            dtype=dtype,
        )
        check_positive("width", width)
        check_kernel_size(kernel_size)
        image, x = parts.image(in_channels, input_size, depth=depth)
        super().__init__(
            parts,
            image,
            x,
            depth=depth,
            options={
                "in_channels": in_channels,
                "classes": classes,
                "width": width,
                "depth": depth,
                "kernel_size": kernel_size,
                "spatial_dims": spatial_dims,
            },
            block=partial(type(self)._block, parts, channels=width, kernel_size=kernel_size),
            down=parts.pool,
            up=partial(type(self)._up, parts),
            input_size=input_size,
            **kwargs,
        )

    @staticmethod
    def _block(parts: Parts, x: Tensor, name: str, *, channels: int, kernel_size: int) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def _up(parts: Parts, x: Tensor, skip: Tensor, positions: Tensor, level: int) -> Tensor:
        return parts.unpool(x, positions, skip, level)


@keras.saving.register_keras_serializable(PACKAGE)
class UNet(UniformNetwork):
    """U-Net with the same width at every level and parameter-free (nearest neighbour) up-sampling.

    The defaults are those of the paper (MICCAI 2018, section 3): 4 + 4 blocks, 64 channels, 5x5 kernels, 28 classes,
    which gives 2,153,792 convolution weights.

    Args:
        in_channels: Number of channels of the image.
        classes: Number of classes, including the background.
        width: Number of channels of every block.
        depth: Number of encoder blocks, which is also the number of decoder blocks. Any image whose axes have at least
            `2 ** depth` pixels is supported, and the output has its size.
        kernel_size: Kernel size of all convolutions except 1x1 convolutions. Must be odd.
        spatial_dims: Number of spatial axes, 2 or 3.
        recalibration: Variant: `None`, `"cse"`, `"sse"`, `"scse"` or `"pe"`. All but `None` may have options, such as
            `"scse[reduction=4,placement=encoder]"`. Or a function of the number of channels that returns a block.
            Without the option `placement`, one block follows every encoder and decoder block. Or the blocks by the
            names of their places, such as `{"encoder_0": block}`. Blocks get the data format and dtype of the network.
        data_format: `"channels_last"` or `"channels_first"`. Default: `keras.config.image_data_format()`. On a CPU,
            TensorFlow's convolutions may need `jit_compile` for channels first, and for float64.
        input_size: Spatial size of the input. Unknown by default.
        dtype: Dtype or dtype policy of all layers.
        **kwargs: Arguments `name` and `trainable` of any Keras model.

    Call arguments:
        inputs: Batch of images.

    Input shape:
        `(N, *spatial, in_channels)`, or `(N, in_channels, *spatial)` for `data_format="channels_first"`.

    Output shape:
        Logits `(N, *spatial, classes)`, or `(N, classes, *spatial)`.

    Raises:
        UserError: At construction, a number is below 1, the kernel size is even, `spatial_dims` is neither 2 nor 3, the
            variant is unknown, or a block changes the shape. In a call, an axis is shorter than `2 ** depth`.

    Reference:
        [Ronneberger et al., 2015](https://arxiv.org/abs/1505.04597)

    Example:
    >>> network = scse.keras.networks.UNet(classes=4, width=8, recalibration="scse")
    >>> network(keras.ops.ones((2, 37, 64, 1))).shape
    (2, 37, 64, 4)
    """

    @staticmethod
    def _block(parts: Parts, x: Tensor, name: str, *, channels: int, kernel_size: int) -> Tensor:
        x = parts.conv_unit(x, f"{name}_first", channels, kernel_size)
        return parts.conv_unit(x, f"{name}_second", channels, kernel_size)

    @staticmethod
    def _up(parts: Parts, x: Tensor, skip: Tensor, positions: Tensor, level: int) -> Tensor:
        return parts.upsample(x, skip, level)


@keras.saving.register_keras_serializable(PACKAGE)
class SDNet(UniformNetwork):
    """SD-Net: one convolution per block, un-pooling with the indices of the encoder's pooling, then the skip.

    Arguments, shapes and errors are those of `UNet`.

    Reference:
        [Roy et al., 2017](https://arxiv.org/abs/1705.00938)

    Example:
    >>> network = scse.keras.networks.SDNet(classes=4, width=8, recalibration="scse")
    >>> network(keras.ops.ones((2, 37, 64, 1))).shape
    (2, 37, 64, 4)
    """

    @staticmethod
    def _block(parts: Parts, x: Tensor, name: str, *, channels: int, kernel_size: int) -> Tensor:
        return parts.conv_unit(x, f"{name}_unit", channels, kernel_size)


@keras.saving.register_keras_serializable(PACKAGE)
class FCDenseNet(UniformNetwork):
    """FC-DenseNet as configured by the paper's authors: dense blocks, index un-pooling, the same width everywhere.

    Arguments, shapes and errors are those of `UNet`. `width` is also the number of maps that every convolution adds
    inside a block. For the networks of the original publication see `tiramisu`.

    Reference:
        [Roy et al., 2018](https://arxiv.org/abs/1803.02579)

    Example:
    >>> network = scse.keras.networks.FCDenseNet(classes=4, width=8, recalibration="scse")
    >>> network(keras.ops.ones((2, 37, 64, 1))).shape
    (2, 37, 64, 4)
    """

    @staticmethod
    def _block(parts: Parts, x: Tensor, name: str, *, channels: int, kernel_size: int) -> Tensor:
        for part in ("first", "second"):
            new = parts.pre_conv(x, f"{name}_{part}", channels, kernel_size)
            x = parts.join([x, new], f"{name}_{part}_maps")
        return parts.pre_conv(x, f"{name}_join", channels, 1)

    @staticmethod
    def tiramisu(
        size: int,
        *,
        in_channels: int = 3,
        classes: int = 11,
        dropout: float = 0.2,
        spatial_dims: int = 2,
        recalibration: Recalibration = None,
        **kwargs: Any,
    ) -> "Tiramisu":
        """Build the original FC-DenseNet56, 67 or 103 (Jegou et al. 2017, table 2). The defaults are for CamVid.

        Arguments and errors are those of `Tiramisu`.

        Raises:
            UserError: `size` is not 56, 67 or 103.
        """
        growth, layers, bottleneck = TIRAMISU[check_tiramisu(size)]
        return Tiramisu(
            in_channels,
            classes=classes,
            growth=growth,
            layers=layers,
            bottleneck_layers=bottleneck,
            dropout=dropout,
            spatial_dims=spatial_dims,
            recalibration=recalibration,
            **kwargs,
        )


@keras.saving.register_keras_serializable(PACKAGE)
class Tiramisu(EncoderDecoder):
    """The original FC-DenseNet (Jegou et al. 2017) with transitions down and up; transposed convolutions upsample.

    Args:
        in_channels: Number of channels of the image.
        classes: Number of classes, including the background.
        growth: Number of maps that every layer adds.
        layers: Number of layers of each encoder block. The decoder has them in reverse order.
        bottleneck_layers: Number of layers of the bottleneck.
        first: Number of maps of the first convolution.
        dropout: Probability of dropping a value after each layer.
        spatial_dims: Number of spatial axes, 2 or 3.
        recalibration: Variant, as in `UNet`.
        data_format: `"channels_last"` or `"channels_first"`, as in `UNet`.
        input_size: Spatial size of the input. Unknown by default.
        dtype: Dtype or dtype policy of all layers.
        **kwargs: Arguments `name` and `trainable` of any Keras model.

    Call arguments:
        inputs: Batch of images.

    Input shape:
        `(N, *spatial, in_channels)`, or `(N, in_channels, *spatial)` for `data_format="channels_first"`.

    Output shape:
        Logits `(N, *spatial, classes)`, or `(N, classes, *spatial)`.

    Raises:
        UserError: At construction, a number is below 1, `layers` is empty, `spatial_dims` is neither 2 nor 3, the
            variant is unknown, or a block changes the shape. In a call, an axis is shorter than `2 ** len(layers)`.

    Reference:
        [Jegou et al., 2017](https://arxiv.org/abs/1611.09326)

    Example:
    >>> network = scse.keras.networks.Tiramisu(growth=4, layers=[2, 2], bottleneck_layers=2, first=8)
    >>> network(keras.ops.ones((2, 37, 64, 3))).shape
    (2, 37, 64, 11)
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        classes: int = 11,
        growth: int = 16,
        layers: Sequence[int] = TIRAMISU[103][1],
        bottleneck_layers: int = 15,
        first: int = 48,
        dropout: float = 0.2,
        spatial_dims: int = 2,
        recalibration: Recalibration = None,
        data_format: str | None = None,
        input_size: Sequence[int | None] | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        parts = Parts(
            type(self).__name__,
            spatial_dims=spatial_dims,
            recalibration=recalibration,
            data_format=data_format,
            dtype=dtype,
        )
        check_positive("growth", growth)
        encoder = [check_positive("layers", count) for count in check_layers(layers)]
        counts = {f"encoder_{level}": count for level, count in enumerate(encoder)}
        counts |= {f"decoder_{level}": count for level, count in enumerate(reversed(encoder))}
        counts["bottleneck"] = check_positive("bottleneck_layers", bottleneck_layers)
        # blocks before a transition up omit their input, so that the number of maps does not grow in the decoder
        without_input = {"bottleneck", *(f"decoder_{level}" for level in range(len(encoder) - 1))}

        def block(x: Tensor, name: str) -> Tensor:
            maps = [x]
            for index in range(counts[name]):
                layer = f"{name}_layers_{index}"
                inputs = parts.join(maps, f"{layer}_maps") if index else x
                new = parts.pre_conv(inputs, f"{layer}_0", growth, 3)
                maps.append(parts.dropout(new, f"{layer}_1", dropout))
            outputs = maps[1:] if name in without_input else maps
            return parts.join(outputs, f"{name}_maps") if len(outputs) > 1 else outputs[0]

        def down(x: Tensor, level: int) -> tuple[Tensor, Tensor]:
            x = parts.pre_conv(x, f"down_{level}_0", x.shape[parts.channel_axis], 1)
            return parts.pool(parts.dropout(x, f"down_{level}_1", dropout), level)

        def up(x: Tensor, skip: Tensor, _positions: Tensor, level: int) -> Tensor:
            return parts.crop(parts.conv_transpose(x, f"up_{level}"), skip, level)

        image, x = parts.image(in_channels, input_size, depth=len(encoder))
        super().__init__(
            parts,
            image,
            parts.conv(x, "first", check_positive("first", first), 3),
            depth=len(encoder),
            options={
                "in_channels": in_channels,
                "classes": classes,
                "growth": growth,
                "layers": encoder,
                "bottleneck_layers": bottleneck_layers,
                "first": first,
                "dropout": dropout,
                "spatial_dims": spatial_dims,
            },
            block=block,
            down=down,
            up=up,
            input_size=input_size,
            **kwargs,
        )


NETWORKS: dict[str, Callable[..., EncoderDecoder]] = {"unet": UNet, "sdnet": SDNet, "densenet": FCDenseNet}
"""Network classes by the names that the command line and saved segmenters use."""
