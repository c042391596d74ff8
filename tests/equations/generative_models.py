"""The equations of the chapter on what a generative model is."""

import itertools
import math

import torch
from scipy.optimize import linprog, minimize
from torch import trapezoid
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from companion.checks import all_binary, frequencies
from companion.data import Batches
from companion.distributions import (
    BernoulliMixture,
    GenerativeClassifier,
    IndependentBernoulli,
    MarkovChain,
)
from companion.divergences import (
    cross_entropy,
    entropy,
    jensen_shannon,
    kl,
    kl_estimate,
    tabulate,
    total_variation,
    wasserstein1,
)
from companion.evaluation import auc, bits_per_dimension, log_likelihoods, nll, roc
from tests.equations import equation, side

CHAPTER = "generative-models"

# --- what the checks are made of ------------------------------------------------------


def random_table(rng, *shape):
    """Random probabilities that sum to one over the last axis, some large and some small."""
    return (2 * torch.randn(shape, generator=rng)).softmax(-1)


def random_probs(model, rng):
    """The model in float64 with every parameter a random probability."""
    model = model.double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(0.05 + 0.9 * torch.rand(parameter.shape, generator=rng))
    return model


def lowest(objective, *start):
    """Where the objective is lowest, downhill from the start, by L-BFGS."""
    x = [tensor.clone().requires_grad_() for tensor in start]
    optimizer = torch.optim.LBFGS(
        x,
        max_iter=300,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = objective(*x)
        value.backward()
        return value

    optimizer.step(closure)
    return [tensor.detach() for tensor in x]


def random_mixture(rng, D, K):
    """A mixture of K kinds with random parameters."""
    model = random_probs(BernoulliMixture(D, K), rng)
    model.weights.copy_(random_table(rng, K))
    return model


def coins(x, theta):
    """theta^x (1 - theta)^(1 - x), as it stands on the page."""
    return theta**x * (1 - theta) ** (1 - x)


def tally(x, k):
    """How often each picture was drawn with each kind, ``(N, D), (N,) -> (2**D, K)``."""
    return torch.stack([(k == j).sum() * frequencies(x[k == j]) for j in k.unique()], 1)


def random_humps(rng):
    """A density with two humps: a distribution of torch, which knows its mean and variance."""
    means, scales = torch.rand(2, 2, generator=rng)
    humps = Normal(torch.tensor([-2.0, 1.0]) + means, 0.5 + scales / 2)
    return MixtureSameFamily(Categorical(0.2 + torch.rand(2, generator=rng)), humps)


# --- what a distribution costs --------------------------------------------------------


@equation("bernoulli", r"p(x) = \theta^x (1 - \theta)^{1 - x}")
def bernoulli(rng):
    theta = torch.cat([torch.tensor([0.0, 1.0]), torch.rand(4, generator=rng)])
    x = torch.tensor([[0.0], [1.0]])
    yield side(torch.stack([1 - theta, theta]))  # of zero, of one
    yield side(
        theta**x * (1 - theta) ** (1 - x),
        wrong={
            "zero and one exchanged": theta ** (1 - x) * (1 - theta) ** x,
            "factors for powers": theta * x * (1 - theta) * (1 - x),
            "sum instead of product": theta**x + (1 - theta) ** (1 - x),
        },
    )


@equation(
    "parameters-table",
    r"\underbrace{2 \cdot 2 \cdots 2}_{D \text{ times}} - 1 = 2^D - 1",
)
def parameters_table(rng):
    D = torch.randperm(12, generator=rng)[:4] + 1
    pictures = [len([*itertools.product("01", repeat=pixels)]) for pixels in D.tolist()]
    yield side(
        torch.tensor(pictures) - 1
    )  # the last probability follows from the others
    yield side(
        2**D - 1,
        wrong={
            "sum to one forgotten": 2**D,
            "base and exponent exchanged": D**2 - 1,
            "a pixel too few": 2 ** (D - 1) - 1,
        },
    )


@equation(
    "independent-pixels",
    r"p(x) = \prod_{i=1}^{D} \theta_i^{x_i} (1 - \theta_i)^{1 - x_i}",
)
def independent_pixels(rng):
    model = random_probs(IndependentBernoulli(4), rng)
    x = all_binary(4)
    yield side(model.log_prob(x).exp())
    theta = model.probs
    factors = theta**x * (1 - theta) ** (1 - x)
    shared = theta.mean()
    yield side(
        factors.prod(-1),
        wrong={
            "sum instead of product": factors.sum(-1),
            "zero and one exchanged": factors.flip(0).prod(-1),
            "one theta for all pixels": (shared**x * (1 - shared) ** (1 - x)).prod(-1),
            "white pixels left out": (theta**x).prod(-1),
        },
    )


@equation("markov-chain", r"p(x) = p(x_1) \prod_{i=2}^{D} p(x_i \mid x_{i-1})")
def markov_chain(rng):
    D = 5
    model = random_probs(MarkovChain(D), rng)
    first = torch.cat([1 - model.first, model.first])
    ones = torch.stack([model.after_zero, model.after_one], 1)
    given = torch.stack(
        [1 - ones, ones], -1
    )  # given[i - 1][before, now], counting from 0

    def chained(first, given):
        return torch.stack(
            [
                first[x[0]]
                * math.prod(given[i - 1][x[i - 1], x[i]] for i in range(1, D))
                for x in all_binary(D).long()
            ]
        )

    yield side(model.log_prob(all_binary(D)).exp())
    yield side(
        chained(first, given),
        wrong={
            "after a zero and after a one exchanged": chained(first, given.flip(1)),
            "condition turned round": chained(first, given.mT),
            "first factor lost": chained(torch.ones(2), given),
            "pixel before forgotten": chained(
                first, given.mean(1, keepdim=True).expand(-1, 2, -1)
            ),
        },
    )


@equation("parameters-markov", r"1 + 2 (D - 1) = 2 D - 1")
def parameters_markov(rng):
    D = torch.randperm(50, generator=rng)[:4] + 1
    chains = [MarkovChain(pixels) for pixels in D.tolist()]
    yield side(
        torch.tensor([sum(p.numel() for p in chain.parameters()) for chain in chains])
    )
    yield side(
        2 * D - 1,
        wrong={
            "two for the first pixel, too": 2 * D,
            "first pixel forgotten": 2 * (D - 1),
            "one for each pixel": D,
        },
    )


# --- maximum likelihood ---------------------------------------------------------------


@equation(
    "bernoulli-gradient",
    r"""
    \begin{aligned}
    \frac{\partial}{\partial \theta} \sum_{n=1}^{N} \ln p\bigl(x^{(n)}\bigr)
      &= \frac{\partial}{\partial \theta} \sum_{n=1}^{N} \Bigl( x^{(n)} \ln \theta
         + \bigl(1 - x^{(n)}\bigr) \ln (1 - \theta) \Bigr) \\
      &= \frac{\partial}{\partial \theta} \bigl( N_1 \ln \theta + N_0 \ln (1
          - \theta) \bigr) \\
      &= \frac{N_1}{\theta} - \frac{N_0}{1 - \theta} \\
      &= \frac{N_1 - N \theta}{\theta (1 - \theta)}
    \end{aligned}
    """,
)
def bernoulli_gradient(rng):
    theta = 0.1 + 0.8 * torch.rand(4, generator=rng)
    x = torch.bernoulli(torch.full((10, 1), 0.3), generator=rng)
    x[:2] = torch.tensor([[0.0], [1.0]])
    N, N_1, N_0 = len(x), int((x == 1).sum()), int((x == 0).sum())

    def slope(f):
        t = theta.clone().requires_grad_()
        return torch.autograd.grad(f(t).sum(), t)[0]

    def written_out(t):
        return (x * t.log() + (1 - x) * (1 - t).log()).sum(0)

    h = 1e-5
    yield side(slope(lambda t: Bernoulli(t).log_prob(x)))
    yield side((written_out(theta + h) - written_out(theta - h)) / (2 * h), error=1e-6)
    yield side(
        slope(lambda t: N_1 * t.log() + N_0 * (1 - t).log()),
        wrong={
            "zeros and ones exchanged": slope(
                lambda t: N_0 * t.log() + N_1 * (1 - t).log()
            )
        },
    )
    yield side(
        N_1 / theta - N_0 / (1 - theta),
        wrong={
            "sign of the inner derivative": N_1 / theta + N_0 / (1 - theta),
            "mean instead of sum": (N_1 / theta - N_0 / (1 - theta)) / N,
        },
    )
    yield side(
        (N_1 - N * theta) / (theta * (1 - theta)),
        wrong={
            "N forgotten": (N_1 - theta) / (theta * (1 - theta)),
            "N_0 instead of N": (N_1 - N_0 * theta) / (theta * (1 - theta)),
        },
    )


@equation(
    "bernoulli-mle",
    r"\hat{\theta} = \frac{N_1}{N} = \frac{1}{N} \sum_{n=1}^{N} x^{(n)}",
)
def bernoulli_mle(rng):
    N, D = 12, 3  # throws of each of three coins
    x = torch.bernoulli(torch.rand(D, generator=rng).expand(N, D), generator=rng)
    x[:2] = torch.tensor([[0.0], [1.0]])
    (best,) = lowest(lambda a: -Bernoulli(logits=a).log_prob(x).sum(), torch.zeros(D))
    yield side(best.sigmoid(), error=1e-6)
    N_1 = (x == 1).sum(0)
    yield side(
        N_1 / N,
        wrong={
            "share of zeros": 1 - N_1 / N,
            "ones over zeros": N_1 / (N - N_1),
            "smoothed": (N_1 + 1) / (N + 2),
        },
    )
    yield side(
        IndependentBernoulli(D).fit(x, smoothing=0).probs,
        wrong={
            "sum instead of mean": x.sum(0),
            "smoothing left on": x.sum(0).add(1) / (N + 2),
        },
    )


# --- scores ---------------------------------------------------------------------------


@equation("nll", r"\mathrm{NLL} = -\frac{1}{N} \sum_{n=1}^{N} \ln p\bigl(x^{(n)}\bigr)")
def mean_nll(rng):
    D, N = 5, 9
    model = random_probs(MarkovChain(D), rng)
    table = model.log_prob(all_binary(D)).exp()
    chosen = torch.randint(2**D, (N,), generator=rng)
    yield side(nll(model, all_binary(D)[chosen], batch_size=4).mean)
    p = table[chosen]
    yield side(
        -p.log().mean(),
        wrong={
            "sign": p.log().mean(),
            "sum instead of mean": -p.log().sum(),
            "logarithm of the mean": -p.mean().log(),
            "mean over pixels": -p.log().mean() / D,
        },
    )


@equation(
    "bits-per-dimension", r"\text{bits per dimension} = \frac{\mathrm{NLL}}{D \ln 2}"
)
def bits(rng):
    D, N = 5, 9
    model = random_probs(MarkovChain(D), rng)
    x = torch.bernoulli(torch.full((N, D), 0.5), generator=rng)
    nats = nll(model, x).mean
    yield side(
        -model.log_prob(x).exp().log2().mean() / D,
        wrong={"nats per dimension": nats / D, "bits per image": nats / math.log(2)},
    )
    yield side(
        bits_per_dimension(nats, D),
        wrong={"multiplied by ln 2": nats * math.log(2) / D},
    )


# --- surprise -------------------------------------------------------------------------


@equation("entropy", r"H(p) = -\sum_x p(x) \ln p(x)")
def mean_surprise(rng):
    p = torch.cat(
        [random_table(rng, 5), torch.zeros(1)]
    )  # the last outcome never happens
    yield side(entropy(p))
    H = -sum(a * math.log(a) for a in p.tolist() if a > 0)
    yield side(
        H,
        wrong={
            "sign": -H,
            "bits": H / math.log(2),
            "mean instead of sum": H / len(p),
            "surprises not weighted": -p[:5].log().mean(),
        },
    )


@equation("cross-entropy", r"H(p, q) = -\sum_x p(x) \ln q(x)")
def mean_surprise_of_another(rng):
    p, q = random_table(rng, 2, 5)
    yield side(cross_entropy(p, q))
    terms = [a * math.log(b) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    yield side(
        -sum(terms),
        wrong={
            "sign": sum(terms),
            "p and q exchanged": -(q * p.log()).sum(),
            "the entropy of p": -(p * p.log()).sum(),
            "the divergence": (p * (p / q).log()).sum(),
        },
    )


@equation(
    "kl",
    r"""
    \begin{aligned}
    D_{\mathrm{KL}}(p \,\|\, q)
      &= H(p, q) - H(p) \\
      &= \sum_x p(x) \ln p(x) - \sum_x p(x) \ln q(x) \\
      &= \sum_x p(x) \ln \frac{p(x)}{q(x)}
    \end{aligned}
    """,
)
def divergence(rng):
    p, q = random_table(rng, 2, 5)
    yield side(kl(p, q))
    difference = cross_entropy(p, q) - entropy(p)
    yield side(
        difference,
        wrong={
            "terms exchanged": -difference,
            "the entropy of q": cross_entropy(p, q) - entropy(q),
        },
    )
    yield side(
        (p * p.log()).sum() - (p * q.log()).sum(),
        wrong={"q before its own logarithm": (p * p.log()).sum() - (q * q.log()).sum()},
    )
    yield side(
        sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True)),
        wrong={
            "fraction turned round": (p * (q / p).log()).sum(),
            "direction": (q * (q / p).log()).sum(),
            "logarithm left out": (p * (p / q)).sum(),
        },
    )


