"""Rows of a catalog become jobs: the same as one by one, but fast."""

from __future__ import annotations

import hashlib
import json
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glc_ray import catalog
from glc_ray.catalog import CatalogJob, CatalogJobs, group_of
from glc_ray.catalog_row import COLUMNS
from glc_ray.config import FORMAT_VERSION, METHODS, VideoJob
from glc_ray.job import build_job, video_name, warn_of_mixed_prompts, warn_of_unknown_words
from glc_ray.media.formats import FORMATS
from glc_ray.names import SUFFIXES, checked_name, clash_key, vbench_name
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.store.catalog import CatalogRow, read_rows
from tests.conftest import TOYWORLD


def in_full(job: VideoJob, *, of_latents: bool = False) -> str:
    """A job's hash, from everything that it depends on at once."""
    excluded = {"name", "description", "prompt", "prompts", "resources", "preview"}
    excluded |= {method for method in METHODS if method != job.pipeline.method}
    data = {
        key: value
        for key, value in job.pipeline.model_dump().items()
        if key not in excluded | ({"decode", "encode"} if of_latents else set())
    }
    del data["model"]["path"], data["model"]["revision"]
    if of_latents:
        del data["video"]["fps"]
    else:
        del data["decode"]["parallel"]
    data |= {
        "format": FORMAT_VERSION,
        "timeline": [prompt.model_dump() for prompt in job.timeline],
        "seed": job.seed,
        "model_identity": job.model_identity,
    }
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


ROOT = Path(__file__).parents[1]
PROMPT = "a red ball"


def jobs_of(values: dict[str, Any], catalog: CatalogJobs | None = None) -> list[CatalogJob]:
    return (catalog or CatalogJobs("toyworld")).jobs(CatalogRow(3, values))


def job_of(values: dict[str, Any], catalog: CatalogJobs | None = None) -> VideoJob:
    (made,) = jobs_of(values, catalog)
    return made.job


def mistake(values: dict[str, Any], catalog: CatalogJobs | None = None) -> str:
    with pytest.raises(UserError) as error:
        jobs_of(values, catalog)
    return str(error.value)


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "video.num_frames": st.sampled_from([21, 145, 144, 289]),
        "sampling.num_steps": st.sampled_from([0, 5]),
        "method": st.sampled_from(["glc", "freenoise", "fast"]),
        "glc.abam": st.sampled_from([True, False, 1]),
        "glc.stride": st.sampled_from([3, 8]),
        "encode.crf": st.just(20),
        "decode.parallel": st.just("videos"),
    },
)
PROMPTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.lists(
        st.fixed_dictionaries({"at_frame": st.integers(-1, 200), "text": st.text("ab ")}),
        max_size=3,
    ),
)
SEEDS = st.one_of(st.integers(0, 9), st.sampled_from([-1, 2**63 - 1, 2**63]))


@pytest.fixture(scope="module")
def shared() -> CatalogJobs:
    """One for many rows, which keeps what it has checked."""
    return CatalogJobs("toyworld")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(overrides=OVERRIDES, prompt=PROMPTS, seed=SEEDS)
def test_a_row_is_the_job_or_the_mistake_of_a_request(
    shared: CatalogJobs, overrides: dict[str, Any], prompt: Any, seed: int
) -> None:
    expected: VideoJob | str
    try:
        expected = build_job(load_pipeline("toyworld", list(overrides.items())), prompt, seed)
    except UserError as error:
        expected = str(error)
    values = {"prompt" if isinstance(prompt, str) else "prompts": prompt, "seed": seed, **overrides}
    for _ in range(2):
        if isinstance(expected, str):
            assert mistake(values, shared) == expected
        else:
            (made,) = jobs_of(values, shared)
            assert made.job == expected
            assert made.job.model_dump_json() == expected.model_dump_json()
            assert made.job.specification_hash == in_full(expected)
            assert made.job.latents_hash == in_full(expected, of_latents=True)
            assert made.name == video_name(expected)
            assert made.group == group_of(expected)


def test_a_copy_with_another_pipeline_has_another_hash() -> None:
    """The part of a hash that is kept is the pipeline's, not the job's."""
    job = job_of({"prompt": PROMPT})
    spec = job.pipeline.model_copy(update={"method": "freenoise"})
    other = job.model_copy(update={"pipeline": spec})
    assert other.specification_hash == in_full(other) != job.specification_hash == in_full(job)


