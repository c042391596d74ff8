"""Training: any device, mixed precision, several processes, and runs that survive being killed.

`fit` maximises ``model(x).mean()``. `Run` is the engine below it, for loops written by hand::

    run = Run(steps=20_000, path="gan.safetensors")
    d, g, opt_D, opt_G = run.prepare(D=D, G=G, opt_D=opt_D, opt_G=opt_G)
    for x in run.batches(data):
        L_D = discriminator_loss(d(x), d(g(prior.sample((len(x),))).detach()))
        run.descend(opt_D, L_D)
        L_G = generator_loss(d(g(prior.sample((len(x),)))))
        run.descend(opt_G, L_G)
        run.log(L_D=L_D, L_G=L_G)

The same script runs on several processes under ``torchrun --nproc_per_node=2 script.py``.

Resuming is exact because a step is a pure function of its number and of the state before it: the
batch depends on (data seed, step) alone, and torch's global generators are seeded anew from
(seed, step). A run killed at any moment and started again ends bit for bit where the
uninterrupted one ends (same machine, versions and number of processes; on a GPU, kernels that are
deterministic). What a loop keeps in Python variables does not travel: keep it in buffers, or in
``run.kept``.

The same seed in every process lets a model draw one order or mask for all of them. Its other
noise then repeats from process to process: unbiased, but not what one process would draw. Batch
statistics (BatchNorm) are those of each process's share.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from companion import checkpoint, process
from companion.checkpoint import CheckpointError, load_model, save_model

with warnings.catch_warnings():
    # accelerate imports tqdm's bar for notebooks, which asks for ipywidgets; text will do.
    warnings.filterwarnings("ignore", message="IProgress not found")
    import accelerate
    from accelerate.state import AcceleratorState
    from tqdm.auto import tqdm

if TYPE_CHECKING:
    from companion.data import Batches

__all__ = ["CheckpointError", "History", "Run", "adam", "fit", "load_model", "save_model"]

PRECISIONS = ("no", "bf16", "fp16")
SCHEDULES = {"constant": lambda t: 1.0, "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2}


class History(list):
    """One row (a dict) an epoch; ``history["train"]`` is that column."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam (Kingma & Ba, 2015), in one fused kernel where the device has one."""
    parameters = list(parameters)
    try:
        return torch.optim.Adam(parameters, learning_rate, fused=True)
    except RuntimeError:
        return torch.optim.Adam(parameters, learning_rate)


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
    progress: bool | None = None,
) -> History:
    """Train a model by gradient ascent on ``model(x).mean()``.

    The model is trained in place and left in evaluation mode, on the device; torch's global
    random numbers go on as if `fit` had not been called.

    Args:
        model:         ``model(x)`` is the objective to maximise, ``(B, *event) -> (B,)``, nats.
        train:         mini-batches; an epoch is ``len(train)`` steps.
        validation:    examples scored after each epoch, values used as they are, ``(N, *event)``.
        learning_rate: before schedule and warm-up.
        optimizer:     makes the optimiser from (parameters, learning rate).
        schedule:      "cosine" (to 0), "constant", or a function of progress in [0, 1) that
                       returns a factor on the learning rate.
        warmup:        fraction of the steps over which the learning rate first rises from 0.
        clip:          largest Euclidean norm of the gradient.
        patience:      stop after so many epochs without a better validation score, and end with
                       the weights of the best epoch.
        path:          checkpoint file; if it exists, the run goes on from it.
        save_every:    seconds between checkpoints.
        device:        "cpu", "cuda", "cuda:1", "mps", ...; left out: CUDA if there is one.
        precision:     "no" (float32), or autocast to "bf16" or "fp16".
        progress:      show a bar; left out: only if someone is there to see it.

    Returns: one row an epoch: epoch, step, train and validation (mean objectives, nats; the
        former under the weights of each step), learning_rate.
    Raises:  FloatingPointError if the objective is not finite; CheckpointError if ``path`` is
        damaged or of another run; ValueError for a setting or a device that does not exist.
    """
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data: without them no epoch is the best")
    settings = {"clip": clip, "patience": patience}
    if validation is not None:
        settings["validation"] = _fingerprint(validation)
    run = Run(
        epochs * len(train),
        schedule=schedule,
        warmup=warmup,
        seed=seed,
        path=path,
        save_every=save_every,
        device=device,
        precision=precision,
        progress=progress,
        settings=settings,
    )
    optimizer = optimizer(model.parameters(), learning_rate)
    objective, optimizer = run.prepare(model=model, optimizer=optimizer)
    for x in run.batches(train):
        value = objective(x).mean()
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


