"""Wrong answers that must be named, and right ones that must pass."""

import math

import numpy as np
import torch
from safetensors.numpy import load_file as load_array
from safetensors.numpy import save_file as save_array
from safetensors.torch import load_file, save_file

from wanda_nb import checks


def run(W, x):
    return x + torch.relu(x @ W.T)


def cut(W, x, sparsity):
    lowest = (W.abs() * x.norm(dim=0)).argsort(dim=1, stable=True)[:, : int(W.shape[1] * sparsity)]
    return W.scatter(1, lowest, 0)


def by_number(source, destination, x, sparsity):
    number = 0
    while (path := source / f"{number}.safetensors").exists():
        new = destination / path.name
        if not new.exists():
            temporary = new.with_suffix(".tmp")
            save_file({"W": cut(load_file(path)["W"], x, sparsity)}, temporary)
            temporary.rename(new)
        x = run(load_file(new)["W"], x)
        number += 1


def in_numpy(source, destination, x, sparsity):
    x = x.numpy().astype(np.float64)
    for path in sorted(source.glob("*.safetensors")):
        if not (destination / path.name).is_file():
            W = load_array(path)["W"].copy()
            lowest = np.argsort(abs(W) * np.sqrt((x**2).sum(axis=0)), axis=1, kind="stable")
            np.put_along_axis(W, lowest[:, : int(W.shape[1] * sparsity)], 0, axis=1)
            save_array({"W": W}, destination / path.name)
        x = x + np.maximum(x @ load_array(destination / path.name)["W"].T, 0)
    return len(list(destination.iterdir()))


def each(source):
    return sorted(source.glob("*.safetensors"))


def dense_handed_on(source, destination, x, sparsity):
    for path in each(source):
        W = load_file(path)["W"]
        if not (destination / path.name).exists():
            save_file({"W": cut(W, x, sparsity)}, destination / path.name)
        x = run(W, x)


def all_by_x(source, destination, x, sparsity):
    for path in each(source):
        if not (destination / path.name).exists():
            save_file({"W": cut(load_file(path)["W"], x, sparsity)}, destination / path.name)


def all_again(source, destination, x, sparsity):
    for path in each(source):
        W = cut(load_file(path)["W"], x, sparsity)
        save_file({"W": W}, destination / path.name)
        x = run(W, x)


def passed_over(source, destination, x, sparsity):
    for path in each(source):
        if (destination / path.name).exists():
            continue
        W = cut(load_file(path)["W"], x, sparsity)
        save_file({"W": W}, destination / path.name)
        x = run(W, x)


def into_the_source(source, destination, x, sparsity):
    for path in each(source):
        W = cut(load_file(path)["W"], x, sparsity)
        save_file({"W": W}, path)
        save_file({"W": W}, destination / path.name)
        x = run(W, x)


def temporary_left(source, destination, x, sparsity):
    by_number(source, destination, x, sparsity)
    (destination / "0.tmp").write_bytes(b"")


def seconds_extra(k, blocks, kills, propagate, save):
    saves = len(range(k, blocks, k))
    return saves * save + kills * propagate * np.mean([finished % k for finished in range(blocks)])


def cheapest(blocks, *times, cost=seconds_extra):
    return int(np.argmin([cost(k, blocks, *times) for k in range(1, blocks + 1)])) + 1


def youngs_rule(blocks, kills, propagate, save):  # a rule of thumb
    return min(blocks, max(1, round(math.sqrt(2 * blocks * save / (kills * propagate)))))


def as_a_tensor(*arguments):
    return torch.tensor(cheapest(*arguments))


def never(*arguments):  # as if all finished blocks were run again, whatever was saved
    def cost(k, blocks, kills, propagate, save):
        return (blocks - 1) // k * save + kills * propagate * (blocks - 1) / 2

    return cheapest(*arguments, cost=cost)


def saving_is_free(*arguments):
    return cheapest(*arguments[:3], 0)


def worst_kill(*arguments):
    def cost(k, blocks, kills, propagate, save):
        return (blocks - 1) // k * save + kills * propagate * (k - 1)

    return cheapest(*arguments, cost=cost)


