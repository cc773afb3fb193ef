"""Trained segmenters: files, prediction, engines and export."""
