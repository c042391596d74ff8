"""The equations of the chapter on autoregressive models."""

import itertools
import math

import torch
from torch.distributions import Bernoulli

from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN
from companion.autoregressive.pixelcnn import gate
from companion.checks import all_binary, frequencies, total_probability
from companion.evaluation import nll
from companion.nn import MaskedConv2d, MaskedLinear
from tests.equations import equation, side

CHAPTER = "autoregressive-models"

# --- what the checks are made of ------------------------------------------------------


def random_table(rng, *shape):
    """A random joint distribution of discrete variables, one axis each."""
    table = torch.rand(shape, generator=rng) + 0.05
    return table / table.sum()


def random_parameters(model, rng, scale=1):
    """The model in float64 with every parameter drawn at random."""
    model = model.double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))
    return model


def by_enumeration(table, x, order):
    """p(x_{o_i} | x_{o_1}, ..., x_{o_{i-1}}) for each i, from sums over the whole joint table."""
    conditionals = []
    for i, entry in enumerate(order):
        given = order[:i]
        index = [int(x[d]) if d in given else slice(None) for d in range(table.dim())]
        hit = list(index)
        hit[entry] = int(x[entry])
        conditionals.append(table[tuple(hit)].sum() / table[tuple(index)].sum())
    return torch.stack(conditionals)


def table_of(model):
    """The joint table of a model of binary vectors, one axis of length two per entry."""
    return (
        model.log_prob(all_binary(model.features)).exp().reshape([2] * model.features)
    )


def fvsbn_logits(model, x):
    """b_i + sum_{j<i} w_ij x_j by plain loops."""
    b, w = model.layer.bias, model.layer.weight
    return torch.stack(
        [
            b[i] + sum((w[i, j] * x[j] for j in range(i)), torch.zeros(()))
            for i in range(len(x))
        ]
    )


# --- three rules ----------------------------------------------------------------------


@equation("conditional-probability", r"p(x \mid y) = \frac{p(x, y)}{p(y)}")
def conditional_probability(rng):
    p = random_table(rng, 3, 4)
    n = 400_000
    drawn = torch.multinomial(p.flatten(), n, replacement=True, generator=rng)
    counts = drawn.bincount(minlength=12).reshape(3, 4).double()
    ratio = p / p.sum(0)
    # Among the draws with this y, the share that has this x.
    yield side(counts / counts.sum(0), se=(ratio * (1 - ratio) / counts.sum(0)).sqrt())
    yield side(ratio, wrong={"divided by p(x)": p / p.sum(1, keepdim=True)})


@equation(
    "chain-rule-three",
    r"""
    \begin{aligned}
    p(x_1, x_2, x_3) &= p(x_1, x_2)\, p(x_3 \mid x_1, x_2) \\
                     &= p(x_1)\, p(x_2 \mid x_1)\, p(x_3 \mid x_1, x_2)
    \end{aligned}
    """,
)
def chain_rule_three(rng):
    p = random_table(rng, 2, 3, 4)
    first, pair = p.sum((1, 2)), p.sum(2)
    third_given_pair = p / pair[:, :, None]
    yield side(p)
    yield side(
        pair[:, :, None] * third_given_pair,
        wrong={"last variable on its own": pair[:, :, None] * p.sum((0, 1))},
    )
    yield side(
        torch.einsum("a,ab,abc->abc", first, pair / first[:, None], third_given_pair),
        wrong={
            "middle condition lost": torch.einsum(
                "a,b,abc->abc", first, pair.sum(0), third_given_pair
            )
        },
    )


@equation("chain-rule", r"p(x) = \prod_{i=1}^{D} p(x_i \mid x_{<i})")
def chain_rule(rng):
    p = random_table(rng, 2, 2, 2, 2, 2)
    vectors = all_binary(5)
    factors = torch.stack([by_enumeration(p, x, range(5)) for x in vectors])
    marginals = [p.movedim(i, 0).reshape(2, -1).sum(1) for i in range(5)]
    alone = torch.stack([marginals[i][vectors[:, i].long()] for i in range(5)])
    yield side(p.flatten())
    yield side(
        factors.prod(1),
        wrong={
            "conditions lost": alone.prod(0),
            "first factor lost": factors[:, 1:].prod(1),
        },
    )


@equation(
    "bayes-rule",
    r"""
    p(y \mid x) = \frac{p(x \mid y)\, p(y)}{p(x)}
                = \frac{p(x \mid y)\, p(y)}{\sum_{y'} p(x \mid y')\, p(y')}
    """,
)
def bayes_rule(rng):
    # Start from what Bayes' rule starts from: a prior over y and a likelihood of x for
    # each y.
    prior = random_table(rng, 4)
    likelihood = (torch.rand(4, 3, generator=rng) + 0.1).softmax(1)
    joint = torch.stack([prior[y] * likelihood[y] for y in range(4)])
    yield side(joint / joint.sum(0))
    yield side(
        likelihood * prior[:, None] / joint.sum(0),
        wrong={
            "prior forgotten": likelihood / likelihood.sum(0),
            "evidence forgotten": likelihood * prior[:, None],
            "condition turned round": likelihood,
        },
    )
    evidence = torch.einsum("y,yx->x", prior, likelihood)
    yield side(
        torch.einsum("y,yx,x->yx", prior, likelihood, 1 / evidence),
        wrong={
            "evidence without the prior": likelihood
            * prior[:, None]
            / likelihood.mean(0)
        },
    )


