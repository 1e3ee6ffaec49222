"""The claims of the paper's text, each put to a test over seeds and images."""

from __future__ import annotations

from functools import partial

from robustdeq.study.claims.cost import COST
from robustdeq.study.claims.decision import decide
from robustdeq.study.claims.defended import DEFENSES
from robustdeq.study.claims.estimates import GRADIENTS
from robustdeq.study.claims.fixed_point import STRUCTURE
from robustdeq.study.claims.obfuscation import OBFUSCATION
from robustdeq.study.claims.vanilla import VANILLA
from robustdeq.study.experiment import Experiment
from robustdeq.study.finding import FEWEST_SEEDS

STATEMENTS = (*STRUCTURE, *OBFUSCATION, *DEFENSES, *GRADIENTS, *VANILLA, *COST)

CLAIMS = Experiment(
    "claims",
    "The paper's text",
    "Every claim of the paper, one by one",
    tuple(dict.fromkeys(way for statement in STATEMENTS for way in statement.configurations)),
    lambda study: iter(()),
    legend="Effects are means over trainings and images, positive where the claim holds, with the 95 % interval of "
    "each claim alone for new trainings and new images. p is that of the sign-flip test on other images under these "
    "trainings, corrected by Holm for the number of claims. A claim holds, or is reversed, where p is below 0.05 and "
    f"the interval leaves zero out; with fewer than {FEWEST_SEEDS} seeds (`--seeds`) nothing is decided. Where a claim "
    "names a bound, the effect is the distance to it. The strongest column, or the best defense, is chosen on the "
    "other half of the images, so that it may be a little weaker than the strongest in truth; the gradient behind each "
    "column named Intermediate is chosen as in the paper, on the images that it attacks. The adjoint is that with "
    "B_nᵀ unless it says otherwise.",
    every_size=True,
    decide=partial(decide, STATEMENTS),
)
