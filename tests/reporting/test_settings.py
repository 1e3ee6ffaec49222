"""Settings are said in words, whether they were kept as plain values or as the text of an object."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdeq.attacks import PGD
from robustdeq.base.provenance import describe
from robustdeq.evaluation import Estimators
from robustdeq.reporting.settings import attacked, plain, provenance, said, subject
from robustdeq.solvers import Broyden


@pytest.mark.parametrize("thing", [PGD(), PGD(eps=0.25, norm="L2"), Estimators(), Broyden()])
def test_text_of_an_object_says_what_its_settings_say(thing: Any) -> None:
    kept = describe(thing)
    assert plain(repr(thing)) == {"class": kept["class"]} | {key: plain(value) for key, value in kept.items()}
    assert said(repr(thing)) == said({key: kept[key] for key in plain(repr(thing))})


@given(st.text() | st.from_regex(r"[A-Z]\w*\(.*\)", fullmatch=True))
def test_any_other_text_stays_what_it_is_or_becomes_settings(text: str) -> None:
    found = plain(text)
    assert found == text or "class" in found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "none"),
        (True, "yes"),
        ([0.0, 1.0], "0 and 1"),
        ("<StopRule.REL: 'rel'>", "<StopRule.REL: 'rel'>"),
        ("Broyden(max_steps=8, stop=<StopRule.REL: 'rel'>)", "Broyden (max steps 8, stop rel)"),
        (
            {"class": "PGD", "eps": 8 / 255, "step_size": 2 / 255, "norm": "Linf"},
            "PGD (ε 8/255, step size 2/255, norm L∞)",
        ),
        ({"class": "PGD", "eps": 0.25, "norm": "L2", "targeted": False}, "PGD (ε 0.25, norm L2, targeted no)"),
        ({"final": {"class": "FinalState"}}, "final FinalState"),
        ({}, "none"),
        ("PGD(eps=__import__('os'))", "PGD(eps=__import__('os'))"),
        ("PGD(**{})", "PGD(**{})"),
    ],
)
def test_setting_in_words(value: Any, words: str) -> None:
    assert said(value) == words


def test_provenance_leaves_out_what_is_empty() -> None:
    found = provenance({"batch_size": 64, "sources": {}, "gradient": None, "device": "cpu"})
    assert found == {"batch size": "64", "device": "cpu"}


EVALUATION = {
    "command": "robustdeq evaluate mine --data cifar10",
    "model": {"class": "MDEQ", "parameters": 1234567},
    "data": "cifar10:test, first 64 of 10000",
    "attack": describe(PGD()),
    "protocol": "strict",
}
OF_SCALE = {
    "scale": "nano",
    "weights": {},
    "trained_on": "digits",
    "data": "digits, 400",
    "attack": "PGD(eps=0.25, norm='L2')",
}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            EVALUATION,
            "mine, MDEQ, 1,234,567 parameters; cifar10:test, first 64 of 10000; "
            "ε = 8/255 (L∞), PGD of 10 steps of 2/255, protocol strict",
        ),
        (OF_SCALE, "models of the scale nano, trained on digits; digits, 400; ε = 0.25 (L2)"),
        (OF_SCALE | {"weights": {"unrolled": "small"}}, "unrolled small; digits, 400; ε = 0.25 (L2)"),
        (EVALUATION | {"command": "robustdeq evaluate --data digits mine"}, subject(EVALUATION).removeprefix("mine, ")),
        ({}, ""),
    ],
)
def test_subject_is_the_model_the_images_and_the_attack(settings: dict[str, Any], words: str) -> None:
    assert subject(settings) == words


@pytest.mark.parametrize("attack", ["PGD", 3, [1], {"eps": "much"}, {"eps": 0.1, "steps": "many"}])
def test_attack_that_is_none_is_passed_over(attack: Any) -> None:
    assert "PGD of" not in attacked({"attack": attack})


@pytest.mark.parametrize("size", [None, "many", [3], {}, 2.5])
def test_size_that_is_no_number_is_left_out(size: Any) -> None:
    assert subject({"model": {"class": "DEQ", "parameters": size}}) == "DEQ"
    assert subject({"model": {"class": "DEQ", "parameters": 1234}}) == "DEQ, 1,234 parameters"