@equation(
    "conditional-independence",
    r"p(x \mid y, z) = p(x \mid z) \quad \text{for } x \perp y \mid z",
)
def conditional_independence(rng):
    z = random_table(rng, 3)
    x_given_z = torch.rand(4, 3, generator=rng).softmax(0)
    y_given_z = torch.rand(5, 3, generator=rng).softmax(0)
    p = torch.einsum("z,xz,yz->xyz", z, x_given_z, y_given_z)
    dependent = random_table(rng, 4, 5, 3)
    yield side(
        p / p.sum(0),
        wrong={"x and y dependent given z": dependent / dependent.sum(0)},
    )
    pair = p.sum(1)
    yield side(
        (pair / pair.sum(0))[:, None, :].expand(4, 5, 3),
        wrong={"z forgotten as well": p.sum((1, 2))[:, None, None].expand(4, 5, 3)},
    )


@equation(
    "mutual-information",
    r"""
    I(x; y \mid z)
      = \sum_{x, y, z} p(x, y, z) \ln \frac{p(x \mid y, z)}{p(x \mid z)} \ge 0
    """,
)
def mutual_information(rng):
    p = random_table(rng, 2, 3, 4)

    def entropy(table):
        return -(table * table.log()).sum()

    xz, yz, z = p.sum(1), p.sum(0), p.sum((0, 1))
    yield side(entropy(xz) + entropy(yz) - entropy(p) - entropy(z))
    ratio = (p / yz) / (xz / z)[:, None, :]
    pair = p.sum(2)
    unconditional = pair * (pair / (pair.sum(0) * pair.sum(1, keepdim=True))).log()
    yield side(
        (p * ratio.log()).sum(),
        wrong={
            "ratio turned round": -(p * ratio.log()).sum(),
            "z left out": unconditional.sum(),
            "logarithm left out": (p * ratio).sum(),
        },
    )
    yield side(0)


# --- counting parameters --------------------------------------------------------------


