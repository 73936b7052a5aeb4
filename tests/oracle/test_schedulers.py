"""Every scheduler steps as diffusers' own pipelines and loops do, bit for bit.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from glc_ray.backbones import scheduler as schedulers
from glc_ray.backbones import scheduler_choice
from glc_ray.config import (
    GLCSpec,
    ModelSpec,
    PipelineSpec,
    SamplingSpec,
    VideoJob,
    VideoSpec,
)
from glc_ray.core import vmcr
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import StepResult, UserError
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from tests.tiny_schedulers import (
    EVERY,
    VARIANCE_PRESERVING,
    WAN,
    MakeModel,
    cogvideox,
    noise,
    sampling,
)

PROMPT = "a red ball bounces over the meadow at day"


def our_loop(scheduler: schedulers.DiffusersScheduler, latents: Tensor, outputs: list) -> Tensor:
    for step_index, output in enumerate(outputs):
        latents = scheduler.step(output, step_index, latents).prev_sample
    return latents


def plain_loop(scheduler: Any, latents: Tensor, outputs: list) -> Tensor:
    """As WanPipeline drives a scheduler."""
    scheduler.set_timesteps(len(outputs))
    scheduler.set_begin_index(0)
    for timestep, output in zip(scheduler.timesteps, outputs, strict=True):
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("num_steps", [1, 2, 5, 30, 400])
@pytest.mark.parametrize(
    "name", ["model", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"]
)
def test_flow_solvers_equal_a_plain_loop(model_of: MakeModel, name: str, num_steps: int) -> None:
    """At 400 steps integer timesteps repeat."""
    ours = schedulers.load(model_of(WAN), sampling(name, num_steps), torch.Generator())
    its_class = type(WAN) if name == "model" else getattr(diffusers, name)
    theirs = its_class.from_config(WAN.config)
    latents, *outputs = noise(num_steps + 1)
    assert torch.equal(our_loop(ours, latents, outputs), plain_loop(theirs, latents, outputs))
    assert ours.timesteps == tuple(theirs.timesteps.tolist())
    assert all(isinstance(timestep, int) for timestep in ours.timesteps)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 30, 400])
@pytest.mark.parametrize("own", [WAN, diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)])
def test_flow_euler_equals_a_plain_loop(model_of: MakeModel, own: Any, num_steps: int) -> None:
    """Wan's own scheduler calls its shift by another name; it must not be lost."""
    name = "FlowMatchEulerDiscreteScheduler"
    ours = schedulers.load(model_of(own), sampling(name, num_steps), torch.Generator())
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    latents, *outputs = noise(num_steps + 1)
    assert torch.equal(our_loop(ours, latents, outputs), plain_loop(theirs, latents, outputs))
    assert ours.timesteps == tuple(theirs.timesteps.tolist())
    assert all(isinstance(timestep, float) for timestep in ours.timesteps)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_flow_solvers_for_a_model_with_euler(model_of: MakeModel, name: str) -> None:
    model = model_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0))
    ours = schedulers.load(model, sampling(name), torch.Generator())
    theirs = getattr(diffusers, name)(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    latents, *outputs = noise(6)
    assert torch.equal(our_loop(ours, latents, outputs), plain_loop(theirs, latents, outputs))


def test_an_option_takes_the_place_of_the_models(model_of: MakeModel) -> None:
    name = "FlowMatchEulerDiscreteScheduler"
    ours = schedulers.load(model_of(WAN), sampling(name, shift=2), torch.Generator())
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=2)
    theirs.set_timesteps(5)
    assert ours.timesteps == tuple(theirs.timesteps.tolist())


