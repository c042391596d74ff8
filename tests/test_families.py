"""The map of the families: its form, and its claims wherever the code can be asked."""

import math
import re

import pytest
import torch
import yaml
from torch import nn
from torch.distributions import Normal

from companion import families
from companion.aae import AAE, surgery
from companion.autoregressive import FVSBN, MADE, NADE, PixelCNN
from companion.checks import total_probability
from companion.distributions import (
    BernoulliMixture,
    GenerativeClassifier,
    IndependentBernoulli,
    MarkovChain,
)
from companion.families import FAMILIES, QUESTIONS, Answer
from companion.gan import GAN, optimal_logit, saturating
from companion.nn import mlp
from companion.vae import PPCA, ConditionalBernoulli, elbo, iwae, linear_vae, one_layer, two_layers
from tests.book import ROOT

PLAN = [
    "generative-models",
    "autoregressive-models",
    "variational-autoencoders",
    "generative-adversarial-networks",
    "adversarial-autoencoders",
]
BY_CHAPTER = {family.chapter: family for family in FAMILIES if family.chapter}


def marks(chapter):
    return [answer.mark for answer in BY_CHAPTER[chapter].answers]


# --- form --------------------------------------------------------------------------------------


def test_the_families_of_the_book_come_first_in_the_order_of_its_chapters():
    assert [family.chapter for family in FAMILIES] == [*PLAN, None, None, None]
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    pages = [page["file"].rpartition("/")[2] for page in toc["parts"][0]["chapters"]]
    assert [page for page in PLAN if page in pages] == [page for page in pages if page in PLAN]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_answers_every_question_in_few_words(family):
    assert len(family.answers) == len(QUESTIONS)
    for mark, words in family.answers:
        assert mark in ("yes", "partly", "no")
        assert words or mark != "partly"  # half a yes is explained
        assert len(words) <= len("up to a constant")  # more would run into the next column
    assert family.why.endswith(".")
    assert len(family.why) < 100


def test_the_table_says_what_the_map_shows():
    head, rule, *rows = [line.strip("| ").split(" | ") for line in families.table().splitlines()]
    assert head == ["Family", *QUESTIONS, "Why"]
    assert set(rule) == {"---"}
    assert len(rule) == len(head)
    for row, family in zip(rows, FAMILIES, strict=True):
        assert row == [family.name, *map(str, family.answers), family.why]
    # The columns are in this order: here, each differs from its neighbour in one of the families.
    assert "| Variational autoencoder | no (estimated) | yes | yes | yes |" in families.table()
    assert "| GAN | no | no | yes | partly (no encoder) |" in families.table()
    assert "| yes | yes (already exact) | no (pixel by pixel) | no |" in families.table()
    assert QUESTIONS == ("exact density", "bound on it", "draws in one pass", "latent code")


# --- claims ------------------------------------------------------------------------------------


def whether(condition):
    return "yes" if condition else "no"


def test_a_bernoulli_mixture_has_an_exact_density_and_a_latent():
    model = BernoulliMixture(6, 3).double()
    torch.nn.init.uniform_(model.probs, 0.1, 0.9)
    exact = total_probability(model.log_prob, 6) == pytest.approx(1)
    x = model.sample((4,))  # a component and its coins: no entry waits for another
    code = model.responsibilities(x)
    latent = code.shape == (4, 3) and torch.allclose(code.sum(-1), torch.ones(4).double())
    assert marks("generative-models") == [whether(exact), whether(exact), "yes", whether(latent)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: FVSBN(9),
        lambda: NADE(9, hidden=5),
        lambda: MADE(9, hidden=(16,)),
        lambda: PixelCNN((3, 3), channels=4, layers=2),
    ],
    ids=["FVSBN", "NADE", "MADE", "PixelCNN"],
)
def test_an_autoregressive_model_is_exact_and_draws_pixel_by_pixel(build, monkeypatch):
    model = build().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    exact = total_probability(model.log_prob, 9) == pytest.approx(1)
    passes, logits = [], model.logits
    monkeypatch.setattr(model, "logits", lambda *args: passes.append(1) or logits(*args))
    model.sample((2,), cached=False)
    assert len(passes) == 9
    one_pass = len(passes) == 1
    latent = any(hasattr(model, word) for word in ("encode", "encoder", "prior"))
    found = [whether(exact), whether(exact), whether(one_pass), whether(latent)]
    assert marks("autoregressive-models") == found


