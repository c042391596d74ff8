"""Distributions over binary vectors that are exact, and fitted by counting alone.

Their words are those of `torch.distributions`: ``log_prob(x)`` maps ``(*batch, D)`` to
``(*batch,)``, nats; ``sample(sample_shape)`` gives ``(*sample_shape, D)``, without gradient. Where
they count, x may hold probabilities, too, such as grey/255: the counts are then expected ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from companion import require
from companion.nn import draws, vectors

if TYPE_CHECKING:
    from companion.data import Batches


class IndependentBernoulli(nn.Module):
    r"""Every entry on its own, Eq. (independent-pixels).

    .. math:: p(x) = \prod_{i=1}^{D} \theta_i^{x_i} (1 - \theta_i)^{1 - x_i}

    Args: features: D, the number of entries of x, and of parameters.
    """

    def __init__(self, features: int):
        super().__init__()
        self.probs = nn.Parameter(torch.full((features,), 0.5))

    def fit(self, x: Tensor, smoothing: float = 1.0) -> IndependentBernoulli:
        """Take the shares of ones in x, ``(N, D)``: maximum likelihood, Eq. (bernoulli-mle).

        Args: smoothing: how many more ones, and zeros, to count than there are (Laplace).
        """
        require_examples(x, len(self.probs))
        ones = x.sum(0, dtype=torch.float64)
        self.probs.data = share(ones, len(x), smoothing).to(self.probs)
        return self

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x), ``(*batch, D) -> (*batch,)``, nats; -inf for what cannot be."""
        x = vectors(x, self.probs)
        log_p = x.xlogy(self.probs) + (1 - x).xlogy(1 - self.probs)  # 0 ln 0 = 0
        return log_p.sum(-1)

    forward = log_prob

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A coin for every entry, ``(*sample_shape, D)``."""
        draws(sample_shape)  # refuses a bare count
        return torch.bernoulli(self.probs.expand(*sample_shape, -1))


class MarkovChain(nn.Module):
    r"""Every entry given the one before it, Eq. (markov-chain).

    .. math:: p(x) = p(x_1) \prod_{i=2}^{D} p(x_i \mid x_{i-1})

    Args: features: D; there are 2D - 1 parameters.
    """

    def __init__(self, features: int):
        super().__init__()
        if features < 1:
            raise ValueError(f"a chain has at least one entry, not {features}")
        self.first = nn.Parameter(torch.full((1,), 0.5))  # p(x_1 = 1)
        self.after_zero = nn.Parameter(torch.full((features - 1,), 0.5))  # p(x_i = 1 | x_{i-1} = 0)
        self.after_one = nn.Parameter(torch.full((features - 1,), 0.5))  # p(x_i = 1 | x_{i-1} = 1)

    def fit(self, x: Tensor, smoothing: float = 1.0) -> MarkovChain:
        """Take the shares of ones after a zero, and after a one, in x, ``(N, D)``."""
        require_examples(x, 1 + len(self.after_one))
        ones = x.sum(0, dtype=torch.float64)
        both = (x[:, :-1] * x[:, 1:]).sum(0, dtype=torch.float64)
        before, now = ones[:-1], ones[1:]
        self.first.data = share(ones[:1], len(x), smoothing).to(self.first)
        self.after_zero.data = share(now - both, len(x) - before, smoothing).to(self.first)
        self.after_one.data = share(both, before, smoothing).to(self.first)
        return self

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x), ``(*batch, D) -> (*batch,)``, nats; -inf for what cannot be."""
        x = vectors(x, torch.cat([self.first, self.after_one]))
        following = torch.where(x[..., :-1] == 1, self.after_one, self.after_zero)
        probs = torch.cat([self.first.expand(*x.shape[:-1], 1), following], -1)
        return (x.xlogy(probs) + (1 - x).xlogy(1 - probs)).sum(-1)

    forward = log_prob

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """One entry after the other, ``(*sample_shape, D)``."""
        draws(sample_shape)  # refuses a bare count
        entries = [torch.bernoulli(self.first.expand(*sample_shape, 1)).squeeze(-1)]
        for zero, one in zip(self.after_zero, self.after_one, strict=True):
            entries.append(torch.bernoulli(torch.where(entries[-1] == 1, one, zero)))
        return torch.stack(entries, -1)


