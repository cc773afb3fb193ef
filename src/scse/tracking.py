"""Logging of trainings and studies to MLflow. See `scse.studies.tracking`."""

from scse.studies.tracking import tracked

__all__ = ["tracked"]
