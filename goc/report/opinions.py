"""Whether a second extractor agrees with the first: rows that the two distances to the real images order otherwise."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from goc.report.columns import columns
from goc.report.frame import is_uncached
from goc.report.pairs import Point, difference

FIRST, SECOND = "fid", ("fd_dinov2", "fd_second")
MARK = "†"
NAMED = 3  # pairs of rows that a note names
MOST = 2000  # pairs of rows of which all are looked at; of more, those of about as many evaluations


def second_of(frame: pd.DataFrame) -> str | None:
    """The column of the second distance that rows beside their FID have; None: there is none."""
    return next((name for name in SECOND if name in frame and (frame[name] * frame[FIRST]).notna().any()), None)


def disagreements(frame: pd.DataFrame, points: Sequence[Point]) -> list[tuple[int, int]]:
    """Pairs of rows of a measurement, by position: the first better by FID, the other by the second distance.

    Each by more than two errors of the difference. points: the runs of each row.
    """
    column = second_of(frame)
    if column is None:
        return []
    first, second = (frame[name].to_numpy(float) for name in (FIRST, column))
    pairs = np.argwhere((first[:, None] < first) & (second[:, None] > second))
    if len(pairs) > MOST:
        evaluations = frame["evaluations"].to_numpy(float).round()
        pairs = pairs[evaluations[pairs[:, 0]] == evaluations[pairs[:, 1]]]
    return [
        (int(a), int(b))
        for a, b in pairs
        if all(
            (delta := difference(points[a], points[b], name)) is not None and delta.decided
            for name in (FIRST, column)
        )
    ]  # fmt: skip


def flagged(pairs: Sequence[tuple[int, int]]) -> set[int]:
    """The rows of some pairs."""
    return {position for pair in pairs for position in pair}


def note(frame: pd.DataFrame, pairs: Sequence[tuple[int, int]]) -> str:
    """What a reader must know of them; empty where there is no second distance, or only one row has it."""
    column = second_of(frame)
    if column is None or frame[column].notna().sum() < 2:
        return ""
    title = columns()[column].title
    if not pairs:
        return f"FID and {title} agree: no two rows that both tell apart by two paired errors are in another order."
    series = frame["series"].where(~is_uncached(frame), frame["series"] + ", " + frame["solver"])
    names = [
        f"{name}, {evaluations:.4g} evaluations" for name, evaluations in zip(series, frame["evaluations"], strict=True)
    ]
    said = [f"{names[a]} is better than {names[b]} by FID, and worse by {title}" for a, b in pairs[:NAMED]]
    more = f"; and {len(pairs) - NAMED} more pairs" if len(pairs) > NAMED else ""
    each = f"{MARK} FID and {title} order these rows otherwise, each by more than two paired errors"
    return f"{each}: {'; '.join(said)}{more}."
