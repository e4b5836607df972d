import pytest
import torch
from tiny import tiny_model

collect_ignore = ["on_gpu"]  # in a process of its own: see test_on_gpu.py


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def tokens():
    return torch.randint(3, 96, (6, 12), generator=torch.Generator().manual_seed(1))
