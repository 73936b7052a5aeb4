"""The installed package: whole without the checkout, wherever it is called."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 25e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")  # noqa: S202 A zip file that was just built.
    return folder / "site"


def call(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -P and -S would hide the environment's packages too: put the wheel before the checkout.
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import glc_ray, runpy; "
        "assert glc_ray.__file__.startswith(sys.path[0]), glc_ray.__file__; "
        "sys.argv[0] = 'glc-ray'; from glc_ray.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(installed), *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_wheel_knows_its_pipelines_and_its_model(installed: Path, tmp_path: Path) -> None:
    """The length is checked against the embedded model's files, which are read for it."""
    done = call(installed, tmp_path, "render", "--num-frames", "30")
    expected = "error: --num-frames 30: must be 4k+1 for toyworld; the nearest are 29 and 33\n"
    assert (done.returncode, done.stderr.splitlines(keepends=True)[-1:]) == (2, [expected])


def test_every_pipeline_is_in_the_wheel(installed: Path) -> None:
    names = sorted(path.name for path in (installed / "glc_ray" / "pipelines").iterdir())
    assert names == sorted(path.name for path in (ROOT / "pipelines").glob("*.yaml"))


def test_sdist_has_what_a_cluster_is_made_of(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=120)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"cluster/kuberay/rayjob.yaml", "cluster/slurm/glc-ray.sbatch"} <= names
    assert {"constraints.txt", "pipelines/toyworld.yaml", "tests/test_wheel.py"} <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"} <= names
    assert not any("secrets/" in name for name in names)


def test_the_report_page_is_in_the_wheel(installed: Path) -> None:
    template = Path("glc_ray/report_page/template")
    names = sorted(path.name for path in (installed / template).iterdir())
    assert names == sorted(path.name for path in (ROOT / template).iterdir())


def test_version(installed: Path, tmp_path: Path) -> None:
    import glc_ray

    done = call(installed, tmp_path, "--version")
    assert done.stdout == f"glc-ray, version {glc_ray.__version__}\n"