@pytest.mark.parametrize(
    "build",
    [
        lambda: one_layer(9, hidden=5, latent=2),
        lambda: two_layers(9, hidden=(5, 4), latent=(3, 2)),
        lambda: linear_vae(9, latent=2),
    ],
    ids=["one layer", "two layers", "linear"],
)
def test_a_variational_autoencoder_draws_in_one_pass_and_has_a_code(build):
    model = build()
    passes = []
    for part in (model.encoder, model.decoder, model.prior):
        part.register_forward_hook(lambda part, *_: passes.append(part))
    x = model.sample((4,))
    one_pass = passes == [model.prior, model.decoder]  # the encoder is not needed
    code = model.encoder(x).rsample()
    latent = code.shape == model.prior().sample((4,)).shape
    latent &= not torch.allclose(*(model.decoder(z).mean for z in code[:2]))  # it matters
    assert marks("variational-autoencoders")[2:] == [whether(one_pass), whether(latent)]


def test_a_variational_autoencoder_bounds_its_density_and_can_estimate_it():
    """In the linear model, where ln p(x) is known, with an encoder that does not look at x."""
    torch.manual_seed(0)
    model = linear_vae(4, latent=2).double()
    for parameter in model.encoder.parameters():
        torch.nn.init.zeros_(parameter)  # its guess is the prior: wrong, but the weights are tame
    decoder = model.decoder
    x = model.sample((6,))
    with torch.no_grad():
        exact = PPCA(decoder.mu.bias, decoder.mu.weight, (2 * decoder.log_sigma[0]).exp())
        evidence = exact.marginal().log_prob(x)
        log_w = model.log_w(x, 20_000)
        objective = model(x.expand(20_000, -1, -1)).mean(0)
    by_one, by_five = elbo(log_w), iwae(log_w.unflatten(0, (5, -1))).mean(0)
    short = [(evidence - bound).mean().item() for bound in (by_one, objective, by_five)]
    bound = min(short) > 0.05  # several times the noise of so many draws
    assert short[0] == pytest.approx(short[1], abs=0.05)
    assert short[2] < short[0] - 0.05
    estimated = torch.allclose(iwae(log_w), evidence, atol=0.05)
    density = Answer(whether(hasattr(model, "log_prob")), "estimated" if estimated else "")
    family = BY_CHAPTER["variational-autoencoders"]
    assert [family.density, family.bound] == [density, Answer(whether(bound))]


def test_a_gan_draws_in_one_pass_from_a_code_that_nothing_finds_again():
    torch.manual_seed(0)
    D = nn.Sequential(mlp(3, 8), nn.Linear(8, 1), nn.Flatten(0))
    model = GAN(nn.Sequential(mlp(2, 8), nn.Linear(8, 3)), D, latent=2)
    passes = []
    for part in (model.G, model.D):
        part.register_forward_hook(lambda part, *_: passes.append(part))
    model.sample((4,))
    one_pass = passes == [model.G]  # the discriminator is not needed
    z = model.noise(4)
    x = model.G(z)
    latent = torch.equal(model.G(z), x)  # all chance is in the code
    latent &= torch.pdist(x).min() > 1e-3  # and it matters
    encoder = dict(model.named_children()).keys() - {"G", "D"} or hasattr(model, "encode")
    code = Answer("partly", "" if encoder else "no encoder") if latent else Answer("no")
    family = BY_CHAPTER["generative-adversarial-networks"]
    assert [family.one_pass, family.latent] == [Answer(whether(one_pass)), code]


