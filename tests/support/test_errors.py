"""Lengths of error messages."""

from scse.support.errors import UserError


def test_the_middle_of_a_long_argument_is_left_out_and_the_remedy_stays() -> None:
    message = str(UserError("budget must be a time, got " + 50_000 * "x" + "; give 2h\nsecond line"))
    assert message.startswith("budget must be a time, got xxx")
    assert "xxx ... xxx" in message
    assert message.endswith("x; give 2h\nsecond line")
    assert len(message) < 1300


def test_many_lines_and_ordinary_ones_stay_whole() -> None:
    text = "\n".join(100 * ["decoder.blocks.0  DecoderBlock  (1, 64, 32, 32)"])
    assert str(UserError(text)) == text
