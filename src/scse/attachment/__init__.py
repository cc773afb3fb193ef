"""Blocks into an existing network and out again."""
