"""A noise scheduler that goes on from a file steps as one that never stopped, bit for bit.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from glc_ray.backbones import cost
from glc_ray.backbones import registry as backbones
from glc_ray.backbones import scheduler as schedulers
from glc_ray.backbones.scheduler import DiffusersScheduler
from glc_ray.config import ModelSpec, SamplingSpec
from glc_ray.core import vmcr
from glc_ray.core.noise import SeededNoise
from glc_ray.job import build_job
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import NoiseScheduler, SchedulerState, StepResult
from glc_ray.sampler import LocalDenoiser, sample, torch_threads
from tests.tiny_schedulers import EVERY, SHAPE_BFCHW, WAN, MakeModel, cogvideox, noise, sampling

NUM_STEPS = 8
SDE = {"algorithm_type": "sde-dpmsolver++"}

CASES = [
    *((own, name, {}) for own, name in EVERY),
    (cogvideox(), "DPMSolverMultistepScheduler", SDE),
    (cogvideox(), "DPMSolverMultistepScheduler", {"solver_order": 3}),
    (cogvideox(), "UniPCMultistepScheduler", {"solver_order": 3}),
    (WAN, "DPMSolverMultistepScheduler", SDE),
    (WAN, "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    (WAN, "UniPCMultistepScheduler", {"solver_order": 3}),
]
EVERY_CASE = pytest.mark.parametrize(("own", "name", "options"), CASES)
STOCHASTIC = ("CogVideoXDPMScheduler", "sde-dpmsolver++", "stochastic_sampling")


def as_it_is(result: StepResult) -> Tensor:
    """The update of a method that leaves the latents to the scheduler."""
    return result.prev_sample


def refined(result: StepResult) -> Tensor:
    """The update of one that moves them between steps, far enough for any bit to show."""
    return vmcr.correct(
        result.prev_sample, result.pred_original_sample, result.signal_scale, step_size=0.01
    )


UPDATES = pytest.mark.parametrize("update", [as_it_is, refined])
Update = Callable[[StepResult], Tensor]


def fresh(model: ModelSpec, spec: SamplingSpec, seed: int = 2) -> DiffusersScheduler:
    return schedulers.load(model, spec, torch.Generator().manual_seed(seed))


def drive(
    scheduler: NoiseScheduler, latents: Tensor, update: Update, steps: range
) -> list[StepResult]:
    """The results of some steps with a stand-in for a model, which depends on the latents."""
    drift = noise(NUM_STEPS + 1)[1:]
    results = []
    for step_index in steps:
        prediction = drift[step_index] - 0.5 * latents
        results.append(scheduler.step(prediction, step_index, latents))
        latents = update(results[-1])
    return results


def through_a_file(state: SchedulerState, file: Path) -> SchedulerState:
    """Saved as a checkpoint would be, and read again."""
    save(state, file)
    return read(file)


def save(state: SchedulerState, file: Path, **more: Tensor) -> None:
    values = json.dumps(dict(state.values), allow_nan=False)
    save_file({**state.tensors, **more}, file, {"values": values})


def read(file: Path) -> SchedulerState:
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return SchedulerState(tensors, json.loads(opened.metadata()["values"]))


def same(one: StepResult, other: StepResult) -> bool:
    return (
        torch.equal(one.prev_sample, other.prev_sample)
        and torch.equal(one.pred_original_sample, other.pred_original_sample)
        and one.signal_scale == other.signal_scale
    )


@UPDATES
@EVERY_CASE
def test_every_later_step_is_that_of_the_undisturbed_run(
    model_of: MakeModel,
    tmp_path: Path,
    own: Any,
    name: str,
    options: dict[str, Any],
    update: Update,
) -> None:
    """From every step on; the other scheduler's generator was seeded otherwise."""
    model, spec = model_of(own), sampling(name, NUM_STEPS, **options)
    (start,) = noise(1)
    undisturbed = fresh(model, spec)
    expected = drive(undisturbed, start, update, range(NUM_STEPS))
    for stop in range(NUM_STEPS + 1):
        stopped = fresh(model, spec)
        before = drive(stopped, start, update, range(stop))
        latents = update(before[-1]).clone() if before else start
        resumed = fresh(model, spec, seed=3)
        resumed.restore(through_a_file(stopped.state(), tmp_path / "state.safetensors"))
        after = drive(resumed, latents, update, range(stop, NUM_STEPS))
        assert all(map(same, before + after, expected))
        assert len(after) == NUM_STEPS - stop
        end, its_end = resumed._generator.get_state(), undisturbed._generator.get_state()
        assert torch.equal(end, its_end)


