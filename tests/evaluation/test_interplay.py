"""What two things do together: own losses and stores, gradients that are there already, rows in another order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import robustdeq as rd
from cells import IMAGE, make_deq
from robustdeq.attacks import PGD, MultiTargeted
from robustdeq.base.errors import InputError
from robustdeq.base.provenance import describe
from robustdeq.defenses import EarlyState, FinalState
from robustdeq.evaluation import Chosen, Estimators, Strict, WorstCase, measure
from robustdeq.evaluation.agreement import estimated_gradients
from robustdeq.evaluation.column import Column, Row
from robustdeq.evaluation.exhibits import exhibits
from robustdeq.evaluation.measure import plan
from robustdeq.evaluation.probes import Constant, Planted
from robustdeq.evaluation.verification import verified
from robustdeq.gradients import SHINE, Exact

FEW = Estimators(steps=(1,), dampings=(1.0,), states=1)
ATTACK = PGD(eps=0.1, step_size=0.05, steps=2)
EFFORT = {"steps": 2, "restarts": 1, "apgd_steps": 2, "targets": 1, "queries": 2, "probe_images": 2}


@pytest.fixture
def deq() -> rd.DEQ:
    return make_deq().eval()


@pytest.fixture
def data(deq: rd.DEQ) -> tuple[Tensor, Tensor]:
    x = torch.rand(6, *IMAGE)
    with torch.no_grad():
        return x, deq(x).argmax(dim=1)


def test_another_loss_of_the_same_name_is_another_evaluation(
    deq: rd.DEQ, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def manifest(loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, object]:
        monkeypatch.setattr("robustdeq.attacks.losses._KNOWN", {"cross_entropy": rd.attacks.losses.cross_entropy})
        loss.__name__ = "mine"
        return plan(deq, *data, Chosen(ATTACK, {"pgd": (PGD(0.1, 0.05, 2, criterion=loss), None)}), early=2).manifest()

    def first(logits: Tensor, y: Tensor) -> Tensor:
        return logits.sum(dim=1)

    def second(logits: Tensor, y: Tensor) -> Tensor:
        return -logits.sum(dim=1)

    assert manifest(first) == manifest(first)
    assert manifest(first) != manifest(second)
    assert "own losses and norms" not in plan(deq, *data, Chosen(ATTACK, {"pgd": (ATTACK, None)}), early=2).settings


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
@pytest.mark.usefixtures("unchecked")
def test_labels_may_be_any_integers(dtype: torch.dtype, deq: rd.DEQ, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    result = measure(deq, x, y.to(dtype), Strict(ATTACK, FEW, **EFFORT), defenses={"final": FinalState()})
    assert result.clean.all()
    exhibits(deq, x[:2], y[:2].to(dtype), tuple("abc"), ATTACK, FEW)


def test_a_gradient_that_the_protocol_climbs_is_not_climbed_again(deq: rd.DEQ, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="the protocol climbs the gradient 'SHINE again' already; leave it out"):
        plan(deq, *data, WorstCase(ATTACK, FEW, **EFFORT), gradients={"SHINE again": SHINE()}, early=2)


def test_attacks_that_make_for_a_class_are_refused_beside_the_others(deq: rd.DEQ, data: tuple[Tensor, Tensor]) -> None:
    aimed = {"aimed": PGD(0.1, 0.05, 2, targeted=True)}
    with pytest.raises(InputError, match="the attack 'aimed' is targeted"):
        plan(deq, *data, WorstCase(ATTACK, FEW, **EFFORT), attacks=aimed, early=2)


@dataclass(frozen=True)
class Compared(Strict):
    """The strict protocol, only the columns that are compared for misalignment."""

    @override
    def columns(self, model: nn.Module, rows: tuple[Row, ...], gradients: object) -> list[Column]:
        kept = super().columns(model, rows, {})
        return [column for column in kept if column.ready_made or column.id == "one-step" or "through" in column.id]


@pytest.mark.parametrize("order", [("final", "early"), ("early", "final")])
def test_misalignment_is_looked_for_where_the_final_state_is_read(
    order: tuple[str, str], data: tuple[Tensor, Tensor], deq: rd.DEQ
) -> None:
    defenses = {"final": FinalState(), "early": EarlyState(1)}
    rows = {name: defenses[name] for name in order}
    result = measure(deq, *data, Compared(ATTACK, FEW, **EFFORT), defenses=rows)
    (check,) = [check for check in result.checks if "misaligned" in check.name]
    assert any("final" in key for key in check.numbers)
    assert not any("early" in key for key in check.numbers)


def of_three(logits: Tensor, y: Tensor) -> Tensor:
    """A margin that asks for a third class, as the difference of logits ratio does."""
    first, second, _ = logits.topk(3, dim=1).values.T
    return torch.where(logits.argmax(dim=1) == y, second - first, first - second)


def test_the_self_test_has_as_many_classes_as_the_model() -> None:
    x = torch.rand(1, *IMAGE)
    attack = PGD(0.1, 0.05, 4, criterion=of_three)
    for model in (Planted(x, attack, 4), Constant(4)):
        assert model(x).shape == (1, 4)
        assert model(x).argmax() == 0
        fooled = model(attack(model.eval(), x, torch.tensor([0]))).argmax() != 0
        assert fooled == isinstance(model, Planted)


def test_an_evaluation_in_half_precision_is_verified(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).bfloat16().eval()
    x, y = torch.rand(4, *IMAGE).bfloat16(), torch.tensor([0, 1, 2, 0])
    chosen = Chosen(ATTACK, {"pgd": (ATTACK, None)})
    rows = {"network": rd.defenses.AsIs()}
    measure(network, x, y, chosen, defenses=rows, folder=tmp_path, adversaries=True)
    assert not verified(tmp_path, network, x, y, rows).problems


def test_the_models_own_exact_gradient_is_the_one_that_is_shown(deq: rd.DEQ, data: tuple[Tensor, Tensor]) -> None:
    own = Exact(max_steps=1)

    def loss(logits: Tensor) -> Tensor:
        return rd.attacks.losses.cross_entropy(logits, data[1])

    model = deq.with_settings(gradient=own)
    shown = estimated_gradients(model, data[0], loss, FEW)["ready-made, exact"][-1]
    torch.testing.assert_close(shown, own.input_gradient(model, data[0], loss))


def test_a_hook_makes_another_model(deq: rd.DEQ) -> None:
    before = describe(deq)
    handle = deq.head.register_forward_hook(lambda module, x, logits: -logits)
    assert describe(deq) != before
    handle.remove()
    assert describe(deq) == before


def test_several_losses_are_all_looked_at(deq: rd.DEQ, data: tuple[Tensor, Tensor]) -> None:
    def own(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return logits.sum(dim=1)

    several = MultiTargeted(ATTACK, 1, ("targeted_margin", own))
    settings = plan(deq, *data, Chosen(ATTACK, {"all": (several, None)}), early=2).settings
    assert settings["own losses and norms"][0]["function"].endswith("own")
