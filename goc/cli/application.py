"""The Hydra application: a config in, one result out; and a report at the end of a sweep.

What a run needs is imported when there is one: help, completion and errors in the settings come without it.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from goc.config import from_hydra, register, validate
from goc.config.decisions import as_methods
from goc.config.help import help_page
from goc.config.hydra import check_form, check_hydra, refusing, without_effect
from goc.report.collect import find
from goc.report.results import FAILURE_FILE, reason_in
from goc.system.errors import ConfigError, GocError, fail, memory_error, one_line
from goc.system.files import CONF, room_for, write_text
from goc.system.stopping import STOPPED

log = logging.getLogger(__name__)


def task(node: DictConfig) -> float | tuple[float, float] | None:
    """One job of Hydra: carry out the run, print its summary and track it; returns what a sweeper optimises.

    That is the FID; for a sweeper with several directions (`hydra.sweeper.direction` is a list) the FID and the GMACs
    per image; None if there is no FID. In a sweep a job that fails leaves its reason in its folder, and the other
    jobs go on.
    """
    folder = output_folder()
    try:
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        check_hydra(HydraConfig.get())
        config = from_hydra(node)
        validate(config)
        from goc.runs.run import run
        from goc.sampling.interrupt import StoppedError

        try:
            result = run(config, folder, without_effect(node, config, HydraConfig.get().overrides.task))
        except StoppedError as stopped:
            # past Hydra and past submitit, for which a job that was told to stop is then neither done nor failed
            raise SystemExit(fail(stopped, STOPPED)) from stopped
    except Exception as error:
        if HydraConfig.get().mode == RunMode.RUN:
            if isinstance(error, GocError | OSError) or memory_error(error) is not None:
                raise SystemExit(fail(error)) from error  # past Hydra, which would add a line of its own
            raise
        record_failure(folder, error, traceback.format_exc())
        return None
    if result is None:  # a worker that does not lead
        return None
    from goc.tracking.track import track_run

    print(result, flush=True)
    track_run(config.output, folder)
    return objectives(result.content, HydraConfig.get().sweeper.get("direction"))


def output_folder() -> Path:
    """The folder of Hydra's job, as it is on disk: a `${` in the name of a working folder is no interpolation."""
    runtime = OmegaConf.to_container(HydraConfig.get().runtime, resolve=False)
    assert isinstance(runtime, dict)
    return Path(runtime["output_dir"])


def objectives(result: Mapping[str, Any], direction: Any) -> float | tuple[float, float] | None:
    """What a sweeper that minimises in `direction` is told of a run: its FID, or (FID, GMACs per image); see `task`."""
    fid = result["metrics"].get("fid")
    if fid is None or isinstance(direction, str) or not isinstance(direction, Sequence):
        return fid
    return fid, result["cost"]["gmacs_per_image"]


def record_failure(folder: Path, error: BaseException, details: str) -> None:
    """Say why a job of a sweep failed, and leave it in the job's folder for SweepReport: one line, then the details.

    Where it cannot be left there, as on a full disk, that is said too, and the other jobs go on.
    """
    fail(error)
    try:
        with room_for(folder / FAILURE_FILE):
            write_text(folder / FAILURE_FILE, f"{one_line(error)}\n{details}")
    except GocError as unwritten:  # a full disk, as a rule: the other jobs may need no more room
        log.warning("%s", unwritten)
        SweepReport.unwritten.append(f"{one_line(error)}  ({folder})")


class RefusedSweep(SystemExit):  # it leaves Hydra, which would only warn of an error in a callback
    """A sweep that is not started, because of a setting."""

    def __init__(self, reason: ConfigError) -> None:
        super().__init__(1)
        self.reason = reason


class SweepReport(Callback):
    """Hydra callback: report on the whole study when a sweep ends, and on what failed in it."""

    failed: ClassVar[bool] = False  # of the last sweep of this process, and
    study: ClassVar[Path | None] = None  # its folder
    unwritten: ClassVar[list[str]] = []  # why jobs in this process failed that could not leave it in their folder

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        SweepReport.unwritten.clear()
        try:
            check_hydra(config.hydra)
        except ConfigError as error:
            raise RefusedSweep(error) from error
        with contextlib.suppress(OSError, OmegaConfBaseException):  # Hydra meets it next, and then does not only warn
            self.started = Path(config.hydra.sweep.dir) / ".started"  # by the clock that the jobs' files are dated by
            self.started.parent.mkdir(parents=True, exist_ok=True)
            SweepReport.study = self.started.parent
            self.started.touch()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from goc.report.study import main as report
        from goc.sampling.workers import place
        from goc.tracking.track import track_study

        worker = place(os.environ)
        if worker is not None and worker.rank > 0:
            return  # the leader reports
        SweepReport.failed = True  # unless this comes to its end: Hydra only logs what a callback raises
        folder = Path(config.hydra.sweep.dir)
        if find([folder]).runs:
            try:
                report([str(folder)])
            except (GocError, OSError) as error:  # which Hydra would log in its own words
                fail(error)
                return
            track_study(from_hydra(config).output, folder)
        failed, start = [], self.started.stat().st_mtime
        for path in sorted(folder.glob(f"*/{FAILURE_FILE}")):
            if path.stat().st_mtime >= start:
                try:
                    reason = reason_in(path.parent)
                except ValueError as error:
                    reason = str(error)
                failed.append(f"{reason}  ({path})")
        failed += SweepReport.unwritten
        if failed:
            print(f"{len(failed)} failed:", *(f"  {line}" for line in failed), sep="\n", file=sys.stderr)
        SweepReport.failed = bool(failed)


def in_order(arguments: Sequence[str]) -> list[str]:
    """Options and then settings, which Hydra wants in one row; raises ConfigError for what is neither."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; settings are KEY=VALUE, and goc run --hydra-help lists options")

    parser.error = refuse  # type: ignore[method-assign]  # or it prints its usage and ends the process
    settings = parser.parse_intermixed_args(list(arguments)).overrides or []
    check_form(settings)
    options = list(arguments)
    for setting in reversed(settings):
        del options[len(options) - 1 - options[::-1].index(setting)]
    return [*options, *settings]


def launch(arguments: Sequence[str]) -> None:
    """Run the application with these arguments of a command line; raises what goes wrong, but for a sweep's jobs."""
    arguments = in_order(arguments)
    register(arguments)
    arguments = as_methods(arguments)
    # Hydra then raises instead of printing several lines and exiting
    os.environ["HYDRA_FULL_ERROR"] = "1"
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]  # from where Hydra takes them
    try:
        with refusing(arguments):
            hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(task)()
    except RefusedSweep as refused:
        raise refused.reason from None
    finally:
        sys.argv = before


def main() -> int:
    """Run the application on sys.argv; returns the exit code."""
    SweepReport.failed = False
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_page([argument for argument in sys.argv[1:] if not argument.startswith("-")]))
        return 0
    launch(sys.argv[1:])
    return 1 if SweepReport.failed else 0
