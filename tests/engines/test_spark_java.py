"""What a Spark engine needs of this machine is looked for before it starts, with the fix."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from retailmart.engines.spark import java
from retailmart.engines.spark.java import ensure_java, ensure_packages, ensure_spark
from retailmart.errors import SettingsError
from retailmart.project.settings import SparkSettings
from tests.support.services.spark import fake_java

pytestmark = pytest.mark.spark


def be_spark(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let the installed pyspark have another version."""
    monkeypatch.setattr("pyspark.__version__", version)


def be_without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Let packages look as if they were not installed."""
    monkeypatch.setattr(java, "find_spec", lambda n: None if n in missing else find_spec(n))


@pytest.mark.parametrize(
    ("spark", "version", "complaint"),
    [
        ("4.3.0", "17.0.9", None),
        ("4.3.0", "25", None),
        ("4.3.0", "11.0.2", "too old for Spark 4.3.0"),
        ("4.3.0", "1.8.0_392", "too old for Spark 4.3.0"),
        ("3.5.9", "17.0.9", None),
        ("3.5.9", "11.0.2", None),
        ("3.5.9", "1.8.0_392", None),
        ("3.5.9", "25.0.1", "too new for Spark 3.5.9"),
        ("3.5.9", "1.7.0_80", "too old for Spark 3.5.9"),
        ("4.3.0", "of something", "tells its version"),
    ],
)
def test_java_must_be_one_that_spark_runs_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spark: str,
    version: str,
    complaint: str | None,
) -> None:
    """Each Spark has its own; the message tells which Java was found, by what, and what to type."""
    be_spark(monkeypatch, spark)
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", version)))
    if complaint is None:
        assert ensure_java() == f"Java {version} (by JAVA_HOME)"
        return
    with pytest.raises(SettingsError, match=re.escape(complaint)) as told:
        ensure_java()
    assert "(by JAVA_HOME)" in str(told.value)
    assert "apt install openjdk-17-jre-headless" in (told.value.hint or "")


def test_the_first_java_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without JAVA_HOME Spark takes what the shell would; with none at all it is said so."""
    be_spark(monkeypatch, "4.3.0")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "old" / "bin"), prepend=":")
    fake_java(tmp_path / "old", "11.0.2")
    with pytest.raises(SettingsError, match=r"Java 11\.0\.2 \(by PATH\) is too old"):
        ensure_java()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="none in JAVA_HOME or PATH"):
        ensure_java()


def test_a_java_that_is_cut_down_will_do_for_spark_3_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark 4 starts it with a module that small ones lack; it would die without a word."""
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", "17.0.9", cut_down=True)))
    be_spark(monkeypatch, "4.3.0")
    with pytest.raises(SettingsError, match="cut down"):
        ensure_java()
    be_spark(monkeypatch, "3.5.9")
    assert ensure_java() == "Java 17.0.9 (by JAVA_HOME)"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them where pyspark itself is missing; beside a platform's pyspark only the others."""
    be_without(monkeypatch, "pyspark")
    with pytest.raises(SettingsError, match="pyspark, which is not installed") as told:
        ensure_packages()
    assert (told.value.hint or "").endswith("pip install 'pyspark[connect]>=3.5' 'pandas>=2.2,<3'")
    be_without(monkeypatch, "pandas", "grpc")
    with pytest.raises(SettingsError) as told:
        ensure_packages()
    assert (told.value.hint or "").endswith("pip install 'pandas<3'")
    with pytest.raises(SettingsError) as told:
        ensure_packages(remote=True)
    assert (told.value.hint or "").endswith("pip install 'pandas<3' grpcio")


def test_an_old_spark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.5 is the oldest."""
    be_spark(monkeypatch, "3.5.0")
    assert ensure_packages() == "3.5.0"
    be_spark(monkeypatch, "3.4.4")
    with pytest.raises(SettingsError, match=r"pyspark 3\.4\.4 is too old, 3\.5 is the oldest"):
        ensure_packages()


def test_a_server_needs_no_java_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Connect client brings none; nor does a process that a launcher's Java has started."""
    monkeypatch.setattr("pyspark.SparkContext._gateway", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="is no Java"):
        ensure_spark(SparkSettings(master="local[2]"))
    ensure_spark(SparkSettings(remote="sc://127.0.0.1:1"))
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    ensure_spark(SparkSettings())
