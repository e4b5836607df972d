"""Wrong answers that must be named, and right ones that must pass."""

from wanda_nb import checks


def audit():
    return {"A", "C", "E", "G", "H"}


def as_list():
    return ["h", "g", "e", "c", "a"]


def as_text():
    return "ACEGH"


def nothing():
    return set()


def all_of_them():
    return set("ABCDEFGH")


def too_lenient():
    return {"A", "C", "G", "H"}


def too_strict():
    return {"A", "C", "D", "E", "G", "H"}


def no_such_line():
    return {"A", "K"}


def one_number():
    return 5


EXERCISES = {
    "ex07a": {
        "check": checks.unfair,
        "right": [audit, as_list, as_text],
        "wrong": [
            (nothing, "A is missing: windows of another length"),
            (all_of_them, "B is fair"),
            (too_lenient, "E is missing: 20 items"),
            (too_strict, "D is fair: both read the same windows"),
            (no_such_line, "'K' is no line"),
            (one_number, "expected a set"),
        ],
    },
}
