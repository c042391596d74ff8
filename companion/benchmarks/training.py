"""Training beside tight hand-written loops, and beside other libraries where they are installed.

All programs of a line train the same networks on the same examples in memory, with the same batch
size and precision; all but pythae's trainer with a fused Adam. The hand-written loops do nothing
but what learning takes: no checkpoint, no history, no check that the loss is finite. On CUDA a
second one records its step as a graph and replays it, which no launch from Python holds up. The
libraries train as their documentation says; those that have only networks get the hand-written
loop. To have them::

    pip install --no-deps zuko pyro-ppl pyro-api opt_einsum pythae==0.1.2 pydantic pydantic-core \
        annotated-types typing-inspection imageio scikit-learn joblib threadpoolctl cloudpickle
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion import data, training
from companion.autoregressive import FVSBN, MADE, NADE, GatedPixelCNN
from companion.benchmarks import ratio, take_turns, wait
from companion.experiments import mode_collapse
from companion.gan import GAN, dcgan, fit_gan
from companion.nn import mlp
from companion.vae import VAE, ConditionalBernoulli, ConditionalGaussian, StandardNormal, iwae

D = 784
LR, BETAS = 1e-3, (0.5, 0.999)


class Work(NamedTuple):
    """What all programs of a line are given: examples in memory, and how often to go over them."""

    examples: Tensor
    batch_size: int
    precision: str = "no"
    epochs: int = 1
    compiled: bool = False  # of ours


Step = Callable[[Tensor], None]


class Line(NamedTuple):
    """A line of the table: what is trained, and by which programs.

    Args:
        examples: "binary" (uint8), "grey" (float) or "points".
        count:    of them in an epoch, at most.
        ours:     does the work.
        step:     makes the step of the hand-written loops, of (device, precision, capturable).
        peers:    other libraries, by name, that do the work.
        fast:     in the precision that is fastest here for convolutions.
    """

    examples: str
    count: int
    ours: Callable[[Work], object]
    step: Callable[..., Step]
    peers: dict[str, Callable[[Work], object]] = {}  # noqa: RUF012 - never changed
    fast: bool = False


def of_device(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Autocast, if the precision asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def fused_adam(module: nn.Module, capturable: bool, betas=(0.9, 0.999)) -> torch.optim.Adam:
    """Adam in one kernel, which a graph can hold if it is capturable."""
    return torch.optim.Adam(module.parameters(), LR, betas, fused=True, capturable=capturable)


def shuffled(work: Work) -> Iterator[Tensor]:
    """The batches of all epochs, in the type of the examples."""
    for _ in range(work.epochs):
        order = torch.randperm(len(work.examples), device=work.examples.device)
        for places in order.split(work.batch_size):
            yield work.examples[places]


def by_hand(make_step: Callable[..., Step], work: Work) -> None:
    """Train by the loop written by hand, over all batches of the work."""
    step = make_step(work.examples.device, work.precision)
    for batch in shuffled(work):
        step(batch.float())


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The same for all captures: cuBLAS keeps memory for every stream that it has seen."""
    return torch.cuda.Stream(device)


def captured(make_step: Callable[..., Step], work: Work) -> None:
    """The loop with its step recorded as a CUDA graph, as PyTorch's notes on CUDA describe it."""
    device = work.examples.device
    with torch.cuda.device(device):  # streams are those of the current device
        step = make_step(device, work.precision, capturable=True)
        x = work.examples[: work.batch_size].to(torch.float32, copy=True)  # read by every replay
        aside = side_stream(device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This instance was constructed with captur")
            for _ in range(3):  # what happens in the first steps only must not be recorded
                step(x)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside):
            step(x)
        for batch in shuffled(work):
            x.copy_(batch)  # and makes numbers of bytes
            graph.replay()
        wait(device)  # the graph's memory goes with it


# --- one objective -------------------------------------------------------------------------------


def fitted(build: Callable[[], nn.Module], work: Work) -> None:
    training.fit(
        build().to(work.examples.device),
        data.Batches(work.examples, work.batch_size),
        epochs=work.epochs,
        learning_rate=LR,
        schedule="constant",
        device=work.examples.device,
        precision=work.precision,
        compiled=work.compiled,
        progress=False,
    )


def descent(
    build: Callable[[], nn.Module], device: torch.device, precision: str, capturable: bool = False
) -> Step:
    model = build().to(device).train()
    optimizer = fused_adam(model, capturable)

    def step(x: Tensor) -> None:
        with of_device(device, precision):
            values = model(x)
        optimizer.zero_grad()
        (-values.mean()).backward()
        optimizer.step()

    return step


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


def vae(**options) -> VAE:
    return VAE(
        ConditionalGaussian(mlp(D, 200, 200), 200, 50),
        ConditionalBernoulli(mlp(50, 200, 200), 200, D),
        StandardNormal(50),
        **options,
    )


def vae_descent(device: torch.device, precision: str, capturable: bool = False) -> Step:
    """With the formulas of Kingma & Welling (2014) written out."""
    model = vae().to(device)
    encode, mu, log_sigma = model.encoder.body, model.encoder.mu, model.encoder.log_sigma
    decode = nn.Sequential(model.decoder.body, model.decoder.logits)
    optimizer = fused_adam(model, capturable)

    def step(x: Tensor) -> None:
        h = encode(x)
        m, s = mu(h), log_sigma(h)
        sigma = s.exp()
        logits = decode(m + sigma * torch.randn_like(m))
        kl = (m.square() + sigma.square() - 1).sum() / 2 - s.sum()
        loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl
        optimizer.zero_grad()
        (loss / len(x)).backward()
        optimizer.step()

    return step