@equation(
    "gibbs-inequality",
    r"""
    \begin{aligned}
    -D_{\mathrm{KL}}(p \,\|\, q)
      &= \sum_{x :\, p(x) > 0} p(x) \ln \frac{q(x)}{p(x)} \\
      &\le \sum_{x :\, p(x) > 0} p(x) \Bigl( \frac{q(x)}{p(x)} - 1 \Bigr) \\
      &= \sum_{x :\, p(x) > 0} q(x) - 1 \\
      &\le 0
    \end{aligned}
    """,
)
def gibbs_inequality(rng):
    p = torch.cat(
        [random_table(rng, 5), torch.zeros(2)]
    )  # q may give what p never does
    q = random_table(rng, 7)
    yield side(-kl(p, q))
    possible = p > 0
    u = q[possible] / p[possible]
    yield side(
        (p[possible] * u.log()).sum(),
        wrong={"fraction turned round": -(p[possible] * u.log()).sum()},
    )
    yield side(
        (p[possible] * (u - 1)).sum(),
        wrong={
            "one not subtracted": (p[possible] * u).sum(),
            "not weighted": (u - 1).sum(),
        },
    )
    yield side(
        sum(b for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0) - 1,
        wrong={
            "summed over all outcomes": q.sum() - 1,
            "summed over the others": q[~possible].sum() - 1,
        },
    )
    yield side(0)


