"""Self-checks of the exercises of book/generative-adversarial-networks.ipynb."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from companion.divergences import jensen_shannon, kl, wasserstein1
from companion.exercises import NotAttempted, exercise
from companion.exercises._shared import (
    assert_named,
    joined,
    near,
    refuse,
    shape_of,
    small_network,
    two_parts,
)
from companion.gan import matrix_game, non_saturating, r1, saturating
from companion.sample_scores import precision_recall


@exercise("ex-game-value")
def check_value(value):
    """``value(A)``: ``(2, 2) -> ()``, the value of a game in which x picks the row and pays."""
    mixed = [[[1, -1], [-1, 1]], [[3, -1], [-2, 1]], [[0, 5], [4, 2]]]
    saddle = [[[2, 3], [1, 5]], [[1, 4], [-2, 2]], [[2, 1], [4, 5]], [[-3, -1], [-4, -4]]]
    games = torch.tensor(mixed + saddle, dtype=torch.float64)
    answers = [torch.as_tensor(value(A)) for A in games]
    assert answers[0].shape == (), f"one number: shape (), not {shape_of(answers[0])}"
    answer = torch.stack(answers).double()
    expected = torch.stack([matrix_game(A).value for A in games])
    a, b, c, d = games.flatten(1).unbind(1)
    mistakes = [
        (-expected, "this is what y pays x: who pays whom?"),
        ((a + b + c + d) / 4, "the mean of the entries: does everybody choose by a fair coin?"),
        (games.amax(2).amin(1), "x chose one row, and y knew which: may x throw a coin, too?"),
        (games.amin(1).amax(1), "y chose one column, and x knew which: may y throw a coin, too?"),
        (
            (a * d - b * c) / (a - b - c + d),
            "right where both players mix; but do both always mix? Is there an entry in "
            "[[2, 3], [1, 5]] that neither player would leave?",
        ),
        (
            torch.stack([-matrix_game(-A).value for A in games]),
            "right where both players mix; elsewhere the roles are exchanged: who picks the row, "
            "and who wants an entry to be small?",
        ),
    ]
    refuse(answer, mistakes)
    for A, one, right in zip(games.long(), answer, expected, strict=True):
        assert near(one, right), f"the value of {A.tolist()} is not {one:.7g}"
    flat = float(value(torch.full((2, 2), 3.0)))
    assert near(flat, 3.0), f"whatever they play in [[3, 3], [3, 3]], x pays 3, and not {flat:.4g}"


@exercise("ex-extragradient")
def check_step(step):
    """``step(x, y, rate)``: three numbers -> the next x and y, for V(x, y) = x y."""
    x, y, rate = 2.0, 3.0, 0.3
    answer = two_parts(step(x, y, rate), "x and y")
    ahead_x, ahead_y = x - rate * y, y + rate * x
    expected = right_x, right_y = x - rate * ahead_y, y + rate * ahead_x
    further_x, further_y = ahead_x - rate * ahead_y, ahead_y + rate * ahead_x
    down_y = y - rate * x
    mistakes = [
        (
            (ahead_x, ahead_y),
            "this is a plain step, by the gradients where both are: what will they be after it?",
        ),
        (
            (ahead_x, y + rate * ahead_x),
            "y saw where x has gone, and x saw nothing: which of the two is to look ahead?",
        ),
        (
            (right_x, ahead_y),
            "x looked ahead, and y saw nothing: which of the two is to look ahead?",
        ),
        (
            (right_x, y + rate * right_x),
            "y saw the new x and not the one ahead: do both step at once?",
        ),
        (
            (further_x, further_y),
            "the step starts from the place that was only looked at: where do the players stand?",
        ),
        (
            (x - rate * further_y, y + rate * further_x),
            "this looks two steps ahead: how many are tried out?",
        ),
        ((right_x, y - rate * ahead_x), "y goes down: does y pay V or win it?"),
        ((x - rate * down_y, y - rate * ahead_x), "y goes down: does y pay V or win it?"),
        ((x + rate * ahead_y, right_y), "x goes up: does x pay V or win it?"),
        (
            (x + rate * ahead_y, y + rate * (x + rate * y)),
            "x goes up: does x pay V or win it?",
        ),
        ((right_y, right_x), "y came first: which of them is wanted first?"),
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), (
        f"from (2, 3) with rate 0.3 the step does not lead to "
        f"({float(answer[0]):.4g}, {float(answer[1]):.4g})"
    )
    x, y, rate = -1.5, 0.5, 0.1
    expected = x - rate * (y + rate * x), y + rate * (x - rate * y)
    assert near(step(x, y, rate), expected), (
        "right from (2, 3) with rate 0.3, and wrong from (-1.5, 0.5) with rate 0.1: is one of "
        "these numbers written into the function?"
    )


@exercise("ex-best-discriminator")
def check_probability(probability):
    """``probability(p_data, p_G)``: two of one shape -> the same shape, the best D."""
    p = torch.tensor([0.6, 2.4, 0.3], dtype=torch.float64)  # densities need not sum to 1
    q = torch.tensor([1.8, 0.8, 0.3], dtype=torch.float64)
    answer = torch.as_tensor(probability(p, q))
    assert answer.shape == (3,), f"a probability per outcome: shape (3,), not {shape_of(answer)}"
    expected = p / (p + q)
    mistakes = [
        (1 - expected, "the roles are exchanged: of what is D the probability?"),
        (1 + q, "a probability above 1: what does Python divide by in a / b + c?"),
        (p / q, "these are odds, and they may exceed 1: which probability has them?"),
        ((p / q).log(), "this is the logit: what makes a probability of it?"),
        (p - q, "a difference may be negative: what is the share of the data?"),
        (
            (p - q).sigmoid(),
            "a sigmoid of the difference of densities: a difference of what is a logit?",
        ),
        (
            expected / expected.sum(),
            "this sums to 1 over the outcomes: between what does D decide at each of them?",
        ),
        (
            (p.log() - q.log()).softmax(0),
            "a softmax over the outcomes: between what does D decide at each of them?",
        ),
        (
            p.softmax(0),
            "a softmax over the outcomes: between what does D decide at each of them?",
        ),
        (
            p / (p + q).sum(),
            "this divides by a sum over all outcomes: does D look at one or at all?",
        ),
        (2 * expected, "twice as much: what should D say where both densities agree?"),
        (
            (p / p.sum()) / (p / p.sum() + q / q.sum()),
            "the densities were made to sum to 1: does what D says of one point depend on which "
            "others are asked?",
        ),
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), "the values are not those of the best discriminator"
    p, q = torch.tensor([[0.4, 0.6, 0.0], [0.4, 0.0, 0.6]], dtype=torch.float64)
    answer = torch.as_tensor(probability(p, q))
    assert near(answer, p / (p + q)), (
        f"where only the data or only the generator can be, D is {answer[1].item():.4g} and "
        f"{answer[2].item():.4g}: how sure may it be?"
    )


@exercise("ex-value-at-best")
def check_value_at_best(value):
    """``value(p_data, p_G)``: tables ``(n,), (n,) -> ()``, nats; they may hold zeros."""
    p = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    answer = torch.as_tensor(value(p, q))
    assert answer.shape == (), f"one number: shape (), not {shape_of(answer)}"
    jsd, ln2 = jensen_shannon(p, q), math.log(2)
    D = p / (p + q)
    real, fake = (p * D.log()).sum(), (q * (1 - D).log()).sum()
    expected = real + fake
    mistakes = [
        (-expected, "this is what D pays: can the value be above 0?"),
        (jsd - 2 * ln2, "one of the divergences to the middle is missing: how many are there?"),
        (2 * jsd - ln2, "D guesses where the tables are equal: how often, and at which price?"),
        (2 * jsd + 2 * ln2, "is the value of equal tables above 0 or below it?"),
        (2 * jsd, "equal tables have the value 0 here: is guessing free?"),
        (jsd, "this is the Jensen–Shannon divergence: what else is in the value?"),
        (expected / ln2, "the unit is the bit: which logarithm gives nats?"),
        (expected / 2, "half the value: is it the mean of two averages or their sum?"),
        (real, "only real examples count: what does D earn on the fake ones?"),
        (fake, "only fake examples count: what does D earn on the real ones?"),
        (
            real + (q * D.log()).sum(),
            "D stands in both averages: what does it get for doubting a fake example?",
        ),
        (
            kl(p, q) - 2 * ln2,
            "the divergence is that of one table from the other: is there a third?",
        ),
        (-2 * ln2, "this is the value of equal tables: what if they differ?"),
    ]
    refuse(answer, mistakes)
    assert near(answer, expected), "the value is not that of the best discriminator"
    p, q = torch.tensor([[0.5, 0.5, 0, 0], [0, 0.25, 0.75, 0]], dtype=torch.float64)
    answer = torch.as_tensor(value(p, q))
    assert answer.isfinite(), (
        f"tables with zeros have the value {answer.item()}: what does an outcome that never comes "
        "add to an average?"
    )
    assert near(answer, 2 * jensen_shannon(p, q) - 2 * ln2), (
        f"tables with zeros do not have the value {answer.item():.4g}: what was put in the place "
        "of the zeros?"
    )


@exercise("ex-losses")
def check_losses(losses):
    """``losses(real_logits, fake_logits)``: ``(N,), (M,) -> L_D, L_G``, means, nats."""
    real = torch.tensor([0.5, 2.0, -1.0, 3.0, 0.2], dtype=torch.float64)
    fake = torch.tensor([-0.4, 1.5, -2.5], dtype=torch.float64)
    L_D, L_G = two_parts(losses(real, fake), "L_D and L_G")
    for name, loss in (("L_D", L_D), ("L_G", L_G)):
        assert loss.shape == (), f"{name} is one number: shape (), not {shape_of(loss)}"
    right_D, right_G = non_saturating.L_D(real, fake), non_saturating.L_G(fake)
    for_real, for_fake = non_saturating.real(real), non_saturating.fake(fake)
    assert not (near(L_D, right_G) and near(L_G, right_D)), "which of the two comes first?"
    mistakes = [
        (-right_D, "L_D is what D wins: what is a loss?"),
        (
            non_saturating.L_D(fake, real),
            "real and fake are exchanged in L_D: for which should D be near 1?",
        ),
        (
            torch.cat([for_real, for_fake]).mean(),
            "L_D is one mean over both batches: should the larger one count for more?",
        ),
        (for_real.sum() + for_fake.sum(), "L_D is a sum: should it grow with the batch?"),
        (right_D / 2, "half of L_D: is it the mean of two means or their sum?"),
        (for_real.mean(), "only real examples are in L_D: what of the fake ones?"),
        (for_fake.mean(), "only fake examples are in L_D: what of the real ones?"),
        (
            for_real.mean() + right_G,
            "in L_D, D pays for doubting fake examples: what should it say of them?",
        ),
        (
            for_real.mean() - for_fake.mean(),
            "the parts of L_D are subtracted: does D want to be wrong about fake examples?",
        ),
    ]
    refuse(L_D, mistakes)
    assert near(L_D, right_D), f"L_D is not {L_D.item():.4g}"
    mistakes = [
        (-right_G, "the better its examples pass, the more G pays: what is the sign of L_G?"),
        (saturating.L_G(fake), "this L_G saturates: how steep is it where a fake is found out?"),
        (for_fake.mean(), "L_G is what D pays for fake examples: do both want the same?"),
        (-F.logsigmoid(fake).sum(), "L_G is a sum: should it grow with the batch?"),
        (for_real.mean(), "L_G is about real examples: did G make them?"),
    ]
    refuse(L_G, mistakes)
    assert near(L_G, right_G), f"L_G is not {L_G.item():.4g}"
    far = torch.tensor([200.0, -200.0])
    for name, loss, right in zip(("L_D", "L_G"), losses(far, far), (200, 100), strict=True):
        assert near(loss, torch.tensor(right)), (
            f"at logits of ±200 {name} should be {right}, not {float(loss):.4g}: the sigmoid "
            "rounds to 0 or 1; was its logarithm not known before?"
        )


@exercise("ex-isolation")
def check_isolation(discriminator_step):
    """``discriminator_step(G, D, real, noise, optimizer)``: one step of D; returns its loss."""
    generator = torch.Generator().manual_seed(0)
    real, noise = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    G, D = small_network(2, 2), nn.Sequential(small_network(2, 1), nn.Flatten(0))
    weights, rate = list(D.parameters()), 0.1
    fake = G(noise).detach()
    losses = {
        "L_D": non_saturating.L_D(D(real), D(fake)),
        "L_G": non_saturating.L_G(D(fake)),
        "exchanged": non_saturating.L_D(D(fake), D(real)),
        "real": non_saturating.real(D(real)).mean(),
        "fake": non_saturating.fake(D(fake)).mean(),
    }
    gradients = {
        name: joined(torch.autograd.grad(loss, weights, retain_graph=True))
        for name, loss in losses.items()
    }
    for weight in [*weights, *G.parameters()]:  # as G's step may have left it
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    stale = joined([weight.grad.clone() for weight in weights])
    before = joined([weight.detach().clone() for weight in weights])
    before_G = {name: value.clone() for name, value in G.state_dict().items()}
    stale_G = [weight.grad.clone() for weight in G.parameters()]

    loss = discriminator_step(G, D, real, noise, torch.optim.SGD(weights, rate))

    for name, value in G.state_dict().items():
        assert torch.equal(value, before_G[name]), (
            f"G has moved, in {name}: whose weights may a step of D change?"
        )
    for weight, gradient in zip(G.parameters(), stale_G, strict=True):
        assert weight.grad is not None, "G's gradients are gone: whose are to go?"
        assert torch.equal(weight.grad, gradient), (
            "G has not moved, but its gradients have changed: where is the graph to be cut?"
        )
    for name, network in (("G", G), ("D", D)):
        assert all(weight.requires_grad for weight in network.parameters()), (
            f"{name} is left frozen: how is it to learn in its next step?"
        )
    step = (before - joined([weight.detach() for weight in weights])) / rate
    assert step.any(), "D has not moved: who takes the step, and by which gradient?"
    down = gradients["L_D"]
    mistakes = [
        (
            down + stale,
            "D moved by more than the gradient of its loss: one was there before; who wipes it?",
        ),
        (stale, "D moved by the gradient that was there before: when is its own computed?"),
        (-down, "D went up its loss: which way does an optimiser go?"),
        (gradients["L_G"], "D went down G's loss: whose loss belongs to this step?"),
        (down + gradients["L_G"], "G's loss was added: whose loss belongs to this step?"),
        (gradients["exchanged"], "real and fake are exchanged: for which should D be near 1?"),
        (gradients["real"], "D learned from real examples alone: what of the fake ones?"),
        (gradients["fake"], "D learned from fake examples alone: what of the real ones?"),
        (6 * down, "the step is as many times too long as there are examples: a mean or a sum?"),
        (down / 2, "the step is half as long: is the loss the mean of two means or their sum?"),
    ]
    refuse(step, mistakes)
    assert near(step, down), "D has not moved as one step down its loss would move it"
    assert near(torch.as_tensor(loss).detach(), losses["L_D"].detach()), (
        "D has moved as it should, but what came back is not the loss that it paid before the step"
    )


@exercise("ex-price")
def check_price(price):
    """``price(p_data, p_G, points)``: three of ``(n,)``, points increasing -> ``(n,)``."""
    p, q = torch.tensor([[0.5, 0.1, 0.1, 0.3], [0.1, 0.4, 0.4, 0.1]], dtype=torch.float64)
    points = torch.tensor([-1.0, 0.0, 2.0, 3.5], dtype=torch.float64)
    f = torch.as_tensor(price(p, q, points))
    assert f.shape == (4,), f"a price at each point: shape (4,), not {shape_of(f)}"
    f, gaps = f.double(), points.diff()
    steepest, least = (f.diff().abs() / gaps).max(), wasserstein1(p, q, points)
    surplus = (p - q).cumsum(0)[:-1]
    assert not near(f.diff(), -surplus.sign()), (
        "the price changes by one from point to point: how far is it from each to the next?"
    )
    assert steepest < 1 + 1e-6, f"it is too steep: it changes by {steepest:.3g} per unit of length"
    gain = (p - q) @ f
    assert not near(gain, -least), "it loses what it could earn: where does it buy, where sell?"
    assert not near(f.diff(), f.new_zeros(3)), "the same price everywhere: what does it earn?"
    assert near(gain, least), f"it earns {gain:.3g}, and another price would earn {least:.3g}"
    others = [([0.2, 0.3, 0.5], [0.2, 0.5, 0.3]), ([0.0, 0.0, 1.0], [0.5, 0.5, 0.0])]
    for p, q in torch.tensor(others, dtype=torch.float64):
        points = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
        f = torch.as_tensor(price(p, q, points)).double()
        flat_enough = (f.diff().abs() <= points.diff() + 1e-6).all()
        best = near((p - q) @ f, wasserstein1(p, q, points))
        hint = "right for one pair of tables, and not for another, with zeros or equal sums"
        assert flat_enough & best, hint


@exercise("ex-r-one")
def check_penalty(penalty):
    """``penalty(D, x)``: a network and ``(B, n)`` -> ``()``, differentiable in D's weights."""
    D = nn.Sequential(small_network(3, 1), nn.Flatten(0))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    answer = torch.as_tensor(penalty(D, x))
    assert answer.shape == (), f"one number: shape (), not {shape_of(answer)}"
    expected, value = r1(D, x), answer.detach()
    slope = torch.autograd.functional.jacobian(lambda x: D(x).sum(), x)  # (B, n)
    squares, lengths = slope.square(), slope.norm(dim=1)
    mistakes = [
        (squares.sum(1).mean(), "twice the penalty: what of the half?"),
        (lengths.mean() / 2, "half the mean length of the slope: what of its square?"),
        (lengths.mean(), "the mean length of the slope: what of its square, and of the half?"),
        (
            squares.mean() / 2,
            "averaged over the entries, too: what is the square of a length?",
        ),
        (
            squares.sum(1).mean() / 50,
            "too small by the square of the batch: is it a gradient of the mean or of the sum?",
        ),
        (
            squares.sum() / 50,
            "too small by the batch: is it a gradient of the mean or of the sum?",
        ),
        (squares.sum() / 2, "a sum over the batch: what is its mean?"),
        (
            slope.sum(1).square().mean() / 2,
            "the entries were added before they were squared: what is the square of a length?",
        ),
        ((lengths - 1).square().mean(), "this asks for a slope of 1: which does R1 ask for?"),
        (-expected, "a penalty is paid: what is its sign?"),
    ]
    refuse(value, mistakes)
    assert near(value, expected.detach()), "the value is not half the mean square of the slope"
    weights = list(D.parameters())
    assert all(weight.grad is None for weight in weights), (
        "the value is right, but a gradient was left in D's weights: which function hands a "
        "gradient back and stores none?"
    )
    assert answer.requires_grad, (
        "the value is right, but D cannot learn from it: does torch remember how a gradient was "
        "computed?"
    )
    by_weights = [
        joined(torch.autograd.grad(y, weights, materialize_grads=True)) for y in (answer, expected)
    ]
    assert near(*by_weights), "the value is right, but part of its gradient misses D's weights"


