"""TensorBoard without TensorFlow and MONAI without MLflow, which take seconds to be imported and are not needed."""

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


def use_monai_alone() -> None:
    """Keep MONAI from importing MLflow in this process, where both are installed.

    MONAI would import it for its `MLFlowHandler`, which is then missing. Called as `use_tensorboard_alone` is; what
    imports MLflow itself still gets it.
    """
    name = "monai.handlers.mlflow_handler"
    empty = ModuleType(name)
    empty.MLFlowHandler = None  # type: ignore[attr-defined] # what `monai.handlers` takes from it
    sys.modules.setdefault(name, empty)
