"""What all checks share: call the student's function, compare, and name the mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch


def call(function: Callable, *arguments, **named):
    """What a student's function gives for copies of the arguments, so that it may work in place.

    NotImplementedError passes: the exercise is not begun. Any other error, and a forgotten return, is said plainly.
    """
    copies = [_copied(argument) for argument in arguments]
    try:
        answer = function(*copies, **{name: _copied(argument) for name, argument in named.items()})
    except NotImplementedError:
        raise
    except Exception as error:
        said = ", ".join(_words(argument) for argument in (*arguments, *named.values()))
        raise AssertionError(f"{_name(function)}({said}) stopped with {type(error).__name__}: {error}") from error
    if answer is None:
        raise AssertionError(f"{_name(function)} returned None. Does it end with a return?")
    return answer


def given_evidence(evidence: Callable, count: int, expected: str) -> tuple:
    """What a student's ``evidence()`` gives, so many things, or AssertionError that says what is expected."""
    answer = call(evidence)
    if not isinstance(answer, (tuple, list)) or len(answer) != count:
        got = f"{len(answer)} things" if isinstance(answer, (tuple, list)) else type(answer).__name__
        raise AssertionError(f"evidence: expected {expected}, got {got}.")
    return tuple(answer)


def tensor(answer, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """An answer as a tensor of that shape, whatever library or float type it came from, or AssertionError."""
    try:
        answer = torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: expected a tensor {shape}, got {type(answer).__name__}.") from None
    if tuple(answer.shape) != tuple(shape):
        raise AssertionError(f"{what}: expected shape {tuple(shape)}, got {tuple(answer.shape)}.")
    return answer


def judge(function: Callable, cases: list[tuple], right: Callable, wrong: dict[str, Callable], tolerance=1e-4) -> None:
    """AssertionError unless a student's function gives in all cases what the right one gives; it names the mistake.

    cases: tuples of arguments. right: gives a mask (bool, (out, in), True = removed), a tensor of floats or a number.
    wrong: {what to say: a function that makes this mistake}; it is said where the student's answers equal its in every
    case. A mask that is wrong is drawn beside the one expected, if there is matplotlib.
    """
    answers, expected = [], [torch.as_tensor(right(*_copied(case))) for case in cases]
    for case, value in zip(cases, expected, strict=True):
        answers.append(_read(call(function, *case), value, f"{_name(function)}({_listed(case)})"))
    failed = [
        i for i, (got, value) in enumerate(zip(answers, expected, strict=True)) if not same(got, value, tolerance)
    ]
    if not failed:
        return
    case, got, value = cases[failed[0]], answers[failed[0]], expected[failed[0]]
    if value.dtype == torch.bool:
        _draw(value, got)
    where = f"{_name(function)}({_listed(case)})"
    for said, mistaken in wrong.items():
        if all(_agrees(mistaken, case, got, tolerance) for case, got in zip(cases, answers, strict=True)):
            raise AssertionError(f"{where}: {said}")
    raise AssertionError(f"{where}: {_difference(got, value)}")


def _draw(expected: torch.Tensor, got: torch.Tensor) -> None:
    try:  # here, so that grading needs no matplotlib
        import matplotlib.pyplot as plt

        from ..plots.checks import expected_and_got
    except ImportError:
        return
    expected_and_got(expected, got)
    plt.show()


def same(got, expected, tolerance: float = 1e-4) -> bool:
    """Equal up to rounding, in float64: tensors of one shape, or numbers. NaN equals NaN: a mistake may make them."""
    got, expected = (torch.as_tensor(value).double() for value in (got, expected))
    return got.shape == expected.shape and torch.allclose(got, expected, tolerance, tolerance * 1e-2, equal_nan=True)


def _agrees(mistaken: Callable, case: tuple, got, tolerance: float) -> bool:
    try:
        return same(got, mistaken(*_copied(case)), tolerance)
    except (RuntimeError, IndexError, ValueError, ZeroDivisionError, TypeError):
        return False  # a mistake that cannot be made here


def _read(answer, expected: torch.Tensor, where: str) -> torch.Tensor:
    answer = tensor(answer, tuple(expected.shape), where)
    if expected.dtype == torch.bool and answer.dtype != torch.bool:
        if not bool(((answer == 0) | (answer == 1)).all()):
            raise AssertionError(f"{where}: expected a mask of True and False, got numbers ({answer.dtype}).")
        answer = answer.bool()
    return answer


def done(exercise: str, what: str, graded: bool) -> None:
    """The one quiet line of success."""
    print(f"✓ {exercise}{' graded' if graded else ''}: {what}")


def _copied(argument):
    if isinstance(argument, torch.Tensor):
        return argument.clone()
    if isinstance(argument, (list, tuple)):
        return type(argument)(_copied(one) for one in argument)
    return argument


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _words(argument) -> str:
    if isinstance(argument, torch.Tensor):
        return f"tensor {tuple(argument.shape)}"
    text = repr(argument)
    return text if len(text) <= 30 else type(argument).__name__


def _listed(case: tuple) -> str:
    return ", ".join(_words(argument) for argument in case)


def _difference(got: torch.Tensor, expected: torch.Tensor) -> str:
    if expected.dtype == torch.bool:
        if torch.equal(got, ~expected):
            return "upside down. True marks a weight that is removed."
        wrong = (got != expected).nonzero()
        row, column = wrong[0].tolist()
        should = "removed" if expected[row, column] else "kept"
        said = f"{len(wrong)} of {expected.numel()} weights differ; the first, in row {row}, column {column}, should be"
        removed, asked = int(got.sum()), int(expected.sum())
        return f"{said} {should}." + (f" You removed {removed}, not {asked}." if removed != asked else "")
    got, expected = got.double(), expected.double()
    if not bool(got.isfinite().all()):
        return "some values are not finite."
    if expected.ndim == 0:
        return f"expected {expected.item():.6g}, got {got.item():.6g}."
    most = int((got - expected).abs().argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(most), expected.shape)]
    return f"at {place} expected {expected.flatten()[most].item():.6g}, got {got.flatten()[most].item():.6g}."
