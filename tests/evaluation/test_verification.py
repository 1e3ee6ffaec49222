"""An evaluation is verified from its files: what was changed in them since, in whatever way, is found and named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.defenses import AsIs, Defense, EarlyState, FinalState
from robustdeq.deq.model import Loss
from robustdeq.evaluation import Chosen, Estimators, Network, WorstCase, measure
from robustdeq.evaluation.job import ADVERSARIES, CLEAN, adversaries_file
from robustdeq.evaluation.store import MANIFEST
from robustdeq.evaluation.verification import usual_defenses, verified

pytestmark = pytest.mark.xdist_group("measure")
ROWS: dict[str, Defense] = {"final": FinalState(), "early": EarlyState(2)}
EPS = 0.05
EFFORT = {"steps": 2, "restarts": 2, "apgd_steps": 2, "targets": 1, "queries": 10, "probe_images": 4}
AS_IT_IS: dict[str, Defense] = {"network": AsIs()}
Evaluated = tuple[Path, rd.models.DEQ, Tensor, Tensor]


@dataclass(frozen=True)
class Scattered(PGD):
    """Images that are projected from far outside the ball onto its surface."""

    @override
    def run(self, surrogate: nn.Module, x: Tensor, start: Tensor, loss: Loss) -> Tensor:
        return self.threat.project(x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x)


@pytest.fixture(scope="module")
def evaluated(trained: rd.models.MDEQ, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """An evaluation of seven images in two batches, whose attacks climb what still stands."""
    folder = tmp_path_factory.mktemp("evaluated")
    x, y = rd.data.load("digits").require("test").head(7).tensors()
    protocol = WorstCase(
        rd.attacks.PGD(EPS, 0.02, steps=2), Estimators(steps=(1,), dampings=(1.0,), states=1), **EFFORT
    )
    measure(trained, x, y, protocol, defenses=ROWS, batch_size=4, folder=folder, adversaries=True)
    return folder, trained, x, y


def changed(evaluated: Evaluated, tmp_path: Path, change: Callable[[dict[str, Tensor]], None]) -> tuple[Path, Path]:
    """A copy of an evaluation with the first file of adversaries changed, and that file."""
    folder = tmp_path / "copy"
    shutil.copytree(evaluated[0], folder)
    first = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["columns"][0]["attempts"][0]["key"]
    file = adversaries_file(folder / ADVERSARIES, first, 0)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return folder, file


def test_what_was_kept_agrees_with_the_store(evaluated: Evaluated) -> None:
    found = verified(*evaluated, ROWS, double=True)
    assert not found.problems
    assert found.files == len([*(evaluated[0] / ADVERSARIES).iterdir()]) > 4
    assert EPS / 2 < found.furthest <= EPS + 1e-6
    assert (found.verdicts > 7).all()
    assert not found.differing.any()
    assert found.rounded is not None and (found.rounded < found.verdicts).all()
    assert verified(*evaluated, ROWS).rounded is None


def farther(tensors: dict[str, Tensor]) -> None:
    x = tensors["adversaries"]
    x[0, 0, 3, 3] = (x[0, 0, 3, 3] + 0.2) % 1


def brighter(tensors: dict[str, Tensor]) -> None:
    tensors["adversaries"][1, 0, 0, 0] = 1.01


def unreal(tensors: dict[str, Tensor]) -> None:
    tensors["adversaries"][1, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(("norm", "eps"), [("L1", 12.0), ("L1", 75.0), ("L2", 3.0), ("Linf", 0.1)])
def test_rounding_is_no_breach_of_the_ball_and_more_than_rounding_is(tmp_path: Path, norm: str, eps: float) -> None:
    """Of images as large as those of CIFAR, in single precision."""
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)).eval(), 0.3 + 0.4 * torch.rand(24, 3, 32, 32)
    attack = Scattered(eps, norm=norm)
    protocol = Chosen(attack, {"scattered": (attack, None)})
    measure(model, x, torch.arange(24) % 3, protocol, defenses=AS_IT_IS, folder=tmp_path, adversaries=True)
    again = (tmp_path, model, x, torch.arange(24) % 3, AS_IT_IS)
    found = verified(*again)
    assert not found.problems
    (file,) = (path for path in (tmp_path / ADVERSARIES).iterdir() if not path.name.startswith(CLEAN))
    tensors = load_file(file)
    tensors["adversaries"][0] = x[0] + 1.001 * (tensors["adversaries"][0] - x[0])
    save_file(tensors, file)
    assert any("moves 1 images further than" in problem for problem in verified(*again).problems)


def relabelled(tensors: dict[str, Tensor]) -> None:
    tensors["labels"] = (tensors["labels"] + 1) % 10


def shortened(tensors: dict[str, Tensor]) -> None:
    tensors["adversaries"] = tensors["adversaries"][:2].clone()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (farther, "moves 1 images further than ε = 0.05, by up to 0."),
        (brighter, "holds pixels outside [0, 1]"),
        (unreal, "or that are no numbers"),
        (relabelled, "holds other images or labels than were attacked"),
        (shortened, "holds other images or labels than were attacked"),
    ],
)
def test_a_file_that_was_changed_is_named(
    evaluated: Evaluated, tmp_path: Path, change: Callable[[dict[str, Tensor]], None], sentence: str
) -> None:
    folder, file = changed(evaluated, tmp_path, change)
    problems = verified(folder, *evaluated[1:], ROWS).problems
    assert any(problem.startswith(str(file)) and sentence in problem for problem in problems)


def test_a_verdict_that_is_not_the_stores_is_counted(evaluated: Evaluated, tmp_path: Path) -> None:
    """Where an adversary is replaced by the image of another class, which the model then gets wrong."""
    _, model, x, y = evaluated
    with torch.no_grad():
        right = (model(x).argmax(dim=1) == y)[:4]
    assert right.any()
    i = int(right.nonzero()[0])
    other = x[int((y != y[i]).nonzero()[-1])]
    folder, file = changed(evaluated, tmp_path, lambda tensors: tensors["adversaries"][i].copy_(other))
    found = verified(folder, model, x, y, ROWS)
    assert found.differing.any()
    assert any(file.name in problem and "are not the store's" in problem for problem in found.problems)


def test_files_that_are_missing_damaged_or_unknown_are_named(evaluated: Evaluated, tmp_path: Path) -> None:
    folder, file = changed(evaluated, tmp_path, lambda tensors: None)
    file.rename(file.with_name("renamed.safetensors"))
    newest = max((folder / ADVERSARIES).glob("*-00001.safetensors"))
    newest.write_bytes(b"damaged")
    problems = verified(folder, *evaluated[1:], ROWS).problems
    assert len(problems) == 3
    for name, sentence in (
        (file.name, "No such file"),
        (newest.name, "holds no adversaries"),
        ("renamed.safetensors", "belongs to no attack"),
    ):
        assert any(name in problem and sentence in problem for problem in problems)


def test_another_model_other_images_and_other_rows_are_refused(evaluated: Evaluated, tmp_path: Path) -> None:
    folder, model, x, y = evaluated
    with pytest.raises(InputError, match="is about another model"):
        verified(folder, model.with_settings(solver=rd.solvers.Picard(max_steps=3)), x, y, ROWS)
    with pytest.raises(InputError, match="is about another set of images"):
        verified(folder, model, x, y.flip(0), ROWS)
    with pytest.raises(InputError, match=r"the rows of .* are final, early; give these"):
        verified(folder, model, x, y, {"final": FinalState()})
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / ADVERSARIES)
    with pytest.raises(InputError, match="evaluate with --save_adversaries"):
        verified(tmp_path / "copy", model, x, y, ROWS)


def test_rows_of_a_protocol_are_known_from_its_settings() -> None:
    reduction = rd.defenses.EntropyReduction()
    early = usual_defenses({"protocol": "paper", "early": 3}, reduction)
    assert [*early] == ["final", "early", "ensemble"] and early["early"] == EarlyState(3)
    chosen = {"protocol": "paper", "rows": ["final"], "defenses": {}}
    assert usual_defenses(chosen, reduction) == {"final": FinalState()}
    assert [*usual_defenses(Network().settings(), reduction)] == ["network"]
    adaptive = rd.evaluation.Adaptive(defense=reduction)
    assert usual_defenses(adaptive.settings(), reduction) == adaptive.defenses(None)
    with pytest.raises(InputError, match="other settings of --reduction"):
        usual_defenses(adaptive.settings(), rd.defenses.EntropyReduction(steps=1))
    with pytest.raises(InputError, match="given in Python"):
        usual_defenses({"protocol": "paper", "defenses": {}}, reduction)
