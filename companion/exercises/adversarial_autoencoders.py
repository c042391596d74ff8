"""Self-checks of the exercises of book/adversarial-autoencoders.ipynb."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from companion import aae
from companion.divergences import kl
from companion.exercises import exercise
from companion.exercises._shared import (
    assert_named,
    joined,
    near,
    refuse,
    shape_of,
    small_network,
    two_parts,
)
from companion.gan import non_saturating, saturating


@exercise("ex-surgery")
def check_parts(parts):
    """``parts(p_data, q, prior)``: ``(n,), (n, m), (m,)`` -> information, KL(q(z)||p(z)), nats."""
    p_data = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    q = [[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.1, 0.1, 0.3, 0.5]]
    q = torch.tensor(q, dtype=torch.float64)
    prior = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    information, misfit = two_parts(parts(p_data, q, prior), "the information and a KL")
    for name, part in (("the information", information), ("the divergence", misfit)):
        assert part.shape == (), f"{name} is one number: shape (), not {shape_of(part)}"
    average, right_information, right_misfit = aae.surgery(p_data, q, prior)
    marginal, equal = p_data @ q, q.mean(0)
    assert not (near(information, right_misfit) and near(misfit, right_information)), (
        "which of the two comes first?"
    )
    mistakes = [
        (average, "this is the averaged divergence from the prior: is all of it information?"),
        (-right_information, "can an example be known worse than not at all? Mind the sign."),
        (right_information / math.log(2), "the unit is the bit: which logarithm gives nats?"),
        (
            p_data @ kl(marginal, q),
            "in the information the divergence goes the other way: of what are the codes drawn?",
        ),
        (
            kl(q, marginal).mean(),
            "in the information all examples count alike: how often does each come?",
        ),
        (
            kl(q, equal).mean(),
            "the examples count alike, in q(z), too: how often does each come?",
        ),
        (kl(q, equal) @ p_data, "q(z) is the plain mean of the rows: how often does each come?"),
        (kl(q, marginal).sum(), "the information is a sum over examples: what is its mean?"),
    ]
    refuse(information, mistakes)
    assert near(information, right_information), f"the information is not {information.item():.4g}"
    mistakes = [
        (average, "the divergence is averaged over examples: is it not one of q(z)?"),
        (-right_misfit, "can a divergence be negative? Mind the sign."),
        (right_misfit / math.log(2), "the divergence is in bits: which logarithm gives nats?"),
        (kl(prior, marginal), "the divergence goes from the prior to q(z): which way is wanted?"),
        (kl(equal, prior), "here q(z) is the plain mean of all rows: how often does each come?"),
        (average + right_information, "is the averaged divergence the larger one, or a part?"),
    ]
    refuse(misfit, mistakes)
    assert near(misfit, right_misfit), f"the divergence is not {misfit.item():.4g}"
    p_data = torch.tensor([0.25, 0.75], dtype=torch.float64)
    q = torch.tensor([[0.5, 0.5, 0], [0, 1, 0]], dtype=torch.float64)  # nobody uses the third code
    prior = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    expected = aae.surgery(p_data, q, prior)[1:]
    answer = parts(p_data, q, prior)
    for name, part, right in zip(("information", "divergence"), answer, expected, strict=True):
        part = torch.as_tensor(part)
        assert part.isfinite(), (
            f"with zeros in q the {name} is {part.item()}: what does a code that never comes add "
            "to an average?"
        )
        assert near(part, right), (
            f"with zeros in q the {name} is not {part.item():.4g}: what was put in the place of "
            "the zeros?"
        )


@exercise("ex-two-encoders")
def check_encoder(q):
    """``q``: q(z|x), ``(4, 4)``, that meets a uniform prior and transmits ln 2 nats."""
    q = torch.as_tensor(q).double()
    assert q.shape == (4, 4), f"four codes for each of four examples: (4, 4), not {shape_of(q)}"
    assert (q >= 0).all(), f"the least entry is {q.min().item():.4g}: can a probability be so?"
    ones, uniform = torch.ones(4, dtype=q.dtype), torch.full((4,), 0.25, dtype=q.dtype)
    sums = q.sum(1)
    assert near(sums, ones) or not near(q.sum(0), ones), (
        "the columns sum to one, and the rows do not: which of them belongs to an example?"
    )
    off = (sums - 1).abs().argmax()
    assert near(sums, ones), (
        f"the row of example {off + 1} sums to {sums[off].item():.4g}: to what should it?"
    )
    _, information, misfit = aae.surgery(uniform, q / sums[:, None], uniform)
    marginal = ", ".join(f"{value:.3g}" for value in uniform @ q)
    assert near(uniform @ q, uniform), (
        f"q(z) is ({marginal}), {misfit.item():.3g} nats from the prior: what do the columns sum "
        "to?"
    )
    ln2 = torch.tensor(math.log(2), dtype=q.dtype)
    assert not near(information, 0 * ln2), (
        "the code says nothing about the example: which of the rows may be alike?"
    )
    assert not near(information, 2 * ln2), (
        "each example has a code of its own, and the code says all: which may share?"
    )
    side = "more" if information > ln2 else "less"
    assert near(information, ln2), (
        f"q(z) is the prior, but the code transmits {information.item():.4g} nats, {side} than "
        "ln 2: between how many cases should it decide, and how surely?"
    )


@exercise("ex-not-a-bound")
def check_objective(objective):
    """``objective(p_data, q, p, likelihood)``: ``(n,), (n, m), (m,), (m, n) -> ()``, nats."""
    p_data = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    q = torch.tensor([[0.7, 0.1, 0.2], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    p = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    likelihood = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]]
    likelihood = torch.tensor(likelihood, dtype=torch.float64)
    answer = torch.as_tensor(objective(p_data, q, p, likelihood))
    assert answer.shape == (), f"one number: shape (), not {shape_of(answer)}"
    average, information, misfit = aae.surgery(p_data, q, p)
    log_p = likelihood.log()
    joint, marginal = p_data[:, None] * q, p_data @ q
    described = (joint * log_p.T).sum()
    expected = described - misfit
    mistakes = [
        (-expected, "this is a loss; J itself is wanted: what is its sign?"),
        (described - average, "this is the averaged ELBO: which divergence is in J?"),
        (described + misfit, "the divergence was added: is it a gain or a price?"),
        (described, "only the reconstruction is left: what does a q(z) off the prior cost?"),
        (described - information, "this divergence is from q(z): from what is it in J?"),
        (-misfit, "only the divergence is left: how well are the examples described?"),
        (described - kl(p, marginal), "the divergence goes from the prior: which way is it in J?"),
        ((joint * log_p).sum() - misfit, "what are the rows of likelihood, examples or codes?"),
        (
            p_data @ (q @ likelihood).diagonal().log() - misfit,
            "this is the logarithm of a mean: is it not the mean of a logarithm?",
        ),
        (
            ((q * log_p.T).sum(1)).mean() - kl(q.mean(0), p),
            "all examples count alike: how often does each come?",
        ),
        (
            ((q * log_p.T).sum(1)).mean() - misfit,
            "the reconstructions count alike: how often does each example come?",
        ),
        (
            (q * log_p.T).sum() - misfit,
            "the reconstructions are summed over examples: what is their mean?",
        ),
        (
            marginal @ log_p @ p_data - misfit,
            "the decoder hears the code of some example: does it not belong to this one?",
        ),
        (p_data @ (p @ likelihood).log(), "this is the mean of ln p(x): who needs no encoder?"),
        (expected / math.log(2), "the unit is the bit: which logarithm gives nats?"),
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), f"J is not {answer.item():.4g}"
    p_data = torch.tensor([0.25, 0.75], dtype=torch.float64)
    q = torch.tensor([[0.5, 0.5, 0], [0, 0, 1]], dtype=torch.float64)
    p = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    likelihood = torch.tensor([[1, 0], [1, 0], [0, 1]], dtype=torch.float64)
    answer = torch.as_tensor(objective(p_data, q, p, likelihood))
    assert answer.isfinite(), (
        f"for a decoder that is certain J is {answer.item()}: what does a code that never comes "
        "add to an average?"
    )
    assert near(answer, -kl(p_data @ q, p)), (
        f"for a decoder that is certain J is not {answer.item():.4g}: what was put in the place of "
        "the zeros?"
    )


@exercise("ex-kl-by-critic")
def check_estimate(estimate):
    """``estimate(logits)``: of codes, ``(N,) -> ()``, KL(q(z)||p(z)), nats."""
    a = torch.tensor([-1.7, 0.4, -0.9, -2.2, 0.7], dtype=torch.float64)
    answer = torch.as_tensor(estimate(a))
    assert answer.shape == (), f"one number: shape (), not {shape_of(answer)}"
    expected = -a.mean()
    mistakes = [
        (-expected, "is the logit of a code that the prior hardly knows above 0 or below it?"),
        (a.sum(), "the sum of the logits: should it grow with the number of codes?"),
        (-a.sum(), "a sum: should the estimate grow with the number of codes?"),
        (expected / math.log(2), "the unit is the bit: which logarithm gives nats?"),
        (a.abs().mean(), "each logit lost its sign: do the positive ones not take something off?"),
        (a.sigmoid().mean(), "the mean of D: where is the logarithm of a ratio?"),
    ]
    mistakes += [
        (sign * F.logsigmoid(s * a).mean(), "ln D is the logarithm of a share: of what is a one?")
        for sign, s in itertools.product((1, -1), repeat=2)
    ]
    mistakes += [
        (sign * value, "an exponential was taken: is a itself not a logarithm already?")
        for ratio in (a.exp(), (-a).exp())
        for sign, value in itertools.product((1, -1), (ratio.mean(), ratio.mean().log()))
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), f"the estimate is not {answer.item():.4g}"
    below = torch.as_tensor(estimate(-a))
    assert near(below, -expected), (
        f"where the logits are large the estimate is {below.item():.4g}: may an estimate of what "
        "is never negative not be negative?"
    )


@exercise("ex-roles")
def check_losses(losses):
    """``losses(prior_logits, code_logits, log_p_x, weight) -> L_D, L_EP``, means, nats."""
    prior = torch.tensor([0.5, 2.0, -1.0, 3.0, 0.2], dtype=torch.float64)
    codes = torch.tensor([-0.4, 1.5, -2.5], dtype=torch.float64)
    log_p_x, weight = torch.tensor([-3.0, -1.2, -0.7], dtype=torch.float64), 5.0
    L_D, L_EP = two_parts(losses(prior, codes, log_p_x, weight), "L_D and L_EP")
    for name, loss in (("L_D", L_D), ("L_EP", L_EP)):
        assert loss.shape == (), f"{name} is one number: shape (), not {shape_of(loss)}"
    right_D, game = non_saturating.L_D(prior, codes), non_saturating.L_G(codes)
    described, for_codes = log_p_x.mean(), non_saturating.fake(codes).mean()
    right_EP = weight * game - described
    assert not (near(L_D, right_EP) and near(L_EP, right_D)), "which of the two comes first?"
    for_prior = non_saturating.real(prior).mean()
    mistakes = [
        (-right_D, "L_D is what D wins: what is a loss?"),
        (
            non_saturating.L_D(codes, prior),
            "D calls the codes real here: what is the real thing that codes should look like?",
        ),
        (
            torch.cat([non_saturating.real(prior), non_saturating.fake(codes)]).mean(),
            "L_D is one mean over both batches: should the larger one count for more?",
        ),
        (
            non_saturating.real(prior).sum() + non_saturating.fake(codes).sum(),
            "L_D is a sum: should it grow with the batch?",
        ),
        (right_D / 2, "half of L_D: is it the mean of two means or their sum?"),
        (for_prior, "only the prior is in L_D: what of the codes?"),
        (for_codes, "only codes are in L_D: what of the prior?"),
        (for_prior + game, "in L_D, D pays for doubting codes: what should it say of them?"),
        (weight * right_D, "L_D is weighted: to whom does the weight belong?"),
        (for_prior + weight * for_codes, "L_D is weighted: to whom does the weight belong?"),
    ]
    refuse(L_D, mistakes)
    assert near(L_D, right_D), f"L_D is not {L_D.item():.4g}"
    mistakes = [
        (-right_EP, "L_EP is what encoder and decoder win: what is a loss?"),
        (weight * game + described, "the better the examples are described, the more L_EP is?"),
        (-described - weight * game, "the better the codes pass, the more L_EP is?"),
        (
            weight * for_codes - described,
            "the encoder pays what D pays for codes: do both want the same?",
        ),
        (
            weight * saturating.L_G(codes).mean() - described,
            "this loss saturates: how steep is it where a code is found out?",
        ),
        (
            game - weight * described,
            "the weight is on the reconstruction: which part does it belong to?",
        ),
        (weight * (game - described), "the weight is on both parts: to which does it belong?"),
        (game - described, "L_EP has no weight: what are the two parts worth to each other?"),
        (weight * game, "only the game is in L_EP: how well are the examples described?"),
        (-described, "only the reconstruction is in L_EP: how well do the codes pass?"),
        (
            weight * for_prior - described,
            "the logits in L_EP are those of the prior: who made its draws?",
        ),
        (
            weight * non_saturating.real(codes).sum() - log_p_x.sum(),
            "L_EP is a sum: should it grow with the batch?",
        ),
        (weight * game - log_p_x.sum(), "the reconstruction is a sum: should it grow so?"),
    ]
    refuse(L_EP, mistakes)
    assert near(L_EP, right_EP), f"L_EP is not {L_EP.item():.4g}"
    far = torch.tensor([200.0, -200.0])
    answer = losses(far, far, torch.tensor([-1.0, -3.0]), 0.5)
    for name, loss, right in zip(("L_D", "L_EP"), answer, (200, 52), strict=True):
        assert near(loss, torch.tensor(right)), (
            f"at logits of ±200 {name} should be {right}, not {float(loss):.4g}: the sigmoid "
            "rounds to 0 or 1; was its logarithm not known before?"
        )


@exercise("ex-step")
def check_step(encoder_step):
    """``encoder_step(encoder, decoder_log_prob, critic, x, optimizer, weight)``: returns L_EP."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    encoder, decoder = small_network(3, 2), _Decoder(2, 3)
    critic = nn.Sequential(small_network(2, 1), nn.Flatten(0))
    weights, rate, weight = [*encoder.parameters(), *decoder.parameters()], 0.1, 5.0
    z = encoder(x)
    a, described, cut = critic(z), decoder(z, x).mean(), decoder(z.detach(), x).mean()
    game, helping = non_saturating.L_G(a), non_saturating.fake(a).mean()
    total = weight * game - described

    def gradient(loss):
        parts = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
        return joined(parts)

    down = gradient(total)
    mistakes = [
        (-down, "encoder and decoder went up their loss: which way does an optimiser go?"),
        (
            gradient(-described),
            "the encoder has not heard what the critic says of its codes: where is the way back "
            "cut, or is a part of the loss missing?",
        ),
        (
            gradient(weight * game - cut),
            "the encoder has not heard how well its codes describe x: where is the way back cut?",
        ),
        (gradient(-cut), "the encoder has not moved, the decoder has: where is the way back cut?"),
        (gradient(weight * game), "the decoder has not moved: which part of the loss does it pay?"),
        (
            gradient(weight * helping - described),
            "the encoder learned to look fake: what does it want the critic to say?",
        ),
        (
            gradient(-weight * game - described),
            "the encoder learned to be found out: what does it want the critic to say?",
        ),
        (
            gradient(-weight * helping - described),
            "this loss saturates: how steep is it where a code is found out?",
        ),
        (
            gradient(weight * game + described),
            "both learned to describe x worse: what is the sign of ln p(x|z) in a loss?",
        ),
        (gradient(game - described), "what became of the weight?"),
        (
            gradient(game - weight * described),
            "the weight is on the reconstruction: which part does it belong to?",
        ),
        (
            6 * down,
            "the step is as many times too long as there are examples: a mean or a sum?",
        ),
    ]
    for parameter in weights:  # as an earlier step may have left it
        shape, dtype = parameter.shape, parameter.dtype
        parameter.grad = torch.randn(shape, generator=generator, dtype=dtype)
    stale = joined([parameter.grad.clone() for parameter in weights])
    before = joined([parameter.detach().clone() for parameter in weights])
    critic_before = {name: value.clone() for name, value in critic.state_dict().items()}

    optimizer = torch.optim.SGD(weights, rate)
    loss = encoder_step(encoder, decoder, critic, x, optimizer, weight)

    for name, value in critic.state_dict().items():
        assert torch.equal(value, critic_before[name]), (
            f"the critic has moved, in {name}: whose weights may this step change?"
        )
    players = {"encoder": encoder, "decoder": decoder, "critic": critic}
    for name, network in players.items():
        assert all(parameter.requires_grad for parameter in network.parameters()), (
            f"the {name} is left frozen: how is it to learn in its next step?"
        )
    step = (before - joined([parameter.detach() for parameter in weights])) / rate
    assert step.any(), "nobody has moved: who takes the step, and by which gradient?"
    mistakes += [
        (
            down + stale,
            "they moved by more than the gradient of their loss: one was there before; who wipes "
            "it?",
        ),
        (stale, "they moved by the gradient that was there before: when is their own computed?"),
    ]
    refuse(step, mistakes)
    assert near(step, down), "they have not moved as one step down their loss would move them"
    assert near(torch.as_tensor(loss).detach(), total.detach()), (
        "they moved as they should, but what came back is not the loss that they paid before the "
        "step"
    )


