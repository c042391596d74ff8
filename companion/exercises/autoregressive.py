"""Self-checks of the exercises of book/autoregressive-models.ipynb."""

import torch
import torch.nn.functional as F

from companion.autoregressive import FVSBN, MADE
from companion.checks import all_binary, sampling_p_value
from companion.exercises import exercise


@exercise("ex-window-parameters")
def check_window_parameters(count):
    """``count(D, n)``: the parameters of tables that look n entries back."""
    assert count(5, 0) == 5, "with no window every entry is on its own: D probabilities"
    assert count(5, 4) == 2**5 - 1, "the widest window is the full joint: 2^D - 1"
    assert count(5, 1) == 9, "a Markov chain over 5 entries has 9: the first entry sees nothing"
    for D in range(1, 9):
        for n in range(D):
            expected = sum(2 ** min(i, n) for i in range(D))
            assert count(D, n) == expected, f"count({D}, {n}) is {count(D, n)}, not {expected}"


@exercise("ex-log-likelihood")
def check_log_likelihood(log_likelihood):
    """``log_likelihood(x, logits)``: ``(B, D), (B, D) -> (B,)``, nats."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    x = (torch.rand(7, 5, generator=generator) < 0.5).double()
    expected = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    answer = log_likelihood(x, logits)
    assert answer.shape == (7,), f"one number per example: shape (7,), not {tuple(answer.shape)}"
    assert not torch.allclose(answer, -expected), "the sign is turned round"
    assert not torch.allclose(answer, expected / 5), "sum over the entries, do not average"
    assert not torch.allclose(
        answer, -F.binary_cross_entropy_with_logits(logits.sigmoid(), x, reduction="none").sum(-1)
    ), "the sigmoid is applied twice"
    assert torch.allclose(answer, expected), "the values are not the log-likelihoods"
    extreme = log_likelihood(torch.ones(1, 1), torch.tensor([[-200.0]]))
    assert torch.allclose(extreme, torch.tensor([-200.0])), (
        "at a logit of -200 the answer should be -200: the logarithm of a sigmoid that has "
        "rounded to zero is lost; use the form without a sigmoid"
    )
    large = log_likelihood(torch.ones(1, 1), torch.tensor([[200.0]]))
    assert torch.allclose(large, torch.zeros(1)), (
        "at a logit of 200 the answer should be 0: the exponential of the logit has overflowed"
    )


@exercise("ex-order-mask")
def check_order_mask(mask):
    """``mask(order)``: ``(D,) -> (D, D)``, entry (i, j): may pixel i see pixel j?"""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        order = torch.randperm(6, generator=generator)
        answer = torch.as_tensor(mask(order)).bool()
        expected = FVSBN(6, order).layer.mask[0].bool()
        assert answer.shape == (6, 6), f"shape (6, 6), not {tuple(answer.shape)}"
        assert not answer.diagonal().any(), "a pixel must not see itself"
        assert not torch.equal(answer, expected.T), "rows see, columns are seen: transpose it"
        assert torch.equal(answer, expected), (
            "order[i] is the pixel that comes i-th; what counts is each pixel's place in the order"
        )


@exercise("ex-made-masks")
def check_made_masks(masks):
    """``masks(degrees, D)``: both masks of a MADE with one hidden layer, (H, D) and (D, H)."""
    D = 6
    degrees = torch.tensor([1, 1, 2, 3, 3, 4, 5, 5])
    into, out = (torch.as_tensor(mask).double() for mask in masks(degrees, D))
    H = len(degrees)
    assert into.shape == (H, D), f"the first mask has shape {(H, D)}, not {tuple(into.shape)}"
    assert out.shape == (D, H), f"the second mask has shape {(D, H)}, not {tuple(out.shape)}"
    paths = out @ into
    assert not paths.diagonal().any(), "there is a path from a pixel to itself: the model cheats"
    assert not paths.triu().any(), "there is a path from a later pixel to an earlier one"
    assert (paths.tril(-1) > 0).sum() == D * (D - 1) // 2, (
        "no path cheats, but some earlier pixel no longer reaches a later one: too much is masked"
    )
    assert torch.equal(into, (degrees[:, None] >= torch.arange(1, D + 1)).double()), (
        "a unit of degree m sees the first m pixels"
    )


@exercise("ex-ensemble")
def check_ensemble(ensemble):
    """``ensemble(log_probs)``: ``(M, B) -> (B,)``, the log-probability of the equal mixture."""
    orders = torch.stack([torch.arange(5), torch.arange(5).flip(0), torch.tensor([2, 0, 4, 1, 3])])
    model = MADE(5, (10,), orders).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    x = all_binary(5)
    with torch.no_grad():
        each = torch.stack([model.order_log_prob(x, m) for m in range(3)])
        answer = ensemble(each)
        assert answer.shape == (32,), f"one number per example: (32,), not {tuple(answer.shape)}"
        total = answer.exp().sum().item()
        assert not torch.allclose(answer, each.mean(0)), (
            f"averaging logarithms gives probabilities that sum to {total:.3f}: not a distribution"
        )
        assert abs(total - 1) < 1e-5, f"the probabilities of all 32 vectors sum to {total:.3f}"
        assert torch.allclose(answer, model.log_prob(x)), "the orders do not count equally"
        far = ensemble(torch.tensor([[-900.0], [-901.0]], dtype=torch.float64))
    assert far.isfinite().all(), (
        "at log-probabilities near -900 the exponential is zero: use logsumexp"
    )


@exercise("ex-sampler")
def check_sampler(sample):
    """``sample(model, n)``: n ancestral samples, ``(n, D)``, in the model's own order."""
    torch.manual_seed(0)
    model = FVSBN(5, [3, 0, 4, 2, 1])
    for parameter in model.parameters():
        parameter.data.normal_()
    answer = sample(model, 20_000)
    assert answer.shape == (20_000, 5), f"shape (n, D), not {tuple(answer.shape)}"
    assert ((answer == 0) | (answer == 1)).all(), "samples are zeros and ones: draw, do not round"
    assert sampling_p_value(answer, model.log_prob) > 1e-4, (
        "the samples do not follow exp(log_prob): is each pixel drawn after those it depends on?"
    )
