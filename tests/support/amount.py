"""How much generated tests try, little in `make test` and much in `make test-all`; their seed."""

from __future__ import annotations

import os
import secrets
from typing import Final

SEED_NAME: Final = "RETAILMART_TEST_SEED"
ALL: Final = bool(os.environ.get("RETAILMART_TEST_ALL"))
if not os.environ.get(SEED_NAME):
    # Through the environment: workers of xdist and other children try what this process announces.
    os.environ[SEED_NAME] = str(1 + secrets.randbelow(10**6))
# What is generated follows from it: another one in each session.
SEED: Final = int(os.environ[SEED_NAME])


def tries(few: int, many: int) -> int:
    """So many cases, days or kills; `many` where RETAILMART_TEST_ALL is set."""
    return many if ALL else few
