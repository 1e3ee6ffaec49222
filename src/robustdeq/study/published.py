"""The numbers of the paper's tables, in percent (Yang, Pang and Liu, NeurIPS 2022, Tables 1–6).

Its figures are drawings without numbers; what the text says of them stands in the remark of each experiment.
"""

from __future__ import annotations

import numpy as np


def _table(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


EXACT_SMALL = _table([np.nan, 79.97, 80.10, np.nan], [78.24, 37.07, 36.39, 5.95])
"""Table 1: exact-trained (8/7); exact and unrolled gradient × clean, PGD-10, PGD-1000, Square."""

UNROLLED = _table(
    [78.03, 49.81, 59.49, 54.91, 42.67, 62.24, 51.52],
    [79.57, 54.90, 39.19, 42.76, 51.90, 29.38, 34.20],
    [79.67, 51.52, 52.43, 49.47, 49.02, 55.10, 47.12],
)
"""Tables 2 and 3: DEQ-Large, unrolling-trained (8/7), PGD-10; final, early, ensemble × clean and the six columns."""

EXACT_LARGE = _table(
    [73.51, 37.77, 70.52, 43.70, 36.70, 69.29, 48.08],
    [86.98, 75.25, 12.44, 40.12, 73.93, 18.24, 26.22],
    [75.12, 40.20, 72.41, 45.06, 39.18, 68.83, 49.10],
)
"""Table 2: DEQ-Large, exact-trained (50/50), PGD-10."""

UNROLLED_AUTOATTACK = _table(
    [78.03, 51.48, 61.95, 52.95, 37.27, 65.53, 49.66],
    [79.57, 61.12, 55.47, 56.84, 56.86, 25.41, 49.74],
    [79.67, 56.06, 58.69, 55.02, 50.45, 58.63, 48.37],
)
"""Table 3: DEQ-Large, unrolling-trained, AutoAttack."""

XL = _table(
    [82.92, 55.80, 55.80, 67.30, 48.58, 65.94, 58.23],
    [80.12, 51.40, 51.40, 60.78, 52.08, 55.70, 48.88],
    [81.17, 52.87, 52.87, 61.40, 51.70, 59.71, 53.23],
)
"""Table 3: DEQ-XL, unrolling-trained, PGD-10."""

XL_AUTOATTACK = _table(
    [82.92, 58.21, 58.21, 64.24, 43.97, 72.76, 69.83],
    [80.12, 58.92, 58.92, 62.98, 56.58, 62.67, 62.87],
    [81.17, 58.08, 58.08, 62.23, 54.09, 66.90, 56.45],
)
"""Table 3: DEQ-XL, unrolling-trained, AutoAttack."""

COMPARISON = {
    "resnet18": (82.52, 53.58, 48.51),
    "large": (79.67, 47.12, 48.37),
    "wrn34-10": (86.07, 56.60, 52.19),
    "xl": (81.17, 51.70, 54.09),
}
"""Table 4: clean, PGD-10 and AutoAttack of the networks, and of the DEQs under the ensemble defense."""

STATES = _table(
    [38.81, 82.62, 89.63, 91.77, 92.08, 92.29, 92.39, 92.53],
    [2.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00],
)
"""Table 5: DEQ-Large, standardly trained; clean and ready-made PGD-10 × z_1 … z_8."""

STANDARD = _table(
    [92.53, 8.90, 11.45, 3.69, 0.00, 0.00, 0.00],
    [38.81, 6.08, 4.54, 3.42, 2.00, 2.94, 1.31],
    [87.31, 9.12, 6.39, 3.48, 0.00, 0.00, 0.00],
)
"""Table 6: DEQ-Large, standardly trained, PGD-10."""