def test_rows_alike_but_for_prompt_and_seed_are_checked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = []

    def counted(*args: Any) -> VideoJob:
        checked.append(args)
        return build_job(*args)

    monkeypatch.setattr(catalog, "build_job", counted)
    rows = CatalogJobs("toyworld")
    for index in range(50):
        values = {"prompt": f"a ball {index}", "seed": index, "name": f"n{index}", "fps": index % 2}
        with suppress(UserError):
            rows.jobs(CatalogRow(1, values))
    # fps = 0 is refused before a job is made of it.
    assert len(checked) == 1


def test_values_of_tables_are_read_as_the_specification_does() -> None:
    typed = job_of(
        {
            "prompts": [{"at_frame": 0, "text": "a"}, {"at_frame": 90, "text": "b"}],
            "seed": 3,
            "num_frames": 289,
            "fps": 12.5,
            "glc": {"vmcr": False, "abam": {"weight": 0.5}},
            "glc.global_path": False,
            "encode.frames": [0, 49],
            "sampling.scheduler_options.clip_sample": True,
            "sampling": {"negative_prompt": "no: people", "guidance_scale_2": None},
        }
    )
    as_text = job_of(
        {
            "prompts": '[{"at_frame": 0, "text": "a"}, {"at_frame": 90, "text": "b"}]',
            "seed": "3",
            "num_frames": "289",
            "fps": "12.5",
            "glc.vmcr": "false",
            "glc.abam.weight": "0.5",
            "glc.global_path": "false",
            "encode.frames": "[0, 49]",
            "sampling.scheduler_options.clip_sample": "true",
            "sampling.negative_prompt": "no: people",
        }
    )
    assert as_text == typed
    spec = typed.pipeline
    assert (typed.seed, spec.video.num_frames, spec.video.fps) == (3, 289, 12.5)
    assert (spec.glc.vmcr.enabled, spec.glc.abam.weight, spec.glc.global_path) == (
        False,
        0.5,
        False,
    )
    assert spec.encode.frames == (0, 49)
    assert spec.sampling.scheduler_options == {"clip_sample": True}
    assert job_of({"prompt": "a", "seed": 3.0, "name": None}).seed == 3


def test_row_before_command_before_pipeline(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_pipeline.parent)
    command = CatalogJobs("toyworld", [("sampling.num_steps", 7), ("video.fps", 9)], seed=4)
    job = job_of({"prompt": PROMPT, "steps": 5}, command)
    assert (job.pipeline.sampling.num_steps, job.pipeline.video.fps, job.seed) == (5, 9, 4)
    own = job_of({"pipeline": tiny_pipeline.name, "seed": 1}, command)
    assert (own.prompt, own.seed, own.pipeline.video.num_frames) == (PROMPT, 1, 33)
    assert (own.pipeline.sampling.num_steps, own.pipeline.video.fps) == (7, 9)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"promt": "a"},
            "unknown key 'promt'; allowed are prompt, prompts, name, seed, pipeline, priority, "
            "num_frames, fps, steps, guidance_scale, method and the keys of a pipeline file by "
            "their paths, such as glc.vmcr or encode.crf; did you mean prompt?",
        ),
        (
            {"prompt": "a", "workers": 3},
            "key 'workers': where the work is done is a matter of the whole run, not of a row; "
            "take it out, and give the command --workers N or --set resources.KEY=VALUE",
        ),
        (
            {"seed": 1},
            'the row does not say what its video shows; give prompt, for example "a red ball '
            'rolls over the meadow at day", or prompts, a list such as [{"at_frame": 0, "text": '
            '"day"}, {"at_frame": 73, "text": "night"}]',
        ),
        (
            {"prompt": "a", "prompts": []},
            "prompt and prompts are both given, and a video has one of them; leave one out",
        ),
        (
            {"prompts": "day, night"},
            'prompts = \'day, night\': must be a list such as [{"at_frame": 0, "text": "day"}, '
            '{"at_frame": 73, "text": "night"}]',
        ),
        (
            {"prompt": "a", "fps": 8, "video": {"fps": 9}},
            "fps and video.fps set the same key; leave one out",
        ),
        (
            {"prompt": "a", "steps": "many"},
            "steps = 'many': sampling.num_steps = 'many' is not allowed: input should be a valid "
            "integer, unable to parse string as an integer (Denoising steps)",
        ),
        (
            {"prompt": "a", "glc.vmcr": "[fal"},
            "glc.vmcr = '[fal': is not valid YAML; quote it",
        ),
        ({"prompt": 5}, "prompt = 5: must be a text; write it in quotes"),
        ({"prompt": "a", "seed": 1.5}, "seed = 1.5: must be a whole number; leave it out for 0"),
        ({"prompt": "a", "seed": True}, "seed = True: must be a whole number; leave it out for 0"),
        (
            {"prompt": "a", "priority": "101"},
            "priority = 101: must be from -100 to 100, of which higher goes first; leave it out "
            "for 0",
        ),
        (
            {"prompt": "\ud800"},
            "--prompt '\\ud800': half a surrogate pair is no text; write the letter itself, in "
            "UTF-8",
        ),
        (
            {"prompt": "a", "encode.crf": 99},
            "encode.crf = 99: libx264 takes 0 (best) to 51 (smallest); leave the key out for 18",
        ),
        (
            {"prompt": "a", "pipeline": "toyword"},
            "--pipeline toyword: unknown pipeline; the known ones are ",
        ),
    ],
)
def test_rows_that_are_no_video(values: dict[str, Any], text: str) -> None:
    assert mistake(values).startswith(text)
    assert mistake(values).isprintable()


