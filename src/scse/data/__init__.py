"""Data sets: a folder of images and label maps -> `Dataset` of `Case`s -> `inspect` -> prepared arrays."""

from scse.data.dataset import Case, Dataset
from scse.data.inspection import Inspection, Problem, inspect

__all__ = ["Case", "Dataset", "Inspection", "Problem", "inspect"]
