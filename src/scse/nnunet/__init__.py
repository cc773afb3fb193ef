"""The blocks in nnU-Net: trainers for the commands of nnU-Net, see docs/nnunet.md.

nnU-Net searches the folders in the environment variable `nnUNet_extTrainer` for external trainers, and imports every
module in them as a top-level module. The trainers are therefore in a folder of their own.
"""

from pathlib import Path


def folder() -> Path:
    """Return the folder of the trainers `nnUNetTrainerCSE`, `nnUNetTrainerSSE` and `nnUNetTrainerSCSE`."""
    return Path(__file__).parent / "trainers"
