"""Self-checks of the exercises of book/generative-models.ipynb."""

import math

import torch

from companion import divergences, evaluation
from companion.checks import sampling_p_value
from companion.distributions import BernoulliMixture
from companion.exercises import exercise
from companion.exercises._shared import near, refuse, shape_of, two_parts


@exercise("ex-mixture-parameters")
def check_mixture_parameters(count):
    """``count(K, D)``: the free parameters of a mixture of K kinds of D pixels."""
    answer = count(3, 5)
    assert answer != 15, "the kinds need not be equally frequent: what says how frequent they are?"
    assert answer != 18, "the weights of the kinds sum to one: are all of them free?"
    assert answer != 19, "count(3, 5) asks for three kinds of five pixels: K comes first"
    assert answer != 95, "a table for each kind is too much: its pixels are independent"
    for K in range(1, 6):
        for D in range(1, 6):
            expected = K * D + K - 1
            assert count(K, D) == expected, f"count({K}, {D}) is not {count(K, D)}"


@exercise("ex-die")
def check_die(fit):
    """``fit(counts, smoothing)``: ``(n,) -> (n,)``, the probabilities of a die of n faces."""
    counts = torch.tensor([3, 0, 4, 1, 0, 2])
    answer = torch.as_tensor(fit(counts, 0))
    assert answer.shape == (6,), f"a probability per face: shape (6,), not {tuple(answer.shape)}"
    assert not near(answer, counts.double().softmax(0)), (
        "a face that was seen twice as often should be twice as probable; a softmax is steeper"
    )
    assert not near(answer, counts / 6), (
        "divided by the number of faces: how many throws were there?"
    )
    assert not near(answer, counts / 4), "divided by the count of the most frequent face"
    assert not near(answer, (counts + 1) / 16), "a smoothing of 0 should leave the counts alone"
    assert near(answer, counts / 10), (
        f"for the counts {counts.tolist()} these are not the shares of the throws"
    )
    smoothed = torch.as_tensor(fit(counts, 2))
    assert not near(smoothed, answer), "the smoothing changes nothing"
    total = smoothed.sum().item()
    assert abs(total - 1) < 1e-5, (
        f"with a smoothing of 2 the probabilities of the six faces sum to {total:.4g}: by how many "
        "throws has the smoothing raised the total?"
    )
    assert not near(smoothed, (counts + 2 / 6) / 12), (
        "the smoothing is added to the count of every face, not spread over all"
    )
    assert near(smoothed, (counts + 2) / 22), "the smoothed probabilities are not right"
    assert near(fit(counts[:4], 1), (counts[:4] + 1) / 12), (
        "right for six faces, and not for four: is a number written into the function?"
    )


@exercise("ex-kl")
def check_kl(kl):
    """``kl(p, q)``: ``(n,), (n,) -> ()``, the Kullback–Leibler divergence of tables, nats."""
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], dtype=torch.float64)
    answer, expected = torch.as_tensor(kl(p, q)), divergences.kl(p, q)
    assert answer.shape == (), f"one number for two tables: shape (), not {tuple(answer.shape)}"
    assert not near(answer, -expected), (
        "a divergence is never negative: is the fraction turned round?"
    )
    assert not near(answer, divergences.kl(q, p)), (
        "this is the divergence from q to p: under which of the two is the average taken?"
    )
    assert not near(answer, expected / math.log(2)), "this is in bits: which logarithm is natural?"
    assert not near(answer, divergences.cross_entropy(p, q)), (
        "this is the whole surprise: subtract what even the truth could not avoid"
    )
    assert not near(answer, expected / 3), "p already weighs the outcomes: sum, do not average"
    assert not near(answer, (p / q).log().mean()), "every outcome weighs the same; what of p?"
    assert near(answer, expected), "the value is not the divergence from p to q"

    for q in ([0.25, 0.25, 0.5], [0.25, 0.75, 0.0]):
        q = torch.tensor(q, dtype=torch.float64)
        p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
        answer = torch.as_tensor(kl(p, q))
        both = "p and q exclude" if q[2] == 0 else "p excludes"
        assert not answer.isnan(), f"an outcome that {both} makes the sum nan: what should it add?"
        assert near(answer, divergences.kl(p, q)), f"an outcome that {both} should add nothing"
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    q = torch.tensor([0.5, 0.50, 0.00], dtype=torch.float64)
    assert torch.as_tensor(kl(p, q)) == math.inf, (
        f"q excludes what p gives one time in four, and kl(p, q) is {float(kl(p, q)):.3g}: how "
        "surprising is what one has called impossible?"
    )


