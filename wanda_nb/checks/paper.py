"""Checks of notebook 10: what counts as reproduced, and the published draw of calibration text."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from .core import done, judge

NAN = float("nan")


def _verdicts(inside: Callable, missing: int | None = -1) -> Callable:
    """1 where inside(ours, published, tolerance) holds, else 0; missing where either cell is empty."""

    def verdicts(ours, published, tolerance):
        found = inside(ours, published, tolerance).long()
        empty = ours.isnan() | published.isnan()
        return found if missing is None else found.masked_fill(empty, missing)

    return verdicts


def _band(ours, published, tolerance):
    return (ours <= published * (1 + tolerance)) & (ours * (1 + tolerance) >= published)


REPRODUCED = {
    "a missing cell is not a failure: where either number is NaN, answer -1.": _verdicts(_band, None),
    "a missing cell is not a success: where either number is NaN, answer -1.": _verdicts(_band, 1),
    "you looked at the difference of the perplexities. 0.1 is much at 5 and nothing at 500: the band is a factor.": (
        _verdicts(lambda a, b, t: (a - b).abs() <= t)
    ),
    "your band ends only above. A perplexity that is far too low is no reproduction either.": (
        _verdicts(lambda a, b, t: a <= b * (1 + t))
    ),
    "your band ends only below: half of it is missing.": _verdicts(lambda a, b, t: a * (1 + t) >= b),
    "your band goes further down than up. Both ends are the same *factor* away: divide by 1 + tolerance.": (
        _verdicts(lambda a, b, t: (a / b - 1).abs() <= t)
    ),
    "you took the difference relative to ours, so the upper end lies too far. Multiply the published number.": (
        _verdicts(lambda a, b, t: (b / a - 1).abs() <= t)
    ),
    "you took the quotient of the two logarithms. A factor between perplexities is their *difference*.": (
        _verdicts(lambda a, b, t: (a.log() / b.log() - 1).abs() <= t)
    ),
    "you compared |ln ours - ln published| with the tolerance. A factor of 1 + tolerance is its logarithm.": (
        _verdicts(lambda a, b, t: (a.log() - b.log()).abs() <= t)
    ),
    "the ends belong to the band: <= and not <.": (_verdicts(lambda a, b, t: (a < b * (1 + t)) & (a * (1 + t) > b))),
    "1 is inside the band and 0 outside: yours is upside down.": _verdicts(lambda *case: ~_band(*case)),
}


def reproduced(function, graded: bool = False) -> None:
    """Exercise 10.1: ``function(ours, published, tolerance)`` -> 1 in the band, 0 outside, -1 where a cell is missing.

    ours, published: perplexities (rows,). graded: on more cases. AssertionError, naming the mistake.
    Used in notebook 10, "Exercise 10.1".
    """
    published = torch.tensor([8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 400.0, NAN, 8.0])
    cases = [
        (torch.tensor([8.0, 11.5, 12.5, 5.5, 5.0, 1.5, 401.0, 8.0, NAN]), published, 0.5),
        (torch.tensor([15.5, 16.5, 4.1, 3.9, 31.0, 8.0, 790.0, 5.0, 5.0]), published, 1.0),
        (torch.tensor([8.0, 8.01, 7.99]), torch.tensor([8.0, 8.0, 8.0]), 0.0),
    ]
    if graded:
        draw = torch.Generator().manual_seed(9)
        for rows, tolerance in ((40, 0.02), (40, 0.3)):
            published = 5 + 45 * torch.rand(rows, generator=draw, dtype=torch.float64)
            ours = published * ((torch.rand(rows, generator=draw, dtype=torch.float64) - 0.5) * 3 * tolerance).exp()
            ours[::7], published[3::11] = NAN, NAN
            cases.append((ours, published, tolerance))
    judge(function, cases, _verdicts(_band), REPRODUCED, tolerance=0)
    done("10.1", "a factor up, the same factor down, and no verdict on an empty cell", graded)


class Lengths(list):
    """Tokens of each document, which lose patience with a draw that never ends."""

    looks = 0

    def __getitem__(self, index):
        self.looks += 1
        if self.looks > 20_000:
            raise RecursionError("this draw never ends. Make one generator, once, and draw anew after a short document")
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise IndexError(f"there is no document {index} of {len(self)}. randint has both of its ends in it")
        return super().__getitem__(index)


def _draw(lengths, samples, length, seed, *, document=None, start=None, fits=None, fresh=False, repeat=True):
    """The published draw, or a mistake in it."""
    draw, found, taken = random.Random(seed), [], set()
    while len(found) < samples:
        which = document(draw) if document else draw.randint(0, len(lengths) - 1)
        if (fits or int.__gt__)(lengths[which], length) and (repeat or which not in taken):
            begin = start(draw, lengths[which]) if start else draw.randint(0, lengths[which] - length - 1)
            found.append((which, begin))
            taken.add(which)
            if fresh:
                draw = random.Random(seed)
    return torch.tensor(found)


def _mistake(**how) -> Callable:
    return lambda lengths, samples, length, seed: _draw(
        lengths, samples, length, seed, **{name: make(lengths, length, seed) for name, make in how.items()}
    )


def _chosen(lengths, length, seed):
    long = [which for which, tokens in enumerate(lengths) if tokens > length]
    return lambda draw: draw.choice(long)


def _shuffled(lengths, samples, length, seed):
    draw, order = random.Random(seed), list(range(len(lengths)))
    draw.shuffle(order)
    long = [which for which in order if lengths[which] > length][:samples]
    return torch.tensor([(which, draw.randint(0, lengths[which] - length - 1)) for which in long])


def _documents_first(lengths, samples, length, seed):
    draw, found = random.Random(seed), []
    while len(found) < samples:
        which = draw.randint(0, len(lengths) - 1)
        if lengths[which] > length:
            found.append(which)
    return torch.tensor([(which, draw.randint(0, lengths[which] - length - 1)) for which in found])


def _two_generators(lengths, length, seed):
    other = random.Random(seed)
    return lambda draw, tokens: other.randint(0, tokens - length - 1)


def _last_too(lengths, length, seed):
    return lambda draw, tokens: draw.randint(0, tokens - length)


def _one_short(lengths, length, seed):
    return lambda draw, tokens: draw.randrange(max(1, tokens - length - 1))


STARTS = {
    "every window is the same: you made a new generator for each. Make it once, before the loop.": (
        _mistake(fresh=lambda *case: True)
    ),
    "no document served twice in yours. The published draw may find the same one again.": (
        _mistake(repeat=lambda *case: False)
    ),
    "you shuffled the documents, so none served twice. The published draw may find the same one again.": _shuffled,
    "you drew among the long documents only. Draw among all of them, and draw again where it is too short.": (
        _mistake(document=_chosen)
    ),
    "you drew all documents first, and then all starts. Draw a document, its start, the next document …": (
        _documents_first
    ),
    "you used one generator for documents and another for starts. All draws come from one.": (
        _mistake(start=_two_generators)
    ),
    "a document must be longer than the window: > and not >=.": (
        _mistake(
            fits=lambda *case: int.__ge__,
            start=lambda lengths, length, seed: lambda draw, tokens: draw.randint(0, max(0, tokens - length - 1)),
        )
    ),
    "a document of exactly the window's length came in, and the last start too: longer means >, and the last start "
    "is length + 1 before the end.": _mistake(fits=lambda *case: int.__ge__, start=_last_too),
    "your starts go one too far. The published draw never takes the very last window: randint includes both ends.": (
        _mistake(start=_last_too)
    ),
    "your starts end one too early: randrange leaves out its end, randint does not.": _mistake(start=_one_short),
    "all starts are 0. Draw where in the document the window begins.": (
        _mistake(start=lambda *case: lambda draw, tokens: 0)
    ),
    "each pair is (document, start), in this order.": lambda *case: _draw(*case).flip(1),
}


def published_starts(function, graded: bool = False) -> None:
    """Exercise 10.2: ``function(lengths, samples, length, seed)`` -> pairs (document, start), as the published code.

    lengths: tokens of each document. graded: on more cases. AssertionError, naming the mistake.
    Used in notebook 10, "Exercise 10.2".
    """
    cases = [
        (Lengths([3, 9, 12, 8, 2, 10, 30, 11, 8]), 4, 8, 0),
        (Lengths([12, 4, 8, 13, 9, 14, 8, 11, 1, 17, 10, 8]), 7, 8, 1),
    ]
    if graded:
        make = random.Random(9)
        for seed, count, samples in ((0, 60, 30), (42, 200, 24)):
            cases.append((Lengths(make.randint(1, 40) for _ in range(count)), samples, 16, seed))
    judge(function, cases, _draw, STARTS, tolerance=0)
    done("10.2", "document by document, start by start, the published draw", graded)