@EVERY_CASE
def test_what_is_left_out_would_be_missed(
    model_of: MakeModel, own: Any, name: str, options: dict[str, Any]
) -> None:
    """A fresh scheduler that only begins later takes other steps, where there is a memory."""
    model, spec = model_of(own), sampling(name, NUM_STEPS, **options)
    (start,) = noise(1)
    expected = drive(fresh(model, spec), start, refined, range(NUM_STEPS))
    forgetful = drive(fresh(model, spec, seed=3), refined(expected[3]), refined, range(4, 8))
    solver = "Multistep" in name
    remembers = solver or any(word in (name, *options, *options.values()) for word in STOCHASTIC)
    assert same(forgetful[0], expected[4]) is not remembers


@UPDATES
@EVERY_CASE
def test_later_steps_leave_a_state_as_it_is(
    model_of: MakeModel, own: Any, name: str, options: dict[str, Any], update: Update
) -> None:
    """No tensor of it is a copy; and it can be gone back to, by one who went on, and twice."""
    model, spec = model_of(own), sampling(name, NUM_STEPS, **options)
    scheduler = fresh(model, spec)
    states: list[SchedulerState] = []
    copies: list[SchedulerState] = []
    (latents,) = noise(1)
    results = []
    for step_index in range(NUM_STEPS):
        results += drive(scheduler, latents, update, range(step_index, step_index + 1))
        latents = update(results[-1])
        states.append(scheduler.state())
        copies.append(copy.deepcopy(states[-1]))
    for _ in range(2):
        scheduler.restore(states[2])
        again = drive(scheduler, update(results[2]), update, range(3, NUM_STEPS))
        assert all(map(same, again, results[3:]))
    for state, kept in zip(states, copies, strict=True):
        assert state.values == kept.values
        assert state.tensors.keys() == kept.tensors.keys()
        assert all(torch.equal(state.tensors[key], kept.tensors[key]) for key in kept.tensors)
    scheduler.restore(states[2])
    shared = scheduler.state().tensors
    for key in shared.keys() - {"generator"}:
        assert shared[key] is states[2].tensors[key]


def all_of(scheduler: DiffusersScheduler) -> dict[str, Any]:
    """A copy of all that diffusers' scheduler has, however deep."""
    inner = scheduler._scheduler
    parts = {**vars(inner), "_internal_dict": dict(inner.config)}
    return copy.deepcopy(parts)


def unchanged(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(unchanged, one, other))
    return type(one) is type(other) and bool(one == other)


def names_of(state: SchedulerState) -> set[str]:
    """Attributes of diffusers' scheduler that a state holds."""
    keys = [key.split(".") for key in (*state.tensors, *state.values)]
    return {parts[1] for parts in keys if parts[0] == "scheduler"}


