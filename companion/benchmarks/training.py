"""Training beside tight hand-written loops, and beside other libraries where they are installed.

All programs of a line train the same networks on the same examples in memory, with the same batch
size and precision, for one epoch; all but pythae's trainer with a fused Adam. The hand-written
loops do nothing but what learning takes: no checkpoint, no history, no check that the loss is
finite. The libraries train as their documentation says; those that have only networks get the
hand-written loop. To have them::

    pip install --no-deps zuko pyro-ppl pyro-api opt_einsum pythae==0.1.2 pydantic pydantic-core \
        annotated-types typing-inspection imageio scikit-learn joblib threadpoolctl cloudpickle
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion import data, training
from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN
from companion.benchmarks import ratio, take_turns
from companion.experiments import mode_collapse
from companion.gan import GAN, dcgan, fit_gan
from companion.nn import mlp
from companion.vae import VAE, ConditionalBernoulli, ConditionalGaussian, StandardNormal

D = 784
LR, BETAS = 1e-3, (0.5, 0.999)


class Line(NamedTuple):
    """A line of the table: what is trained, and by which programs.

    Args:
        examples: "binary" (uint8), "grey" (float) or "points".
        count:    of them in an epoch, at most.
        ours:     trains for an epoch; (examples, batch size, precision), as all programs.
        by_hand:  the same, written out.
        peers:    other libraries, by name; one that is not installed raises ModuleNotFoundError.
        fast:     in the precision that is fastest here for convolutions.
    """

    examples: str
    count: int
    ours: Callable[[Tensor, int, str], object]
    by_hand: Callable[[Tensor, int, str], object]
    peers: dict[str, Callable[[Tensor, int, str], object]] = {}  # noqa: RUF012 - never changed
    fast: bool = False


def of_device(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Autocast, if the precision asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def shuffled(examples: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The batches of an epoch."""
    for places in torch.randperm(len(examples), device=examples.device).split(batch_size):
        yield examples[places].float()


# --- one objective -------------------------------------------------------------------------------


def fitted(build: Callable[[], nn.Module], examples: Tensor, batch_size: int, precision: str):
    training.fit(
        build().to(examples.device),
        data.Batches(examples, batch_size),
        epochs=1,
        learning_rate=LR,
        schedule="constant",
        device=examples.device,
        precision=precision,
        progress=False,
    )


def descended(build: Callable[[], nn.Module], examples: Tensor, batch_size: int, precision: str):
    model = build().to(examples.device).train()
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    for x in shuffled(examples, batch_size):
        with of_device(x.device, precision):
            values = model(x)
        optimizer.zero_grad()
        (-values.mean()).backward()
        optimizer.step()


# --- MADE in other libraries ---------------------------------------------------------------------