class Run:
    """Where a training run computes, how far it is, and how it goes on after an interruption.

    Args:
        steps:    the run's length.
        settings: the caller's own settings (JSON); a checkpoint made under others is refused.
        schedule, warmup, seed, path, save_every, device, precision, progress: as in `fit`.

    Attributes: ``step`` (from 0; the one under way), ``history``, ``device``, ``rank``, ``world``;
        ``kept``, tensors of the caller's that travel with the checkpoint.
    """

    def __init__(
        self,
        steps: int,
        *,
        schedule: str | Callable[[float], float] = "constant",
        warmup: float = 0.0,
        seed: int = 0,
        path: str | os.PathLike | None = None,
        save_every: float = 60.0,
        device: str | torch.device | None = None,
        precision: str = "no",
        progress: bool | None = None,
        settings: dict | None = None,
    ):
        if not callable(schedule) and schedule not in SCHEDULES:
            raise ValueError(f"schedule: a function or one of {[*SCHEDULES]}, not {schedule!r}")
        self.schedule = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        self.steps, self.warmup, self.seed = steps, warmup, seed
        self.path = None if path is None else Path(path)
        self.accelerator, self.device = _accelerator(device, precision)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.progress = (process.watched() if progress is None else progress) and self.rank == 0
        self.step, self.finished, self.history = 0, steps == 0, History()
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.kept: dict[str, Tensor] = {}
        self._pending: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)  # on the device
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])  # total, count
        self.save_every, self._saved, self._signals = save_every, time.monotonic(), []
        factors = [round(self.factor(i / 8), 6) for i in range(8)]  # tells functions apart
        self.settings = {"steps": steps, "seed": seed, "precision": precision, "schedule": factors}
        self.settings |= settings or {}

    def prepare(self, **objects: nn.Module | Optimizer) -> list:
        """Take modules and optimisers, by name, into the run.

        A loss is computed by CALLING what comes back in place of a module: the call carries
        autocast and, with several processes, the averaging of gradients. Its methods and its
        weights stay with the module itself, which is trained in place.
        """
        prepared = []
        for name, item in objects.items():
            if name in self.settings or name in ("data", "kept"):
                raise ValueError(f"the name {name!r} is taken: choose another")
            if isinstance(item, nn.Module):
                self.modules[name] = item.to(self.device)
                self._share(item)
                self.settings[name] = checkpoint.signature(item)
                item = self.accelerator.prepare_model(_Call(item))
            else:
                self.optimizers[name] = item
                for group in item.param_groups:
                    group.setdefault("initial_lr", group["lr"])  # as torch's schedulers name it
                leave = ("params", "lr")
                groups = [{k: g[k] for k in g if k not in leave} for g in item.param_groups]
                self.settings[name] = {"class": type(item).__name__, "groups": groups}
            prepared.append(item)
        return prepared

    def batches(self, data: Batches) -> Iterator[Tensor]:
        """The batches of the steps that remain, each ``(batch_size // world, *event)``.

        Between two of them the run seeds torch's global generators, sets the learning rates, and
        saves when it is time. Ctrl-C and SIGTERM act once the step under way is done and saved.
        Afterwards the generators are as they were before.
        """
        data = data.to(self.device)
        self.settings["data"] = {"batches": len(data)} | _fingerprint(data.batch(0))
        self._resume()
        for module in self.modules.values():
            module.train()
        generators, wish = process.generators(self.device), 0
        with (
            self._bar() as bar,
            process.reproducible(generators),
            process.signals_put_off(self.path is not None) as self._signals,
        ):
            while not self.finished and wish <= 1:
                factor = self.factor(self.step / self.steps)
                for group in (g for o in self.optimizers.values() for g in o.param_groups):
                    group["lr"] = factor * group["initial_lr"]
                process.seed_all(generators, self.seed, self.step)
                yield data.batch(self.step, self.rank, self.world)
                self.step += 1
                self.finished |= self.step == self.steps
                bar.update()
                if self.step % len(data) == 0 or self.finished:
                    self._end_epoch(math.ceil(self.step / len(data)))
                    bar.set_postfix({k: f"{v:.4g}" for k, v in self.history[-1].items()})
                wish = self._wish()
                if wish:
                    self.save()
        wish = max([wish, *self._signals])
        if wish > 1:
            if self.rank == 0:
                where = f"step {self.step} of {self.steps}, saved in {self.path}"
                print(f"Interrupted at {where}: run the same again to go on.", file=sys.stderr)
            signal.raise_signal(wish)
            raise SystemExit(128 + wish)  # the program's own handler returned

    def descend(self, optimizer: Optimizer, loss: Tensor, clip: float | None = None) -> None:
        """One step of one optimiser down the gradient of ``loss``; other players stay put.

        ``clip`` bounds the gradient's Euclidean norm.
        """
        # Before, not after: another player's loss has left its gradient in these parameters.
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        scaler = self.accelerator.scaler  # fp16 only
        if clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    def log(self, **values: Tensor | float) -> None:
        """Record scalars; their means over the epoch, and the processes, make its history row.

        Tensors are not waited for: they reach the host with the epoch's end or a checkpoint, and
        one that is not finite stops the run then, naming its step.
        """
        for name, value in values.items():
            if isinstance(value, Tensor):
                self._pending[name].append((self.step, value.detach()))
            else:
                self._collect()
                self._add(name, self.step, value)

    def stop(self) -> None:
        """Make the step under way the last."""
        self.finished = True

    @torch.no_grad()
    def score(self, model: nn.Module, x: Tensor, batch_size: int) -> float:
        """Mean of ``model(x)`` over all of x, in evaluation mode, shared among the processes.

        Every call draws the same random numbers, so that scores of two epochs compare.
        """
        self._share(model)
        generators, training = process.generators(self.device), model.training
        chunks = x.split(batch_size)
        sums = torch.zeros(len(chunks), device=self.device)
        model.eval()
        for i in range(self.rank, len(chunks), self.world):
            process.seed_all(generators, self.seed, f"chunk {i}")
            with self.accelerator.autocast():
                sums[i] = model(chunks[i].to(self.device, torch.float32)).sum()
        model.train(training)
        return math.fsum(self.accelerator.reduce(sums, "sum").tolist()) / len(x)

    def factor(self, progress: float) -> float:
        """The factor on learning rates at ``progress`` in [0, 1): warm-up times schedule."""
        rise = (progress + 1 / max(self.steps, 1)) / self.warmup if self.warmup else 1.0
        return min(1.0, rise) * self.schedule(progress)

    def save(self) -> None:
        """Write the checkpoint: all processes call it between the same two steps."""
        self._collect()
        tensors, numbers = {f"kept/{k}": v for k, v in self.kept.items()}, {}
        for name, module in self.modules.items():
            if not all(p.isfinite().all() for p in module.parameters()):
                self._refuse(f"a weight of {name}", self.step - 1)
            tensors |= {f"{name}/{k}": v for k, v in module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for key, value in checkpoint.optimizer_state(optimizer).items():
                (tensors if isinstance(value, Tensor) else numbers)[f"{name}/{key}"] = value
        if self.rank == 0:
            record = {
                "settings": self.settings,
                "step": self.step,
                "finished": self.finished,
                "history": self.history,
                "sums": self._sums,
                "numbers": numbers,
                "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
                "versions": {m.__name__: m.__version__ for m in (torch, accelerate)},
            }
            checkpoint.write(self.path, tensors, record)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        """Take over the checkpoint's state, if there is one and it is of this very run."""
        if self.path is None or self.step:
            return
        if self.rank == 0:
            checkpoint.temporary(self.path).unlink(missing_ok=True)  # of a run killed while saving
        if self.path.exists():
            tensors, record = checkpoint.read(self.path)
            message = f"{self.path} is the checkpoint of another run: delete it, or choose a path"
            checkpoint.refuse_differences(message, record["settings"], self.settings)
            self.step, self.finished = record["step"], record["finished"]
            self.history = History(record["history"])
            self._sums.update(record["sums"])
            self.kept = {k: v.to(self.device) for k, v in checkpoint.below("kept", tensors).items()}
            for name, module in self.modules.items():
                module.load_state_dict(checkpoint.below(name, tensors))
            for name, optimizer in self.optimizers.items():
                state = checkpoint.below(name, tensors | record["numbers"])
                checkpoint.restore_optimizer(optimizer, state)
            if record["scaler"]:
                self.accelerator.scaler.load_state_dict(record["scaler"])
        steps = self._gather(self.step)
        if len(set(steps)) > 1:
            raise CheckpointError(f"not every process sees the same {self.path}: steps {steps}")

    def _wish(self) -> int:
        """0: go on; 1: save; more: save, then give way to this signal. All processes agree."""
        if self.path is None:
            return 0
        due = self.finished or time.monotonic() - self._saved >= self.save_every
        wish = max([int(due), *self._signals])
        if self.world > 1:  # asking costs about as much as a small step: not every time
            wish = max(self._gather(wish)) if self.finished or self.step % 20 == 0 else 0
        return wish

    def _share(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: orders drawn at random, running means."""
        if self.world > 1:
            for buffer in module.buffers():
                buffer.copy_(accelerate.utils.broadcast(buffer.contiguous()))

    def _gather(self, number: int) -> list[int]:
        return self.accelerator.gather(torch.tensor([number], device=self.device)).tolist()

    def _end_epoch(self, epoch: int) -> None:
        self._collect()
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self.history.append({"epoch": epoch, "step": self.step} | means)
        self._sums.clear()

    def _collect(self) -> None:
        """Bring the logged tensors to the host."""
        for name, entries in self._pending.items():
            steps, values = zip(*entries, strict=True)
            values = self.accelerator.reduce(torch.stack(values).to(self.device).float(), "mean")
            for step, value in zip(steps, values.tolist(), strict=True):
                self._add(name, step, value)
        self._pending.clear()

    def _add(self, name: str, step: int, value: float) -> None:
        if not math.isfinite(value):
            self._refuse(f"{name} = {value}", step)
        # One by one, so that the rounding does not depend on when checkpoints were written.
        self._sums[name][0] += value
        self._sums[name][1] += 1

    def _refuse(self, what: str, step: int) -> None:
        saved = self.path is not None and self.path.exists()
        raise FloatingPointError(
            f"step {step}: {what} is not finite. Lower the learning rate, clip the gradient, or "
            "add warm-up; in mixed precision, score logits in float32."
            + (f" {self.path} still holds the last good checkpoint." if saved else "")
        )

    def _bar(self):
        terminal, silent = sys.stderr.isatty(), not self.progress
        return tqdm(total=self.steps, initial=self.step, leave=terminal, disable=silent)


class _Call(nn.Module):
    """What accelerate may wrap and patch, so that the caller's module stays as it is."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        # Sent from process to process once (`Run._share`), not at every call: masks never change,
        # and running means are not used in training.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def _accelerator(device, precision) -> tuple[accelerate.Accelerator, torch.device]:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: one of {', '.join(PRECISIONS)}, not {precision!r}")
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f'device {str(device)!r} is not here, "cpu" is ({error})') from None
    if device.type == "cpu" and precision == "fp16":
        raise ValueError('fp16 needs a GPU; on a CPU the precision is "bf16" or "no"')
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several and device.index is not None:
        raise ValueError(f"torchrun deals out the devices: ask for {device.type!r}, not {device}")
    # accelerate fixes device and precision for the whole process; a notebook trains many models.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,
        mixed_precision=precision,
    )
    return accelerator, accelerator.device if several else device


def _fingerprint(x: Tensor) -> dict:
    return {"shape": list(x.shape), "checksum": checkpoint.checksum({"x": x.detach()})}
