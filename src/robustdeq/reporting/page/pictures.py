"""What the page shows of a few images: the images, the perturbation, and the model's opinion state by state."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from robustdeq.evaluation.exhibits import Exhibits
from robustdeq.reporting.page.charts import Chart, curves
from robustdeq.reporting.page.panel_chart import panel_chart
from robustdeq.reporting.tabulation import panel_table
from robustdeq.reporting.wording import count, label, states
from robustdeq.study import Drawing, Panel


@dataclass(frozen=True)
class Exhibit:
    """One image, clean and attacked.

    Attributes:
        number: its place, from 1.
        clean: the image, as a data URI.
        perturbation: the difference, amplified.
        adversary: the attacked image.
        true: its class.
        seen: the class that the model gives it, with its probability.
        fooled: the class that it gives the attacked one.
        stands: whether that is still the true one.
        chart: the probability of the classes that lead somewhere, state by state.
    """

    number: int
    clean: str
    perturbation: str
    adversary: str
    true: str
    seen: str
    fooled: str
    stands: bool
    chart: Chart


def largest_change(exhibits: Exhibits) -> float:
    """The largest change of any pixel, which the pictures of the perturbations show as black or white."""
    return float((exhibits.adversaries - exhibits.images).abs().max())


def shown(exhibits: Exhibits) -> tuple[Exhibit, ...]:
    """Every image for the page."""
    span = largest_change(exhibits) or 1.0
    return tuple(_exhibit(exhibits, i, span) for i in range(len(exhibits.images)))


def _exhibit(exhibits: Exhibits, i: int, span: float) -> Exhibit:
    image, adversary = exhibits.images[i], exhibits.adversaries[i]
    true = int(exhibits.labels[i])
    final = [probabilities[i, -1] for probabilities in (exhibits.clean, exhibits.attacked)]
    seen, fooled = (int(last.argmax()) for last in final)
    opinions = [
        f"{exhibits.classes[k]} ({100 * float(last[k]):.0f} %)" for k, last in zip((seen, fooled), final, strict=True)
    ]
    return Exhibit(
        number=i + 1,
        clean=picture(image),
        perturbation=picture(0.5 + (adversary - image) / (2 * span)),
        adversary=picture(adversary),
        true=exhibits.classes[true],
        seen=opinions[0],
        fooled=opinions[1],
        stands=fooled == true,
        chart=_opinions(exhibits, i, true),
    )


def _opinions(exhibits: Exhibits, i: int, true: int) -> Chart:
    """The probability of the true class, and of each that leads at some state, clean and attacked."""
    both = np.stack([exhibits.clean[i].numpy(), exhibits.attacked[i].numpy()])
    leading = dict.fromkeys([true, *both.argmax(axis=2).ravel().tolist()])
    columns = states(both.shape[1])
    names, lines = [], []
    for k in leading:
        for how, probabilities in zip(("clean", "attacked"), both, strict=True):
            names.append(f"{exhibits.classes[k]}, {how}")
            lines.append(100 * probabilities[:, k])
    turned = [columns[n] for n in range(len(columns)) if both[1, n].argmax() != true]
    finding = (
        f"Attacked, the model reads another class than {exhibits.classes[true]} at {', '.join(turned)}."
        if turned
        else f"Attacked, the model reads {exhibits.classes[true]} at every state."
    )
    title = "Probability of the classes that lead at some state"
    panel = Panel(title, "%", tuple(names), columns, np.array(lines), column_axis="state", drawing=Drawing.CURVES)
    return Chart(title, curves(panel, paired=True), finding, panel_table(panel).turned())


def agreement_chart(exhibits: Exhibits) -> Chart:
    """The mean cosine of every estimated gradient with the true one, state by state."""
    means = exhibits.cosines.double().mean(dim=2).numpy()
    rows, final = tuple(map(label, exhibits.estimates)), means[:, -1]
    title = "Agreement of the estimated gradients with the true one"
    panel = Panel(title, "", rows, states(means.shape[1]), means, "gradient", "state read")
    chart = panel_chart(panel, (min(0.0, float(np.nanmin(means))), 1.0))
    return replace(
        chart,
        finding=f"At the final state “{rows[int(final.argmax())]}” comes closest to the gradient through the solver "
        f"(mean cosine {final.max():.2f}), and “{rows[int(final.argmin())]}” stays farthest from it "
        f"({final.min():.2f}).",
        table=replace(chart.table, notes=("mean cosine",)),
        note="Mean cosine with the gradient through the solver, on "
        f"{count(exhibits.cosines.shape[2], 'image')} only: an impression, no measurement.",
    )


def picture(pixels: Float[Tensor, "channels height width"]) -> str:
    """Pixels in [0, 1] as a PNG in a data URI; one channel is grey, three are colours."""
    levels = (255 * pixels.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