@pytest.mark.parametrize("key", ["resources.denoisers.count", "resources"])
def test_a_row_does_not_say_where_the_work_is_done(key: str) -> None:
    assert mistake({"prompt": "a", key: 3}).startswith(f"key '{key}': where the work is done is a")
    nested = {"prompt": "a", "resources": {"denoisers": {"count": 3}}}
    assert mistake(nested).startswith("key 'resources.denoisers.count': where the work is done")


@pytest.mark.parametrize("content", ['{"_class_name": "Au', "[]", "{}"])
def test_a_row_with_a_model_that_was_copied_halfway_is_a_row_with_a_mistake(
    content: str, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(TOYWORLD, tmp_path / "half"))
    config = folder / "vae" / "config.json"
    config.write_text(content)
    own = tiny_pipeline.with_name("half.yaml")
    own.write_text(f"model: {{path: {folder}}}")
    monkeypatch.chdir(own.parent)
    rows = CatalogJobs("toyworld")
    assert mistake({"prompt": "a", "pipeline": own.name}, rows).startswith(f"model.path: {config} ")
    assert jobs_of({"prompt": "a"}, rows)


def test_a_row_without_an_ffmpeg_that_works_is_a_row_with_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = shutil.which("false")
    assert program is not None
    monkeypatch.setenv("GLC_RAY_FFMPEG", program)
    assert mistake({"prompt": "a"}).startswith(f"{program} -encoders failed with exit code 1")


def test_columns_of_a_whole_file() -> None:
    rows = CatalogJobs("toyworld")
    rows.check_columns([*COLUMNS, "glc.vmcr", "sampling.scheduler_options.whatever", "encode"])
    for column, close in [("glc.vmrc", "glc.vmcr"), ("crf", "encode.crf"), ("promts", "prompts")]:
        with pytest.raises(UserError) as error:
            rows.check_columns(["prompt", column])
        assert str(error.value).startswith(f"unknown column {column!r}; allowed are prompt, ")
        assert str(error.value).endswith(f"; did you mean {close}?")


def test_a_command_that_no_row_can_mend() -> None:
    with pytest.raises(UserError, match=r"unknown key glc\.vmrc"):
        CatalogJobs("toyworld", [("glc.vmrc", False)])
    with pytest.raises(UserError, match="--samples-per-prompt 0: must be 1 or more"):
        CatalogJobs("toyworld", samples_per_prompt=0)


def test_samples_have_seeds_and_names_of_their_own() -> None:
    rows = CatalogJobs("toyworld", samples_per_prompt=3, naming="vbench")
    made = jobs_of({"prompt": "A cat: 雪, at 5/8.", "seed": 7, "priority": 2}, rows)
    assert [video.job.seed for video in made] == [7, 8, 9]
    assert [video.name for video in made] == [f"A cat- 雪, at 5-8-{index}" for index in range(3)]
    assert {(video.priority, video.line) for video in made} == {(2, 3)}
    named = jobs_of({"prompt": "a", "name": "Mine"}, rows)
    assert [video.name for video in named] == ["Mine-0", "Mine-1", "Mine-2"]
    plain = jobs_of({"prompt": "a"}, CatalogJobs("toyworld", samples_per_prompt=2))
    assert [video.name for video in plain] == [video_name(video.job) for video in plain]
    assert mistake({"prompt": "a", "seed": 2**63 - 2}, rows).startswith(f"--seed {2**63}: must be")


