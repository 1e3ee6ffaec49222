"""`robustdeq evaluate`: a model, attacked through every gradient, under every defense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError, look_up, require
from robustdeq.base.progress import progress_bar
from robustdeq.base.provenance import command_and_versions
from robustdeq.base.threat import ThreatModel
from robustdeq.certificates import Certified
from robustdeq.cli.attack import Climb
from robustdeq.cli.console import console, say
from robustdeq.cli.device import device_named
from robustdeq.cli.outputs import refuse_file, refuse_to_overwrite
from robustdeq.cli.subject import Subject, attacks_at, check_named, defenses_at, gradients_at, opened, short
from robustdeq.data import Images
from robustdeq.data import load as load_data
from robustdeq.deq import DEQ, EntropyReduction
from robustdeq.deq.defenses import EarlyState
from robustdeq.evaluation import Estimators, GridResult, Network, Paper, Protocol, Strict, measure
from robustdeq.evaluation.distributed import launch
from robustdeq.evaluation.exhibits import FILE as EXHIBITS
from robustdeq.evaluation.exhibits import exhibits
from robustdeq.evaluation.protocols import PROTOCOLS
from robustdeq.evaluation.store import FILE as STORE
from robustdeq.reporting import checks_table, grid_table, save_profile_figure, terminal
from robustdeq.zoo import fingerprint, load
from robustdeq.zoo.factory import check_takes

_EXHIBITED = 6


def evaluate(
    network: str,
    *,
    data: str = "cifar10",
    weights: Path | None = None,
    model: dict[str, Any] | None = None,
    n: int | None = None,
    protocol: str | None = None,
    rows: list[str] | None = None,
    attack: Climb = Climb(),  # noqa: B008
    early: int | None = None,
    estimators: Estimators = Estimators(),  # noqa: B008
    strict: Strict = Strict(),  # noqa: B008
    reduction: EntropyReduction = EntropyReduction(),  # noqa: B008
    defenses: dict[str, str] | None = None,
    gradients: dict[str, str] | None = None,
    attacks: dict[str, str] | None = None,
    transfer: str | list[str] | None = None,
    trust: bool = False,
    batch_size: int = 64,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    save_adversaries: bool = False,
    certified: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Attack a model through every gradient, under every defense, and show the table.

    Everything finished is kept at once; the same command goes on where an interrupted one stopped. An explicit network
    is attacked by PGD and the standard AutoAttack.

    Args:
        network: a file that `robustdeq train` or `convert` wrote, the name of packaged weights, hf://OWNER/NAME on the
            Hugging Face Hub, or FILE.py:NAME or package.module:NAME of a function whose code runs and returns an
            rd.DEQ, a TorchDEQ module, or any module from images to logits.
        data: where the test images come from; see `robustdeq train --help`.
        weights: for FILE.py:NAME, a state dict for what it returns (safetensors, or .pt of tensors alone).
        model: for FILE.py:NAME, its keyword arguments, as in --model.width 64; and those settings of the solve that it
            does not take itself: max_steps, tol, tail_steps, tail_damping.
        n: how many test images, from the first; all by default.
        protocol: which attacks on a DEQ: paper (Tables 2 and 6; the default), worst-case (per image, over all attacks
            we know, each on what still stands), strict (the same with every attack on its own, and checks of the
            attacks), ready-made (Table 1), autoattack (Table 3), entropy (input entropy reduction, attacked as
            published and adaptively), slow-down (the residual is attacked) or solvers (adversaries for one solver,
            judged under others).
        rows: which rows, all by default; [final], a DEQ as it is deployed, saves the attacks made for the others.
        attack: PGD and its threat model, by default that in which the weights were trained.
        early: the state of the early-state defense; by default the one chosen in training, else on the development
            split of the data.
        estimators: the settings of the estimated gradients.
        strict: how hard the protocols strict and worst-case try.
        reduction: input entropy reduction, for the protocol entropy.
        defenses: further rows, by name, as in --defenses.mine FILE.py:NAME: an rd.defenses.Defense, or what makes a
            module from images to logits around the model.
        gradients: further columns, by name, as in --gradients.mine FILE.py:NAME: an rd.gradients.Gradient.
        attacks: further columns, by name, as in --attacks.mine FILE.py:NAME: an rd.attacks.Attack, or a class that is
            made with eps, norm, bounds and seed of --attack.
        transfer: weights of an explicit network, or of several as [A, B], whose adversaries the strict protocol tries.
        trust: let the code run that makes the model of a weights file, where that is somebody's own.
        batch_size: how many images are attacked at once.
        device: cpu, cuda or auto.
        devices: how many processes on each machine share the work; torchrun runs them.
        nodes: how many machines share it; start the command on each with torchrun.
        save_adversaries: keep the adversaries, one safetensors file per attack and batch.
        certified: a file that `robustdeq certify` wrote for this model and these images, to stand below the attacks.
        output: the folder for the results; by default runs/evaluate/NETWORK-DATA-PROTOCOL.
        overwrite: discard what an earlier evaluation left in the folder.
    """
    check_named(network, weights, model, trust)
    beside, climbed = defenses_at(defenses or {}), gradients_at(gradients or {})
    images = load_data(data).require("test")
    images = images if n is None else images.head(n)
    subject = opened(network, images, weights, model, trust)
    deq = subject.model if isinstance(subject.model, DEQ) else None
    require(
        deq is not None or protocol is None,
        f"{network} is an explicit network, which PGD and the standard AutoAttack attack; leave --protocol out.",
    )
    kind = Network if deq is None else look_up("protocol", protocol or Paper.name, PROTOCOLS)
    folder = output or Path("runs/evaluate") / f"{subject.name}-{short(data)}-{kind.name}"
    refuse_file(folder)
    if not (folder / STORE).is_file():
        refuse_to_overwrite([folder / f"results.{kind}" for kind in ("json", "csv", "png")], overwrite)
    place = device_named(device)
    reads_early = deq is not None and kind.reads_early and (rows is None or "early" in rows)
    require(reads_early or early is None, _useless("--early", kind))
    sources: dict[str, nn.Module] = {}
    for path in [transfer] if isinstance(transfer, str) else transfer or ():
        name = short(path)
        require(name not in sources, f"two networks of --transfer are both called {name}; give one another name.")
        sources[name] = load(path, trust)
        check_takes(sources[name], images, name)
    settings = {
        "--strict": _changed(strict) if deq is None or issubclass(kind, Strict) else {},
        "--estimators": {"estimators": estimators} if _changed(estimators) else {},
        "--transfer": {"sources": sources} if sources else {},
        "--reduction": {"defense": reduction} if _changed(reduction) else {},
    }
    chosen, held_out = _protocol(kind, attack.attack(subject.trained), settings), None
    if deq is not None and reads_early:
        early, held_out = _early_state(subject, data, early)
        if early is not None:
            EarlyState(early).check(deq)
    certificates = None if certified is None else Certified.read(certified)
    fabric = launch(devices, nodes, place.type)
    place = place if fabric is None else fabric.device
    x, y = (tensor.to(place) for tensor in images.tensors())
    measured = partial(
        measure,
        subject.model.to(place),
        x,
        y,
        chosen,
        rows=rows,
        beside=beside,
        gradients=climbed,
        attacks=attacks_at(attacks or {}, chosen.attack),
        early=early,
        development=None if held_out is None else held_out.tensors(),
        batch_size=batch_size,
        folder=folder,
        overwrite=overwrite,
        adversaries=save_adversaries,
        certified=certificates,
        fabric=fabric,
    )
    if fabric is not None and not fabric.is_global_zero:
        measured()
        return
    with progress_bar(f"attacking {len(images)} images") as report:
        result = measured(report=report)
    _show(result, subject, images, chosen.attack.threat, folder)
    pictures = images.pixels.ndim == 4 and images.pixels.shape[1] in (1, 3)
    if deq is not None and kind.reads_early and pictures and not (folder / EXHIBITS).is_file():
        few = x[:_EXHIBITED], y[:_EXHIBITED]
        exhibits(deq, *few, images.classes, chosen.attack, estimators).save(folder / EXHIBITS)


