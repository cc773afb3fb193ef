"""Attach blocks to existing networks, remove them, and save or fuse them."""
