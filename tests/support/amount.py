"""How much generated tests try, little in `make test` and much in `make test-all`; their seed."""

from __future__ import annotations

import os
from typing import Final

SEED_NAME: Final = "RETAILMART_TEST_SEED"
# What is generated follows from it; a test that fails tells it.
SEED: Final = int(os.environ.get(SEED_NAME) or 1)


def tries(few: int, many: int) -> int:
    """So many cases, days or kills; `many` where RETAILMART_TEST_ALL is set."""
    return many if os.environ.get("RETAILMART_TEST_ALL") else few
