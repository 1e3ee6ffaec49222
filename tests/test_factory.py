"""Models that no registry knows, through the command line: by the import path of what makes them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import robustdeq as rd
from robustdeq import cli
from robustdeq.base.errors import InputError
from robustdeq.base.imports import imported
from robustdeq.cli.subject import opened, short
from robustdeq.data import Images
from robustdeq.deq import DEQ, Around
from robustdeq.evaluation import GridResult, Store
from robustdeq.evaluation.store import FILE
from robustdeq.study import Reproduction
from robustdeq.zoo.card import fingerprint
from robustdeq.zoo.factory import Factory
from robustdeq.zoo.registry import read_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
CONV, TORCHDEQ, PLAIN = (EXAMPLES / f"{name}.py" for name in ("own_cell", "torchdeq_model", "plain_network"))
TOKENS, MONOTONE, DEFENSES = (EXAMPLES / f"{name}.py" for name in ("token_model", "monotone", "own_defenses"))
QUICK = ["--data", "digits", "-n", "4", "--attack.eps", "1/4", "--attack.steps", "1", "--early", "2"]
QUICK += ["--estimators.steps", "[1]", "--estimators.dampings", "[1.0]", "--estimators.states", "1"]
WEAK = {"steps": 1, "restarts": 1, "apgd_steps": 2, "targets": 1, "queries": 2, "probe_images": 2}
QUICK += [f"--strict.{name}={value}" for name, value in WEAK.items()]
ADJOINTS = {f"simultaneous adjoint, {reads}" for reads in ("final", "intermediate", "ensemble")}


def digits(n: int = 4) -> Images:
    return rd.data.load("digits").require("test").head(n)


DEQS = {
    "conv": (CONV, (), set()),
    "anderson": (CONV, ("--model.solver", "anderson", "--model.width", "8"), ADJOINTS),
    "torchdeq": (TORCHDEQ, (), ADJOINTS),
    "tokens": (TOKENS, (), set()),
    "monotone": (MONOTONE, ("--model.m", "0.5", "--model.steps", "8"), set()),
}


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *((name, "paper") for name in ("conv", "torchdeq", "tokens")),
        *(pytest.param(name, "paper", marks=pytest.mark.slow) for name in ("anderson", "monotone")),
        *(pytest.param(name, "strict", marks=pytest.mark.slow) for name in DEQS),
    ],
)
def test_a_deq_of_somebody_goes_through_evaluate_report_and_export(name: str, protocol: str, tmp_path: Path) -> None:
    (factory, options, missing), out = DEQS[name], tmp_path / "out"
    cli.main(["evaluate", f"{factory}:build", *options, *QUICK, "--protocol", protocol, "-o", str(out)])
    result = GridResult.read(out / "results.json")
    assert set(result.missing) - {"implicit gradient, SHINE"} == missing
    assert result.settings["attack"]["eps"] == 0.25
    cli.main(["report", str(out), "--output", str(tmp_path / "report.html")])
    cli.main(["export", str(out), "--to", str(tmp_path / "table.tex")])
    assert (tmp_path / "table.tex").read_text().count(r"\begin{table}") == 1


@pytest.mark.slow
def test_defenses_of_somebody_are_rows_with_their_adaptive_columns(tmp_path: Path) -> None:
    defenses = {"median": "MedianOfStates", "noise": "NoiseMean", "rounded": "Rounded"}
    options = [text for name, kind in defenses.items() for text in (f"--defenses.{name}", f"{DEFENSES}:{kind}")]
    options += ["--gradients.short", f"{tmp_path / 'own.py'}:SHORT", "--protocol", "strict"]
    options += ["--attacks.margin", f"{tmp_path / 'own.py'}:MARGIN"]
    (tmp_path / "own.py").write_text(
        "import robustdeq as rd\nSHORT = rd.gradients.Phantom(steps=1, damping=1.0)\n"
        "MARGIN = rd.attacks.PGD(eps=0.25, criterion='margin')\n"
    )
    cli.main(["evaluate", f"{CONV}:build", *QUICK, *options, "-o", str(tmp_path / "out")])
    result = GridResult.read(tmp_path / "out/results.json")
    assert result.defenses == ("final", "early (z_2)", "ensemble", *defenses)
    assert "margin" in result.columns
    assert {f"through the solver, {name}" for name in defenses} <= set(result.columns)
    assert "short" in result.columns
    with Store.read(tmp_path / "out" / FILE) as store:
        columns = {column["id"]: column["attempts"] for column in store.manifest["columns"]}
    for column in ("restarts", "apgd", "apgd-t", "square"):
        assert {*defenses} <= {attempt["settings"]["against"] for attempt in columns[column]}
    deq, x = imported(f"{CONV}:build")().eval(), digits().tensors()[0]
    made = {kind: imported(f"{DEFENSES}:{kind}") for kind in defenses.values()}
    final, median = (
        rd.Defended(deq, defense)(x) for defense in (rd.defenses.FinalState(), Around(made["MedianOfStates"]))
    )
    states = torch.stack([rd.Defended(deq, rd.defenses.EarlyState(n))(x) for n in (5, 6, 7)])
    assert torch.equal(median, states.sort(dim=0).values[1])
    rounded = rd.Defended(deq, Around(made["Rounded"]))
    assert torch.equal(rounded((3 * x).round() / 3), rd.Defended(deq, rd.defenses.FinalState())((3 * x).round() / 3))
    assert not torch.equal(rd.Defended(deq, Around(made["NoiseMean"]))(x), final)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--defenses.final", f"{DEFENSES}:Rounded"], "there is a row 'final' already; give the defense another name"),
        (["--defenses.mine", "math:pi"], "math:pi is no Defense; name one, or a class of it"),
        (["--attacks.mine", "math:sqrt"], "math:sqrt is no Attack; name one, or a class of it"),
        (["--attacks.mine", "robustdeq.attacks:BallAttack"], "BallAttack cannot be made with eps, norm, bounds, seed"),
        (["--gradients.mine", "math:sqrt"], "math:sqrt is no Gradient; name one, or a class of it"),
        (["--defenses.mine", "robustdeq.defenses:EarlyState"], "EarlyState cannot be made without arguments"),
    ],
)
def test_a_defense_that_is_none_ends_the_command(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", f"{CONV}:build", *QUICK, *options, "-o", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_examples_of_models_and_defenses_are_short() -> None:
    lengths = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.glob("*.py")}
    del lengths["headline.py"]
    assert max(lengths.values()) < 60


@pytest.mark.slow
def test_any_module_goes_through_evaluate(tmp_path: Path) -> None:
    cli.main(["evaluate", f"{PLAIN}:build", *QUICK[:8], "-o", str(tmp_path / "out")])
    assert GridResult.read(tmp_path / "out/results.json").defenses == ("as it is",)


def test_images_that_are_no_pictures_are_reported_without_exhibits(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 2, 8, 8), np.uint8)
    np.savez(tmp_path / "radar.npz", x_test=x, y_test=np.arange(4))
    rd.save(rd.models.conv("digits", 4, 2), tmp_path / "deq.safetensors")
    out = str(tmp_path / "out")
    cli.main(["evaluate", str(tmp_path / "deq.safetensors"), *QUICK, "--data", str(tmp_path / "radar.npz"), "-o", out])
    cli.main(["report", out, "--output", str(tmp_path / "report.html")])


def test_weights_are_read_as_tensors_alone(tmp_path: Path) -> None:
    other = imported(f"{CONV}:build")(width=8)
    nn.init.zeros_(other.head[2].weight)
    save_file(other.state_dict(), tmp_path / "own.safetensors")
    torch.save(other.state_dict(), tmp_path / "own.pt")
    for file in ("own.safetensors", "own.pt"):
        model = opened(f"{CONV}:build", digits(), tmp_path / file, {"width": 8}).model
        assert isinstance(model, DEQ)
        assert not model.training
        assert fingerprint(model) == fingerprint(other)
    torch.save(other, tmp_path / "pickled.pt")
    with pytest.raises(InputError, match=r"pickled\.pt is not a checkpoint of tensors alone"):
        opened(f"{CONV}:build", digits(), tmp_path / "pickled.pt", {"width": 8})


def test_what_a_class_computes_is_part_of_its_fingerprint(tmp_path: Path) -> None:
    text = CONV.read_text()
    for name, code in (("same", text), ("other", text.replace("torch.tanh", "torch.sin"))):
        (tmp_path / f"{name}.py").write_text(code)
    ours, same, other = (
        fingerprint(opened(f"{path}:build", digits()).model)
        for path in (CONV, tmp_path / "same.py", tmp_path / "other.py")
    )
    assert ours == same
    assert ours != other


def test_the_solve_of_somebodys_deq_is_set_like_that_of_ours() -> None:
    arguments = {"width": 8, "max_steps": 3, "tol": 0.5, "tail_steps": 2, "tail_damping": 0.25}
    deq = Factory(f"{CONV}:build", arguments).make()
    assert isinstance(deq, DEQ)
    assert (deq.solver.max_steps, deq.solver.tol) == (3, 0.5)
    assert deq.tail == rd.models.Unroll(2, 0.25, from_image=True)


def test_a_deq_of_somebody_is_trained_saved_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CONV.read_text())
    train = ["train", "conv-digits-unrolled", "--model", "mine.py:build", "--architecture.width", "8"]
    train += ["--schedule.max_steps", "2", "--schedule.validations", "1", "--schedule.validation_images", "8"]
    train += ["--output", "out", "--resume"]
    cli.main(train)
    weights = tmp_path / "out/model.safetensors"
    with pytest.raises(InputError, match=r"the code of mine\.py:build makes; read it, and pass trust=True \(--trust\)"):
        rd.load(weights)
    deq, fresh = rd.load(weights, trust=True), imported("mine.py:build")(width=8)
    trained = fingerprint(deq)
    assert trained != fingerprint(fresh)
    fresh.load_state_dict(read_weights(weights))
    assert trained == fingerprint(fresh)
    assert deq.gradient == rd.gradients.Phantom(5, 0.5)
    assert "mine.py:build(width=8)" in weights.with_suffix(".md").read_text()

    before = weights.read_bytes()
    cli.main(train)
    assert weights.read_bytes() == before
    evaluate = ["evaluate", "out/model.safetensors", *QUICK]
    with pytest.raises(SystemExit):
        cli.main(evaluate)
    assert "pass trust=True (--trust) to let it run" in capsys.readouterr().err
    cli.main([*evaluate, "--trust"])

    monkeypatch.chdir("out")
    (tmp_path / "mine.py").rename(tmp_path / "out/mine.py")
    assert fingerprint(rd.load("model", trust=True)) == trained


def test_what_a_factory_does_not_make_is_not_saved_as_its_own(tmp_path: Path) -> None:
    deq = imported(f"{CONV}:build")(steps=3)
    with pytest.raises(InputError, match="makes another solver or tail; give the arguments that make this model's"):
        rd.save(deq, tmp_path / "own", factory=f"{CONV}:build")
    with pytest.raises(InputError, match=r"could not be rebuilt from a file"):
        rd.save(deq, tmp_path / "own", factory=f"{CONV}:build", arguments={"width": 4})
    with pytest.raises(InputError, match=r"give the factory that makes it, as FILE\.py:NAME"):
        rd.save(deq, tmp_path / "own")
    assert not [*tmp_path.iterdir()]
    state = torch.get_rng_state()
    rd.save(deq, tmp_path / "own", factory=f"{CONV}:build", arguments={"steps": 3})
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(rd.load(tmp_path / "own", trust=True)) == fingerprint(deq)


@pytest.mark.slow
def test_experiments_train_and_measure_a_deq_of_somebody(tmp_path: Path) -> None:
    options = ["--scale", "conv-digits", "--model", f"{CONV}:build", "--architecture.width", "8", "-n", "4"]
    options += ["--budget.max_steps", "1", "--budget.validation_images", "8", "--output", str(tmp_path)]
    cli.main(["reproduce", "fig2b", *options])
    found = Reproduction.read(tmp_path / "fig2b.json")
    assert found.provenance["factory"] == {"path": f"{CONV}:build", "arguments": {"width": 8}}
    assert found.panels[0].columns == tuple(f"z_{n}" for n in range(1, 10))
    ways = ("exact-8-7", "exact-18-20", "unrolled")
    assert set(found.provenance["models"]) == {f"{CONV}:build {way}" for way in ways}


@pytest.mark.parametrize(
    ("path", "name"), [(f"{CONV}:build", "own_cell-build"), ("torch.nn:Flatten", "torch.nn-Flatten")]
)
def test_results_lie_in_a_folder_of_the_name_of_the_factory(path: str, name: str) -> None:
    assert opened(path, digits()).name == name


def test_results_of_weights_here_lie_in_a_folder_of_the_name_of_this(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert short("model.safetensors") == tmp_path.name == short(str(tmp_path / "model.safetensors"))


FAULTS = {
    "no such file": ("missing.py:build", {}, "there is no file missing.py; give FILE.py:NAME"),
    "no such module": ("no.such.module:build", {}, "no.such.module cannot be imported (ModuleNotFoundError: "),
    "no such name": (f"{CONV}:biuld", {}, "has no 'biuld'; did you mean build?"),
    "no such argument": (f"{CONV}:build", {"widht": 3}, "takes no 'widht'; did you mean width?"),
    "a failure within": (f"{CONV}:build", {"solver": "none"}, "build makes no model (KeyError: 'none')"),
    "no module": ("math:sqrt", {"x": 4.0}, "math:sqrt makes no model (TypeError: "),
    "something missing": ("torch.nn:Linear", {"in_features": 3}, "torch.nn:Linear needs 'out_features'; give --model."),
    "other images": ("torch.nn:Linear", {"in_features": 3, "out_features": 2}, "takes no images of shape (1, 8, 8)"),
    "other answers": ("torch.nn:Identity", {}, "torch.nn:Identity does not return logits (B, K)"),
    "no number of steps": (f"{CONV}:build", {"max_steps": "abc"}, "own_cell.py:build is 'abc'; give int."),
    "no tail": (f"{CONV}:build", {"tail_damping": [1]}, "own_cell.py:build is [1]; give float."),
    "no solve": ("torch.nn:Flatten", {"max_steps": 3}, "takes no 'max_steps', and its Flatten has no solve of ours"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_factory_that_cannot_be_used_is_one_sentence(fault: str) -> None:
    path, arguments, said = FAULTS[fault]
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        opened(path, digits(), arguments=arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.py:build"], "there is no file missing.py"),
        ([f"{CONV}:build", "--weights", "missing.pt"], "there are no weights at missing.pt"),
        (["small-cifar10-fast", "--model.width", "8"], "was made already; give --model.… for FILE.py:NAME alone"),
        (["small-cifar10-fast", "--weights", "w.pt"], "has its weights in it; give --weights for FILE.py:NAME alone"),
    ],
)
def test_a_model_that_cannot_be_opened_ends_the_command(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", *arguments, "--data", "digits"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