def vae_of_pythae(work: Work) -> None:
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
            num_epochs=work.epochs,
            per_device_train_batch_size=work.batch_size,
            learning_rate=LR,
            no_cuda=work.examples.device.type == "cpu",
        )
        pythae.trainers.BaseTrainer(
            pythae.models.VAE(config, Encoder(), Decoder()),
            train_dataset=pythae.data.datasets.BaseDataset(
                work.examples.float(), torch.zeros(len(work.examples))
            ),
            training_config=settings,
        ).train()
        logging.disable(logging.NOTSET)


# --- GAN -----------------------------------------------------------------------------------------


def gan_fitted(build: Callable[[], GAN], work: Work) -> None:
    fit_gan(
        build().to(work.examples.device),
        data.Batches(work.examples, work.batch_size),
        epochs=work.epochs,
        learning_rate=LR,
        betas=BETAS,
        device=work.examples.device,
        precision=work.precision,
        compiled=work.compiled,
        progress=False,
    )


def gan_descent(
    build: Callable[[], GAN], device: torch.device, precision: str, capturable: bool = False
) -> Step:
    """By the non-saturating loss of Goodfellow et al. (2014), formulas written out."""
    gan = build().to(device)
    G, D = gan.G, gan.D
    opt_G, opt_D = (fused_adam(player, capturable, BETAS) for player in (G, D))

    def step(real: Tensor) -> None:
        noise = torch.randn(2, len(real), gan.latent, device=device)
        with of_device(device, precision):
            with torch.no_grad():
                fake = G(noise[0])
            real_logits, fake_logits = D(real), D(fake)
        loss = F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()
        opt_D.zero_grad()
        loss.backward()
        opt_D.step()
        D.requires_grad_(False)
        with of_device(device, precision):
            logits = D(G(noise[1]))
        loss = F.softplus(-logits.float()).mean()
        opt_G.zero_grad()
        loss.backward()
        opt_G.step()
        D.requires_grad_(True)

    return step


# --- the table -----------------------------------------------------------------------------------


def _one_objective(build: Callable, count: int, **more) -> Line:
    return Line("binary", count, partial(fitted, build), partial(descent, build), **more)


_made = partial(MADE, D, (1000,), direct=False)
LINES = {
    "FVSBN": _one_objective(partial(FVSBN, D), 50_000),
    "NADE 100": _one_objective(partial(NADE, D, hidden=100), 2_560),
    "MADE 1000": _one_objective(
        _made,
        50_000,
        peers={
            "zuko": partial(by_hand, partial(descent, zuko_made)),
            "pyro": partial(by_hand, partial(descent, pyro_made)),
        },
    ),
    "gated PixelCNN": _one_objective(GatedPixelCNN, 512, fast=True),
    "VAE": Line("binary", 50_000, partial(fitted, vae), vae_descent, {"pythae": vae_of_pythae}),
    "IWAE, 50 draws": _one_objective(partial(vae, bound=iwae, samples=50), 5_000, fast=True),
    "GAN of points": Line(
        "points",
        40_000,
        partial(gan_fitted, mode_collapse.networks),
        partial(gan_descent, mode_collapse.networks),
    ),
    "DCGAN": Line("grey", 4_000, partial(gan_fitted, dcgan), partial(gan_descent, dcgan)),
    "DCGAN, fast": Line(
        "grey", 4_000, partial(gan_fitted, dcgan), partial(gan_descent, dcgan), fast=True
    ),
}


def examples_of(kind: str, count: int) -> Tensor:
    """Examples of a kind, as in `Line`."""
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
    compiled: bool = False,
    most: int = 50_000,
) -> None:
    """Print the table.

    Args:
        names:    keys of ``LINES``.
        rounds:   that count.
        compiled: our training is, as in `companion.training.fit`.
        most:     examples in an epoch.
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
            epochs = 20 if device.type == "cuda" else 1  # where making the networks would count
            work = Work(examples, batch_size, precision, epochs, compiled)
            programs = programs_of(line, device)
            if compiled:  # torch gives up on code that it has compiled for too many models
                torch.compiler.reset()
            spent = take_turns(
                {each: partial(program, work) for each, program in programs.items()},
                rounds,
                device,
            )
            speed = {each: count * work.epochs / statistics.median(spent[each]) for each in spent}
            against = ratio(spent, "ours", "by hand")
            others = [
                f"{other} {speed[other]:,.0f}/s, ours / {other} {ratio(spent, 'ours', other):.2f}"
                for other in [*programs][2:]
            ]
            speeds = f"{speed['ours']:>11,.0f}{speed['by hand']:>13,.0f}{against:>16.3f}"
            print(f"{name:<16}{batch_size:>6}{speeds}  {'; '.join(others)}".rstrip(), flush=True)


def programs_of(line: Line, device: torch.device) -> dict[str, Callable[[Work], object]]:
    """The programs of a line that run here: on CUDA a captured one, and installed libraries."""
    programs = {"ours": line.ours, "by hand": partial(by_hand, line.step)}
    if device.type == "cuda":
        programs["captured"] = partial(captured, line.step)
    return programs | {name: program for name, program in line.peers.items() if find_spec(name)}
