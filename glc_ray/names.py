"""Names of videos, which are names of files everywhere: no path, no surprise on any system."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from glc_ray.protocols import UserError

LONGEST_BYTES = 200
"""Of a name in UTF-8: file systems allow 255, of which a suffix and a number take some."""

_RESERVED = '/\\:*?"<>|'
SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".webp", ".gif")
"""Of the files that videos are stored as; a folder of frames has its video's bare name."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
_BIDIRECTIONAL = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ENDS = re.compile(r"\A[.\s]+|[.\s]+\Z")
_ALLOWED = (
    f"a name is at most {LONGEST_BYTES} bytes of text of any script, without {' '.join(_RESERVED)} "
    "and control characters, without dots and spaces at its beginning and end, and without the "
    "suffix of its file"
)


def checked_name(name: str) -> str:
    """A name that a person gave, in Unicode's composed form (NFC).

    Raises:
        UserError: it cannot be the name of a file on every system.
    """
    name = unicodedata.normalize("NFC", name)
    if mistake := _mistake(name):
        raise UserError(f"name = {name!r}: {mistake}; {_ALLOWED}")
    return name


def _mistake(name: str) -> str | None:
    if not name:
        return "is empty"
    if unsafe := [letter for letter in name if _is_unsafe(letter)]:
        return f"{unsafe[0]!r} is not allowed"
    if _ENDS.search(name):
        return "begins or ends with a dot or a space"
    if _DEVICES.fullmatch(name):
        return "is the name of a device on Windows"
    if name.casefold().endswith(SUFFIXES):
        # videos/a.mp4 would be the file of a and the folder of a.mp4.
        return f"ends in {name[name.rindex('.') :]}"
    if (size := len(name.encode())) > LONGEST_BYTES:
        return f"has {size} bytes"
    return None


def vbench_name(prompt: str, index: int) -> str:
    """VBench's name of the sample ``index`` of a prompt: ``{prompt}-{index}``.

    What a file name cannot hold becomes a hyphen. A prompt that is too long is cut, and its digest
    tells it from others with the same beginning; VBench cannot find it.
    """
    text = _ENDS.sub("", unicodedata.normalize("NFC", prompt))
    text = "".join("-" if _is_unsafe(letter) else letter for letter in text)
    end = f"-{index}"
    if not text or len(text.encode()) + len(end) > LONGEST_BYTES:
        digest = hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()[:8]
        end = f"-{digest}{end}"
        text = text.encode()[: LONGEST_BYTES - len(end)].decode(errors="ignore")
    return text + end if text else end.lstrip("-")


def clash_key(name: str) -> str:
    """Equal for names that are one file somewhere: most desktops do not tell cases apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def name_key(name: str) -> int:
    """64-bit digest of ``clash_key``: of millions of names two alike are as good as none."""
    return int.from_bytes(hashlib.blake2b(clash_key(name).encode(), digest_size=8).digest(), "big")


def _is_unsafe(letter: str) -> bool:
    if letter.isascii():
        return letter in _RESERVED or letter < " " or letter == "\x7f"
    return unicodedata.category(letter) in _CONTROL or bool(_BIDIRECTIONAL.match(letter))
