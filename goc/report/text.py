"""Text that others chose, such as names of models, methods and folders, made safe for each format of the report."""

import math
import re
import shutil
import textwrap

import pandas as pd

WIDTH = 100  # characters of a line, where the terminal does not say
LONGEST = 200  # characters of a name that are shown
WIDEST = 60  # in one line of a picture
# what a cell of a spreadsheet's formula begins with; the last four are the same in full width
FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
NUMBERS = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?(,[-+]?[\d.]+(e[-+]?\d+)?)*", re.IGNORECASE)  # one, or several seeds
TEX = str.maketrans(
    {character: "\\" + character for character in "{}$%_&#"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
)


def width() -> int:
    """How many characters a line of the terminal has."""
    return shutil.get_terminal_size((WIDTH, 0)).columns


def printable(text: str, longest: int = LONGEST) -> str:
    """One line of at most so many characters, as a terminal may be given it; every other format begins with it.

    Line breaks become spaces. Control characters, those that turn the direction of writing, and halves of surrogate
    pairs are shown by their codes.
    """
    if len(text) > longest:
        text = f"{text[: longest - 50]}…{text[-49:]}"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable()
        else " " if character.isspace()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )  # fmt: skip


def decimals_of(error: float) -> int:
    """So many decimals show an error, and the number that it is of, to the error's second digit."""
    return max(0, 1 - math.floor(math.log10(error)))


def number(value: float, error: float | None = None) -> str:
    """A number for people: to two digits of its error, "3.21 ± 0.12", or four digits without one."""
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    decimals = decimals_of(error)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV in which no text can be taken for a formula: what would be one begins with an apostrophe."""
    safe = frame.copy()
    for column in frame:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            safe[column] = frame[column].map(csv_cell).astype(object)
    return str(safe.to_csv(index=False))


def csv_cell(value: object) -> object:
    """A cell of it; numbers, also as text, stay what they are."""
    if isinstance(value, str) and value.startswith(FORMULA) and not NUMBERS.fullmatch(value):
        return f"'{value}"
    return value


def markdown_cell(text: str) -> str:
    """Text as it stands in a Markdown table: no end of its cell, no HTML, no link."""
    return re.sub(r"[\\|<>`]|(?<=\])\(", lambda match: "\\" + match[0], text)


def latex_cell(text: str) -> str:
    """Text as it stands in LaTeX: nothing of it is a command."""
    return text.translate(TEX)


def plot_text(text: str, widest: int = WIDEST) -> str:
    """Text as matplotlib draws it: no mathematics, no name that a legend leaves out, no line that leaves no room."""
    lines = "\n".join(textwrap.wrap(text, widest)) if len(text) > widest else text
    return (" " if text.startswith("_") else "") + lines.replace("$", r"\$")
