"""Checkpoints: the same bits come back, or those of the one before, or none; never others."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from glc_ray.store.checkpoint import Checkpoint, delete, load_latest, save
from glc_ray.store.output import Output
from tests.store.bucket_server import BucketServer, denied

VIDEO = "0123456789abcdef"
LATENTS = "fedcba9876543210" * 4
FOLDER = f".work/{VIDEO}/checkpoints"


def _checkpoint(step_index: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step_index)
    latents_BFCHW = torch.randn(1, 5, 2, 3, 4, generator=generator)
    return Checkpoint(
        step_index=step_index,
        latents_BFCHW=latents_BFCHW,
        tensors={
            "history": torch.randn(2, 1, 5, 2, 3, 4, generator=generator),
            "sigma": torch.tensor(0.1, dtype=torch.float64),
            "timesteps": torch.tensor([999, -1, 2**62]),
            "generator": generator.get_state(),
            "is_first": torch.tensor([True, False]),
            "none": torch.empty(0, 3),
        },
        values={"scheduler": {"order": 2, "lambda": 0.1 + 0.2, "name": "赤", "last": None}},
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def _is_same(one: Checkpoint | None, other: Checkpoint) -> bool:
    if one is None or (one.step_index, one.values) != (other.step_index, other.values):
        return False
    pairs = [(one.latents_BFCHW, other.latents_BFCHW)]
    pairs += [(one.tensors[name], other.tensors[name]) for name in other.tensors]
    return list(one.tensors) == sorted(other.tensors) and all(
        a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b) for a, b in pairs
    )


def _names(output: Output) -> list[str]:
    return [stored.path.rpartition("/")[2] for stored in output.list(FOLDER)]


def _local(output: Output, step_index: int) -> Path:
    (path,) = (s.path for s in output.list(FOLDER) if f"/{step_index:05d}." in s.path)
    return Path(output.location) / path


@pytest.fixture
def local_output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def test_all_bits_come_back(output: Output) -> None:
    assert load_latest(output, VIDEO, LATENTS) is None
    size = save(output, VIDEO, LATENTS, _checkpoint(3))
    (stored,) = output.list(FOLDER)
    assert stored.size == size
    assert _is_same(load_latest(Output(output.location), VIDEO, LATENTS), _checkpoint(3))


def test_special_values_come_back(local_output: Output) -> None:
    special = torch.tensor([-0.0, 1e-45, float("inf"), float("-inf"), float("nan")])
    saved = Checkpoint(0, special.reshape(1, 5, 1, 1, 1), {"x": special.double()})
    save(local_output, VIDEO, LATENTS, saved)
    assert _is_same(load_latest(local_output, VIDEO, LATENTS), saved)


def test_tensors_may_share_memory_and_have_gaps(local_output: Output) -> None:
    whole = torch.arange(48.0).reshape(1, 2, 2, 3, 4)
    tensors = {"same": whole, "part": whole[:, 1:], "turned": whole.transpose(1, 2)}
    saved = Checkpoint(1, whole, tensors)
    save(local_output, VIDEO, LATENTS, saved)
    assert _is_same(load_latest(local_output, VIDEO, LATENTS), saved)


def test_it_is_an_ordinary_safetensors_file(local_output: Output) -> None:
    save(local_output, VIDEO, LATENTS, _checkpoint(3))
    tensors = load_file(_local(local_output, 3))
    assert torch.equal(tensors["latents"], _checkpoint(3).latents_BFCHW)
    assert "tensors/history" in tensors


def test_the_last_two_are_kept(output: Output) -> None:
    for step_index in (3, 5, 9, 100_000):
        save(output, VIDEO, LATENTS, _checkpoint(step_index))
    assert [name.partition(".")[0] for name in _names(output)] == ["00009", "100000"]
    assert _is_same(load_latest(output, VIDEO, LATENTS), _checkpoint(100_000))
    delete(output, VIDEO)
    assert _names(output) == []
    assert load_latest(output, VIDEO, LATENTS) is None


def test_a_new_one_outlives_damaged_ones_of_later_steps(local_output: Output) -> None:
    for step_index in (5, 9):
        save(local_output, VIDEO, LATENTS, _checkpoint(step_index))
        _local(local_output, step_index).write_bytes(b"torn")
    for step_index in (2, 3):
        save(local_output, VIDEO, LATENTS, _checkpoint(step_index))
        assert _is_same(load_latest(local_output, VIDEO, LATENTS), _checkpoint(step_index))


def test_one_of_other_latents_is_refused(output: Output, caplog: pytest.LogCaptureFixture) -> None:
    save(output, VIDEO, LATENTS, _checkpoint(3))
    save(output, VIDEO, "0" * 64, _checkpoint(5))
    with caplog.at_level(logging.WARNING):
        assert _is_same(load_latest(output, VIDEO, LATENTS), _checkpoint(3))
    (message,) = caplog.messages
    assert message.startswith(output.uri(f"{FOLDER}/00005."))
    assert message.endswith(
        ".safetensors: this checkpoint cannot be used (of a video with other latents); trying the "
        "one before it"
    )


def test_foreign_files_are_refused(local_output: Output, caplog: pytest.LogCaptureFixture) -> None:
    save(local_output, VIDEO, LATENTS, _checkpoint(3))
    good = _local(local_output, 3)
    save_file({"latents": torch.zeros(1)}, good.with_name("00008.00000000.safetensors"))
    good.with_name("00009.00000000.safetensors").write_bytes(good.read_bytes())
    good.with_name("notes.txt").write_text("mine")
    text = good.read_bytes().replace(b'"format_version":"1"', b'"format_version":"2"')
    good.with_name("00007.00000000.safetensors").write_bytes(text)
    with caplog.at_level(logging.WARNING):
        assert _is_same(load_latest(local_output, VIDEO, LATENTS), _checkpoint(3))
    why = [message.partition("(")[2].partition(")")[0] for message in caplog.messages]
    assert why == [
        "its name tells of another step",
        "no checkpoint that glc-ray wrote",
        "of format version 2",
    ]


@given(data=st.data())
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_flipped_and_missing_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    output = Output(str(tmp_path_factory.mktemp("out")))
    save(output, VIDEO, LATENTS, _checkpoint(3))
    save(output, VIDEO, LATENTS, _checkpoint(5))
    newest = _local(output, 5)
    content = bytearray(newest.read_bytes())
    if data.draw(st.booleans(), label="cut short"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="bytes left")]
    else:
        for _ in range(data.draw(st.integers(1, 3), label="flips")):
            offset = data.draw(st.integers(0, len(content) - 1), label="offset")
            content[offset] ^= data.draw(st.integers(1, 255), label="bits")
    newest.write_bytes(content)
    found = load_latest(output, VIDEO, LATENTS)
    # A flip may leave the content as it was: in the spaces that end the header, or flipped back.
    assert _is_same(found, _checkpoint(3)) or _is_same(found, _checkpoint(5))


@pytest.mark.parametrize("part", ["length", "metadata", "latents", "tensors"])
def test_every_part_is_checked(local_output: Output, part: str) -> None:
    save(local_output, VIDEO, LATENTS, _checkpoint(3))
    save(local_output, VIDEO, LATENTS, _checkpoint(5))
    newest = _local(local_output, 5)
    content = bytearray(newest.read_bytes())
    places = {
        "length": 1,
        "metadata": content.index(b"order"),
        "latents": content.index(_bits(_checkpoint(5).latents_BFCHW)),
        "tensors": content.index(_bits(_checkpoint(5).tensors["history"])),
    }
    content[places[part]] ^= 1
    newest.write_bytes(content)
    assert _is_same(load_latest(local_output, VIDEO, LATENTS), _checkpoint(3))


def test_an_upload_that_fails_leaves_the_older_ones(s3: BucketServer, s3_output: Output) -> None:
    save(s3_output, VIDEO, LATENTS, _checkpoint(3))

    def refuse(method: str, path: str) -> None:
        if method in ("PUT", "POST"):
            raise denied()

    with s3.guarded(refuse), pytest.raises(RuntimeError, match=r"safetensors: cannot store"):
        save(s3_output, VIDEO, LATENTS, _checkpoint(5))
    assert _is_same(load_latest(s3_output, VIDEO, LATENTS), _checkpoint(3))


def test_storage_that_cannot_be_read_is_no_reason_to_begin_anew(
    s3: BucketServer, s3_output: Output
) -> None:
    save(s3_output, VIDEO, LATENTS, _checkpoint(3))

    def refuse(method: str, path: str) -> None:
        if method == "GET" and ".safetensors" in path:
            raise denied()

    with s3.guarded(refuse), pytest.raises(RuntimeError, match=r"safetensors: cannot read"):
        load_latest(s3_output, VIDEO, LATENTS)


# Each writer is a fork that saves rising steps, tells of each, and is killed at some moment.
_KILLED_WRITERS = """
import os, random, signal, sys, time
import torch
from glc_ray.store.checkpoint import Checkpoint, load_latest, save
from glc_ray.store.output import Output

