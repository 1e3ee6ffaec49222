"""What is to be done to measure a DEQ, an explicit network, or a DEQ under input entropy reduction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustdeq.attacks import PGD, ContinuedPGD, Stages
from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report
from robustdeq.deq import DEQ, EntropyReduced, EntropyReduction
from robustdeq.deq.defenses import EarlyState, EnsembleState, FinalState, StateDefense
from robustdeq.deq.entropy import Backward
from robustdeq.deq.gradients import Gradient, Surrogate, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation.attempt import Attempt
from robustdeq.evaluation.profile import most_robust_state, state_profile
from robustdeq.evaluation.protocol import (
    Estimators,
    Setting,
    Strict,
    network_columns,
    protocol_named,
    reduction_columns,
)
from robustdeq.evaluation.run import Evaluation
from robustdeq.evaluation.subject import DefendedDEQ, Network, ReducedDEQ


def deq_evaluation(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    protocol: str = "paper",
    attack: PGD | None = None,
    early: int | None = None,
    development: tuple[Tensor, Tensor] | None = None,
    estimators: Estimators | None = None,
    batch_size: int = 128,
    report: Report | None = None,
    strict: Strict | None = None,
    sources: Mapping[str, nn.Module] | None = None,
) -> Evaluation:
    """What is to be done to measure a DEQ under its defenses; arguments and errors as for `white_box_grid`."""
    make_columns = protocol_named(protocol)
    attack = PGD() if attack is None else attack
    estimators = Estimators() if estimators is None else estimators
    strict = Strict() if strict is None else strict
    _check(attack, x, y, batch_size)
    if early is None and development is None:
        raise InputError("the early-state defense needs its state; give early=n, or a development set to choose it on.")
    if early is None:
        assert development is not None
        (report or (lambda share, what: None))(0.0, "choosing the early state")
        early = choose_early_state(deq, *development, attack, estimators.final, batch_size)
    defenses: dict[str, StateDefense] = {"final": FinalState(), "early": EarlyState(early), "ensemble": EnsembleState()}
    true: dict[str, Gradient] = {name: ThroughSolver(defense) for name, defense in defenses.items()}
    sources = {} if sources is None else sources
    columns = make_columns(Setting(deq.last_state, true, attack, estimators, strict, tuple(sources)))
    made = {attempt.key for column in columns for attempt in column.attempts}
    adjoints = {f"u_{n}": Attempt(attack, estimators.adjoint(n)).key for n in range(1, deq.last_state)}
    adjoints[f"u_{deq.last_state}"] = Attempt(attack, estimators.adjoint()).key
    settings = {
        "protocol": protocol,
        "attack": asdict(attack),
        "early": early,
        "solver": repr(deq.solver),
        "tail": repr(deq.tail),
        "estimators": repr(estimators),
        "batch_size": batch_size,
    }
    return Evaluation(
        subject=DefendedDEQ(deq, defenses),
        columns=tuple(columns),
        x=x,
        y=y,
        batch_size=batch_size,
        settings=settings | ({"strict": repr(strict)} if protocol == "strict" else {}),
        titles=tuple(f"early (z_{early})" if name == "early" else name for name in defenses),
        sources=sources,
        probed=strict.probe_images,
        ready_made=Attempt(attack, estimators.final).key,
        adjoints={name: key for name, key in adjoints.items() if key in made},
    )


def network_evaluation(
    network: nn.Module,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    attack: PGD | None = None,
    batch_size: int = 128,
) -> Evaluation:
    """What is to be done to measure an explicit network: PGD, and the standard AutoAttack on what withstands it.

    Args:
        network: any module x → logits.
        x: the images, pixels within the attack's bounds.
        y: their labels.
        attack: PGD and the threat model.
        batch_size: how many images are attacked at once.

    Raises:
        InputError: x or y cannot be used.
    """
    attack = PGD() if attack is None else attack
    _check(attack, x, y, batch_size)
    return Evaluation(
        subject=Network(network),
        columns=tuple(network_columns(attack, "network")),
        x=x,
        y=y,
        batch_size=batch_size,
        settings={"protocol": "network", "attack": asdict(attack), "batch_size": batch_size},
        titles=("as it is",),
    )


def reduction_evaluation(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    reduction: EntropyReduction,
    attack: PGD | None = None,
    estimators: Estimators | None = None,
    batch_size: int = 128,
) -> Evaluation:
    """What is to be done to measure input entropy reduction, attacked as published and adaptively.

    The adaptive attacks differentiate the solve and the inner steps; straight over the inner steps; over a single inner
    step; and that again from where the attacks on the bare model ended.

    Args:
        deq: the model.
        x: the images, pixels within the attack's bounds.
        y: their labels.
        reduction: the settings of the defense.
        attack: PGD and the threat model.
        estimators: the settings of the ready-made attack.
        batch_size: how many images are attacked at once.

    Raises:
        InputError: x or y cannot be used.
    """
    attack = PGD() if attack is None else attack
    estimators = Estimators() if estimators is None else estimators
    _check(attack, x, y, batch_size)
    subject = ReducedDEQ(deq, reduction)
    straight = Backward.STRAIGHT_THROUGH
    shortened = EntropyReduced(deq, replace(reduction, steps=min(reduction.steps, 1)), straight)
    bare: dict[str, Gradient] = {"ready-made": estimators.final, "through the solver": ThroughSolver(FinalState())}
    continued = ContinuedPGD(**{setting.name: getattr(attack, setting.name) for setting in fields(attack)})
    adaptive: dict[str, tuple[PGD, nn.Module]] = {
        "through the inner steps": (attack, EntropyReduced(deq, reduction)),
        "straight-through": (attack, EntropyReduced(deq, reduction, straight)),
        "one inner step": (attack, shortened),
        "one inner step, from the bare model's adversaries": (
            continued,
            Stages([Surrogate(deq, bare["through the solver"]), shortened]),
        ),
    }
    attacks = {name: own for name, (own, _) in adaptive.items()}
    return Evaluation(
        subject=subject,
        columns=tuple(reduction_columns(attack, bare, attacks, subject.rows[1])),
        x=x,
        y=y,
        batch_size=batch_size,
        settings={
            "protocol": "entropy",
            "attack": asdict(attack),
            "reduction": repr(reduction),
            "estimators": repr(estimators),
            "solver": repr(deq.solver),
            "tail": repr(deq.tail),
            "batch_size": batch_size,
        },
        titles=subject.rows,
        sources={name: module for name, (_, module) in adaptive.items()},
    )


def _check(attack: PGD, x: Tensor, y: Tensor, batch_size: int) -> None:
    attack.threat.check(x, y)
    if attack.targeted:
        raise InputError("attack.targeted is set, and an evaluation asks who leaves the right class; leave it out.")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; attack at least 1 image at once.")


def choose_early_state(
    deq: DEQ,
    x: Float[Tensor, "samples *image"],
    y: Int[Tensor, "samples"],
    attack: PGD,
    gradient: Gradient,
    batch_size: int = 128,
) -> int:
    """The intermediate state that is most robust, on a development set, under the ready-made attack (paper, §5.2).

    Args:
        deq: the model.
        x: the images of the development set.
        y: their labels.
        attack: the ready-made attack.
        gradient: the gradient it climbs, of the final state.
        batch_size: how many images are attacked at once.
    """
    with evaluating(deq):
        surrogate = Surrogate(deq, gradient)
        parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
        adversaries = [
            replace(attack, seed=attack.seed + i)(surrogate, images, labels) for i, (images, labels) in enumerate(parts)
        ]
        return most_robust_state(state_profile(deq, torch.cat(adversaries), y, batch_size))
