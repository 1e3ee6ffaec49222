"""What a model says of itself: to a program (`Card`, in the metadata of its weights) and to a reader (`card_markdown`).

A model card states what the model is, how it came about, what was measured and what that does not say (Mitchell et al.,
"Model cards for model reporting", FAT* 2019). Ours states what is recorded, and where nothing is recorded, that.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from robustdeq import solvers
from robustdeq.base.errors import InputError
from robustdeq.base.provenance import describe, dotted, parts, source_of
from robustdeq.base.statistics import wilson_interval
from robustdeq.base.threat import ThreatModel
from robustdeq.data.sources import HUB_ID
from robustdeq.deq.gradients import SHINE, Exact, JacobianFree, Neumann, Phantom, ThroughSolver
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.zoo.architecture import ZooModel
from robustdeq.zoo.factory import Factory
from robustdeq.zoo.presets import architecture_kind

CARD_START = "---\nlibrary_name: robustdeq\n"

_SOLVERS = {kind.__name__: kind for kind in (solvers.Broyden, solvers.Anderson, solvers.Picard)}
_GRADIENTS = {kind.__name__: kind for kind in (Exact, Phantom, Neumann, SHINE, JacobianFree, ThroughSolver)}
_PROVENANCE_LABELS = {
    "command": "command",
    "data.train": "training data",
    "data.fingerprint": "fingerprint of the training data",
    "data.development": "development data",
    "data.development_fingerprint": "fingerprint of the development data",
    "robustdeq": "version of robustdeq",
    "code": "version of the code",
    "torch": "version of torch",
    "device": "device",
    "seconds": "time (h:mm:ss)",
    "images_per_second": "images per second",
    "license": "license",
    "checkpoint": "converted from",
    "sha256": "SHA-256 of what it was converted from",
}
_LARGEST = 1e12
_MOST_STEPS = 1_000_000
_TASK = "image-classification"
_ON_HUB = re.compile(rf"({HUB_ID.pattern}) (?:train|val|test)\w*(?:, .*)?")
_RESIDUALS = {"rel": "relative residual ‖f(z) − z‖ / ‖f(z)‖", "abs": "residual ‖f(z) − z‖"}
_READINGS = {"clean": "clean", "under the ready-made attack": "robust"}
_RESULTS = {"best": "the visited state of lowest residual", "last": "the last state"}


@dataclass(frozen=True)
class Card:
    """What a weights file says about its model besides the weights.

    Attributes:
        config: the configuration of the network, or the arguments of the factory that makes it.
        num_classes: how many classes it tells apart; None for the model of a factory.
        in_channels: the channels of its images; None for the model of a factory.
        solver: the solver's name and settings; None for an explicit network.
        tail: the tail's settings; None for an explicit network.
        early: the n of the early-state defense, where it was chosen on a development set.
        provenance: how the weights came about.
        architecture: the kind of network, such as `"MDEQ"`, `"ResNet"` or `"WideResNet"`.
        factory: the import path of what makes it; None for a network of the zoo.
        gradient: the name and settings of the gradient that the weights were trained with, by which ready-made attacks
            go; None where it is not known, or is none of this package's with plain settings.
        threat: the settings of the threat model that the weights were trained in; None where it is not known.
    """

    config: Mapping[str, Any]
    num_classes: int | None = None
    in_channels: int | None = None
    solver: Mapping[str, Any] | None = None
    tail: Mapping[str, Any] | None = None
    early: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "MDEQ"
    gradient: Mapping[str, Any] | None = None
    threat: Mapping[str, Any] | None = None
    factory: str | None = None

    @property
    def trained_within(self) -> ThreatModel | None:
        """The threat model itself; raises `TypeError` or `ValueError` where it is none of ours."""
        return None if self.threat is None else ThreatModel(**{**self.threat, "bounds": tuple(self.threat["bounds"])})

    def check_trust(self, name: str, trust: bool) -> None:
        """Raise `InputError` where code of others makes the model, and it is not trusted.

        Args:
            name: what the sentence calls the weights.
            trust: whether it is.
        """
        if self.factory is not None and not trust:
            raise InputError(
                f"{name} holds a model that the code of {self.factory} makes; read it, and pass trust=True (--trust) "
                "to let it run."
            )

    def build(self, folder: Path | None = None) -> nn.Module:
        """The model with fresh weights; where a factory makes it, its code runs.

        Args:
            folder: where the file of a factory is looked for, besides the current folder.

        Raises:
            KeyError: it is none of ours; or `TypeError`, or `ValueError`.
            InputError: the factory makes none.
        """
        maker = None if self.factory is None else Factory(self.factory, self.config).beside(folder or Path())
        model = self._of_the_zoo() if maker is None else maker.make()
        if isinstance(model, DEQ) and self.gradient is not None:
            settings = dict(self.gradient)
            model.gradient = _GRADIENTS[settings.pop("name")](**settings)
        return model

    def _of_the_zoo(self) -> ZooModel:
        if self.num_classes is None or self.in_channels is None or min(self.num_classes, self.in_channels) < 1:
            raise ValueError(f"an {self.architecture} without a number of classes or channels")
        config: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.config.items()
        }
        model = architecture_kind(self.architecture)(**config).build(self.num_classes, self.in_channels)
        if isinstance(model, DEQ):
            if self.solver is None or self.tail is None:
                raise ValueError(f"an {self.architecture} without a solver or a tail")
            settings = dict(self.solver)
            model.solver = _SOLVERS[settings.pop("name")](**settings)
            model.tail = Unroll(**self.tail)
            if max(model.solver.max_steps, model.tail.steps) > _MOST_STEPS:
                raise ValueError(f"a solve of more than {_MOST_STEPS:,} steps")
            if self.early is not None:
                model.check_state(self.early)
        return model


def card_of(
    model: nn.Module,
    early: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    threat: ThreatModel | None = None,
    factory: Factory | None = None,
) -> Card:
    """The card of a model as it is now, with what else is known of it.

    Args:
        model: of the zoo, or made by a factory.
        early: the n of its early-state defense.
        provenance: how its weights came about.
        threat: the threat model they were trained in.
        factory: what made it.

    Raises:
        InputError: it is not of the zoo, and no factory is given.
    """
    return Card(
        **_origin(model, factory),
        **iteration(model),
        early=early,
        provenance=provenance or {},
        architecture=type(model).__name__,
        gradient=_trained_with(model),
        threat=None if threat is None else asdict(threat),
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of everything that decides what a model computes in eval mode.

    Args:
        model: any module; the names, types, shapes and contents of its state dict count, the configuration of a
            model of this package and what of its parts is otherwise, the classes and plain attributes of the parts of
            any other, the solver, tail and execution of a DEQ, and the source of the classes of others that it is made
            of. Device and memory format do not.
    """
    if isinstance(model, ZooModel):
        settings = asdict(card_of(model))
        for history in ("gradient", "threat", "factory"):
            del settings[history]
        if altered := _altered(model):
            settings["parts"] = altered
    else:
        settings = parts(model)
        if isinstance(model, DEQ):
            del settings[""]["gradient"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for source in sorted({source_of(type(part)) for part in model.modules()} - {""}):
        digest.update(source.encode())
    for name, state in sorted(model.state_dict().items()):
        if isinstance(state, Tensor):
            digest.update(f"{name} {state.dtype} {tuple(state.shape)}".encode())
            digest.update(state.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {json.dumps(describe(state), sort_keys=True)}".encode())
    return digest.hexdigest()


def _altered(model: ZooModel) -> dict[str, Any]:
    """The parts of a model that are not as its settings make them, by name, and how it is executed, if not usually."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        made = model.config.network(model.num_classes, model.in_channels)
    usual, found = _beside_iteration(made), _beside_iteration(model)
    return {name: found.get(name) for name in usual | found if usual.get(name) != found.get(name)}


def unlike(model: nn.Module, other: nn.Module) -> list[str]:
    """The names of the parts in which two models differ, besides their weights, solver, tail, gradient and execution.

    Tensors that are no weights, and the attributes of somebody's own classes, may be what these remember: of them none
    count. Nor does a part of which only one has seen the images that it takes its shape from.
    """
    one, two = map(_fixed, (model, other))
    modules = (module for each in (model, other) for module in each.named_modules(remove_duplicate=False))
    lazy = {name for name, part in modules if isinstance(part, LazyModuleMixin)}
    return [name for name in one | two if one.get(name) != two.get(name) and name not in lazy]


def _fixed(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What the parts of a model are, by name, and will be however often it runs."""
    said = _beside_iteration(model)
    said[""].pop("execution", None)
    for name, part in model.named_modules(remove_duplicate=False):
        own, held = source_of(type(part)), vars(part)
        moving = {attribute for attribute in said[name] if own or isinstance(held.get(attribute), Tensor)}
        said[name] = {key: value for key, value in said[name].items() if key == "class" or key not in moving}
    return said


def _beside_iteration(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What the parts of a model are, by name; of a DEQ without what `iteration` says, and without its gradient.

    How fast batch normalisation forgets matters in training alone.
    """
    said = parts(model)
    for name, part in model.named_modules(remove_duplicate=False):
        if isinstance(part, _BatchNorm):
            del said[name]["momentum"]
    for setting in ("solver", "tail", "gradient") if isinstance(model, DEQ) else ():
        del said[""][setting]
    return said


def _origin(model: nn.Module, factory: Factory | None) -> dict[str, Any]:
    """What rebuilds a model: its settings in the zoo, or its factory."""
    if factory is not None:
        return {"factory": factory.path, "config": factory.arguments}
    if not isinstance(model, ZooModel):
        raise InputError(
            f"a {type(model).__name__} cannot be rebuilt from a file; give the factory that makes it, as FILE.py:NAME."
        )
    return {"config": asdict(model.config), "num_classes": model.num_classes, "in_channels": model.in_channels}


def iteration(model: nn.Module) -> dict[str, Any]:
    """The solver and tail of a DEQ."""
    if not isinstance(model, DEQ):
        return {}
    return {"solver": {"name": type(model.solver).__name__, **asdict(model.solver)}, "tail": asdict(model.tail)}


def _trained_with(model: nn.Module) -> dict[str, Any] | None:
    """The name and settings of a DEQ's gradient, where they are plain; through the solver, that of the final state."""
    gradient = model.gradient if isinstance(model, DEQ) else None
    if gradient is None or type(gradient) is not _GRADIENTS.get(type(gradient).__name__):
        return None
    plain = {name: value for name, value in vars(gradient).items() if isinstance(value, int | float)}
    rebuilt = type(gradient)(**plain)
    return {"name": type(gradient).__name__, **plain} if rebuilt == gradient else None


def card_markdown(
    card: Card,
    model: nn.Module,
    name: str,
    files: Mapping[str, str],
    stored: torch.dtype | None = None,
    source: str | None = None,
) -> str:
    """The model card, in Markdown, that lies beside the weights.

    Args:
        card: what the weights file says.
        model: the model as `load` gives it; its parameters are counted and its fingerprint is taken.
        name: the title.
        files: the weights file, or its shards in order: name → SHA-256 in hexadecimal.
        stored: the type of the floating-point weights in the files; None for the model's own.
        source: what `load` takes, wherever the card is read; None for the first file, in the folder of the card.

    Returns:
        The text. Its front matter says what the Hugging Face Hub reads; its sections are what the model is, how to use
        it, how it was trained, what was measured, what that does not say, and how to recognise it.
    """
    place, where = source or next(iter(files)), "" if source else "Run this in the folder of this card. "
    kind, protocol = "A deep equilibrium model", " --protocol strict"
    if card.solver is None:
        kind, protocol = "An explicit network", ""
    trust = "" if card.factory is None else " --trust"
    command = f"    robustdeq evaluate {shlex.quote(place)} --data DATA{protocol}{trust}"
    identity = [("fingerprint", f"`{fingerprint(model)}`"), *((_code(name), f"`{sha}`") for name, sha in files.items())]
    sections = {
        "What it is": _description(card, model, stored),
        "How to use it": f"{where}{_usage(card, model, place, command)}",
        "How it was trained": _training(card.provenance),
        "What was measured": _measurements(card.provenance),
        "What the numbers do not say": _limits(card, command),
        "How to recognise it": (
            "`rd.models.fingerprint(rd.load(…))` is the first of these, the SHA-256 of the file the other. Where they "
            f"differ, this card is another model's.\n\n{_table(('of', 'SHA-256'), identity)}"
        ),
    }
    front = f"---\n{_front(card, name)}\n---\n"
    made = f"that tells {card.num_classes} classes of images apart" if card.factory is None else "of somebody's own"
    lead = f"{front}# {name}\n\n{kind} {made}."
    return "\n\n".join([lead, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _front(card: Card, name: str) -> str:
    """What the Hugging Face Hub lists and filters by, as YAML; our `CARD_START` first."""
    recorded, task = dotted(card.provenance), _TASK if card.factory is None else "other"
    license, train, development = (recorded.get(key) for key in ("license", "data.train", "data.development"))
    on_hub = [match[1] for text in (train, development) if (match := _ON_HUB.fullmatch(_text(text)))]
    measured = _entries(card.provenance)[:1]
    results = [
        huggingface_hub.EvalResult(
            task_type=task,
            dataset_type=on_hub[-1] if on_hub else "other",
            dataset_name="unknown" if development is None else _text(development),
            dataset_split="development",
            metric_type="accuracy",
            metric_name=f"accuracy, {reading}",
            metric_value=round(entry[share], 4),
        )
        for entry in measured
        for reading, share in _READINGS.items()
    ]
    data = huggingface_hub.ModelCardData(
        library_name="robustdeq",
        license=license if isinstance(license, str) else None,
        pipeline_tag=_TASK if card.factory is None else None,
        tags=["adversarial-robustness", *(["deep-equilibrium-model"] if card.solver is not None else [])],
        datasets=list(dict.fromkeys(on_hub)) or None,
        metrics=["accuracy"] if results else None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml(original_order=["library_name"])


def stored_type(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The type of the floating-point weights."""
    return next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())


def _description(card: Card, model: nn.Module, stored: torch.dtype | None) -> str:
    computed = stored_type(model.state_dict())
    types = [str(dtype).removeprefix("torch.") for dtype in (stored or computed, computed)]
    rows = {
        "architecture": model.config.summary if isinstance(model, ZooModel) else card.architecture,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "weights": types[1] if types[0] == types[1] else f"stored as {types[0]}, loaded as {types[1]}",
    }
    if isinstance(model, ZooModel):
        sides = " × ".join("any" if side is None else str(side) for side in model.image_shape)
        rows["images"] = f"{sides} (channels × height × width), raw pixels in [0, 1]"
        rows["classes"] = str(card.num_classes)
    if card.factory is not None:
        arguments = ", ".join(f"{name}={_text(value)}" for name, value in card.config.items())
        rows["made by"] = _code(f"{card.factory}({arguments})")
    if (threat := card.trained_within) is not None:
        rows["threat model"] = f"{threat.norm}, ε = {threat.eps:.4g}, pixels in {list(threat.bounds)}"
    if card.solver is not None and card.tail is not None:
        early = "none was chosen" if card.early is None else f"`z_{card.early}`, chosen on a development set"
        rows |= {"solver": _solver(card.solver), "tail": _tail(Unroll(**card.tail)), "early state": early}
    return _table(("property", "value"), rows.items())


def _solver(settings: Mapping[str, Any]) -> str:
    """A solver in words, then its other settings by name."""
    others = dict(settings)
    name, steps, tol = others.pop("name"), others.pop("max_steps"), others.pop("tol")
    stop, result = others.pop("stop"), others.pop("result")
    until = f"until the {_RESIDUALS[stop]} is below {tol:g}" if tol > 0 else "without a tolerance"
    listed = ", ".join(f"{key} {'none' if value is None else value}" for key, value in others.items())
    return f"{name}, at most {steps} steps, {until}; `z*` is {_RESULTS[result]} ({listed})"


def _tail(tail: Unroll) -> str:
    start = "`f(z*)`" if tail.from_image else "`z*`"
    if tail.steps == 0:
        return f"none, the final state is {start}"
    steps = "1 step" if tail.steps == 1 else f"{tail.steps} steps"
    return f"{steps} of the cell from {start}, with damping λ = {tail.damping:g}"


def _usage(card: Card, model: nn.Module, place: str, command: str) -> str:
    trust = "" if card.factory is None else ", trust=True"
    loaded, note = f"rd.load({json.dumps(place, ensure_ascii=False)}{trust})", ""
    if card.solver is not None:
        defense = "FinalState()" if card.early is None else f"EarlyState({card.early})"
        loaded = f"rd.Defended({loaded}, rd.defenses.{defense})"
        note = f" The model is read through a defense, here its {'final' if card.early is None else 'early'} state."
    if trust:
        note += f" `trust=True` lets the code behind `{card.factory}` run: read it first."
    sides = model.image_shape if isinstance(model, ZooModel) else ()
    shape = ", ".join(str(32 if side is None else side) for side in sides) or "…"
    logits = f"The logits have shape (2, {card.num_classes})." if card.num_classes else ""
    snippet = f"""```python
import torch
import robustdeq as rd

model = {loaded}
print(model(torch.rand(2, {shape})))
```"""
    return (
        f"{logits}{note}\n\n{snippet}\n\n"
        "On images of the classes that it was trained on, where DATA is a data set, a file or a folder "
        f"(`robustdeq evaluate --help`):\n\n{command}"
    )


def _training(provenance: Mapping[str, Any]) -> str:
    recipe = provenance.get("recipe")
    has_recipe = isinstance(recipe, Mapping)
    elsewhere = ({"recipe"} if has_recipe else set()) | ({"history", "best"} if _entries(provenance) else set())
    recorded = dotted({key: value for key, value in provenance.items() if key not in elsewhere})
    known = list(_PROVENANCE_LABELS)
    found = sorted(recorded.items(), key=lambda item: known.index(item[0]) if item[0] in known else len(known))
    parts = [] if has_recipe else ["How it was trained is unknown: no recipe is recorded in its file."]
    if found:
        rows = [(_PROVENANCE_LABELS.get(key, _code(key)), _code(_recorded(key, value))) for key, value in found]
        parts.append(_table(("recorded", "value"), rows))
    if has_recipe:
        rows = [(_code(key), _code(_text(value))) for key, value in dotted(recipe).items()]
        parts.append(_table(("setting of the recipe", "value"), rows))
    return "\n\n".join(parts)


def _recorded(key: str, value: Any) -> str:
    if key == "seconds" and (seconds := _number(value)) is not None:
        return str(timedelta(seconds=round(seconds)))
    if key == "images_per_second" and (speed := _number(value)) is not None:
        return f"{speed:.4g}"
    return _text(value)


def _entries(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was measured on the development split: the best validation, then all of them in order."""
    history = provenance.get("history")
    validations = [entry for entry in history if _measured(entry)] if isinstance(history, list) else []
    best = provenance.get("best")
    if isinstance(best, Mapping) and _measured(best):
        return [best, *validations]
    return [max(validations, key=lambda entry: entry["robust"]), *validations] if validations else []


def _measured(entry: Any) -> bool:
    """Whether it is a validation: shares of images in [0, 1]."""
    shares = [_number(entry.get(key)) for key in ("clean", "robust")] if isinstance(entry, Mapping) else [None]
    return all(share is not None and share <= 1 for share in shares)


def _measurements(provenance: Mapping[str, Any]) -> str:
    entries = _entries(provenance)
    if not entries:
        return "Nothing: no accuracy is recorded in its file."
    best, *validations = entries
    images = int(_number(best.get("images")) or 0) or None
    number = "a number of images that is not recorded" if images is None else f"{images:,} images"
    after = "" if _number(best.get("step")) is None else f", after step {_step(best)}"
    rows = []
    for reading, share in ((reading, best[key]) for reading, key in _READINGS.items()):
        ends = None if images is None else map(_percent, wilson_interval(round(share * images), images))
        rows.append((reading, _percent(share), "unknown" if ends is None else "–".join(ends)))
    parts = [
        f"The validation of these weights{after}: {number} of the development split, "
        "under the ready-made attack. It says nothing of stronger attacks.",
        _table(("reading", "accuracy in %", "Wilson 95 % interval"), rows),
    ]
    if validations:
        rows = [(_step(entry), _percent(entry["clean"]), _percent(entry["robust"])) for entry in validations]
        table = _table(("step", "clean, %", "under the ready-made attack, %"), rows)
        parts.append(f"<details><summary>All validations</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


def _step(entry: Mapping[str, Any]) -> str:
    step = _number(entry.get("step"))
    return "unknown" if step is None else f"{step:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _limits(card: Card, command: str) -> str:
    overrated = (
        "An accuracy under a single attack overrates a network: stronger attacks find what it missed."
        if card.solver is None
        else "An accuracy under the ready-made attack overrates a deep equilibrium model: that attack differentiates "
        "the fixed point, or an estimate of it, and not the solver that computes it."
    )
    return (
        f"{overrated} An accuracy on the development split overrates it too, since weights are chosen there. Neither "
        "says anything of another norm, another ε or other images. The worst case over stronger attacks, on images "
        f"that no choice was made on, is measured by\n\n{command}"
    )


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    """Text as it is, in one cell of a table."""
    line = " ".join(text.splitlines())
    if not line:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if {line[0], line[-1]} & {"`", " "} else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def _number(value: Any) -> float | None:
    """The value, where it is a count, a time or a share that can be shown as one."""
    return value if type(value) in (int, float) and 0 <= value <= _LARGEST else None
