"""Scores of predictions against references, and paired comparison of variants."""

from scse.evaluation.comparison import Comparison, compare
from scse.evaluation.quality import time_to_quality
from scse.evaluation.ranking import ranking
from scse.evaluation.reading import read_scores
from scse.evaluation.scores import score, score_files, score_folders, write_scores
from scse.evaluation.variant_files import read_score_files
from scse.evaluation.verdict import Verdict, headlines, noise_texts, verdict_text, verdicts

__all__ = [
    "Comparison",
    "Verdict",
    "compare",
    "headlines",
    "noise_texts",
    "ranking",
    "read_score_files",
    "read_scores",
    "score",
    "score_files",
    "score_folders",
    "time_to_quality",
    "verdict_text",
    "verdicts",
    "write_scores",
]
