"""Real networks of other libraries, randomly initialised, with an example each. `attach` must support all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@dataclass(frozen=True)
class Entry:
    """A function that builds a network, and the shape of its example."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def make(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.build()

    def example(self, seed: int = 1) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))


def smp_network(name):
    def build():
        import segmentation_models_pytorch as smp

        return getattr(smp, name)("resnet18", encoder_weights=None, in_channels=3, classes=2)

    return Entry(build, (2, 3, 64, 64))


def torchvision_network(name):
    def build():
        from torchvision.models import segmentation

        return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=2)

    return Entry(build, (2, 3, 64, 64))


def timm_network(name):
    def build():
        import timm

        return timm.create_model(name, features_only=True, pretrained=False)

    return Entry(build, (2, 3, 64, 64))


def monai_network(name, dims, **options):
    def build():
        from monai.networks import nets

        return getattr(nets, name)(spatial_dims=dims, in_channels=1, out_channels=2, **options)

    return Entry(build, (2, 1, *(32,) * dims))


def nnunet_network(name, dims):
    def build():
        from dynamic_network_architectures.architectures import unet

        per_stage = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
        return getattr(unet, name)(
            input_channels=1,
            n_stages=4,
            features_per_stage=(8, 16, 32, 32),
            conv_op=CONV[dims],
            kernel_sizes=3,
            strides=(1, 2, 2, 2),
            **{per_stage[name]: 2},
            num_classes=2,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=INSTANCE_NORM[dims],
            norm_op_kwargs={"affine": True, "eps": 1e-5},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )

    return Entry(build, (2, 1, *(32,) * dims))


LEVELS = {"channels": (8, 16, 32, 32), "strides": (2, 2, 2)}
MONAI = {
    "BasicUNet": {"features": (8, 8, 16, 16, 32, 8)},
    "UNet": {**LEVELS, "num_res_units": 2},
    "DynUNet": {
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2, 2, 2],
        "filters": [8, 16, 32, 32],
    },
    "SegResNet": {"init_filters": 8},
    "SegResNetDS": {"init_filters": 8, "norm": "instance", "dsdepth": 2},
    "AttentionUnet": LEVELS,
}

ZOO = {
    **{
        f"segmentation_models_pytorch {name}": smp_network(name)
        for name in ("Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "Segformer")
    },
    **{
        f"torchvision {name}": torchvision_network(name)
        for name in ("fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large")
    },
    **{f"timm {name}": timm_network(name) for name in ("resnet18", "convnext_atto")},
    **{
        f"MONAI {name} {dims}D": monai_network(name, dims, **options)
        for name, options in MONAI.items()
        for dims in (2, 3)
    },
    **{
        f"nnU-Net {name} {dims}D": nnunet_network(name, dims)
        for name in ("PlainConvUNet", "ResidualEncoderUNet")
        for dims in (2, 3)
    },
}
"""Library and network -> entry."""


def leaves(output: object) -> list[Tensor]:
    """Return all tensors of an output, which may be a nested container."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
