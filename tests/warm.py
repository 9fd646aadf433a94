"""A command as a process of its own that starts at once: forked from one that has imported all that a run needs."""

import importlib
import multiprocessing
import os
import socket
import sys
import tempfile
from pathlib import Path

import faults

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "goc.cli.application",
        "goc.runs.run",
        "goc.report.plots",
        "goc.report.study",
        "torch.distributed",
        "warm",
        "frozen",
    ]
)
RUN = "goc.cli.application"  # run.py's


def as_user(
    module: str,
    fault: str | None,
    arguments: list[str],
    cwd: Path,
    environment: dict[str, str],
    outputs: tuple[Path, Path],
) -> None:
    """What a command does with these arguments, in this process: the `main` of a module."""
    import torch

    from goc.system.command import run_command

    for number, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # as OMP_NUM_THREADS=1 says to a process that has not imported it yet
    os.chdir(cwd)
    sys.argv = arguments
    main = importlib.import_module(module).main
    if fault is not None:
        getattr(faults, fault)()
    sys.exit(run_command(main))


def free_port() -> str:
    """At which workers can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class WarmProcess:
    """The part of subprocess.Popen that tests of workers and signals use.

    module: whose main() is called, by default run.py's. fault: what is wrong with its machine, of faults.py.
    """

    def __init__(
        self,
        arguments: list[str],
        cwd: Path,
        environment: dict[str, str],
        module: str = RUN,
        fault: str | None = None,
    ) -> None:
        folder = Path(tempfile.mkdtemp(dir=cwd.parent))
        self.files = folder / "stdout", folder / "stderr"
        for file in self.files:
            file.touch()
        given = (module, fault, arguments, cwd, environment, self.files)
        self.process = CONTEXT.Process(target=as_user, args=given)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def communicate(self) -> tuple[str, str]:
        self.wait()
        stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in self.files)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()
