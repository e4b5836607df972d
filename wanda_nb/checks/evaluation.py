"""Checks of notebook 06: a perplexity, and an interval by resampling that has to be mended."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..evaluation.uncertainty import mean_interval
from .core import call, done, given_evidence, judge, tensor


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


def reported_interval(a, b, draws, generator):
    """What a report gives as the 95% interval of the mean of b - a: (low, high), of losses (n,) on the same windows.

    It has two faults, for the reader to find. Used in notebook 06, "Exercise 06.2".
    """
    n = len(a)
    of_a = a[torch.randint(n, (draws, n), generator=generator)]  # (draws, n)
    of_b = b[torch.randint(n, (draws, n), generator=generator)]  # (draws, n)
    means = (of_b - of_a).mean(dim=1)  # (draws,)
    low, high = torch.quantile(means, torch.tensor([0.05, 0.95], dtype=means.dtype))
    return float(low), float(high)


def _interval(values, draw, size=None, low=2.5, high=97.5) -> torch.Tensor:
    picked = torch.randint(len(values), (3 * DRAWS, size or len(values)), generator=draw)
    return values[picked].mean(dim=1).quantile(torch.tensor([low, high], dtype=torch.float64) / 100)


def _apart(a, b, draw) -> torch.Tensor:  # each model's windows drawn by themselves
    means = [
        values[torch.randint(len(values), (3 * DRAWS, len(values)), generator=draw)].mean(dim=1) for values in (a, b)
    ]
    return (means[1] - means[0]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))


def _around(values, reach) -> torch.Tensor:
    return values.mean() + reach * torch.tensor([-1.0, 1.0], dtype=torch.float64)


BOOTSTRAP = {
    "this is the interval as reported: neither fault is mended.": (
        lambda a, b, draw: torch.tensor(reported_interval(a, b, 3 * DRAWS, draw), dtype=torch.float64)
    ),
    "one fault is left: a resample holds other windows for a than for b. Draw numbers once, and use them for both.": (
        _apart
    ),
    "one fault is left: this is a 90% interval, 5 to 95. Of 95%, 2.5% lie outside at each end.": (
        lambda a, b, draw: _interval(b - a, draw, low=5, high=95)
    ),
    "this is the interval of a - b. The difference is b - a.": lambda a, b, draw: _interval(a - b, draw),
    "low and high are swapped.": lambda a, b, draw: _interval(b - a, draw).flip(0),
    "these are percentiles of single values. Resample n values at a time, and take the percentiles of their *means*.": (
        lambda a, b, draw: _interval(b - a, draw, size=1)
    ),
    "these are percentiles of the differences themselves. Resample them, and take percentiles of the *means*.": (
        lambda a, b, draw: (b - a).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    ),
    "this is wider than 95%: 2.5% lie outside at each end.": (
        lambda a, b, draw: _interval(b - a, draw, low=0.5, high=99.5)
    ),
    "this is the mean ± two standard deviations of single values. A mean of n values is surer, by sqrt(n).": (
        lambda a, b, draw: _around(b - a, 2 * (b - a).std())
    ),
    "this is the mean ± 2 standard errors: a formula, and symmetric. Resample, and take percentiles of the means.": (
        lambda a, b, draw: _around(b - a, 2 * (b - a).std() / len(a) ** 0.5)
    ),
    "each resample must have n values, as many as there are: you drew half as many.": (
        lambda a, b, draw: _interval(b - a, draw, size=len(a) // 2)
    ),
    "this is widened for few items, as the package does it. Here, return the percentiles themselves.": (
        lambda a, b, draw: torch.tensor(mean_interval(b - a)[1:], dtype=torch.float64)
    ),
}


def bootstrap(function, evidence, graded: bool = False) -> None:
    """Exercise 06.2: ``evidence()`` shows that ``reported_interval`` is wrong; ``function`` is that, mended.

    evidence gives losses (a, b), (n,) each: b is higher on every window, yet the reported interval contains 0.
    function(a, b, draws, generator) -> (low, high): n windows at a time with replacement, the same for both, ``draws``
    times; the middle 95% of the mean differences, compared with our own within 0.12 standard errors. graded: on more
    samples. AssertionError, naming the mistake. Used in notebook 06, "Exercise 06.2".
    """
    _judge_evidence(evidence)
    draw = torch.Generator().manual_seed(1 if graded else 0)
    pairs = [_pair(15, draw), _pair(32, draw, sign=-1)]
    pairs += [_pair(50, draw), tuple(losses.float() for losses in _pair(9, draw))] if graded else []
    found = [_read(function, pair, draw) for pair in pairs]
    ours = [_interval((b - a).double(), draw) for a, b in pairs]
    if not all(_near(*one) for one in zip(found, ours, strict=True)):
        raise AssertionError(_mistaken_interval(pairs, found, ours, draw))
    again = [_read(function, pairs[0], torch.Generator().manual_seed(5), draws=50) for _ in range(2)]
    if not torch.equal(*again):
        raise AssertionError("two generators of one seed gave two intervals. Take all random numbers from generator.")
    low, high = _read(function, pairs[0], draw, draws=1)
    if not abs(low - high) < 1e-6:
        raise AssertionError("with draws=1 there is one mean, so low and high must be equal. Do you use draws?")
    done("06.2", "the same windows for both models, and the middle 95% of the means", graded)


def _judge_evidence(evidence) -> None:
    a, b = (torch.as_tensor(losses).double() for losses in given_evidence(evidence, 2, "a pair (a, b) of losses"))
    if a.ndim != 1 or a.shape != b.shape or len(a) < 8:
        raise AssertionError(
            f"evidence: expected two tensors (n,), n 8 or more; got {tuple(a.shape)}, {tuple(b.shape)}."
        )
    if not bool((b > a).all()):
        raise AssertionError(
            f"evidence: b is higher than a on {int((b > a).sum())} of {len(a)} windows. Let it be higher on every one, "
            "so that an interval that contains 0 cannot be right."
        )
    low, high = reported_interval(a, b, DRAWS, torch.Generator().manual_seed(3))
    if not low <= 0 <= high:
        raise AssertionError(
            f"evidence: the report says [{low:.3g}, {high:.3g}], without 0, and that is no fault. Let the *windows* "
            "differ from one another far more than the two models do."
        )


def _mistaken_interval(pairs, found, ours, draw) -> str:
    if all(bool((ends[1] - ends[0]).abs() < 1e-6) for ends in found):
        return (
            "the interval has no width: every resample was the same. Draw *with* replacement, so that some come twice."
        )
    if all(bool(ends.max() < (b - a).mean()) for (a, b), ends in zip(pairs, found, strict=True)):
        return (
            "both ends are below the mean. torch.quantile takes fractions (0.025), np.percentile takes per cent (2.5)."
        )
    for said, mistaken in BOOTSTRAP.items():
        cases = zip(pairs, found, strict=True)
        if all(_near(got, mistaken(a.double(), b.double(), draw), 1.5 * TOLERANCE) for (a, b), got in cases):
            return said
    return next(_difference(*one) for one in zip(found, ours, strict=True) if not _near(*one))


def _pair(n: int, draw, sign: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of two models on windows that differ far more than the models; the differences are skewed."""
    a, difference = torch.randn(2, n, generator=draw, dtype=torch.float64)
    return 3 + a, 3 + a + sign * 0.1 * difference.exp()


def _read(function, pair, generator, draws=DRAWS) -> torch.Tensor:
    answer = call(function, *pair, draws, generator)
    return tensor(answer, (2,), "(low, high)").double()


def _near(got, expected, tolerance=TOLERANCE) -> bool:
    return bool(((got - expected).abs() < tolerance * float((expected[1] - expected[0]).abs()) / 3.92).all())


def _difference(got, expected) -> str:
    factor = float((got[1] - got[0]) / (expected[1] - expected[0]))
    text = "expected about ({:.4f}, {:.4f}), got ({:.4f}, {:.4f})".format(*expected.tolist(), *got.tolist())
    if abs(factor - 1) > 0.1:
        text += f", {factor:.2f} times as wide. Has each resample n values, and do 2.5% lie outside at each end?"
    return text if text.endswith("?") else f"{text}. Is it of the means?"
