"""The recipe of a segmenter on disk."""

from scse.data.recipe import Recipe
from scse.inference.saved import REMEDY, Saved
from scse.support.json_files import validated


def read_recipe(saved: Saved) -> Recipe:
    """The recipe of a segmenter on disk.

    Raises:
        DataError: a field is missing, of another type or out of bounds.
    """
    return validated(Recipe, saved.recipe, path=saved.description, remedy=REMEDY, within="recipe", strict=True)
