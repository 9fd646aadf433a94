"""What a stranger wants to know first of a check: is it right here, how fast, how far from the bound, what to set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from goc.check.setting import Case, Report, Setting, Table, images
from goc.check.step_profile import said

# parts that compare with something that is known to be right, and what it is
COMPARED = {
    "oracles": "Sampling, beside the output of the methods' public implementations",
    "kernels": "The kernel of a cached step, beside float64",
    "workers": "One worker, beside two on the same card",
    "graphs": "Steps as CUDA graphs, beside kernel by kernel",
    "training": "Trainings, beside a CPU",
}
STEPS = {"full": "A full step", "cached": "A cached step (reuse)", "cached, stack": "A cached step at site=stack"}
BARE, GOC, STACK = "none", "goc 50 %", "goc stack 50 %"  # rows of the tables of steps
CLOSE = 0.03  # rates that differ by less are no reason for a setting; the same code differs by 1 to 3 % between rows

WAY = "method=goc cache_ratio=0.5"

Rows = list[dict[str, Any]]
State = Literal["good", "bad", "unknown", "plain"]


@dataclass(frozen=True)
class Answer:
    """To one question: in a few words, and in sentences."""

    question: str
    short: str
    state: State
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Advice:
    """A setting: what to give on this card, and the numbers that say so.

    given: as it is typed, where it is to be given.
    """

    setting: str
    use: str
    why: str
    given: str = ""


@dataclass(frozen=True)
class Summary:
    """The first screen of the page. typed: the settings that were measured to be quickest, as a command."""

    answers: list[Answer]
    advice: list[Advice]
    left_out: list[str]
    typed: str


def summary(setting: Setting, reports: Sequence[Report], rated: Rows, roofline: Rows, known: Sequence[str]) -> Summary:
    """All of it; rated: the rows of `rates`, known: all parts that there are."""
    advised = [*advice(rated), *graphs(reports)]
    return Summary(
        [right(reports), fast(setting, rated, reports), far(rated, roofline, reports)],
        advised,
        left_out(reports, known),
        " ".join(["goc run", WAY, *(one.given for one in advised if one.given)]) if rated else "",
    )


def right(reports: Sequence[Report]) -> Answer:
    """Whether what was compared is as it must be; what was not compared keeps the answer from being yes."""
    by_name = {report.name: report for report in reports}
    lines, states = [], []
    for name, what in COMPARED.items():
        report = by_name.get(name)
        states.append(report.state if report else "not asked for")
        if report is None:
            lines.append(f"{what}: not compared, as --only left it out.")
        elif report.outcome is None or report.outcome.missing:
            lines.append(f"{what}: not compared: {' '.join(report.says)}")
        else:  # what it says first is how it compares
            lines.append(f"{what}: {' '.join(report.outcome.failures or report.outcome.findings[:1])}")
    wrong = any(report.outcome and report.outcome.failures for report in reports if report.name in COMPARED)
    question = "Is it right here?"
    if wrong:
        return Answer(question, "No", "bad", lines)
    if set(states) <= {"passed", "skipped"} and "passed" in states:
        return Answer(question, "Yes", "good", lines)
    return Answer(question, "Yes, as far as it was compared" if "passed" in states else "Not known", "unknown", lines)


def rates(measured: Mapping[Case, pd.DataFrame]) -> Table:
    """Images per second of each case, uncached and with GOC at both sites; as the table that the page begins with."""

    def row(case: Case, frame: pd.DataFrame) -> dict[str, Any]:
        rate = frame.set_index("method")["images_per_s"]
        bare, goc, stack = (float(rate.get(name, float("nan"))) for name in (BARE, GOC, STACK))
        named = {"precision": case.precision, "batch": case.batch, "compiled": case.compiled}
        return {**named, "bare": bare, "goc": goc, "stack": stack, "goc_times": goc / bare, "stack_times": stack / bare}

    columns = {
        "precision": "format",
        "batch": "images at once",
        "compiled": "compiled",
        "bare": "no cache, images/s ↑",
        "goc": "GOC at 50 %, images/s ↑",
        "goc_times": "times no cache ↑",
        "stack": "the same, site=stack, images/s ↑",
        "stack_times": "times no cache ↑ ",
    }
    rows = [row(case, frame) for case, frame in measured.items()]
    return Table(
        "rates",
        "Images per second",
        "DDIM-20 with guidance, composed of the median full and cached step, with random weights; without a decoder. "
        "2 times is what is possible where half of the steps are cached.",
        pd.DataFrame(rows, columns=list(columns)),
        columns,
    )


def records(frame: pd.DataFrame) -> Rows:
    """The rows of a table."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def best(rated: Rows, by: str = "goc") -> dict[str, Any] | None:
    """The row of `rates` with most images per second of GOC at a site; None: there is none."""
    return max((row for row in rated if row[by] > 0), key=lambda row: float(row[by]), default=None)


def titled(row: Mapping[str, Any]) -> str:
    """A row's case, for people."""
    return Case(row["precision"], row["batch"], row["compiled"]).title


def fast(setting: Setting, rated: Rows, reports: Sequence[Report]) -> Answer:
    """The best case of `rates`, and what is left of a rate when images are decoded and measured."""
    question, row = "How fast?", best(rated)
    if row is None:
        return Answer(question, "Not measured", "unknown")
    lines = [
        f"{setting.model} at {setting.image_size} pixels, DDIM-20 with guidance, {titled(row)}: GOC at 50 % is "
        f"{row['goc_times']:.3g} times as fast as no cache, of 2 that are possible."
    ]
    if row["stack"] > 0:
        lines.append(f"At site=stack: {row['stack']:.3g} images/s, {row['stack_times']:.3g} times.")
    lines += [line for one in reports if one.name == "pipeline" and one.outcome for line in one.outcome.findings]
    short = f"{row['goc']:.3g} images/s with GOC at 50 %, {row['bare']:.3g} without a cache"
    return Answer(question, short, "plain", lines)


