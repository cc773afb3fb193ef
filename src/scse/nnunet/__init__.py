"""The blocks in nnU-Net: trainers for its own commands, see docs/nnunet.md.

nnU-Net finds trainers of others in the folders that the environment variable `nnUNet_extTrainer` names, and imports
every module of them as a top-level one. The trainers therefore lie in a folder of their own.
"""

from pathlib import Path


def folder() -> Path:
    """The folder of the trainers `nnUNetTrainerCSE`, `nnUNetTrainerSSE` and `nnUNetTrainerSCSE`."""
    return Path(__file__).parent / "trainers"