class BernoulliMixture(nn.Module):
    r"""K pictures of independent pixels, of which one is chosen by chance, Eq. (bernoulli-mixture).

    .. math:: p(x) = \sum_{k=1}^{K} \pi_k\, p(x \mid k)

    Args:
        features:   D.
        components: K; there are K D + K - 1 free parameters.

    Source: Bishop (2006), Sec. 9.3.3.
    """

    binary = True

    def __init__(self, features: int, components: int):
        super().__init__()
        if components < 1:
            raise ValueError(f"a mixture has at least one component, not {components}")
        self.weights = nn.Parameter(torch.full((components,), 1 / components))  # pi_k
        self.probs = nn.Parameter(torch.full((components, features), 0.5))  # theta_ki, not 0 or 1

    def log_joint(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """ln p(x, k) for every k, ``(*batch, D) -> (*batch, K)``, nats.

        Args: known: if given, bool ``(D,)``: the other entries are summed out, Eq. (summing-out).
        """
        x, log_one, log_zero = vectors(x, self.probs), self.probs.log(), (-self.probs).log1p()
        if known is not None:
            if known.dtype != torch.bool or known.shape != self.probs.shape[1:]:
                raise ValueError(f"known must be bool, shape ({self.probs.shape[1]},)")
            x, log_one, log_zero = (part.where(known, 0) for part in (x, log_one, log_zero))
        return x @ (log_one - log_zero).T + log_zero.sum(-1) + self.weights.log()

    def log_prob(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """ln p(x), or of the known entries alone, ``(*batch, D) -> (*batch,)``, nats."""
        return self.log_joint(x, known).logsumexp(-1)

    forward = log_prob

    def responsibilities(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """p(k | x), Eq. (responsibilities), ``(*batch, D) -> (*batch, K)``."""
        return self.log_joint(x, known).softmax(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Choose a component, then throw its coins, ``(*sample_shape, D)``."""
        draws(sample_shape)  # refuses a bare count
        weights = self.weights.expand(*sample_shape, -1)
        return torch.bernoulli(self.probs[torch.distributions.Categorical(weights).sample()])

    @torch.no_grad()
    def start_from(self, examples: Tensor) -> None:
        """Begin with one example, ``(K, D)``, for each component, halfway to their mean."""
        if examples.shape != self.probs.shape:
            raise ValueError(
                f"one example for each component has shape {tuple(self.probs.shape)}, "
                f"not {tuple(examples.shape)}"
            )
        require_examples(examples, examples.shape[1])
        examples = examples.to(self.probs)
        self.probs.data = ((examples + examples.mean(0)) / 2).clamp(0.01, 0.99)
        self.weights.data.fill_(1 / len(examples))

    @torch.no_grad()
    def fit(self, train: Batches, epochs: int, smoothing: float = 1.0) -> list[float]:
        """Expectation-maximisation, Eqs. (responsibilities) and (m-step), after `start_from`.

        A batch of all examples makes it the classic algorithm. With smaller ones, running averages
        take the place of the averages over all examples.

        Args:
            train:     mini-batches of binary vectors, ``(B, D)``; an epoch is ``len(train)`` steps.
            smoothing: every component counts, besides its own, so many copies of the mean image.

        Returns: mean ln p(x) over the examples of each epoch, before they are learned from, nats.
        Source:  Dempster, Laird & Rubin (1977); the running averages: Cappé & Moulines (2009).
        """
        require.batches(train, self)
        require.whole(epochs=epochs)
        if not 0 <= smoothing < math.inf:
            raise ValueError(f"smoothing adds counts, it cannot be {smoothing}")
        if len(self.probs) > 1 and (self.probs == self.probs[0]).all():
            raise ValueError("components that are alike stay alike: start_from examples")
        N, limits = len(train.images), torch.finfo(self.probs.dtype)
        # Of each component, per example: how many, and how many ones in each entry.
        counts, ones = self.weights.clone(), self.weights[:, None] * self.probs
        history = []
        for step in range(epochs * len(train)):
            x = train.batch(step).to(self.probs)
            log_joint = self.log_joint(x)
            r = log_joint.softmax(-1)  # E-step
            rate = 1 if train.batch_size == N else (step + 2) ** -0.7
            counts.lerp_(r.mean(0), rate)
            ones.lerp_(r.T @ x / len(x), rate)
            self.weights.data = counts / counts.sum()  # M-step
            mean = share(ones.sum(0), 1, 1 / N)
            weight = counts[:, None] + smoothing / N
            weight.clamp_(min=limits.tiny)  # some may have died
            probs = (ones + smoothing / N * mean) / weight
            # Off 0 and 1, to which a probability may round.
            self.probs.data = probs.clamp(limits.tiny, 1 - limits.eps)
            history.append(log_joint.logsumexp(-1).mean())
        return torch.stack(history).view(epochs, -1).mean(1).tolist()


class GenerativeClassifier(nn.Module):
    r"""A density for every class, and Bayes' rule, Eq. (bayes-classifier).

    .. math:: p(y \mid x) = \frac{p(y)\, p(x \mid y)}{\sum_{y'} p(y')\, p(x \mid y')}

    Args:
        densities: one model for each class, with ``log_prob``; its options, such as ``known``, can
            be given to all methods here.
        prior:     p(y), or how frequent each class is, shape ``(classes,)``; left out, all alike.
    """

    def __init__(self, densities: Sequence[nn.Module], prior: Tensor | None = None):
        super().__init__()
        self.densities = nn.ModuleList(densities)
        prior = torch.ones(len(densities)) if prior is None else prior
        require.tensors(prior=prior)
        fits = prior.shape == (len(densities),) and (prior >= 0).all()
        if not fits or not 0 < prior.sum() < math.inf:
            raise ValueError(
                f"prior must have shape ({len(densities)},), and entries of at least 0 "
                f"that are not all 0, got {prior}"
            )
        self.register_buffer("prior", prior.double() / prior.sum())

    def log_joint(self, x: Tensor, **options) -> Tensor:
        """ln p(x, y) for every class y, ``(*batch, D) -> (*batch, classes)``, nats."""
        log_p = [density.log_prob(x, **options) for density in self.densities]
        log_p = torch.stack(log_p, -1)
        return log_p + self.prior.log().to(log_p)

    def log_prob(self, x: Tensor, **options) -> Tensor:
        """ln p(x), whatever the class, ``(*batch, D) -> (*batch,)``, nats."""
        return self.log_joint(x, **options).logsumexp(-1)

    forward = log_prob

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Choose a class, then draw from its density, ``(*sample_shape, D)``."""
        draws(sample_shape)  # refuses a bare count
        y = torch.distributions.Categorical(self.prior.expand(*sample_shape, -1)).sample()
        x = torch.stack([density.sample(sample_shape) for density in self.densities], -2)
        return x.take_along_dim(y[..., None, None], -2).squeeze(-2)

    def posterior(self, x: Tensor, **options) -> Tensor:
        """p(y | x), ``(*batch, D) -> (*batch, classes)``; nan where no class can give x."""
        return self.log_joint(x, **options).softmax(-1)


def share(hits: Tensor, trials: Tensor | int, smoothing: float = 1.0) -> Tensor:
    """hits / trials, after so many more hits and as many more misses; 1/2 if there are none."""
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing adds counts, it cannot be {smoothing}")
    return ((hits + smoothing) / (trials + 2 * smoothing)).nan_to_num(0.5)


def require_examples(x: Tensor, features: int) -> None:
    """Raise ValueError unless x holds examples, ``(N, D)``, of zeros, ones or shares of one."""
    require.tensors(x=x)
    if x.dim() != 2 or not len(x) or x.shape[1] != features:
        raise ValueError(f"examples to count have shape (N, {features}), got {tuple(x.shape)}")
    if not (x.min() >= 0 and x.max() <= 1):
        raise ValueError("entries to count lie between 0 and 1: give binary images, or grey / 255")