def far(rated: Rows, roofline: Rows, reports: Sequence[Report]) -> Answer:
    """Of the best case of `rates`: its steps beside the roofline, and what a full one consists of."""
    question, row = "How far from the bound?", best(rated)
    of_case = ("precision", "batch", "compiled")
    steps = {step["step"]: step for step in roofline if row and all(step[name] == row[name] for name in of_case)}
    if row is None or "full" not in steps:
        return Answer(question, "Not measured", "unknown")
    lines = [
        f"{STEPS[name]}: {step['measured_ms']:.3g} ms, at least {step['least_ms']:.3g} (bound by {step['bound']})."
        for name, step in steps.items()
    ]
    for report in reports:
        if report.name == "profile" and report.outcome:
            profiled = records(report.outcome.table.frame)
            lines += [said(one) for one in profiled if (one["method"], one["case"]) == (BARE, titled(row))]
    times = 1 / steps["full"]["of_bound"]
    short = f"A full step takes {times:,.{0 if times > 10 else 1}f} times the least that an H100 could"
    return Answer(question, short, "plain", [*lines, "The bound is an H100 SXM's, whatever card was measured."])


def advice(rated: Rows) -> list[Advice]:
    """Settings for this card, each from two measured rates that differ in it alone."""
    cost = " What bf16 costs in quality: docs/performance.md."
    given = (
        compared_in(rated, "compiled", "compile", {True: "compile=true", False: "compile=false"}),
        compared_in(rated, "precision", "precision", {name: f"precision={name}" for name in ("bf16", "tf32")}, cost),
        compared_in(rated, "batch", "batch_size", {row["batch"]: f"batch_size={row['batch']}" for row in rated}),
        site(rated),
    )
    return [one for one in given if one is not None]


def compared_in(rated: Rows, column: str, setting: str, typed: Mapping[Any, str], note: str = "") -> Advice | None:
    """Advice on the setting of a column of `rates`, from the quickest row that has a slower one alike otherwise.

    typed: its values, as they are given.
    """
    others = [name for name in ("precision", "batch", "compiled") if name != column]
    pairs = [
        (one, other)
        for one in rated
        for other in rated
        if one["goc"] > other["goc"] and all(one[name] == other[name] for name in others)
    ]
    if not pairs:
        return None
    quick, slow = max(pairs, key=lambda pair: (pair[0]["goc"], -pair[1]["goc"]))
    words = {
        "precision": quick["precision"],
        "batch": images(quick["batch"]),
        "compiled": "compiled" if quick["compiled"] else "not compiled",
    }
    alike = ", ".join(words[name] for name in others)
    return chosen(setting, (typed[quick[column]], quick["goc"]), (typed[slow[column]], slow["goc"]), alike, note)


def site(rated: Rows) -> Advice | None:
    """Advice on the site, of the best case in which both were measured."""
    row = best(rated, "stack")
    if row is None:
        return None
    slow, quick = sorted([("site=stack", row["stack"]), ("site=branch", row["goc"])], key=lambda one: float(one[1]))
    return chosen("site", quick, slow, titled(row), " Speed alone: the two make different images.")


def graphs(reports: Sequence[Report]) -> list[Advice]:
    """Advice on CUDA graphs, with the batches for which they were quicker with GOC at 50 %."""
    (rows, *_) = [*(records(one.outcome.table.frame) for one in reports if one.name == "graphs" and one.outcome), []]
    measured = [row for row in rows if row["method"] == GOC and row["times"] > 0]
    if not measured:
        return []
    quicker = [images(row["batch"]) for row in measured if row["times"] > 1 + CLOSE]
    why = "; ".join(
        f"{images(row['batch'])}: {row['graph_images_per_s']:.3g} images/s, with graphs=false "
        f"{row['eager_images_per_s']:.3g}"
        for row in measured
    )
    use = f"graphs=true with {' and '.join(quicker)}" if quicker else "graphs=false"
    return [Advice("graphs", use, f"{why} (bf16, not compiled, GOC at 50 %).")]


def chosen(setting: str, quick: tuple[str, float], slow: tuple[str, float], alike: str, note: str) -> Advice:
    """The quicker one of two, or either."""
    numbers = f"{quick[1]:.3g} images/s, with {slow[0]} {slow[1]:.3g} ({alike}, GOC at 50 %)."
    if quick[1] < (1 + CLOSE) * slow[1]:
        return Advice(setting, "either", f"{quick[0]}: {numbers}{note}")
    return Advice(setting, quick[0], f"{numbers[0].upper()}{numbers[1:]}{note}", "" if setting == "site" else quick[0])


def left_out(reports: Sequence[Report], known: Sequence[str]) -> list[str]:
    """What was not run, or not to its end, and why; known: all parts that there are."""
    lines = [
        f"{report.name}: {report.error or (report.outcome.missing if report.outcome else '')}"
        for report in reports
        if report.outcome is None or report.outcome.missing
    ]
    rest = [name for name in known if name not in {report.name for report in reports}]
    return [*lines, *([f"{', '.join(rest)}: not asked for (--only)"] if rest else [])]
