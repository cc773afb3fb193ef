"""Compiled models. Compiled code does not notice when blocks or hooks are added or removed."""

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from scse.support.errors import UserError


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model that `torch.compile` wrapped, or the model itself.

    Raises:
        UserError: The model, or a part of it, is TorchScript, which cannot be changed.
    """
    _, model = unwrapped("", model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = repr(name) if name else "the model"
            raise UserError(f"{where} is TorchScript, which cannot be changed; change the model that it was made from")
    return model


def unwrapped(name: str, module: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module; for a module wrapped by `torch.compile`, those of the wrapped module."""
    if _compiler_is_loaded() and isinstance(module, torch._dynamo.OptimizedModule):
        return f"{name}._orig_mod", module._orig_mod
    return name, module


def forget_compiled() -> None:
    """Discard all code that torch compiled in this process, so that it is compiled again at the next call.

    Compiled code does not check for changed hooks: it would run without new blocks, or with removed ones.
    """
    if _compiler_is_loaded():
        torch.compiler.reset()


@contextmanager
def eagerly() -> Generator[None]:
    """Run compiled modules eagerly, so that the hooks of their submodules run."""
    if not _compiler_is_loaded():
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # the counter of multiply-adds uses global hooks, and torch warns that compiled modules ignore these
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        yield


def _compiler_is_loaded() -> bool:
    # a compiler that is not loaded has compiled nothing, and loading it takes a second
    return "torch._dynamo" in sys.modules
