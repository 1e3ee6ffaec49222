"""What the page shows of a few images: the images, the perturbation, and the solver at work on them, state by state."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from robustdeq.evaluation.exhibits import Exhibits
from robustdeq.reporting.page.charts import Chart
from robustdeq.reporting.tabulation import panel_table
from robustdeq.reporting.wording import count, label, number, percent, states
from robustdeq.study import Panel


@dataclass(frozen=True)
class Step:
    """One state of the solver on an image and on its adversary.

    Attributes:
        name: of the state.
        residuals: clean and attacked, in words.
        shares: for each class that is shown its probability, clean and attacked; nan where the solve diverged.
        direction: the sign of the gradient, as a data URI.
        agreement: the share of pixels, in percent, whose sign is that at the final state.
    """

    name: str
    residuals: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    direction: str
    agreement: str


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
        classes: those that lead at some state, the true one first.
        steps: every state of the solve.
    """

    number: int
    clean: str
    perturbation: str
    adversary: str
    true: str
    seen: str
    fooled: str
    stands: bool
    classes: tuple[str, ...]
    steps: tuple[Step, ...]


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
    both = torch.stack([exhibits.clean[i], exhibits.attacked[i]])
    leading = list(dict.fromkeys([true, *both.argmax(dim=2).flatten().tolist()]))
    return Exhibit(
        number=i + 1,
        clean=picture(image),
        perturbation=picture(0.5 + (adversary - image) / (2 * span)),
        adversary=picture(adversary),
        true=exhibits.classes[true],
        seen=opinions[0],
        fooled=opinions[1],
        stands=fooled == true,
        classes=tuple(exhibits.classes[k] for k in leading),
        steps=tuple(_step(exhibits, i, n, name, leading) for n, name in enumerate(states(both.shape[1]))),
    )


def _step(exhibits: Exhibits, i: int, n: int, name: str, leading: list[int]) -> Step:
    read = [probabilities[i, n] for probabilities in (exhibits.clean, exhibits.attacked)]
    direction, last = exhibits.directions[n, i], exhibits.directions[-1, i]
    return Step(
        name=name,
        residuals=tuple(number(float(residual), True) for residual in exhibits.residuals[:, i, n]),
        shares=tuple(tuple(float(shares[k]) for shares in read) for k in leading),
        direction=picture(0.5 + direction / 2),
        agreement=percent(float((direction == last).double().mean())),
    )


def agreement_chart(exhibits: Exhibits) -> Chart:
    """The mean cosine of every estimated gradient with the true one, state by state."""
    means = exhibits.cosines.double().mean(dim=2).numpy()
    rows, final = tuple(map(label, exhibits.estimates)), means[:, -1]
    title = "Agreement of the estimated gradients with the true one"
    nearest, farthest = (f"“{rows[int(place)]}”" for place in (final.argmax(), final.argmin()))
    said = (
        f"At the final state {nearest} comes closest to the gradient through the solver (mean cosine "
        f"{final.max():.2f}), and {farthest} stays farthest from it ({final.min():.2f})."
    )
    if f"{final.max():.2f}" == f"{final.min():.2f}":
        said = f"At the final state all have the mean cosine {final.max():.2f} with the gradient through the solver."
    panel = Panel(title, "", rows, states(means.shape[1]), means, "gradient", "state read")
    return Chart(
        title,
        said,
        panel_table(panel),
        "Mean cosine with the gradient through the solver, on "
        f"{count(exhibits.cosines.shape[2], 'image')} only: an impression, no measurement. "
        "The more colour, the closer.",
    )


def picture(pixels: Float[Tensor, "channels height width"]) -> str:
    """Pixels in [0, 1] as a PNG in a data URI; one channel is grey, three are colours."""
    levels = (255 * pixels.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
