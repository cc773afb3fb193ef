"""Settings of a process that does the items of an executor."""

import logging

from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone


def settle() -> None:
    """Apply the settings of the command line, before MONAI and TensorBoard are imported."""
    use_tensorboard_alone()
    use_monai_alone()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision of every run
