"""Trained segmenters: their files, prediction, engines and export."""