@pytest.fixture(scope="module")
def tiny_5b(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The tiny models with the scheduler settings of CogVideoX-5b, all of which any class reads."""

    def make(positions: str) -> Path:
        folder = tmp_path_factory.mktemp(positions)
        shutil.copytree(tiny_model(positions), folder, dirs_exist_ok=True)
        cogvideox().save_pretrained(folder / "scheduler")
        return folder

    return make


def our_latents(folder: Path, spec: SamplingSpec, seed: int = 7, dtype: str = "float32") -> Tensor:
    """Our loop on one native window, with GLC's features off."""
    pipeline = PipelineSpec(
        name="tiny",
        model=ModelSpec(path=str(folder), dtype=dtype),
        video=VideoSpec(num_frames=9),
        sampling=spec,
        glc=GLCSpec(global_path=False, noise_reinit=False, vmcr=False, abam=False),
    )
    job = VideoJob(prompt=PROMPT, seed=seed, pipeline=pipeline)
    with torch_threads(1):
        return sample_job(job, LocalDenoiser.of(job, torch.device("cpu")))


def pipeline_latents(folder: Path, spec: SamplingSpec, seed: int = 7) -> Tensor:
    """What CogVideoXPipeline gives with its scheduler swapped in the way diffusers documents."""
    pipeline = diffusers.CogVideoXPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if spec.scheduler != "model":
        pipeline.scheduler = getattr(diffusers, spec.scheduler).from_config(
            pipeline.scheduler.config, **spec.scheduler_options
        )
    with torch_threads(1):
        return pipeline(
            PROMPT,
            num_frames=9,
            num_inference_steps=spec.num_steps,
            guidance_scale=spec.guidance_scale,
            max_sequence_length=pipeline.transformer.config.max_text_seq_length,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).frames


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_cogvideox_schedulers_equal_the_pipeline(
    tiny_model: Callable[[str], Path], name: str, guidance_scale: float, num_steps: int
) -> None:
    """With 2b's shifted noise levels; DPM draws its noise from the video's one generator."""
    spec = SamplingSpec(scheduler=name, num_steps=num_steps, guidance_scale=guidance_scale)
    folder = tiny_model("sincos")
    assert torch.equal(our_latents(folder, spec), pipeline_latents(folder, spec))


@pytest.mark.parametrize("num_steps", [1, 6])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CogVideoXDPMScheduler", {}),
        ("DDIMScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("UniPCMultistepScheduler", {}),
        ("UniPCMultistepScheduler", {"solver_order": 3}),
    ],
)
def test_swapped_schedulers_equal_the_pipeline(
    tiny_5b: Callable[[str], Path], name: str, options: dict[str, Any], num_steps: int
) -> None:
    spec = SamplingSpec(scheduler=name, num_steps=num_steps, scheduler_options=options)
    folder = tiny_5b("rotary")
    assert torch.equal(our_latents(folder, spec), pipeline_latents(folder, spec))


def test_latents_are_float32_whatever_the_model(tiny_5b: Callable[[str], Path]) -> None:
    spec = SamplingSpec(scheduler="UniPCMultistepScheduler", num_steps=2)
    assert our_latents(tiny_5b("sincos"), spec, dtype="bfloat16").dtype == torch.float32


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
@pytest.mark.parametrize("own", [cogvideox(3.0), cogvideox(1.0)])
def test_noise_levels_are_those_of_the_training(model_of: MakeModel, own: Any, name: str) -> None:
    """CogVideoX-2b shifts them, and from_config of another class would pass over that."""
    built = scheduler_choice.build(model_of(own), sampling(name))
    torch.testing.assert_close(
        built.alphas_cumprod.double(), own.alphas_cumprod.double(), rtol=1e-3, atol=1e-6
    )


def test_noise_levels_of_a_model_without_a_shift(model_of: MakeModel) -> None:
    """CogVideoX's classes shift by 3 unless they are told otherwise."""
    own = diffusers.DDIMScheduler.from_config(cogvideox().config)
    built = scheduler_choice.build(model_of(own), sampling("CogVideoXDDIMScheduler"))
    torch.testing.assert_close(
        built.alphas_cumprod, own.alphas_cumprod, rtol=1e-3, atol=1e-6, check_dtype=False
    )


class Exact:
    """A model that knows the clean latents, over our scheduler with its tables in float64."""

    def __init__(self, scheduler: schedulers.DiffusersScheduler, x0: Tensor) -> None:
        self.scheduler = scheduler
        self.x0 = x0
        self.inner = scheduler._scheduler
        for table in {"sigmas", "alphas_cumprod", "final_alpha_cumprod"} & vars(self.inner).keys():
            setattr(self.inner, table, getattr(self.inner, table).double())
        self.is_flow = "shift" in self.inner.config or self.inner.config.get("use_flow_sigmas")

    def level(self, step_index: int) -> tuple[Tensor, Tensor]:
        """(α, σ) of z = α·x0 + σ·ε, from the scheduler's tables."""
        if not hasattr(self.inner, "sigmas"):
            alpha_cumprod = self.inner.alphas_cumprod[self.scheduler.timesteps[step_index]]
            return alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
        sigma = self.inner.sigmas[step_index]
        if self.is_flow:
            return 1 - sigma, sigma
        return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()

    def output(self, step_index: int, latents: Tensor) -> Tensor:
        """The model output for which x0 is clean: v = α·ε − σ·x0, or ε − x0 in flow matching."""
        alpha, sigma = self.level(step_index)
        epsilon = (latents - alpha * self.x0) / sigma
        return epsilon - self.x0 if self.is_flow else alpha * epsilon - sigma * self.x0

    def results(self, epsilon: Tensor) -> list[StepResult]:
        """Of the whole loop, from a mixture of x0 and this noise on."""
        alpha, sigma = self.level(0)
        latents = alpha * self.x0 + sigma * epsilon
        results = []
        for step_index in range(len(self.scheduler.timesteps)):
            output = self.output(step_index, latents)
            results.append(self.scheduler.step(output, step_index, latents))
            latents = results[-1].prev_sample
        return results


