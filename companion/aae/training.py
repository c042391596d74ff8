"""Three players: encoder and decoder describe x, and a critic judges the codes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from companion import require
from companion.aae.model import AAE
from companion.gan import GameLoss, non_saturating
from companion.nn import frozen, per_example
from companion.training import History, Run, adam
from companion.training.checkpoint import fingerprint, in_words
from companion.training.fitting import two_rates

if TYPE_CHECKING:
    from companion.data import Batches


def fit_aae(
    aae: AAE,
    train: Batches,
    labels: Tensor | None = None,
    *,
    epochs: int,
    loss: GameLoss = non_saturating,
    weight: float = 1.0,
    learning_rate: float | tuple[float, float] = 1e-3,
    betas: tuple[float, float] = (0.5, 0.999),
    schedule: str | Callable[[float], float] = "cosine",
    watch: Callable[[AAE, int], None] | None = None,
    seed: int = 0,
    path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    precision: str = "no",
    compiled: bool = False,
    log: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> History:
    r"""Train the three players in place; at each batch the critic steps, then the others.

    They train on the device, and are left where they were given. Encoder and decoder
    share a loss, Eq. (aae-losses): of each example minus ln p(x|z), and what the encoder
    pays as the generator of the game, times a weight.

    Args:
        labels: what is known of each of the examples of ``train``, ``(N, C)``; prior and
            critic are then called with those of the batch as well, ``prior(B, y)``, where
            they were given, and ``critic(z, y)``, on the device.
        loss:   of the game between critic and encoder, as in `companion.gan`.
        weight: factor on the encoder's part in the game, nats.
        learning_rate: of encoder and decoder, and of the critic, or one for all.
        watch:  called with the players, which are on the device then, and the number of
            steps done, after each of them.
        betas:  of Adam, for all players.
        schedule, seed, path, device, precision, compiled, log, progress: as in
            `training.fit`.

    Returns: one row an epoch with means: ``reconstruction``, nats, ``L_D`` and ``L_G``.
    Source:  Makhzani et al. (2015), where the encoder takes two steps instead of their
             sum.
    """
    require.batches(train, aae.decoder)
    require.whole(0, epochs=epochs)
    if labels is not None and len(labels) != len(train.images):
        raise ValueError(f"{len(labels)} labels for {len(train.images)} examples")
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
            "loss": in_words(loss),
            "prior": in_words(aae.prior),
            "labels": fingerprint(labels),
        },
    )
    autoencoder = [*aae.encoder.parameters(), *aae.decoder.parameters()]
    E, P, D, opt_EP, opt_D = run.prepare(
        encoder=aae.encoder,
        decoder=aae.decoder,
        critic=aae.critic,
        opt_EP=adam(autoencoder, rate_EP, betas),
        opt_D=adam(aae.critic.parameters(), rate_D, betas),
    )
    with contextlib.closing(run.batches(train)) as batches:
        for x in batches:
            known = () if labels is None else (of_batch(labels, train, run),)
            z = E(x)
            prior = aae.prior(len(x), *known).to(z, non_blocking=z.is_cuda)
            y = [each.to(z.device, non_blocking=z.is_cuda) for each in known]
            # The prior is real, the code is fake.
            L_D = loss.L_D(D(prior, *y), D(z.detach(), *y))
            run.descend(opt_D, L_D)
            with frozen(aae.critic):  # it passes gradients on to the encoder, keeps none
                L_G = loss.L_G(D(z, *y))
                reconstruction = per_example(P(z).log_prob(x), x).mean()
                run.descend(opt_EP, weight * L_G - reconstruction)
            run.log(reconstruction=reconstruction, L_D=L_D, L_G=L_G)
            if watch is not None:
                watch(aae, run.step + 1)
    aae.eval()
    return run.history


def of_batch(labels: Tensor, train: Batches, run: Run) -> Tensor:
    """The labels of the examples of the step under way, where the labels are."""
    return labels[train.indices(run.step, run.rank, run.world).to(labels.device)]
