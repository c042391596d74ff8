"""Self-checks of the exercises of book/autoregressive-models.ipynb."""

import math

import torch
import torch.nn.functional as F

from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN, PixelCNN
from companion.checks import all_binary, sampling_p_value, total_probability
from companion.exercises import exercise
from companion.exercises._shared import near, shape_of, two_parts
from companion.nn import MaskedConv2d


@exercise("ex-window-parameters")
def check_window_parameters(count):
    """``count(D, n)``: the parameters of tables that look n entries back."""
    assert count(5, 0) == 5, "with no window every entry is on its own: D probabilities"
    assert count(5, 4) == 2**5 - 1, "the widest window is the full joint: 2^D - 1"
    assert count(5, 1) == 9, "a Markov chain over 5 entries has 9: the first entry sees nothing"
    for D in range(1, 9):
        for n in range(D):
            expected = sum(2 ** min(i, n) for i in range(D))
            assert count(D, n) == expected, (
                f"count({D}, {n}) is not {count(D, n)}: how many pixels does each pixel look at?"
            )


@exercise("ex-log-likelihood")
def check_log_likelihood(log_likelihood):
    """``log_likelihood(x, logits)``: ``(B, D), (B, D) -> (B,)``, nats."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    x = (torch.rand(7, 5, generator=generator) < 0.5).double()
    expected = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    answer = torch.as_tensor(log_likelihood(x, logits))
    assert answer.shape == (7,), f"one number per example: shape (7,), not {shape_of(answer)}"
    assert not near(answer, -expected), "the sign is turned round"
    assert not near(answer, expected / 5), "sum over the entries, do not average"
    assert not near(answer, expected / math.log(2)), "the unit is the bit: which is wanted?"
    assert not near(
        answer, -F.binary_cross_entropy_with_logits(logits.sigmoid(), x, reduction="none").sum(-1)
    ), "the sigmoid is applied twice"
    assert near(answer, expected), "the values are not the log-likelihoods"
    extreme = log_likelihood(torch.ones(1, 1), torch.tensor([[-200.0]]))
    assert near(extreme, torch.tensor([-200.0])), (
        "at a logit of -200 the answer should be -200: the logarithm of a sigmoid that has "
        "rounded to zero is lost; which line of the derivation has no such logarithm?"
    )
    large = log_likelihood(torch.ones(1, 1), torch.tensor([[200.0]]))
    assert near(large, torch.zeros(1)), (
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
        assert answer.shape == (6, 6), f"shape (6, 6), not {shape_of(answer)}"
        assert not answer.diagonal().any(), "a pixel must not see itself"
        assert not torch.equal(answer, expected.T), (
            "of the two indices, which one looks, and which one is looked at?"
        )
        assert torch.equal(answer, expected), (
            "order[i] is the pixel that comes i-th; what counts is each pixel's place in the order"
        )


@exercise("ex-made-masks")
def check_made_masks(masks):
    """``masks(degrees, D)``: both masks of a MADE with one hidden layer, (H, D) and (D, H)."""
    D = 6
    degrees = torch.tensor([1, 1, 2, 3, 3, 4, 5, 5])
    answer = two_parts(masks(degrees, D), "one mask for each layer of weights")
    into, out = (mask.double() for mask in answer)
    H = len(degrees)
    assert into.shape == (H, D), f"the first mask has shape {(H, D)}, not {shape_of(into)}"
    assert out.shape == (D, H), f"the second mask has shape {(D, H)}, not {shape_of(out)}"
    paths = out @ into
    assert not paths.diagonal().any(), "there is a path from a pixel to itself: the model cheats"
    assert not paths.triu().any(), "there is a path from a later pixel to an earlier one"
    assert (paths.tril(-1) > 0).sum() == D * (D - 1) // 2, (
        "no path cheats, but some earlier pixel no longer reaches a later one: too much is masked"
    )
    assert torch.equal(into, (degrees[:, None] >= torch.arange(1, D + 1)).double()), (
        "a unit of degree m sees the first m pixels"
    )
    assert torch.equal(out, (torch.arange(1, D + 1)[:, None] > degrees).double()), (
        "every path is there, but not every connection: an output listens to all units of lower "
        "degree"
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
        answer = torch.as_tensor(ensemble(each))
        assert answer.shape == (32,), f"one number per example: (32,), not {shape_of(answer)}"
        total = answer.exp().sum().item()
        assert not near(answer, each.mean(0)), (
            f"averaging logarithms gives probabilities that sum to {total:.3f}: not a distribution"
        )
        assert abs(total - 1) < 1e-5, f"the probabilities of all 32 vectors sum to {total:.3f}"
        assert near(answer, model.log_prob(x)), "the orders do not count equally"
    assert near(ensemble(each[:2]), each[:2].logsumexp(0) - math.log(2)), (
        "right for three orders, and not for two: is their number written into the function?"
    )
    low = torch.tensor([[-900.0, -3.0], [-901.0, -905.0]], dtype=torch.float64)
    far = torch.as_tensor(ensemble(low))
    assert near(far, low.logsumexp(0) - math.log(2)), (
        f"of log-probabilities -900 and -901 you make {far[0].item():.4g}: their exponentials "
        "round to zero. What may be taken out of each example's sum beforehand?"
    )


@exercise("ex-sampler")
def check_sampler(sample):
    """``sample(model, n)``: n ancestral samples, ``(n, D)``, in the model's own order."""
    torch.manual_seed(0)
    model = FVSBN(5, [3, 0, 4, 2, 1])
    for parameter in model.parameters():
        parameter.data.normal_()
    answer = torch.as_tensor(sample(model, 20_000))
    assert answer.shape == (20_000, 5), f"shape (n, D), not {shape_of(answer)}"
    assert ((answer == 0) | (answer == 1)).all(), "samples are zeros and ones: draw, do not round"
    assert len(answer.unique(dim=0)) > 1, "all samples are the same: is a coin thrown for each?"
    assert sampling_p_value(answer, model.log_prob) > 1e-4, (
        "the samples do not follow exp(log_prob): is each pixel drawn after those it depends on, "
        "and with the probability that its logit stands for?"
    )