@exercise("ex-bytes")
def check_size(size):
    """``size(nll, images)``: bytes of so many images under an ideal code, from nats per image."""
    bits = 10_000 * 100 / math.log(2)
    answer = float(size(100, 10_000))
    mistakes = [
        (bits, "this is in bits: eight of them are a byte"),
        (bits * 8, "a byte is larger than a bit: are there more bytes or fewer?"),
        (bits * math.log(2), "this is in nats"),
        (bits * math.log(2) / 8, "nats are not bits: how many bits make a nat?"),
        (bits * math.log(2) ** 2 / 8, "a nat is more than a bit: are there more bits or fewer?"),
        (bits / 8 / 10_000, "this is the size of one image"),
    ]
    for mistake, hint in mistakes:
        assert abs(answer - mistake) >= 1, hint
    assert abs(answer - bits / 8) <= 1, "the value is not the number of bytes"  # may be rounded


@exercise("ex-two-factors")
def check_factors(factors):
    """``factors(p, a)``: ``(n, m), (n,)`` -> two of ``(m,)``: the best b, forward and reverse."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.05
    p, a = p / p.sum(), torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
    forward, reverse = two_parts(factors(p, a), "one factor for each direction")
    for name, part in (("forward", forward), ("reverse", reverse)):
        assert part.shape == (4,), f"{name}: a number for each column: (4,), not {shape_of(part)}"
    columns, logarithms = p.sum(0), a @ p.log()
    nearest = logarithms.softmax(0)
    assert not (near(forward, nearest) and near(reverse, columns)), "which direction comes first?"
    for name, part in (("forward", forward), ("reverse", reverse)):
        assert near(part.sum(), 1), f"{name}: the entries of b sum to {part.sum():.3g}, not to one"
    mistakes = [
        (a @ p / (a @ p).sum(), "forward: a weighs the rows here: does p not weigh them already?"),
        (nearest, "forward: this is the factor of the other direction: under which is averaged?"),
        (p.log().sum(0).softmax(0), "forward: a mean of logarithms: where does ln q stand?"),
    ]
    refuse(forward, mistakes)
    assert near(forward, columns), "forward: another b is nearer"
    mistakes = [
        (columns, "reverse: this is the factor of the other direction: under which is averaged?"),
        (a @ p / (a @ p).sum(), "reverse: a mean of p: of what is the mean, by the formula?"),
        (p.log().mean(0).softmax(0), "reverse: each row counts as much: how often does a give it?"),
        ((-logarithms).softmax(0), "reverse: likely columns get little: what is the sign of ln p?"),
    ]
    refuse(reverse, mistakes)
    assert near(reverse, nearest), "reverse: another b is nearer"


@exercise("ex-wasserstein")
def check_wasserstein(distance):
    """``distance(p, q, points)``: three of ``(n,)``, points increasing -> ``()``, units of x."""
    p, q = torch.tensor([[0.5, 0.1, 0.1, 0.3], [0.1, 0.4, 0.4, 0.1]], dtype=torch.float64)
    points = torch.tensor([0.0, 1.0, 3.0, 4.5], dtype=torch.float64)
    answer = torch.as_tensor(distance(p, q, points))
    assert answer.shape == (), f"one number for two tables: shape (), not {shape_of(answer)}"
    surplus, gaps = (p - q).cumsum(0)[:-1], points.diff()
    mistakes = [
        ((p - q).abs().sum() / 2, "this is the total variation: how far is the mass carried?"),
        ((p - q).abs().sum(), "this is how much is in the wrong place, twice: and how far off?"),
        (surplus.abs().sum(), "each step counts as one: how far is it from point to point?"),
        (surplus.abs().max(), "only the fullest crossing counts: what of the others?"),
        (
            (surplus * gaps).sum(),
            "what goes left was set off against what goes right: is either of them no work?",
        ),
        (
            ((p - q).abs() * points).sum() / 2,
            "mass times the place where it lies: is work not mass times the way it goes?",
        ),
    ]
    refuse(answer, mistakes)
    assert near(answer, (surplus.abs() * gaps).sum()), "the value is not the least work"
    p, q = torch.tensor([[0.0, 0.25, 0.75], [0.5, 0.5, 0.0]], dtype=torch.float64)
    points = torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64)
    assert near(distance(p, q, points), divergences.wasserstein1(p, q, points)), (
        "right for four points, and not for three of which one is below zero"
    )


@exercise("ex-estimator")
def check_estimator(terms):
    """``terms(log_p, log_q)``: ``(S,), (S,) -> (S,)``, terms ≥ 0 whose mean under p is the KL.

    On a table the mean is a sum over all outcomes, so that no luck is involved.
    """
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = torch.randn(2, 8, generator=generator, dtype=torch.float64).log_softmax(-1)
    p, log_ratio = log_p.exp(), log_p - log_q
    answer, expected = torch.as_tensor(terms(log_p, log_q)), divergences.kl(p, log_q.exp())
    assert answer.shape == (8,), f"one term per sample: shape (8,), not {tuple(answer.shape)}"
    assert near(terms(log_p[:2], log_q[:2]), answer[:2]), (
        "a term changes with the other samples: it should depend on its own sample alone"
    )
    assert not near(answer, log_ratio), (
        "these are the terms of the Monte Carlo estimate: the mean is right, but some are negative"
    )
    assert not near(answer, log_ratio.exp() - 1 - log_ratio), (
        "no term is negative, but the mean is wrong: which ratio has the mean one under p?"
    )
    least = answer.min().item()
    assert least > -1e-9, f"a term is {least:.3g}: is the tangent above the logarithm or below?"
    mean = (p * answer).sum().item()
    assert abs(mean - expected) < 1e-6, (
        f"no term is negative, but the mean is {mean:.3f} where the divergence is {expected:.3f}: "
        "what is added to a term must be zero on average"
    )
    far = terms(log_p - 900, log_q - 900)
    assert near(far, answer), (
        "at log-probabilities near -900, such as those of images, the terms are lost, although "
        "they should be the same: what of the two logarithms survives there?"
    )


@exercise("ex-posterior")
def check_posterior(posterior):
    """``posterior(log_likelihood, prior)``: ``(B, Y), (Y,) -> (B, Y)``, Bayes' rule."""
    generator = torch.Generator().manual_seed(0)
    log_likelihood = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    prior = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    expected = (log_likelihood + prior.log()).softmax(-1)
    answer = torch.as_tensor(posterior(log_likelihood, prior))
    assert answer.shape == (4, 3), f"shape (B, Y) = (4, 3), not {tuple(answer.shape)}"
    assert not near(answer, log_likelihood.softmax(-1)), (
        "every label counts as equally frequent: what of the prior?"
    )
    assert not near(answer, (log_likelihood + prior).softmax(-1)), (
        "a probability was added to a logarithm"
    )
    assert not near(answer, expected.log()), "these are logarithms of probabilities"
    sums = answer.sum(-1)
    assert not (near(answer.sum(0), torch.ones(3)) and not near(sums, torch.ones(4))), (
        "the pictures compete for each label; the labels should compete for each picture"
    )
    assert near(sums, torch.ones(4)), (
        f"the probabilities of the labels of the first picture sum to {sums[0].item():.4g}"
    )
    assert near(answer, expected), "the values are not Bayes' rule"

    offsets = torch.tensor([900.0, 900.0, 3000.0, 900.0], dtype=torch.float64)
    far = posterior(log_likelihood - offsets[:, None], prior)
    assert near(far, expected), (
        "of pictures at -900 nats and less the answer is lost, although it should be the same: the "
        "likelihoods round to zero, while their differences, picture by picture, are known well"
    )
    prior = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    assert near(posterior(log_likelihood, prior), (log_likelihood + prior.log()).softmax(-1)), (
        "a label that never occurs should have the posterior zero"
    )


