"""How fast a machine multiplies: found in a fraction of a second, however slow it is."""

import pytest
import torch

from wanda_nb.reporting import progress


class SlowMachine:
    """Time as a machine of so many operations a second would take it; its first product takes `start` seconds more."""

    def __init__(self, rate: float, start: float = 0.0):
        self.rate, self.start, self.now, self.sizes = rate, start, 0.0, []

    def product(self, a):
        self.sizes.append(len(a))
        self.now += 2 * len(a) ** 3 / self.rate + (self.start if len(self.sizes) == 1 else 0.0)


@pytest.mark.parametrize("rate", [1e8, 4e8, 1e10, 5e10, 1e12])
def test_the_rate_is_found_in_a_fraction_of_a_second(rate, monkeypatch):
    """Float16 on one thread of a CPU reached 4e8; four products of 1536 rows took 70 s."""
    machine = SlowMachine(rate, start=0.05)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: machine.product(a))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: machine.now)
    found = progress.matmul_rate.__wrapped__(torch.device("cpu"), torch.float32)
    assert found == pytest.approx(rate)
    assert machine.now <= 0.35 and 128 <= max(machine.sizes) <= 2048
    assert 2 * (2 * max(machine.sizes)) ** 3 / rate > 0.05 or max(machine.sizes) == 2048  # as large as time allows


def test_a_rate_is_measured_once():
    first, again = (progress.matmul_rate(torch.device("cpu"), torch.float32) for _ in range(2))
    assert first == again > 1e8
