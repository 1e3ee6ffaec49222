"""What the page says of an evaluation: its headline, its charts and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import Check, GridResult, StateProfile
from robustdeq.reporting.columns import ready_made, shown_columns
from robustdeq.reporting.page.charts import Chart, curves, heat_map, heat_map_width, wrapped
from robustdeq.reporting.tabulation import Table, grid_table
from robustdeq.reporting.wording import count, label, measured, number, percent, percents, states, threat


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


def best(result: GridResult) -> int:
    """The row of the defense with the greatest worst case, the first of equals."""
    return int(result.worst_case.argmax())


def headline(result: GridResult) -> Headline:
    """The worst case of the best defense, and what clean images and the ready-made attack alone would have said."""
    i, samples = best(result), result.clean.shape[1]
    worst, ends = result.worst_case[i], result.worst_case_intervals[i]
    defense = label(result.defenses[i])
    many = len(result.defenses) > 1
    within = threat(result.settings)
    sentence = (
        f"{percent(worst)} % of {count(samples, 'image')} are classified correctly as they are and under "
        f"{'every one of ' if len(result.columns) > 1 else ''}{count(len(result.columns), 'attack')}"
        f"{f' with {within}' if within else ''}; the 95 % interval (Wilson) is {percents(ends)} %."
        + (f" This is the defense “{defense}”, the best of {len(result.defenses)}." if many else "")
    )
    clean = result.clean[i].mean()
    measures = [
        Measure("worst case per image", percent(worst), f"95 % interval {percents(ends)} %"),
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


def grid_chart(result: GridResult) -> Chart:
    """The defense × attack table as a heat map, attacks downwards."""
    columns, samples = shown_columns(result), result.clean.shape[1]
    defenses, many = tuple(map(label, result.defenses)), len(result.defenses) > 1
    clean = ("clean", result.clean.mean(axis=1), wilson_intervals(result.clean), ())
    worst = ("worst case per image", result.worst_case, result.worst_case_intervals, ("all of them",))
    attacks = [
        (
            label(column.name),
            result.accuracy[:, column.index],
            result.intervals[:, column.index],
            (wrapped(f"gradient: {column.climbs}", 60), column.kind),
        )
        for column in columns
    ]
    lines = [clean, *attacks, worst]
    details = [
        [
            "<br>".join(
                (
                    f"<b>{wrapped(name, 48)}</b>, {wrapped(defense, 48)}",
                    f"{percent(share)} % of {samples:,} images; 95 % interval {percents(end)} %",
                    *behind,
                )
            )
            for defense, share, end in zip(defenses, shares, ends, strict=True)
        ]
        for name, shares, ends, behind in lines
    ]
    names, shares = [name for name, *_ in lines], np.array([shares for _, shares, *_ in lines])
    texts = [[percent(share) for share in row] for row in shares]
    papers = sum(not column.beyond_paper for column in columns)
    i, j = np.unravel_index(result.accuracy.argmin(), result.accuracy.shape)
    note = "Accuracy in %. The pointer shows the interval and the gradient behind a number; the table has both."
    if any(result.cumulative):
        note += " ↓: made on what withstood all attacks above, which it includes."
    return Chart(
        "Defense × attack",
        heat_map(
            names,
            defenses,
            100 * shares,
            texts,
            details,
            (0.0, 100.0),
            rules=sorted({1, 1 + papers, len(names) - 1}),
        ),
        f"The strongest single attack is “{label(result.columns[j])}”: it leaves {percent(result.accuracy[i, j])} % of "
        f"the images standing{f' under the defense “{defenses[i]}”' if many else ''}. Under all attacks together "
        f"{'the best defense' if many else 'the model'} keeps {percent(result.worst_case.max())} %.",
        grid_table(result),
        width=heat_map_width(defenses, texts),
        note=note,
    )


def profile_charts(profiles: Mapping[str, StateProfile]) -> tuple[Chart, ...]:
    """Residual and accuracy of every state, clean and attacked (Figs. 2a and 2b)."""
    names = tuple(profiles)
    residuals = np.array([profile.residual for profile in profiles.values()], float)
    accuracies = np.array([profile.accuracy for profile in profiles.values()])
    columns = states(residuals.shape[1])
    peaks = accuracies.argmax(axis=1)
    falls = (
        f"{name}: from {number(line[0], True)} at {columns[0]} to {number(line[-1], True)} at the final state"
        for name, line in zip(names, residuals, strict=True)
    )
    tops = (
        f"{name}: {percent(line[-1])} % at the final state, "
        + (f"at most {percent(line[peak])} % at {columns[peak]}" if line[peak] > line[-1] else "the most")
        for name, line, peak in zip(names, accuracies, peaks, strict=True)
    )
    return (
        Chart(
            "Residual",
            curves(names, columns, residuals, "‖f(z)−z‖ / ‖f(z)‖", "state", logarithmic=True),
            f"Mean relative residual; {'; '.join(falls)}.",
            Table.of(
                "state",
                names,
                [(column, *(number(value, True) for value in residuals[:, n])) for n, column in enumerate(columns)],
                "mean relative residual",
            ),
        ),
        Chart(
            "Accuracy",
            curves(names, columns, 100 * accuracies, "accuracy (%)", "state", span=(0.0, 102.0)),
            f"Accuracy when the state is read; {'; '.join(tops)}.",
            Table.of(
                "state",
                names,
                [(column, *map(percent, accuracies[:, n])) for n, column in enumerate(columns)],
                "accuracy in %",
            ),
        ),
    )


@dataclass(frozen=True)
class Verdict:
    """A check of the attacks, in plain words.

    Attributes:
        name: what is checked.
        passed: whether nothing speaks against the attacks.
        sentence: what was found.
        numbers: what it rests on.
    """

    name: str
    passed: bool
    sentence: str
    numbers: Table


def verdict(check: Check) -> Verdict:
    """A check with its numbers as a table, per defense."""
    measures = tuple(dict.fromkeys(name for numbers in check.numbers.values() for name in numbers))
    rows = [
        (defense, *(measured(name, numbers[name]) if name in numbers else "–" for name in measures))
        for defense, numbers in check.numbers.items()
    ]
    return Verdict(check.name, check.passed, check.sentence, Table.of("defense", measures, rows))


def unchecked(result: GridResult) -> str:
    """Why an evaluation has no checks, and what makes them."""
    if result.settings.get("protocol") == "network":
        return (
            "None were made: they ask whether the gradients of a solver can be trusted, and this network has no solver."
        )
    return (
        "None were made: only the strict protocol checks its attacks; `robustdeq evaluate WEIGHTS --protocol strict` "
        "does."
    )
