"""Training one model by gradient ascent on its own objective."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from companion import require
from companion.nn import per_example
from companion.training.checkpoint import fingerprint
from companion.training.run import History, Run

if TYPE_CHECKING:
    from companion.data import Batches


def adam(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Adam (Kingma & Ba, 2015), in one fused kernel where the device has one."""
    parameters = list(parameters)
    try:
        return torch.optim.Adam(parameters, learning_rate, betas, fused=True)
    except RuntimeError:
        return torch.optim.Adam(parameters, learning_rate, betas)


def two_rates(learning_rate: float | Sequence[float]) -> Sequence[float]:
    """A learning rate for each of two players, or one for both."""
    rates = learning_rate if isinstance(learning_rate, Sequence) else [learning_rate] * 2
    if len(rates) != 2:
        raise ValueError(f"learning_rate: one for both players, or two, not {learning_rate}")
    return rates


def fit(
    model: nn.Module,
    train: Batches,
    validation: Tensor | None = None,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    optimizer: Callable[[Iterable[nn.Parameter], float], Optimizer] = adam,
    schedule: str | Callable[[float], float] = "cosine",
    warmup: float = 0.0,
    clip: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    path: str | os.PathLike | None = None,
    save_every: float = 60.0,
    device: str | torch.device | None = None,
    precision: str = "no",
    compiled: bool = False,
    log: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> History:
    """Train a model by gradient ascent on ``model(x).mean()``.

    The model is trained in place, on the device, and left in evaluation mode, where it was given;
    torch's global random numbers go on as if `fit` had not been called.

    Args:
        model:         ``model(x)`` is the objective to maximise, ``(B, *event) -> (B,)``, nats.
        train:         mini-batches; an epoch is ``len(train)`` steps.
        validation:    examples scored after each epoch, values used as they are, ``(N, *event)``.
        epochs:        how many times all examples are seen.
        learning_rate: before schedule and warm-up.
        optimizer:     makes the optimiser from (parameters, learning rate).
        schedule:      "cosine" (to 0), "constant", or a function of progress in [0, 1) that
                       returns a factor on the learning rate.
        warmup:        fraction of the steps over which the learning rate first rises from 0.
        clip:          largest Euclidean norm of the gradient.
        patience:      stop after so many epochs without a better validation score, and end with
                       the weights of the best epoch.
        seed:          of what the model draws as it learns, such as latents. That of examples and
                       of pixels is the batches' own; ``torch.manual_seed`` matters only for the
                       weights with which a new model begins.
        path:          checkpoint file; if it exists, the run goes on from it. One of other
                       settings, data or model is refused; functions are told by their names alone.
        save_every:    seconds between checkpoints.
        device:        to train on: "cpu", "cuda", "cuda:1", "mps", ...; left out: CUDA if there
                       is one.
        precision:     "no" (float32), or autocast to "bf16" or "fp16"; "fast" is "bf16" where the
                       device computes in it, which pays for convolutions and for many draws,
                       else "no".
        compiled:      let `torch.compile` make faster code, in the first steps; pays for
                       convolutions and long runs.
        log:           folder for ``log.csv``, a row an epoch, and TensorBoard's events where it is
                       installed.
        progress:      show a bar; left out: only if someone is there to see it.

    Returns: one row an epoch: epoch, step, train and validation (mean objectives, nats; the
        former under the weights of each step), learning_rate.
    Raises:  FloatingPointError if the objective is not finite; CheckpointError if ``path`` is
        damaged or of another run; ValueError for a setting or a device that does not exist.
    """
    name = type(model).__name__
    if hasattr(model, "fit"):
        raise TypeError(f"{name} is not trained by gradients: take its own fit")
    if type(model).forward is nn.Module.forward:
        raise TypeError(f"{name} has no objective model(x): for a game take fit_gan or fit_aae")
    require.batches(train, model)
    require.whole(0, epochs=epochs)
    if patience is not None:
        require.whole(patience=patience)
        if validation is None:
            raise ValueError("patience needs validation data: without them no epoch is the best")
    if validation is not None:
        require.tensors(validation=validation)
        if len(validation) == 0:
            raise ValueError("validation holds no examples: leave it out")
        if validation.shape[1:] != train.event_shape:
            shapes = f"{tuple(train.event_shape)} and {tuple(validation.shape[1:])}"
            raise ValueError(f"examples to train on and to validate with differ: {shapes}")
        if getattr(model, "binary", False):
            require.shares(validation=validation)
    if clip is not None and not clip > 0:
        raise ValueError(f"clip, the largest norm of the gradient, is above 0, not {clip}")
    settings = {"clip": clip, "patience": patience}
    if validation is not None:
        settings["validation"] = fingerprint(validation)
    run = Run(
        epochs * len(train),
        schedule=schedule,
        warmup=warmup,
        seed=seed,
        path=path,
        save_every=save_every,
        device=device,
        precision=precision,
        compiled=compiled,
        log=log,
        progress=progress,
        settings=settings,
    )
    optimizer = optimizer(model.parameters(), learning_rate)
    objective, optimizer = run.prepare(model=model, optimizer=optimizer)
    with contextlib.closing(run.batches(train)) as batches:
        for x in batches:
            value = per_example(objective(x), x).mean()
            run.descend(optimizer, -value, clip)
            run.log(train=value)
            if (run.step + 1) % len(train) == 0:
                if validation is not None:
                    score = run.score(model, validation, len(x) * run.world)
                    run.log(validation=score)
                    if patience is not None:
                        scores = [*run.history["validation"], score]
                        best = scores.index(max(scores)) + 1
                        if best == len(scores):
                            run.kept = {k: v.clone() for k, v in model.state_dict().items()}
                        elif len(scores) - best >= patience:
                            run.stop()
                run.log(learning_rate=optimizer.param_groups[0]["lr"])
    if run.kept:
        model.load_state_dict(run.kept)
    model.eval()
    return run.history
