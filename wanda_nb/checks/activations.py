"""Checks of notebook 01: the norm of every input channel, over the right tokens, and the channels that stand out."""

from __future__ import annotations

import weakref

import torch

from .core import call, done, judge, same, tensor

IN_16_BIT = torch.tensor([1.0, 1.0625, 0.5, 3.0])  # exact in bfloat16, but 400 of their squares are not
OVERFLOW = torch.tensor([300.0, 1.0, 0.5, 0.0])  # fits into float16; 300² does not


def _streaming_norm(batches):
    return torch.cat(batches).norm(dim=0)


STREAMING_NORM = {
    "you took the norm of each token. One number for each input channel is asked: sum over the tokens, dim=0.": (
        lambda batches: torch.cat(batches).norm(dim=1)
    ),
    "you returned the squared norm. Take the root, once, at the end.": (
        lambda batches: torch.cat(batches).square().sum(dim=0)
    ),
    "you divided by the number of tokens, a mean. A norm is the root of the sum of squares.": (
        lambda batches: torch.cat(batches).square().mean(dim=0).sqrt()
    ),
    "you took a mean within each batch. A norm is the root of the sum of squares, over all batches.": (
        lambda batches: sum(X.square().mean(dim=0) for X in batches).sqrt()
    ),
    "you added absolute values. The L2 norm is the root of the sum of squares.": (
        lambda batches: torch.cat(batches).abs().sum(dim=0)
    ),
    "you added the norms of the batches. Add their squares, and take the root once, at the end.": (
        lambda batches: sum(X.norm(dim=0) for X in batches)
    ),
    "you took the mean of the batches' norms. Add their squares, and take the root once, at the end.": (
        lambda batches: sum(X.norm(dim=0) for X in batches) / len(batches)
    ),
    "only the last batch counts in your norm. Add the squares of all, outside of what the loop overwrites.": (
        lambda batches: batches[-1].norm(dim=0)
    ),
    "only the first batch counts in your norm. Does a return stand inside the loop?": (
        lambda batches: batches[0].norm(dim=0)
    ),
}