@exercise("ex-m-step")
def check_m_step(m_step):
    """``m_step(x, r)``: ``(N, D), (N, K) -> (K,), (K, D)``, the weights and the probs."""
    generator = torch.Generator().manual_seed(0)
    # With K = D it is no error of shapes to divide along the wrong axis, but silently wrong.
    for N, K, D in ((7, 3, 3), (9, 2, 4)):
        x = (torch.rand(N, D, generator=generator) < 0.6).double()
        r = torch.randn(N, K, generator=generator, dtype=torch.float64).softmax(-1)
        counts, ones = r.sum(0), r.T @ x
        weights, probs = two_parts(m_step(x, r), "the weights and the probs")
        for name, value, shape in (("weights", weights, (K,)), ("probs", probs, (K, D))):
            assert value.shape == shape, (
                f"with {N} images, {K} kinds and {D} pixels the {name} have the shape {shape}, not "
                f"{tuple(value.shape)}"
            )
        assert not near(weights, counts), "the weights are counts: they sum to the number of images"
        assert not near(weights, counts.softmax(0)), "the weights are shares, not a softmax"
        assert not near(weights, torch.ones(K) / K), "the weights are equal: who answers for more?"
        hard = torch.nn.functional.one_hot(r.argmax(1), K).double().mean(0)
        assert not near(weights, hard), (
            "each image went wholly to one kind: let the kinds share it, by their responsibilities"
        )
        assert near(weights, counts / N), "the weights are not the mean responsibilities"

        assert not near(probs, ones), "the probs are counts of ink: by what are they divided?"
        assert not near(probs, ones / N), (
            "divided by the number of all images: for how many does the kind answer?"
        )
        if K == D:
            assert not near(probs, ones / counts), (
                "the counts of the kinds divide the pixels, along the wrong axis"
            )
            assert not near(probs.T, ones / counts[:, None]), "one row for each kind: transpose"
        assert not near(probs, ones / ones.sum(0)), (
            "the kinds compete for the ink of each pixel: a kind's own images without ink count too"
        )
        assert not near(probs, ones / ones.sum(1, keepdim=True)), (
            "the pixels of a kind sum to one, as if it had one black pixel: each is a coin"
        )
        assert near(probs, ones / counts[:, None]), "the probs are not shares of weighted counts"


