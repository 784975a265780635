"""Large tables by JDBC: rows between a database and Spark's workers, none through Spark's driver.

Values travel as texts wherever Java's types would bend them; who asks says how they are written.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyspark.errors import PySparkException

from retailmart.engines.spark.files import TOLD, Writer, told
from retailmart.engines.spark.session import first_words
from retailmart.engines.told import ours
from retailmart.errors import KeyClash, RetailmartError, SettingsError, Unavailable
from retailmart.tables import DatabaseAddress, DataFile, Extract

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from retailmart.project.settings import SparkSettings

# Connections at a time: a cluster has more cores than a server likes to serve.
WRITERS: Final = 8
_ROWS_A_BATCH, _ROWS_AHEAD = 10_000, 1_000
_MARIADB, _MYSQL = "org.mariadb.jdbc.Driver", "com.mysql.cj.jdbc.Driver"
_INSTALL = (
    "Name the jar of MariaDB's or MySQL's driver (Debian: apt install libmariadb-java, then"
    " /usr/share/java/mariadb-java-client.jar)"
)
_SEE = (
    "See that Spark's workers reach the database; without spark: jdbc_jar, rows pass Spark's driver"
)
_CONNECT_SECONDS = 10
# Spark can't always read a task's error, as it has not the jar's classes everywhere: then all it
# tells is that there was one.
_REFUSED = ("Duplicate entry", "UnknownReason")
_PASSING = re.compile(
    r"SQLNonTransientConnectionException|SQLTransient\w*Exception|SQLRecoverableException"
    r"|TransactionRollbackException|CommunicationsException"
)
_ACCOUNT = re.compile(r"(?:for|to) user '.*'@('[^']*')")


@dataclass(frozen=True)
class Jdbc:
    """A session that knows a JDBC driver, by the name of its class."""

    session: SparkSession
    driver: str

    def fetch(self, extract: Extract, writer: Writer) -> list[DataFile]:
        """Let the workers read a table, each of its queries a task, and write its rows."""
        names = tuple(field.name for field in extract.fields)
        work = _Decoded(replace(writer, columns=names), extract.decode)
        with _told(f"source table {extract.name!r} cannot be read"):
            return [told(text) for (text,) in self._texts(extract).mapInArrow(work, TOLD).collect()]

    def _texts(self, extract: Extract) -> DataFrame:
        texts = ", ".join(f"c{n} STRING" for n, _ in enumerate(extract.fields))
        options = self._options(extract.address)
        # A reader each: a Connect client looks at its options when the rows are asked for.
        parts = [
            self.session.read.format("jdbc")
            .options(**options, query=query, customSchema=texts, fetchsize=_ROWS_AHEAD)
            .load()
            for query in extract.queries
        ]
        return reduce(lambda one, other: one.union(other), parts)

    def write(self, frame: DataFrame, address: DatabaseAddress, table: str) -> None:
        """Add rows to a table, in one transaction for each task.

        KeyClash where the database refuses them, or Spark can't tell why they were not written.
        """
        with _told(f"the table {table} cannot be written to"):
            frame.write.format("jdbc").options(
                **self._options(address),
                dbtable=f"`{table}`",
                batchsize=_ROWS_A_BATCH,
                numPartitions=WRITERS,
                isolationLevel="READ_COMMITTED",
            ).mode("append").save()

    def _options(self, address: DatabaseAddress) -> dict[str, str]:
        """What is no option of Spark's own goes to the driver; no password is in the URL."""
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = f"jdbc:mysql://{host}:{address.port}/{address.database}"
        options = {
            "driver": self.driver,
            "user": address.user,
            "password": address.password,
            "sessionVariables": address.session,
            "rewriteBatchedStatements": "true",
            "connectTimeout": str(_CONNECT_SECONDS * 1000),
        }
        if self.driver == _MARIADB:
            url += "?permitMysqlScheme"  # what Spark writes is MySQL's SQL by this scheme only
            if address.tls:
                options |= {"useSsl": "true", "sslMode": "verify-full"}
            if address.authority is not None:
                options["serverSslCert"] = address.authority
        else:
            options["useCursorFetch"] = "true"  # else it holds all rows in memory
            if address.tls:
                options["sslMode"] = "VERIFY_IDENTITY"
            if address.authority is not None:
                raise SettingsError(
                    ["spark: jdbc_jar: MySQL's driver does not take the database's ssl_ca"],
                    "Name the jar of MariaDB's driver, which does",
                )
        return {"url": url, **options}


@dataclass(frozen=True)
class _Decoded:
    """What a worker does with a task's texts."""

    writer: Writer
    decode: Callable[[pa.RecordBatch], pa.RecordBatch]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return self.writer(map(self.decode, batches))


def driver_in(settings: SparkSettings) -> str | None:
    """The class of the driver that the settings name; None where they name none.

    SettingsError where its jar is not there, or is another.
    """
    if settings.jdbc_jar is None:
        return None
    jar = Path(settings.jdbc_jar)
    if not jar.is_file():
        raise SettingsError([f"spark: jdbc_jar: there is no file {jar}"], _INSTALL)
    try:
        with zipfile.ZipFile(jar) as opened:
            named = opened.read("META-INF/services/java.sql.Driver").decode()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        named = ""
    known = [line.strip() for line in named.splitlines() if line.strip() in (_MARIADB, _MYSQL)]
    if not known:
        raise SettingsError(
            [f"spark: jdbc_jar: {jar} is no JDBC driver of MariaDB's or MySQL's"], _INSTALL
        )
    return known[0]


def open_jdbc(session: SparkSession, settings: SparkSettings, driver: str | None) -> Jdbc | None:
    """The session's way to databases; it gets the jar that the settings name."""
    if driver is None or settings.jdbc_jar is None:
        return None
    from py4j.protocol import Py4JError

    jar = Path(settings.jdbc_jar)
    try:
        _give(session, jar, driver)
    except (PySparkException, Py4JError) as error:
        raise SettingsError(
            [f"spark: jdbc_jar: Spark does not take {jar}: {first_words(error)}"],
            f"Start Spark with it, as in spark-submit --jars {jar}",
        ) from error
    return Jdbc(session, driver)


def _give(session: Any, jar: Path, driver: str) -> None:
    from py4j.protocol import Py4JError

    if type(session).__module__.startswith("pyspark.sql.connect"):
        session.addArtifacts(str(jar))
        return
    known = {listed.rpartition("/")[2] for (listed,) in session.sql("LIST JARS").collect()}
    if jar.name not in known:
        session.sql(f"ADD JAR '{jar.as_uri()}'")
    # That is for workers and the thread that asked. Other threads, such as those that take in what
    # a task could not do, look where Spark's own classes are.
    loader = session._jsparkSession.sharedState().jarClassLoader().getParent()
    try:
        loader.loadClass(driver)
    except Py4JError:
        loader.addURL(session._jvm.java.net.URL(jar.as_uri()))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What a JDBC driver says, through Spark, as ours."""
    from py4j.protocol import Py4JError

    try:
        yield
    except (PySparkException, Py4JError) as error:
        # Of some errors the words of the driver are in the trace alone.
        words = f"{error}\n{getattr(error, '_stackTrace', '')}"
        if (known := ours(words)) is not None:
            raise known from error
        own = _ACCOUNT.sub(r"for this account at \1", first_words(Exception(words)))
        said = f"{what} by JDBC: {own}"
        if any(word in words for word in _REFUSED):
            raise KeyClash(said) from error
        if _PASSING.search(words):
            raise Unavailable(said, _SEE) from error
        raise RetailmartError(said, _SEE) from error