@equation("parameters-joint", r"\sum_{i=1}^{D} 2^{i-1} = 2^D - 1")
def parameters_joint(rng):
    sizes = torch.randperm(12, generator=rng)[:4] + 1
    # One probability for each setting of the earlier entries, listed one by one.
    yield side(
        torch.tensor(
            [
                sum(1 for i in range(D) for _ in itertools.product((0, 1), repeat=i))
                for D in sizes.tolist()
            ]
        )
    )
    # A table with one cell per vector; the last cell follows from the others.
    tables = torch.tensor([len(all_binary(D)) - 1 for D in sizes.tolist()])
    yield side(
        tables, wrong={"sum to one forgotten": tables + 1, "one bit lost": tables // 2}
    )


@equation(
    "parameters-window",
    r"\sum_{i=1}^{D} 2^{\min(i-1,\, n)} = 2^n - 1 + (D - n)\, 2^n",
)
def parameters_window(rng):
    D = int(torch.randint(8, 13, (), generator=rng))
    n = torch.arange(D)
    listed = [
        sum(
            len({bits[max(0, i - k) : i] for bits in itertools.product("01", repeat=i)})
            for i in range(D)
        )
        for k in n.tolist()
    ]
    yield side(torch.tensor(listed))
    yield side(
        2**n - 1 + (D - n) * 2**n,
        wrong={
            "every entry counted with a full window": D * 2**n,
            "window off by one": 2 ** (n + 1) - 1 + (D - n - 1) * 2 ** (n + 1),
        },
    )


@equation("ar-window", r"p(x_i \mid x_{<i}) = p(x_i \mid x_{i-n}, \dots, x_{i-1})")
def ar_window(rng):
    D, n = 7, 2
    table = table_of(random_parameters(FVSBN(D, window=n), rng))
    wider = table_of(random_parameters(FVSBN(D, window=n + 1), rng))
    x = all_binary(D)[int(torch.randint(2**D, (), generator=rng))].long()
    i = D - 1

    def given(table, start):
        index = tuple(int(x[d]) if start <= d < i else slice(None) for d in range(D))
        rest = table[index].reshape(-1, 2).sum(0)
        return rest[x[i]] / rest.sum()

    yield side(given(table, 0), wrong={"window one wider": given(wider, 0)})
    yield side(
        given(table, i - n), wrong={"window one narrower": given(table, i - n + 1)}
    )


# --- the logistic model ---------------------------------------------------------------


@equation(
    "bernoulli-logit",
    r"""
    \begin{aligned}
    \ln p(x_i \mid x_{<i}) &= x_i \ln \sigma(a_i) + (1 - x_i) \ln\bigl(1
        - \sigma(a_i)\bigr) \\
                           &= x_i a_i - \ln\bigl(1 + e^{a_i}\bigr)
    \end{aligned}
    """,
)
def bernoulli_logit(rng):
    a = 3 * torch.randn(8, generator=rng)
    x = torch.bernoulli(torch.full((8,), 0.5), generator=rng)
    x[:2] = torch.tensor([0.0, 1.0])
    yield side(Bernoulli(logits=a).log_prob(x))
    s = 1 / (1 + torch.exp(-a))
    yield side(
        x * s.log() + (1 - x) * (1 - s).log(),
        wrong={
            "roles of 0 and 1 exchanged": (1 - x) * s.log() + x * (1 - s).log(),
            "sigmoid twice": x * s.sigmoid().log() + (1 - x) * (1 - s.sigmoid()).log(),
        },
    )
    yield side(
        x * a - (1 + a.exp()).log(),
        wrong={"sign of the second term": x * a + (1 + a.exp()).log()},
    )


@equation(
    "fvsbn",
    r"p(x_i = 1 \mid x_{<i}) = \sigma\Bigl(b_i + \sum_{j<i} w_{ij} x_j\Bigr)",
)
def fvsbn(rng):
    model = random_parameters(FVSBN(6), rng)
    x = all_binary(6)[int(torch.randint(1, 63, (), generator=rng))]
    ones = [torch.cat([x[:i], torch.ones(1), x[i + 1 :]]) for i in range(6)]
    table = table_of(model)
    yield side(
        torch.stack([by_enumeration(table, ones[i], range(6))[i] for i in range(6)])
    )
    a = fvsbn_logits(model, x)
    w = model.layer.weight
    yield side(
        torch.sigmoid(a),
        wrong={
            "sigmoid forgotten": a,
            "a pixel sees itself": torch.sigmoid(a + w.diagonal() * x.clamp(min=0.5)),
            "later pixels instead of earlier ones": torch.sigmoid(
                model.layer.bias + (w.triu(1) * (x + 0.5)).sum(1)
            ),
        },
    )


@equation("ar-log-likelihood", r"\ln p(x) = \sum_{i=1}^{D} \ln p(x_i \mid x_{<i})")
def ar_log_likelihood(rng):
    model = random_parameters(FVSBN(6), rng)
    x = all_binary(6)[torch.randperm(64, generator=rng)[:5]]
    yield side(model.log_prob(x))
    s = torch.stack([fvsbn_logits(model, one).sigmoid() for one in x])
    conditionals = torch.where(x == 1, s, 1 - s)
    yield side(
        conditionals.log().sum(-1),
        wrong={
            "mean instead of sum": conditionals.log().mean(-1),
            "logarithm left out": conditionals.sum(-1),
            "sign": -conditionals.log().sum(-1),
        },
    )


@equation(
    "normalisation",
    r"""
    \begin{aligned}
    \sum_{x} \prod_{i=1}^{D} p(x_i \mid x_{<i})
      &= \sum_{x_{<D}} \prod_{i=1}^{D-1} p(x_i \mid x_{<i})
          \sum_{x_D} p(x_D \mid x_{<D}) \\
      &= \sum_{x_{<D}} \prod_{i=1}^{D-1} p(x_i \mid x_{<i}) \\
      &= 1
    \end{aligned}
    """,
)
def normalisation(rng):
    D = 7
    model = random_parameters(MADE(D, (20,)), rng)

    def factors(x):
        s = torch.sigmoid(model.logits(x))
        return torch.where(x == 1, s, 1 - s)

    def cheating(x):
        s = torch.sigmoid(
            model.logits(x) + 2 * x - 1
        )  # a conditional that sees its own pixel
        return torch.where(x == 1, s, 1 - s)

    yield side(
        total_probability(model.log_prob, D),
        wrong={"a factor sees its own pixel": cheating(all_binary(D)).prod(-1).sum()},
    )
    outer = [torch.cat([x, torch.zeros(1)]) for x in all_binary(D - 1)]
    inner = [torch.cat([x, torch.ones(1)]) for x in all_binary(D - 1)]
    last = torch.stack(
        [factors(a)[-1] + factors(b)[-1] for a, b in zip(outer, inner, strict=True)]
    )
    first = torch.stack([factors(a)[:-1].prod() for a in outer])
    yield side(
        (first * last).sum(),
        wrong={"last pixel summed over once only": (first * last / 2).sum()},
    )
    # The first D-1 conditionals are those of a smaller model that never heard of the
    # last entry.
    shorter = factors(
        torch.cat([all_binary(D - 1), torch.full((2 ** (D - 1), 1), 0.5)], 1)
    )
    yield side(shorter[:, :-1].prod(-1).sum())
    yield side(1)


@equation(
    "fvsbn-gradient",
    r"""
    \begin{aligned}
    \frac{\partial \ln p(x)}{\partial w_{ij}}
      &= \frac{\partial}{\partial a_i} \bigl(x_i a_i - \ln(1 + e^{a_i})\bigr)
         \cdot \frac{\partial a_i}{\partial w_{ij}} \\
      &= \Bigl(x_i - \frac{e^{a_i}}{1 + e^{a_i}}\Bigr)\, x_j \\
      &= \bigl(x_i - \sigma(a_i)\bigr)\, x_j
    \end{aligned}
    """,
)
def fvsbn_gradient(rng):
    model = random_parameters(FVSBN(6), rng)
    x = torch.bernoulli(torch.full((6,), 0.7), generator=rng)
    x[0] = 1.0
    before = torch.ones(6, 6).tril(-1)
    weight = model.layer.weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.log_prob(x), weight)
    yield side(gradient)
    a = fvsbn_logits(model, x).detach()

    def score(a):
        return x * a - torch.log1p(a.exp())

    h = 1e-5
    slope = (score(a + h) - score(a - h)) / (2 * h)
    yield side(slope[:, None] * x * before, error=1e-8)
    yield side(
        (x - a.exp() / (1 + a.exp()))[:, None] * x * before,
        wrong={
            "x_i where x_j belongs": ((x - a.exp() / (1 + a.exp())) * x)[:, None]
            * before
        },
    )
    yield side(
        torch.outer(x - a.sigmoid(), x) * before,
        wrong={"sign": torch.outer(a.sigmoid() - x, x) * before},
    )


