"""What a person sees: bars in a terminal, plain lines in a log, and the question that Ctrl-C becomes."""

import os
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from scse.cli.console import WHAT, Watcher, rows_table, stop_on_signal
from scse.support.events import (
    CleaningChosen,
    CleaningStep,
    Counted,
    EpochDone,
    Event,
    Planned,
    RunStarted,
    Scored,
    Stage,
    StepDone,
    Within,
)

STEP = StepDone(epoch=1, step=1, steps=2, loss=0.75, images_per_second=9, seconds_left=240)
EPOCH = EpochDone(epoch=1, loss=0.5, dice=0.25, seconds=3.2, learning_rate=0.1)


def started(run: str, number: int) -> RunStarted:
    return RunStarted(run, Path(run), number, runs=2, settings={})


def console(*, terminal: bool = False) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=200, soft_wrap=True, highlight=False)


def text(shown: Console) -> str:
    return shown.file.getvalue()


def test_a_clean_up_is_shown_with_the_dice_before_and_after_it_and_the_reason():
    shown = console()
    steps = (
        CleaningStep("largest component of [b]", 0.5, 0.75, True),
        CleaningStep("holes filled of a", 0.5, 0.4, False),
    )
    with Watcher(shown) as watch:
        watch(CleaningChosen(("c1", "c2"), 0.5, 0.625, steps))
        watch(CleaningChosen(("c1",), 0.5, 0.5, ()))
    assert [line.rstrip() for line in text(shown).splitlines()] == [
        "  clean-up chosen on 2 held-out cases: mean Dice 0.5000 before, 0.6250 after it (optimistic: the same cases)",
        "    largest component of [b]: Dice 0.5000 -> 0.7500, kept: raises Dice and lowers it for no structure",
        "    holes filled of a: Dice 0.5000 -> 0.4000, not kept",
        "  clean-up chosen on 1 held-out case: mean Dice 0.5000 before, 0.5000 after it (optimistic: the same cases)",
        "    no step changes Dice, so none is kept",
    ]


def test_a_log_gets_plain_lines_and_no_bars():
    shown = console()
    with Watcher(shown) as watch:
        watch(Planned([("data set", "brains [1] (/tmp/[bold]x)")], runs=2))
        watch(started("unet-cse-seed0-fold0", 1))
        watch(STEP)
        watch(EPOCH)
        watch(Stage("measuring"))
    assert [line.rstrip() for line in text(shown).splitlines()] == [
        "data set  brains [1] (/tmp/[bold]x)",
        "run 1 of 2: unet-cse-seed0-fold0",
        "  epoch 1: loss 0.500, Dice on held-out cases 0.250, 3 s of training",
        "measuring ...",
    ]


def test_a_terminal_gets_a_bar_with_loss_dice_rate_and_time():
    shown = console(terminal=True)
    with Watcher(shown) as watch:
        watch(EPOCH)
        watch(replace(STEP, epoch=2))
        watch.progress.refresh()
        watch(replace(STEP, epoch=2, step=2))
        assert watch.tasks == {}
    assert "epoch 2  loss 0.750  Dice 0.250  9 images/s  4 min of training left" in text(shown)
    assert "1/2" in text(shown)


def test_the_dice_of_one_run_is_not_shown_in_the_next():
    watch = Watcher(console())
    watch(EPOCH)
    watch(started("unet-cse-seed0-fold0", 2))
    assert watch.last_dice == ""


@pytest.mark.parametrize("what", WHAT)
def test_counters_make_a_bar_that_goes_when_it_is_full(what):
    shown = console(terminal=True)
    with Watcher(shown) as watch:
        count = watch.counter(what)
        count(1, 3)
        assert set(watch.tasks) == {WHAT[what]}
        watch.progress.refresh()
        count(3, 3)
        assert watch.tasks == {}
    assert WHAT[what] in text(shown)


