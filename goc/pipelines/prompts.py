"""The prompts of a run: a text file, one a line."""

from pathlib import Path

from goc.system.errors import GocError
from goc.system.files import read_text


def read_prompts(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 text file that are not empty; raises GocError if it is missing, no text, or has none."""
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError as error:
        raise GocError(f"prompts={path}: no such file (looked for {path.absolute()})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise GocError(f"prompts={path}: must be a UTF-8 text file, a prompt a line ({error})") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise GocError(f"prompts={path}: has no prompt in it; must be a text file, a prompt a line")
    return prompts
