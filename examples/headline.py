"""The headline run: a robust MDEQ-Large on CIFAR-10, and its honest number, by one command on one CUDA GPU.

    python examples/headline.py --data data/cifar10

It trains the model twice at equal budget, with the phantom gradient (the paper's) and through the solver (ours), and a
ResNet-18 beside them; then it measures all three, and writes tables, figures and pages. Every step goes on where it was
interrupted, so that the same command can also be given again and again:

    until timeout --signal INT 9m python examples/headline.py --data data/cifar10; do test $? -eq 124 || break; done
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli

from robustdeq import cli

TRAININGS = {
    "aligned": ("large-aligned-30min", "--schedule.epochs", "7"),
    "unrolled": ("large-30min", "--schedule.epochs", "15"),
    "resnet18": ("resnet18-pgdat", "--schedule.epochs", "8", "--execution.compiled", "true"),
}
"""In the order in which they matter, should time run out; the first two cost the same."""

EXPERIMENTS = (
    "table4",
    "table3",
    "strict-vs-paper",
    "true-gradient",
    "fig3b",
    "fig3c",
    "fig4",
    "adjoint-convergence",
    "attack-time",
)
"""Every table and figure that takes no other training."""


def main(
    data: str,
    output: Path = Path("runs/headline"),
    scale: str = "large",
    deq: Sequence[str] = (),
    network: Sequence[str] = (),
    evaluate: Sequence[str] = (),
    reproduce: Sequence[str] = (),
) -> None:
    """Train, measure and report.

    Args:
        data: a folder with training and test images, see `robustdeq train --help`.
        output: where everything goes.
        scale: of the experiments, which decides their threat model.
        deq: further options of the DEQs' trainings, such as ["--model", "small"].
        network: further options of the ResNet's training.
        evaluate: further options of the evaluations, such as ["-n", "100"].
        reproduce: further options of the experiments.
    """
    weights = {name: str(output / name / "model.safetensors") for name in TRAININGS}
    for name, training in TRAININGS.items():
        own = network if name == "resnet18" else deq
        place = ["--data", data, "--output", str(output / name), "--resume", "true"]
        cli.main(["train", *training, *place, *own])

    models = [name for name in TRAININGS if name != "resnet18"]
    for name in models:
        for protocol, options in (("paper", []), ("strict", ["--transfer", weights["resnet18"]])):
            place = ["--data", data, "--output", str(output / f"{name}-{protocol}")]
            cli.main(["evaluate", weights[name], "--protocol", protocol, *place, *options, *evaluate])
        cli.main(["report", str(output / f"{name}-strict"), "--output", str(output / f"{name}-strict.html")])

    compared = ["--weights.unrolled", weights["unrolled"], "--weights.aligned", weights["aligned"], "--seeds", "1"]
    place = ["--data", data, "--scale", scale, "--output"]
    cli.main(["reproduce", "alignment", *place, str(output / "compared"), *compared, *reproduce])
    for name in models:
        given = ["--weights.unrolled", weights[name], "--weights.resnet18", weights["resnet18"]]
        folder = str(output / f"{name}-reproduction")
        for experiment in EXPERIMENTS:
            cli.main(["reproduce", experiment, *place, folder, *given, *reproduce])
        cli.main(["report", str(output / "compared"), folder, "--output", str(output / f"{name}.md")])


if __name__ == "__main__":
    auto_cli(main)
