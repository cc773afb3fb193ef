"""Variants of a network by name. See `scse.vocabulary.variants`."""

from scse.vocabulary.variants import Variant

__all__ = ["Variant"]
