"""The engine: it deals out the steps, carries them out, records them, and saves and resumes."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from companion import require
from companion.training import checkpoint, devices, process
from companion.training.logs import Log

if TYPE_CHECKING:
    from companion.data import Batches

SCHEDULES = {"constant": lambda t: 1.0, "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2}


class History(list):
    """One row (a dict) an epoch; ``history["train"]`` is that column."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


class Run:
    """Where a training run computes, how far it is, and how it goes on after an interruption.

    Args:
        steps:    the run's length.
        settings: the caller's own settings (JSON); a checkpoint made under others is refused.
        schedule, warmup, seed, path, save_every, device, precision, compiled, log, progress: as in
            `fit`.

    Modules are on ``device`` from `prepare` to the end of `batches`, which takes them home, to
    where they were given, and what is ``kept`` to the CPU.

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
        compiled: bool = False,
        log: str | os.PathLike | None = None,
        progress: bool | None = None,
        settings: dict | None = None,
    ):
        if not callable(schedule) and schedule not in SCHEDULES:
            raise ValueError(f"schedule: a function or one of {[*SCHEDULES]}, not {schedule!r}")
        self.schedule = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is a fraction of the steps, 0 to 1, not {warmup}")
        require.whole(0, steps=steps, seed=seed)
        self.steps, self.warmup, self.seed = steps, warmup, seed
        self.path = None if path is None else Path(path)
        self.accelerator, self.device = devices.accelerator(device, precision)
        self.precision = self.accelerator.mixed_precision  # as it is now: accelerate's will change
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.progress = (process.watched() if progress is None else progress) and self.rank == 0
        self.compiled, self.folder = compiled, log if self.rank == 0 else None
        self.step, self.finished, self.history = 0, steps == 0, History()
        self.modules: dict[str, nn.Module] = {}
        self._homes: dict[str, torch.device] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.kept: dict[str, Tensor] = {}
        self._pending: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)  # on the device
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])  # total, count
        self.save_every, self._saved, self._signals = save_every, time.monotonic(), []
        self._earlier, self._since = 0.0, time.perf_counter()  # the former: in earlier pieces
        factors = [round(self.factor(i / 64), 6) for i in range(64)]  # tells functions apart
        factors = [*factors[::8], zlib.crc32(str(factors).encode())]
        self.settings = {
            "steps": self.steps,
            "seed": seed,
            "precision": self.precision,  # what "fast" means here, should the machine change
            "schedule": factors,
        }
        self.settings |= settings or {}

    def prepare(self, **objects: nn.Module | Optimizer) -> list:
        """Take modules and optimisers, by name, into the run.

        A loss is computed by CALLING what comes back in place of a module: the call carries
        autocast and, with several processes, the averaging of gradients. Its methods and its
        weights stay with the module itself, which is trained in place.
        """
        # Shared by all runs, and as the last one was made: autocast told no type is fp16 on CUDA.
        self.accelerator.state._mixed_precision = self.precision
        prepared = []
        for name, item in objects.items():
            if name in self.settings or name in ("data", "kept"):
                raise ValueError(f"the name {name!r} is taken: choose another")
            if isinstance(item, nn.Module):
                self._homes[name] = devices.home_of(item)
                self.modules[name] = item.to(self.device)
                devices.share_buffers(item)
                self.settings[name] = checkpoint.signature(item) | checkpoint.configuration(item)
                # Compiled inside: accelerate's autocast is new in every run, which would compile
                # again. CUDA graphs, since small steps are all launches there.
                graphs = "reduce-overhead" if self.device.type == "cuda" else None
                item = torch.compile(item, mode=graphs) if self.compiled else item
                item = self.accelerator.prepare_model(devices.Call(item))
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
        Afterwards the generators are as they were before, and modules and optimisers where they
        were before `prepare`; after an exception in the loop only once this iterator is closed
        (`contextlib.closing`), or forgotten. One run at a time: one that begins and ends within
        another's step does no harm, but two that overlap, as in threads, draw from each other's
        generators.
        """
        with self._home_afterwards():
            yield from self._batches(data)

    def _batches(self, data: Batches) -> Iterator[Tensor]:
        if self.path is not None:
            self.settings["data"] = checkpoint.batches_signature(data)
        data = data.to(self.device)
        for optimizer in self.optimizers.values():  # of steps in an earlier run, wherever that was
            checkpoint.restore_optimizer(optimizer, checkpoint.optimizer_state(optimizer))
        self._resume()
        for module in self.modules.values():
            module.train()
        log = None
        if self.folder is not None:
            log = Log(self.folder, self.step, data.batch_size, self.history)
        generators, wish = process.generators(self.device), 0
        self._since = time.perf_counter()
        terminal, silent = sys.stderr.isatty(), not self.progress
        with (
            tqdm(
                total=self.steps * data.batch_size,
                initial=self.step * data.batch_size,
                unit=" examples",
                unit_scale=True,
                leave=terminal,
                disable=silent,
            ) as bar,
            contextlib.nullcontext() if log is None else contextlib.closing(log),
            process.reproducible(generators),
            process.kept_memory(self.device.type == "cpu"),
            self._exactly(),
            process.signals_put_off(self.path is not None) as self._signals,
        ):
            while not self.finished and wish <= 1:
                factor = self.factor(self.step / self.steps)
                for group in (g for o in self.optimizers.values() for g in o.param_groups):
                    group["lr"] = factor * group["initial_lr"]
                process.seed_all(generators, self.seed, self.step, self.rank)
                if self.compiled:  # what the graphs of the step before returned may be overwritten
                    torch.compiler.cudagraph_mark_step_begin()
                yield data.batch(self.step, self.rank, self.world)
                self.step += 1
                self.finished |= self.step == self.steps
                bar.update(data.batch_size)
                if self.step % len(data) == 0 or self.finished:
                    self._end_epoch(math.ceil(self.step / len(data)))
                    bar.set_postfix({k: f"{v:.4g}" for k, v in self.history[-1].items()})
                    if log is not None:
                        log.add(self.history[-1], self.seconds)
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

    @property
    def seconds(self) -> float:
        """Time spent in `batches`, that of the pieces before an interruption included."""
        return self._earlier + time.perf_counter() - self._since

    def descend(self, optimizer: Optimizer, loss: Tensor, clip: float | None = None) -> None:
        """One step of one optimiser down the gradient of ``loss``; other players stay put.

        ``clip`` bounds the gradient's Euclidean norm.
        """
        # Before, not after: another player's loss has left its gradient in these parameters.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:  # as zero_grad, which costs 3 % of a small model's step
            parameter.grad = None
        scaler = self.accelerator.scaler  # fp16 only
        (loss if scaler is None else scaler.scale(loss)).backward()
        if clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, clip)
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
                value = value.detach()
                self._pending[name].append((self.step, value.clone() if self.compiled else value))
            else:
                self._collect()
                self._add(name, self.step, value)

    def stop(self) -> None:
        """Make the step under way the last."""
        self.finished = True

    @torch.no_grad()
    def score(self, model: nn.Module, x: Tensor, batch_size: int) -> float:
        """Mean of ``model(x)`` over all of x, in evaluation mode, shared among the processes.

        Every call draws the same random numbers, so that scores of two epochs compare, and leaves
        the generators as they were.
        """
        devices.share_buffers(model)
        generators, training = process.generators(self.device), model.training
        place = devices.home_of(model)  # after the loop it is at home again
        chunks = x.to(place).split(batch_size)
        sums = torch.zeros(len(chunks), device=self.device)
        model.eval()
        with process.reproducible(generators), self._exactly():
            for i in range(self.rank, len(chunks), self.world):
                process.seed_all(generators, self.seed, f"chunk {i}")
                with self._autocast():
                    sums[i] = model(chunks[i].to(torch.float32)).sum()
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
                "seconds": self.seconds,
                "numbers": numbers,
                "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
            }
            checkpoint.write(self.path, tensors, record)
        self._saved = time.monotonic()

    def _exactly(self) -> contextlib.AbstractContextManager:
        """Float32 in full, where it is what was asked for."""
        return process.float32() if self.precision == "no" else contextlib.nullcontext()

    def _autocast(self) -> contextlib.AbstractContextManager:
        # Not accelerate's, whose precision is that of the run that was made last.
        if self.precision == "no":
            return contextlib.nullcontext()
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device.type, kind)

    @contextlib.contextmanager
    def _home_afterwards(self) -> Iterator[None]:
        """Take modules, what is kept of them, and optimisers back to where they were."""
        try:
            yield
        finally:
            away = [n for n, m in self.modules.items() if devices.home_of(m) != self._homes[n]]
            for name in away:
                for parameter in self.modules[name].parameters():
                    parameter.grad = None  # it may lie in a graph's memory, and is of no more use
                self.modules[name].to(self._homes[name])
            if away:
                self.kept = {name: value.cpu() for name, value in self.kept.items()}
                for optimizer in self.optimizers.values():  # their state follows the parameters
                    state = checkpoint.optimizer_state(optimizer)
                    checkpoint.restore_optimizer(optimizer, state)

    def _resume(self) -> None:
        """Take over the checkpoint's state, if there is one and it is of this very run."""
        if self.path is None or self.step:
            return
        if self.rank == 0:
            checkpoint.temporary(self.path).unlink(missing_ok=True)  # of a run killed while saving
        if self.path.exists():
            try:
                tensors, record = checkpoint.read(self.path)
            except checkpoint.CheckpointError as error:
                anew = "" if self.path.is_dir() else "; delete it to start anew"
                raise checkpoint.CheckpointError(f"{error}{anew}") from None
            if "settings" not in record:
                raise checkpoint.CheckpointError(
                    f"{self.path} holds a model, of save_model: choose another path for the run"
                )
            message = f"{self.path} is the checkpoint of another run: delete it, or choose a path"
            checkpoint.refuse_differences(message, record["settings"], self.settings)
            self.step, self.finished = record["step"], record["finished"]
            self.history = History(record["history"])
            self._sums.update(record["sums"])
            self._earlier = record["seconds"]
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
            raise checkpoint.CheckpointError(
                f"not every process sees the same {self.path}: steps {steps}"
            )

    def _wish(self) -> int:
        """0: go on; 1: save; more: save, then give way to this signal. All processes agree."""
        if self.path is None:
            return 0
        due = self.finished or time.monotonic() - self._saved >= self.save_every
        wish = max([int(due), *self._signals])
        if not self.finished and time.perf_counter() - self._since > process.limit:
            wish = max(wish, signal.SIGTERM)
        if self.world > 1:  # asking costs about as much as a small step: not every time
            wish = max(self._gather(wish)) if self.finished or self.step % 20 == 0 else 0
        return wish

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
            "add warm-up; in mixed precision, score logits in float32; at the first step, look for "
            "nan in the data."
            + (f" {self.path} still holds the last good checkpoint." if saved else "")
        )