def one_kill(blocks, kills, propagate, save):
    return cheapest(blocks, 1, propagate, save)


def blocks_not_seconds(blocks, kills, propagate, save):
    return cheapest(blocks, kills, 1, save)


def after_the_last_too(*arguments):
    def cost(k, blocks, kills, propagate, save):
        again = sum(f % k for f in range(blocks)) / blocks
        return blocks // k * save + kills * propagate * again

    return cheapest(*arguments, cost=cost)


def added_up(*arguments):
    def cost(k, blocks, kills, propagate, save):
        return (blocks - 1) // k * save + kills * propagate * sum(f % k for f in range(blocks))

    return cheapest(*arguments, cost=cost)


def saved_for_every_kill(*arguments):
    def cost(k, blocks, kills, propagate, save):
        return kills * ((blocks - 1) // k * save + propagate * sum(f % k for f in range(blocks)) / blocks)

    return cheapest(*arguments, cost=cost)


def how_many_saves(blocks, *times):
    return len(range(cheapest(blocks, *times), blocks, cheapest(blocks, *times)))


def how_many_seconds(*arguments):
    return seconds_extra(cheapest(*arguments), *arguments)


def by_as_many_channels(norms, used):  # as many channels as there are unknowns suffice
    count = len(norms)
    return torch.linalg.solve(norms[:, :count].square().T, used[:count].square())


def in_numpy_too(norms, used):
    return np.linalg.lstsq(norms.numpy().T ** 2, used.numpy() ** 2, rcond=None)[0]


def normal_equations(norms, used):
    squares = norms**2
    return torch.linalg.inv(squares @ squares.T) @ squares @ used**2


def solved(left, right):
    return torch.linalg.lstsq(left.T, right.unsqueeze(1)).solution.squeeze(1)


EXERCISES = {
    "ex11a": {
        "check": checks.prune_folder,
        "right": [by_number, in_numpy],
        "wrong": [
            (dense_handed_on, "while still dense"),
            (all_by_x, "judged by x, the input of the first"),
            (all_again, "you pruned finished blocks again"),
            (passed_over, "without running them"),
            (into_the_source, "the source was changed"),
            (temporary_left, "expected in the destination"),
        ],
    },
    "ex11b": {
        "check": checks.save_every,
        "right": [cheapest, youngs_rule, as_a_tensor],
        "wrong": [
            (never, "you never save"),
            (saving_is_free, "you save after every block"),
            (worst_kill, "you took the worst kill"),
            (one_kill, "you reckoned with one kill"),
            (blocks_not_seconds, "you counted blocks as seconds"),
            (after_the_last_too, "after the last block, too"),
            (added_up, "Divide by `blocks`"),
            (saved_for_every_kill, "or save anew for every kill"),
            (how_many_saves, "this is how often to save"),
            (how_many_seconds, "these are the seconds"),
            (lambda *arguments: cheapest(*arguments) + 0.5, "expected 4, got 4.5"),
            (lambda *arguments: "often", "expected a tensor"),
        ],
    },
    "ex11c": {
        "check": checks.times_counted,
        "right": [by_as_many_channels, in_numpy_too, normal_equations],
        "wrong": [
            (solved, "norms do not add up"),
            (lambda norms, used: solved(norms**2, used), "but not those that the run used"),
            (lambda norms, used: solved(norms, used**2), "but not those of the processes"),
            (lambda norms, used: normal_equations(norms, used) > 0.01, "Say how often: twice is a fault"),
            (lambda norms, used: normal_equations(norms, used).round(), "you rounded to whole numbers"),
            (lambda norms, used: normal_equations(norms, used).softmax(0) * 0 + 1, "every process was counted once"),
            (lambda n, used: normal_equations(n, used) / normal_equations(n, used).sum(), "you gave shares"),
            (lambda norms, used: normal_equations(norms, used) - 1, "how far each count is from 1"),
            (lambda norms, used: ((used / norms) ** 2).mean(dim=1), "each process alone with the run"),
            (lambda norms, used: normal_equations(norms, used).relu().sqrt(), "roots of the counts"),
        ],
    },
}