def test_a_gan_has_no_density_and_what_its_players_pay_bounds_none():
    """A linear generator flattens the plane. Here ln p(x) is known, and falls without a limit."""
    torch.manual_seed(0)
    real = torch.randn(1000, 2).double()
    p_data = Normal(0, torch.ones(2).double())
    model = GAN(nn.Linear(2, 2, bias=False).double(), nn.Identity(), latent=2)
    evidence, paid = [], []
    for width in (1e-1, 1e-3, 1e-5):
        p_G = Normal(0, torch.tensor([1, width]).double())
        model.G.weight.data = p_G.scale.diag()
        logits = [
            optimal_logit(p_data.log_prob(x).sum(1), p_G.log_prob(x).sum(1))
            for x in (real, model.sample((1000,)))
        ]
        evidence.append(p_G.log_prob(real).sum(1).mean())
        paid.append(saturating.L_D(*logits))
    assert evidence[2] < 1e3 * evidence[1] < 1e6 * evidence[0] < 0
    bound = not all(0 <= loss < math.log(4) for loss in paid)  # they hardly notice
    density = hasattr(model, "log_prob")
    with pytest.raises(NotImplementedError):
        model(real)  # nor is there an objective for each example, as other models have
    assert marks("generative-adversarial-networks")[:2] == [whether(density), whether(bound)]


def adversarial_autoencoder():
    torch.manual_seed(0)
    encoder = nn.Sequential(mlp(3, 8), nn.Linear(8, 2))
    decoder = ConditionalBernoulli(mlp(2, 8), 8, 3)
    critic = nn.Sequential(mlp(2, 8), nn.Linear(8, 1), nn.Flatten(0))
    return AAE(encoder, decoder, critic, lambda count: torch.randn(count, 2))


@pytest.mark.parametrize(
    "model",
    [
        lambda: IndependentBernoulli(3),
        lambda: MarkovChain(3),
        lambda: BernoulliMixture(3, components=2),
        lambda: GenerativeClassifier([IndependentBernoulli(3), MarkovChain(3)]),
        lambda: FVSBN(3),
        lambda: GAN(nn.Linear(2, 3), nn.Flatten(0), latent=2),
        lambda: adversarial_autoencoder(),
        lambda: one_layer(3, hidden=4, latent=2),
    ],
)
def test_every_family_draws_in_the_shape_that_is_asked_for(model):
    model = model()
    for shape in ((), (4,), [2, 3], (0,), torch.Size((2, 0))):
        assert model.sample(shape).shape == (*shape, 3)
    torch.manual_seed(0)
    row = model.sample((6,))
    torch.manual_seed(0)
    assert torch.equal(model.sample((2, 3)), row.reshape(2, 3, 3))
    with pytest.raises(TypeError, match=re.escape("sample takes a shape: (16,), not 16")):
        model.sample(16)


def test_an_adversarial_autoencoder_draws_in_one_pass_and_has_a_code():
    model = adversarial_autoencoder()
    passes = []
    for part in (model.encoder, model.decoder, model.critic):
        part.register_forward_hook(lambda part, *_: passes.append(part))
    x = model.sample((4,))
    one_pass = passes == [model.decoder]  # neither encoder nor critic is needed
    z = model.encoder(x)
    latent = z.shape == model.prior(4).shape
    latent &= not torch.allclose(*model.decoder(torch.stack([z[0], z[0] + 1])).mean)  # it matters
    family = BY_CHAPTER["adversarial-autoencoders"]
    assert [family.one_pass, family.latent] == [Answer(whether(one_pass)), Answer(whether(latent))]


def test_an_adversarial_autoencoder_has_no_density_and_its_objective_bounds_none():
    """Four pictures, each with a code of its own: reconstruction and crowd are perfect."""
    fair, certain = torch.full((4,), 0.25).double(), torch.eye(4).double()
    misfit = surgery(fair, certain, fair).marginal_kl
    objective = 0 - misfit  # the decoder paints each picture with probability one
    evidence = (fair @ certain).log().mean()
    bound = bool(objective <= evidence)
    density = hasattr(adversarial_autoencoder(), "log_prob")
    assert marks("adversarial-autoencoders")[:2] == [whether(density), whether(bound)]


CHECKED = {
    "generative-models",
    "autoregressive-models",
    "variational-autoencoders",
    "generative-adversarial-networks",
    "adversarial-autoencoders",
}


@pytest.mark.parametrize("chapter", PLAN)
def test_a_family_whose_chapter_is_written_is_held_to_its_code(chapter):
    assert chapter in CHECKED or not (ROOT / "book" / f"{chapter}.ipynb").exists(), (
        f"{chapter}.ipynb is there: test here what companion/families.py says of its family, and "
        "add it to CHECKED"
    )
