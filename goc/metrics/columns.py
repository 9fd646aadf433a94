"""What is known of a number of a result without computing it: where it is, and how tables and pictures show it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A number of a result, and a column of the table over runs.

    path: in result.json; its standard error is beside it under the last name with _se, if `error` says that it has one.
    title: in a table's head. meaning: on an axis, or where there is room. better: which way is. contribution: what each
    sample contributes to it, by its name in the influence file. of: which samples those are: all, those that were also
    made without a cache (pairs), or those compared with the converged solution. to_target: it is to the uncached run of
    the same sampler and steps, and says nothing across them. biased: what is expected of it depends on how many samples
    it is of, so that it is compared only between numbers of as many. percent: it is a share, shown in per cent. aside:
    shown beside a point of a plot only where it is the plot's axis.
    """

    name: str
    path: tuple[str, ...]
    title: str = ""
    meaning: str = ""
    better: Literal["lower", "higher"] | None = None
    error: bool = False
    contribution: str | None = None
    of: Literal["all", "pairs", "converged"] = "all"
    to_target: bool = False
    biased: bool = False
    percent: bool = False
    aside: bool = False

    @property
    def lower(self) -> bool:
        """Whether less of it is better, or cheaper."""
        return self.better == "lower"
