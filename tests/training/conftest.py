"""What the tests of training share."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """No run-time checks of shapes and types, as users have it: more than twice as fast."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
