"""Settings of a process that does the items of an executor."""

from scse.support.tensorboard_alone import use_monai_alone, use_tensorboard_alone


def settle() -> None:
    """Apply the settings of the command line, before MONAI and TensorBoard are imported."""
    use_tensorboard_alone()
    use_monai_alone()
