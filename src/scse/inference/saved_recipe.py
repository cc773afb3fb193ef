"""Reading of the recipe of a segmenter on disk."""

from scse.data.recipe import Recipe
from scse.inference.saved import REMEDY, Saved
from scse.support.json_files import validated


def read_recipe(saved: Saved) -> Recipe:
    """Read the recipe of a segmenter on disk.

    Raises:
        DataError: A field is missing, has the wrong type, or is out of range.
    """
    return validated(Recipe, saved.recipe, path=saved.description, remedy=REMEDY, within="recipe", strict=True)
