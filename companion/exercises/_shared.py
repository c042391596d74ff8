"""What the checks of several chapters share: answers compared, small networks, named slips."""

import torch
from torch import nn

from companion.exercises import NotAttempted


def near(answer, value):
    """Whether both are the same, in shape, too, up to rounding in float32."""
    answer, value = torch.as_tensor(answer).double(), torch.as_tensor(value).double()
    return answer.shape == value.shape and torch.allclose(answer, value, atol=1e-6)


def refuse(answer, mistakes):
    """Say what is wrong with an answer that equals one of the mistakes, ``[(value, hint)]``."""
    for mistake, hint in mistakes:
        assert not near(answer, mistake), hint


def two_parts(answer, what):
    """The two parts of an answer, as tensors."""
    several = answer.dim() > 0 if torch.is_tensor(answer) else hasattr(answer, "__len__")
    count = len(answer) if several else 1
    assert count == 2, f"two parts, {what}, not {count}"
    return [torch.as_tensor(part) for part in answer]


def shape_of(answer):
    return tuple(answer.shape)


def joined(tensors):
    """All numbers of several tensors in a row."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def small_network(inputs, outputs):
    """A small smooth network in float64 with parameters drawn at random, always the same."""
    network = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs)).double()
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def assert_named(answer, keys, names):
    """Whether a dictionary gives each of the keys one of the names."""
    assert isinstance(answer, dict), "a dictionary is wanted"
    if all(name is ... or name is None for name in answer.values()):
        raise NotAttempted
    unknown = answer.keys() - keys
    assert not unknown, f"there is no {min(unknown, key=str)!r}: {', '.join(keys)}"
    for key in keys:
        assert answer.get(key) not in (None, ...), f"{key!r} is still open"
        assert answer[key] in names, f"there is no {answer[key]!r}: {', '.join(names)}"
