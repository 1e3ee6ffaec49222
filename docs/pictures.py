"""Pictures of the concepts, drawn from the equations when the documentation is built.

What each gradient differentiates:
A row is one solve: the injection u of x enters every step, z_0 … z_N are its states, two damped steps make the final
state z_{N+1}, a head makes logits of it, and those have a loss. Grey is what is computed forward; colour is what the
gradient passes on its way back.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STEPS, TAIL = 5, 2
STATES = [r"$z_0$", r"$z_1$", r"$z_2$", r"$z_3$", r"$z_4$", r"$z^*$", "", r"$z_{N+1}$", r"$\ell$", r"$L$"]
LAST, LOGITS, LOSS = STEPS + TAIL, STEPS + TAIL + 1, STEPS + TAIL + 2
LEVEL, INPUT = 1.0, 0.0
THEMES = {
    "light": {"ink": "#24292f", "forward": "#9aa0a8", "back": "#c2410c", "estimate": "#1d4ed8"},
    "dark": {"ink": "#e6e6e6", "forward": "#7d838c", "back": "#fb923c", "estimate": "#93b4ff"},
}


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0, wide: bool = False
) -> None:
    """An arrow between two states, bent by some curvature."""
    style = {
        "arrowstyle": "-|>",
        "color": colour,
        "lw": 2.2 if wide else 1.1,
        "shrinkA": 15 if start[0] == LAST else 9,
        "shrinkB": 15 if end[0] == LAST else 9,
        "connectionstyle": f"arc3,rad={bend}",
    }
    axes.annotate("", end, start, arrowprops=style)


def solve(axes: Axes, ink: str, forward: str, back: str, estimate: str) -> None:
    """The forward pass."""
    for n, name in enumerate(STATES):
        if name:
            axes.text(n, LEVEL, name, ha="center", va="center", color=ink, fontsize=12)
        else:
            axes.plot(n, LEVEL, "o", ms=4, color=forward)
    for n in range(LOSS):
        arrow(axes, (n, LEVEL), (n + 1, LEVEL), forward)
    axes.text(STEPS / 2, INPUT, r"$u(x)$", ha="center", va="center", color=ink, fontsize=12)
    for n in range(1, LAST + 1):
        axes.plot([STEPS / 2 + 0.12 * (n - STEPS / 2), n], [INPUT + 0.2, LEVEL - 0.24], lw=0.6, color=forward, zorder=0)


def to_input(axes: Axes, n: int, colour: str) -> None:
    """The gradient goes from a step down to the image."""
    arrow(axes, (n, LEVEL - 0.12), (STEPS / 2 + 0.12 * (n - STEPS / 2), INPUT), colour, wide=True)


def backwards(axes: Axes, first: int, last: int, colour: str) -> None:
    """The gradient goes back over states, above them."""
    for n in range(first, last, -1):
        arrow(axes, (n, LEVEL + 0.08), (n - 1, LEVEL + 0.08), colour, bend=0.5, wide=True)


def exact(axes: Axes, ink: str, forward: str, back: str, estimate: str) -> None:
    """(2), (3): a linear system at z*, solved apart from the solve."""
    axes.annotate(
        "",
        (STEPS + 0.1, LEVEL + 0.1),
        (LOSS, LEVEL + 0.1),
        arrowprops={"arrowstyle": "-|>", "color": back, "lw": 2.2, "connectionstyle": "arc3,rad=0.32", "shrinkA": 6},
    )
    axes.text(STEPS - 0.1, LEVEL + 0.62, r"$u = J^\top u + \partial_z L$", ha="right", color=back, fontsize=11)
    to_input(axes, STEPS, back)


def phantom(axes: Axes, ink: str, forward: str, back: str, estimate: str) -> None:
    """(4)–(6): k steps from z*; z* itself is taken for a constant."""
    backwards(axes, LOSS, STEPS, back)
    for n in range(STEPS + 1, LAST + 1):
        to_input(axes, n, back)


def unrolled(axes: Axes, ink: str, forward: str, back: str, estimate: str) -> None:
    """(13)–(16): k steps from z_n to logits of their own."""
    top = LEVEL + 0.75
    for n, name in ((3, ""), (4, r"$\ell_n$"), (5, r"$L$")):
        if name:
            axes.text(n, top, name, ha="center", va="center", color=ink, fontsize=12)
        else:
            axes.plot(n, top, "o", ms=4, color=forward)
    arrow(axes, (2, LEVEL), (3, top), forward)
    arrow(axes, (3, top), (4, top), forward)
    arrow(axes, (4, top), (5, top), forward)
    for start, end in ((5, 4), (4, 3)):
        arrow(axes, (start, top + 0.04), (end, top + 0.04), back, bend=0.5, wide=True)
    arrow(axes, (3, top - 0.05), (STEPS / 2 + 0.05, INPUT + 0.05), back, wide=True)


def adjoint(axes: Axes, ink: str, forward: str, back: str, estimate: str) -> None:
    """(9)–(11): an adjoint beside every state, by the inverse Jacobian that the solver has built up."""
    top = LEVEL + 0.7
    for n in range(1, STEPS + 1):
        name = r"$u_N$" if n == STEPS else rf"$u_{n}$"
        axes.text(n, top, name, ha="center", va="center", color=estimate, fontsize=12)
        axes.plot([n, n], [LEVEL + 0.2, top - 0.16], ":", lw=1.2, color=estimate)
    for n in range(1, STEPS):
        arrow(axes, (n, top), (n + 1, top), estimate)
    axes.text(STEPS + 0.4, top, r"$u_{n+1} = u_n - \beta B_n^\top v_n$", va="center", color=estimate, fontsize=11)
    to_input(axes, 3, back)


def through(axes: Axes, ink: str, forward: str, back: str, estimate: str) -> None:
    """The derivative of what is computed: every step of the solve, the estimate B_n included."""
    backwards(axes, LOSS, 1, back)
    for n in range(1, LAST + 1):
        to_input(axes, n, back)


Draw = Callable[[Axes, str, str, str, str], None]
ROWS: dict[str, Draw] = {
    "Exact: implicit function theorem at z*": exact,
    "Phantom: k steps from z*": phantom,
    "Unrolled intermediate: k steps from a state on the way": unrolled,
    "Simultaneous adjoint: an adjoint beside the solve": adjoint,
    "Through the solver: what is actually computed": through,
}


def gradients(theme: str) -> bytes:
    """What each gradient differentiates, as SVG.

    Args:
        theme: light or dark.
    """
    colours = THEMES[theme]
    with mpl.rc_context({"svg.hashsalt": "robustdeq", "mathtext.fontset": "cm"}):
        figure = Figure(figsize=(8.4, 2.05 * len(ROWS)), layout="constrained")
        for axes, (title, draw) in zip(figure.subplots(len(ROWS)), ROWS.items(), strict=True):
            axes.set_title(title, loc="left", fontsize=12, color=colours["ink"], pad=2)
            axes.set(xlim=(-0.4, LOSS + 0.4), ylim=(INPUT - 0.25, LEVEL + 1.05))
            axes.axis("off")
            solve(axes, *colours.values())
            draw(axes, *colours.values())
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
