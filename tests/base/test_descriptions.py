"""Objects that do something else are described differently, and the same objects made anew are not."""

import json
import logging
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeq.base.imports import imported
from robustdeq.base.provenance import describe
from robustdeq.defenses import Around, EarlyState, FinalState, Randomised, Transformed
from robustdeq.models import fingerprint


class Quantised(nn.Module):
    """Rounds to so many levels, and remembers what it saw."""

    def __init__(self, levels: float, how: Callable[[Tensor], Tensor] = torch.round) -> None:
        super().__init__()
        self._levels, self.how, self._seen = levels, how, None
        self.device = torch.device("cpu")
        self.logger = logging.getLogger(__name__)
        self.way = self.forward

    def forward(self, x: Tensor) -> Tensor:
        self._seen = x
        return self.how(x * self._levels) / self._levels


class Holding:
    """Any object that holds something."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def rounded(self, x: Tensor) -> Tensor:
        return (x * self.held).round()


class Slotted:
    """Any object that holds something in a slot, and nothing else."""

    __slots__ = ("__held", "empty")

    def __init__(self, held: Any) -> None:
        self.__held = held


class SlottedBelow(Slotted):
    """The same, with attributes of its own."""


def rounding(levels: int) -> Callable[[Tensor], Tensor]:
    return lambda x: (x * levels).round() / levels


def recursive(levels: int) -> Callable[[int], int]:
    def power(n: int) -> int:
        return levels * power(n - 1) if n else 1

    return power


def by_default(levels: int) -> Callable[..., Tensor]:
    def rounded(x: Tensor, n: int = levels) -> Tensor:
        return (x * n).round()

    return rounded


def first(x: Tensor) -> Tensor:
    return x.round()


def second(x: Tensor) -> Tensor:
    return x.floor()


KINDS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "argument of a partial": (lambda n: partial(max, n), 1, 2),
    "keyword of a partial": (lambda n: partial(F.avg_pool2d, kernel_size=n), 1, 2),
    "function of a partial": (lambda f: partial(f, 1), max, min),
    "closure": (rounding, 2, 200),
    "closure on itself": (recursive, 2, 3),
    "default": (by_default, 2, 3),
    "lambdas of one line": (lambda f: f, lambda x: x.round(), lambda x: x.floor()),
    "constants of lambdas": (lambda f: f, lambda x: x * 2, lambda x: x * 3),
    "functions": (lambda f: f, first, second),
    "functions of torch": (lambda f: f, torch.tanh, torch.relu),
    "object of a method": (lambda n: Holding(n).rounded, 2, 3),
    "classes": (lambda kind: Around(kind), nn.ReLU, nn.Tanh),
    "attribute of a module": (lambda n: Transformed(Quantised(n)), 2, 200),
    "function of a module": (lambda f: Transformed(Quantised(2, f)), torch.round, torch.floor),
    "attribute of a part": (lambda n: nn.Sequential(nn.Identity(), Quantised(n)), 2, 3),
    "module of torch": (lambda n: Transformed(nn.Dropout(n)), 0.1, 0.2),
    "module in a list": (lambda n: Holding([Quantised(n)]), 2, 3),
    "defense within": (lambda n: Randomised(EarlyState(n)), 2, 3),
    "defenses": (lambda d: d, EarlyState(1), FinalState()),
    "array": (lambda n: Holding(np.arange(n)), 2, 3),
    "type of an array": (lambda kind: Holding(np.zeros(2, kind)), np.float32, np.int32),
    "number of numpy": (lambda n: Holding(np.float32(n)), 2, 3),
    "set": (lambda n: Holding({"a", "b", n}), 2, 3),
    "type of tensors": (Holding, torch.float32, torch.float64),
    "tensor": (lambda n: Holding(torch.tensor(n, dtype=torch.bfloat16)), 2.0, 3.0),
    "path": (lambda name: Holding(Path(name)), "a", "b"),
    "settings": (lambda n: Holding(Namespace(n=n)), 2, 3),
    "slot": (Slotted, 2, 3),
    "slot of a base": (SlottedBelow, 2, 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_does_something_else_is_described_differently(name: str) -> None:
    make, one, other = KINDS[name]
    said = describe(make(one))
    assert json.loads(json.dumps(said)) == json.loads(json.dumps(describe(make(one))))
    assert describe(make(other)) != said


def test_what_a_module_remembers_is_no_setting() -> None:
    module = Quantised(2)
    before = describe(module)
    module.train()(torch.rand(3))
    assert describe(module) == before


DEFENSE = """
from robustdeq.defenses import AsIs