class OfLogits(nn.Module):
    """The log-likelihood of a network that gives logits, as other libraries leave it to write."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(self.network(x), x, reduction="none").sum(-1)


def zuko_made() -> nn.Module:
    import zuko

    return OfLogits(zuko.nn.MaskedMLP(torch.ones(D, D).tril(-1).bool(), [1000]))


def pyro_made() -> nn.Module:
    from pyro.nn import AutoRegressiveNN

    return OfLogits(AutoRegressiveNN(D, [1000], param_dims=[1], permutation=torch.arange(D)))


# --- VAE -----------------------------------------------------------------------------------------


def vae() -> VAE:
    return VAE(
        ConditionalGaussian(mlp(D, 200, 200), 200, 50),
        ConditionalBernoulli(mlp(50, 200, 200), 200, D),
        StandardNormal(50),
    )


def vae_by_hand(examples: Tensor, batch_size: int, precision: str):
    """With the formulas of Kingma & Welling (2014) written out."""
    model = vae().to(examples.device)
    encode, mu, log_sigma = model.encoder.body, model.encoder.mu, model.encoder.log_sigma
    decode = nn.Sequential(model.decoder.body, model.decoder.logits)
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    for x in shuffled(examples, batch_size):
        h = encode(x)
        m, s = mu(h), log_sigma(h)
        sigma = s.exp()
        logits = decode(m + sigma * torch.randn_like(m))
        kl = (m.square() + sigma.square() - 1).sum() / 2 - s.sum()
        loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl
        optimizer.zero_grad()
        (loss / len(x)).backward()
        optimizer.step()


def vae_of_pythae(examples: Tensor, batch_size: int, precision: str):
    """As its documentation trains: its model, its trainer, networks of our widths."""
    import pythae.models
    import pythae.trainers
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.body, self.mu, self.log_var = mlp(D, 200, 200), *heads(200, 50, 2)

        def forward(self, x):
            h = self.body(x)
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(mlp(50, 200, 200), *heads(200, D, 1), nn.Sigmoid())

        def forward(self, z):
            return ModelOutput(reconstruction=self.body(z))

    def heads(inputs, outputs, count):
        return [nn.Linear(inputs, outputs) for _ in range(count)]

    config = pythae.models.VAEConfig(
        input_dim=(D,), latent_dim=50, reconstruction_loss="bce", uses_default_encoder=False
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.WARNING)
        settings = pythae.trainers.BaseTrainerConfig(
            output_dir=folder,
            num_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=LR,
            no_cuda=examples.device.type == "cpu",
        )
        pythae.trainers.BaseTrainer(
            pythae.models.VAE(config, Encoder(), Decoder()),
            train_dataset=pythae.data.datasets.BaseDataset(
                examples.float(), torch.zeros(len(examples))
            ),
            training_config=settings,
        ).train()
        logging.disable(logging.NOTSET)


# --- GAN -----------------------------------------------------------------------------------------


def gan_fitted(build: Callable[[], GAN], examples: Tensor, batch_size: int, precision: str):
    fit_gan(
        build().to(examples.device),
        data.Batches(examples, batch_size),
        epochs=1,
        learning_rate=LR,
        betas=BETAS,
        device=examples.device,
        precision=precision,
        progress=False,
    )


def gan_by_hand(build: Callable[[], GAN], examples: Tensor, batch_size: int, precision: str):
    """By the non-saturating loss of Goodfellow et al. (2014), formulas written out."""
    gan = build().to(examples.device)
    G, D = gan.G, gan.D
    step_G = torch.optim.Adam(G.parameters(), LR, BETAS, fused=True)
    step_D = torch.optim.Adam(D.parameters(), LR, BETAS, fused=True)
    for real in shuffled(examples, batch_size):
        noise = torch.randn(2, len(real), gan.latent, device=real.device)
        with of_device(real.device, precision):
            with torch.no_grad():
                fake = G(noise[0])
            real_logits, fake_logits = D(real), D(fake)
        loss = F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()
        step_D.zero_grad()
        loss.backward()
        step_D.step()
        D.requires_grad_(False)
        with of_device(real.device, precision):
            logits = D(G(noise[1]))
        loss = F.softplus(-logits.float()).mean()
        step_G.zero_grad()
        loss.backward()
        step_G.step()
        D.requires_grad_(True)


# --- the table -----------------------------------------------------------------------------------


def _one_objective(build: Callable, count: int, examples: str = "binary", **more) -> Line:
    return Line(examples, count, partial(fitted, build), partial(descended, build), **more)


_made = partial(MADE, D, (1000,), direct=False)
LINES = {
    "FVSBN": _one_objective(partial(FVSBN, D), 50_000),
    "NADE 100": _one_objective(partial(NADE, D, hidden=100), 2_560),
    "MADE 1000": _one_objective(
        _made,
        50_000,
        peers={
            "zuko": lambda *given: descended(zuko_made, *given),
            "pyro": lambda *given: descended(pyro_made, *given),
        },
    ),
    "gated PixelCNN": _one_objective(GatedPixelCNN, 512, fast=True),
    "VAE": Line("binary", 50_000, partial(fitted, vae), vae_by_hand, {"pythae": vae_of_pythae}),
    "GAN of points": Line(
        "points",
        40_000,
        partial(gan_fitted, mode_collapse.networks),
        partial(gan_by_hand, mode_collapse.networks),
    ),
    "DCGAN": Line("grey", 4_000, partial(gan_fitted, dcgan), partial(gan_by_hand, dcgan)),
    "DCGAN, fast": Line(
        "grey", 4_000, partial(gan_fitted, dcgan), partial(gan_by_hand, dcgan), fast=True
    ),
}


def examples_of(kind: str, count: int) -> Tensor:
    """Examples of a kind, as of `Line`."""
    if kind == "points":
        return data.grid_of_gaussians().sample((count,))
    images = data.mnist().train.images[:count]
    if kind == "grey":
        return images[:, None] / 255
    return data.binarize(images, seed=data.SEEDS["train"]).flatten(1)


def main(
    names: Sequence[str] = tuple(LINES),
    *,
    batch_sizes: Sequence[int] = (100, 250),
    rounds: int = 7,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
    most: int = 50_000,
) -> None:
    """Print the table.

    Args:
        names:  keys of ``LINES``.
        rounds: that count.
        most:   examples in an epoch.
    """
    print(f"{'':<16}{'batch':>6}{'ours, /s':>11}{'by hand, /s':>13}{'ours / by hand':>16}  others")
    for name in names:
        line = LINES[name]
        precision = training.fast_precision(device) if line.fast else "no"
        for batch_size in batch_sizes:
            count = min(line.count, most) // batch_size * batch_size
            if count == 0:
                print(f"{name:<16}{batch_size:>6}  more than the {min(line.count, most)} examples")
                continue
            examples = examples_of(line.examples, count).to(device)
            programs = {"ours": line.ours, "by hand": line.by_hand} | installed(line)
            given = (examples, batch_size, precision)
            spent = take_turns(
                {each: partial(program, *given) for each, program in programs.items()},
                rounds,
                device,
            )
            ours, hand = (count / statistics.median(spent[each]) for each in ("ours", "by hand"))
            against = ratio(spent, "ours", "by hand")
            others = [
                f"{peer} {count / statistics.median(spent[peer]):,.0f}/s, ours / {peer} "
                f"{ratio(spent, 'ours', peer):.2f}"
                for peer in [*programs][2:]
            ]
            speeds = f"{ours:>11,.0f}{hand:>13,.0f}{against:>16.3f}"
            print(f"{name:<16}{batch_size:>6}{speeds}  {'; '.join(others)}".rstrip(), flush=True)


def installed(line: Line) -> dict[str, Callable]:
    """The libraries of a line that are installed."""
    from importlib.util import find_spec

    return {name: program for name, program in line.peers.items() if find_spec(name)}
