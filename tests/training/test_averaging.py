"""The averaged weights are those of the recursion, and they are what is validated and kept."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from runs import CPU, SHORT, assert_same, column, digits, fit, model, recipe, weights
from torch import Tensor, nn
from typing_extensions import override

import robustdeq as rd
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.training import Standard
from robustdeq.training.averaging import Averaging
from robustdeq.training.checkpoints import SealedCheckpoints
from robustdeq.training.objectives import Adversaries, Moment


@dataclass(frozen=True)
class Recording(Standard):
    """Keeps the weights as they are before each step."""

    seen: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        self.seen.setdefault(moment.step, {name: tensor.clone() for name, tensor in model.state_dict().items()})
        return super().adversaries(model, x, y, moment)


@pytest.mark.parametrize(("decay", "accumulate"), [(0.3, 1), (0.99, 2)])
def test_average_is_the_recursion(decay: float, accumulate: int, tmp_path: Path) -> None:
    objective = Recording()
    schedule = replace(SHORT, max_steps=9, checkpoint_every=8, validations=1, accumulate=accumulate)
    fit(model(), digits(), recipe(objective=objective, schedule=schedule, averaging=decay), tmp_path, hardware=CPU)
    found = SealedCheckpoints().load_checkpoint(tmp_path / "checkpoints" / "step=8.ckpt")
    for name, last in objective.seen[8].items():
        assert torch.equal(found["current_model_state"][f"model.{name}"], last)
        average = found["state_dict"][f"model.{name}"]
        if not last.is_floating_point():
            assert torch.equal(average, last)
            continue
        expected = objective.seen[1][name].double()
        for t in range(1, 8):
            d = min(decay, (1 + t) / (10 + t))
            expected = d * expected + (1 - d) * objective.seen[t + 1][name].double()
        assert torch.allclose(average.double(), expected, rtol=1e-5, atol=1e-7)
        assert last.numel() < 50 or not torch.allclose(average, last, rtol=1e-5, atol=1e-7)


def test_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    schedule = replace(SHORT, max_steps=9, checkpoint_every=8, validations=9)
    objective = Recording()
    fit(model(), digits(), recipe(objective=objective, schedule=schedule, averaging=0.9), tmp_path, hardware=CPU)
    found = SealedCheckpoints().load_checkpoint(tmp_path / "checkpoints" / "step=8.ckpt")
    average = {name.removeprefix("model."): tensor for name, tensor in found["state_dict"].items()}
    deq = model()
    deq.load_state_dict(average)
    x, y = digits().require("development").head(24).tensors()
    with torch.no_grad():
        clean = float(correct(deq.eval()(x), y).float().mean())
        residual = float(deq.solve(x).residuals[-1].mean())
    assert column(tmp_path, "clean")[7] == pytest.approx(clean)
    assert column(tmp_path, "final_residual")[7] == pytest.approx(residual, rel=1e-4)
    best = found["callbacks"]["KeepBest"]
    kept = max(best["history"], key=lambda entry: entry[objective.aim])["step"]
    assert_same(objective.seen[8], {name: found["current_model_state"][f"model.{name}"] for name in average})
    assert (kept == 8) == all(torch.equal(best["weights"][name], average[name]) for name in average)
    assert_same(rd.load(tmp_path / "model.safetensors").state_dict(), weights(tmp_path))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match=f"averaging is {decay}; give the decay"):
        Averaging(decay)
