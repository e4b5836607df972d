"""The machine: 2:4 refused where there are no kernels, how fast it multiplies."""

import pytest
import torch
from tiny import tiny_model

import wanda_nb as wn
from wanda_nb import hardware
from wanda_nb.masks import is_nm


def test_refused_clearly_on_a_cpu():
    model = tiny_model()
    with pytest.raises(RuntimeError, match=r"No 2:4 kernels on this device \(cpu\): expected .* capability 8.0"):
        hardware.use_sparse_kernels(model)


def test_refused_clearly_on_an_older_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(RuntimeError, match=r"\(Tesla T4, compute capability 7.5\)"):
        hardware.check_sparse_kernels(torch.device("cuda"))


def test_refused_clearly_on_an_amd_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (11, 0))  # of another kind of numbers
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(RuntimeError, match=r"\(cuda\): expected an NVIDIA GPU"):
        hardware.check_sparse_kernels(torch.device("cuda"))


def test_layers_that_do_not_fit_are_named(monkeypatch, tokens):
    monkeypatch.setattr(hardware, "check_sparse_kernels", lambda _: None)
    with pytest.raises(ValueError, match=r"self_attn.q_proj is torch.float32: .* convert first"):
        hardware.use_sparse_kernels(tiny_model())
    with pytest.raises(ValueError, match=r"self_attn.q_proj is not 2:4"):
        hardware.use_sparse_kernels(tiny_model(dtype=torch.float16))
    with pytest.raises(ValueError, match="Conv1D, which keeps weights transposed"):
        hardware.use_sparse_kernels(tiny_model("gpt2"))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
def test_is_nm(n, m, tokens):
    model = tiny_model()
    wn.prune(model, tokens, pattern=f"{n}:{m}")
    W = model.model.layers[2].mlp.down_proj.weight
    assert is_nm(W, n, m)
    assert not is_nm(tiny_model().model.layers[2].mlp.down_proj.weight, n, m)
    assert not is_nm(torch.zeros(4, 10), 2, 4)


def test_paired_seconds_calls_in_turn():
    calls = []
    a, b = hardware.paired_seconds(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3)
    assert "".join(calls) == "abababab" and len(a) == len(b) == 3
    assert hardware.median_ratio([1.0, 2.0, 9.0], [2.0, 2.0, 3.0]) == 1.0


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 8, reason="needs sparse tensor cores"
)
def test_sparse_kernels_give_the_same_outputs():
    config = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    model = tiny_model(dtype=torch.float16, **config).cuda()
    tokens = torch.randint(3, 96, (4, 64), device="cuda")
    wn.prune(model, tokens, pattern="2:4")
    before = model(input_ids=tokens).logits
    assert hardware.use_sparse_kernels(model) == 21
    torch.testing.assert_close(model(input_ids=tokens).logits, before, rtol=0.05, atol=0.05)


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
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: machine.now)
    found = hardware.matmul_rate.__wrapped__(torch.device("cpu"), torch.float32)
    assert found == pytest.approx(rate)
    assert machine.now <= 0.35 and 128 <= max(machine.sizes) <= 2048
    assert 2 * (2 * max(machine.sizes)) ** 3 / rate > 0.05 or max(machine.sizes) == 2048  # as large as time allows


def test_a_rate_is_measured_once():
    first, again = (hardware.matmul_rate(torch.device("cpu"), torch.float32) for _ in range(2))
    assert first == again > 1e8
