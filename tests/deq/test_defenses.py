"""A defense is a mean of states, read in a stream: it costs no more of f than the last state it needs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import dense
from cells import TAILS, images, make_deq
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import (
    EarlyState,
    EnsembleState,
    FinalState,
    Reader,
    StateDefense,
    defended_logits,
    state_logits,
)
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import Defended
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 6
SOLVERS: dict[str, Solver] = {
    "broyden": Broyden(max_steps=STEPS, tol=0),
    "broyden-freezing-limited": Broyden(max_steps=STEPS, tol=1e-1, limit=2),
    "broyden-last": Broyden(max_steps=STEPS, tol=1e-1, result="last"),
    "anderson": Anderson(max_steps=STEPS, tol=1e-1, history=2),
    "picard": Picard(max_steps=STEPS, tol=1e-1),
}
DEFENSES: list[StateDefense] = [FinalState(), EarlyState(1), EarlyState(4), EarlyState(STEPS + 1), EnsembleState()]
defenses = pytest.mark.parametrize("defense", DEFENSES, ids=repr)
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
tails = pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)


def read(deq: DEQ, x: Tensor, defense: StateDefense) -> Tensor:
    """The state a defense reads, from the kept trajectory, sample by sample."""
    t = deq.solve(x)
    final = t.final.flatten(1)
    match defense:
        case FinalState():
            return final
        case EarlyState(n):
            return t.flat_state(n)
    visited = [torch.cat([t.states[:steps, i], final[i : i + 1]]) for i, steps in enumerate(t.steps.tolist())]
    return torch.stack([states.mean(dim=0) for states in visited])


@defenses
@solvers
@tails
def test_logits_are_those_of_the_mean_of_the_states_it_reads(
    defense: StateDefense, solver: Solver, tail: Unroll
) -> None:
    deq, x = make_deq("contractive", solver, tail), images()
    expected = deq.head(read(deq, x, defense))
    assert_close(defended_logits(deq, x, [defense])[0], expected, rtol=1e-12, atol=1e-12)
    assert_close(deq.head(Reader.of(defense, deq.solution(x)).mean), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["expansive", "own-start", "convolution"])
@solvers
def test_several_defenses_share_one_solve(cell: str, solver: Solver) -> None:
    deq, x = make_deq(cell, solver), images()
    together = defended_logits(deq, x, DEFENSES)
    for logits, defense in zip(together, DEFENSES, strict=True):
        assert_close(logits, defended_logits(deq, x, [defense])[0], rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            assert_close(Defended(deq, defense)(x), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["expansive", "own-start", "convolution"])
@solvers
@tails
def test_stream_hands_out_the_states_of_the_trajectory(cell: str, solver: Solver, tail: Unroll) -> None:
    deq, x = make_deq(cell, solver, tail), images()
    t = deq.solve(x)
    streamed, kept = deq.solution(x), deq.solution(x)
    assert kept.trajectory.max_steps == STEPS
    for solution in (streamed, kept):
        states = list(solution.states(range(1, STEPS + 2)))
        assert [seen.index for seen in states] == list(range(1, STEPS + 2))
        for seen in states:
            assert_close(seen.state, t.state(seen.index), rtol=1e-12, atol=1e-12)
            assert seen.visited.tolist() == t.visited(seen.index).tolist()
            assert seen.lost.tolist() == t.lost(seen.index).tolist()


def count_calls(deq: DEQ) -> list[int]:
    calls: list[int] = []
    deq.cell.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("n", range(1, STEPS + 1))
@pytest.mark.parametrize("solver", ["broyden", "anderson", "picard"])
def test_early_state_costs_n_evaluations(n: int, solver: str) -> None:
    deq = make_deq("expansive", SOLVERS[solver])
    calls = count_calls(deq)
    defended_logits(deq, images(), [EarlyState(n)])
    assert len(calls) == n


@pytest.mark.parametrize("defense", [FinalState(), EnsembleState(), EarlyState(STEPS + 1)], ids=repr)
@pytest.mark.parametrize(
    ("tail", "evaluations"),
    [
        (Unroll(1, 1.0), 0),
        (Unroll(4, 0.5), 3),
        (Unroll(0), 0),
        (Unroll(0, from_image=True), 0),
        (Unroll(5, 0.5, from_image=True), 5),
    ],
    ids=repr,
)
def test_final_state_costs_the_solve_and_the_tail_beyond_the_image(
    defense: StateDefense, tail: Unroll, evaluations: int
) -> None:
    deq, x = make_deq("expansive", tail=tail), images()
    calls = count_calls(deq)
    defended_logits(deq, x, [defense])
    assert len(calls) == STEPS + 1 + evaluations
    deq.solve(x)
    assert len(calls) == 2 * (STEPS + 1 + evaluations)


@pytest.mark.parametrize("halvings", [0, 1, 3])
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_evaluations_of_a_solve_of_fixed_length_are_those_that_are_told(
    defense: StateDefense, tail: Unroll, halvings: int
) -> None:
    deq = make_deq("expansive", Broyden(max_steps=STEPS, tol=0, line_search=halvings), tail)
    calls = count_calls(deq)
    defended_logits(deq, images(), [defense])
    assert len(calls) == defense.evaluations(deq)


@defenses
@solvers
def test_diverged_sample_has_no_logits(defense: StateDefense, solver: Solver) -> None:
    deq, x = make_deq("contractive", solver), images(4)
    x[2] = torch.nan
    alone = [defended_logits(deq, x[i : i + 1], [defense])[0] for i in (0, 1, 3)]
    logits = defended_logits(deq, x, [defense])[0]
    assert logits[2].isnan().all()
    assert_close(logits[[0, 1, 3]], torch.cat(alone), rtol=1e-12, atol=1e-12)
    assert Defended(deq, defense)(x)[2].isnan().all()


@pytest.mark.parametrize("tol", [0.0, 1e-3])
def test_what_diverges_later_does_not_touch_the_states_before(tol: float) -> None:
    deq, x = make_deq("bursting", Picard(max_steps=STEPS, tol=tol)), images()
    t = deq.solve(x)
    assert t.diverged.all()
    assert (t.steps > 1).all()
    final, early, late = defended_logits(deq, x, [FinalState(), EarlyState(1), EarlyState(STEPS)])
    assert_close(early, defended_logits(deq, x, [EarlyState(1)])[0], rtol=1e-12, atol=1e-12)
    assert early.isfinite().all()
    assert final.isnan().all()
    assert late.isnan().all()
    states, _ = state_logits(deq, x)
    assert_close(states[0], early, rtol=1e-12, atol=1e-12)
    for i, steps in enumerate(t.steps.tolist()):
        assert states[:steps, i].isfinite().all()
        assert states[steps:, i].isnan().all()


@tails
def test_state_logits_are_the_head_of_every_state(tail: Unroll) -> None:
    deq, x = make_deq("expansive", tail=tail), images()
    t = deq.solve(x)
    states = [*t.states, t.final.flatten(1)]
    logits, residuals = state_logits(deq, x)
    function = dense.cell_of(deq, x)
    assert_close(logits, torch.stack([deq.head(z) for z in states]).detach())
    assert_close(residuals, torch.stack([dense.relative_residual(function, z) for z in states]))


@given(st.floats(1e-6, 0.9), st.sampled_from(DEFENSES), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_weights_of_a_sample_sum_to_one(tol: float, defense: StateDefense, seed: int) -> None:
    deq, x = make_deq("contractive", Broyden(max_steps=STEPS, tol=tol)), images(5, seed)
    weights = Reader.of(defense, deq.solution(x)).weights
    assert_close(torch.stack(list(weights.values())).sum(dim=0), torch.ones(5))
    assert all((weight >= 0).all() for weight in weights.values())


@pytest.mark.parametrize("n", [STEPS + 2, 100])
def test_early_state_beyond_the_final_one_is_refused(n: int) -> None:
    message = f"state {n} does not exist in this model; its solver makes states 1 to 6, and 7 is the final one"
    with pytest.raises(InputError, match=message):
        defended_logits(make_deq(), images(), [EarlyState(n)])
    with pytest.raises(InputError, match=message):
        Defended(make_deq(), EarlyState(n))


def test_early_state_before_the_first_is_refused() -> None:
    with pytest.raises(InputError, match="state 0 cannot be an early state"):
        EarlyState(0)
