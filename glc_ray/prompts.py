"""What a video shows: one prompt, or a timeline of them, checked in one place for every front door.

The command line says ``FRAME: TEXT``, Python ``(frame, text)``, YAML ``{at_frame:, text:}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from glc_ray.config import PipelineSpec, TimedPrompt
from glc_ray.pipeline_file import validate
from glc_ray.protocols import UserError

LONGEST = 20_000
"""Characters of all prompts of a video: they go through a command line, a manifest and a page."""

_LONGEST_FRAME = 18
"""Digits of a frame: Python reads no number of thousands of them."""

PromptLike: TypeAlias = str | Sequence[tuple[int, str] | Mapping[str, Any] | TimedPrompt]
"""One prompt for the whole video, or what it shows from which frame on."""

# "0:30 on a clock" is a text: what follows the colon is no new word.
_TIMED = re.compile(r"\s*(\d+)\s*:(?!\d)(.*)", re.DOTALL)
_EXAMPLES = {
    "--prompt": '--prompt "0: a red ball rolls over the meadow at day" '
    '--prompt "73: a red ball rolls over the sea at night"',
    "prompts": "prompts: [{at_frame: 0, text: a red ball rolls over the meadow at day}, "
    "{at_frame: 73, text: a red ball rolls over the sea at night}]",
}

_AS_TEXT = (
    "; a text that itself begins with '{}:' goes into a pipeline file (prompt: '...') or to "
    "Python's render"
)


def from_command_line(values: Sequence[str]) -> PromptLike | None:
    """Read the values of a repeatable ``--prompt``.

    A lone one is the text itself, unless it begins with ``FRAME:``; of several each must.

    Raises:
        UserError: one of several has no frame, or one that is no number of a video.
    """
    if not values:
        return None
    matches = [_TIMED.fullmatch(value) for value in values]
    if len(values) == 1 and matches[0] is None:
        return values[0]
    return [_timed(value, match) for value, match in zip(values, matches, strict=True)]


def _timed(value: str, match: re.Match[str] | None) -> TimedPrompt:
    if match is None:
        raise UserError(
            f"--prompt {value!r}: expected FRAME: TEXT, as every one of several prompts must say "
            f"from which frame on it counts; for example {_EXAMPLES['--prompt']}"
        )
    if len(match[1]) > _LONGEST_FRAME:
        raise UserError(
            f"--prompt '{value.strip()[:40]}...': the frame has {len(match[1])} digits; give one "
            f"that the video has, for example {_EXAMPLES['--prompt']}"
        )
    return TimedPrompt(at_frame=int(match[1]), text=match[2].strip())


def timeline(pipeline: PipelineSpec, prompt: PromptLike | None) -> tuple[TimedPrompt, ...]:
    """What a video shows from which frame on: as asked for, else the pipeline's own.

    Args:
        pipeline: its length, and the prompts where ``prompt`` is None.
        prompt: of the request.

    Returns:
        One prompt or more, the first at frame 0, all below ``video.num_frames``.

    Raises:
        UserError: no prompt, an empty one, one that is no text, or frames that do not start at 0,
            rise and lie within the video; or the pipeline has both ``prompt`` and ``prompts``.
    """
    if pipeline.prompt is not None and pipeline.prompts:
        raise UserError(
            f"pipeline {pipeline.name}: prompt = {pipeline.prompt!r} and prompts are both given, "
            "and a video has one of them; take one out, or clear it with --set prompt= or "
            "--set prompts=[]"
        )
    if prompt is None and pipeline.prompts:
        prompts = _checked(pipeline, pipeline.prompts, f"pipeline {pipeline.name}: ", "prompts")
        return _sound(prompts)
    prompt = pipeline.prompt if prompt is None else prompt
    if prompt is None:
        raise UserError(
            f"pipeline {pipeline.name} has no prompt of its own; give one, for example "
            '--prompt "a red ball bounces over the meadow at day"'
        )
    if not (prompt.strip() if isinstance(prompt, str) else prompt):
        raise UserError(
            f"--prompt {prompt or ''!r}: the prompt is empty; say what the video shows, "
            'for example --prompt "a red ball bounces over the meadow at day"'
        )
    if isinstance(prompt, str):
        return _sound((TimedPrompt(at_frame=0, text=prompt.strip()),))
    prompts = _checked(pipeline, [_entry(item) for item in _entries(prompt)], "", "--prompt")
    return _sound(prompts)


def _sound(prompts: tuple[TimedPrompt, ...]) -> tuple[TimedPrompt, ...]:
    """The prompts, of a fair length and of letters alone (UserError: they are not)."""
    size = sum(len(prompt.text) for prompt in prompts)
    if size > LONGEST:
        raise UserError(
            f"--prompt '{prompts[0].text[:40]}...': {size} characters, of which at most {LONGEST} "
            "are taken; models read some hundred words: say it in fewer"
        )
    for prompt in prompts:
        try:
            prompt.text.encode()
        except UnicodeEncodeError:
            # An escape in JSON or YAML says one, and bytes of a command line that are not UTF-8 do.
            raise UserError(
                f"--prompt {prompt.text!r}: half a surrogate pair is no text; write the letter "
                "itself, in UTF-8"
            ) from None
    return prompts


def in_one_line(prompts: Sequence[TimedPrompt]) -> str:
    """A timeline for people: ``0: a red ball | 73: a blue box``; of one prompt, its text."""
    if len(prompts) == 1:
        return prompts[0].text
    return " | ".join(f"{prompt.at_frame}: {' '.join(prompt.text.split())}" for prompt in prompts)


def _entries(prompt: Any) -> Sequence[Any]:
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        return prompt
    raise UserError(
        f"--prompt {prompt!r}: expected a text or a list of (frame, text), for example "
        '[(0, "a red ball at day"), (73, "a red ball at night")]'
    )


def _entry(item: Any) -> TimedPrompt:
    if isinstance(item, TimedPrompt):
        return item
    keys = item
    if isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 2:
        keys = dict(zip(("at_frame", "text"), item, strict=True))
    if isinstance(keys, Mapping):
        return validate(TimedPrompt, keys, where=f"--prompt {item!r}")
    raise UserError(
        f"--prompt {item!r}: an entry of a timeline is (frame, text) or a mapping with at_frame "
        'and text, for example (73, "a red ball at night")'
    )


def _checked(
    pipeline: PipelineSpec, prompts: Sequence[TimedPrompt], where: str, key: str
) -> tuple[TimedPrompt, ...]:
    """The timeline with its texts stripped; UserError names the first prompt that is wrong."""
    before = None
    for prompt in prompts:
        if mistake := _mistake(prompt, before, pipeline.video.num_frames):
            # A lone one may be a text that only looks like the beginning of a timeline.
            as_text = _AS_TEXT.format(prompt.at_frame) if len(prompts) == 1 else ""
            raise UserError(
                f"{where}{key} '{prompt.at_frame}: {prompt.text}': {mistake}; "
                f"for example {_EXAMPLES[key]}{as_text if prompt.at_frame else ''}"
            )
        before = prompt.at_frame
    return tuple(prompt.model_copy(update={"text": prompt.text.strip()}) for prompt in prompts)


def _mistake(prompt: TimedPrompt, before: int | None, num_frames: int) -> str | None:
    """What is wrong with a prompt that follows the one at frame ``before``, and what is allowed."""
    frame = prompt.at_frame
    if not prompt.text.strip():
        return f"the text is empty; say what the video shows from frame {frame} on"
    if before is None and frame != 0:
        return "the first prompt must be at frame 0, so that every frame has one"
    if before is not None and frame <= before:
        return f"frames must rise, and the prompt before it is at frame {before}"
    if frame >= num_frames:
        return (
            f"the video has {num_frames} frames, 0 to {num_frames - 1}; choose a lower frame, "
            "or a longer video with --num-frames"
        )
    return None