@equation(
    "kl-asymmetry",
    r"""
    D_{\mathrm{KL}}(p \,\|\, q) \ne D_{\mathrm{KL}}(q \,\|\, p)
      \quad \text{in general}
    """,
)
def kl_asymmetry(rng):
    p, q = random_table(rng, 2, 5)
    yield side(kl(p, q))
    yield side(
        kl_divergence(Categorical(q), Categorical(p)),
        wrong={"not exchanged": kl_divergence(Categorical(p), Categorical(q))},
    )


# --- what the score is made of --------------------------------------------------------


@equation(
    "entropy-floor",
    r"""
    \begin{aligned}
    \mathbb{E}_{p_{\text{data}}}[-\ln p_\theta(x)]
      &= -\sum_x p_{\text{data}}(x) \ln p_\theta(x) \\
      &= -\sum_x p_{\text{data}}(x) \ln p_{\text{data}}(x) \\
      &\quad + \sum_x p_{\text{data}}(x) \ln \frac{p_{\text{data}}(x)}{p_\theta(x)} \\
      &= H(p_{\text{data}}) + D_{\mathrm{KL}}(p_{\text{data}} \,\|\, p_\theta) \\
      &\ge H(p_{\text{data}})
    \end{aligned}
    """,
)
def entropy_floor(rng):
    D, N = 4, 20_000
    data = random_table(rng, 2**D)
    model = random_probs(MarkovChain(D), rng)
    x = all_binary(D)
    drawn = torch.multinomial(data, N, replacement=True, generator=rng)
    score = nll(model, x[drawn], batch_size=N)
    yield side(
        score.mean,
        se=score.standard_error,
        wrong={
            "images drawn from the model": nll(
                model, model.sample((N,)), batch_size=N
            ).mean
        },
    )
    p = model.log_prob(x).exp()
    yield side(
        cross_entropy(data, p),
        wrong={"sign": -cross_entropy(data, p)},
    )
    floor, excess = -(data * data.log()).sum(), (data * (data / p).log()).sum()
    yield side(
        floor + excess,
        wrong={"fraction turned round": floor - excess, "entropy lost": excess},
    )
    yield side(
        Categorical(data).entropy() + kl_divergence(Categorical(data), Categorical(p)),
        wrong={
            "direction": floor + kl(p, data),
            "the entropy of the model": entropy(p) + excess,
        },
    )
    yield side(entropy(data), wrong={"cross-entropy": -(data * p.log()).sum()})


