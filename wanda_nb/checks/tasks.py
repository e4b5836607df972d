"""Checks of notebook 07: an unfair comparison."""

from __future__ import annotations

from .core import call, done

FAIR = {
    "B": "a longer running time is a price, not an unfair advantage in quality, and the times are stated",
    "D": "both read the same windows, the difference is paired, and its interval says how sure it is",
    "F": "the same text and the same draw for both, and it is not the text that they are scored on",
}
UNFAIR = {
    "A": "windows of another length, and another tokenisation: two protocols give two numbers for one model",
    "C": "one has seen the test while it was pruned, the other has not",
    "E": "20 items have a standard error of about 11 points: 13 against 11 right is no ranking",
    "G": "a share of *all* weights is not a share of the prunable ones. One of the two has lost more of what can go",
    "H": "the best of five draws against one draw: whoever tries more often looks better by luck",
}


def unfair(function, graded: bool = False) -> None:
    """Exercise 07.1: ``function()``: the letters of the lines that make the comparison unfair, as a set.

    AssertionError, with the first letter that is missed or wrongly accused, and why. Used in notebook 07,
    "Exercise 07.1".
    """
    answer = call(function)
    try:
        letters = {str(letter).strip().upper() for letter in answer}
    except TypeError:
        raise AssertionError(f'expected a set of letters such as {{"X", "Y"}}, got {answer!r}.') from None
    known = sorted(FAIR | UNFAIR)
    strange = sorted(letters - set(known))
    if strange:
        raise AssertionError(
            f"{strange[0]!r} is no line of the report. Expected letters from {known[0]} to {known[-1]}."
        )
    for letter in known:
        if letter in UNFAIR and letter not in letters:
            raise AssertionError(f"{letter} is missing: {UNFAIR[letter]}.")
        if letter in FAIR and letter in letters:
            raise AssertionError(f"{letter} is fair: {FAIR[letter]}.")
    done("07.1", "every line of the report is judged as we judge it", graded)
