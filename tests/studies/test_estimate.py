"""Time budgets as text, and the number of epochs that fits a budget."""

import re

import pytest

from scse.studies.estimate import fit_epochs
from scse.vocabulary.budgets import parse_budget


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1h0m5s", 3605)]
)
def test_a_budget_has_hours_minutes_and_seconds(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "2 h", "1.5h", "h", "30m1h", "-1h", "0h", "two hours"])
def test_other_text_is_refused_with_examples_of_budgets(text):
    with pytest.raises(
        ValueError, match=re.escape(f"budget must be a time such as 2h, 90m, 1h30m or 45s, got {text!r}")
    ):
        parse_budget(text)


@pytest.mark.parametrize(("fixed", "each", "epochs"), [(0, 10, 6), (9, 10, 5), (0, 60, 1), (10, 10, 5), (11, 10, 4)])
def test_epochs_are_the_most_that_fit_the_budget(fixed, each, epochs):
    assert fit_epochs("1m", fixed, each, runs=2) == epochs
    assert fixed + epochs * each <= 60 < fixed + (epochs + 1) * each


def test_a_budget_below_one_epoch_is_refused_with_its_time():
    message = "budget 1m: 12 runs of 1 epoch take about 2 min; request fewer runs"
    with pytest.raises(ValueError, match=message):
        fit_epochs("1m", 20, 100, runs=12)