@pytest.mark.parametrize(
    "prompt", ["", "...", "\0", "/etc/passwd", "é" * 300, "a\u202eb", "C:\\x", "\x85.0"]
)
def test_generated_names_are_names_that_a_person_may_give(prompt: str) -> None:
    name = vbench_name(prompt, 4)
    assert checked_name(name) == name
    assert name.endswith("-4")


@given(prompt=st.text(max_size=300), index=st.integers(0, 99))
def test_whatever_the_prompt_its_name_is_safe(prompt: str, index: int) -> None:
    name = vbench_name(prompt, index)
    assert checked_name(name) == name
    assert (Path("/videos") / name).parent == Path("/videos")


def test_long_prompts_that_begin_alike_have_names_of_their_own() -> None:
    first, second = ("a red ball " * 30 + end for end in ("rolls", "floats"))
    assert vbench_name(first, 0) != vbench_name(second, 0)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "is empty"),
        ("../escape", "'/' is not allowed"),
        ("a\\b", "'\\\\' is not allowed"),
        ("a\nb", "'\\n' is not allowed"),
        ("a:b", "':' is not allowed"),
        ("gpj\u202e.mp4", "'\\u202e' is not allowed"),
        ("\ud800", "'\\ud800' is not allowed"),
        (".hidden", "begins or ends with a dot or a space"),
        ("..", "begins or ends with a dot or a space"),
        ("a ", "begins or ends with a dot or a space"),
        ("NUL", "is the name of a device on Windows"),
        ("com1.take2", "is the name of a device on Windows"),
        ("é" * 101, "has 202 bytes"),
        ("a.mp4", "ends in .mp4"),
        ("a.take2.WebM", "ends in .WebM"),
    ],
)
def test_names_that_are_no_file_names(name: str, what: str) -> None:
    assert mistake({"prompt": "a", "name": name}) == (
        f"name = {name!r}: {what}; a name is at most 200 bytes of text of any script, without "
        '/ \\ : * ? " < > | and control characters, without dots and spaces at its beginning and '
        "end, and without the suffix of its file"
    )


def test_no_two_names_are_one_file_in_whatever_formats() -> None:
    """A folder of frames has no suffix: ``a.mp4`` would lie where the video ``a`` does."""
    suffixes = {format.suffix for format in FORMATS.values()}
    assert suffixes == {*SUFFIXES, ""}
    names = ("a", "a.mp", "a mp4", "a.mp4 b", "a.png", "mp4")
    for name in names:
        (made,) = jobs_of({"prompt": "a", "name": name})
        assert made.name == name
    assert len({name + suffix for name in names for suffix in suffixes}) == 7 * len(names)


def test_names_keep_their_script_in_one_form() -> None:
    for name in ("雪の上の猫 1.5", "Café – naïve", "می‌خواهم", "👩‍🚀", "é" * 100):
        (made,) = jobs_of({"prompt": "a", "name": unicodedata.normalize("NFD", name)})
        assert made.name == unicodedata.normalize("NFC", name)
    assert clash_key("STRASSE É") == clash_key(unicodedata.normalize("NFD", "straße é"))
    assert clash_key("a") != clash_key("b")


def test_what_actors_share_makes_a_group() -> None:
    def group(**values: Any) -> str:
        (made,) = jobs_of({"prompt": "a", **values})
        return made.group

    alike = [{}, {"seed": 4}, {"num_frames": 289}, {"method": "freenoise"}, {"steps": 3}]
    assert len({group(**values) for values in [*alike, {"encode.crf": 3}, {"priority": 3}]}) == 1
    other = [
        "model.dtype",
        "optimize.compile",
        "denoise.batch_size",
        "fuse.threads",
        "decode.tiling",
    ]
    choices = ["bfloat16", True, 2, 3, "off"]
    groups = {group(**{key: value}) for key, value in zip(other, choices, strict=True)}
    assert len(groups | {group()}) == 6


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines" / "catalogs").iterdir()), ids=str)
def test_example_catalogs(
    file: Path, tiny_model: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    if file.stem == "toyworld":
        rows = CatalogJobs("toyworld")
    else:
        # A small model of the kind; its clips are shorter, and everything else is the same.
        rows = CatalogJobs("cogvideox-2b", [("model.path", str(tiny_model("sincos")))])
    made = []
    for row in read_rows(str(file), rows.check_columns):
        assert isinstance(row, CatalogRow), row
        made += rows.jobs(row)
    assert len({clash_key(video.name) for video in made}) == len(made) > 2
    for video in made:
        warn_of_mixed_prompts(video.job)
        if file.stem == "toyworld":
            warn_of_unknown_words(video.job)
    assert caplog.messages == []
