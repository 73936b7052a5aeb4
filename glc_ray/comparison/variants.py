"""Methods and their ablations by name: ``glc``, ``glc-vmcr``, ``glc:annealed+stride=3``.

    METHOD[:PRESET][-PART]...[+KEY=VALUE]...

``PRESET`` is one of gamma's, ``-PART`` turns a part of GLC off, and ``+KEY=VALUE`` sets a key of
the method's own section of the pipeline file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from glc_ray.config import METHODS, GammaSpec
from glc_ray.foreign import read_yaml
from glc_ray.protocols import UserError

_PRESETS: tuple[str, ...] = get_args(GammaSpec.model_fields["preset"].annotation)
_PARTS = {
    "glcd": ("glc.global_path", "glc.local_path"),
    "global_path": ("glc.global_path",),
    "local_path": ("glc.local_path",),
    "noise_reinit": ("glc.noise_reinit",),
    "abam": ("glc.abam",),
    "vmcr": ("glc.vmcr",),
}
"""The keys that are false without a part of GLC."""

ABLATION = (
    "glc",
    "glc:annealed",
    "glc-glcd",
    "glc-global_path",
    "glc-local_path",
    "glc-noise_reinit",
    "glc-abam",
    "glc-vmcr",
    "direct",
    "gen_l_video",
    "freenoise",
    "freelong",
)
"""What the paper compares, with gamma's other preset and without ABAM on top."""

_HEAD = re.compile(r"([a-z_]+)(?::([a-z_]*))?((?:-[a-z_]*)*)")
_SETTING = re.compile(r"\+(?=[a-z_])")
_NOT_FOR_FILES = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Variant:
    """A method with settings of its own."""

    name: str
    """As a person calls it."""
    method: str
    settings: tuple[tuple[str, Any], ...]
    """Dotted keys of the pipeline file, in order, later ones count."""

    @property
    def slug(self) -> str:
        """The name as a part of file names: ``glc_annealed_stride_3``."""
        return _NOT_FOR_FILES.sub("_", self.name)


def parse_variants(names: Iterable[str]) -> tuple[Variant, ...]:
    """Variants by name, the first being what the others are compared with; ``ablation`` stands for
    all of ``ABLATION``.

    Raises:
        UserError: none, one that is not known, or one twice.
    """
    given = [name.strip() for name in names if name.strip()]
    given = [one for name in given for one in (ABLATION if name == "ablation" else (name,))]
    variants = tuple(map(parse_variant, given))
    if not variants:
        raise UserError(
            f"--methods: names nothing; give methods such as glc,direct of {', '.join(METHODS)}, "
            f"or ablations such as glc-{', glc-'.join(_PARTS)}"
        )
    slugs: dict[str, str] = {}
    for variant in variants:
        if variant.slug in slugs:
            raise UserError(
                f"--methods {variant.name}: is there before, as {slugs[variant.slug]}; leave one "
                "out"
            )
        slugs[variant.slug] = variant.name
    return variants


def parse_variant(name: str) -> Variant:
    """``glc:annealed-vmcr+stride=3`` as a method with settings.

    Raises:
        UserError: there is no such method, preset or part, or a setting is not ``KEY=VALUE``.
            Whether there is such a key shows when the job is made.
    """
    head, *pairs = _SETTING.split(name)
    match = _HEAD.fullmatch(head)
    method = match[1] if match else head
    if match is None or method not in METHODS:
        raise UserError(
            f"--methods {name}: unknown method {method!r}; the known ones are "
            f"{', '.join(METHODS)}, and of glc those with another preset of gamma, such as "
            f"glc:annealed, or without a part, such as glc-vmcr{_close(method, METHODS)}"
        )
    preset, parts = match[2], match[3].split("-")[1:]
    if method != "glc" and (preset is not None or parts):
        raise UserError(
            f"--methods {name}: presets (:) and parts (-) are glc's; a key of {method} is set by "
            f"+KEY=VALUE, as in gen_l_video+stride=2"
        )
    settings: list[tuple[str, Any]] = []
    if preset is not None:
        _check(name, "preset of gamma", preset, _PRESETS)
        settings.append(("glc.gamma.preset", preset))
    for part in parts:
        _check(name, "part of glc", part, tuple(_PARTS))
        settings += [(key, False) for key in _PARTS[part]]
    settings += [_setting(name, method, pair) for pair in pairs]
    return Variant(name, method, tuple(settings))


def _setting(name: str, method: str, pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise UserError(
            f"--methods {name}: expected +KEY=VALUE with a key of {method}, not +{pair}; for "
            "example glc+stride=3"
        )
    try:
        return f"{method}.{key}", read_yaml(value)
    except ValueError:
        raise UserError(
            f"--methods {name}: the value {value!r} is not valid YAML; write it as in "
            "glc+vmcr.weight=1.0e-4"
        ) from None


def _check(name: str, what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(
            f"--methods {name}: unknown {what} {value!r}; the known ones are {', '.join(known)}"
            f"{_close(value, known)}"
        )


def _close(value: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