def _show(result: GridResult, subject: Subject, images: Images, threat: ThreatModel, folder: Path) -> None:
    """Show the results, and write them into a folder with what they are of."""
    provenance = {
        "data": images.source,
        "fingerprint": images.fingerprint(),
        "weights": fingerprint(subject.model),
        **command_and_versions(),
    }
    result = replace(result, settings=result.settings | provenance)
    result.save(folder / "results.json")
    if result.profiles:
        save_profile_figure(result, folder / "results.png")
    title, trained = f"{threat.norm} attacks with ε = {threat.eps:.4g}", subject.trained
    if trained not in (None, threat):
        title += f"; the weights were trained with ε = {trained.eps:.4g} ({trained.norm})"
    console.print(terminal(grid_table(result, title)))
    if result.checks:
        console.print(terminal(checks_table(result)))
    say(f"The images are {images.source}. The results are in {folder}.")


def _changed(settings: Estimators | Strict | EntropyReduction) -> dict[str, Any]:
    """Those that are not the defaults."""
    usual, names = type(settings)(), (setting.name for setting in fields(settings))
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(usual, name)}


def _protocol(kind: type[Protocol], attack: PGD, asked: Mapping[str, Mapping[str, Any]]) -> Protocol:
    """A protocol with the settings that are asked for, by their option; raises `InputError` where it has no such."""
    shared = asked["--strict"].keys() & {"attack", "estimators", "sources"}
    require(not shared, "give --attack, --estimators and --transfer themselves, not within --strict.")
    own = {setting.name for setting in fields(kind)}
    for option, settings in asked.items():
        require(settings.keys() <= own, _useless(option, kind))
    return kind(attack, **{name: value for settings in asked.values() for name, value in settings.items()})


def _useless(option: str, kind: type[Protocol]) -> str:
    return f"{option} is of no use to the protocol {kind.name}; leave it out, or choose another."


def _early_state(subject: Subject, data: str, early: int | None) -> tuple[int | None, Images | None]:
    """The early state that is asked for or that the weights name, else the images to choose it on."""
    early = subject.early if early is None else early
    if early is not None:
        return early, None
    development = load_data(data).development
    if development is None:
        raise InputError("the weights do not say which early state they were given; pass --early, the state to read.")
    return None, development.head(256)
