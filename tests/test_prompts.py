"""One prompt or many: every door reads the same timeline, and every mistake shows itself."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.config import PipelineSpec, TimedPrompt
from glc_ray.pipeline_file import load_pipeline
from glc_ray.prompts import from_command_line, in_one_line, timeline
from glc_ray.protocols import UserError

DAY, NIGHT = "a red ball at day", "a red ball at night"
EXAMPLE = (
    '; for example --prompt "0: a red ball rolls over the meadow at day" '
    '--prompt "73: a red ball rolls over the sea at night"'
)
YAML_EXAMPLE = (
    "; for example prompts: [{at_frame: 0, text: a red ball rolls over the meadow at day}, "
    "{at_frame: 73, text: a red ball rolls over the sea at night}]"
)
texts = st.text(min_size=1).filter(lambda text: text.strip() and not text[0].isdigit())


def pairs(prompts: tuple[TimedPrompt, ...]) -> list[tuple[int, str]]:
    return [(prompt.at_frame, prompt.text) for prompt in prompts]


def pipeline(prompt: str | None = "x", prompts: Any = ()) -> PipelineSpec:
    return load_pipeline("toyworld", [("prompt", prompt), ("prompts", prompts)])


def command_line(*values: str) -> list[tuple[int, str]]:
    return pairs(timeline(pipeline(), from_command_line(values)))


def message(prompt: Any, spec: PipelineSpec | None = None) -> str:
    with pytest.raises(UserError) as error:
        timeline(spec or pipeline(), prompt)
    return str(error.value)


@pytest.mark.parametrize("text", ["caf\udce9 ball", "\ud800"])
def test_half_a_letter_is_refused(text: str) -> None:
    expected = f"--prompt {text!r}: half a surrogate pair is no text; write the letter itself, in"
    assert message(text).startswith(expected)
    assert message([(0, DAY), (73, text)]).startswith(expected)
    assert message(None, pipeline(text)).startswith(expected)
    with pytest.raises(UserError, match="half a surrogate pair"):
        command_line(f"0: {text}")


def test_a_frame_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(UserError) as error:
        command_line("9" * 5_000 + ": x")
    assert str(error.value).startswith(f"--prompt '{'9' * 40}...': the frame has 5000 digits; give")
    assert len(str(error.value)) < 400


def test_command_line() -> None:
    values = ["0: a red ball at day", " 73:a red ball: at night "]
    assert command_line(*values) == [(0, DAY), (73, "a red ball: at night")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (DAY, DAY),
        (f" {DAY}\n", DAY),
        (f"0: {DAY}", DAY),
        (f"0:{DAY}", DAY),
        ("0:30 on a clock", "0:30 on a clock"),
        ("-1: x", "-1: x"),
    ],
)
def test_a_lone_prompt_is_taken_as_it_is_unless_it_begins_with_a_frame(
    value: str, text: str
) -> None:
    assert command_line(value) == [(0, text)]


def test_a_lone_prompt_of_another_frame_is_a_timeline_that_begins_too_late() -> None:
    with pytest.raises(UserError) as error:
        command_line(f"60: {DAY}")
    assert str(error.value) == (
        f"--prompt '60: {DAY}': the first prompt must be at frame 0, so that every frame has one"
        f"{EXAMPLE}; a text that itself begins with '60:' goes into a pipeline file "
        "(prompt: '...') or to Python's render"
    )
    assert pairs(timeline(pipeline(), f"60: {DAY}")) == [(0, f"60: {DAY}")]


@given(st.lists(st.tuples(st.integers(1, 30), texts), min_size=1, max_size=4))
def test_all_doors_read_the_same_timeline(steps: list[tuple[int, str]]) -> None:
    frames = [sum(step for step, _ in steps[: index + 1]) for index in range(len(steps))]
    asked = [(0, DAY), *zip(frames, (text for _, text in steps), strict=True)]
    mappings = [{"at_frame": frame, "text": text} for frame, text in asked]
    spec = PipelineSpec.model_validate(
        {"name": "mine", "model": {"path": "nowhere"}, "prompts": mappings}
    )
    expected = [(frame, text.strip()) for frame, text in asked]
    assert pairs(timeline(spec, None)) == expected
    assert pairs(timeline(pipeline(), asked)) == expected
    assert pairs(timeline(pipeline(), mappings)) == expected
    assert pairs(timeline(pipeline(), [TimedPrompt(**entry) for entry in mappings])) == expected
    assert command_line(*(f"{frame}: {text}" for frame, text in asked)) == expected


def test_a_request_counts_more_than_the_pipelines_own_prompts() -> None:
    own = pipeline(None, [{"at_frame": 0, "text": DAY}, {"at_frame": 73, "text": NIGHT}])
    assert pairs(timeline(own, None)) == [(0, DAY), (73, NIGHT)]
    assert pairs(timeline(own, "a blue box")) == [(0, "a blue box")]
    assert pairs(timeline(pipeline("y"), [(0, "a"), (9, "b")])) == [(0, "a"), (9, "b")]
    assert pairs(timeline(pipeline("y"), None)) == [(0, "y")]


@pytest.mark.parametrize("values", [(DAY, f"73: {NIGHT}"), (f"0: {DAY}", NIGHT), (DAY, NIGHT)])
def test_one_of_several_without_a_frame(values: tuple[str, str]) -> None:
    shown = next(value for value in values if not value[0].isdigit())
    with pytest.raises(UserError) as error:
        from_command_line(values)
    assert str(error.value) == (
        f"--prompt {shown!r}: expected FRAME: TEXT, as every one of several prompts must say from "
        f"which frame on it counts{EXAMPLE}"
    )


MISTAKES = [
    (
        [(1, "a"), (9, "b")],
        "'1: a': the first prompt must be at frame 0, so that every frame has one",
    ),
    ([(0, "a"), (9, "b"), (9, "c")], "'9: c': frames must rise, and the prompt before it is at "),
    ([(0, "a"), (9, "b"), (8, "c")], "'8: c': frames must rise, and the prompt before it is at "),
    ([(0, "a"), (0, "b")], "'0: b': frames must rise, and the prompt before it is at frame 0"),
    (
        [(0, "a"), (145, "b")],
        "'145: b': the video has 145 frames, 0 to 144; choose a lower frame, or a longer video "
        "with --num-frames",
    ),
    (
        [(0, "a"), (9, "  ")],
        "'9:   ': the text is empty; say what the video shows from frame 9 on",
    ),
    ([(0, "")], "'0: ': the text is empty; say what the video shows from frame 0 on"),
]


@pytest.mark.parametrize(("asked", "text"), MISTAKES)
def test_mistakes_of_a_request(asked: list[tuple[int, str]], text: str) -> None:
    said = message(asked)
    assert said.startswith(f"--prompt {text}")
    assert said.endswith(EXAMPLE)


@pytest.mark.parametrize(("asked", "text"), MISTAKES)
def test_mistakes_of_a_pipeline(asked: list[tuple[int, str]], text: str) -> None:
    own = pipeline(None, [{"at_frame": frame, "text": words} for frame, words in asked])
    said = message(None, own)
    assert said.startswith(f"pipeline toyworld: prompts {text}")
    assert said.endswith(YAML_EXAMPLE)


def test_the_last_frame_may_have_a_prompt_of_its_own() -> None:
    assert command_line("0: a", "144: b") == [(0, "a"), (144, "b")]


def test_the_examples_are_what_they_say() -> None:
    expected = [
        (0, "a red ball rolls over the meadow at day"),
        (73, "a red ball rolls over the sea at night"),
    ]
    options = shlex.split(EXAMPLE.removeprefix("; for example "))
    assert options[::2] == ["--prompt", "--prompt"]
    assert command_line(*options[1::2]) == expected
    prompts = yaml.safe_load(YAML_EXAMPLE.removeprefix("; for example "))["prompts"]
    assert pairs(timeline(pipeline(None, prompts), None)) == expected


def test_no_prompt_at_all() -> None:
    assert message(None, pipeline(None)) == (
        "pipeline toyworld has no prompt of its own; give one, for example "
        '--prompt "a red ball bounces over the meadow at day"'
    )


@pytest.mark.parametrize("prompt", ["", "  \n", []])
def test_empty_prompts(prompt: Any) -> None:
    assert message(prompt, pipeline(None)) == (
        f"--prompt {prompt or ''!r}: the prompt is empty; say what the video shows, for example "
        '--prompt "a red ball bounces over the meadow at day"'
    )


@pytest.mark.parametrize("prompt", [None, "a blue box"])
def test_a_pipeline_with_both(prompt: str | None) -> None:
    both = pipeline("a ball", [{"at_frame": 0, "text": "a box"}])
    assert message(prompt, both) == (
        "pipeline toyworld: prompt = 'a ball' and prompts are both given, and a video has one of "
        "them; take one out, or clear it with --set prompt= or --set prompts=[]"
    )


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (5, "--prompt 5: expected a text or a list of (frame, text), for example [(0, "),
        (b"x", "--prompt b'x': expected a text or a list of (frame, text), for example [(0, "),
        ({0: "a"}, "--prompt {0: 'a'}: expected a text or a list of (frame, text), for example"),
        ([DAY], f"--prompt '{DAY}': an entry of a timeline is (frame, text) or a mapping with"),
        ([(0, "a", "b")], "--prompt (0, 'a', 'b'): an entry of a timeline is (frame, text) or"),
        ([(-1, "a")], "--prompt (-1, 'a'): at_frame = -1 is not allowed: input should be greater"),
        ([("day", "a")], "--prompt ('day', 'a'): at_frame = 'day' is not allowed: input should be"),
        ([(0, 7)], "--prompt (0, 7): text = 7 is not allowed: input should be a valid string"),
        ([{"at_frame": 0}], "--prompt {'at_frame': 0}: the key text is missing; add it"),
    ],
)
def test_what_is_no_timeline_in_python(prompt: Any, text: str) -> None:
    assert message(prompt).startswith(text)


def test_one_line_for_people() -> None:
    lone = (TimedPrompt(at_frame=0, text="a red\nball"),)
    assert in_one_line(lone) == "a red\nball"
    both = (*lone, TimedPrompt(at_frame=73, text="a blue box"))
    assert in_one_line(both) == "0: a red ball | 73: a blue box"
