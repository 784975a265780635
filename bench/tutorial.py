"""The yardstick for Spark: the four sales marts in PySpark, written as tutorials write them.

It knows nothing of retailmart. The files are read with a given schema and joined with the shop's
tables, which come by JDBC; one joined frame feeds all four marts. Sums and ranks are windows, the
sales mart is written by `partitionBy`, and the two small marts are appended to MySQL by JDBC. No
file is checked, no row refused, nothing is balanced, and a second run would append everything once
more.

Left as tutorials leave it: shuffle partitions, nothing repartitioned, nothing cached. In three ways
it is kinder to itself than most: the schema is given rather than inferred, money is decimal, and
unknown customers stay, all of which the outputs need to be the same as ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyspark.sql import Window
from pyspark.sql import functions as sf

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SALES: Final = """
    customer_id INT, store_id INT, product_name STRING, sales_date DATE, sales_person_id INT,
    price DECIMAL(12,2), quantity INT, total_cost DECIMAL(14,2)
"""


@dataclass(frozen=True)
class Jdbc:
    """A database as Spark's JDBC source is told of it: `jdbc:mysql://host:port/name`."""

    url: str
    user: str
    password: str

    @property
    def options(self) -> dict[str, str]:
        """What reader and writer are given, but for the table."""
        return {
            "url": self.url,
            "user": self.user,
            "password": self.password,
            "driver": "org.mariadb.jdbc.Driver",
        }


def build(spark: SparkSession, landing: Path, out: Path, shop: Jdbc, marts: Jdbc) -> None:
    """Read all CSV files of `landing`; write two marts as Parquet below `out`, two to `marts`."""
    joined = _joined(spark, landing, shop)
    _write_customer_mart(joined, out)
    _write_sales_mart(joined, out)
    _write_customer_purchases(joined, marts)
    _write_incentives(joined, marts)


def _joined(spark: SparkSession, landing: Path, shop: Jdbc) -> DataFrame:
    """Every sale with what is known of its customer, store and salesperson."""
    sales = (
        spark.read.format("csv")
        .option("header", "true")
        .schema(SALES)
        .load(str(landing))
        .withColumn("additional_column", sf.lit(None).cast("string"))
        .withColumn("sales_month", sf.date_format("sales_date", "yyyy-MM"))
    )
    customer = _table(spark, shop, "customer")
    store = _table(spark, shop, "store").select(
        sf.col("id").alias("store_id"), "store_manager_name"
    )
    team = _table(spark, shop, "sales_team").select(
        sf.col("id").alias("sales_person_id"),
        sf.col("first_name").alias("sales_person_first_name"),
        sf.col("last_name").alias("sales_person_last_name"),
        "manager_id",
        "is_manager",
        sf.col("address").alias("sales_person_address"),
        sf.col("pincode").alias("sales_person_pincode"),
    )
    return (
        sales.join(customer, "customer_id", "left")
        .join(store, "store_id", "left")
        .join(team, "sales_person_id", "left")
    )


def _table(spark: SparkSession, database: Jdbc, name: str) -> DataFrame:
    return spark.read.format("jdbc").options(**database.options, dbtable=name).load()


def _write_customer_mart(joined: DataFrame, out: Path) -> None:
    mart = joined.select(
        "customer_id",
        "first_name",
        "last_name",
        "address",
        "pincode",
        "phone_number",
        "sales_date",
        "total_cost",
        "additional_column",
    )
    mart.write.mode("overwrite").parquet(str(out / "customer_mart"))


def _write_sales_mart(joined: DataFrame, out: Path) -> None:
    mart = joined.select(
        "store_id",
        "sales_person_id",
        "sales_person_first_name",
        "sales_person_last_name",
        "store_manager_name",
        "manager_id",
        "is_manager",
        "sales_person_address",
        "sales_person_pincode",
        "sales_date",
        "total_cost",
        "additional_column",
        "sales_month",
    )
    mart.write.mode("overwrite").partitionBy("sales_month", "store_id").parquet(
        str(out / "sales_mart")
    )


def _write_customer_purchases(joined: DataFrame, marts: Jdbc) -> None:
    month = Window.partitionBy("customer_id", "sales_month")
    mart = (
        joined.withColumn("monthly_total", sf.sum("total_cost").over(month))
        .select(
            "customer_id",
            "first_name",
            "last_name",
            sf.year("sales_date").alias("year"),
            sf.month("sales_date").alias("month"),
            "monthly_total",
        )
        .distinct()
    )
    _append(mart, marts, "customer_monthly_purchase")


def _write_incentives(joined: DataFrame, marts: Jdbc) -> None:
    seller = Window.partitionBy("store_id", "sales_person_id", "sales_month")
    totals = (
        joined.withColumn("total_sales", sf.sum("total_cost").over(seller))
        .select(
            "store_id",
            "sales_person_id",
            sf.col("sales_person_first_name").alias("first_name"),
            sf.col("sales_person_last_name").alias("last_name"),
            sf.year("sales_date").alias("year"),
            sf.month("sales_date").alias("month"),
            "total_sales",
        )
        .distinct()
    )
    best = Window.partitionBy("store_id", "year", "month").orderBy(sf.desc("total_sales"))
    earned = sf.round(sf.col("total_sales") * sf.lit(Decimal("0.01")), 2)
    mart = (
        totals.withColumn("place", sf.rank().over(best))
        .withColumn("incentive", sf.when(sf.col("place") == 1, earned).otherwise(Decimal("0.00")))
        .drop("place")
    )
    _append(mart, marts, "sales_team_incentive")


def _append(mart: DataFrame, database: Jdbc, table: str) -> None:
    mart.write.format("jdbc").mode("append").options(**database.options, dbtable=table).save()
