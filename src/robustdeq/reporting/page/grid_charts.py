"""What the page says of an evaluation: its headline, its charts and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import Check, GridResult, StateProfile
from robustdeq.reporting.page.charts import Chart, Plot
from robustdeq.reporting.profiles import profile_panels
from robustdeq.reporting.tabulation import Table, grid_table, panel_table
from robustdeq.reporting.wording import count, label, measured, number, percent, percents, threat


@dataclass(frozen=True)
class Measure:
    """One number to begin with.

    Attributes:
        name: what it is.
        value: in percent.
        note: what it means.
    """

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """What the evaluation comes to.

    Attributes:
        sentence: in words.
        measures: the honest number, and what stands beside it.
    """

    sentence: str
    measures: tuple[Measure, ...]


def headline(result: GridResult) -> Headline:
    """The worst case of the model as it is deployed, and what clean images or the ready-made attack would have said.

    That is the first row: the best of several defenses, chosen on the images of the table, looks better than it is.
    """
    i, samples, columns = 0, result.clean.shape[1], len(result.columns)
    worst, ends = result.worst_case[i], result.worst_case_intervals[i]
    defense, others = label(result.defenses[i]), range(1, len(result.defenses))
    within = threat(result.settings)
    sentence = (
        f"{percent(worst)} % of {count(samples, 'image')} are classified correctly as they are and under "
        f"{'every one of ' if columns > 1 else ''}{count(columns, 'attack')}"
        f"{f' with {within}' if within else ''}; the 95 % interval (Wilson) is {percents(ends)} %."
    )
    if others:
        beside = ", ".join(f"“{label(result.defenses[j])}” keeps {percent(result.worst_case[j])} %" for j in others)
        sentence += f" This is the model as it is deployed, “{defense}”; beside it, {beside}."
    clean = result.clean[i].mean()
    measures = [
        Measure("worst case per image", percent(worst), f"95 % interval {percents(ends)} %"),
        *_certified(result),
        Measure("clean", percent(clean), f"95 % interval {percents(wilson_intervals(result.clean)[i])} %"),
    ]
    j = ready_made(result)
    if j is not None:
        claimed = result.accuracy[i, j]
        gap = 100 * (claimed - worst)
        note = f"overrates it by {gap:.1f} points" if gap else "overrates nothing here"
        name = "PGD alone" if result.settings.get("protocol") == "network" else "ready-made attack alone"
        measures.append(Measure(name, percent(claimed), f"{note} (“{result.columns[j]}”)"))
    return Headline(sentence, tuple(measures))


def ready_made(result: GridResult) -> int | None:
    """The column of the ready-made attack, the one that needs no thought about the solver; None where there is none."""
    return result.ready_made.index(True) if True in result.ready_made else None


def _certified(result: GridResult) -> list[Measure]:
    """What is guaranteed of the first row, where a certificate was given."""
    if result.certified is None:
        return []
    ends = percents(wilson_intervals(result.certified))
    note = f"95 % interval {ends} %, {result.certificate}: no attack can leave less"
    return [Measure("certified", percent(result.certified.mean()), note)]


def grid_chart(result: GridResult) -> Chart:
    """The defense × attack table, its cells coloured, attacks downwards."""
    note = "The more colour, the fewer images stand; framed, what all attacks leave together."
    return Chart("Defense × attack", _found(result), grid_table(result), note, falling=True)


def _found(result: GridResult) -> str:
    """What the chart shows: the strongest attack of those made on all images, and what all of them leave together."""
    alone = [j for j in range(len(result.columns)) if not (result.cumulative and result.cumulative[j])]
    many, defense = len(result.defenses) > 1, label(result.defenses[0])
    together = (
        f"Under all attacks together {f'“{defense}”' if many else 'the model'} keeps {percent(result.worst_case[0])} %."
    )
    if not alone:
        return together
    j = min(alone, key=lambda j: result.accuracy[0, j])
    single = f"The strongest single attack{f' on “{defense}”' if many else ''} is “{label(result.columns[j])}”"
    return f"{single}: it leaves {percent(result.accuracy[0, j])} % of the images standing. {together}"


def profile_charts(profiles: Mapping[str, StateProfile]) -> tuple[Chart, ...]:
    """Residual and accuracy of every state, clean and attacked (Figs. 2a and 2b)."""
    residuals, accuracies = profile_panels(profiles)
    columns, peaks = accuracies.columns, accuracies.values.argmax(axis=1)
    falls = (
        f"{name}: from {number(line[0], True)} at {columns[0]} to {number(line[-1], True)} at the final state"
        for name, line in zip(profiles, residuals.values, strict=True)
    )
    tops = (
        f"{name}: {line[-1]:.1f} % at the final state, "
        + (f"at most {line[peak]:.1f} % at {columns[peak]}" if line[peak] > line[-1] else "the most")
        for name, line, peak in zip(profiles, accuracies.values, peaks, strict=True)
    )
    found = f"Mean relative residual; {'; '.join(falls)}.", f"Accuracy when the state is read; {'; '.join(tops)}."
    return tuple(
        Chart(panel.title, finding, panel_table(panel).turned(), plot=Plot.of(panel))
        for panel, finding in zip((residuals, accuracies), found, strict=True)
    )


def check_table(check: Check) -> Table:
    """The numbers that a check rests on, per defense."""
    measures = tuple(dict.fromkeys(name for numbers in check.numbers.values() for name in numbers))
    rows = [
        (defense, *(measured(name, numbers[name]) if name in numbers else "–" for name in measures))
        for defense, numbers in check.numbers.items()
    ]
    return Table.of("defense", measures, rows)


def unchecked(result: GridResult) -> str:
    """Why an evaluation has no checks, and what makes them."""
    if result.settings.get("protocol") == "network":
        return "No checks were made: they ask whether a solver's gradients can be trusted; this network has no solver."
    return (
        "No checks were made: the protocols worst-case and strict check their attacks; `robustdeq evaluate WEIGHTS "
        "--protocol worst-case` does."
    )