# A fork has none of torch's threads.
torch.set_num_threads(1)
output = Output(sys.argv[1])
rng = random.Random(0)
step = 0
for _ in range(25):
    told, tell = os.pipe()
    writer = os.fork()
    if not writer:
        while True:
            step += 1
            latents = torch.full((1, 40, 16, 20, 20), float(step))
            save(output, "id", "hash", Checkpoint(step, latents, {"x": latents + 0.5}))
            os.write(tell, step.to_bytes(4, "little"))
    os.close(tell)
    for _ in range(rng.randrange(1, 4)):
        last = int.from_bytes(os.read(told, 4), "little")
    time.sleep(rng.random() * 0.01)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    while more := os.read(told, 4):
        last = int.from_bytes(more, "little")
    os.close(told)
    found = load_latest(output, "id", "hash")
    step = found.step_index
    assert step in (last, last + 1), (step, last)
    assert torch.equal(found.latents_BFCHW, torch.full((1, 40, 16, 20, 20), float(step)))
    assert torch.equal(found.tensors["x"], found.latents_BFCHW + 0.5)
    assert len(output.list(".work")) <= 3
print("killed", step)
"""

_WITH_A_LIMIT = """
import resource, signal, sys
import torch
from glc_ray.store.checkpoint import Checkpoint, load_latest, save
from glc_ray.store.output import Output, StorageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
output = Output(sys.argv[1])
save(output, "id", "hash", Checkpoint(2, torch.zeros(1)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(output, "id", "hash", Checkpoint(3, torch.zeros(100_000)))
except StorageError as error:
    print(error)
print(load_latest(output, "id", "hash").step_index)
"""


def test_killed_writers_lose_at_most_what_they_were_writing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED_WRITERS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("killed ")
    assert done.stderr == ""
    # What was cut off is known as such, so that a later run removes it.
    names = [path.name for path in tmp_path.iterdir() if path.name != ".work"]
    assert [name for name in names if not name.endswith(".partial")] == []


def test_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WITH_A_LIMIT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(
        ".safetensors: cannot store: the file is larger than is allowed here: raise the limit "
        "(ulimit -f)\n2\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == [".work"]