def exact(model: ModelSpec, spec: SamplingSpec, x0: Tensor) -> Exact:
    return Exact(schedulers.load(model, spec, torch.Generator().manual_seed(2)), x0)


@pytest.mark.parametrize(("own", "name"), EVERY)
def test_clean_latents_and_their_factor(model_of: MakeModel, own: Any, name: str) -> None:
    """x̂0 is the x0 that the model knows, and z_{t−1} follows x0 by ``signal_scale``, at any step.

    The second for two values of x0, so that what depends on noise alone drops out.
    """
    model, spec = model_of(own), sampling(name, num_steps=10)
    # FlowMatchEuler rounds latents to float32 in between.
    rounds = name == "FlowMatchEulerDiscreteScheduler" or name.startswith("DPM")
    atol = 1e-5 if rounds else 1e-9
    x0, epsilon = noise(2, torch.float64)
    known = exact(model, spec, x0).results(epsilon)
    nothing = exact(model, spec, torch.zeros_like(x0)).results(epsilon)
    for one, zero in zip(known, nothing, strict=True):
        torch.testing.assert_close(one.pred_original_sample, x0, rtol=0, atol=atol)
        assert one.signal_scale == zero.signal_scale
        torch.testing.assert_close(
            one.prev_sample - zero.prev_sample, one.signal_scale * x0, rtol=0, atol=atol
        )
    scales = [result.signal_scale for result in known]
    assert scales == sorted(scales)
    assert scales[-1] == 1.0


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("num_steps", [61, 103])
def test_the_last_step_is_clean(model_of: MakeModel, name: str, num_steps: int) -> None:
    """For these numbers diffusers rounds to one step more, and solvers keep their end for it."""
    x0, epsilon = noise(2, torch.float64)
    results = exact(model_of(cogvideox()), sampling(name, num_steps), x0).results(epsilon)
    assert len(results) == num_steps
    torch.testing.assert_close(results[-1].prev_sample, x0, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("own", "name"), EVERY)
def test_model_inputs_need_no_scaling(model_of: MakeModel, own: Any, name: str) -> None:
    scheduler = scheduler_choice.build(model_of(own), sampling(name))
    scheduler.set_timesteps(5)
    (latents,) = noise(1)
    if hasattr(scheduler, "scale_model_input"):
        assert torch.equal(scheduler.scale_model_input(latents, scheduler.timesteps[0]), latents)
    assert getattr(scheduler, "init_noise_sigma", 1.0) == 1.0


SOLVERS = [
    (cogvideox(), "UniPCMultistepScheduler", {}),
    (cogvideox(), "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1"}),
    (cogvideox(), "DPMSolverMultistepScheduler", {}),
    (WAN, "UniPCMultistepScheduler", {}),
    (WAN, "UniPCMultistepScheduler", {"solver_order": 3}),
    (WAN, "DPMSolverMultistepScheduler", {}),
]