@exercise("ex-mmd")
def check_mmd2(mmd2):
    """``mmd2(a, b, h)``: ``(N, H), (M, H)``, bandwidth -> ``()``, the unbiased estimate."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    b = torch.randn(4, 2, generator=generator, dtype=torch.float64) + 1
    h = 1.3
    answer = torch.as_tensor(mmd2(a, b, h))
    assert answer.shape == (), f"one number: shape (), not {shape_of(answer)}"

    def terms(kernel, diagonal=False, divisor=lambda n: n * (n - 1)):
        for each in (a, b):
            k = kernel(torch.cdist(each, each))
            yield (k.sum() - (0 if diagonal else k.trace())) / divisor(len(each))
        yield kernel(torch.cdist(a, b)).mean()

    def value(kernel=lambda d: (-d.square() / (2 * h**2)).exp(), *, across=2, **options):
        of_a, of_b, of_both = terms(kernel, **options)
        return of_a + of_b - across * of_both

    expected, biased = value(), value(diagonal=True, divisor=lambda n: n**2)
    mistakes = [
        (
            biased,
            "each point was compared with itself, too: is it ever as unlike as another draw?",
        ),
        (
            value(diagonal=True),
            "each point was compared with itself, too, and these pairs were not counted: how many "
            "terms has the sum?",
        ),
        (
            value(divisor=lambda n: n**2),
            "the pairs of a point with itself were left out of the sum: and out of the count?",
        ),
        (value(across=1), "(u - v)^2 has how many mixed terms? So how often does the last count?"),
        (value(across=-2), "everything was added: what should come out for equal distributions?"),
        (
            -expected,
            "the sign is turned round: where two sets differ, are points in one more alike?",
        ),
        (expected.sqrt(), "this is a root: and what if the estimate is below 0?"),
        (
            biased.abs().sqrt(),
            "this is a root, and each point was compared with itself: what is mmd2 the square of?",
        ),
        (
            value(lambda d: (-((d / h) ** 2)).exp()),
            "this kernel falls off too fast: by what is the squared distance divided?",
        ),
        (
            value(lambda d: (-d.square() / (2 * h)).exp()),
            "the bandwidth has the unit of a distance: what has to be squared?",
        ),
        (
            value(lambda d: (-d / (2 * h**2)).exp()),
            "the distances were not squared: how does a normal density fall off?",
        ),
        (
            value(lambda d: (d.square() / (2 * h**2)).exp()),
            "this kernel grows with the distance: what is the sign in its exponent?",
        ),
        (
            value(divisor=lambda n: 2 * n * (n - 1)),
            "each pair was counted once: how often does it stand in the sum?",
        ),
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), f"the estimate is not {answer.item():.4g}"
    alike = torch.as_tensor(mmd2(a, a + 0.1, h))
    assert near(alike, aae.mmd2(a, a + 0.1, aae.gaussian_kernel(h))), (
        f"for two sets that are nearly one it is {alike.item():.4g}: an estimate that is right on "
        "average, where the truth is zero, is on which side of zero?"
    )
    answer = torch.as_tensor(mmd2(b, a, 0.5))
    assert near(answer, aae.mmd2(b, a, aae.gaussian_kernel(0.5))), (
        "right for five points, four points and h = 1.3, and wrong for others: is one of these "
        "numbers written into the function?"
    )


@exercise("ex-permutation")
def check_p_value(p_value):
    """``p_value(found, null)``: a number, ``(B,)`` -> the p-value of the permutation test."""
    null = torch.tensor([0.3, -0.6, 0.9, 0.0, 0.5, 0.1, 0.8, -0.1, 0.4], dtype=torch.float64)
    found = (0.5, 2.0, -1.0)  # one of the null's own, above all, below all
    answers = [torch.as_tensor(p_value(value, null)) for value in found]
    assert answers[0].shape == (), f"one number: shape (), not {shape_of(answers[0])}"
    answer = torch.stack(answers).double()
    above = torch.stack([(null >= value).sum() for value in found]).double()
    strictly = torch.stack([(null > value).sum() for value in found]).double()
    far = torch.stack([(null.abs() >= abs(value)).sum() for value in found]).double()
    B = len(null)
    expected = (1 + above) / (1 + B)
    mistakes = [
        (above / B, "a p-value of 0 is possible: is the division that was found not one of all?"),
        (above / (1 + B), "the division that was found is counted below: is it above, too?"),
        ((1 + above) / B, "the division that was found is counted above: is it below, too?"),
        (
            (1 + strictly) / (1 + B),
            "a division that comes out just the same is not counted: is it any less extreme?",
        ),
        (
            strictly / B,
            "neither what was found nor a division just as extreme is counted: are they not among "
            "all divisions?",
        ),
        (
            (1 + B - strictly) / (1 + B),
            "this counts the divisions that come out smaller: which speak against a difference?",
        ),
        (
            (1 + B - above) / (1 + B),
            "this counts the divisions that come out smaller: which speak against a difference?",
        ),
        (1 - expected, "this is 1 - p: is a large discrepancy to give a small p or a large one?"),
        (
            1 - above / B,
            "this is 1 - p, without what was found: is a large discrepancy to give a large p?",
        ),
        (
            (1 + far) / (1 + B),
            "negative discrepancies count as large ones: does one speak for a difference?",
        ),
        (100 * expected, "this is in percent: which number from 0 to 1 is it?"),
    ]
    refuse(answer, mistakes)
    for value, one, right in zip(found, answer, expected, strict=True):
        assert near(one, right), f"for {value} found the p-value is not {one.item():.4g}"
    answer = torch.as_tensor(p_value(0.0, torch.tensor([-1.0, 1.0, 2.0])))
    assert near(answer, 0.75), (
        f"right for 9 divisions, and not for 3, with {answer.item():.4g}: is the number written "
        "into the function?"
    )


@exercise("ex-ring-prior")
def check_sampler(sampler):
    """``sampler(count) -> (count, 2)``, uniform by area where 1 <= |z| <= 2."""
    torch.manual_seed(0)
    n = 20_000
    for count in (n, 1, 5):
        z = torch.as_tensor(sampler(count))
        assert z.shape == (count, 2), f"for {count} draws: {(count, 2)}, not {shape_of(z)}"
    z, again = (torch.as_tensor(sampler(n)).double() for _ in range(2))
    assert not torch.equal(z, again), "both calls gave the same draws: who fixed the seed?"
    assert len(z.unique(dim=0)) > 0.9 * n, (
        "many draws are the same: has each a radius and an angle of its own?"
    )
    squares = z.square().sum(1)
    least, most = squares.min().sqrt().item(), squares.max().sqrt().item()
    assert least > 1 - 1e-4, f"a draw has |z| = {least:.3g}: how wide is the hole?"
    assert most < 2 + 1e-4, f"a draw has |z| = {most:.3g}: how far out does the ring go?"
    # Below, each tolerance is at least five standard errors.
    assert most > 1.99, f"no |z| is above {most:.3g}: how far out does the ring go?"
    assert least < 1.01, f"no |z| is below {least:.3g}: how wide is the hole?"
    eighths = torch.atan2(z[:, 1], z[:, 0]).mul(4 / math.pi).floor().long() % 8
    share = eighths.bincount(minlength=8) / n
    empty = (share < 0.01).sum().item()
    assert not empty, (
        f"{empty} of the 8 eighths of the ring are empty: from where to where do angles go?"
    )
    assert (share - 1 / 8).abs().max() < 0.015, "some angles come more often than others"
    mean = squares.mean().item()
    assert abs(mean - 7 / 3) > 0.05, (
        "the radius is uniform, and so the inside is too dense: which circle is longer, the "
        "inner or the outer?"
    )
    quartiles = squares.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=z.dtype))
    uniform = torch.tensor([1.75, 2.5, 3.25], dtype=z.dtype)
    assert (quartiles - uniform).abs().max() < 0.06, (
        f"half of the draws have |z| below {quartiles[1].sqrt():.3g}: which circle holds half of "
        "the area?"
    )
    here = torch.stack([squares[eighths == k].mean() for k in range(8)])
    assert (here - mean).abs().max() < 0.1, (
        "the radius depends on the angle: has each a random number of its own?"
    )


@exercise("ex-clusters")
def check_error(error):
    """``error(kinds, labels)``: int64, ``(N,), (N,) -> ()``, the clustering error rate."""
    table = torch.tensor([[1, 3, 2], [9, 7, 1], [2, 1, 6], [0, 6, 1], [4, 0, 3]])  # kind, label
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(3))
    kinds, labels = pairs.repeat_interleave(table.flatten(), 0).unbind(1)
    N, table = len(kinds), table.double()
    answer = torch.as_tensor(error(kinds, labels))
    assert answer.shape == (), f"one number: shape (), not {shape_of(answer)}"
    right = table.max(1).values.sum() / N
    best = max(  # of three kinds, one for each label
        table[list(chosen), range(3)].sum() for chosen in itertools.permutations(range(5), 3)
    )
    mistakes = [
        (right, "this is the share that is right: which is the error?"),
        (100 * (1 - right), "this is in percent: which number from 0 to 1 is it?"),
        (N * (1 - right), "this is a number of examples: which share is it?"),
        (
            (kinds != labels).double().mean(),
            "kinds and labels were compared as numbers: does kind 2 know that it is a 2?",
        ),
        ((kinds == labels).double().mean(), "kinds and labels were compared, as numbers"),
        (
            1 - table.max(0).values.sum() / N,
            "each label chose its commonest kind: who is to be named by whom?",
        ),
        (
            1 - best / N,
            "no two kinds have the same name here: may a label not have several kinds?",
        ),
        (
            (1 - table.max(1).values / table.sum(1)).mean(),
            "this is a mean over kinds: should one with few examples count as much?",
        ),
        (
            1 - table.sum(0).max() / N,
            "all kinds have the same name: which label is the commonest within each?",
        ),
    ]
    refuse(answer, mistakes)
    assert near(answer, 1 - right), f"the error rate is not {answer.item():.4g}"
    kinds, labels = torch.tensor([[6, 0, 6, 0, 6], [1, 3, 1, 3, 3]])
    hint = "right, but what if there is a kind without examples?"
    try:
        answer = torch.as_tensor(error(kinds, labels))
    except Exception as problem:
        raise AssertionError(f"{hint} It raises {type(problem).__name__}") from problem
    assert near(answer, 0.2), f"{hint} Then {answer.item():.4g} comes out"


@exercise("ex-detective-aae")
def check_slips(names):
    """``{loop: the name of its slip}``, for each of the four loops."""
    slips = (
        "sound",
        "stale gradients",
        "critic moves encoder",
        "looks fake",
        "mean for draw",
        "decoder left out",
    )
    answers = {  # and what to ask whoever names another
        "first": (
            "looks fake",
            "what does the critic learn to say of codes, and what does the encoder want to hear?",
        ),
        "second": (
            "mean for draw",
            "what does the decoder get, what does the critic get, and whose law is q(z)?",
        ),
        "third": (
            "sound",
            "the critic calls codes real here: what does the encoder want to hear? It takes two "
            "to exchange roles.",
        ),
        "fourth": ("critic moves encoder", "which weights does each step change?"),
    }
    assert_named(names, answers, slips)
    for loop, (slip, question) in answers.items():
        assert names[loop] == slip, (
            f"the {loop} loop is not to be called {names[loop]!r}: {question}"
        )


@exercise("ex-own-prior")
def check_prior(prior):
    """``prior(count) -> (count, 2)``, draws of any shape in the plane."""
    for count in (1000, 1, 7):
        z = torch.as_tensor(prior(count))
        assert z.shape == (count, 2), f"for {count} draws: {(count, 2)}, not {shape_of(z)}"
        assert z.is_floating_point(), f"the draws are {z.dtype}: what does a critic take?"
        assert z.isfinite().all(), "some draws are not finite: where do they come from?"
    z, again = torch.as_tensor(prior(1000)), torch.as_tensor(prior(1000))
    assert not torch.equal(z, again), "both calls gave the same draws: who fixed the seed?"
    places = len(z.unique(dim=0))
    assert places > 500, (
        f"a thousand draws fall on {places} places: where are the codes of other digits to go?"
    )


# --- four training loops for the detective ------------------------------------------------------


def first_loop(E, P, D, batches, prior, weight):
    """Train E, x -> q(z|x), P, z -> p(x|z), and the critic D, with one logit for each code."""
    opt_EP = torch.optim.Adam([*E.parameters(), *P.parameters()], 1e-3)
    opt_D = torch.optim.Adam(D.parameters(), 1e-3)
    for x in batches:
        z = E(x).rsample()
        L_D = F.softplus(-D(prior(len(x)))).mean() + F.softplus(D(z.detach())).mean()
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()

        L_EP = weight * F.softplus(D(z)).mean() - P(z).log_prob(x).mean()
        opt_EP.zero_grad()
        L_EP.backward()
        opt_EP.step()


def second_loop(E, P, D, batches, prior, weight):
    """Train E, x -> q(z|x), P, z -> p(x|z), and the critic D, with one logit for each code."""
    opt_EP = torch.optim.Adam([*E.parameters(), *P.parameters()], 1e-3)
    opt_D = torch.optim.Adam(D.parameters(), 1e-3)
    for x in batches:
        q = E(x)
        fake = q.mean
        L_D = F.softplus(-D(prior(len(x)))).mean() + F.softplus(D(fake.detach())).mean()
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()

        L_EP = weight * F.softplus(-D(fake)).mean() - P(q.rsample()).log_prob(x).mean()
        opt_EP.zero_grad()
        L_EP.backward()
        opt_EP.step()


def third_loop(E, P, D, batches, prior, weight):
    """Train E, x -> q(z|x), P, z -> p(x|z), and the critic D, with one logit for each code."""
    opt_EP = torch.optim.Adam([*E.parameters(), *P.parameters()], 1e-3)
    opt_D = torch.optim.Adam(D.parameters(), 1e-3)
    for x in batches:
        z = E(x).rsample()
        L_D = F.softplus(D(prior(len(x)))).mean() + F.softplus(-D(z.detach())).mean()
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()

        L_EP = weight * F.softplus(D(z)).mean() - P(z).log_prob(x).mean()
        opt_EP.zero_grad()
        L_EP.backward()
        opt_EP.step()


def fourth_loop(E, P, D, batches, prior, weight):
    """Train E, x -> q(z|x), P, z -> p(x|z), and the critic D, with one logit for each code."""
    opt_ED = torch.optim.Adam([*E.parameters(), *D.parameters()], 1e-3)
    opt_EP = torch.optim.Adam([*E.parameters(), *P.parameters()], 1e-3)
    for x in batches:
        z = E(x).rsample()
        L_D = F.softplus(-D(prior(len(x)))).mean() + F.softplus(D(z)).mean()
        opt_ED.zero_grad()
        L_D.backward()
        opt_ED.step()

        z = E(x).rsample()
        L_EP = weight * F.softplus(-D(z)).mean() - P(z).log_prob(x).mean()
        opt_EP.zero_grad()
        L_EP.backward()
        opt_EP.step()


# --- helpers ------------------------------------------------------------------------------------


class _Decoder(nn.Module):
    """ln p(x|z) of a normal distribution with variance 1, ``(B, H), (B, D) -> (B,)``, nats."""

    def __init__(self, latent, entries):
        super().__init__()
        self.mean = small_network(latent, entries)

    def forward(self, z, x):
        squares = (x - self.mean(z)).square() + math.log(2 * math.pi)
        return -squares.sum(-1) / 2
