"""Masks written the slow, obvious way: Python lists, sorted(), no tensor operations but for ``stable_sort``."""

import math

import torch


def lowest(scores, count):
    """Positions of the count lowest scores; among equals the earlier goes first, as sorted() is stable."""
    return set(sorted(range(len(scores)), key=lambda position: scores[position])[:count])


def prune_mask(score, sparsity, group):
    rows, columns = len(score), len(score[0])
    if group == "output":
        gone = {(i, j) for i in range(rows) for j in lowest(score[i], math.floor(columns * sparsity))}
    elif group == "input":
        gone = set()
        for j in range(columns):
            column = [score[i][j] for i in range(rows)]
            gone |= {(i, j) for i in lowest(column, math.floor(rows * sparsity))}
    else:
        flat = [score[i][j] for i in range(rows) for j in range(columns)]
        gone = {divmod(position, columns) for position in lowest(flat, math.floor(rows * columns * sparsity))}
    return [[(i, j) in gone for j in range(columns)] for i in range(rows)]


def nm_mask(score, n, m):
    mask = []
    for row in score:
        gone = set()
        for start in range(0, len(row), m):
            gone |= {start + j for j in lowest(row[start : start + m], m - n)}
        mask.append([j in gone for j in range(len(row))])
    return mask


def stable_sort(score, count):
    """The oracle for sizes that Python's lists are too slow for: the first count of a stable sort of each row."""
    order = score.sort(dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)
