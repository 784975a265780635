"""retailmart turns a retailer's raw drops into data marts that finance trusts.

>>> import retailmart
>>> project = retailmart.open_project("myshop")     # doctest: +SKIP
>>> project.run().rows("loaded")                    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retailmart.errors import (
    GateFailed,
    LeaseLost,
    MartNotBuilt,
    NotAProject,
    ProjectBusy,
    RetailmartError,
    SettingsError,
    Stopped,
)

if TYPE_CHECKING:
    from retailmart.api import OpenProject, create_project, open_project, open_secrets
    from retailmart.report import RunReport
    from retailmart.stopping import Stop, stop_on_signals

    __version__: str

__all__ = [
    "GateFailed",
    "LeaseLost",
    "MartNotBuilt",
    "NotAProject",
    "OpenProject",
    "ProjectBusy",
    "RetailmartError",
    "RunReport",
    "SettingsError",
    "Stop",
    "Stopped",
    "__version__",
    "create_project",
    "open_project",
    "open_secrets",
    "stop_on_signals",
]

_LATE = {
    "OpenProject": "retailmart.api",
    "create_project": "retailmart.api",
    "open_project": "retailmart.api",
    "open_secrets": "retailmart.api",
    "RunReport": "retailmart.report",
    "Stop": "retailmart.stopping",
    "stop_on_signals": "retailmart.stopping",
}


def __getattr__(name: str) -> Any:
    """Import the rest when it is asked for: `import retailmart` itself loads nothing heavy."""
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
