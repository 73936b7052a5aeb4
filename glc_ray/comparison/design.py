"""The videos of a comparison: every variant with every length, prompt and seed."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from glc_ray.catalog import CatalogJobs
from glc_ray.comparison.variants import Variant
from glc_ray.protocols import UserError
from glc_ray.store.catalog import CatalogRow
from glc_ray.store.output import Output
from glc_ray.store.storage import expanded

_PROMPT_LENGTH = 60


@dataclass(frozen=True)
class Case:
    """What all variants are asked for: videos of one case are compared with each other."""

    prompt: str
    seed: int
    num_frames: int

    @property
    def slug(self) -> str:
        """A part of file names that no other case has: ``a-red-ball-1f3c9a-145f-s0``."""
        words = unicodedata.normalize("NFC", self.prompt).lower()
        words = re.sub(r"[^\w]+|_+", "-", words).strip("-")
        while len(words.encode()) > _PROMPT_LENGTH:
            words = words[:-1]
        digest = hashlib.sha256(self.prompt.encode(errors="surrogatepass")).hexdigest()[:6]
        return f"{words}-{digest}-{self.num_frames}f-s{self.seed}".lstrip("-")


@dataclass(frozen=True)
class Cell:
    """A video that is asked for."""

    case: Case
    variant: Variant
    id: str
    """Of the video in the manifest. Variants that come to the same specification share one."""

    @property
    def name(self) -> str:
        """Of its files."""
        return cell_name(self.case, self.variant)


@dataclass(frozen=True)
class Design:
    """What is compared."""

    variants: tuple[Variant, ...]
    """The first is what the others are compared with."""
    cases: tuple[Case, ...]
    """By length, then prompt, then seed."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """In frames, as asked for."""
        return tuple(dict.fromkeys(case.num_frames for case in self.cases))

    def rows(self) -> Iterator[CatalogRow]:
        """A catalog: case by case, so that what can be compared is done early."""
        for line, (case, variant) in enumerate(product(self.cases, self.variants), start=1):
            values = {
                "name": cell_name(case, variant),
                "prompt": case.prompt,
                "seed": case.seed,
                "num_frames": case.num_frames,
                "method": variant.method,
                **dict(variant.settings),
            }
            yield CatalogRow(line, values)

    def cells(self, jobs: CatalogJobs) -> list[Cell]:
        """The videos, in the order of the catalog.

        Args:
            jobs: with the pipeline and the options that the catalog is rendered with.

        Raises:
            UserError: one cannot be rendered; the message names the variant.
        """
        made = []
        for row, (case, variant) in zip(
            self.rows(), product(self.cases, self.variants), strict=True
        ):
            try:
                (entry,) = jobs.jobs(row)
            except UserError as error:
                raise UserError(f"--methods {variant.name}: {error}") from None
            made.append(Cell(case, variant, entry.job.specification_hash[:16]))
        return made

    def write(self, place: Output, path: str) -> None:
        """Store the catalog as JSON lines."""
        lines = (json.dumps(row.values, ensure_ascii=False) for row in self.rows())
        place.put_bytes("".join(f"{line}\n" for line in lines).encode(), path)


def cell_name(case: Case, variant: Variant) -> str:
    """Of a video's files."""
    return f"{case.slug}-{variant.slug}"


def design(
    variants: Sequence[Variant],
    prompts: Sequence[str],
    seeds: Sequence[int],
    lengths: Sequence[int],
) -> Design:
    """Everything with everything; what is there twice counts once.

    Raises:
        UserError: no prompt, or an empty one.
    """
    texts = list(dict.fromkeys(prompt.strip() for prompt in prompts))
    if not texts or not all(texts):
        raise UserError(
            "--prompt: says what the videos show, and is missing or empty; give one or more, for "
            'example --prompt "a red ball bounces over the meadow at day", or --prompts-file FILE'
        )
    cases = product(dict.fromkeys(lengths), texts, dict.fromkeys(seeds))
    return Design(
        tuple(variants),
        tuple(Case(prompt, seed, num_frames) for num_frames, prompt, seed in cases),
    )


def read_prompts(path: str) -> list[str]:
    """A prompt a line; blank lines and those that begin with ``#`` are none.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or has no prompt.
    """
    try:
        lines = expanded(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"--prompts-file {path}: is not UTF-8; store it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"--prompts-file {path}: cannot be read ({error.strerror}); give a text file with a "
            "prompt a line"
        ) from None
    prompts = [line.strip() for line in lines]
    prompts = [prompt for prompt in prompts if prompt and not prompt.startswith("#")]
    if not prompts:
        raise UserError(f"--prompts-file {path}: has no prompts; write one a line")
    return prompts
