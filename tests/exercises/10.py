"""Wrong answers that must be named, and right ones that must pass."""

import math
import random

import numpy as np
import torch

from wanda_nb import checks


def in_logarithms(ours, published, tolerance):
    apart = (ours.log() - published.log()).abs()
    verdict = (apart <= math.log1p(tolerance)).int()
    verdict[apart.isnan()] = -1
    return verdict


def row_by_row(ours, published, tolerance):
    verdicts = []
    for a, b in zip(ours.tolist(), published.tolist(), strict=True):
        if math.isnan(a) or math.isnan(b):
            verdicts.append(-1)
        else:
            verdicts.append(int(max(a, b) / min(a, b) <= 1 + tolerance))
    return verdicts


def with_numpy(ours, published, tolerance):
    ours, published = ours.numpy(), published.numpy()
    inside = (published / (1 + tolerance) <= ours) & (ours <= published * (1 + tolerance))
    return np.where(np.isnan(ours + published), -1, inside)


def linear(ours, published, tolerance):
    found = torch.where((ours - published).abs() / published <= tolerance, 1, 0)
    found[torch.isnan(ours) | torch.isnan(published)] = -1
    return found


def relative_to_ours(ours, published, tolerance):
    found = ((ours - published).abs() <= tolerance * ours).int()
    return found.masked_fill((ours + published).isnan(), -1)


def difference(ours, published, tolerance):
    found = ((ours - published).abs() <= tolerance).int()
    return found.masked_fill((ours + published).isnan(), -1)


def only_above(ours, published, tolerance):
    found = (ours / published <= 1 + tolerance).int()
    return found.masked_fill((ours + published).isnan(), -1)


def missing_is_no(ours, published, tolerance):
    return ((ours <= published * (1 + tolerance)) & (ours >= published / (1 + tolerance))).int()


def missing_is_yes(ours, published, tolerance):
    return 1 - ((ours > published * (1 + tolerance)) | (ours < published / (1 + tolerance))).int()


def ends_left_out(ours, published, tolerance):
    found = ((ours < published * (1 + tolerance)) & (ours > published / (1 + tolerance))).int()
    return found.masked_fill((ours + published).isnan(), -1)


def logarithms_divided(ours, published, tolerance):
    found = ((ours.log() / published.log() - 1).abs() <= tolerance).int()
    return found.masked_fill((ours + published).isnan(), -1)


def nats(ours, published, tolerance):
    found = ((ours.log() - published.log()).abs() <= tolerance).int()
    return found.masked_fill((ours + published).isnan(), -1)


def forgot(ours, published, tolerance):
    in_logarithms(ours, published, tolerance)


def with_randrange(lengths, samples, length, seed):
    draw = random.Random(seed)
    pairs = []
    for _ in range(samples):
        document = draw.randrange(len(lengths))
        while lengths[document] <= length:
            document = draw.randrange(len(lengths))
        pairs.append((document, draw.randrange(lengths[document] - length)))
    return pairs


def with_the_global_generator(lengths, samples, length, seed):
    random.seed(seed)
    pairs = []
    while len(pairs) < samples:
        document = random.randint(0, len(lengths) - 1)
        if lengths[document] > length:
            pairs.append([document, random.randint(0, lengths[document] - length - 1)])
    return np.array(pairs)


def new_generator(lengths, samples, length, seed):
    pairs = []
    for _ in range(samples):
        draw = random.Random(seed)
        document = draw.randrange(len(lengths))
        while lengths[document] <= length:
            document = draw.randrange(len(lengths))
        pairs.append((document, draw.randrange(lengths[document] - length)))
    return pairs


def new_generator_each_draw(lengths, samples, length, seed):
    pairs = []
    while len(pairs) < samples:
        document = random.Random(seed).randrange(len(lengths) - 3)
        if lengths[document] > 100:
            pairs.append((document, 0))
    return pairs


def one_document_too_many(lengths, samples, length, seed):
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < samples:
        document = draw.randint(0, len(lengths))
        if lengths[document] > length:
            pairs.append((document, draw.randint(0, lengths[document] - length - 1)))
    return pairs


def one_start_too_many(lengths, samples, length, seed):
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < samples:
        document = draw.randrange(len(lengths))
        if lengths[document] > length:
            pairs.append((document, draw.randrange(lengths[document] - length + 1)))
    return pairs


def at_least_as_long(lengths, samples, length, seed):
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < samples:
        document = draw.randrange(len(lengths))
        if lengths[document] >= length:
            pairs.append((document, draw.randrange(lengths[document] - length + 1)))
    return pairs


def without_replacement(lengths, samples, length, seed):
    draw = random.Random(seed)
    pairs, used = [], set()
    while len(pairs) < samples:
        document = draw.randrange(len(lengths))
        if lengths[document] > length and document not in used:
            used.add(document)
            pairs.append((document, draw.randrange(lengths[document] - length)))
    return pairs


def among_the_long(lengths, samples, length, seed):
    draw = random.Random(seed)
    long = [document for document in range(len(lengths)) if lengths[document] > length]
    pairs = []
    for _ in range(samples):
        document = long[draw.randrange(len(long))]
        pairs.append((document, draw.randrange(lengths[document] - length)))
    return pairs


def documents_first(lengths, samples, length, seed):
    draw = random.Random(seed)
    documents = []
    while len(documents) < samples:
        document = draw.randrange(len(lengths))
        if lengths[document] > length:
            documents.append(document)
    return [(document, draw.randrange(lengths[document] - length)) for document in documents]


def two_generators(lengths, samples, length, seed):
    a, b = random.Random(seed), random.Random(seed)
    pairs = []
    while len(pairs) < samples:
        document = a.randrange(len(lengths))
        if lengths[document] > length:
            pairs.append((document, b.randrange(lengths[document] - length)))
    return pairs


def from_the_start(lengths, samples, length, seed):
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < samples:
        document = draw.randrange(len(lengths))
        if lengths[document] > length:
            pairs.append((document, 0))
    return pairs


def swapped(lengths, samples, length, seed):
    return [(start, document) for document, start in with_randrange(lengths, samples, length, seed)]


EXERCISES = {
    "ex10a": {
        "check": checks.reproduced,
        "right": [in_logarithms, row_by_row, with_numpy],
        "wrong": [
            (linear, "further down than up"),
            (relative_to_ours, "relative to ours"),
            (difference, "the difference of the perplexities"),
            (only_above, "ends only above"),
            (missing_is_no, "not a failure"),
            (missing_is_yes, "not a success"),
            (ends_left_out, "<= and not <"),
            (logarithms_divided, "quotient of the two logarithms"),
            (nats, "is its logarithm"),
            (forgot, "Does it end with a return"),
        ],
    },
    "ex10b": {
        "check": checks.published_starts,
        "right": [with_randrange, with_the_global_generator],
        "wrong": [
            (new_generator, "a new generator for each"),
            (new_generator_each_draw, "this draw never ends"),
            (one_document_too_many, "both of its ends"),
            (one_start_too_many, "one too far"),
            (at_least_as_long, "exactly the window's length"),
            (without_replacement, "no document served twice"),
            (among_the_long, "among the long documents only"),
            (documents_first, "all documents first"),
            (two_generators, "one generator for documents"),
            (from_the_start, "all starts are 0"),
            (swapped, "in this order"),
        ],
    },
}
