"""Doing an experiment: its panels, and where they come from."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from robustdeq.base.provenance import DISPLAY, code_fingerprint, command_and_versions
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Reproduction, effects
from robustdeq.study.study import Study


def settings(experiment: Experiment, study: Study) -> dict[str, Any]:
    """What decides the outcome of an experiment and is known beforehand, as plain values."""
    return study.settings | {"weights": {} if experiment.trains else dict(study.weights)}


def reproduce(experiment: Experiment, study: Study) -> Reproduction:
    """Measure an experiment; what is missing is trained, and what was measured before is not measured again.

    Args:
        experiment: the experiment.
        study: where it takes place.

    Raises:
        InputError: weights, images or folder cannot be used, or a training came to nothing.
    """
    begun = time.perf_counter()
    study = replace(study, used={}, kept={}, weights={} if experiment.trains else study.weights)
    findings = tuple(experiment.decide(study))
    panels = (*effects(findings), *experiment.measure(study))
    provenance = settings(experiment, study) | {
        "models": dict(study.used),
        **command_and_versions(),
        "device": torch.cuda.get_device_name(study.device) if study.device.type == "cuda" else study.device.type,
        "threads": torch.get_num_threads(),
        "batch_size": study.batch_size,
        "seconds": round(time.perf_counter() - begun, 1),
        "seconds_from_nothing": round(time.perf_counter() - begun + sum(study.kept.values()), 1),
        "code": code_fingerprint(unrelated=DISPLAY),
    }
    return Reproduction(
        experiment.name,
        experiment.source,
        experiment.title,
        panels,
        experiment.remark,
        provenance,
        experiment.legend,
        findings,
    )
