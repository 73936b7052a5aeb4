"""Latents as a file: streamed, checked as they are read, refused when they are damaged."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from glc_ray.protocols import UserError
from glc_ray.store import latents as latents_module
from glc_ray.store.latents import load_latents, read_header, save_latents
from glc_ray.store.output import Output

METADATA = {"job": '{"prompt": "a red ball, 赤い"}', "specification_hash": "0123456789abcdef" * 4}
PATH = ".work/0123456789abcdef/latents.safetensors"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # 3 of the frames below.
    monkeypatch.setattr(latents_module, "_CHUNK_BYTES", 3 * 4 * 4 * 6 * 5)


def _latents(num_frames: int = 11) -> Tensor:
    return torch.randn(1, num_frames, 4, 6, 5, generator=torch.Generator().manual_seed(num_frames))


@pytest.fixture
def local(tmp_path: Path) -> Output:
    output = Output(str(tmp_path / "out"))
    save_latents(output, PATH, _latents(), METADATA)
    return output


def _file(output: Output) -> Path:
    return Path(output.location) / PATH


def _refusal(output: Output, frames: slice | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_latents(output, PATH, frames=frames)
    text = str(error.value)
    assert text.startswith(f"{output.uri(PATH)}: ")
    return text.removeprefix(f"{output.uri(PATH)}: ")


def test_what_is_saved_is_loaded(output: Output) -> None:
    latents = _latents()
    size = save_latents(output, PATH, latents, METADATA)
    assert output.size(PATH) == size
    loaded, header = load_latents(output, PATH)
    assert torch.equal(loaded, latents)
    assert header.shape == (1, 11, 4, 6, 5)
    assert header.metadata["num_latent_frames"] == "11"
    assert METADATA.items() <= header.metadata.items()
    assert read_header(output, PATH) == header


def test_the_library_reads_what_is_written_here(local: Output) -> None:
    assert torch.equal(load_file(_file(local))["latents"], _latents())
    with safetensors.safe_open(_file(local), "pt") as file:
        assert METADATA.items() <= file.metadata().items()


def test_latents_that_are_not_contiguous(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    latents_BCFHW = _latents().transpose(1, 2).contiguous()
    save_latents(output, PATH, latents_BCFHW.transpose(1, 2), {})
    assert torch.equal(load_latents(output, PATH)[0], _latents())


def test_a_path_or_a_uri_instead_of_an_output(output: Output) -> None:
    save_latents(output, PATH, _latents(), METADATA)
    place, *options = output.location.split("?")
    loaded, _ = load_latents(None, "?".join([f"{place}/{PATH}", *options]))
    assert torch.equal(loaded, _latents())


def test_a_relative_path(local: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_file(local).parent)
    assert torch.equal(load_latents(None, "latents.safetensors")[0], _latents())


@given(num_frames=st.integers(1, 13), data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_range_of_frames(tmp_path: Path, num_frames: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, num_frames - 1))
    last = data.draw(st.integers(first + 1, num_frames))
    output = Output(str(tmp_path))
    save_latents(output, PATH, _latents(num_frames), {})
    loaded, header = load_latents(output, PATH, frames=slice(first, last))
    assert torch.equal(loaded, _latents(num_frames)[:, first:last])
    assert header.shape[1] == num_frames


def test_a_range_on_s3_reads_that_range_alone(s3_output: Output) -> None:
    save_latents(s3_output, PATH, _latents(), {})
    assert torch.equal(load_latents(s3_output, PATH, frames=slice(4, 8))[0], _latents()[:, 4:8])


@pytest.mark.parametrize("frames", [slice(0, 12), slice(-1, 3), slice(5, 5)])
def test_frames_that_are_not_there(local: Output, frames: slice) -> None:
    assert _refusal(local, frames) == (
        f"has no latent frames {frames.start} to {frames.stop - 1}; choose a range within 0 to 10"
    )


def test_no_file(local: Output) -> None:
    _file(local).unlink()
    assert _refusal(local) == (
        "there is no such file; run the same command again, and it is made anew"
    )


def _flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_a_corrupted_frame(local: Output) -> None:
    header = read_header(local, PATH)
    _flip(_file(local), header.data_start + 4 * header.frame_bytes + 7)
    assert _refusal(local) == (
        "latent frames 3 to 5 are corrupted (their checksum differs); run the same command again, "
        "and it is made anew"
    )
    assert _refusal(local, slice(5, 7)).startswith("latent frames 3 to 5 are corrupted")
    # The others can be had.
    assert torch.equal(load_latents(local, PATH, frames=slice(6, 11))[0], _latents()[:, 6:])


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_passes(tmp_path: Path, position: float, bit: int) -> None:
    output = Output(str(tmp_path))
    save_latents(output, PATH, _latents(), METADATA)
    file = tmp_path / PATH
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        loaded, header = load_latents(output, PATH)
    except UserError:
        return
    # A space of JSON became another kind of blank.
    assert torch.equal(loaded, _latents())
    assert METADATA.items() <= header.metadata.items()


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_torn_file_passes(tmp_path: Path, share: float) -> None:
    output = Output(str(tmp_path))
    save_latents(output, PATH, _latents(), METADATA)
    file = tmp_path / PATH
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"cut short|not a safetensors file"):
        load_latents(output, PATH)


def test_a_torn_file_says_how_much_there_is(local: Output) -> None:
    size = _file(local).stat().st_size
    _file(local).write_bytes(_file(local).read_bytes()[:-100])
    assert _refusal(local).startswith(f"cut short ({size - 100} bytes, where {size} are right); ")
    _file(local).write_bytes(_file(local).read_bytes() + b"x" * 200)
    assert _refusal(local).startswith(f"too long ({size + 100} bytes, where {size} are right); ")


def test_foreign_files(local: Output) -> None:
    _file(local).write_bytes(b"\x1aE\xdf\xa3" * 1000)
    assert _refusal(local).startswith("not a safetensors file; ")
    save_file({"latents": _latents()}, _file(local))
    assert _refusal(local).startswith("not a file of latents that glc-ray wrote; ")
    save_file({"weight": torch.zeros(3)}, _file(local), metadata={"format": "pt"})
    assert _refusal(local).startswith("not a file of latents that glc-ray wrote; ")
    _file(local).write_bytes((40).to_bytes(8, "little") + json.dumps([1]).ljust(40).encode())
    assert _refusal(local).startswith("not a file of latents that glc-ray wrote; ")


def test_another_version(local: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents_module, "FORMAT_VERSION", "2")
    save_latents(local, PATH, _latents(), METADATA)
    monkeypatch.undo()
    assert _refusal(local).startswith(
        "latents of format version 2, where this glc-ray reads version 1; "
    )


@pytest.mark.parametrize(
    "latents",
    [torch.zeros(1, 2, 3, 4), torch.zeros(2, 2, 3, 4, 4), torch.zeros(1, 2, 3, 4, 4).half()],
)
def test_other_tensors_are_refused(local: Output, latents: Tensor) -> None:
    with pytest.raises(ValueError, match=r"latents must be \(1, K, C, H, W\) float32, not"):
        save_latents(local, PATH, latents, {})


def test_memory_of_a_chunk_and_not_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents_module, "_CHUNK_BYTES", 1 << 20)
    # Not contiguous, so that it cannot be written from where it lies. tracemalloc counts what NumPy
    # and Python allocate; the tensors here are NumPy's for that.
    array = np.zeros((1, 8, 64, 64, 64), np.float32)
    latents = torch.from_numpy(array).transpose(1, 2)
    output = Output(str(tmp_path))
    tracemalloc.start()
    save_latents(output, PATH, latents, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    load_latents(output, PATH, frames=slice(20, 24))
    _, peak_of_range = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.nbytes == 8 << 20
    assert peak < 3 << 20
    assert peak_of_range < 3 << 20
