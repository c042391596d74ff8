"""The families of generative models and what each can do: those of this book, and three beyond."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """ "yes", "partly" or "no", and a few words where that alone would mislead."""

    mark: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.mark} ({self.words})" if self.words else self.mark


class Family(NamedTuple):
    """A family, the file name of its chapter (none beyond this book), four answers, a reason."""

    name: str
    chapter: str | None
    density: Answer
    bound: Answer
    one_pass: Answer
    latent: Answer
    why: str

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The four answers, in the order of `QUESTIONS`."""
        return self.density, self.bound, self.one_pass, self.latent


QUESTIONS = ("exact density", "bound on it", "draws in one pass", "latent code")

YES, NO = Answer("yes"), Answer("no")
_EXACT = Answer("yes", "already exact")  # a number is a bound on itself

FAMILIES = (
    Family(
        "Bernoulli mixture",
        "generative-models",
        density=YES,
        bound=_EXACT,
        one_pass=YES,
        latent=Answer("yes", "one of K"),
        why="The hidden cause is one of a few components: the sum over them can be done.",
    ),
    Family(
        "Autoregressive model",
        "autoregressive-models",
        density=YES,
        bound=_EXACT,
        one_pass=Answer("no", "pixel by pixel"),
        latent=NO,
        why="A product of conditionals is exact, but a draw waits for pixel after pixel.",
    ),
    Family(
        "Variational autoencoder",
        "variational-autoencoders",
        density=Answer("no", "estimated"),
        bound=YES,
        one_pass=YES,
        latent=YES,
        why="The integral over the latent is out of reach; an encoder turns it into a bound.",
    ),
    Family(
        "GAN",
        "generative-adversarial-networks",
        density=NO,
        bound=NO,
        one_pass=YES,
        latent=Answer("partly", "no encoder"),
        why="Noise becomes an image and a critic judges it: no density is computed on the way.",
    ),
    Family(
        "Adversarial autoencoder",
        "adversarial-autoencoders",
        density=NO,
        bound=NO,
        one_pass=YES,
        latent=YES,
        why="A critic fits the codes to the prior in place of the KL divergence of the bound.",
    ),
    Family(
        "Normalising flow",
        None,
        density=YES,
        bound=_EXACT,
        one_pass=Answer("partly", "some kinds"),
        latent=Answer("yes", "as large as x"),
        why="Every layer can be inverted; coupling layers in one pass, autoregressive ones not.",
    ),
    Family(
        "Diffusion model",
        None,
        density=Answer("partly", "by an ODE"),
        bound=YES,
        one_pass=Answer("no", "many steps"),
        latent=Answer("partly", "by an ODE"),
        why="Many small steps out of noise have a bound; as an ODE they are one invertible map.",
    ),
    Family(
        "Energy-based model",
        None,
        density=Answer("partly", "up to a constant"),
        bound=NO,
        one_pass=Answer("no", "many steps"),
        latent=Answer("partly", "some kinds"),
        why="Any function may be the energy: its normalising constant is out of reach.",
    ),
)


def table() -> str:
    """The map as a table in Markdown: the long description of `companion.figures.family_map`."""
    rows = [("Family", *QUESTIONS, "Why"), ("---",) * (len(QUESTIONS) + 2)]
    rows += [(family.name, *map(str, family.answers), family.why) for family in FAMILIES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
