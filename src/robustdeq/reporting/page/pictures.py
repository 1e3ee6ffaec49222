"""What the page shows of a few images: the images, the perturbation, and the model's opinion state by state."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from robustdeq.evaluation.exhibits import Exhibits
from robustdeq.reporting.page.charts import Chart, curves, heat_map, heat_map_width, wrapped
from robustdeq.reporting.tabulation import Table
from robustdeq.reporting.wording import count, label, states


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
    return Chart(
        "Probability of the classes that lead at some state",
        curves(names, columns, np.array(lines), "probability (%)", "state", span=(0.0, 102.0), paired=True),
        finding,
        Table.of(
            "state",
            names,
            [(column, *(f"{line[n]:.1f}" for line in lines)) for n, column in enumerate(columns)],
            "probability in %",
        ),
    )


def agreement_chart(exhibits: Exhibits) -> Chart:
    """The mean cosine of every estimated gradient with the true one, state by state."""
    means = exhibits.cosines.double().mean(dim=2).numpy()
    rows, columns = tuple(map(label, exhibits.estimates)), states(means.shape[1])
    images = count(exhibits.cosines.shape[2], "image")
    final = means[:, -1]
    texts = [[f"{value:.2f}" for value in line] for line in means]
    details = [
        [
            f"<b>{wrapped(row, 48)}</b> at {column}<br>mean cosine {value:.3f} on {images}"
            for column, value in zip(columns, line, strict=True)
        ]
        for row, line in zip(rows, means, strict=True)
    ]
    return Chart(
        "Agreement of the estimated gradients with the true one",
        heat_map(rows, columns, means, texts, details, (min(0.0, float(np.nanmin(means))), 1.0), "state read"),
        f"At the final state “{rows[int(final.argmax())]}” comes closest to the gradient through the solver (mean "
        f"cosine {final.max():.2f}), and “{rows[int(final.argmin())]}” stays farthest from it ({final.min():.2f}).",
        Table.of("gradient", columns, [(row, *line) for row, line in zip(rows, texts, strict=True)], "mean cosine"),
        width=heat_map_width(columns, texts),
        note=f"Mean cosine with the gradient through the solver, on {images} only: an impression, no measurement.",
    )


def picture(pixels: Float[Tensor, "channels height width"]) -> str:
    """Pixels in [0, 1] as a PNG in a data URI; one channel is grey, three are colours."""
    levels = (255 * pixels.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