def test_tables_show_their_text_as_it_is():
    shown = console()
    shown.print(rows_table([("onnx", "pip install 'scse[export]'"), ("path", "/data/[/x] :car: [red]"), ("n", 3)]))
    assert [line.rstrip().split("  ")[-1].strip() for line in text(shown).splitlines()] == [
        "pip install 'scse[export]'",
        "/data/[/x] :car: [red]",
        "3",
    ]


def test_tables_have_headings_where_they_are_given():
    shown = console()
    shown.print(rows_table([("a", "0.5")], "structure", "Dice"))
    assert [line.split() for line in text(shown).splitlines()] == [["structure", "Dice"], ["a", "0.5"]]


def test_tables_cut_nothing_off_where_a_line_is_short():
    shown = Console(file=StringIO(), width=20, soft_wrap=True)
    shown.print(rows_table([("a" * 24, "b" * 24)], "structure" * 2, "rank-biserial"))
    assert {letter: text(shown).count(letter) for letter in "ab"} == {"a": 24 + 2, "b": 24 + 1}  # in the headings too
    assert "…" not in text(shown)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number):
    shown, before = console(), signal.getsignal(number)
    with stop_on_signal(shown) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert text(shown) == ""  # the handler itself prints nothing: it may have interrupted a print
        assert stop()
        assert stop()
        assert text(shown).count("stopping after this step") == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_DFL  # a third one ends the process
    assert signal.getsignal(number) is before


def test_names_are_no_markup_in_any_line():
    shown = console()
    with Watcher(shown) as watch:
        watch(started("a[red]b", 1))
        watch(Stage("a[red]b is left to another process"))
    shown.print(rows_table([("a", "0.5")], "[bold]x", "Dice"))
    assert text(shown).count("a[red]b") == 2
    assert "[bold]x" in text(shown)


def test_an_interruption_that_a_library_turned_into_an_error_is_one_still():
    def library():
        signal.raise_signal(signal.SIGINT)  # the first one asks, the second one interrupts
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of object type") from None

    with pytest.raises(KeyboardInterrupt), stop_on_signal(Console(file=StringIO())):
        library()


def test_an_error_of_ones_own_stays_one():
    with pytest.raises(ValueError, match="own"), stop_on_signal(Console(file=StringIO())):
        raise ValueError("own")


def test_every_task_whose_items_are_counted_has_words():
    assert set(WHAT) == set(get_args(Counted))


def test_lines_of_runs_that_are_done_at_the_same_time_begin_with_their_names():
    shown = console()
    first, second = "unet-none-seed0-fold0", "unet-[cse]-seed0-fold0"
    scored = Scored(first, Path(first), {"dice": 0.5, "hd95": 2.0, "msd": 1.0}, skipped=False)
    reported: list[tuple[str, Event]] = [
        (first, started(first, 1)),
        (second, started(second, 2)),
        (first, STEP),
        (second, EPOCH),
        (second, Stage("its process ended by signal 9; another one continues")),
        (first, scored),
    ]
    with Watcher(shown) as watch:
        for name, event in reported:
            watch(Within(name, event))
    assert [line.rstrip() for line in text(shown).splitlines()] == [
        f"run 1 of 2: {first}",
        f"run 2 of 2: {second}",
        f"{second}: epoch 1: loss 0.500, Dice on held-out cases 0.250, 3 s of training",
        f"{second}: its process ended by signal 9; another one continues ...",
        f"{first}: test cases: Dice 0.500, 95 % Hausdorff distance 2.00, mean surface distance 1.00 mm",
    ]


def test_each_run_that_is_done_at_the_same_time_has_a_bar_until_it_is_scored():
    with Watcher(console(terminal=True)) as watch:
        watch(Within("a", STEP))
        watch(Within("b", STEP))
        assert [task.description for task in watch.progress.tasks] == [
            "a: epoch 1  loss 0.750",
            "b: epoch 1  loss 0.750",
        ]
        watch(Within("a", Scored("a", Path("a"), {"dice": 0.5, "hd95": 2.0, "msd": 1.0}, skipped=False)))
        assert [task.description for task in watch.progress.tasks] == ["b: epoch 1  loss 0.750"]
