"""retailmart.yml and what goes before it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from retailmart.errors import NotAProject, SettingsError
from retailmart.project import Settings, load_project
from retailmart.project.settings import read_pairs
from tests.conftest import Shop


def settings_of(shop: Shop, flags: dict[str, object] | None = None) -> Settings:
    """The settings as a run would see them."""
    return load_project(shop.folder, flags).settings


def problems_of(shop: Shop, flags: dict[str, object] | None = None) -> list[str]:
    """All mistakes in the project's files."""
    with pytest.raises(SettingsError) as caught:
        load_project(shop.folder, flags)
    return list(caught.value.problems)


def add(shop: Shop, text: str, file: str = "retailmart.yml") -> None:
    """Append lines to a file of the project."""
    path = shop.folder / file
    path.write_text(path.read_text() + text)


def test_flag_before_environment_before_dotenv_before_file(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearer a setting is to the command, the more it counts."""
    assert settings_of(shop).lake == "lake"
    add(shop, "RETAILMART__LAKE=from_dotenv\n", ".env")
    assert settings_of(shop).lake == "from_dotenv"
    monkeypatch.setenv("RETAILMART__LAKE", "from_environment")
    assert settings_of(shop).lake == "from_environment"
    assert settings_of(shop, {"lake": "from_flag"}).lake == "from_flag"
    assert settings_of(shop).landing == "landing"


def test_sections_are_joined_key_by_key(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """One source from the environment leaves the file's others alone."""
    add(shop, "RETAILMART__SOURCES__WEB=sqlite:///web.db\n", ".env")
    assert settings_of(shop).sources == {"shop": "sqlite:///shop.db", "web": "sqlite:///web.db"}
    monkeypatch.setenv("RETAILMART__SOURCES__SHOP", "sqlite:///other.db")
    flags = read_pairs(["sources.web=sqlite:///third.db"])
    assert settings_of(shop, flags).sources == {
        "shop": "sqlite:///other.db",
        "web": "sqlite:///third.db",
    }


@pytest.mark.parametrize(
    "name",
    [
        "RETAILMART__VARIABLES__INCENTIVE_RATE",
        "retailmart__variables__incentive_rate",
        "Retailmart__Variables__Incentive_Rate",
    ],
)
def test_a_rate_from_the_environment_is_an_exact_decimal(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A rate multiplies money: no digit of it passes through a float, in any letter case."""
    monkeypatch.setenv(name, "0.0123456789012345678901")
    rate = settings_of(shop).variables["incentive_rate"]
    assert isinstance(rate, Decimal)
    assert rate == Decimal("0.0123456789012345678901")


def test_the_environment_takes_the_files_letter_case(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that the file calls Web is the one that RETAILMART__SOURCES__WEB means."""
    path = shop.folder / "retailmart.yml"
    path.write_text(path.read_text().replace("{shop: ", "{Web: 'sqlite:///a.db', shop: "))
    monkeypatch.setenv("RETAILMART__SOURCES__WEB", "sqlite:///b.db")
    assert settings_of(shop).sources["Web"] == "sqlite:///b.db"
    assert set(settings_of(shop).sources) == {"Web", "shop"}


def test_values_from_outside_have_types(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of the environment is read as YAML: whole numbers, decimals, truths and texts."""
    monkeypatch.setenv("RETAILMART__THREADS", "2")
    monkeypatch.setenv("RETAILMART__MEMORY_LIMIT", "512MB")
    monkeypatch.setenv("RETAILMART__VARIABLES__INCENTIVE_SCOPE", "company")
    monkeypatch.setenv("RETAILMART__VARIABLES__DECLINING_THRESHOLD_PERCENT", "5")
    settings = settings_of(shop)
    assert (settings.threads, settings.memory_limit) == (2, "512MB")
    assert settings.variables == {"incentive_scope": "company", "declining_threshold_percent": 5}
    assert type(settings.variables["declining_threshold_percent"]) is int


def test_other_variables_of_the_environment_are_left_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only names that begin with RETAILMART and two underscores are settings."""
    monkeypatch.setenv("RETAILMART_PROJECT", "elsewhere")
    monkeypatch.setenv("MY_RETAILMART__LAKE", "elsewhere")
    assert settings_of(shop).lake == "lake"


def test_mistakes_from_outside_name_where_they_were_made(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the environment, .env or a flag is not said to be in the file."""
    monkeypatch.setenv("RETAILMART__LNDING", "x")
    monkeypatch.setenv("RETAILMART__THREADS", "many")
    monkeypatch.setenv("RETAILMART__ARCHIVE", "[x")
    monkeypatch.setenv("RETAILMART__LAKE__DEEP", "x")
    add(shop, "RETAILMART__MEMORY_LIMIT=lots\n", ".env")
    assert sorted(problems_of(shop, {"engine": "sparc"})) == [
        ".env: RETAILMART__MEMORY_LIMIT: memory_limit: 'lots' is no amount of memory; write it as"
        " in 2GB or 512MB",
        "RETAILMART__ARCHIVE: '[x' is no YAML value: expected ',' or ']', but got '<stream end>'",
        "RETAILMART__LAKE__DEEP: 'lake' is a value, no section",
        "RETAILMART__LNDING: unknown key 'lnding'; did you mean 'landing'?",
        "RETAILMART__THREADS: threads: Input should be a valid integer, unable to parse string as"
        " an integer",
        "setting engine: engine: 'sparc' is unknown; known: duckdb",
    ]


def test_a_section_that_is_given_a_value_too_is_a_mistake(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A section cannot be a value and hold keys at once, in the environment as in flags."""
    monkeypatch.setenv("RETAILMART__SOURCES", "x")
    monkeypatch.setenv("RETAILMART__SOURCES__SHOP", "y")
    assert "RETAILMART__SOURCES__SHOP: 'sources' is a value, no section" in problems_of(shop)
    with pytest.raises(SettingsError, match=r"--set a\.b=2: 'a' is a value, no section"):
        read_pairs(["a=1", "a.b=2"])


@pytest.mark.parametrize("pair", ["lake", "=x", "a..b=1", ".a=1"])
def test_a_flag_without_key_or_value_is_refused(pair: str) -> None:
    """--set takes KEY=VALUE, and no key of a path may be empty."""
    with pytest.raises(SettingsError, match="write it as KEY=VALUE"):
        read_pairs([pair])


def test_flags_are_nested_by_dots() -> None:
    """Dots lead into sections, and only the first equals sign divides."""
    assert read_pairs(["lake=a=b", "variables.x=0.10", "variables.y=1"]) == {
        "lake": "a=b",
        "variables": {"x": Decimal("0.10"), "y": 1},
    }


def test_a_dotenv_with_a_byte_order_mark_counts(shop: Shop) -> None:
    """Windows' editor puts a mark before the first line; the setting there must not be lost."""
    (shop.folder / ".env").write_bytes(b"\xef\xbb\xbfRETAILMART__LAKE=pond\r\n")
    assert settings_of(shop).lake == "pond"


def test_a_dotenv_that_is_not_utf8_is_no_traceback(shop: Shop) -> None:
    """A comment in another encoding does not stop the settings from being read."""
    (shop.folder / ".env").write_bytes(b"# caf\xe9\nRETAILMART__LAKE=pond\n")
    assert settings_of(shop).lake == "pond"


def test_a_variable_that_no_mart_declares_is_a_mistake(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable would silently leave the default in force."""
    add(shop, "variables:\n  incentive_rat: 0.02\n")
    monkeypatch.setenv("RETAILMART__VARIABLES__RATE_OF_TAX", "3")
    assert problems_of(shop) == [
        "retailmart.yml:10: no mart declares the variable 'incentive_rat'; did you mean"
        " 'incentive_rate'?",
        "RETAILMART__VARIABLES__RATE_OF_TAX: no mart declares the variable 'rate_of_tax'; known:"
        " declining_threshold_percent, incentive_rate, incentive_scope",
    ]


@pytest.mark.parametrize("value", ["[1]", ".inf", ".nan", "{a: 1}", "2024-01-31", ""])
def test_a_variable_that_no_query_can_hold_is_one_mistake(shop: Shop, value: str) -> None:
    """Lists, endless numbers and dates are refused in a single sentence, with the line."""
    add(shop, f"variables:\n  incentive_rate: {value}\n")
    problems = problems_of(shop)
    assert len(problems) == 1
    assert problems[0].startswith("retailmart.yml:10: variables.incentive_rate: ")
    assert "is neither decimal nor int nor bool nor str" in problems[0]


@pytest.mark.parametrize("text", ["just words\n", "- a\n"])
def test_settings_that_are_no_keys_are_told_once(shop: Shop, text: str) -> None:
    """A retailmart.yml of another shape is one mistake."""
    (shop.folder / "retailmart.yml").write_text(text)
    assert problems_of(shop) == ["retailmart.yml:1: expected `key: value` lines"]


def test_a_syntax_error_is_told_once(shop: Shop) -> None:
    """A retailmart.yml that is no YAML is one mistake, with its line."""
    (shop.folder / "retailmart.yml").write_text("lake: lake\nlanding: [a\n")
    (problem,) = problems_of(shop)
    assert problem.startswith("retailmart.yml:3: ")


def test_an_empty_file_means_defaults(shop: Shop) -> None:
    """Every setting has a default."""
    (shop.folder / "retailmart.yml").write_text("")
    assert settings_of(shop) == Settings()


def test_a_folder_without_settings_is_no_project(tmp_path: Path) -> None:
    """A wrong folder is told as such, with the way to make a right one."""
    with pytest.raises(NotAProject, match="retailmart init"):
        load_project(tmp_path)


def test_mistakes_of_all_files_come_at_once(shop: Shop) -> None:
    """One look at the project tells everything that is wrong in it, file by file."""
    add(shop, "lanes: 3\n")
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(path.read_text().replace("STRING", "STRIN").replace("warn", "wran"))
    (shop.folder / "feeds" / "broken.yml").write_text("files: [a\n")
    (shop.folder / "marts" / "empty.sql").write_text("-- refresh: full\n")
    add(shop, "", "marts/sales_mart.sql")
    mart = shop.folder / "marts" / "customer_mart.sql"
    mart.write_text(mart.read_text().replace("publish: false", "publish: true"))
    assert problems_of(shop) == [
        "retailmart.yml:9: unknown key 'lanes'; did you mean 'lake'?",
        "feeds/broken.yml:2: expected ',' or ']', but got '<stream end>'",
        "feeds/sales.yml:7: columns.product_name.type: 'STRIN' is no column type; did you mean"
        " 'STRING'?",
        "feeds/sales.yml:19: rules.0.action: 'wran' is unknown; did you mean 'warn'?",
        "feeds/sales.yml:23: rules.1.action: 'wran' is unknown; did you mean 'warn'?",
        "marts/customer_mart.sql:5: publish: needs `key`, the columns that tell rows apart",
        "marts/empty.sql: holds no SELECT below its header",
    ]
