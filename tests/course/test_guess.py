"""What a student guessed, beside what was measured."""

import pytest

from wanda_nb.checks import compare


@pytest.mark.parametrize(
    ("guess", "measured", "told"),
    [
        (None, 21.62, "measured: 21.62 · no guess"),
        (43.24, 21.62, "you guessed: 43.24 · measured: 21.62 · off by a factor of 2"),
        (10.81, 21.62, "you guessed: 10.81 · measured: 21.62 · off by a factor of 2"),
        (0, 21.62, "you guessed: 0 · measured: 21.62"),
        ("up", "down", "you guessed: up · measured: down"),
    ],
)
def test_a_guess_stands_beside_the_measurement(guess, measured, told, capsys):
    compare(guess, measured)
    assert capsys.readouterr().out == told + "\n"


def test_the_unit_stands_behind_numbers(capsys):
    compare(50, 25, "%")
    assert "50% · measured: 25%" in capsys.readouterr().out


def test_a_word_is_no_number():
    with pytest.raises(TypeError, match="expected a number"):
        compare("many", 3)
    with pytest.raises(TypeError, match="expected a word"):
        compare(3, "wanda")