@exercise("ex-nade")
def check_nade_logits(logits):
    """``logits(x, W, c, V, b)``: NADE's logits, ``(B, D) -> (B, D)``, in O(D H) each."""
    model = _random(NADE(6, 4), seed=0).float()
    W, c, V, b = model.W, model.c, model.V, model.b
    x = all_binary(6)[1::9].float()
    answer = logits(x, W, c, V, b)
    assert answer.shape == x.shape, f"a logit per entry: {tuple(x.shape)}, not {shape_of(answer)}"
    expected = model.logits(x)
    terms = x[..., None] * W
    earlier = terms.cumsum(-2) - terms

    def is_answer(values):
        return torch.allclose(answer.float(), values, atol=1e-5)

    def output(h, b=b):
        return (h * V).sum(-1) + b

    assert not is_answer(output((c + earlier + terms).sigmoid())), (
        "every entry takes part in its own prediction: when is it added to the running sum?"
    )
    assert not is_answer(output(earlier.sigmoid())), "the running sum starts at zero; what of c?"
    assert not is_answer(output((c + earlier).sigmoid(), b=0)), "b is forgotten"
    assert not is_answer(output(c + earlier)), "the hidden units have a sigmoid"
    assert not is_answer(expected.sigmoid()), "these are probabilities: leave the last sigmoid out"
    assert is_answer(expected), "the values are not NADE's logits"


@exercise("ex-kernel-mask")
def check_kernel_mask(mask):
    """``mask(kind, kernel)``: what a masked convolution may see, ``(kernel, kernel)``."""
    for kernel in (3, 5, 7):
        m = kernel // 2
        a, b = (torch.as_tensor(mask(kind, kernel)).bool() for kind in "AB")
        for answer in (a, b):
            assert answer.shape == (kernel, kernel), (
                f"a kernel of {kernel} has a mask of shape {(kernel, kernel)}, not "
                f"{shape_of(answer)}"
            )
            assert not answer[m + 1 :].any(), "the rows below the centre hold later pixels"
            assert not answer[m, m + 1 :].any(), "to the right of the centre stand later pixels"
        assert not a[m, m], (
            "mask A shows the centre: the first layer reads the picture, and the pixel sees itself"
        )
        assert b[m, m], (
            "mask B hides the centre: nothing leaks, but above the first layer that place holds "
            "what earlier pixels have told, and it is lost"
        )
        for kind, answer in zip("AB", (a, b), strict=True):
            assert torch.equal(answer, MaskedConv2d(kind, 1, 1, kernel).mask.bool()), (
                f"no later pixel is seen, but mask {kind} hides earlier ones, too: which rows are "
                "earlier in their whole width?"
            )