@EVERY_CASE
def test_no_attribute_that_changes_is_missing(
    model_of: MakeModel, own: Any, name: str, options: dict[str, Any]
) -> None:
    """By value and not, as the code goes, by identity: what is written in place would show."""
    scheduler = fresh(model_of(own), sampling(name, NUM_STEPS, **options))
    before = all_of(scheduler)
    assert names_of(scheduler.state()) == set()
    (latents,) = noise(1)
    seen: set[str] = set()
    for step_index in range(NUM_STEPS):
        (result,) = drive(scheduler, latents, refined, range(step_index, step_index + 1))
        latents = refined(result)
        after = all_of(scheduler)
        assert before.keys() <= after.keys()
        changed = {
            key for key in after if key not in before or not unchanged(before[key], after[key])
        }
        assert changed <= names_of(scheduler.state())
        seen |= changed
    if name == "UniPCMultistepScheduler":
        assert seen >= {"model_outputs", "timestep_list", "lower_order_nums", "last_sample"}
        assert seen >= {"_step_index", "this_order"}


class Heavy(diffusers.DDIMScheduler):
    """As a later version of diffusers might be: predictions have momentum."""

    def step(self, model_output: Tensor, *args: Any, **options: Any) -> Any:
        self.momentum = 0.5 * getattr(self, "momentum", 0) + model_output
        return super().step(self.momentum, *args, **options)


class Unsaved(diffusers.DDIMScheduler):
    """Keeps what no file of tensors and JSON holds."""

    def step(self, *args: Any, **options: Any) -> Any:
        self.steps_done = {*getattr(self, "steps_done", ()), args}
        return super().step(*args, **options)


def test_what_nobody_has_heard_of_is_kept() -> None:
    def heavy() -> DiffusersScheduler:
        return DiffusersScheduler(Heavy(), NUM_STEPS, torch.Generator())

    (start,) = noise(1)
    stopped = heavy()
    expected = drive(heavy(), start, refined, range(NUM_STEPS))
    before = drive(stopped, start, refined, range(3))
    resumed = heavy()
    resumed.restore(stopped.state())
    assert all(map(same, drive(resumed, refined(before[-1]), refined, range(3, 8)), expected[3:]))


def test_what_no_file_holds_is_refused() -> None:
    scheduler = DiffusersScheduler(Unsaved(), NUM_STEPS, torch.Generator())
    drive(scheduler, noise(1)[0], as_it_is, range(1))
    with pytest.raises(TypeError) as error:
        scheduler.state()
    assert str(error.value) == (
        "scheduler.steps_done is a set: the state of a noise scheduler is made of tensors, "
        "numbers, texts and lists of them"
    )


@EVERY_CASE
def test_a_plan_counts_the_tensors_of_a_state(
    model_of: MakeModel, own: Any, name: str, options: dict[str, Any]
) -> None:
    model, spec = model_of(own), sampling(name, NUM_STEPS, **options)
    scheduler = fresh(model, spec)
    drive(scheduler, noise(1)[0], refined, range(5))
    sizes = [tensor.shape for tensor in scheduler.state().tensors.values()]
    assert cost.scheduler_history(model, spec) == sizes.count(torch.Size(SHAPE_BFCHW))


FOREIGN = [
    (
        sampling("UniPCMultistepScheduler", 9),
        "the state is of another noise scheduler: num_steps 8, not 9",
    ),
    (
        sampling("UniPCMultistepScheduler", 8, solver_order=3),
        "the state is of another noise scheduler: solver_order 2, not 3",
    ),
    (
        sampling("FlowMatchEulerDiscreteScheduler", 9),
        "the state is of another noise scheduler: class UniPCMultistepScheduler, not "
        "FlowMatchEulerDiscreteScheduler, num_steps 8, not 9, ",
    ),
]


@pytest.mark.parametrize(("spec", "message"), FOREIGN)
def test_a_foreign_state_is_refused(model_of: MakeModel, spec: SamplingSpec, message: str) -> None:
    """Nothing is changed by it."""
    model = model_of(WAN)
    state = fresh(model, sampling("UniPCMultistepScheduler", 8)).state()
    other = fresh(model, spec, seed=3)
    before = other.state()
    with pytest.raises(ValueError, match=re.escape(message)):
        other.restore(state)
    after = other.state()
    assert after.values == before.values
    assert torch.equal(after.tensors["generator"], before.tensors["generator"])