@exercise("ex-packing")
def check_pack(pack):
    """``pack(x, m)``: ``(B, n) -> (B / m, m * n)``, m whole examples side by side in a row."""
    x = torch.arange(12.0).reshape(6, 2)
    whole = x.tolist()
    for m in (3, 2, 1, 6):
        answer = torch.as_tensor(pack(x, m))
        assert m == 1 or answer.shape != (6, 2 * m), (
            "as many rows as examples: how often is each used?"
        )
        shape = (6 // m, 2 * m)
        assert answer.shape == shape, f"for m = {m} the shape is {shape}, not {shape_of(answer)}"
        packed = answer.reshape(6, 2).tolist()
        assert all(example in whole for example in packed), (
            f"for m = {m} a row is {answer[0].tolist()}: which entries belong to one example?"
        )
        assert all(example in packed for example in whole), (
            f"for m = {m} some examples are lost and others come twice: does a generator of "
            "copies look any different then?"
        )
    try:
        answer = torch.as_tensor(pack(x[:5], 2))
    except Exception:
        return  # as it should
    raise AssertionError(
        f"five examples in packs of two came out in the shape {shape_of(answer)}: where is the "
        "error that was asked for, and where the fifth example?"
    )


@exercise("ex-recall")
def check_recall(recall):
    """``recall(real, fake, k)``: ``(N, n), (M, n), k -> ()``, the share of real ones reached."""
    generator = torch.Generator().manual_seed(0)
    real = 3 * torch.randn(60, 2, generator=generator, dtype=torch.float64)
    fake = 2 * torch.randn(40, 2, generator=generator, dtype=torch.float64) + 1
    answers = [torch.as_tensor(recall(real, fake, k)) for k in (1, 2, 4)]
    assert answers[0].shape == (), f"one number: shape (), not {shape_of(answers[0])}"
    answer = torch.stack(answers).double()
    apart = torch.cdist(real, fake)

    def shares(share):
        return torch.tensor([share(k) for k in (1, 2, 4)], dtype=torch.float64)

    def reached(distances, radii):
        return (distances <= radii).any(1).double().mean()

    def radii(examples, k):  # the nearest is the example itself
        return torch.cdist(examples, examples).kthvalue(k + 1).values

    expected = shares(lambda k: precision_recall(real, fake, k).recall)
    mistakes = [
        (
            shares(lambda k: precision_recall(real, fake, k).precision),
            "this is the precision: whose balls are to reach whom?",
        ),
        (
            shares(lambda k: reached(apart, radii(fake, k - 1))),
            "the balls reach one neighbour too few: is an example its own neighbour?",
        ),
        (
            shares(lambda k: reached(apart, radii(fake, k + 1))),
            "the balls reach one neighbour too many: was the example itself left out before?",
        ),
        (
            shares(lambda k: reached(apart, radii(fake, k).square())),
            "distances were compared with squared radii: in which unit is each?",
        ),
        (
            shares(lambda k: reached(apart.square(), radii(fake, k))),
            "squared distances were compared with radii: in which unit is each?",
        ),
        (
            shares(lambda k: reached(apart, radii(real, k)[:, None])),
            "each real example has a ball of its own here: round which set are they drawn?",
        ),
        (1 - expected, "this is the share that is missed: which is wanted?"),
        (
            shares(lambda k: (apart <= radii(fake, k)).any(0).double().mean()),
            "this is the share of fakes whose ball holds a real example: of which set is a share "
            "wanted?",
        ),
        (60 * expected, "this is a number of examples: which share is it?"),
    ]
    refuse(answer, mistakes)
    for k, one, right in zip((1, 2, 4), answer, expected, strict=True):
        assert near(one, right), f"for k = {k} the recall is not {one:.4g}"
    real, fake = torch.tensor([[-2.0], [13.0]]), torch.tensor([[0.0], [2.0], [6.0]])
    assert near(torch.as_tensor(recall(real, fake, 1)), 0.5), (
        "a real example that lies exactly on a ball was left out"
    )


@exercise("ex-scores")
def check_cheats(names):
    """``{cheat: a score that exposes it}``, for each of the four cheats."""
    scores = ("nearest neighbours", "parzen", "frechet", "precision", "recall")
    questions = {  # what to ask whoever names a score that does not expose the cheat
        "copies": {
            "parzen": "is the data any less dense round training pictures than round fresh ones?",
            "frechet": "are mean and covariance of the training set any different?",
            "precision": "is a copy of a real picture far from the real ones?",
            "recall": "are the training pictures any less varied than others?",
        },
        "one picture": {
            "nearest neighbours": "is this new picture nearer to a training picture than other "
            "new ones are, or farther?",
            "precision": "is a perfect picture far from the real ones?",
        },
        "cloud": {
            "frechet": "what of the features does this distance look at?",
            "recall": "is any real picture out of reach of a cloud that is everywhere?",
        },
        "favourite": {
            "nearest neighbours": "is a new picture of this kind nearer to its neighbour than "
            "one of another kind?",
            "precision": "is any of these perfect pictures far from the real ones?",
            "recall": "every kind comes now and then: do the balls ask how often?",
        },
    }
    assert_named(names, questions, scores)
    for cheat, score in names.items():
        assert score not in questions[cheat], f"{cheat!r} by {score}: {questions[cheat].get(score)}"


@exercise("ex-conditional")
def check_conditional(conditional):
    """A class ``Conditional(body, classes)``: ``(B, latent + classes) -> (B, n + classes)``."""
    generator = torch.Generator().manual_seed(0)
    for latent, classes in ((4, 3), (2, 5)):
        z = torch.randn(6, latent, generator=generator)
        y = F.one_hot(torch.arange(6) % classes, classes).float()
        zy, body = torch.cat([z, y], 1), _Body()
        network = conditional(body, classes)
        xy = network(zy.clone())
        if xy is None or xy is ...:
            raise NotAttempted
        assert body.seen is not None, "the body was never called: who makes x?"
        assert not near(body.seen, z), "the body gets no label: how is it to know what to draw?"
        assert near(body.seen, zy), "the body gets something else than noise and label, joined"
        x = body(zy)
        assert not near(xy, x), "the label is not passed on: how is D to judge the pair?"
        assert xy.shape == (6, 2 + classes), (
            f"for x with 2 entries and {classes} classes the shape is {(6, 2 + classes)}, not "
            f"{shape_of(xy)}: how wide is a label?"
        )
        assert not near(xy, torch.cat([y, x], 1)), (
            "the label stands before x: where do data have it?"
        )
        assert near(xy[:, :2], x), "the first entries are not what the body made"
        assert near(xy[:, 2:], y), (
            "the last entries are not the label that was asked for: where does it stand in zy?"
        )
        assert xy.requires_grad, "no gradient leaves: how is the body to learn?"
        assert any(weight is body.scale for weight in network.parameters()), (
            "the weights of the body are not among those of the network: how would an optimiser "
            "find them?"
        )


@exercise("ex-detective-gan")
def check_slips(names):
    """``{loop: the name of its slip}``, for each of the four loops."""
    slips = (
        "sound",
        "stale gradients",
        "real for fake",
        "both players step",
        "sigmoid twice",
        "helps the other",
    )
    answers = {  # and what to ask whoever names another
        "first": ("both players step", "which weights does each step change?"),
        "second": ("sigmoid twice", "what goes into the loss, and what does the loss expect?"),
        "third": (
            "sound",
            "a gradient may arrive where nobody uses it: what is wiped out before the next step? "
            "And which of the chapter's losses are these?",
        ),
        "fourth": ("helps the other", "what does each player want D to say of a fake example?"),
    }
    assert_named(names, answers, slips)
    for loop, (slip, question) in answers.items():
        assert names[loop] == slip, (
            f"the {loop} loop is not to be called {names[loop]!r}: {question}"
        )


@exercise("ex-better-gan")
def check_better(gain):
    """``gain(scores, scores_before)``: ``(S,), (S,)`` -> mean gain and its standard error."""
    scores = torch.tensor([0.82, 0.91, 0.85], dtype=torch.float64)
    before = torch.tensor([0.60, 0.77, 0.58], dtype=torch.float64)
    answer = two_parts(gain(scores, before), "a mean and a standard error")
    mean, error = (value.double() for value in answer)
    right = scores.mean() - before.mean()
    assert not near(mean, -right), "a higher score is better: which comes first in the difference?"
    assert near(mean, right), f"the mean gain is not {mean.item():.4g}"
    a, b = scores.var(), before.var()
    mistakes = [
        (
            (scores - before).std() / 3**0.5,
            "the seeds were paired: has the first run of one model anything in common with the "
            "first of the other?",
        ),
        ((a + b).sqrt(), "this is how much one gain varies: how well is the mean of three known?"),
        ((a + b) / 3, "this is a variance: what has the unit of the score?"),
        (
            ((a + b) / 2 / 3).sqrt(),
            "the variances were averaged: do the errors of two means add up in a difference?",
        ),
        (
            ((a + b) / 3).sqrt() * (2 / 3) ** 0.5,
            "of three scores one is used up by their mean: by what is the sum of squares divided?",
        ),
        (
            (a.sqrt() + b.sqrt()) / 3**0.5,
            "the errors were added: do two independent errors point the same way?",
        ),
        ((a / 3).sqrt(), "only the new scores vary here: how well are the old ones known?"),
        (
            torch.cat([scores, before]).std() / 3**0.5,
            "the scores of both versions were thrown together: about which mean do they vary?",
        ),
        (
            torch.cat([scores, before]).std() / 6**0.5,
            "the scores of both versions were thrown together: about which mean do they vary?",
        ),
    ]
    refuse(error, mistakes)
    assert near(error, ((a + b) / 3).sqrt()), f"the standard error is not {error.item():.4g}"


# --- four training loops for the detective ------------------------------------------------------


def first_loop(G, D, batches, latent):
    """Train both players, D with one logit per example; ``latent`` entries of noise."""
    optimizer = torch.optim.Adam([*G.parameters(), *D.parameters()], 1e-3)
    for real in batches:
        fake = G(torch.randn(len(real), latent))
        L_D = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
        optimizer.zero_grad()
        L_D.backward()
        optimizer.step()

        fake = G(torch.randn(len(real), latent))
        L_G = F.softplus(-D(fake)).mean()
        optimizer.zero_grad()
        L_G.backward()
        optimizer.step()


def second_loop(G, D, batches, latent):
    """Train both players, D with one logit per example; ``latent`` entries of noise."""
    opt_G = torch.optim.Adam(G.parameters(), 1e-3)
    opt_D = torch.optim.Adam(D.parameters(), 1e-3)
    for real in batches:
        ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
        fake = G(torch.randn(len(real), latent)).detach()
        L_D = F.binary_cross_entropy_with_logits(D(real).sigmoid(), ones)
        L_D = L_D + F.binary_cross_entropy_with_logits(D(fake).sigmoid(), zeros)
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()

        fake = G(torch.randn(len(real), latent))
        L_G = F.binary_cross_entropy_with_logits(D(fake).sigmoid(), ones)
        opt_G.zero_grad()
        L_G.backward()
        opt_G.step()


def third_loop(G, D, batches, latent):
    """Train both players, D with one logit per example; ``latent`` entries of noise."""
    opt_G = torch.optim.Adam(G.parameters(), 1e-3)
    opt_D = torch.optim.Adam(D.parameters(), 1e-3)
    for real in batches:
        fake = G(torch.randn(len(real), latent))
        L_D = -F.logsigmoid(D(real)).mean() - F.logsigmoid(-D(fake)).mean()
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()

        fake = G(torch.randn(len(real), latent))
        L_G = F.logsigmoid(-D(fake)).mean()
        opt_G.zero_grad()
        L_G.backward()
        opt_G.step()


def fourth_loop(G, D, batches, latent):
    """Train both players, D with one logit per example; ``latent`` entries of noise."""
    opt_G = torch.optim.Adam(G.parameters(), 1e-3)
    opt_D = torch.optim.Adam(D.parameters(), 1e-3)
    for real in batches:
        fake = G(torch.randn(len(real), latent)).detach()
        L_D = -F.logsigmoid(D(real)).mean() - F.logsigmoid(-D(fake)).mean()
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()

        fake = G(torch.randn(len(real), latent))
        L_G = -F.logsigmoid(-D(fake)).mean()
        opt_G.zero_grad()
        L_G.backward()
        opt_G.step()


# --- helpers ------------------------------------------------------------------------------------


class _Body(nn.Module):
    """Makes two entries of an input of any width, and remembers the input."""

    def __init__(self):
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.tensor(1.5)), None

    def forward(self, zy):
        self.seen = zy
        return self.scale * zy[:, :2].flip(1)
