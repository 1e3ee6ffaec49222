"""A table is made of finished evaluations alone, and every outcome stays with its image."""

import numpy as np
import pytest

from robustdeq.base.errors import InputError
from robustdeq.evaluation import Store, assemble
from robustdeq.evaluation.column import Role, Rule
from robustdeq.evaluation.job import CLEAN
from robustdeq.evaluation.store import Finished, Outcome


def column(id: str, role: Role, batches: int) -> dict[str, object]:
    attempt = {"key": id, "climbs": "a gradient", "settings": {"against": "final"}}
    plain = {"id": id, "label": id, "rule": Rule.EVERY, "role": role, "batches": batches, "attempts": [attempt]}
    return plain | {"ready_made": False, "curve": "", "cumulative": False}


MANIFEST = {
    "settings": {"attack": {"eps": 0.1}},
    "environment": {},
    "batches": 3,
    "searched": 0,
    "rows": [{"id": "final", "title": "final"}],
    "columns": [column("pgd", Role.PAPER, 3), column("one-step", Role.PROBE, 2)],
}
RUNS = [(key, batch) for key, batches in ((CLEAN, 3), ("pgd", 3), ("one-step", 2)) for batch in range(batches)]


def run(*standing: bool) -> Finished:
    errors = np.zeros((1, len(standing)), dtype=bool)
    return Finished(Outcome(np.array([standing]), errors, np.ones(len(standing), dtype=bool)), 0.0)


def test_what_a_check_breaks_is_marked_on_the_images_that_it_broke() -> None:
    with Store.create(None, MANIFEST) as store:
        for key, batch in RUNS:
            store.commit(key, batch, run(True, (key, batch) != ("one-step", 1)))
        assert assemble(store).standing.tolist() == [[True, True, True, False, True, True]]


@pytest.mark.parametrize("left_out", RUNS)
def test_an_evaluation_that_lacks_a_run_is_not_finished(left_out: tuple[str, int]) -> None:
    with Store.create(None, MANIFEST) as store:
        for key, batch in RUNS:
            if (key, batch) != left_out:
                store.commit(key, batch, run(True, False))
        with pytest.raises(InputError, match="the evaluation is not finished"):
            assemble(store)