@equation(
    "maximum-likelihood",
    r"""
    \operatorname*{arg\,max}_\theta\, \mathbb{E}_{p_{\text{data}}}[\ln p_\theta(x)]
      = \operatorname*{arg\,min}_\theta\,
          D_{\mathrm{KL}}(p_{\text{data}} \,\|\, p_\theta)
    """,
)
def maximum_likelihood(rng):
    D = 3
    counts = torch.randint(
        1, 20, (2**D,), generator=rng
    )  # how often each picture occurs
    data = counts / counts.sum()

    def nearest(divergence):
        """The coins nearest to the data, in the divergence from or to it."""

        def distance(a):
            return divergence(Bernoulli(logits=a).log_prob(all_binary(D)).sum(-1).exp())

        (best,) = lowest(distance, torch.randn(D, generator=rng))
        return best.sigmoid()

    images = all_binary(D).repeat_interleave(counts, 0)
    yield side(
        IndependentBernoulli(D).fit(images, smoothing=0).probs,
        wrong={"smoothing left on": IndependentBernoulli(D).fit(images).probs},
    )
    yield side(
        nearest(lambda p: kl(data, p)),
        error=1e-6,
        wrong={"direction": nearest(lambda p: kl(p, data))},
    )


# --- two directions -------------------------------------------------------------------

LINE = torch.linspace(-18, 18, 3601, dtype=torch.float64)


@equation(
    "forward-gradient",
    r"""
    \begin{aligned}
    \frac{\partial}{\partial \mu} D_{\mathrm{KL}}(p \,\|\, q)
      &= -\frac{\mathbb{E}_p[x - \mu]}{\sigma^2} \\
    \frac{\partial}{\partial \sigma} D_{\mathrm{KL}}(p \,\|\, q)
      &= \frac{1}{\sigma} - \frac{\mathbb{E}_p\bigl[(x - \mu)^2\bigr]}{\sigma^3}
    \end{aligned}
    """,
)
def forward_gradient(rng):
    p = random_humps(rng)
    mu = torch.randn((), generator=rng).requires_grad_()
    sigma = (1 + torch.rand((), generator=rng)).requires_grad_()
    tables = tabulate(p, LINE), tabulate(Normal(mu, sigma), LINE)
    forward = torch.autograd.grad(kl(*tables), (mu, sigma), retain_graph=True)
    reverse = torch.autograd.grad(kl(*tables[::-1]), (mu, sigma))
    first = p.mean - mu
    second = p.variance + first**2
    yield side(forward[0], wrong={"the reverse direction": reverse[0]})
    yield side(
        -first / sigma**2,
        wrong={
            "sign": first / sigma**2,
            "standard deviation for variance": -first / sigma,
        },
    )
    yield side(forward[1], wrong={"the reverse direction": reverse[1]})
    yield side(
        1 / sigma - second / sigma**3,
        wrong={
            "normalising constant forgotten": -second / sigma**3,
            "spread around the mean of p": 1 / sigma - p.variance / sigma**3,
            "derivative by the variance": (1 / sigma - second / sigma**3) / (2 * sigma),
        },
    )


@equation(
    "moment-matching",
    r"""
    \begin{aligned}
    \hat{\mu} &= \mathbb{E}_p[x] \\
    \hat{\sigma}^2 &= \mathbb{E}_p\bigl[(x - \hat{\mu})^2\bigr]
    \end{aligned}
    """,
)
def moment_matching(rng):
    humps = random_humps(rng)
    p = tabulate(humps, LINE)

    def best(divergence):
        """Mean and variance of the normal with the lowest divergence, by trying."""

        def objective(at):
            return divergence(tabulate(Normal(*at), LINE))

        mu, sigma = minimize(objective, [0.5, 1.5], method="Nelder-Mead", tol=1e-9).x
        return mu, sigma**2

    mean, variance = best(lambda q: kl(p, q))
    reverse = best(lambda q: kl(q, p))
    hump = humps.component_distribution
    yield side(mean, error=1e-5, wrong={"the reverse direction": reverse[0]})
    yield side(
        humps.mean,
        wrong={
            "the highest point": LINE[p.argmax()],
            "both humps counted alike": hump.mean.mean(),
        },
    )
    yield side(variance, error=1e-5, wrong={"the reverse direction": reverse[1]})
    within = humps.mixture_distribution.probs @ hump.variance
    yield side(
        humps.variance,
        wrong={
            "distance of the humps forgotten": within,
            "mean not subtracted": humps.variance + humps.mean**2,
            "standard deviation": humps.stddev,
        },
    )


# --- other ways to be far apart -------------------------------------------------------


@equation(
    "jensen-shannon",
    r"""
    \begin{aligned}
    \mathrm{JSD}(p \,\|\, q)
      &= \tfrac12 D_{\mathrm{KL}}(p \,\|\, m) + \tfrac12 D_{\mathrm{KL}}(q \,\|\, m) \\
      &= H(m) - \tfrac12 H(p) - \tfrac12 H(q)
    \end{aligned}
    """,
)
def jensen_shannon_divergence(rng):
    p, q = random_table(rng, 2, 6)
    m = (p + q) / 2
    yield side(jensen_shannon(p, q))
    yield side(
        (p * (p / m).log()).sum() / 2 + (q * (q / m).log()).sum() / 2,
        wrong={
            "halves forgotten": kl(p, m) + kl(q, m),
            "directions turned round": kl(m, p) / 2 + kl(m, q) / 2,
            "with each other, not with the mixture": kl(p, q) / 2 + kl(q, p) / 2,
            "one half lost": kl(p, m) / 2,
        },
    )
    H_p, H_q, H_m = (Categorical(table).entropy() for table in (p, q, m))
    yield side(
        H_m - H_p / 2 - H_q / 2,
        wrong={
            "halves forgotten": H_m - H_p - H_q,
            "sign": H_p / 2 + H_q / 2 - H_m,
            "entropy of one for the mixture's": H_q - H_p / 2 - H_q / 2,
        },
    )