def streaming_norm(function, graded: bool = False) -> None:
    """Exercise 01.1: ``function(batches)`` gives the norm (in,) of every input channel over all batches X (tokens, in).

    batches may be a list or a generator, of different lengths; no more than a few may be held at once. graded: on more
    cases. AssertionError, naming the mistake. Used in notebook 01, "Exercise 01.1".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    batches = [torch.randn(tokens, 5, generator=draw) for tokens in (3, 1, 8)]
    judge(function, [([torch.randn(4, 4, generator=draw)],)], _streaming_norm, STREAMING_NORM)
    judge(function, [(batches,)], _streaming_norm, STREAMING_NORM)
    if graded:
        empty = [torch.zeros(0, 5), *batches, torch.zeros(2, 5)]
        judge(function, [(empty,), ([X.double() for X in batches],)], _streaming_norm, STREAMING_NORM)
        _in_16_bit(function, [OVERFLOW.half().repeat(4, 1)] * 4, expected=4 * OVERFLOW)
    _in_16_bit(function, [IN_16_BIT.bfloat16()[None]] * 400, expected=20 * IN_16_BIT)
    _one_at_a_time(function, batches * 4)
    done("01.1", "the root of all the squares, one batch at a time", graded)


def _in_16_bit(function, *arguments, expected) -> None:
    got = tensor(call(function, *arguments), tuple(expected.shape), "with X in 16 bit")
    if not same(got, expected):
        raise AssertionError(
            f"with X in 16 bit expected {expected.tolist()}, got {got.tolist()}: you squared or added in 16 bit, where "
            "squares overflow and long sums stop growing. Square and add in float32."
        )


def _one_at_a_time(function, batches) -> None:
    seen, most = [], 0

    def stream():
        nonlocal most
        for X in batches:
            X = X.clone()
            seen.append(weakref.ref(X))
            most = max(most, sum(one() is not None for one in seen))
            yield X

    got = tensor(call(function, stream()), (batches[0].shape[1],), "with a generator of batches")
    if most > 3:
        raise AssertionError(
            f"you held {most} of {len(batches)} batches at once. Add the squares of a batch, then let it go: "
            "together they may not fit into memory."
        )
    if not same(got, _streaming_norm(batches)):
        raise AssertionError("a list of batches is right, a generator of the same is not. Go through `batches` once.")


def _masked_norm(X, attention_mask):
    return X[attention_mask.bool()].norm(dim=0)


def _zeroed(X, mask):
    return X * mask[..., None]


MASKED_NORM = {
    "you counted the padding. Only tokens whose mask is 1 are real.": lambda X, mask: X.flatten(0, 1).norm(dim=0),
    "upside down: you counted the padding and left out the real tokens. In the mask 1 is real.": (
        lambda X, mask: X[mask == 0].norm(dim=0)
    ),
    "you masked channels. The mask (samples, length) says which tokens are real: it needs a last axis, "
    "mask[..., None], to meet X (samples, length, in).": lambda X, mask: (X * mask[:, None]).flatten(0, 1).norm(dim=0),
    "you multiplied by the mask as it is, which meets the last axes of X, (length, in). It needs a last axis, "
    "mask[..., None], to meet X (samples, length, in).": lambda X, mask: (X * mask).flatten(0, 1).norm(dim=0),
    "you masked with samples and length swapped. The mask is (samples, length), as the first two axes of X.": (
        lambda X, mask: _zeroed(X, mask.T).flatten(0, 1).norm(dim=0)
    ),
    "you left out every sample that has padding. Its real tokens count.": (
        lambda X, mask: X[mask.bool().all(dim=1)].flatten(0, 1).norm(dim=0)
    ),
    "`X[attention_mask]` with whole numbers picks sample 0 or 1. As a mask it must be bool: attention_mask.bool().": (
        lambda X, mask: X[mask.long()].flatten(0, 2).norm(dim=0)
    ),
    "you returned the squared norm. Take the root.": lambda X, mask: X[mask.bool()].square().sum(dim=0),
    "you divided by the number of real tokens, a mean. A norm is the root of the sum of squares.": (
        lambda X, mask: X[mask.bool()].square().mean(dim=0).sqrt()
    ),
    "you took the mean of |x|. The L2 norm is the root of the sum of squares.": (
        lambda X, mask: X[mask.bool()].abs().mean(dim=0)
    ),
    "you added absolute values. The L2 norm is the root of the sum of squares.": (
        lambda X, mask: X[mask.bool()].abs().sum(dim=0)
    ),
    "you divided by the number of positions, a mean. A norm is the root of the sum of squares.": (
        lambda X, mask: _zeroed(X, mask).square().mean(dim=(0, 1)).sqrt()
    ),
    "you added the norms of the samples. Add their squares, and take the root once, at the end.": (
        lambda X, mask: _zeroed(X, mask).norm(dim=1).sum(dim=0)
    ),
}


def masked_norm(function, graded: bool = False) -> None:
    """Exercise 01.2: ``function(X, attention_mask)`` gives the norm (in,) of every input channel over real tokens.

    X (samples, length, in); attention_mask (samples, length), 0 for padding, on either side. graded: on more cases.
    AssertionError, naming the mistake. Used in notebook 01, "Exercise 01.2".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1]])
    cases = [(torch.randn(3, 3, 3, generator=draw), mask)]  # a cube: every axis can be taken for another
    judge(function, cases, _masked_norm, MASKED_NORM)
    cases += [(torch.randn(2, 5, 4, generator=draw), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]))]
    if graded:
        ragged = torch.arange(7) < torch.tensor([[7], [0], [3], [1]])  # one sample is padding only
        cases += [(torch.randn(4, 7, 6, generator=draw), kind) for kind in (ragged, ragged.float(), ragged.flip(1))]
        cases += [(torch.randn(4, 7, 6, generator=draw, dtype=torch.float64), ragged.long())]
    judge(function, cases, _masked_norm, MASKED_NORM)
    if graded:
        _in_16_bit(function, OVERFLOW.half().repeat(2, 8, 1), torch.ones(2, 8).long(), expected=4 * OVERFLOW)
    real = (torch.arange(120) < 100).long().repeat(4, 1)
    _in_16_bit(function, IN_16_BIT.bfloat16().repeat(4, 120, 1), real, expected=20 * IN_16_BIT)
    done("01.2", "only real tokens count", graded)