def test_the_model_of_another_time_is_refused(model_of: MakeModel) -> None:
    """Its files were changed between the runs: the shift of the noise levels, of all schedulers."""
    spec = sampling("DDIMScheduler", 8)
    state = fresh(model_of(cogvideox(3.0)), spec).state()
    message = r"scheduler: trained_betas sha256 \w{16}, not None, snr_shift_scale 3.0, not 1.0$"
    with pytest.raises(ValueError, match=message):
        fresh(model_of(cogvideox(1.0)), spec).restore(state)


def finish(model: ModelSpec, spec: SamplingSpec, file: Path, first_step: int) -> Any:
    """The rest of a run from a file alone, and the latents that it ends with (numpy)."""
    state = read(file)
    latents = state.tensors["latents"]
    scheduler = fresh(model, spec, seed=3)
    scheduler.restore(state)
    return drive(scheduler, latents, refined, range(first_step, NUM_STEPS))[-1].prev_sample.numpy()


def test_another_process_goes_on(model_of: MakeModel, tmp_path: Path) -> None:
    """Once with changes that go through a corrector, once with noise of every step."""
    model, (start,) = model_of(WAN), noise(1)
    specs = (
        sampling("UniPCMultistepScheduler", NUM_STEPS),
        sampling("DPMSolverMultistepScheduler", NUM_STEPS, **SDE),
    )
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for spec in specs:
            stopped, file = fresh(model, spec), tmp_path / "state.safetensors"
            latents = refined(drive(stopped, start, refined, range(4))[-1])
            save(stopped.state(), file, latents=latents)
            resumed = pool.submit(finish, model, spec, file, 4).result()
            expected = drive(stopped, latents, refined, range(4, NUM_STEPS))[-1]
            assert torch.equal(torch.from_numpy(resumed), expected.prev_sample)


@pytest.mark.parametrize("vmcr_weight", [0, 1e-3])
@pytest.mark.parametrize("name", ["CogVideoXDPMScheduler", "UniPCMultistepScheduler"])
def test_a_video_goes_on(
    tiny_pipeline: Path, tmp_path: Path, name: str, vmcr_weight: float
) -> None:
    """GLC with a real model, its first noise and the scheduler's from one source."""
    options = [
        ("sampling.scheduler", name),
        ("sampling.num_steps", 5),
        ("glc.vmcr.weight", vmcr_weight),
    ]
    job = build_job(load_pipeline(str(tiny_pipeline), options), prompt=None, seed=7)
    pipeline, facts = job.pipeline, backbones.facts(job.pipeline.model)
    method = methods.create(job, facts)
    denoiser = LocalDenoiser.of(job, torch.device("cpu"))

    def run(scheduler: NoiseScheduler, latents: Tensor, **more: Any) -> Tensor:
        with torch_threads(1):
            return sample(latents, method=method, scheduler=scheduler, denoiser=denoiser, **more)

    def scheduler_of(noise: SeededNoise) -> NoiseScheduler:
        return backbones.load_scheduler(pipeline.model, pipeline.sampling, noise.generator)

    source = SeededNoise(job.seed)
    scheduler = scheduler_of(source)
    files = []

    def keep(report: Any, latents: Tensor) -> None:
        files.append(tmp_path / f"{report.step_index}.safetensors")
        save(scheduler.state(), files[-1], latents=latents.clone())

    first = method.initial_noise(facts.latents_shape(pipeline.video.num_frames), source)
    expected = run(scheduler, first, on_step=keep)
    assert len(files) == 5
    for step_index, file in enumerate(files, start=1):
        other = SeededNoise(job.seed)
        state, resumed = read(file), scheduler_of(other)
        resumed.restore(state)
        result = run(resumed, state.tensors["latents"], start_step=step_index)
        assert torch.equal(result, expected)
        assert torch.equal(other.generator.get_state(), source.generator.get_state())