@exercise("ex-blind-spot")
def check_view(view):
    """``view(shape, pixel, kernel, layers)``: what a stack shows a pixel, bool ``(H, W)``."""
    cases = [((6, 7), (3, 3), 3, 1), ((6, 7), (4, 6), 3, 2), ((7, 6), (5, 2), 5, 1)]
    for shape, pixel, kernel, layers in cases:
        answer = torch.as_tensor(view(shape, pixel, kernel, layers))
        assert answer.shape == shape, f"the picture has the shape {shape}, not {shape_of(answer)}"
        answer = answer.bool()
        expected = _seen(shape, pixel, kernel, "B" * layers + "A")
        place = pixel[0] * shape[1] + pixel[1]
        earlier = (torch.arange(len(answer.flatten())) < place).view(shape)
        mistakes = [
            (
                _seen(shape, pixel, kernel, "B" * (layers + 1)),
                "the pixel sees itself: which mask has the layer that reads the picture?",
            ),
            (
                expected.flip(0, 1).roll([2 * i + 1 for i in pixel], (0, 1)),
                "these are pixels that look at this one: which way do the paths go?",
            ),
            (earlier, "this is all that comes earlier: does a path lead to each of these pixels?"),
            (
                _seen(shape, pixel, kernel, "A" * (layers + 1)),
                "mask A in all layers: what does its place hold above the first layer?",
            ),
            (
                _seen(shape, pixel, kernel, "B" * (layers - 1) + "A"),
                "one kernel too few: how many lie between the picture and the logit?",
            ),
            (
                _seen(shape, pixel, kernel, "B" * (layers + 1) + "A"),
                "one kernel too many: how many lie between the picture and the logit?",
            ),
        ]
        for mistake, hint in mistakes:
            assert not torch.equal(answer, mistake) or torch.equal(mistake, expected), hint
        assert not (answer & ~earlier).any(), "a pixel is seen that does not come earlier"
        wrong = (answer != expected).nonzero()
        assert not len(wrong), (
            f"with {layers + 1} kernels of width {kernel}, pixel {pixel} of {shape}: wrong at "
            f"{tuple(wrong[0].tolist())}"
        )


