"""Devices by name on a machine that may have none but the CPU; for those there are, see on_gpu/test_any_device.py."""

import pytest
import torch

from wanda_nb import device


@pytest.mark.parametrize("name", ["foo", "", "hpu", "hip", "vulkan", "privateuseone", "meta", None, 99])
def test_what_is_not_there_is_said_in_one_line(name):
    with pytest.raises(
        ValueError, match=r"^device='.*' is not usable here: expected cpu.*, or auto for the best"
    ) as said:
        device.usable_device(name)
    assert repr(str(name)) in str(said.value) and len(str(said.value).splitlines()) == 1


def test_the_cpu_is_always_there():
    cpu = device.usable_device("cpu")
    assert cpu == torch.device("cpu") and device.streams(cpu) is None
    assert device.device_name(cpu) == f"CPU, {torch.get_num_threads()} threads"
    device.wait_for(cpu)
    device.check_dtypes({torch.float64}, cpu)
    if not torch.accelerator.is_available():
        assert device.usable_device("auto") == cpu


def test_a_build_for_a_gpu_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch._C, "_accelerator_getAccelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.best_device() == device.usable_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_the_dtype_is_one_the_device_has(monkeypatch, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    assert device.native_dtype(torch.device("cuda")) is expected
    assert device.native_dtype(torch.device("mps")) is torch.float16
    assert device.native_dtype(torch.device("cpu")) is torch.float32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mps", "The operator 'aten::foo.out' is not currently implemented for the MPS device."),
        ("xpu", "Could not run 'aten::foo.out' with arguments from the 'XPU' backend."),
    ],
)
def test_a_missing_operator_is_named(name, said):
    refused = pytest.raises(ValueError, match=rf"^{name} lacks the operator aten::foo.out: expected")
    with refused as raised, device.missing_operators_named(torch.device(name)):
        raise NotImplementedError(said)
    assert ("PYTORCH_ENABLE_MPS_FALLBACK=1" in str(raised.value)) == (name == "mps")


@pytest.mark.parametrize(("name", "said"), [("xpu", "my score"), ("cpu", "Could not run 'aten::foo' on 'Meta'")])
def test_what_is_no_missing_operator_is_left_as_it_is(name, said):
    with pytest.raises(NotImplementedError, match=said), device.missing_operators_named(torch.device(name)):
        raise NotImplementedError(said)
