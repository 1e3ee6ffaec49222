"""Remarks 4.1 and 4.2, §6.4, Figs. 3 and 4, Appendices B and E.1: which intermediate gradient hurts which state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from robustdeq.attacks import JointAttack
from robustdeq.attacks.losses import cross_entropy
from robustdeq.base.statistics import weakest
from robustdeq.deq.modes import evaluating
from robustdeq.study.claims.statement import Outcomes, Samples, Seed, Statement, hurts_most, points
from robustdeq.study.configurations import EXACT_8_7, UNROLLED
from robustdeq.study.grids import INVERSES
from robustdeq.study.paper.adjoint_convergence import APPENDIX_B, distances
from robustdeq.study.paper.fig3a import FIGURE_3A
from robustdeq.study.paper.fig3bc import FIGURE_3B, FIGURE_3C
from robustdeq.study.paper.fig4 import FIGURE_4, states_under_adjoints
from robustdeq.study.paper.unroll_ablation import UNROLL_ABLATION, under_unrolled
from robustdeq.study.study import Study, Trained

_EARLY, _NEAR = 0, 0.1
_as_printed = partial(states_under_adjoints, transpose=False)
_damped, _undamped = (partial(under_unrolled, damping=damping) for damping in (0.5, 1.0))


def _early_state(study: Study, trained: Trained, title: str) -> int:
    assert trained.early is not None
    return trained.early


def _last_adjoint(found: Seed, final: bool) -> Samples:
    outcomes = found.of(states_under_adjoints, EXACT_8_7)
    read = -1 if final else found.of(_early_state, EXACT_8_7) - 1
    return hurts_most(outcomes[:, read], len(outcomes) - 2)


def _increasingly(found: Seed) -> Samples:
    outcomes = found.of(states_under_adjoints, UNROLLED)[:, -1].astype(float)
    places = np.arange(len(outcomes)) - (len(outcomes) - 1) / 2
    return -100.0 * (places @ outcomes) / (places @ places)


def _next_hurts_early(found: Seed) -> Samples:
    early = found.of(_early_state, UNROLLED)
    outcomes = found.of(states_under_adjoints, UNROLLED)[:, early - 1]
    return hurts_most(outcomes, min(early, len(outcomes) - 1))


def _on_average(found: Seed, measure: Callable[..., Outcomes]) -> Samples:
    outcomes = found.of(measure, UNROLLED)
    return np.mean([hurts_most(outcomes[:, n], n + 1) for n in range(len(outcomes) - 1)], axis=0)


def _always(found: Seed) -> Samples:
    outcomes = found.of(states_under_adjoints, UNROLLED)
    states = range(len(outcomes) - 1)
    every = [points(np.delete(outcomes[:, n], n + 1, axis=0), outcomes[n + 1, n]) for n in states]
    return weakest(np.concatenate(every))


def _too_many(found: Seed, state: int) -> Samples:
    few, many = (
        np.mean([found.of(measure, UNROLLED)[_EARLY, steps, state - 1] for measure in (_damped, _undamped)], axis=0)
        for steps in (0, -1)
    )
    return points(many, few)


def _first_state_strongest(found: Seed) -> Samples:
    return hurts_most(found.of(_undamped, UNROLLED)[_EARLY, 0], 0)


def _first_setting_strongest(found: Seed) -> Samples:
    every = np.concatenate([found.of(measure, UNROLLED)[_EARLY] for measure in (_undamped, _damped)])
    return hurts_most(every.reshape(-1, every.shape[-1]), 0)


def _own_unrolling_weak(found: Seed) -> Samples:
    outcomes = found.of(_undamped, UNROLLED)[_EARLY, 0]
    own = min(found.of(_early_state, UNROLLED), len(outcomes)) - 1
    return points(outcomes[own], np.delete(outcomes, own, axis=0).mean(axis=0))


def coupled(study: Study, trained: Trained, title: str) -> Float[np.ndarray, "two samples"]:
    """The relative residual of the last z of the joint iteration (Eq. 12), and of the same with x held fixed."""
    deq, found = trained.deq, []
    joint = JointAttack(study.attack.eps, study.attack.step_size, steps=deq.solver.max_steps, norm=study.attack.norm)
    with evaluating(deq):
        for x, y in study.batches(title):
            pair = []
            for attack in (joint, replace(joint, eps=0.0)):
                *_, last = attack.iterates(deq, x, partial(cross_entropy, y=y), x)
                with torch.no_grad():
                    _, cell, _ = deq.bind(last.x)
                    value = cell(last.state).flatten(1)
                    pair.append((value - last.state.flatten(1)).norm(dim=1) / value.norm(dim=1))
            found.append(torch.stack(pair))
    return torch.cat(found, dim=1).double().cpu().numpy()


def _coupling_hinders(found: Seed) -> Samples:
    moving, fixed = found.of(coupled, UNROLLED)
    return moving - fixed


def _adjoint_converges(found: Seed, inverse: str) -> Samples:
    return _NEAR - found.of(distances, UNROLLED)[f"β = 0.5, {inverse}"][-1]


GRADIENTS = (
    *(
        Statement(
            f"u_8 hurts the {name} state of exact (8/7) most",
            "§6.4",
            (FIGURE_3A,),
            f"For the exact-trained DEQ (8/7) the last adjoint state of the solver, u_8, hurts the {name} state most.",
            (EXACT_8_7,),
            partial(_last_adjoint, final=name == "final"),
        )
        for name in ("early", "final")
    ),
    Statement(
        "later adjoint states hurt the final state more",
        "§6.4",
        (FIGURE_3A,),
        "On average from state to state, later adjoint states form stronger attacks on the final state of the "
        "unrolling-trained DEQ.",
        (UNROLLED,),
        _increasingly,
        "points per state",
    ),
    Statement(
        "u_{n+1} hurts the early state z_n most",
        "§6.4",
        (FIGURE_3A,),
        "The early state z_n of the unrolling-trained DEQ is hurt most by the adjoint state after it (u_4 for z_3).",
        (UNROLLED,),
        _next_hurts_early,
    ),
    *(
        Statement(
            f"u_{{n+1}} hurts z_n most, on average{name}",
            "§6.4, Eq. 10",
            (FIGURE_4,),
            f"Averaged over n, u_{{n+1}} hurts z_n more than the strongest other adjoint state{name}.",
            (UNROLLED,),
            partial(_on_average, measure=measure),
        )
        for name, measure in (("", states_under_adjoints), (", with B_n as printed", _as_printed))
    ),
    Statement(
        "u_{n+1} always hurts z_n most",
        "§6.4",
        (FIGURE_4,),
        "For every n, even where it does so least, u_{n+1} hurts z_n more than the strongest other adjoint state.",
        (UNROLLED,),
        _always,
    ),
    *(
        Statement(
            f"unrolling z_{state} too far hurts less",
            "§6.4",
            (FIGURE_3B, FIGURE_3C, UNROLL_ABLATION),
            f"The most unrolling steps from z_{state} make a weaker attack on the early state than the fewest.",
            (UNROLLED,),
            partial(_too_many, state=state),
        )
        for state in (1, 2)
    ),
    Statement(
        "unrolling z_1 hurts the early state most",
        "§6.4",
        (FIGURE_3C,),
        "Of all states, unrolled by one undamped step, z_1 hurts the early state most.",
        (UNROLLED,),
        _first_state_strongest,
    ),
    Statement(
        "unrolling z_1 hurts more than any steps and damping",
        "§6.4",
        (FIGURE_3B, FIGURE_3C),
        "Unrolling z_1 with k = 1 and λ = 1 hurts the early state more than any other state, k and λ.",
        (UNROLLED,),
        _first_setting_strongest,
    ),
    Statement(
        "unrolling the early state attacks it weakly",
        "§6.4",
        (FIGURE_3C,),
        "The gradient by unrolling the early state is a weaker attack on it than those by unrolling the other states "
        "are on average.",
        (UNROLLED,),
        _own_unrolling_weak,
    ),
    *(
        Statement(
            f"the adjoint converges, {inverse}",
            "Remark 4.1",
            (APPENDIX_B,),
            f"For β = 0.5 and {inverse} the gradient at the last of 30 adjoint states is nearer to the exact one than "
            f"{_NEAR:g} of its norm.",
            (UNROLLED,),
            partial(_adjoint_converges, inverse=inverse),
            "relative distance inside the bound",
        )
        for inverse in INVERSES
    ),
    Statement(
        "the coupling with x hinders convergence",
        "Remark 4.2",
        (),
        "After as many damped steps as the solver makes, z of the joint iteration of z, u and x is farther from a "
        "fixed point of f than with x held fixed.",
        (UNROLLED,),
        _coupling_hinders,
        "relative error",
    ),
)
