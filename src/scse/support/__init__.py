"""Helpers for all packages: errors, checks, files and timing. They do not depend on anything about segmentation."""