@exercise("ex-auc")
def check_auc(auc):
    """``auc(normal, anomalous)``: ``(N,), (M,) -> ()``, the area under the ROC curve."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randint(0, 6, (40,), generator=generator).double()
    anomalous = torch.randint(2, 8, (30,), generator=generator).double()
    below = (normal < anomalous[:, None]).double().mean()
    ties = (normal == anomalous[:, None]).double().mean()
    expected = evaluation.auc(normal, anomalous).mean
    answer = torch.as_tensor(auc(normal, anomalous))
    assert answer.shape == (), f"one number: shape (), not {tuple(answer.shape)}"
    assert not near(answer, 1 - expected), "the other way round: anomalies should score higher"
    assert not near(answer, below), "ties are left out"
    assert not near(answer, below + ties), "a tie is not a whole victory"
    assert not near(answer, 40 * 30 * expected), "this counts the pairs: of how many?"
    assert not near(answer, below / (1 - ties)), "pairs that tie are pairs, too"
    assert near(answer, expected), "the value is not the share of pairs, ties counted half"
    assert near(auc(normal[:1], normal[:1]), 0.5), "two equal scores should give one half"


@exercise("ex-complete")
def check_complete(complete):
    """``complete(mixture, x, known, n)``: ``(D,), (D,) -> (n, D)``, exact drawings."""
    torch.manual_seed(0)
    n = 20_000
    mixture = _mixture(
        [0.6, 0.25, 0.15],
        [[0.9, 0.8, 0.1, 0.2, 0.9], [0.2, 0.7, 0.9, 0.8, 0.1], [0.1, 0.2, 0.4, 0.9, 0.8]],
    )
    x = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    for places in ([], [3, 4], [0, 1], [1, 2, 4], [0]):
        known = torch.zeros(5, dtype=torch.bool)
        known[places] = True
        answer = torch.as_tensor(complete(mixture, x, known, n))
        assert answer.shape == (n, 5), f"shape (n, D) = {(n, 5)}, not {tuple(answer.shape)}"
        assert ((answer == 0) | (answer == 1)).all(), "completions are zeros and ones"
        assert (answer == x)[:, known].all(), "the known entries must come out as they went in"
        p_value = {
            hint: sampling_p_value(answer[:, ~known], density.log_prob)
            for hint, density in _completions(mixture, x, known).items()
        }
        right = p_value.pop("")
        likeliest = max(p_value, key=p_value.get)
        assert right > 1e-6 or p_value[likeliest] < 1e-6, likeliest
        assert right > 1e-6, (
            f"with {len(places)} entries known the drawings do not follow the exact conditional, "
            "which the check finds by enumeration"
        )


def _completions(mixture, x, known):
    """{hint: distribution of the unknown entries, right or by a likely mistake}; "" is right."""
    probs = mixture.probs[:, ~known]
    r = mixture.responsibilities(x, known)
    weights = {
        "": r,
        "the kind is chosen as if nothing were known: what do the known entries say about it?": (
            mixture.weights
        ),
        "the kind has looked at the entries that it should not know": mixture.responsibilities(x),
        "the kinds are weighed as if they were equally frequent": (
            mixture.log_joint(x, known) - mixture.weights.log()
        ).softmax(-1),
    }
    densities = {hint: _mixture(w, probs) for hint, w in weights.items()}
    hint = "each pixel has the right probability, but a drawing is a blend of kinds: choose first"
    densities[hint] = _mixture([1.0], (r @ probs)[None])
    for k, one in enumerate(probs):
        hint = f"all drawings are of kind {k}: each drawing should choose its own"
        densities[hint] = _mixture([1.0], one[None])
    return densities


# --- helpers ------------------------------------------------------------------------------------


def _mixture(weights, probs):
    probs = torch.as_tensor(probs)
    mixture = BernoulliMixture(probs.shape[1], len(probs)).requires_grad_(False)
    mixture.weights.data, mixture.probs.data = torch.as_tensor(weights), probs
    return mixture
