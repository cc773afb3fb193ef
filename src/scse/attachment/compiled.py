"""Models that torch has compiled: what was compiled does not see that a block or a hook came or went."""

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from scse.support.errors import UserError


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` wrapped, or the model itself.

    Raises:
        ValueError: the model, or a part of it, is TorchScript, which cannot be changed.
    """
    _, model = unwrapped("", model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = repr(name) if name else "the model"
            raise UserError(f"{where} is TorchScript, which cannot be changed; change the model that it was made from")
    return model


def unwrapped(name: str, module: nn.Module) -> tuple[str, nn.Module]:
    """A module by its name, or the one that `torch.compile` wrapped in it by its own."""
    if _compiler_is_loaded() and isinstance(module, torch._dynamo.OptimizedModule):
        return f"{name}._orig_mod", module._orig_mod
    return name, module


def forget_compiled() -> None:
    """Let torch compile anew, at its next call, whatever it compiled in this process.

    It does not look for changed hooks, and would go on without the blocks, or with those that were taken out.
    """
    if _compiler_is_loaded():
        torch.compiler.reset()


@contextmanager
def eagerly() -> Generator[None]:
    """Run compiled modules as they were written, so that hooks see what is in them."""
    if not _compiler_is_loaded():
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # what counts multiply-adds hooks all modules, which a compiled one would not see
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        yield


def _compiler_is_loaded() -> bool:
    # what is not loaded has compiled nothing, and takes a second to be loaded
    return "torch._dynamo" in sys.modules
