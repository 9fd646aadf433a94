"""The quality gate of a run: exit code 1 below a limit, one line for what cannot be asked."""

import json
from pathlib import Path

import pytest
from benchmarks.reports import result_of

from goc.report.gate import main
from goc.system.errors import GocError


@pytest.fixture
def run(tmp_path: Path) -> str:
    result = result_of(1, 20)
    result["metrics"] |= {"fid": 4.25, "fid_se": 0.1, "is": None}
    result["distance"] |= {"psnr_image": 31.5, "ssim": 0.9}
    (tmp_path / "result.json").write_text(json.dumps(result))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("limits", "code", "line"),
    [
        (["--min", "psnr_image=30", "ssim=0.9", "--max", "fid=5"], 0, "ok      fid 4.25 +- 0.1, must be at most 5"),
        (["--min", "psnr_image=32"], 1, "FAILED  psnr_image 31.5"),
        (["--max", "fid=4"], 1, "FAILED  fid 4.25 +- 0.1, must be at most 4"),
        (["--max", "fid=5", "--max", "fid=4"], 1, "ok      fid 4.25 +- 0.1, must be at most 5"),
        (["--min", "is=1"], 1, "FAILED  is not measured, must be at least 1"),
    ],
)
def test_the_exit_code_says_whether_all_limits_are_kept(
    run: str, limits: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([run, *limits]) == code
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ([], "must have a limit, as in --min psnr_image=30"),
        (["--min", "psnr_imag=30"], "psnr_imag=30: must be NAME=VALUE with a name of .*; did you mean psnr_image?"),
        (["--min", "ssim"], "ssim: must be NAME=VALUE with a number"),
        (["--max", "fid=nan"], "fid=nan: must be NAME=VALUE with a number"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run: str, limits: list[str], says: str) -> None:
    with pytest.raises(GocError, match=says) as caught:
        main([run, *limits])
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(GocError, match="holds no finished run"):
        main([str(tmp_path), "--max", "fid=5"])
