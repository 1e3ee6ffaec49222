"""From both sides: what attacks leave standing of a monotone DEQ, and what a certificate guarantees.

    python examples/certified.py                 # ε = 0.25 in L2, 200 digits
    python examples/certified.py 0.5 100 runs/certified
    python examples/certified.py 0.25 100 runs/certified monotone-small cifar10

The truth lies between the two. An attack that broke a certified image would be a bug, and the last check would say so.
"""

import sys

import robustdeq as rd


def bracket(
    eps: float, count: int, folder: str | None = None, name: str = "monotone-digits-dense", data: str = "digits"
) -> rd.evaluation.GridResult:
    """The worst case of the final state, with certificates below it, kept with adversaries where a folder is given."""
    model = rd.load(name)
    x, y = rd.data.load(data).require("test").head(count).tensors()
    certified = rd.certificates.Lipschitz().certify(model, x, y)
    attack = rd.attacks.PGD(eps, eps / 4, steps=10, norm="L2")
    few = rd.evaluation.Estimators(steps=(1,), dampings=(1.0,), states=1)
    protocol = rd.evaluation.WorstCase(attack, few, steps=10, restarts=2, apgd_steps=30, queries=200, probe_images=16)
    return rd.evaluation.measure(
        model,
        x,
        y,
        protocol,
        defenses={"final": rd.defenses.FinalState()},
        certified=certified,
        folder=folder,
        adversaries=folder is not None,
    )


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    eps, folder, *of = float(given.get(1, 0.25)), given.get(3), *sys.argv[4:]
    result = bracket(eps, int(given.get(2, 200)), folder, *of)
    assert result.certified is not None
    print(f"ε = {eps:g} in L2, {len(result.certified)} images, clean {result.clean[0].mean():.1%}")
    print(f"attacks leave {result.worst_case[0]:.1%}, certified {result.certified.mean():.1%}")
    print(f"{result.checks[-1].name}: {result.checks[-1].verdict}. {result.checks[-1].sentence}")
    if folder is not None:
        result.save(f"{folder}/results.json")