class Base(AsIs):
    def logits(self, model, x):
        return model(x.{round}())

class Mine(Base):
    pass
"""


def test_the_code_of_a_class_and_of_its_bases_counts(tmp_path: Path) -> None:
    said = []
    for name, how in (("one", "round"), ("same", "round"), ("other", "floor")):
        (tmp_path / f"{name}.py").write_text(DEFENSE.replace("{round}", how))
        said.append(describe(imported(f"{tmp_path / name}.py:Mine")()))
    assert said[0] == said[1] != said[2]
    assert said[0]["class"] == "Mine"


READING = """
import torch
from torch import nn
from robustdeq.defenses import AsIs

LEVELS, _seen, calls = {value}, {{}}, {calls}

def quantised(x):
    global calls
    calls += 1
    _seen["x"] = x
    return (x * LEVELS).round() / LEVELS

def within(x):
    return [value * LEVELS for value in x]

def another(LEVELS):
    return LEVELS.round()

class Cell(nn.Module):
    @torch.no_grad()
    def forward(self, z, u):
        return z * LEVELS + u

class Below(Cell):
    pass

class Mine(AsIs):
    @property
    def levels(self):
        return LEVELS
"""


@pytest.fixture
def reading(tmp_path: Path) -> Callable[..., Any]:
    """What a file holds under a name, whose `LEVELS` are these."""

    def read(name: str, value: str, calls: int = 0) -> Any:
        file = tmp_path / str(len([*tmp_path.iterdir()])) / "own.py"
        file.parent.mkdir()
        file.write_text(READING.format(value=value, calls=calls))
        found = imported(f"{file}:{name}")
        return found() if isinstance(found, type) else found

    return read


VALUES = [("2", "64"), ("torch.ones(2)", "torch.zeros(2)"), ("[2, 2]", "[2, 3]"), ("{'a': 1.0}", "{'a': 2.0}")]


@pytest.mark.parametrize("name", ["quantised", "within", "Cell", "Below", "Mine"])
@pytest.mark.parametrize("values", [*VALUES, ("nn.ReLU()", "nn.Tanh()")], ids=str)
def test_what_is_read_of_its_module_counts(name: str, values: tuple[str, str], reading: Callable[..., Any]) -> None:
    one, same, other = (describe(reading(name, value)) for value in (values[0], *values))
    assert one == same != other


def test_what_is_read_of_the_module_of_a_cell_is_in_its_fingerprint(reading: Callable[..., Any]) -> None:
    one, same, other = (fingerprint(reading("Cell", value)) for value in ("2", "2", "64"))
    assert one == same != other


def test_what_is_remembered_or_not_read_in_its_module_does_not_count(reading: Callable[..., Any]) -> None:
    quantised = reading("quantised", "2")
    before = describe(quantised)
    quantised(torch.rand(3))
    assert before == describe(quantised) == describe(reading("quantised", "2", calls=7))
    assert describe(reading("another", "2")) == describe(reading("another", "64"))


def test_module_that_its_own_class_reads_is_described(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(READING.format(value="None", calls=0) + "\nLEVELS = Cell()\n")
    assert describe(imported(f"{tmp_path}/own.py:Cell")())["class"] == "Cell"
