"""Models built with TorchDEQ (Geng and Kolter, "TorchDEQ: A library for deep equilibrium models", 2023) as ours.

A TorchDEQ model is a module whose forward makes z ↦ f(z; x) and z_0 and calls a core, `get_deq(…)`, on them. That one
call cuts the forward in two. What comes before it is run up to the call, and abandoned there, to get f and z_0 for an
x; what comes after it is run with a state of our choice as the core's answer. So the module serves as it is, and its
f is differentiated with respect to x itself: u = x.

Whether the two parts really make the module is checked on images drawn in the range of the example: the injection, f
and the head must not be random nor mix the samples of a batch, the head must see the state alone, and our solve must
end where TorchDEQ's ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from robustdeq.base.errors import InputError
from robustdeq.base.shapes import Logits, Pixels
from robustdeq.deq.cell import BoundCell
from robustdeq.deq.model import DEQ, StateGradient
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Anderson, Broyden, Picard, Solver
from robustdeq.solvers.base import StopRule

CoreState = Tensor | list[Tensor]
"""A state as TorchDEQ has it; its tuples are lists here."""

_KNOWN_SETTINGS = {"f_max_iter", "tau", "m", "lam"}
_LEAST_EVALUATIONS = {"broyden_solver": 1, "anderson_solver": 3, "fixed_point_iter": 2, "simple_fixed_point_iter": 2}
_PAST_THE_STATE = (
    "the logits depend on x past the state of the DEQ; give `rd.DEQ` an injection, a cell and a head instead."
)
_DRAWN, _SOLVED, _REPEATS = 16, 8, 3
_CONVERGED = 3  # TorchDEQ's Broyden also stops, where it makes no progress, below this multiple of the tolerance
_AMPLIFIED = 100  # how much more than a nudge of the image the rounding of another implementation may move the end


def from_torchdeq(
    module: nn.Module,
    example: Shaped[Tensor, "*image"],
    solver: Solver | None = None,
    tail: Unroll | None = None,
    gradient: StateGradient | None = None,
) -> DEQ:
    """A model built with TorchDEQ as a `DEQ` that shares its weights, in eval mode.

    The forward of the module must call its core exactly once, on a state that is a tensor or a tuple of tensors with
    the batch first, and return logits (B, K) that depend on x through that state alone. The part before the call runs
    again whenever f is differentiated, so it must give the same result each time: the model is for evaluation, and in
    training mode it refuses to run.

    Two differences remain. Ours stops each sample by itself where TorchDEQ goes on until the slowest of the batch has
    converged, so that larger batches agree within the tolerance only. And ours never returns the image of z_0 (nor,
    with Anderson's method, prefers a later state to z_1), which TorchDEQ does where every later residual is larger.

    Args:
        module: the model; put into eval mode, otherwise left as it is.
        example: a batch of inputs it accepts, (B, …); the images that the conversion is checked on lie in its range.
        solver: the fixed-point method; by default the core's own, with its settings for eval mode.
        tail: what follows the solve; by default what TorchDEQ returns in eval mode: z* itself after Broyden's method,
            the (damped) image of the last state otherwise.
        gradient: how `forward` differentiates the solve; None for the tail alone, which after Broyden's method is no
            gradient at all.

    Returns:
        The model; its states are flat, (B, D), where TorchDEQ's are tuples (see `DEQ`).

    Raises:
        InputError: the module has no core or several, its forward is not cut in two by one call, the two parts do not
            make the module on other images, or the settings of the core have no counterpart here.
    """
    name = _core_name(module)
    module.eval()
    cell = TorchDEQCell(module, name)
    call = cell.call(example)
    if not all(state.ndim > 1 and len(state) == len(example) for state in tree_leaves(call.initial)):
        raise InputError(f"the state of the model is not {len(example)} samples of at least one entry, batch first.")
    _check_readout(cell, call, example)
    images = _drawn(example)
    _check_parts(cell, images)
    own = solver is None and tail is None
    if solver is None or tail is None:
        own_solver, own_tail = _iteration(module.get_submodule(name), call.settings)
        solver, tail = solver or own_solver, tail or own_tail
    deq = DEQ(nn.Identity(), cell, Readout(cell, example[:1]), solver, tail, gradient).eval()
    if own:
        for image in images[:: _DRAWN // _SOLVED]:
            _check_solve(deq, cell, image[None])
    return deq


@dataclass(frozen=True)
class CoreCall:
    """What a forward hands to its core.

    Attributes:
        function: f, from the tensors of a state to those of the next.
        initial: z_0, a tensor or several.
        settings: the solver settings that come with the call.
    """

    function: Callable[..., Any]
    initial: CoreState
    settings: Mapping[str, Any]

    def apply(self, z: CoreState) -> CoreState:
        """F(z), of the structure of z."""
        return self.function(z) if isinstance(z, Tensor) else [*self.function(*z)]


class _Reached(BaseException):
    """Raised in place of the core's forward to leave the module's, past any `except Exception` on the way."""

    def __init__(self, call: CoreCall) -> None:
        super().__init__()
        self.call = call


class TorchDEQCell(nn.Module):
    """The cell of a TorchDEQ model, with u = x.

    Args:
        module: the model.
        core: the name of its core among its submodules.
    """

    def __init__(self, module: nn.Module, core: str) -> None:
        super().__init__()
        self.module = module
        self._core = core

    def initial_state(self, u: Pixels) -> CoreState:
        """The model's own z_0."""
        return self.call(u).initial

    def bind(self, u: Pixels) -> BoundCell:
        """F for one x: what leads up to it is run once for all evaluations without gradient, and for each one with."""
        with torch.no_grad():
            fixed = self.call(u)

        def function(z: CoreState) -> CoreState:
            return (self.call(u) if torch.is_grad_enabled() else fixed).apply(z)

        return BoundCell(function, (u, *self.module.parameters()))

    def forward(self, z: CoreState, u: Pixels) -> CoreState:
        """F(z; x)."""
        return self.call(u).apply(z)

    def call(self, x: Pixels) -> CoreCall:
        """What the model hands to its core for x; raises `InputError` where it never calls it."""

        def abandon(func: Any, z_star: Any, solver_kwargs: Any = None, **_: Any) -> Any:  # TorchDEQ's names
            state = z_star if isinstance(z_star, Tensor) else [*z_star]
            raise _Reached(CoreCall(func, state, solver_kwargs or {}))

        try:
            with self._answered_by(abandon):
                self.module(x)
        except _Reached as reached:
            return reached.call
        raise InputError("the forward of the model does not call its TorchDEQ core; convert the module that does.")

    def resume(self, x: Pixels, state: CoreState, statistic: float = -1.0) -> Any:
        """What the model returns for x where its core answers with a state; `InputError` where it is asked twice.

        Args:
            x: the inputs, (B, …).
            state: z, one tensor or several.
            statistic: every entry of the statistics that the core gives with its answer.
        """
        from torchdeq.solver.stat import SolverStat

        told = {name: torch.full_like(value, statistic) for name, value in SolverStat().items()}
        answers = iter([([state], SolverStat(told))])

        def answer(*_: Any, **__: Any) -> Any:
            try:
                return next(answers)
            except StopIteration as error:
                raise InputError(
                    "the forward of the model calls its TorchDEQ core more than once; one DEQ has one solve."
                ) from error

        with self._answered_by(answer):
            return self.module(x)

    def solved(self, x: Pixels) -> CoreState:
        """Where TorchDEQ's own solve for x ends."""
        call = self.call(x)
        core: Any = self.module.get_submodule(self._core)
        end = core(call.function, call.initial, solver_kwargs=dict(call.settings))[0][-1]
        return end if isinstance(end, Tensor) else [*end]

    @contextmanager
    def _answered_by(self, forward: Callable[..., Any]) -> Iterator[None]:
        if any(part.training for part in self.module.modules()):
            raise InputError("the TorchDEQ model, or a part of it, is in training mode; call eval() on it.")
        core: Any = self.module.get_submodule(self._core)
        core.forward = forward
        try:
            yield
        finally:
            del core.forward


class Readout(nn.Module):
    """The head of a TorchDEQ model: the part of its forward behind the core.

    Args:
        cell: the cell of the model.
        example: one input, (1, …), on which the part before the core runs, to no effect on the logits.
    """

    def __init__(self, cell: TorchDEQCell, example: Float[Tensor, "one *image"]) -> None:
        super().__init__()
        self.cell = cell
        self.register_buffer("example", example.detach().clone(), persistent=False)

    def forward(self, z: CoreState) -> Logits:
        """The logits of a state."""
        example = self.get_buffer("example")
        return self.cell.resume(example.expand(len(tree_leaves(z)[0]), *example.shape[1:]), z)


def has_core(module: nn.Module) -> bool:
    """Whether a module has a TorchDEQ core among its submodules; none has where TorchDEQ is not installed."""
    if find_spec("torchdeq") is None:
        return False
    from torchdeq.core import DEQBase

    return any(isinstance(part, DEQBase) for part in module.modules())


def _flat(state: CoreState) -> Float[Tensor, "batch entries"]:
    """The entries of each sample, of all tensors of a state."""
    return torch.cat([part.flatten(1) for part in tree_leaves(state)], dim=1)


def _core_name(module: nn.Module) -> str:
    try:
        from torchdeq.core import DEQBase
    except ImportError as error:
        raise InputError("TorchDEQ is not there to run the model; install torchdeq.") from error
    names = [name for name, part in module.named_modules() if isinstance(part, DEQBase)]
    if len(names) != 1 or names == [""]:
        raise InputError(
            f"the model has {len(names)} TorchDEQ cores among its submodules; give a module that has one of its own."
        )
    return names[0]


def _check_readout(cell: TorchDEQCell, call: CoreCall, example: Tensor) -> None:
    """Raise `InputError` unless what the module returns is logits that depend on x through the state alone."""
    x = example.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = cell.resume(x, tree_map(torch.detach, call.initial))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        raise InputError("the model does not return logits (B, K) alone; wrap it in a module that does.")
    if logits.requires_grad and torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] is not None:
        raise InputError(_PAST_THE_STATE)


