"""Scores of predictions against references, and their paired comparison."""

from scse.evaluation.comparison import Comparison, compare, verdict
from scse.evaluation.scores import score, score_files, score_folders, write_scores

__all__ = ["Comparison", "compare", "score", "score_files", "score_folders", "verdict", "write_scores"]