def _seen(shape, pixel, kernel, kinds):
    """Where paths through masks of these kinds lead, from the logit back to the picture."""
    reached = {pixel}
    for kind in kinds:
        steps = (MaskedConv2d(kind, 1, 1, kernel).mask.squeeze().nonzero() - kernel // 2).tolist()
        reached = {
            (r + up, c + along)
            for r, c in reached
            for up, along in steps
            if 0 <= r + up < shape[0] and 0 <= c + along < shape[1]
        }
    seen = torch.zeros(shape, dtype=torch.bool)
    for place in reached:
        seen[place] = True
    return seen


@exercise("ex-detective")
def check_detective(is_sound):
    """``is_sound(model)``: do its conditionals make a distribution, and does it draw from it?"""
    torch.manual_seed(0)
    for model in _sound_models():
        answer = is_sound(model)
        assert answer in (True, False), f"is_sound answers True or False, not {answer!r}"
        assert answer, (
            f"a sound {type(model).__name__} was accused: sums have rounding errors, small "
            "p-values occur by chance, a model may overlook some of the earlier pixels, and not "
            "every model goes row by row"
        )
    for model, complaint in _broken_models():
        assert not is_sound(model), complaint


@exercise("ex-clamping")
def check_completion(complete):
    """``complete(model, x, known, n)``: ``(D,), (D,) -> (n, D)``, whichever entries are known."""
    torch.manual_seed(0)
    D, n = 5, 20_000
    model = _random(FVSBN(D, [3, 0, 4, 2, 1]), seed=1).float()
    x = model.sample()
    for places in ([0, 1], [2, 4], [3, 4], []):  # of the known entries in the model's order
        known = torch.zeros(D, dtype=torch.bool)
        known[model.orders[0][places]] = True
        answer = torch.as_tensor(complete(model, x, known, n))
        assert answer.shape == (n, D), f"shape (n, D), not {shape_of(answer)}"
        assert ((answer == 0) | (answer == 1)).all(), "completions are zeros and ones"
        assert (answer == x)[:, known].all(), "the known entries must come out as they went in"
        # The test wants independent draws. Draws chosen by weight among the same candidates are
        # not, but a few of many nearly are.
        few = answer[torch.randperm(n)[:1000]]
        exact, overwriting = _p_values(few, model, known)
        if exact < 1e-6:
            assert overwriting < 1e-6, (
                "the entries drawn before a known one have not heard of it: which factors of the "
                "joint did the drawing leave out?"
            )
            raise AssertionError(
                f"with {len(places)} entries known the draws do not follow the exact conditional, "
                "which the check finds by enumeration"
            )


def _p_values(draws, model, known):
    """Of completions: as draws from the exact conditional, and as draws by overwriting."""
    unknown = ~known

    def completed(rest):
        x = draws[:1].repeat(len(rest), 1)
        x[:, unknown] = rest.to(x)
        return x

    def overwriting(rest):
        return model.log_conditionals(completed(rest))[:, unknown].sum(-1)

    def exact(rest):
        return model.log_prob(completed(rest)) - evidence

    evidence = model.log_prob(completed(all_binary(int(unknown.sum())))).logsumexp(0)
    return [sampling_p_value(draws[:, unknown], density) for density in (exact, overwriting)]


# --- a line-up: small sound models, and one for each classic mistake ---------------------------


def _random(model, seed, scale=1.0):
    """The model in float64 with every parameter drawn at random: a fresh one hides its mistakes."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


class _SeesItself(PixelCNN):
    """Mask B in the first layer, where mask A belongs."""

    def __init__(self, shape):
        super().__init__(shape, channels=4, layers=1)
        self.first = MaskedConv2d("B", 1, 4, 3)


class _Leaks(MADE):
    """Outputs listen to hidden units of their own degree: ≥ for > in the last mask."""

    def __init__(self, features):
        super().__init__(features, (20,))
        self.output.mask = (torch.arange(1, features + 1)[:, None] >= self._degrees(20))[None]


class _AveragesLogits(MADE):
    """Averages the logits of its orders, where probabilities of whole vectors belong."""

    def log_prob(self, x):
        logits = torch.stack([self.logits(x, m) for m in range(len(self.orders))]).mean(0)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


class _DrawsFromSquashed(FVSBN):
    """Applies the sigmoid twice, in the sampler and not in the density."""

    def walk(self, x, which=0):
        for logit in super().walk(x, which):
            yield logit.sigmoid()


FEATURES, SHAPE, ORDERS = 6, (2, 3), torch.stack([torch.arange(6), torch.arange(6).flip(0)])


def _sound_models():
    yield _random(FVSBN(FEATURES, [3, 0, 5, 4, 2, 1]), seed=0)
    yield _random(FVSBN(FEATURES, window=2), seed=0)
    yield _random(NADE(FEATURES, 10), seed=0)
    yield _random(MADE(FEATURES, (20,)), seed=0)
    yield _random(MADE(FEATURES, (20,), ORDERS), seed=0)
    yield _random(GatedPixelCNN(SHAPE, 4, 1, kernel=3, first_kernel=3), seed=0)


def _broken_models():
    """(model, what to say if it is let go)."""
    # A leak so small that thousands of samples do not tell; the sum does.
    model = _random(_SeesItself(SHAPE), seed=2, scale=0.1)
    total = total_probability(model.log_prob, FEATURES)
    yield model, f"a PixelCNN was let go that sums to {total:.4f}, which is no rounding error"
    yield (
        _random(_Leaks(FEATURES), seed=0),
        "a MADE was let go in which a path leads from some pixels to themselves",
    )
    yield (
        _random(_AveragesLogits(FEATURES, (20,), ORDERS), seed=0),
        "a mixture of two orders was let go: each order alone is sound, the whole is no "
        "distribution",
    )
    yield (
        _random(_DrawsFromSquashed(FEATURES), seed=0),
        "a model that sums to one and yet draws from another distribution was let go: what do you "
        "ask of its samples?",
    )
