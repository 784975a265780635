"""A Python process that can import only what `pip install .` installs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# They are not found, as if they were not installed: `find_spec` answers so, too.
_ALONE = """
import sys
from importlib.machinery import PathFinder

class Alone(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {missing} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Alone
"""


def installed() -> set[str]:
    """The distributions that `pip install .` installs: retailmart and what it needs, no extras."""
    found, waiting = set[str](), ["retailmart"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            needed = [Requirement(text) for text in metadata.requires(name) or ()]
            waiting += [
                one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})
            ]
    return found


def call_alone(code: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that can import only what `pip install .` installs."""
    kept = installed()
    missing = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not kept & {canonicalize_name(owner) for owner in owners}
    }
    return subprocess.run(
        [sys.executable, "-c", _ALONE.format(missing=missing) + code],
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
    )
