"""Checks of notebook 06: a perplexity, an interval by resampling, and an unfair comparison."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..evaluation.uncertainty import mean_interval
from .core import call, done, judge, tensor


def _losses(logits, tokens):
    """What each predicted token costs, in nats: (windows, length - 1)."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


def _all(logits, tokens):
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")


PERPLEXITY = {
    "you forgot the shift. The logits at position i predict token i + 1.": (
        lambda logits, tokens: _all(logits, tokens).mean().exp()
    ),
    "you shifted the wrong way. The logits at position i predict token i + 1, not i - 1.": (
        lambda logits, tokens: _losses(logits.flip(1), tokens.flip(1)).mean().exp()
    ),
    "you joined the windows before the shift. The first token of a window is not predicted from the window before.": (
        lambda logits, tokens: F.cross_entropy(logits.flatten(0, 1)[:-1], tokens.flatten()[1:]).exp()
    ),
    "you predicted the first token from the last position. The first has no context and is not predicted.": (
        lambda logits, tokens: _all(logits, tokens.roll(-1, dims=1)).mean().exp()
    ),
    "you divided by the number of all tokens. The first of each window is not predicted: length - 1 are.": (
        lambda logits, tokens: (_losses(logits, tokens).sum() / tokens.numel()).exp()
    ),
    "you took the mean of the windows' perplexities. Take the mean of all losses first, then exp.": (
        lambda logits, tokens: _losses(logits, tokens).mean(dim=1).exp().mean()
    ),
    "you took the mean of the tokens' perplexities. Take the mean of all losses first, then exp.": (
        lambda logits, tokens: _losses(logits, tokens).exp().mean()
    ),
    "base 2 does not fit a natural logarithm. Losses in nats need exp: exp and log must have one base.": (
        lambda logits, tokens: 2 ** _losses(logits, tokens).mean()
    ),
    "exp does not fit a logarithm to base 2. Losses in bits need 2 ** mean: exp and log must have one base.": (
        lambda logits, tokens: (_losses(logits, tokens).mean() / math.log(2)).exp()
    ),
    "you took exp of the sum. Take exp of the mean over all predicted tokens.": (
        lambda logits, tokens: _losses(logits, tokens).sum().exp()
    ),
    "you summed over the windows. Take the mean over all predicted tokens.": (
        lambda logits, tokens: _losses(logits, tokens).mean(dim=1).sum().exp()
    ),
    "you summed within each window. Take the mean over all predicted tokens.": (
        lambda logits, tokens: _losses(logits, tokens).sum(dim=1).mean().exp()
    ),
    "this is the mean loss. Perplexity is its exp.": lambda logits, tokens: _losses(logits, tokens).mean(),
    "the sign is wrong: the loss is *minus* the log-probability.": (
        lambda logits, tokens: (-_losses(logits, tokens).mean()).exp()
    ),
    "logits are no log-probabilities yet: log_softmax over the vocabulary is missing.": (
        lambda logits, tokens: (-logits[:, :-1].gather(2, tokens[:, 1:, None]).mean()).exp()
    ),
}