# --- sampling -------------------------------------------------------------------------


@equation(
    "ancestral-sampling",
    r"\Pr[\tilde x = x] = \prod_{i=1}^{D} p(x_i \mid x_{<i})",
)
def ancestral_sampling(rng):
    D, n = 5, 60_000
    model = random_parameters(MADE(D, (12,), torch.randperm(D, generator=rng)), rng)
    for parameter in model.parameters():
        parameter.mul_(0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        share = frequencies(model.sample((n,)))
    x = all_binary(D)
    s = torch.sigmoid(model.logits(x))
    exact = torch.where(x == 1, s, 1 - s).prod(-1)
    yield side(share, se=(exact * (1 - exact) / n).sqrt())
    twice = s.sigmoid()
    yield side(
        exact, wrong={"sigmoid twice": torch.where(x == 1, twice, 1 - twice).prod(-1)}
    )


# --- MADE -----------------------------------------------------------------------------


@equation("masked-layer", r"h = g\bigl((M \odot W)\, x + b\bigr)")
def masked_layer(rng):
    mask = torch.rand(4, 6, generator=rng) < 0.5
    layer = random_parameters(MaskedLinear(mask), rng)
    x = torch.randn(6, generator=rng)
    yield side(torch.relu(layer(x)))
    w, b = layer.weight, layer.bias
    rows = [
        b[k] + sum(w[k, j] * x[j] for j in range(6) if mask[k, j]) for k in range(4)
    ]
    yield side(
        torch.stack(rows).clamp(min=0),
        wrong={
            "mask forgotten": (w @ x + b).clamp(min=0),
            "bias forgotten": (w * mask @ x).relu(),
        },
    )


@equation(
    "made-masks",
    r"""
    \begin{aligned}
    M^{\text{in}}_{kj} &= \mathbf{1}[m_k \ge j] \\
    M^{\text{out}}_{ik} &= \mathbf{1}[i > m_k]
    \end{aligned}
    """,
)
def made_masks(rng):
    D = int(torch.randint(4, 9, (), generator=rng))
    H = int(torch.randint(10, 20, (), generator=rng))
    model = MADE(D, (H,))
    # Degrees spread evenly over 1, ..., D-1; entries counted from 1 as in the text.
    m = [1 + k * (D - 1) // H for k in range(H)]
    entries = range(1, D + 1)
    yield side(model.layers[0].mask[0].double())
    yield side(
        torch.tensor([[float(m[k] >= j) for j in entries] for k in range(H)]),
        wrong={
            "> for ≥": torch.tensor(
                [[float(m[k] > j) for j in entries] for k in range(H)]
            )
        },
    )
    yield side(model.output.mask[0].double())
    yield side(
        torch.tensor([[float(i > m[k]) for k in range(H)] for i in entries]),
        wrong={
            "≥ for >": torch.tensor(
                [[float(i >= m[k]) for k in range(H)] for i in entries]
            )
        },
    )


@equation(
    "made-paths",
    r"""
    \sum_{k=1}^{H} M^{\text{out}}_{ik} M^{\text{in}}_{kj}
      = \bigl|\{k : j \le m_k < i\}\bigr|
    """,
)
def made_paths(rng):
    D, H = 6, int(torch.randint(8, 30, (), generator=rng))
    model = MADE(D, (H,))
    yield side((model.output.mask[0] @ model.layers[0].mask[0]).double())
    m = [1 + k * (D - 1) // H for k in range(H)]

    def count(test):
        return torch.tensor(
            [
                [float(sum(test(i, j, k) for k in m)) for j in range(1, D + 1)]
                for i in range(1, D + 1)
            ]
        )

    yield side(
        count(lambda i, j, m: j <= m < i),
        wrong={"a path from a pixel to itself": count(lambda i, j, m: j <= m <= i)},
    )


# --- orders ---------------------------------------------------------------------------


@equation(
    "order-chain-rule",
    r"p(x) = \prod_{i=1}^{D} p\bigl(x_{o_i} \mid x_{o_1}, \dots, x_{o_{i-1}}\bigr)",
)
def order_chain_rule(rng):
    p = random_table(rng, 2, 2, 2, 2, 2)
    while (order := torch.randperm(5, generator=rng).tolist())[0] == 0:
        pass
    vectors = all_binary(5)
    yield side(p.flatten())
    natural = torch.stack([by_enumeration(p, x, range(5)) for x in vectors])
    each = torch.stack([by_enumeration(p, x, order) for x in vectors])
    mixed = torch.cat([natural[:, :2], each[:, 2:]], 1)
    yield side(
        each.prod(-1),
        wrong={"conditionals of two orders mixed": mixed.prod(-1)},
    )


def ensemble(rng, D=5, M=3):
    """An order-agnostic MADE, and ln p_m(x) of each order by a model of that order alone."""
    orders = torch.stack([torch.randperm(D, generator=rng) for _ in range(M)])
    model = random_parameters(MADE(D, (12,), orders), rng)
    x = all_binary(D)
    each = []
    for order in orders:
        member = MADE(D, (12,), order).double()
        member.load_state_dict(model.state_dict())
        each.append(member.log_prob(x).detach())
    return model, x, torch.stack(each)


@equation("order-ensemble", r"p(x) = \frac{1}{M} \sum_{m=1}^{M} p_m(x)")
def order_ensemble(rng):
    model, x, each = ensemble(rng)
    yield side(model.log_prob(x).exp())
    logits = torch.stack([model.logits(x, m) for m in range(3)]).mean(0)
    yield side(
        each.exp().mean(0),
        wrong={
            "logits averaged": Bernoulli(logits=logits).log_prob(x).sum(-1).exp(),
            "log-probabilities averaged": each.mean(0).exp(),
        },
    )


@equation(
    "ensemble-bound",
    r"\ln \frac{1}{M} \sum_{m=1}^{M} p_m(x) \ge \frac{1}{M} \sum_{m=1}^{M} \ln p_m(x)",
)
def ensemble_bound(rng):
    model, x, each = ensemble(rng)
    yield side(model.log_prob(x))
    yield side(each.mean(0), wrong={"sum instead of mean": each.exp().sum(0).log()})


# --- NADE -----------------------------------------------------------------------------


def walked_hidden_units(model, x):
    """h_i for each i, as the package's walk has them, ``(D, H)``.

    The logit V_i h_i + b_i is the k-th hidden unit if V_i picks that one and b_i is zero.
    """
    D, H = model.V.shape
    probe = NADE(D, H).double().requires_grad_(False)
    probe.W.copy_(model.W)
    probe.c.copy_(model.c)
    h = torch.zeros(D, H)
    for k in range(H):
        probe.V.copy_(torch.eye(H)[k])
        for i, logit in enumerate(probe.walk(x[None])):
            h[i, k] = logit
    return h


def sums(model, x, seen):
    """c + sum_j W_j x_j over the j for which ``seen(j, i)``, for each i, by plain loops."""
    D = len(x)
    return torch.stack(
        [
            model.c + sum(model.W[j] * x[j] for j in range(D) if seen(j, i))
            for i in range(D)
        ]
    )


@equation(
    "nade",
    r"""
    \begin{aligned}
    h_i &= \sigma\Bigl(c + \sum_{j<i} W_j x_j\Bigr) \\
    p(x_i = 1 \mid x_{<i}) &= \sigma(b_i + V_i \cdot h_i)
    \end{aligned}
    """,
)
def nade(rng):
    D = 6
    model = random_parameters(NADE(D, 4), rng)
    x = all_binary(D)[int(torch.randint(1, 2**D - 1, (), generator=rng))]
    a = sums(model, x, lambda j, i: j < i)
    yield side(walked_hidden_units(model, x))
    yield side(
        1 / (1 + torch.exp(-a)),
        wrong={
            "the sum runs to i": sums(model, x, lambda j, i: j <= i).sigmoid(),
            "later entries instead of earlier ones": sums(
                model, x, lambda j, i: j > i
            ).sigmoid(),
            "c forgotten": (a - model.c).sigmoid(),
            "sigmoid forgotten": a,
        },
    )
    ones = [torch.cat([x[:i], torch.ones(1), x[i + 1 :]]) for i in range(D)]
    table = table_of(model)
    yield side(
        torch.stack([by_enumeration(table, ones[i], range(D))[i] for i in range(D)])
    )

    def output(a):
        h = 1 / (1 + torch.exp(-a))
        logits = [
            model.b[i] + sum(model.V[i, k] * h[i, k] for k in range(4))
            for i in range(D)
        ]
        return torch.stack(logits).sigmoid()

    yield side(
        output(a),
        wrong={
            "a pixel sees itself": output(sums(model, x, lambda j, i: j <= i)),
            "b forgotten": (output(a).logit() - model.b).sigmoid(),
            "hidden units left linear": (model.b + (model.V * a).sum(1)).sigmoid(),
            "sigmoid twice": output(a).sigmoid(),
        },
    )


@equation(
    "nade-recursion",
    r"""
    \begin{aligned}
    u_{i+1} &= c + \sum_{j<i+1} W_j x_j \\
            &= c + \sum_{j<i} W_j x_j + W_i x_i \\
            &= u_i + W_i x_i
    \end{aligned}
    """,
)
def nade_recursion(rng):
    D = 6
    model = random_parameters(NADE(D, 4), rng)
    x = all_binary(D)[int(torch.randint(1, 2 ** (D - 1), (), generator=rng)) * 2]
    W, c = model.W, model.c
    yield side(walked_hidden_units(model, x)[1:].logit())
    yield side(
        sums(model, x, lambda j, i: j < i + 1)[:-1],
        wrong={"the sum one entry short": sums(model, x, lambda j, i: j < i)[:-1]},
    )
    terms = torch.diag(x) @ W
    earlier = torch.ones(D, D).tril(-1) @ terms
    yield side(
        (c + earlier + terms)[:-1],
        wrong={
            "last term lost": (c + earlier)[:-1],
            "last term of the next entry": (c + earlier)[:-1] + terms[1:],
        },
    )

    def run(a, entries):
        for i in entries:
            a = a + W[i] * x[i]
            yield a

    yield side(
        torch.stack(list(run(c, range(D - 1)))),
        wrong={
            "begun at zero": torch.stack(list(run(0 * c, range(D - 1)))),
            "begun at the second entry": torch.stack(list(run(c, range(1, D)))),
        },
    )


# --- convolutions ---------------------------------------------------------------------


def taps(kernel, x, rows, columns):
    """sum_{s,t} kernel_{st} x_{r+s, c+t} by plain loops, zero outside: ``(C, h, w) -> (C', h, w)``.

    Args:
        kernel: ``(C', C, len(rows), len(columns))``.
        rows, columns: the s and t that the kernel's rows and columns stand for.
    """
    _, height, width = x.shape
    y = torch.zeros(len(kernel), height, width)
    for r, c in itertools.product(range(height), range(width)):
        for (a, s), (b, t) in itertools.product(enumerate(rows), enumerate(columns)):
            if 0 <= r + s < height and 0 <= c + t < width:
                y[:, r, c] += kernel[:, :, a, b] @ x[:, r + s, c + t]
    return y


@equation(
    "masked-convolution",
    r"y_{rc} = b + \sum_{s,\, t} M_{st} W_{st}\, x_{r+s,\, c+t}",
)
def masked_convolution(rng):
    k = 2
    x = torch.randn(1, 5, 6, generator=rng)
    layers = [
        random_parameters(MaskedConv2d(kind, 1, 1, 2 * k + 1), rng) for kind in "AB"
    ]
    offsets = range(-k, k + 1)

    a = torch.zeros(2 * k + 1, 2 * k + 1)
    a[:k] = 1  # the rows above
    a[k, :k] = 1  # to the left
    b = a.clone()
    b[k, k] = 1  # the centre

    def by_loops(masks, flip=(), bias=1):
        images = [
            bias * layer.bias
            + taps((m * layer.weight).flip(flip), x, offsets, offsets)[0]
            for layer, m in zip(layers, masks, strict=True)
        ]
        return torch.stack(images)

    yield side(torch.stack([layer(x[None])[0, 0] for layer in layers]))
    yield side(
        by_loops([a, b]),
        wrong={
            "B for A": by_loops([b, b]),
            "A for B": by_loops([a, a]),
            "mask forgotten": by_loops([torch.ones_like(a)] * 2),
            "rows and columns of the mask exchanged": by_loops([a.T, b.T]),
            "kernel turned round, as in a true convolution": by_loops(
                [a, b], flip=(-2, -1)
            ),
            "bias forgotten": by_loops([a, b], bias=0),
        },
    )


@equation("gate", r"\operatorname{gate}(a) = \tanh(a_1) \odot \sigma(a_2)")
def gating(rng):
    a = torch.randn(2, 6, 3, 4, generator=rng)
    yield side(gate(a))
    first, second = a[:, :3].tanh(), 1 / (1 + torch.exp(-a[:, 3:]))
    yield side(
        torch.stack([first[:, j] * second[:, j] for j in range(3)], 1),
        wrong={
            "halves exchanged": a[:, 3:].tanh() * a[:, :3].sigmoid(),
            "even and odd channels for halves": a[:, ::2].tanh() * a[:, 1::2].sigmoid(),
            "sum instead of product": first + second,
            "two sigmoids": a[:, :3].sigmoid() * second,
        },
    )


@equation(
    "gated-pixelcnn",
    r"""
    \begin{aligned}
    v' &= v + \operatorname{gate}(W^{v} * v) \\
    h' &= h + R \operatorname{gate}\bigl(W^{h} * h \\
       &\quad + L\,(W^{v} * v)\bigr)
    \end{aligned}
    """,
)
def gated_pixelcnn(rng):
    k, shape = 2, (4, 5)
    model = random_parameters(
        GatedPixelCNN(shape, channels=3, layers=2, kernel=2 * k + 1, first_kernel=3),
        rng,
    )
    for layer in (*model.vertical, *model.horizontal, *model.link, *model.residual):
        layer.bias.zero_()  # the equation has none

    # What the first layer is given, and what the second one: without the margins.
    given = {"v": [], "h": []}
    for v, h in zip(model.vertical, model.horizontal, strict=True):
        v.register_forward_pre_hook(
            lambda _, a: given["v"].append(a[0][0, :, k:, k:-k].clone())
        )
        h.register_forward_pre_hook(
            lambda _, a: given["h"].append(a[0][0, :, :, k:].clone())
        )
    model.logits(torch.bernoulli(torch.full((math.prod(shape),), 0.5), generator=rng))
    (v, v_next), (h, h_next) = given["v"], given["h"]

    def gated(a):
        return a[:3].tanh() / (1 + torch.exp(-a[3:]))

    def pointwise(layer, a):
        return torch.einsum("oi,ihw->ohw", layer.weight[:, :, 0, 0], a)

    W_v, W_h = model.vertical[0].weight, model.horizontal[0].weight
    R, L = model.residual[0], model.link[0]
    sides, left, above = range(-k, k + 1), range(-k, 1), range(-k, 1)
    vertical = taps(W_v, v, above, sides)
    below = taps(W_v, v, range(k + 1), sides)
    yield side(v_next)
    yield side(
        v + gated(vertical),
        wrong={
            "residual forgotten": gated(vertical),
            "rows below": v + gated(below),
            "rows strictly above": v + gated(taps(W_v, v, range(-k - 1, 0), sides)),
            "halves exchanged": v + gated(vertical.roll(3, 0)),
        },
    )
    horizontal, link = taps(W_h, h, [0], left), pointwise(L, vertical)
    yield side(h_next)
    yield side(
        h + pointwise(R, gated(horizontal + link)),
        wrong={
            "gate taken before the link": h
            + pointwise(R, gated(horizontal) + gated(link)),
            "link forgotten": h + pointwise(R, gated(horizontal)),
            "residual forgotten": pointwise(R, gated(horizontal + link)),
            "R forgotten": h + gated(horizontal + link),
            "L forgotten": h + pointwise(R, gated(horizontal + vertical)),
            "pixels to the right": h
            + pointwise(R, gated(taps(W_h, h, [0], range(k + 1)) + link)),
            "vertical stack reads below": h
            + pointwise(R, gated(horizontal + pointwise(L, below))),
        },
    )


# --- completions ----------------------------------------------------------------------


def conditionals_of(model, x):
    """p(x_i | x_<i) for each i, from the package's logits."""
    s = torch.sigmoid(model.logits(x))
    return torch.where(x == 1, s, 1 - s)


def completions(x, known):
    """Every vector that agrees with x on the known entries, counting up in the unknown ones."""
    vectors = x.repeat(2 ** int((~known).sum()), 1)
    vectors[:, ~known] = all_binary(int((~known).sum()))
    return vectors


@equation(
    "completion",
    r"""
    p(x_{>k} \mid x_{\le k}) = \frac{p(x_{\le k},\, x_{>k})}{p(x_{\le k})}
                             = \prod_{i=k+1}^{D} p(x_i \mid x_{<i})
    """,
)
def completion(rng):
    D, n = 6, 60_000
    k = int(torch.randint(2, 4, (), generator=rng))
    model = random_parameters(MADE(D, (12,)), rng, scale=0.5)
    known = torch.arange(D) < k
    x = model.sample()
    share = frequencies(model.complete(x, known, (n,))[:, ~known])
    table = table_of(model)
    joint = table[tuple(x[:k].long())].flatten()
    exact = joint / joint.sum()
    yield side(share, se=(exact * (1 - exact) / n).sqrt())
    tails = table.reshape(2**k, -1).sum(0)
    yield side(
        exact,
        wrong={
            "not divided": joint,
            "condition turned round": joint / tails,
            "known entries ignored": tails,
        },
    )
    each = conditionals_of(model, completions(x, known))
    yield side(
        each[:, k:].prod(-1),
        wrong={
            "one factor too many": each[:, k - 1 :].prod(-1),
            "one factor too few": each[:, k + 1 :].prod(-1),
        },
    )


def scattered(rng, D):
    """A known set that is no prefix: without the first entry, with the last, and one between."""
    known = torch.arange(D) == D - 1
    known[int(torch.randint(1, D - 1, (), generator=rng))] = True
    return known


@equation(
    "completion-sum",
    r"p(x_{\mathcal{U}} \mid x_{\mathcal{K}})"
    r" = \frac{p(x_{\mathcal{U}}, x_{\mathcal{K}})}"
    r"{\sum_{x'_{\mathcal{U}}} p(x'_{\mathcal{U}}, x_{\mathcal{K}})}",
)
def completion_sum(rng):
    D = 5
    model = random_parameters(MADE(D, (12,)), rng, scale=0.5)
    known = scattered(rng, D)
    x = model.sample()
    index = tuple(int(x[d]) if known[d] else slice(None) for d in range(D))
    table = table_of(model)
    joint = table[index].flatten()
    exact = joint / joint.sum()
    # Among the samples that happen to agree with x on the known entries, the share of
    # each rest.
    samples = model.sample((200_000,))
    agreeing = samples[(samples == x)[:, known].all(1)]
    share = frequencies(agreeing[:, ~known])
    yield side(share, se=(exact * (1 - exact) / len(agreeing)).sqrt())
    overwritten = conditionals_of(model, completions(x, known))[:, ~known].prod(-1)
    rests = table.sum([d for d in range(D) if known[d]]).flatten()
    yield side(
        exact,
        wrong={
            "not divided": joint,
            "divided by p(x_U)": joint / rests,
            "known entries ignored": rests,
            "known entries overwritten while drawing": overwritten,
        },
    )


@equation(
    "clamping",
    r"""
    p(x_{\mathcal{U}} \mid x_{\mathcal{K}})
        \propto \prod_{i \in \mathcal{U}} p(x_i \mid x_{<i})
        \cdot \prod_{i \in \mathcal{K}} p(x_i \mid x_{<i})
    """,
)
def clamping(rng):
    D = 6
    model = random_parameters(FVSBN(D), rng)
    known = scattered(rng, D)
    x = torch.bernoulli(torch.full((D,), 0.5), generator=rng)
    joint = table_of(model)[
        tuple(int(x[d]) if known[d] else slice(None) for d in range(D))
    ]
    yield side(joint.flatten() / joint.sum())
    vectors = completions(x, known)
    s = torch.stack([fvsbn_logits(model, one).sigmoid() for one in vectors])
    each = torch.where(vectors == 1, s, 1 - s)
    drawn, weight = each[:, ~known].prod(-1), each[:, known].prod(-1)
    yield side(
        drawn * weight,
        wrong={
            "second product forgotten": drawn,
            "first product forgotten": weight,
            "divided by the second product": drawn / weight,
        },
    )


# --- pixel by pixel -------------------------------------------------------------------


@equation(
    "nll-by-pixel",
    r"""
    \mathrm{NLL} = \sum_{i=1}^{D} \biggl( -\frac{1}{N}
                   \sum_{n=1}^{N} \ln p\bigl(x_i^{(n)} \mid x_{<i}^{(n)}\bigr) \biggr)
    """,
)
def nll_by_pixel(rng):
    D = 5
    model = random_parameters(NADE(D, 4), rng)
    x = torch.bernoulli(torch.full((9, D), 0.5), generator=rng)
    yield side(nll(model, x, batch_size=4).mean)
    table = table_of(model)
    conditionals = torch.stack(
        [by_enumeration(table, one, range(D)) for one in x]
    )  # (N, D)
    pixels = -conditionals.log().mean(0)
    yield side(
        sum(pixels),
        wrong={
            "mean over the pixels": pixels.mean(),
            "sum over the images": len(x) * pixels.sum(),
            "sign": -pixels.sum(),
            "logarithm of the mean": -conditionals.mean(0).log().sum(),
            "first pixel lost": pixels[1:].sum(),
        },
    )


# --- beyond black and white -----------------------------------------------------------


@equation(
    "softmax-conditional",
    r"p(x_i = v \mid x_{<i}) = \frac{e^{a_{iv}}}{\sum_u e^{a_{iu}}}",
)
def softmax_conditional(rng):
    joint = random_table(
        rng, 2, 3, 4
    )  # of three pixels with different numbers of values
    past = joint.sum(2)
    exact = joint / past[..., None]  # p(x_3 | x_1, x_2)
    a = exact.log() + torch.randn(
        2, 3, 1, generator=rng
    )  # a number added to all changes nothing
    first = joint.sum(1) / joint.sum((1, 2))[:, None]  # p(x_3 | x_1)
    blind = first[:, None].expand_as(exact)
    yield side(
        exact, wrong={"not conditioned": joint, "on the first pixel only": blind}
    )
    yield side(
        a.exp() / a.exp().sum(-1, keepdim=True),
        wrong={"a sigmoid for each value": a.sigmoid(), "not divided": a.exp()},
    )
