"""The networks of the paper, and a table of their names."""

from collections.abc import Callable

from scse.networks.base import EncoderDecoder
from scse.networks.densenet import FCDenseNet
from scse.networks.sdnet import SDNet
from scse.networks.unet import UNet

NETWORKS: dict[str, Callable[..., EncoderDecoder]] = {"unet": UNet, "sdnet": SDNet, "densenet": FCDenseNet}
"""Network classes by the names that the command line and saved segmenters use."""

__all__ = ["NETWORKS", "EncoderDecoder", "FCDenseNet", "SDNet", "UNet"]