@equation("jensen-shannon-range", r"0 \le \mathrm{JSD}(p \,\|\, q) \le \ln 2")
def jensen_shannon_range(rng):
    p, q = random_table(rng, 2, 3)
    nothing = torch.zeros(3)
    left, right = torch.cat([p, nothing]), torch.cat([nothing, q])
    # The same distribution twice; two that overlap; two that do not.
    pairs = [(left, left), (torch.cat([p, q]) / 2, left), (left, right)]
    m = [(a + b) / 2 for a, b in pairs]
    divergences = [
        kl(a, c) / 2 + kl(b, c) / 2 for (a, b), c in zip(pairs, m, strict=True)
    ]
    yield side(0, wrong={"a bound that equal tables fall below": 0.01})
    yield side(
        torch.stack(divergences),
        wrong={
            "halves forgotten": 2 * torch.stack(divergences),
            "sign": -torch.stack([jensen_shannon(*pair) for pair in pairs]),
        },
    )
    yield side(
        math.log(2), wrong={"a bound that disjoint tables exceed": math.log(2) - 0.01}
    )


@equation(
    "total-variation",
    r"""
    \mathrm{TV}(p, q) = \max_A \bigl( p(A) - q(A) \bigr)
      = \tfrac12 \sum_x |p(x) - q(x)|
    """,
)
def total_variation_distance(rng):
    p, q = random_table(rng, 2, 6)
    events = all_binary(6)  # each says which outcomes belong to it
    yield side(total_variation(p, q))
    yield side(
        (events @ p - events @ q).max(),
        wrong={
            "single outcomes for events": (p - q).max(),
            "the certain event": (p - q).sum(),
            "mean over the events": (events @ p - events @ q).abs().mean(),
        },
    )
    differences = [abs(a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    yield side(
        sum(differences) / 2,
        wrong={
            "half forgotten": sum(differences),
            "largest for sum": max(differences) / 2,
            "squared": math.hypot(*differences) / 2,
        },
    )


def cheapest_plan(p, q, cost):
    """min of sum_xy gamma(x, y) cost(x, y) over all plans from p to q, by linear programming."""
    n = len(p)
    x, y = (
        torch.arange(n).repeat_interleave(n),
        torch.arange(n).repeat(n),
    )  # of each gamma(x, y)
    sums = torch.stack([x == i for i in range(n)] + [y == i for i in range(n)]).double()
    costs, ends = cost.flatten().numpy(), torch.cat([p, q]).numpy()
    return linprog(costs, A_eq=sums.numpy(), b_eq=ends).fun


@equation(
    "wasserstein",
    r"""
    W_1(p, q) = \min_{\gamma} \sum_{x, y} \gamma(x, y)\, |x - y| = \int |F(t)
        - G(t)| \, dt
    """,
)
def wasserstein(rng):
    p, q = random_table(rng, 2, 6)
    places = torch.randperm(20, generator=rng)[:6].sort().values.double()
    distance = (places[:, None] - places).abs()
    yield side(wasserstein1(p, q, places))
    yield side(
        cheapest_plan(p, q, distance),
        error=1e-7,  # of the solver
        wrong={
            "cost squared": cheapest_plan(p, q, distance**2),
            "every distance one": cheapest_plan(p, q, (distance > 0).double()),
            "carried at random, not at the least cost": p @ distance @ q,
        },
    )
    # F and G are steps at whole numbers, so that one t between any two of them gives
    # the integral.
    below = (places <= torch.arange(19)[:, None] + 0.5).double()
    F, G = below @ p, below @ q
    yield side(
        (F - G).abs().sum(),
        wrong={
            "no absolute value": (F - G).sum(),
            "densities for cumulative ones": (p - q).abs().sum(),
            "places forgotten": (p - q).cumsum(0).abs().sum(),
            "squared": (F - G).square().sum(),
        },
    )


@equation(
    "monte-carlo",
    r"""
    D_{\mathrm{KL}}(p \,\|\, q) \approx
        \frac{1}{S} \sum_{s=1}^{S} \ln \frac{p\bigl(x^{(s)}\bigr)}{q\bigl(x^{(s)}\bigr)}
    """,
)
def monte_carlo(rng):
    S = 20_000
    p, q = (Categorical(table) for table in random_table(rng, 2, 6))
    yield side(kl_divergence(p, q), wrong={"direction": kl_divergence(q, p)})
    estimate = kl_estimate(p, q, S)
    x = p.sample((S,))
    yield side(
        estimate.mean,
        se=estimate.standard_error,
        wrong={
            "drawn from q": -kl_estimate(q, p, S).mean,
            "sum for mean": S * estimate.mean,
            "logarithm of the mean": (p.log_prob(x) - q.log_prob(x)).exp().mean().log(),
            "p(x) once more, as a weight": (p.probs * (p.probs / q.probs).log())[
                x
            ].mean(),
        },
    )


# --- the mixture ----------------------------------------------------------------------


@equation(
    "bernoulli-mixture",
    r"""
    p(x) = \sum_{k=1}^{K} \pi_k
      \prod_{i=1}^{D} \theta_{ki}^{x_i} (1 - \theta_{ki})^{1 - x_i}
    """,
)
def bernoulli_mixture(rng):
    D, K = 4, 3
    model = random_mixture(rng, D, K)
    pi, theta = model.weights, model.probs
    x = all_binary(D)
    each = [coins(x, theta[k]).prod(-1) for k in range(K)]
    yield side(model.log_prob(x).exp())
    yield side(
        sum(pi[k] * each[k] for k in range(K)),
        wrong={
            "weights forgotten": sum(each) / K,
            "sum and product exchanged": sum(
                pi[k] * coins(x, theta[k]) for k in range(K)
            ).prod(-1),
            "product over the kinds": math.prod(each[k] ** pi[k] for k in range(K)),
            "white pixels forgotten": sum(
                pi[k] * (theta[k] ** x).prod(-1) for k in range(K)
            ),
        },
    )


@equation(
    "responsibilities",
    r"""
    r_k(x) = p(k \mid x)
           = \frac{\pi_k\, p(x \mid k)}{\sum_{k'} \pi_{k'}\, p(x \mid k')}
    """,
)
def responsibilities(rng):
    D, K, n = 3, 3, 100_000
    model = random_mixture(rng, D, K)
    pi, theta = model.weights, model.probs
    x = all_binary(D)
    r = model.responsibilities(x)
    yield side(r)
    # Draw kinds and pictures: among the draws that gave this x, the share of each kind.
    k = torch.multinomial(pi, n, replacement=True, generator=rng)
    drawn = torch.bernoulli(theta[k], generator=rng)
    counts = tally(drawn, k)
    of_x = counts.sum(1, keepdim=True)
    yield side(
        counts / of_x,
        se=(r * (1 - r) / of_x).sqrt(),
        wrong={"condition turned round": counts / counts.sum(0)},
    )
    likelihood = torch.stack([coins(x, theta[j]).prod(-1) for j in range(K)], 1)
    yield side(
        pi * likelihood / sum(pi[j] * likelihood[:, j] for j in range(K))[:, None],
        wrong={
            "prior forgotten": likelihood / likelihood.sum(1, keepdim=True),
            "prior forgotten below": pi * likelihood / likelihood.sum(1, keepdim=True),
            "not divided": pi * likelihood,
            "sum over the pictures": pi * likelihood / (pi * likelihood).sum(0),
        },
    )


@equation(
    "em-bound",
    r"""
    \begin{aligned}
    \ln p(x)
      &= \sum_k q(k) \ln p(x) \\
      &= \sum_k q(k) \ln \frac{p(x, k)}{p(k \mid x)} \\
      &= \sum_k q(k) \ln \frac{p(x, k)}{q(k)} + \sum_k q(k)
          \ln \frac{q(k)}{p(k \mid x)} \\
      &= \sum_k q(k) \ln \frac{p(x, k)}{q(k)}
         + D_{\mathrm{KL}}\bigl(q(k) \,\|\, p(k \mid x)\bigr) \\
      &\ge \sum_k q(k) \ln \frac{p(x, k)}{q(k)}
    \end{aligned}
    """,
)
def em_bound(rng):
    D, K = 3, 4
    model = random_mixture(rng, D, K)
    x = all_binary(D)
    q = random_table(rng, len(x), K)
    q[0] = model.responsibilities(x[0])  # here the bound touches
    joint = torch.stack(
        [model.weights[k] * coins(x, model.probs[k]).prod(-1) for k in range(K)], 1
    )
    evidence = joint.sum(1, keepdim=True)
    posterior = joint / evidence

    def mean(values, q=q):
        return (q * values).sum(1)

    bound = mean((joint / q).log())
    yield side(model.log_prob(x))
    yield side(
        mean(evidence.log().expand(-1, K)),
        wrong={"sum over k without q": K * evidence.log()[:, 0]},
    )
    yield side(
        mean((joint / posterior).log()),
        wrong={
            "prior forgotten": mean((joint / model.weights / posterior).log()),
            "q for the posterior": bound,
        },
    )
    yield side(
        bound + mean((q / posterior).log()),
        wrong={
            "fraction turned round": bound + mean((posterior / q).log()),
            "mean under the posterior": bound
            + mean((q / posterior).log(), q=posterior),
        },
    )
    yield side(
        bound + kl(q, posterior),
        wrong={
            "direction": bound + kl(posterior, q),
            "sign": bound - kl(q, posterior),
            "entropy of q forgotten": mean(joint.log()) + kl(q, posterior),
        },
    )
    yield side(
        mean(joint.log()) + entropy(q),
        wrong={
            "logarithm of the mean": mean(
                joint / q
            ).log(),  # ln p(x) itself: never below it
            "gap on the wrong side": bound + 2 * kl(q, posterior),
        },
    )


def some_pictures(rng, N, D):
    """N random pictures, after every picture once, so that no share of ones is zero or one."""
    return torch.cat([all_binary(D), torch.bernoulli(torch.rand(N, D, generator=rng))])


@equation(
    "em-objective",
    r"""
    \begin{aligned}
    \sum_{n, k} r_{nk} \ln p\bigl(x^{(n)}, k\bigr)
      &= \sum_{n, k} r_{nk} \ln \pi_k \\
      &\quad + \sum_{n, k, i} r_{nk} \Bigl( x_i^{(n)} \ln \theta_{ki}
         + \bigl(1 - x_i^{(n)}\bigr) \ln (1 - \theta_{ki}) \Bigr)
    \end{aligned}
    """,
)
def em_objective(rng):
    D, K = 3, 2
    x = some_pictures(rng, 5, D)
    before, model = random_mixture(rng, D, K), random_mixture(rng, D, K)
    r = before.responsibilities(x)  # fixed numbers, of the parameters before the step

    def objective(r):
        return (r * model.log_joint(x)).sum()

    yield side(
        objective(r),
        wrong={
            "responsibilities move, too": objective(model.responsibilities(x)),
            "logarithm of the sum over k": model.log_prob(x).sum(),
        },
    )
    pi, theta = model.weights, model.probs
    prior = sum(r[n, k] * pi[k].log() for n in range(len(x)) for k in range(K))
    ones = torch.einsum("nk,ni,ki->", r, x, theta.log())
    zeros = torch.einsum("nk,ni,ki->", r, 1 - x, (1 - theta).log())
    yield side(
        prior + ones + zeros,
        wrong={
            "prior forgotten": ones + zeros,
            "prior counted once": pi.log().sum() + ones + zeros,
            "white pixels forgotten": prior + ones,
            "prior for every pixel": D * prior + ones + zeros,
        },
    )


@equation(
    "m-step",
    r"""
    \begin{aligned}
    \hat{\theta}_{ki} &= \frac{\sum_n r_{nk}\, x_i^{(n)}}{\sum_n r_{nk}} \\
    \hat{\pi}_k &= \frac{1}{N} \sum_n r_{nk}
    \end{aligned}
    """,
)
def m_step(rng):
    D, K = 3, 2
    x = some_pictures(rng, 5, D)
    model = random_mixture(rng, D, K)
    r = model.responsibilities(x)

    def negative(theta, pi):  # logits of theta and pi, which may take any value
        ln_p_x = Independent(Bernoulli(logits=theta), 1).log_prob(x[:, None])
        return -(r * (pi.log_softmax(0) + ln_p_x)).sum()

    theta, pi = lowest(negative, torch.zeros(K, D), torch.zeros(K))
    model.fit(Batches(x, batch_size=len(x)), epochs=1, smoothing=0)

    # What an optimiser finds, and what one round of the package's EM.
    yield side(torch.stack([theta.sigmoid(), model.probs]), error=1e-5)
    ones, total = torch.einsum("nk,ni->ki", r, x), r.sum(0)[:, None]
    hard = (r == r.amax(1, keepdim=True)).double()

    def both(value):
        return torch.stack([value, value])

    yield side(
        both(ones / total),
        wrong={
            "divided by N": both(ones / len(x)),
            "normalised over n and k": both(ones / r.sum()),
            "every picture counted fully": both(x.mean(0).expand(K, D)),
            "every picture given to its likeliest kind": both(
                hard.T @ x / hard.sum(0)[:, None].clamp(min=1)
            ),
            "zeros counted": both(1 - ones / total),
        },
    )
    yield side(torch.stack([pi.softmax(0), model.weights]), error=1e-5)
    yield side(
        both(total[:, 0] / len(x)),
        wrong={
            "not divided": both(total[:, 0]),
            "divided by K": both(total[:, 0] / K),
            "every picture given to its likeliest kind": both(hard.mean(0)),
        },
    )


# --- four uses ------------------------------------------------------------------------


@equation(
    "auc",
    r"""
    \mathrm{AUC} = \Pr[s(x) > s(x')] + \tfrac12 \Pr[s(x) = s(x')]
                 = \int_0^1 h(a)\, da
    """,
)
def area_under_roc(rng):
    # Whole numbers for scores, so that there are ties.
    normal = torch.randint(0, 8, (40,), generator=rng).double()
    anomalous = torch.randint(2, 10, (30,), generator=rng).double()
    above = (anomalous[:, None] > normal).double().mean()
    tied = (anomalous[:, None] == normal).double().mean()
    yield side(
        auc(normal, anomalous).mean, wrong={"roles": auc(anomalous, normal).mean}
    )
    yield side(
        above + tied / 2,
        wrong={
            "ties forgotten": above,
            "ties in full": above + tied,
            "below": 1 - above - tied,
        },
    )
    alarms, hits = roc(normal, anomalous)  # a and h(a)
    yield side(
        trapezoid(hits, alarms),
        wrong={
            "axes exchanged": trapezoid(alarms, hits),
            "steps, not straight lines": (hits[:-1] * alarms.diff()).sum(),
            "mean over thresholds": hits.mean(),
        },
    )


@equation(
    "likelihood-ratio",
    r"""
    \begin{aligned}
    s(x) &= -\ln p(x) - \bigl( -\ln p_\text{plain}(x) \bigr) \\
         &= \ln \frac{p_\text{plain}(x)}{p(x)}
    \end{aligned}
    """,
)
def likelihood_ratio(rng):
    mixture, chain = random_mixture(rng, 5, 3), random_probs(MarkovChain(5), rng)
    x = all_binary(5)
    yield side(log_likelihoods(chain, x) - log_likelihoods(mixture, x))
    surprise, plain = -mixture.log_prob(x), -chain.log_prob(x)
    yield side(
        surprise - plain,
        wrong={"sign": plain - surprise, "sum": surprise + plain, "alone": surprise},
    )
    # Of probabilities, each multiplied out from the coins.
    coins = torch.where(x[:, None] == 1, mixture.probs, 1 - mixture.probs).prod(-1)
    p = coins @ mixture.weights
    after = torch.where(x[:, :-1] == 1, chain.after_one, chain.after_zero)
    black = torch.cat([chain.first.expand(len(x), 1), after], 1)
    p_plain = torch.where(x == 1, black, 1 - black).prod(1)
    yield side(
        (p_plain / p).log(),
        wrong={
            "turned round": (p / p_plain).log(),
            "no logarithm": p_plain / p,
            "weighed by p": (p * (p_plain / p).log()),
        },
    )


@equation(
    "bayes-classifier",
    r"""
    p(y \mid x) = \frac{p(x, y)}{p(x)}
                = \frac{p(y)\, p(x \mid y)}{\sum_{y'} p(y')\, p(x \mid y')}
    """,
)
def bayes_classifier(rng):
    D, n = 3, 100_000
    densities = [
        random_probs(IndependentBernoulli(D), rng),
        random_probs(MarkovChain(D), rng),
    ]
    prior = random_table(rng, 2)
    model = GenerativeClassifier(densities, prior)
    x = all_binary(D)
    exact = model.posterior(x)
    yield side(exact)
    # Draw labels and pictures: among the draws that gave this x, the share of each
    # label.
    y = torch.multinomial(prior, n, replacement=True, generator=rng)
    drawn = torch.stack([density.sample((n,)) for density in densities])[
        y, torch.arange(n)
    ]
    joint = tally(drawn, y) / n
    of_x = joint.sum(1, keepdim=True)
    yield side(
        joint / of_x,
        se=(exact * (1 - exact) / (n * of_x)).sqrt(),
        wrong={"divided by p(y)": joint / joint.sum(0), "not divided": joint},
    )
    first, second = (density.log_prob(x).exp() for density in densities)
    likelihood = torch.stack([first, second], 1)
    evidence = prior[0] * first + prior[1] * second
    yield side(
        likelihood * prior / evidence[:, None],
        wrong={
            "prior forgotten": likelihood / likelihood.sum(1, keepdim=True),
            "prior forgotten below": likelihood
            * prior
            / likelihood.sum(1, keepdim=True),
            "condition turned round": likelihood,
        },
    )


@equation(
    "summing-out",
    r"""
    \begin{aligned}
    \sum_{x_{\mathcal{U}}} \prod_{i=1}^{D} \theta_i^{x_i} (1 - \theta_i)^{1 - x_i}
      &= \prod_{i \in \mathcal{K}} \theta_i^{x_i} (1 - \theta_i)^{1 - x_i}
         \prod_{i \in \mathcal{U}} \bigl(\theta_i + (1 - \theta_i)\bigr) \\
      &= \prod_{i \in \mathcal{K}} \theta_i^{x_i} (1 - \theta_i)^{1 - x_i}
    \end{aligned}
    """,
)
def summing_out(rng):
    D = 6
    model = random_probs(BernoulliMixture(D, 1), rng)
    model.weights.fill_(1)  # one kind: independent pixels
    theta = model.probs[0]
    known = torch.randperm(D, generator=rng) < 3
    K, U = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
    x = all_binary(D)
    table = coins(x, theta).prod(-1).reshape([2] * D)
    seen = coins(x[:, K], theta[K]).prod(-1)

    def summed(pixels):
        """For every x, the sum over all that agree with it in the other pixels."""
        return table.sum(pixels.tolist(), keepdim=True).expand_as(table).flatten()

    yield side(
        summed(U),
        wrong={
            "the seen pixels summed": summed(K),
            "mean for sum": summed(U) / 2 ** len(U),
        },
    )
    yield side(
        seen * math.prod(theta[i] + (1 - theta[i]) for i in U),
        wrong={
            "product of both for their sum": seen * (theta * (1 - theta))[U].prod(),
            "only black": seen * theta[U].prod(),
        },
    )
    yield side(
        model.log_prob(x, known).exp(),
        wrong={
            "hidden pixels taken for white": model.log_prob(x * known).exp(),
            "hidden pixels filled with the mean": model.log_prob(
                x.where(known, theta)
            ).exp(),
            "the mask turned round": model.log_prob(x, ~known).exp(),
        },
    )


@equation(
    "hidden-pixel",
    r"""
    p(x_i = 1 \mid x_{\mathcal{K}}) = \sum_{k} p(k \mid x_{\mathcal{K}})\, \theta_{ki}
    \qquad i \in \mathcal{U}
    """,
)
def hidden_pixel(rng):
    D, K = 6, 3
    model = random_mixture(rng, D, K)
    known = torch.randperm(D, generator=rng) < 3
    x, U = all_binary(D), ~known
    p = model.log_prob(x).exp()
    agree = (
        (x[:, None, known] == x[None, :, known]).all(-1).double()
    )  # of any two settings
    black = torch.stack([agree @ (p * x[:, i]) for i in U.nonzero()[:, 0]], 1)
    yield side(black / (agree @ p)[:, None], wrong={"not divided by p(x_K)": black})
    yield side(
        model.responsibilities(x, known) @ model.probs[:, U],
        wrong={
            "prior in place of responsibilities": (model.weights @ model.probs)[
                U
            ].expand_as(black),
            "responsibilities of the whole picture": model.responsibilities(x)
            @ model.probs[:, U],
        },
    )


# --- what a likelihood means ----------------------------------------------------------


@equation(
    "coin-floor",
    r"""
    \begin{aligned}
    H(p_{\text{data}})
      &= -\sum_x \mathbb{E}_g [p(x \mid g)] \ln p_{\text{data}}(x) \\
      &= \mathbb{E}_g \Bigl[ -\sum_x p(x \mid g) \ln p_{\text{data}}(x) \Bigr] \\
      &\ge \mathbb{E}_g \Bigl[ -\sum_x p(x \mid g) \ln p(x \mid g) \Bigr] \\
      &= \mathbb{E}_g \Bigl[ \sum_{i=1}^{D} \bigl( -g_i \ln g_i
      - (1 - g_i) \ln (1 - g_i) \bigr) \Bigr]
    \end{aligned}
    """,
)
def coin_floor(rng):
    D, M = 4, 3
    g = torch.rand(M, D, generator=rng)  # the grey values of M images, ...
    share = random_table(rng, M)  # ... each with its probability
    x = all_binary(D)
    given = torch.stack([coins(x, one).prod(-1) for one in g])  # (M, 16)
    p_data = sum(share[m] * given[m] for m in range(M))
    yield side(entropy(p_data), wrong={"for each pixel": entropy(p_data) / D})
    yield side(
        -((share @ given) * p_data.log()).sum(), wrong={"no mean": -p_data.log().sum()}
    )
    each = torch.stack([cross_entropy(one, p_data) for one in given])
    turned = torch.stack([cross_entropy(p_data, one) for one in given])
    yield side(
        share @ each,
        wrong={"the other way round": share @ turned, "all images alike": each.mean()},
    )
    mean = share @ g
    wrong = {"entropy of the mean grey": Bernoulli(mean).entropy().sum()}
    yield side(share @ entropy(given), wrong=wrong)
    yield side(
        share @ (-g * g.log() - (1 - g) * (1 - g).log()).sum(1),
        wrong=wrong | {"sum over the images": Bernoulli(g).entropy().sum()},
    )


@equation(
    "spoiled-model",
    r"""
    \ln \bigl( \epsilon\, p(x) + (1 - \epsilon)\, q(x) \bigr)
      \ge \ln p(x) - \ln \frac{1}{\epsilon}
    """,
)
def spoiled_model(rng):
    D = 10
    p, snow = random_probs(MarkovChain(D), rng), IndependentBernoulli(D).double()
    epsilon = 0.05 + 0.2 * torch.rand((), generator=rng)
    x = all_binary(D)
    ln_p, ln_q = p.log_prob(x), snow.log_prob(x)
    spoiled = GenerativeClassifier([p, snow], torch.stack([epsilon, 1 - epsilon]))
    yield side(
        spoiled.log_prob(x),
        wrong={"mean of the logarithms": epsilon * ln_p + (1 - epsilon) * ln_q},
    )
    yield side(
        ln_p - (1 / epsilon).log(),
        wrong={
            "loss forgotten": ln_p,
            "sign of the loss": ln_p + (1 / epsilon).log(),
            "shares exchanged": ln_p - (1 / (1 - epsilon)).log(),
            "snow for digits": ln_q,
        },
    )
