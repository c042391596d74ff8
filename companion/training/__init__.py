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

Where no device is named, a CUDA GPU is used if there is one. It is used for training only: modules
that were on the CPU are there again afterwards.

Of several processes each draws noise of its own, as many independent draws in all as one process
would make, though not the same ones. Batch statistics (BatchNorm) are those of each process's
share.
"""

import warnings

with warnings.catch_warnings():
    # accelerate imports tqdm's bar for notebooks, which asks for ipywidgets; text will do.
    warnings.filterwarnings("ignore", message="IProgress not found")
    from companion.training.checkpoint import CheckpointError, load_model, save_model
    from companion.training.devices import fast_precision
    from companion.training.fitting import adam, fit
    from companion.training.run import History, Run

__all__ = [  # noqa: RUF022 - the order of reading, and of the API reference
    "fit",
    "Run",
    "History",
    "adam",
    "fast_precision",
    "save_model",
    "load_model",
    "CheckpointError",
]
