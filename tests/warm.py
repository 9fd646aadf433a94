"""`run.py` as a process of its own that starts at once: forked from one that has imported all that a run needs."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["goc.cli.application", "goc.experiment", "goc.report.plots", "torch.distributed", "warm"]
)


def as_user(arguments: list[str], cwd: Path, environment: dict[str, str], outputs: tuple[Path, Path]) -> None:
    """What run.py does with these arguments, in this process."""
    import torch

    from goc.cli.application import main

    for number, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # as OMP_NUM_THREADS=1 says to a process that has not imported it yet
    os.chdir(cwd)
    sys.argv = arguments
    sys.exit(main())


class WarmProcess:
    """The part of subprocess.Popen that tests of workers and signals use."""

    def __init__(self, arguments: list[str], cwd: Path, environment: dict[str, str]) -> None:
        folder = Path(tempfile.mkdtemp(dir=cwd.parent))
        self.files = folder / "stdout", folder / "stderr"
        for file in self.files:
            file.touch()
        self.process = CONTEXT.Process(target=as_user, args=(arguments, cwd, environment, self.files))
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
        stdout, stderr = (path.read_text() for path in self.files)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()
