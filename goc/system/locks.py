"""One process at a time: a lock on a file, free again as soon as its process has ended, however it ends."""

from typing import Any

from filelock import FileLock, Timeout

from goc.system.errors import GocError


class Lock(FileLock):
    """filelock's; what keeps it from being taken, other than another process, is a GocError that names the file."""

    def acquire(self, *arguments: Any, **more: Any) -> Any:
        try:
            return super().acquire(*arguments, **more)
        except Timeout:
            raise
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise GocError(
                f"{self.lock_file}: cannot be locked ({reason}); its folder must be writable, with room, "
                "and on a file system with locks, and the file one's own"
            ) from error