@pytest.mark.parametrize(("own", "name", "options"), SOLVERS)
@pytest.mark.parametrize("changed_step", [1, 3, 6])
def test_a_change_between_steps_stays(
    model_of: MakeModel, own: Any, name: str, options: dict[str, Any], changed_step: int
) -> None:
    """z_t + δ with the same x̂0 gives z_{t−1} + (σ_{t−1} / σ_t)·δ, also through a corrector.

    Solvers are linear in the latents with that factor; diffusers' own UniPC loses δ altogether.
    """
    model, spec = model_of(own), sampling(name, num_steps=8, **options)
    x0, latents, delta = noise(3, torch.float64)

    def after(change: Tensor, *, ours: bool = True) -> Tensor:
        """z_{t−1} of the step whose latents were changed."""
        run, z = exact(model, spec, x0), latents
        for step_index, timestep in enumerate(run.scheduler.timesteps[: changed_step + 1]):
            if step_index == changed_step:
                z = z + change
            output = run.output(step_index, z)
            if ours:
                z = run.scheduler.step(output, step_index, z).prev_sample
            else:
                z = run.inner.step(output, timestep, z).prev_sample
        return z

    run = exact(model, spec, x0)
    factor = run.level(changed_step + 1)[1] / run.level(changed_step)[1]
    assert factor > 0.1
    # DPMSolverMultistep rounds latents to float32 in between.
    atol = 1e-5 if name.startswith("DPM") else 1e-12
    unchanged = after(torch.zeros_like(delta))
    torch.testing.assert_close(after(delta) - unchanged, factor * delta, rtol=0, atol=atol)
    diffusers_own = after(delta, ours=False) - unchanged
    expected = torch.zeros_like(delta) if name.startswith("UniPC") else factor * delta
    torch.testing.assert_close(diffusers_own, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("own", [cogvideox(), WAN])
def test_vmcr_survives_the_corrector(model_of: MakeModel, own: Any) -> None:
    """Each step's refinement ω·scale·∇ℓ is in the latents at the end, times the later factors."""
    model, spec = model_of(own), sampling("UniPCMultistepScheduler", num_steps=8)
    x0, latents = noise(2, torch.float64)
    plain, refined = exact(model, spec, x0), exact(model, spec, x0)
    expected = torch.zeros_like(x0)
    z, refined_z = latents, latents
    for step_index in range(7):
        factor = plain.level(step_index + 1)[1] / plain.level(step_index)[1]
        z = plain.scheduler.step(plain.output(step_index, z), step_index, z).prev_sample
        result = refined.scheduler.step(
            refined.output(step_index, refined_z), step_index, refined_z
        )
        refined_z = vmcr.correct(
            result.prev_sample, result.pred_original_sample, result.signal_scale, step_size=0.01
        )
        step = 0.01 * result.signal_scale * vmcr.gradient(x0)
        expected = factor * expected - step
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(refined_z - z, expected, rtol=0, atol=1e-9)


REFUSED = [
    (
        cogvideox(),
        sampling("FlowMatchEulerDiscreteScheduler"),
        "sampling.scheduler = 'FlowMatchEulerDiscreteScheduler': the model was trained for "
        "v_prediction, which this scheduler cannot sample; use model or one of "
        "CogVideoXDDIMScheduler, CogVideoXDPMScheduler, DDIMScheduler, "
        "DPMSolverMultistepScheduler, UniPCMultistepScheduler",
    ),
    (
        WAN,
        sampling("CogVideoXDDIMScheduler"),
        "sampling.scheduler = 'CogVideoXDDIMScheduler': the model was trained for "
        "flow_prediction, which this scheduler cannot sample; use model or one of "
        "DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler",
    ),
    (
        diffusers.PNDMScheduler(),
        sampling("DDIMScheduler"),
        "scheduler/scheduler_config.json names PNDMScheduler, which is not supported; use a model "
        "with one of CogVideoXDDIMScheduler, CogVideoXDPMScheduler,",
    ),
    (
        WAN,
        sampling("FlowMatchEulerDiscreteScheduler", flow_shift=3.0),
        "sampling.scheduler_options.flow_shift = 3.0: FlowMatchEulerDiscreteScheduler has no such "
        "option; it has num_train_timesteps, shift, use_dynamic_shifting,",
    ),
    (
        WAN,
        sampling("model", flow_shift="high"),
        "sampling.scheduler_options.flow_shift = 'high': UniPCMultistepScheduler takes a number",
    ),
    (
        WAN,
        sampling("model", lower_order_final=1),
        "sampling.scheduler_options.lower_order_final = 1: UniPCMultistepScheduler takes true or "
        "false",
    ),
    (
        cogvideox(),
        sampling("model", timestep_spacing="tight"),
        "sampling.scheduler_options.timestep_spacing = 'tight': CogVideoXDDIMScheduler takes "
        "'linspace', 'leading', 'trailing'",
    ),
    (
        cogvideox(),
        sampling("UniPCMultistepScheduler", beta_schedule="cubic"),
        "sampling.scheduler_options.beta_schedule = 'cubic': UniPCMultistepScheduler takes "
        "'linear', 'scaled_linear', 'squaredcos_cap_v2'",
    ),
    (
        cogvideox(),
        sampling("UniPCMultistepScheduler", prediction_type="epsilon"),
        "sampling.scheduler_options.prediction_type = 'epsilon': UniPCMultistepScheduler can "
        "sample this model only with 'v_prediction'; set "
        "sampling.scheduler_options.prediction_type to that",
    ),
    (
        cogvideox(),
        sampling("UniPCMultistepScheduler", predict_x0=False),
        "sampling.scheduler_options.predict_x0 = False: UniPCMultistepScheduler can sample this "
        "model only with True; set sampling.scheduler_options.predict_x0 to that",
    ),
    (
        cogvideox(),
        sampling("DPMSolverMultistepScheduler", variance_type="learned"),
        "sampling.scheduler_options.variance_type = 'learned': DPMSolverMultistepScheduler can "
        "sample this model only with None; leave it out",
    ),
    (
        diffusers.DPMSolverMultistepScheduler.from_config(WAN.config, variance_type="learned"),
        sampling("model"),
        "variance_type in scheduler/scheduler_config.json = 'learned': DPMSolverMultistepScheduler "
        "can sample this model only with None; choose another sampling.scheduler",
    ),
    (
        diffusers.UniPCMultistepScheduler.from_config(WAN.config, thresholding=True),
        sampling("model"),
        "thresholding in scheduler/scheduler_config.json = True: UniPCMultistepScheduler can "
        "sample this model only with False; set sampling.scheduler_options.thresholding to that",
    ),
    (
        WAN,
        sampling("model", use_karras_sigmas=True, use_exponential_sigmas=True),
        "sampling.scheduler_options.use_exponential_sigmas = True: diffusers refuses it "
        "(ValueError: Only one of `config.use_beta_sigmas`",
    ),
    (
        WAN,
        sampling("model", solver_order=0),
        "sampling.scheduler_options.solver_order = 0: diffusers refuses it (IndexError:",
    ),
    (
        cogvideox(),
        sampling("UniPCMultistepScheduler", solver_order=2, solver_type="bh1"),
        "sampling.scheduler_options.solver_type = 'bh1': diffusers refuses it (ValueError: step 4 "
        "gives NaN or infinite latents); give another value or leave it out",
    ),
    (
        cogvideox(),
        sampling("DPMSolverMultistepScheduler", num_steps=20, lambda_min_clipped=-3.0),
        "sampling.scheduler_options.lambda_min_clipped = -3.0: diffusers refuses it (ValueError: "
        "it gives 19 timesteps for 20 steps)",
    ),
    (
        diffusers.DDIMScheduler(num_train_timesteps=100),
        sampling("model", num_steps=200),
        "sampling.scheduler = 'model' with num_steps = 200: diffusers refuses it (ValueError: "
        "`num_inference_steps`: 200 cannot be larger than",
    ),
]


@pytest.mark.parametrize(("own", "spec", "message"), REFUSED)
def test_what_cannot_sample_the_model_is_refused(
    model_of: MakeModel, own: Any, spec: SamplingSpec, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        schedulers.check(model_of(own), spec)


def test_a_scheduler_is_refused_before_any_work(tiny_pipeline: Path) -> None:
    options = [("sampling.scheduler", "FlowMatchEulerDiscreteScheduler")]
    with pytest.raises(UserError, match="the model was trained for v_prediction"):
        build_job(load_pipeline(str(tiny_pipeline), options), prompt=None, seed=0)


@pytest.mark.parametrize(("own", "name"), EVERY)
def test_what_fits_passes(model_of: MakeModel, own: Any, name: str) -> None:
    """And what passed steps through real sizes, not only through the rehearsal's one number."""
    spec = sampling(name, num_steps=50)
    schedulers.check(model_of(own), spec)
    generator = torch.Generator().manual_seed(0)
    scheduler = schedulers.load(model_of(own), spec, generator)
    assert len(scheduler.timesteps) == 50
    assert list(scheduler.timesteps) == sorted(scheduler.timesteps, reverse=True)
    latents = torch.randn(1, 3, 4, 2, 2, generator=generator)
    for step_index in range(50):
        prediction = torch.randn(latents.shape, generator=generator)
        latents = scheduler.step(prediction, step_index, latents).prev_sample
    assert latents.isfinite().all()
