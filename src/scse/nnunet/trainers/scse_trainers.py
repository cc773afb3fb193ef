"""Trainers of nnU-Net with recalibration blocks after every encoder and decoder block of the planned network."""

from typing import ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from scse.attachment.attaching import attach
from scse.attachment.placements import placements


class RecalibratedTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no types
    """Base class of the trainers. It differs from nnU-Net's trainer only in the network.

    The blocks start as the identity: until they are trained, the network computes the same as nnU-Net's own. A subclass
    may also inherit from another trainer of nnU-Net, such as `nnUNetTrainer_100epochs`, as its second base class.
    """

    recalibration: ClassVar[str]

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the planned network with blocks. nnU-Net calls this method for training and for prediction.

        Raises:
            UserError: The network is of a family that `scse.attach` does not know.
        """
        network: nn.Module = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        # This size leaves 2 voxels per side in the deepest stage, because instance normalisation needs more than one. A
        # whole patch would work too, but takes longer.
        size = 2 * np.prod(configuration_manager.pool_op_kernel_sizes, axis=0)
        attach(network, cls.recalibration, example=torch.zeros(1, num_input_channels, *size.tolist()))
        return network

    def on_train_start(self) -> None:
        """Write the places of the blocks to the log of nnU-Net."""
        super().on_train_start()
        table = placements(self.network)
        self.print_to_log_file(f"\nBlocks, at the resolutions of a small example:\n{table}\n", add_timestamp=False)


class nnUNetTrainerCSE(RecalibratedTrainer):  # noqa: N801 (naming convention of nnU-Net)
    """nnU-Net with channel squeeze & excitation."""

    recalibration = "cse"


class nnUNetTrainerSSE(RecalibratedTrainer):  # noqa: N801
    """nnU-Net with spatial squeeze & excitation."""

    recalibration = "sse"


class nnUNetTrainerSCSE(RecalibratedTrainer):  # noqa: N801
    """nnU-Net with concurrent spatial and channel squeeze & excitation."""

    recalibration = "scse"


class nnUNetTrainerPE(RecalibratedTrainer):  # noqa: N801
    """nnU-Net with Project & Excite."""

    recalibration = "pe"
