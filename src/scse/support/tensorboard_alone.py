"""Import TensorBoard without TensorFlow and MONAI without MLflow, which take seconds to import and are not needed."""

import sys
from types import ModuleType


def use_tensorboard_alone() -> None:
    """Prevent TensorBoard from importing TensorFlow in this process.

    MONAI and `torch.utils.tensorboard` import TensorBoard, which uses TensorFlow's file system if it is installed, but
    its own small one if there is a module `tensorboard.compat.notf`, TensorBoard's convention for builds without
    TensorFlow. The command line calls this function when it starts; `import scse` never does. TensorFlow can still be
    imported directly.
    """
    name = "tensorboard.compat.notf"
    sys.modules.setdefault(name, ModuleType(name))


def use_monai_alone() -> None:
    """Prevent MONAI from importing MLflow in this process.

    MONAI imports it for its `MLFlowHandler`, which is then missing. The command line calls this function when it
    starts; `import scse` never does. MLflow can still be imported directly.
    """
    name = "monai.handlers.mlflow_handler"
    empty = ModuleType(name)
    empty.MLFlowHandler = None  # type: ignore[attr-defined] # `monai.handlers` imports this name
    sys.modules.setdefault(name, empty)