def perplexity_from_logits(function, graded: bool = False) -> None:
    """Exercise 06.1: ``function(logits, tokens)``: exp of the mean loss over all predicted tokens, a float.

    logits (windows, length, vocabulary), tokens (windows, length). graded: on more cases. AssertionError, naming the
    mistake. Used in notebook 06, "Exercise 06.1".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)

    def case(windows, length, vocabulary, offset=0.0):
        sharpness = torch.linspace(0.5, 2, windows)[:, None, None]  # windows of unlike perplexity
        logits = sharpness * torch.randn(windows, length, vocabulary, generator=draw) + offset
        return logits, torch.randint(vocabulary, (windows, length), generator=draw)

    cases = [case(2, 4, 5), case(3, 6, 7)]
    if graded:
        cases += [case(1, 2, 3), case(5, 2, 11), case(4, 33, 64, offset=300.0)]  # where a bare exp overflows
        logits, tokens = case(2, 9, 6)
        cases += [(logits.double(), tokens)]
    judge(function, cases, lambda logits, tokens: _losses(logits, tokens).mean().exp(), PERPLEXITY)
    done("06.1", "exp of the mean loss, over every token but the first of each window", graded)


DRAWS, TOLERANCE = 20_000, 0.12  # so many draws know the ends of an interval to about 0.03 standard errors


def _interval(values, generator, size=None, low=2.5, high=97.5) -> torch.Tensor:
    picked = torch.randint(len(values), (3 * DRAWS, size or len(values)), generator=generator)
    return values[picked].mean(dim=1).quantile(torch.tensor([low, high], dtype=torch.float64) / 100)


def _around(values, reach) -> torch.Tensor:
    return values.mean() + reach * torch.tensor([-1.0, 1.0], dtype=torch.float64)


BOOTSTRAP = {
    "low and high are swapped.": lambda values, draw: _interval(values, draw).flip(0),
    "these are percentiles of single values. Resample n values at a time, and take the percentiles of their *means*.": (
        lambda values, draw: _interval(values, draw, size=1)
    ),
    "these are percentiles of the differences themselves. Resample them, and take percentiles of the *means*.": (
        lambda values, draw: values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    ),
    "this is a 90% interval: 5 to 95. Of 95%, 2.5% lie outside at each end.": (
        lambda values, draw: _interval(values, draw, low=5, high=95)
    ),
    "this is wider than 95%: 2.5% lie outside at each end.": (
        lambda values, draw: _interval(values, draw, low=0.5, high=99.5)
    ),
    "this is the mean ± two standard deviations of single values. A mean of n values is surer, by sqrt(n).": (
        lambda values, draw: _around(values, 2 * values.std())
    ),
    "this is the mean ± one standard deviation of single values. A mean of n values is surer, by sqrt(n).": (
        lambda values, draw: _around(values, values.std())
    ),
    "this is the mean ± 2 standard errors: a formula, and symmetric. Resample, and take percentiles of the means.": (
        lambda values, draw: _around(values, 2 * values.std() / len(values) ** 0.5)
    ),
    "each resample must have n values, as many as there are: you drew half as many.": (
        lambda values, draw: _interval(values, draw, size=len(values) // 2)
    ),
    "this is widened for few items, as the package does it. Here, return the percentiles themselves.": (
        lambda values, draw: torch.tensor(mean_interval(values)[1:], dtype=torch.float64)
    ),
}


def bootstrap(function, graded: bool = False) -> None:
    """Exercise 06.2: ``function(differences, draws, generator)`` -> (low, high): 95% bootstrap interval of the mean.

    differences (n,) of independent items, resampled n at a time with replacement, ``draws`` times; the middle 95% of
    the means: the first step of ``mean_interval``, which also widens. Compared with our own, within 0.12 standard
    errors. graded: on more samples. AssertionError, naming the mistake. Used in notebook 06, "Exercise 06.2".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    samples = [_skewed(15, draw), 0.1 - _skewed(32, draw)]
    samples += [100 + _skewed(50, draw), _skewed(9, draw).float()] if graded else []
    found = [_read(function, values, draw) for values in samples]
    ours = [_interval(values.double(), draw) for values in samples]
    if not all(_near(*one) for one in zip(samples, found, ours, strict=True)):
        raise AssertionError(_mistaken_interval(samples, found, ours, draw))
    again = [_read(function, samples[0], torch.Generator().manual_seed(5), draws=50) for _ in range(2)]
    if not torch.equal(*again):
        raise AssertionError("two generators of one seed gave two intervals. Take all random numbers from generator.")
    low, high = _read(function, samples[0], draw, draws=1)
    if not abs(low - high) < 1e-6:
        raise AssertionError("with draws=1 there is one mean, so low and high must be equal. Do you use draws?")
    done("06.2", "the middle 95% of the means of resamples", graded)


def _mistaken_interval(samples, found, ours, draw) -> str:
    if all(bool((ends[1] - ends[0]).abs() < 1e-6) for ends in found):
        return (
            "the interval has no width: every resample was the same. Draw *with* replacement, so that some come twice."
        )
    if all(bool(ends.max() < values.mean()) for values, ends in zip(samples, found, strict=True)):
        return (
            "both ends are below the mean. torch.quantile takes fractions (0.025), np.percentile takes per cent (2.5)."
        )
    for said, mistaken in BOOTSTRAP.items():
        theirs = [mistaken(values.double(), draw) for values in samples]
        if all(_near(*one, 1.5 * TOLERANCE) for one in zip(samples, found, theirs, strict=True)):
            return said
    cases = zip(samples, found, ours, strict=True)
    return next(_difference(got, expected) for values, got, expected in cases if not _near(values, got, expected))


def _skewed(n: int, draw) -> torch.Tensor:  # so that the interval is not symmetric
    return 0.1 * torch.randn(n, generator=draw, dtype=torch.float64).exp()


def _read(function, values, generator, draws=DRAWS) -> torch.Tensor:
    answer = call(function, values, draws, generator)
    return tensor(answer, (2,), "(low, high)").double()


def _near(values, got, expected, tolerance=TOLERANCE) -> bool:
    return bool(((got - expected).abs() < tolerance * float(values.std()) / len(values) ** 0.5).all())


def _difference(got, expected) -> str:
    factor = float((got[1] - got[0]) / (expected[1] - expected[0]))
    text = "expected about ({:.4f}, {:.4f}), got ({:.4f}, {:.4f})".format(*expected.tolist(), *got.tolist())
    if abs(factor - 1) > 0.1:
        text += f", {factor:.2f} times as wide. Has each resample n values, and do 2.5% lie outside at each end?"
    return text if text.endswith("?") else f"{text}. Is it of the means?"


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
    """Exercise 06.3: ``function()``: the letters of the lines that make the comparison unfair, as a set.

    AssertionError, with the first letter that is missed or wrongly accused, and why. Used in notebook 06,
    "Exercise 06.3".
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
    done("06.3", "every line of the report is judged as we judge it", graded)
