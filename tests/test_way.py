"""The way of an image, from `measure` to the logits and back, is the one that CONTRIBUTING.md writes down."""

import re
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

import robustdeq as rd
from cells import make_deq
from robustdeq.attacks import PGD
from robustdeq.evaluation import Chosen, measure

ROOT = Path(__file__).parents[1]
SOURCES = Path(rd.__file__).parent


def written(beginning: str) -> list[str]:
    """The files that a sentence of CONTRIBUTING.md names, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paragraph = text[text.index("**The way of an image.**") :].partition("\n\n")[0].replace("\n", " ")
    sentence = paragraph[paragraph.index(beginning) :].partition(". ")[0]
    return re.findall(r"`([a-z_/]+\.py)`", sentence)


def at_work() -> set[str]:
    """The package's files among those whose functions are being called, while an attack climbs."""
    frame, files = sys._getframe(), set()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCES):
            files.add(path.relative_to(SOURCES).as_posix())
        frame = frame.f_back
    return files if "attacks/pgd.py" in files else set()


class Watched(nn.Module):
    """A part of a model that notes who is at work when it is called, and when it is differentiated."""

    def __init__(self, part: nn.Module, seen: set[str]) -> None:
        super().__init__()
        self.part, self.seen = part, seen

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        self.seen |= at_work()
        output = self.part(*inputs)
        if output.requires_grad:
            output.register_hook(lambda _: self.seen.update(at_work()))
        return output


def test_no_file_is_on_the_way_that_is_not_written_down() -> None:
    deq, seen = make_deq(), set[str]()
    for part in ("injection", "cell", "head"):
        setattr(deq, part, Watched(getattr(deq, part), seen))
    x = torch.rand(2, 6)
    attack = Chosen(PGD(0.1, 0.1, steps=1), {"PGD": (PGD(0.1, 0.1, steps=1), None)})
    measure(deq.eval(), x, torch.tensor([0, 1]), attack, defenses={"final": rd.defenses.FinalState()})
    out, back, beside = written("Out:"), written("Back:"), written("Beside it:")
    assert len({*out, *back}) <= 10
    assert seen <= {*out, *back, *beside}
    assert {*out} - seen <= {"solvers/broyden.py"}
    assert all((SOURCES / file).is_file() for file in (*out, *back, *beside))
