"""The installed package: a wheel in an environment of its own, used from an empty folder."""

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import QUICK, REPOSITORY, run_environment
from refusals import assert_refused

LARGEST = 12e6  # bytes
Call = Callable[..., "subprocess.CompletedProcess[str]"]

# what a person would start a process for each time, in one, which loads everything once: command lines of goc, and a
# pipeline's one line; each has files for its exit code, its output and its errors
SESSION = """
import json, os, sys
import goc
from torchvision.transforms import functional  # goes on, where an index has a CPU torch and a CUDA torchvision too
from goc.cli.main import command
from goc.report.published import PUBLISHED

def begin(name):
    for number, stream in enumerate((sys.stdout, sys.stderr), 1):
        stream.flush()
        os.dup2(os.open(f"{name}.{number}", os.O_WRONLY | os.O_CREAT), number)

def pipeline():
    from tiny_pipelines import dit
    pipe = dit()
    cache = goc.enable_cache(pipe, method="goc", cache_ratio=0.5)
    pipe([1], num_inference_steps=4, output_type="np")
    print(cache.summary())

print(goc.__file__, PUBLISHED.is_file())
for name, arguments in json.loads(sys.argv[1]).items():
    begin(name)
    sys.argv[1:] = arguments
    try:
        code = command()
    except SystemExit as ended:
        code = ended.code
    open(name, "w").write(str(code or 0))
begin("pipeline")
pipeline()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools would add what an earlier build left in the checkout
    left_out = shutil.ignore_patterns(".*", "build", "outputs", "weights", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, capture_output=True)
    (built,) = folder.glob("goc-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of an environment with the wheel, whose dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    commands = folder / "bin"
    install = [sys.executable, "-m", "pip", "--python", str(commands / "python"), "install", "--quiet", "--no-deps",
               "--force-reinstall", "--ignore-installed", str(wheel)]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True)
    return commands


@pytest.fixture
def call(installed: Path, tmp_path: Path) -> Call:
    """Call a command of that environment in an empty folder."""

    def run(command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in run_environment().items() if name != "PYTHONPATH"}
        whole = [str(installed / command), *arguments]
        return subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)

    return run


def test_the_wheel_is_small_enough_for_an_index(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST


def test_an_installed_copy_runs_sweeps_reports_and_caches_in_a_pipeline(
    call: Call, installed: Path, tmp_path: Path
) -> None:
    usage = call("goc", "--help")
    assert usage.returncode == 0
    for command in ("run", "report", "compare", "mask", "reference", "score"):
        assert f"\n  {command} " in usage.stdout
    shutil.copy(REPOSITORY / "tests" / "tiny_pipelines.py", tmp_path)
    typed = {
        "one": ["run", "cache_ratio=0.4", *QUICK, "save_images=npz"],
        "swept": ["run", "-m", "method=reuse,goc", "cache_ratio=0.4", "name=study", *QUICK],
        "reported": ["report", "outputs/study", "--out", "again"],
        "mistyped": ["run", "cach_ratio=0.5"],
        "left out": ["run", "model=fashion", *QUICK],
        "unknown": ["rum"],
    }
    session = call("python", "-c", SESSION, json.dumps(typed))
    where, numbers = session.stdout.split()
    assert Path(where).is_relative_to(installed.parent)
    assert numbers == "True"  # the published ones

    def finished(name: str) -> "subprocess.CompletedProcess[str]":
        code, shown, said = ((tmp_path / f"{name}{end}").read_text() for end in ("", ".1", ".2"))
        return subprocess.CompletedProcess(name, int(code), shown, said)

    for name in ("one", "swept", "reported"):
        assert finished(name).returncode == 0, finished(name).stderr
    (images,) = tmp_path.glob("outputs/**/images.npz")
    theirs = call("goc", "score", str(images), "--name=theirs", "model=digits", "steps=5", "metrics=[fid]")
    assert theirs.returncode == 0, theirs.stderr
    of_fid = [[line for line in of.stdout.splitlines() if line.split()[:1] == ["fid"]]
              for of in (finished("one"), theirs)]  # fmt: skip
    assert len(of_fid[0]) == 1
    assert of_fid[0][0].split() == of_fid[1][0].split()
    results = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "study").glob("*/result.json")]
    assert {result["method"] for result in results} == {"reuse", "goc"}
    assert (tmp_path / "outputs" / "study" / "report.html").exists()
    assert (tmp_path / "again" / "report.html").exists()
    assert_refused(finished("mistyped"), "cach_ratio")
    assert_refused(finished("left out"), "fashion/diffusion-0.safetensors: no such file .* are in a checkout")
    assert_refused(finished("unknown"), "goc rum: must be one of run, .*; did you mean run")
    assert session.returncode == 0, (tmp_path / "pipeline.2").read_text()
    assert "goc" in (tmp_path / "pipeline.1").read_text()
