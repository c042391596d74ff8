"""What all tests share: one torch thread, and random numbers that do not leak between tests."""

import pytest
import torch

torch.set_num_threads(1)  # parallel workers of several threads each slow one another down


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def rng():
    """A generator of its own for each test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def float64():
    """float64 as torch's default type, for exact comparisons."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(previous)