def _outliers(norm, factor):
    order = norm.argsort(descending=True)
    return order[norm[order] > factor * norm.median()]


OUTLIERS = {
    "you compared with the mean. A few loud channels lift the mean itself; compare with the median.": (
        lambda norm, factor: _above(norm, factor * norm.mean())
    ),
    "you compared squared norms. It is the norm that must be more than factor times the median.": (
        lambda norm, factor: _above(norm.square(), factor * norm.square().median())
    ),
    "you compared with the factor itself. The norm must be more than factor times the median.": (
        lambda norm, factor: _above(norm, factor)
    ),
    "`>=`: a channel of exactly factor times the median is no outlier. Its norm must be more.": (
        lambda norm, factor: _above(norm, factor * norm.median(), torch.ge)
    ),
    "you listed the channels by number. The loudest must come first.": (
        lambda norm, factor: _outliers(norm, factor).sort().values
    ),
    "you listed the loudest last. The loudest must come first.": lambda norm, factor: _outliers(norm, factor).flip(0),
    "you returned places among the outliers. The numbers of the channels in norm are asked.": (
        lambda norm, factor: norm[norm > factor * norm.median()].argsort(descending=True)
    ),
} | {
    f"you took the {k} loudest. How many there are depends on the threshold; it may be none.": (
        lambda norm, factor, k=k: norm.argsort(descending=True)[:k]
    )
    for k in range(1, 10)
}


def _above(values, threshold, more=torch.gt):
    order = values.argsort(descending=True)
    return order[more(values[order], threshold)]


def _channels(answer, width: int) -> list[int]:
    try:
        channels = torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"expected the numbers of channels, a LongTensor, got {type(answer).__name__}.") from None
    if channels.ndim != 1 or channels.dtype == torch.bool or len(channels) > width:
        said = f"{channels.dtype} {tuple(channels.shape)}"
        raise AssertionError(f"expected the numbers of channels, a LongTensor (how many,), got {said}.")
    if len(channels) and channels.is_floating_point():
        raise AssertionError("expected the numbers of channels, a LongTensor; yours are not whole. Are they norms?")
    return channels.tolist()


def outliers(function, graded: bool = False) -> None:
    """Exercise 01.3: ``function(norm, factor)`` lists the channels louder than factor times the median, loudest first.

    norm (in,), factor a number -> LongTensor (how many,). graded: on more cases. AssertionError, naming the mistake.
    Used in notebook 01, "Exercise 01.3".
    """
    draw = torch.Generator().manual_seed(1 if graded else 0)
    plain = 1 + torch.rand(11, generator=draw)  # median between 1 and 2: nothing above 2
    towers = plain.clone()
    towers[torch.tensor([2, 7, 8])] = torch.tensor([9.0, 40.0, 15.0])
    exact = torch.tensor([2.0, 8, 1, 2, 30, 2, 9, 1, 2, 3, 2])  # median 2: 8 is exactly four times as much
    cases = [(towers, 4), (exact, 4), (plain, 4), (torch.tensor([0.5, 0.1, 0.1, 0.3, 0.1, 0.1, 0.2]), 2.5)]
    if graded:
        loud = torch.rand(301, generator=draw).pow(-2)  # a long tail
        cases += [(loud, 2.5), (loud.double(), 100.0), (torch.tensor([0.0, 1, 0, 1.1, 0.9, 7, 1, 0, 1, 5]), 3)]
    expected = [_outliers(*case).tolist() for case in cases]
    answers = [_channels(call(function, *case), len(case[0])) for case in cases]
    if answers != expected:
        for said, mistaken in OUTLIERS.items():
            if answers == [mistaken(*case).tolist() for case in cases]:
                raise AssertionError(said)
        right, got, (norm, factor) = next(
            (right, got, case) for right, got, case in zip(expected, answers, cases, strict=True) if got != right
        )
        raise AssertionError(f"norm {tuple(norm.shape)}, factor {factor}: expected channels {right}, got {got}.")
    done("01.3", "above factor times the median, loudest first", graded)