def _drawn(example: Pixels) -> Float[Tensor, "drawn *image"]:
    """Images in the range of the example, always the same: its own, shuffled within, and noise, from bright to dark.

    An example of one value only is taken for the lower end of a range of length 1.
    """
    generator = torch.Generator().manual_seed(0)
    known = example.detach().cpu()
    low, high = known.aminmax()
    span = high - low if high > low else torch.ones_like(low)
    images = []
    for i, exponent in enumerate(torch.logspace(-3, 3, _DRAWN // 2, base=2).tolist()):
        image = known[i % len(known)]
        order = torch.randperm(image.numel(), generator=generator)
        noise = torch.rand(image.shape, generator=generator, dtype=torch.float64).to(image.dtype)
        images += [image.flatten()[order].view_as(image), low + span * noise**exponent]
    return torch.stack(images).to(example)


@torch.no_grad()
def _check_parts(cell: TorchDEQCell, images: Float[Tensor, "drawn *image"]) -> None:
    """Raise `InputError` unless each part is a function, per sample, of what the conversion gives it."""
    call = cell.call(images)
    start, state = call.initial, cell.solved(images)
    value, logits = call.apply(start), cell.resume(images, state)

    def differs(found: CoreState, known: CoreState, tolerance: float) -> bool:
        other, expected = _flat(found), _flat(known)
        bound = tolerance * float(expected.nan_to_num(0, 0, 0).abs().max())
        return not torch.allclose(other, expected, rtol=0, atol=bound, equal_nan=True)

    def first(z: CoreState) -> CoreState:
        return tree_map(lambda part: part[:1], z)

    eps = torch.finfo(_flat(state).dtype).eps
    exact, rounded = eps * 100, eps**0.5
    for _ in range(_REPEATS):
        again = cell.call(images)
        if again.settings != call.settings:
            raise InputError("the solver's settings change from call to call; pass the same ones each time.")
        if differs(again.initial, start, exact) or differs(again.apply(start), value, exact):
            raise InputError(
                "the injection, z_0 or f of the model changes from call to call; take its noise or memory out."
            )
        if differs(cell.resume(images, state), logits, exact):
            raise InputError("the head of the model changes from call to call; take its noise or memory out.")
    if differs(cell.resume(images, state, 7.0), logits, exact):
        raise InputError("the logits depend on the statistics of the solver; let the model read the state alone.")
    if any(differs(cell.resume(images.roll(i, 0), state), logits, rounded) for i in range(1, len(images))):
        raise InputError(_PAST_THE_STATE)
    one = cell.call(images[:1])
    alone = one.initial, one.apply(first(start)), cell.resume(images[:1], first(state))
    if any(differs(single, first(whole), rounded) for single, whole in zip(alone, (start, value, logits), strict=True)):
        raise InputError("the samples of a batch depend on each other; let the model treat each by itself.")


@torch.no_grad()
def _check_solve(deq: DEQ, cell: TorchDEQCell, image: Float[Tensor, "one *image"]) -> None:
    """Raise `InputError` unless TorchDEQ's solve and ours end at the same state, but for rounding and the tolerance."""
    eps = torch.finfo(image.dtype).eps
    nudge = 8 * eps * image.abs().max() * torch.linspace(-1, 1, image.numel()).to(image).view_as(image)
    solution, theirs = deq.solution(image), _flat(cell.solved(image))
    ours = solution.final.flatten(1)
    apart = (ours - theirs).norm()

    def residual(z: Tensor) -> Tensor:
        value = solution.cell(z.view_as(solution.final))
        return (value.flatten(1) - z).norm() / (value.norm() if deq.solver.rule is StopRule.REL else 1)

    moved = max((_flat(cell.solved(image + sign * nudge)) - theirs).norm() for sign in (-2, -1, 1, 2))
    rounding = eps**0.5 * theirs.norm() + _AMPLIFIED * moved
    if theirs.isfinite().all() and not (
        apart <= rounding or max(residual(theirs), residual(ours)) < _CONVERGED * deq.solver.tol
    ):
        raise InputError(
            f"our solve ends elsewhere than TorchDEQ's, by {float(apart / theirs.norm()):.1%} of the state on an image "
            "like the example; pass a solver and a tail, which are then the model's."
        )


def _iteration(core: nn.Module, settings: Mapping[str, Any]) -> tuple[Solver, Unroll]:
    """The core's forward solver in eval mode, and what it makes of the z* it finds."""
    options: Any = core
    kind = options.f_solver.__name__
    unknown = settings.keys() - _KNOWN_SETTINGS
    if unknown or kind not in _LEAST_EVALUATIONS:
        what = f"the settings {', '.join(sorted(unknown))}" if unknown else f"the solver {kind}"
        raise InputError(f"{what} of the model's TorchDEQ core have no counterpart; pass a solver and a tail.")
    damping, tol, stop = settings.get("tau", 1.0), options.f_tol, options.f_stop_mode
    if kind == "anderson_solver" and damping != 1:
        raise InputError(
            "TorchDEQ does not damp the first step of Anderson's method with tau; pass a solver and a tail."
        )
    evaluations, least = int(settings.get("f_max_iter", options.eval_f_max_iter)), _LEAST_EVALUATIONS[kind]
    if evaluations < least:
        raise InputError(
            f"with an f_max_iter of {evaluations} this solver of TorchDEQ does not solve; raise it to {least} or more."
        )
    steps = evaluations - 1
    match kind:
        case "broyden_solver":
            return Broyden(evaluations, tol, stop), Unroll(0)
        case "anderson_solver":
            solver = Anderson(steps, tol, stop, history=settings.get("m", 6), ridge=settings.get("lam", 1e-4))
            return solver, Unroll(0, from_image=True)
        case "fixed_point_iter":
            return Picard(steps, tol / damping, stop, damping=damping), Unroll(1, damping)
        case _:
            return Picard(steps, 0.0, stop, result="last", damping=damping), Unroll(1, damping)
