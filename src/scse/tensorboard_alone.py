"""TensorBoard without TensorFlow, which takes seconds to be imported and is not needed to write events."""

import sys
from types import ModuleType


def use_tensorboard_alone() -> None:
    """Keep TensorBoard from importing TensorFlow in this process, where both are installed.

    MONAI and `torch.utils.tensorboard` import TensorBoard, which takes TensorFlow's file system if it can, and a small
    one of its own if there is a module of this name: its own way to be built without TensorFlow. The command line calls
    this at its start; `import scse` never does. What imports TensorFlow itself still gets it.
    """
    name = "tensorboard.compat.notf"
    sys.modules.setdefault(name, ModuleType(name))
