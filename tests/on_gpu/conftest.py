"""Tests on a pretended GPU. Its hooks are process-wide, so they run in a process of their own: see test_on_gpu.py."""

import gc

import accelerate.utils.imports
import pretended_gpu
import pytest
import torch
import transformers.utils.import_utils
from package import replaced
from torch.nn.attention import SDPBackend, sdpa_kernel

torch.set_num_threads(1)  # the models are tiny
gc.freeze()  # imports are here to stay: gc.collect() need not look at them


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch):
    """The CPU takes the GPU's kernels, and nobody measures how fast the pretended GPU is."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with sdpa_kernel(SDPBackend.MATH), replaced("matmul_rate", lambda *_: 1e12):
        yield


@pytest.fixture
def gpu(request):
    """A pretended GPU that is on during the test; "cuda" unless the test says otherwise."""
    with pretended_gpu.device(getattr(request, "param", "cuda")) as gpu:
        forget_devices()
        yield gpu
    forget_devices()


def forget_devices():
    """accelerate and transformers remember which devices there are."""
    for module in (accelerate.utils.imports, transformers.utils.import_utils):
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
