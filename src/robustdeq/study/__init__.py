"""The tables and figures of the paper, and what it could not show, each measured by one function."""

from __future__ import annotations

from robustdeq.base.errors import look_up
from robustdeq.study.beyond.alignment import ALIGNMENT
from robustdeq.study.beyond.attack_order import ATTACK_ORDER
from robustdeq.study.beyond.epsilon_curve import EPSILON_CURVE
from robustdeq.study.beyond.gradient_or_loss import GRADIENT_OR_LOSS
from robustdeq.study.beyond.overestimate import OVERESTIMATE
from robustdeq.study.beyond.price import PRICE
from robustdeq.study.beyond.steps_curve import STEPS_CURVE
from robustdeq.study.beyond.strict_vs_paper import STRICT_VS_PAPER
from robustdeq.study.beyond.true_gradient import TRUE_GRADIENT
from robustdeq.study.beyond.when import WHEN
from robustdeq.study.claims import CLAIMS
from robustdeq.study.experiment import Experiment
from robustdeq.study.finding import Finding, Verdict
from robustdeq.study.panel import Drawing, Panel, Reproduction
from robustdeq.study.paper.accumulation import ACCUMULATION
from robustdeq.study.paper.adjoint_convergence import APPENDIX_B
from robustdeq.study.paper.attack_time import ATTACK_TIME
from robustdeq.study.paper.fig2a import FIGURE_2A
from robustdeq.study.paper.fig2b import FIGURE_2B
from robustdeq.study.paper.fig3a import FIGURE_3A
from robustdeq.study.paper.fig3bc import FIGURE_3B, FIGURE_3C
from robustdeq.study.paper.fig4 import FIGURE_4
from robustdeq.study.paper.jacobian_sweep import JACOBIAN_SWEEP
from robustdeq.study.paper.lipschitz import LIPSCHITZ
from robustdeq.study.paper.shine import APPENDIX_D
from robustdeq.study.paper.solve_memory import MEMORY
from robustdeq.study.paper.table1 import TABLE_1
from robustdeq.study.paper.table2 import TABLE_2
from robustdeq.study.paper.table3 import TABLE_3
from robustdeq.study.paper.table4 import TABLE_4
from robustdeq.study.paper.table5 import TABLE_5
from robustdeq.study.paper.table6 import TABLE_6
from robustdeq.study.paper.training_speed import TRAINING_SPEED
from robustdeq.study.paper.unroll_ablation import UNROLL_ABLATION
from robustdeq.study.scales import SCALES, Budget, Scale, scale_named
from robustdeq.study.study import Effort, Study

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        TABLE_1,
        TABLE_2,
        TABLE_3,
        TABLE_4,
        TABLE_5,
        TABLE_6,
        FIGURE_2A,
        FIGURE_2B,
        FIGURE_3A,
        FIGURE_3B,
        FIGURE_3C,
        FIGURE_4,
        APPENDIX_B,
        ACCUMULATION,
        APPENDIX_D,
        UNROLL_ABLATION,
        JACOBIAN_SWEEP,
        TRAINING_SPEED,
        LIPSCHITZ,
        MEMORY,
        ATTACK_TIME,
        CLAIMS,
        TRUE_GRADIENT,
        STRICT_VS_PAPER,
        OVERESTIMATE,
        GRADIENT_OR_LOSS,
        ATTACK_ORDER,
        PRICE,
        EPSILON_CURVE,
        STEPS_CURVE,
        ALIGNMENT,
        WHEN,
    )
}


def experiment_named(name: str) -> Experiment:
    """The experiment of that name; raises `InputError`, with the nearest one, where there is none."""
    return look_up("experiment", name, EXPERIMENTS)


__all__ = [
    "EXPERIMENTS",
    "SCALES",
    "Budget",
    "Drawing",
    "Effort",
    "Experiment",
    "Finding",
    "Panel",
    "Reproduction",
    "Scale",
    "Study",
    "Verdict",
    "experiment_named",
    "scale_named",
]
