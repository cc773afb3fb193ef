"""nnU-Net's trainer with recalibration blocks after every encoder and decoder block of the planned network."""

from typing import ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from scse.attachment.attaching import attach
from scse.attachment.placements import placements


class RecalibratedTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no types
    """What the trainers share; all but the network is nnU-Net's.

    The blocks start as the identity: until they are trained, the network computes what nnU-Net's own does. A subclass
    may inherit from another of nnU-Net's trainers too, such as `nnUNetTrainer_100epochs`, and name it second.
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
        """The planned network with blocks; nnU-Net calls this for training and for prediction.

        Raises:
            ValueError: the network is of a family that `scse.attach` does not know.
        """
        network: nn.Module = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        # leaves 2 voxels a side in the deepest stage, as instance normalization needs more than one; a whole patch
        # would do too, but takes longer
        size = 2 * np.prod(configuration_manager.pool_op_kernel_sizes, axis=0)
        attach(network, cls.recalibration, example=torch.zeros(1, num_input_channels, *size.tolist()))
        return network

    def on_train_start(self) -> None:
        """Write into nnU-Net's log where the blocks are."""
        super().on_train_start()
        table = placements(self.network)
        self.print_to_log_file(f"\nBlocks, at the resolutions of a small example:\n{table}\n", add_timestamp=False)


class nnUNetTrainerCSE(RecalibratedTrainer):  # noqa: N801 (nnU-Net's way of naming)
    """nnU-Net with channel squeeze & excitation."""

    recalibration = "cse"


class nnUNetTrainerSSE(RecalibratedTrainer):  # noqa: N801
    """nnU-Net with spatial squeeze & excitation."""

    recalibration = "sse"


class nnUNetTrainerSCSE(RecalibratedTrainer):  # noqa: N801
    """nnU-Net with concurrent spatial and channel squeeze & excitation."""

    recalibration = "scse"
