"""A code in two parts, a kind and a style: for clustering, and for learning from few labels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion import require
from companion.aae.training import of_batch
from companion.gan import GameLoss, non_saturating
from companion.nn import frozen, per_example
from companion.training import History, Run, adam
from companion.training.checkpoint import batches_signature, fingerprint, in_words
from companion.training.fitting import two_rates

if TYPE_CHECKING:
    from companion.data import Batches


class TwoHeads(nn.Module):
    """An encoder of two parts: x -> logits of K kinds, and a style z.

    Args:
        body:   x -> h, ``(B, inputs)``.
        inputs: width of h.
        kinds:  K.
        latent: entries of z.
    """

    def __init__(self, body: nn.Module, inputs: int, kinds: int, latent: int):
        super().__init__()
        self.body = body
        self.kind, self.style = nn.Linear(inputs, kinds), nn.Linear(inputs, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, D) -> (B, K), (B, H)``."""
        h = self.body(x)
        return self.kind(h), self.style(h)


class SemiSupervisedAAE(nn.Module):
    """An autoencoder whose code is a kind y, one of K, and a style z; with two critics.

    For the critics, draws of the priors are *real*: one of K kinds, each as probable, for
    certain; and a standard normal style. The probabilities that the encoder gives to the
    kinds are *fake*: to pass, they have to be sure in each case, and over the data no
    kind may be preferred.

    Args:
        encoder:  x -> (logits of the kinds, style), such as `TwoHeads`.
        decoder:  y and z side by side -> p(x|y, z), as in `companion.vae`.
        critic_y: ``(B, K) -> (B,)``, logits.
        critic_z: ``(B, H) -> (B,)``, logits.
        kinds:    K.

    Source: Makhzani et al. (2015), Secs. 5 and 6.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        critic_y: nn.Module,
        critic_z: nn.Module,
        kinds: int,
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.critic_y, self.critic_z = critic_y, critic_z
        self.kinds = kinds

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """The likeliest kind, int64, ``(B, D) -> (B,)``."""
        like = next(self.parameters())
        return self.encoder(x.to(like))[0].argmax(-1)

    @torch.no_grad()
    def mean_of(self, kind: Tensor, z: Tensor) -> Tensor:
        """Mean examples, ``(B, D)``, of kinds, int64 ``(B,)``, and styles, ``(B, H)``."""
        y = F.one_hot(kind, self.kinds).to(z)
        return self.decoder(torch.cat([y, z], -1)).mean


def fit_semi_supervised(
    aae: SemiSupervisedAAE,
    train: Batches,
    labelled: Batches | None = None,
    labels: Tensor | None = None,
    *,
    epochs: int,
    loss: GameLoss = non_saturating,
    weight: float = 1.0,
    label_weight: float = 1.0,
    critic_noise: float = 0.0,
    learning_rate: float | tuple[float, float] = 1e-3,
    betas: tuple[float, float] = (0.5, 0.999),
    schedule: str | Callable[[float], float] = "cosine",
    watch: Callable[[SemiSupervisedAAE, int], None] | None = None,
    seed: int = 0,
    path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    precision: str = "no",
    compiled: bool = False,
    log: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> History:
    """Train encoder, decoder and both critics in place, Eq. (semi-supervised-loss).

    They train on the device, and are left where they were given.

    Args:
        labelled:     mini-batches of the examples whose kind is known; left out:
                      clustering.
        labels:       their kinds, from 0 to K - 1, int64, one for each example of
                      ``labelled``.
        label_weight: factor on the cross-entropy of the labels, nats.
        critic_noise: standard deviation of normal noise on whatever the critic of kinds
                      is shown, without which it tells certain from almost certain, and
                      teaches little.
        loss, weight, learning_rate, betas, schedule, watch: as in `fit_aae`.
        seed, path, device, precision, compiled, log, progress: as in `training.fit`.

    Returns: one row an epoch with means: ``reconstruction``, nats, ``L_D`` and ``L_G``,
        each of both critics together, and, with labels, their cross-entropy ``L_y``.
    Raises:  ValueError if there are labels for other than the labelled examples, beyond
             K, or not int64.
    """
    require.batches(train, aae.decoder)
    require.whole(0, epochs=epochs)
    _require_labels(labelled, labels, aae.kinds)
    rate_EP, rate_D = two_rates(learning_rate)
    run = Run(
        epochs * len(train),
        schedule=schedule,
        seed=seed,
        path=path,
        device=device,
        precision=precision,
        compiled=compiled,
        log=log,
        progress=progress,
        settings={
            "weight": weight,
            "label_weight": label_weight,
            "critic_noise": critic_noise,
            "loss": in_words(loss),
            "labelled": None if labelled is None else batches_signature(labelled),
            "labels": fingerprint(labels),
        },
    )
    critics = nn.ModuleList([aae.critic_y, aae.critic_z])
    autoencoder = [*aae.encoder.parameters(), *aae.decoder.parameters()]
    E, P, D_y, D_z, opt_EP, opt_D = run.prepare(
        encoder=aae.encoder,
        decoder=aae.decoder,
        critic_y=aae.critic_y,
        critic_z=aae.critic_z,
        opt_EP=adam(autoencoder, rate_EP, betas),
        opt_D=adam(critics.parameters(), rate_D, betas),
    )

    def D(y, z):
        """The logits of both critics."""
        return D_y(y + critic_noise * torch.randn_like(y)), D_z(z)

    if labelled is not None:
        labelled, labels = labelled.to(run.device), labels.to(run.device)
    with contextlib.closing(run.batches(train)) as batches:
        for x in batches:
            known = x[:0]
            if labelled is not None:
                known = labelled.batch(run.step, run.rank, run.world)
            logits, z = E(torch.cat([x, known]))
            logits, logits_known = logits.split([len(x), len(known)])
            y, z = logits.softmax(-1), z[: len(x)]
            kind = torch.randint(aae.kinds, (len(x),), device=y.device)
            prior_y = F.one_hot(kind, aae.kinds).to(y)
            prior = D(prior_y, torch.randn_like(z))
            codes = D(y.detach(), z.detach())
            pairs = zip(prior, codes, strict=True)
            L_D = sum(loss.L_D(real, fake) for real, fake in pairs)
            run.descend(opt_D, L_D)
            with frozen(critics):
                L_G = sum(loss.L_G(fake) for fake in D(y, z))
                log_p = P(torch.cat([y, z], -1)).log_prob(x)
                reconstruction = per_example(log_p, x).mean()
                total = weight * L_G - reconstruction
                if labelled is not None:
                    L_y = F.cross_entropy(logits_known, of_batch(labels, labelled, run))
                    total = total + label_weight * L_y
                    run.log(L_y=L_y)
                run.descend(opt_EP, total)
            run.log(reconstruction=reconstruction, L_D=L_D, L_G=L_G)
            if watch is not None:
                watch(aae, run.step + 1)
    aae.eval()
    return run.history


def _require_labels(labelled: Batches | None, labels: Tensor | None, kinds: int) -> None:
    """Raise ValueError for labels that are no kinds, or not one for each labelled example."""
    if (labelled is None) != (labels is None):
        raise ValueError("labelled examples and labels come together, or not at all")
    if labels is None:
        return
    require.tensors(labels=labels)
    if labels.dtype != torch.int64 or labels.dim() != 1:
        found = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"labels must be int64, a number for each example, not {found}")
    if len(labels) != len(labelled.images):
        raise ValueError(f"{len(labels)} labels for {len(labelled.images)} examples")
    if not 0 <= labels.min() <= labels.max() < kinds:
        raise ValueError(f"labels are kinds, from 0 to {kinds - 1}")
