"""Trainings by 2 and 3 processes, beside the same ones by one: a script.

``python shared_runs.py FOLDER`` prints one JSON object: the largest differences from
one process, how processes have ended, and what they have said. Every set of processes
is a fork of this one, and runs several cases.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import small_training
import torch
from forks import keep_progress_bars_apart
from processes import Processes
from safetensors.torch import load_file, save_file
from small_training import CONFIG, SITE, SITE_OUT, MemoryStream
from toy import SITE as TOY_SITE
from toy import Toy, rows

import sae_lens_ext as sle
from sae_lens_ext.objectives import (
    AuxK,
    BatchTopK,
    HierarchicalTopK,
    JumpReLU,
    Matryoshka,
    MultiTopK,
    ReLU,
    TopK,
)
from sae_lens_ext.training import ModelStream, RunConfig

# 5 steps, the last of a single token: with 3 processes, 2 have none of their own.
N_TOKENS = 4 * 31 + 1
SHORT = dataclasses.replace(CONFIG, batch_size=31, dead_after=40)
BY_METRIC = 1
OF_EVERYTHING = {"k_start": 8, "k_decay": 0.5, "clip": 0.05, "revive_every": 2}


def case(objective=None, **changes):
    """A short training."""
    if objective is not None:
        changes["objective"] = objective
    return dataclasses.replace(SHORT, **changes)


TRANSCODER = case(
    hook_name=SITE, hook_name_out=SITE_OUT, skip_connection=True, clip=0.05
)
ON_SLICES = {
    "hierarchical": case(**OF_EVERYTHING, decay=0.1),
    "weighted": case(HierarchicalTopK(levels="powers_of_two", weights="ramp")),
    "relative": case(HierarchicalTopK(stride=2, weights="relative", decay=0.5)),
    "sampled": case(HierarchicalTopK(sampled=2)),
    "topk": case(TopK()),
    "multitopk": case(MultiTopK()),
    "transcoder": TRANSCODER,
    # Those with a learning rate of the encoder begin with another SAE here, and those
    # with this seed count errors by a metric.
    "started": case(encoder_lr=1e-3),
    "metric": case(seed=BY_METRIC),
    "metric of a transcoder": dataclasses.replace(TRANSCODER, seed=BY_METRIC),
}
ON_SHARES = {
    **ON_SLICES,
    "relu": case(ReLU()),
    # Wide, so that thresholds move.
    "jumprelu": case(JumpReLU(bandwidth=0.2)),
    "batchtopk": case(BatchTopK()),
    "matryoshka": case(Matryoshka(prefixes=(0.25, 1.0))),
    "auxk": case(AuxK(TopK())),
    "retrofit": case(freeze_decoder=True, encoder_lr=1e-3),
}
CASES = {"data": ON_SHARES, "dictionary": ON_SLICES}


def tensors_of(trained):
    """What has to be the same."""
    weights = {name: w.detach() for name, w in trained.sae.weights().items()}
    tensors = {**weights, "losses": torch.tensor(trained.losses)}
    tensors["dead"] = torch.tensor(trained.dead)
    fvu = [trained.held_out_fvu[k] for k in sorted(trained.held_out_fvu, key=str)]
    tensors["held_out_fvu"] = torch.tensor(fvu)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def started():
    """An SAE to begin with, whose decoder rows are not at unit norm."""
    config = sle.SAEConfig(d_model=small_training.WIDTH, d_sae=SHORT.d_sae, k=SHORT.k)
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, SHORT.d_sae).unsqueeze(1)
    return sae


def short(config, parallel="none", **options):
    """One of the short trainings."""
    tensors = small_training.transcoder_values()
    if config.hook_name_out is None:
        tensors = {SITE: tensors[SITE]}
    stream = MemoryStream(tensors, n_tokens=N_TOKENS, ends_after=N_TOKENS)
    start = None if config.encoder_lr is None else started()
    options = {"run": RunConfig(parallel=parallel), "start": start, **options}
    if config.seed == BY_METRIC:
        site = list(tensors)[-1]
        options["metric"] = small_training.metric(site, tensors[site].shape[1])
    return small_training.run(config=config, stream=stream, **options)


def difference(path, other):
    """The largest difference between the tensors of two files.

    Of a number above 1, as a share of it: float32 has no two numbers from 128 on that
    are closer than 1.5e-5.
    """
    first, second = load_file(path), load_file(other)
    assert first.keys() == second.keys()
    return max(
        ((second[name].double() - w).abs() / w.abs().clamp_min(1)).max().item()
        for name, tensor in first.items()
        for w in [tensor.double()]
        if tensor.numel()
    )


def exactness(folder):
    """How far several processes are from one: by mode, number and name."""
    for name, config in ON_SHARES.items():
        save_file(tensors_of(short(config)), folder / f"{name}.one")

    found = {}
    for mode, cases in CASES.items():
        for n in (2, 3):

            def train_all(rank, mode=mode, n=n, cases=cases):
                for name, config in cases.items():
                    trained = short(config, mode)
                    save_file(tensors_of(trained), folder / f"{name}.{mode}{n}.{rank}")

            codes, _ = Processes(n, train_all).statuses()
            assert codes == [0] * n, codes
            for name in cases:
                paths = [folder / f"{name}.{mode}{n}.{rank}" for rank in range(n)]
                found[f"{mode} {n} {name}"] = max(
                    difference(folder / f"{name}.one", path) for path in paths
                )
    return found


class DoomedStream(MemoryStream):
    """A stream that does something to one process when it has given some tokens."""

    def __init__(self, at, doom):
        super().__init__(n_tokens=small_training.N_TOKENS)
        self.at = at
        self.doom = doom

    def next_batch(self, n_tokens):
        if self.given == self.at:
            self.doom()
        return super().next_batch(n_tokens)


def nothing():
    """What happens to the other processes."""


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def failing():
    raise OSError("the disk is on fire")


def asked_to_end():
    os.kill(os.getpid(), signal.SIGTERM)


RUN_CONFIG = dataclasses.replace(CONFIG, revive_every=4, dead_after=64, k_start=8)


def run(folder, n, parallel, *, at=None, doom=nothing, doomed=1):
    """A run in a folder by n processes, one of which may come to an end.

    Returns how they ended, after how many seconds, and the last lines that they wrote.
    """
    held_out = small_training.values(100, seed=1)
    options = dataclasses.replace(small_training.RUN, parallel=parallel)

    def train(rank):
        stream = DoomedStream(at, doom if rank == doomed else nothing)
        trained = small_training.run(
            folder, RUN_CONFIG, stream=stream, held_out=held_out, run=options
        )
        save_file(tensors_of(trained), folder.with_name(f"{folder.name}.{rank}"))

    if n == 1:
        train(0)
        return None
    paths = [folder.with_name(f"{folder.name}.stderr{rank}") for rank in range(n)]
    codes, seconds = Processes(n, train, stderr=paths).statuses()
    lines = [path.read_text().splitlines()[-1:] for path in paths]
    steps = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return {"codes": codes, "seconds": seconds, "lines": lines, "steps": steps}


def runs(folder):
    """Runs that are disturbed, and go on with other numbers of processes."""
    report = {}
    run(folder / "one", 1, "none")

    # Killed on 2, ended by an error on 3, finished by one, which meets a damaged part.
    path = folder / "changing"
    report["killed"] = run(path, 2, "dictionary", at=32 * 8, doom=killed)
    report["failed"] = run(path, 3, "dictionary", at=32 * 14, doom=failing, doomed=0)
    part = max((path / "checkpoints" / "step-00000012" / "sharded").iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run(path, 1, "none")
    report["warnings"] = [str(warning.message) for warning in warned]
    report["changing"] = difference(folder / "one.0", folder / "changing.0")

    # Begun by one, killed on 3, finished by 2, with either way of sharing.
    path = folder / "growing"
    stream = small_training.stopped(32 * 5)
    with contextlib.suppress(KeyboardInterrupt):
        small_training.run(path, RUN_CONFIG, stream=stream)
    report["killed first"] = run(path, 3, "data", at=32 * 9, doom=killed, doomed=0)
    report["finished"] = run(path, 2, "dictionary")
    report["growing"] = max(
        difference(folder / "one.0", folder / f"growing.{rank}") for rank in range(2)
    )
    report["metrics"] = [
        [record["step"] for record in small_training.metrics(folder / name)]
        for name in ("one", "changing", "growing")
    ]
    # The same bits, where the number of processes stays the same.
    undisturbed = folder / "undisturbed"
    run(undisturbed, 2, "dictionary")
    ended = folder / "ended"
    report["ended"] = run(ended, 2, "dictionary", at=32 * 7, doom=asked_to_end)
    run(ended, 2, "dictionary")
    files = [path for path in folder.glob("*/**/*") if path.is_file()]
    report["suffixes"] = sorted({path.suffix for path in files})
    report["same bits"] = difference(folder / "undisturbed.0", folder / "ended.0")
    return report


def errors_of(function):
    """Run a function; the class and the text of its error."""
    try:
        function()
    except sle.errors.SaeLensExtError as error:
        return f"{type(error).__name__}: {error}"
    return traceback.format_exc()


def other_cases(folder):
    """A model that is shared, and what is refused; of 3 processes."""
    config = dataclasses.replace(CONFIG, batch_size=50, n_tokens=500)

    def stream(**options):
        model = Toy()
        options = {"batch_size": 4, "buffer_tokens": 100, "epochs": 2, **options}
        made = ModelStream(model, rows(41), TOY_SITE, **options)
        # Without the passes that look for the site.
        model.n_passes = 0
        return model, made

    def train(stream, config=config, **options):
        return small_training.run(config=config, stream=stream, **options)

    model, alone = stream()
    save_file(tensors_of(train(alone)), folder / "model.one")

    def of_rank(rank):
        shared_model, shared = stream(overlap=rank == 1)
        save_file(tensors_of(train(shared)), folder / f"model.{rank}")
        report = {"passes": shared_model.n_passes}
        # It can be used by one process again.
        report["next"] = shared.next_batch(5)[TOY_SITE][:, 0].tolist()

        report["batches"] = errors_of(
            lambda: train(MemoryStream({SITE: small_training.values(seed=rank)}))
        )
        report["configs"] = errors_of(
            lambda: short(dataclasses.replace(SHORT, lr=1e-3 * (rank + 1)), "data")
        )
        report["metrics"] = errors_of(
            lambda: short(SHORT, "data", metric=small_training.metric(seed=rank))
        )
        (folder / f"report.{rank}").write_text(json.dumps(report))

    codes, _ = Processes(3, of_rank).statuses()
    assert codes == [0] * 3, codes
    reports = [json.loads((folder / f"report.{rank}").read_text()) for rank in range(3)]
    return {
        "difference": max(
            difference(folder / "model.one", folder / f"model.{rank}")
            for rank in range(3)
        ),
        "passes": [model.n_passes, *(report["passes"] for report in reports)],
        "next": [alone.next_batch(5)[TOY_SITE][:, 0].tolist()]
        + [report["next"] for report in reports],
        "batches": [report["batches"] for report in reports],
        "configs": [report["configs"] for report in reports],
        "metrics": [report["metrics"] for report in reports],
    }


def main(folder):
    # Before the forks, each of which would take seconds for it; and not by whoever only
    # looks for tests in this file.
    import torch.distributed.checkpoint.hf_storage
    import torch.distributed.tensor

    torch.set_num_threads(1)
    keep_progress_bars_apart()
    report = {}
    for part in (exactness, runs, other_cases):
        path = folder / part.__name__
        path.mkdir(parents=True)
        report[part.__name__] = part(path)
    one = folder / "exactness"
    report["other objective"] = difference(one / "topk.one", one / "sampled.one")
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
