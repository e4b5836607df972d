import pytest
import torch

import wanda_nb as wn


@pytest.fixture
def pruned(model, tokens):
    wn.prune(model, tokens)
    return model


@pytest.fixture
def text():
    return torch.randint(3, 96, (24, 12), generator=torch.Generator().manual_seed(5))
