"""retailmart.yml and what goes before it."""

from __future__ import annotations

import os
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from retailmart.errors import NotAProject, SettingsError
from retailmart.project import Project, Settings, load_project, open_secrets
from retailmart.project.by_date import ByDate
from retailmart.project.secrets import SecretStore
from retailmart.project.settings import read_pairs
from retailmart.template import write_project
from tests.support.shop import Shop, all_marts

CANARY = "canary-5f0c"
KEY = "a key of more than sixteen characters"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine sets for its own databases and buckets decides nothing here."""
    for name in list(os.environ):
        if name.startswith(("MYSQL_", "AWS_", "S3_", "RETAILMART_")):
            monkeypatch.delenv(name)


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


@all_marts
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


@all_marts
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
    flags: dict[str, object] = {
        "engine": "sparc",
        "keep": {"archive": "abc"},
        "alerts": {"expect": {"sales": 1}},
    }
    assert sorted(problems_of(shop, flags)) == [
        ".env: RETAILMART__MEMORY_LIMIT: memory_limit: 'lots' is no amount of memory; write it as"
        " in 2GB or 512MB",
        "RETAILMART__ARCHIVE: '[x' is no YAML value: expected ',' or ']', but got '<stream end>'",
        "RETAILMART__LAKE__DEEP: 'lake' is a value, no section",
        "RETAILMART__LNDING: unknown key 'lnding'; did you mean 'landing'?",
        "RETAILMART__THREADS: threads: should be a valid integer, unable to parse string as"
        " an integer",
        "setting alerts.expect: unknown key 'expect'; did you mean 'expected'?",
        "setting engine: engine: 'sparc' is unknown; did you mean 'spark'?",
        "setting keep.archive: keep.archive: 'abc' is neither a whole number nor 'for ever'",
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


@all_marts
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


@pytest.mark.parametrize("value", ["[1]", ".inf", ".nan", "2024-01-31", ""])
def test_a_variable_that_no_query_can_hold_is_one_mistake(shop: Shop, value: str) -> None:
    """Lists, endless numbers and dates are refused in a single sentence, with the line."""
    add(shop, f"variables:\n  incentive_rate: {value}\n")
    problems = problems_of(shop)
    assert len(problems) == 1
    assert problems[0].startswith("retailmart.yml:10: variables.incentive_rate: ")
    assert "is neither a number nor a whole number nor true or false nor a text" in problems[0]


@all_marts
def test_values_by_date_are_read_in_order(shop: Shop) -> None:
    """Each value counts from its day on, as an exact decimal; Python code may give dates."""
    add(shop, "variables:\n  incentive_rate: {2024-01-01: 0.010, 2024-03-01: 0.015}\n")
    rate = settings_of(shop).variables["incentive_rate"]
    days = (date(2024, 1, 1), Decimal("0.010")), (date(2024, 3, 1), Decimal("0.015"))
    assert rate == ByDate(days)
    given: dict[str, object] = {
        "variables": {"incentive_rate": {date(2024, 1, 1): 0.01, "2024-03-01": 0.02}}
    }
    assert str(settings_of(shop, given).variables["incentive_rate"]) == (
        "2024-01-01: 0.01, 2024-03-01: 0.02"
    )


@all_marts
@pytest.mark.parametrize("written", ["0.01", "{2024-05-01: 0.01}"])
def test_values_by_date_replace_what_is_farther_away(shop: Shop, written: str) -> None:
    """A variable has one value: days of two layers are not mixed."""
    add(shop, f"variables:\n  incentive_rate: {written}\n")
    nearer = read_pairs(["variables.incentive_rate={2024-01-01: 0.02}"])
    assert str(settings_of(shop, nearer).variables["incentive_rate"]) == "2024-01-01: 0.02"
    nearest = read_pairs(["variables.incentive_rate=0.03"])
    assert settings_of(shop, nearest).variables["incentive_rate"] == Decimal("0.03")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("{}", "holds no value; write a value, or days with values as in 2024-01-01: 1"),
        ("{a: 1}", "'a' is no day; write it as in 2024-01-31: 0.015"),
        ("{2024-02-30: 1}", "'2024-02-30' is no day; write it as in 2024-01-31: 0.015"),
        (
            "{2024-03-01: 1, 2024-02-01: 2}",
            "2024-02-01 stands after 2024-03-01; write the days in their order",
        ),
        (
            "{2024-03-01: 1, 2024-04-01: high}",
            "2024-04-01 has a text and 2024-03-01 a number; write one kind of value",
        ),
        ("{2024-03-01: [1]}", "2024-03-01: [1] is no number, text, true or false"),
        ("{2024-03-01: }", "2024-03-01: None is no number, text, true or false"),
        ("{2024-03-01: .inf}", "no number that money can be multiplied by"),
    ],
)
def test_mistakes_in_values_by_date_are_told(shop: Shop, values: str, problem: str) -> None:
    """One sentence for each variable, with file and line."""
    add(shop, f"variables:\n  incentive_rate: {values}\n")
    problems = problems_of(shop)
    assert len(problems) == 1
    assert problems[0].startswith("retailmart.yml:10: variables.incentive_rate: ")
    assert problem in problems[0]


@pytest.mark.parametrize("text", ["just words\n", "- a\n"])
def test_settings_that_are_no_keys_are_told_once(shop: Shop, text: str) -> None:
    """A retailmart.yml of another shape is one mistake."""
    (shop.folder / "retailmart.yml").write_text(text)
    assert problems_of(shop) == ["retailmart.yml:1: expected `key: value` lines"]


def test_a_syntax_error_is_told_once(shop: Shop) -> None:
    """A retailmart.yml that is no YAML is one mistake, with the line where it begins."""
    (shop.folder / "retailmart.yml").write_text("lake: lake\nlanding: [a\n")
    (problem,) = problems_of(shop)
    assert problem.startswith("retailmart.yml:2: ")


def test_an_empty_file_means_defaults(shop: Shop) -> None:
    """Every setting has a default."""
    (shop.folder / "retailmart.yml").write_text("")
    assert settings_of(shop) == Settings()


def test_a_folder_without_settings_is_no_project(tmp_path: Path) -> None:
    """A wrong folder is told as such, with the way to make a right one."""
    with pytest.raises(NotAProject, match="retailmart init"):
        load_project(tmp_path)


@all_marts
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
        "feeds/broken.yml:1: what begins here is not closed: expected ',' or ']',"
        " but got '<stream end>' in line 2",
        "feeds/sales.yml:7: columns.product_name.type: 'STRIN' is no column type; did you mean"
        " 'STRING'?",
        "feeds/sales.yml:19: rules.0.action: 'wran' is unknown; did you mean 'warn'?",
        "feeds/sales.yml:23: rules.1.action: 'wran' is unknown; did you mean 'warn'?",
        "marts/customer_mart.sql:5: publish: needs `key`, the columns that tell rows apart",
        "marts/empty.sql: holds no SELECT below its header",
    ]


# references, databases and places


def setting(shop: Shop, key: str, value: str) -> None:
    """Write one setting into the file, in the place of what stood there."""
    path = shop.folder / "retailmart.yml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")]
    path.write_text("\n".join([*lines, f"{key}: {value}", ""]))


def without(shop: Shop, key: str) -> None:
    """Take a setting out of the file."""
    path = shop.folder / "retailmart.yml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(f"{key}:")) + "\n")


def url_of(shop: Shop, flags: dict[str, object] | None = None) -> str:
    """The database's URL as it would be connected with; the project itself shows no canary."""
    project = load_project(shop.folder, flags)
    url = project.database_url()
    assert CANARY not in repr(project)
    assert CANARY not in str(project.settings.model_dump())
    return url


def remember(shop: Shop, monkeypatch: pytest.MonkeyPatch, **secrets: str) -> None:
    """Store secrets, with the key in the environment."""
    monkeypatch.setenv("RETAILMART_KEY", KEY)
    for name, value in secrets.items():
        SecretStore(shop.folder, {"RETAILMART_KEY": KEY}).set(name, value)


def test_a_secret_is_filled_in_when_connecting_only(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings keep the reference; the complete URL is made on demand, its password encoded."""
    password = f"{CANARY}:@/?#% ü"
    remember(shop, monkeypatch, DB=password, WEB=CANARY)
    setting(shop, "database", "mysql://shop:${secret:DB}@db.example.com:3307/retail?charset=utf8")
    setting(shop, "sources", "{web: 'mysql://reader:${secret:WEB}@db/web', shop: sqlite:///s.db}")
    project = load_project(shop.folder)
    assert project.settings.database == (
        "mysql://shop:${secret:DB}@db.example.com:3307/retail?charset=utf8"
    )
    url = make_url(project.database_url())
    assert (url.username, url.password, url.host, url.port, url.database, url.query) == (
        "shop",
        password,
        "db.example.com",
        3307,
        "retail",
        {"charset": "utf8"},
    )
    assert project.source_url("web") == f"mysql://reader:{CANARY}@db/web"
    assert project.source_url("shop") == "sqlite:///s.db"
    project.check_secrets()
    shown = f"{project!r} {project.environment!r} {project.secrets()!r}"
    assert CANARY not in shown
    assert KEY not in shown


def test_a_whole_url_can_be_a_reference(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored or set as one URL is taken as it stands."""
    url = f"mysql://shop:{CANARY}@db/retail"
    remember(shop, monkeypatch, URL=url)
    monkeypatch.setenv("DATABASE_URL", url)
    for reference in ("${secret:URL}", "${DATABASE_URL}"):
        setting(shop, "database", f"'{reference}'")
        assert url_of(shop) == url
        assert settings_of(shop).database == reference


def test_variables_fill_every_part(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any part of a URL can come from the environment or .env; nothing is filled in twice."""
    monkeypatch.setenv("DB_HOST", "db")
    monkeypatch.setenv("DB_PASSWORD", "${DB_HOST}" + CANARY)
    add(shop, "DB_USER=an:na\nDB_HOST=not this one\nDB_PORT=3307\n", ".env")
    setting(shop, "database", "mysql://${DB_USER}:${DB_PASSWORD}@${DB_HOST}:${DB_PORT}/x")
    url = make_url(url_of(shop))
    assert (url.username, url.password) == ("an:na", "${DB_HOST}" + CANARY)
    assert (url.host, url.port, url.database) == ("db", 3307, "x")
    setting(shop, "database", "sqlite:///${DB_HOST}/a b%41.db")
    assert url_of(shop) == "sqlite:///db/a b%41.db"


def test_unknown_references_are_told_with_their_line(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable or a malformed reference is told before anything runs."""
    monkeypatch.setenv("SHOP_DB_HOST", "db")
    setting(shop, "database", "mysql://u@${SHOP_DB_HSOT}/retail")
    setting(shop, "sources", "{web: 'mysql://u:${secrets:WEB}@db/web'}")
    setting(shop, "landing", "/srv/${NOWHERE_AT_ALL}")
    lines = (shop.folder / "retailmart.yml").read_text().splitlines()
    at = {line.partition(":")[0]: f"retailmart.yml:{n}" for n, line in enumerate(lines, 1)}
    assert problems_of(shop) == [
        f"{at['database']}: database: the variable 'SHOP_DB_HSOT' is set neither in the"
        " environment nor in .env; did you mean 'SHOP_DB_HOST'?",
        f"{at['sources']}: sources.web: holds a ${{…}} that is neither ${{NAME}} nor"
        " ${secret:NAME}",
        f"{at['landing']}: landing: the variable 'NOWHERE_AT_ALL' is set neither in the"
        " environment nor in .env",
    ]


def test_a_missing_secret_is_told_by_check_and_when_connecting(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project opens without its secrets; what needs one says where and which."""
    remember(shop, monkeypatch, SHOP_PASSWORD=CANARY)
    setting(shop, "database", "mysql://u:${secret:SHOP_PASWORD}@db/retail")
    setting(shop, "sources", "{web: 'mysql://u:${secret:SHOP_PASSWORD}@db/web'}")
    project = load_project(shop.folder)
    assert project.source_url("web") == f"mysql://u:{CANARY}@db/web"
    for action in (project.database_url, project.check_secrets):
        with pytest.raises(SettingsError) as caught:
            action()
        (problem,) = caught.value.problems
        assert problem.startswith("retailmart.yml:")
        assert "database: no secret 'SHOP_PASWORD' is stored; did you mean 'SHOP_PASS" in problem
    monkeypatch.setenv("RETAILMART_KEY", "another key of many characters")
    with pytest.raises(SettingsError) as caught:
        load_project(shop.folder).check_secrets()
    assert len(caught.value.problems) == 2
    assert "sources.web: " in caught.value.problems[1]
    assert "RETAILMART_KEY is not the key" in caught.value.problems[1]
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://", f"mysql://anna:{CANARY}@db:3307/retail"),
        ("mysql:///other", f"mysql://anna:{CANARY}@db:3307/other"),
        ("mysql://anna@db/", f"mysql://anna:{CANARY}@db:3307/retail"),
        ("mysql://DB", f"mysql://anna:{CANARY}@DB:3307/retail"),
        ("mysql://db:3308", f"mysql://anna:{CANARY}@db:3308/retail"),
        ("mariadb+pymysql://", f"mariadb+pymysql://anna:{CANARY}@db:3307/retail"),
        ("mysql://?ssl_ca=/ca.pem", f"mysql://anna:{CANARY}@db:3307/retail?ssl_ca=/ca.pem"),
        ("mysql://bert@db", "mysql://bert@db:3307/retail"),
        ("mysql://anna@elsewhere", "mysql://anna@elsewhere/retail"),
        ("mysql://[::1]:3309/x", "mysql://anna@[::1]:3309/x"),
        ("mysql://anna:@db/x", "mysql://anna:@db:3307/x"),
        (
            "mysql://anna@/x?unix_socket=/run/my.sock",
            f"mysql://anna:{CANARY}@/x?unix_socket=/run/my.sock",
        ),
        ("sqlite:///retail.db", "sqlite:///retail.db"),
        ("postgresql://db/x", "postgresql://db/x"),
    ],
)
def test_mysql_takes_what_it_lacks_from_the_usual_variables(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    """Missing parts come from MYSQL_*; the password goes to its own account and server only."""
    for name, value in {
        "MYSQL_HOST": "db",
        "MYSQL_PORT": "3307",
        "MYSQL_DATABASE": "retail",
        "MYSQL_USER": "anna",
        "MYSQL_PASSWORD": CANARY,
    }.items():
        monkeypatch.setenv(name, value)
    setting(shop, "database", f"'{url}'")
    assert url_of(shop) == expected
    setting(shop, "database", "sqlite:///retail.db")
    setting(shop, "sources", f"{{web: '{url}'}}")
    assert load_project(shop.folder).source_url("web") == expected


def test_a_password_is_used_where_no_other_server_is_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MYSQL_PASSWORD alone suits the account and server that the URL names."""
    monkeypatch.setenv("MYSQL_PASSWORD", CANARY)
    setting(shop, "database", "mysql://shop@db/retail")
    assert url_of(shop) == f"mysql://shop:{CANARY}@db/retail"
    setting(shop, "database", "mysql://shop@/retail")
    assert url_of(shop) == f"mysql://shop:{CANARY}@localhost/retail"


@pytest.mark.parametrize("name", ["MYSQL_HOST", "MYSQL_DATABASE"])
def test_mysqls_variables_alone_are_a_database(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where nobody names a database, they do; any other word for it goes before them."""
    monkeypatch.setenv("MYSQL_DATABASE", "retail")
    monkeypatch.setenv(name, "retail")
    assert settings_of(shop).database == "sqlite:///retail.db"
    without(shop, "database")
    assert settings_of(shop).database == "mysql://"
    assert url_of(shop).endswith("/retail")
    assert url_of(shop, {"database": "sqlite:///x.db"}) == "sqlite:///x.db"
    add(shop, "RETAILMART__DATABASE=sqlite:///y.db\n", ".env")
    assert url_of(shop) == "sqlite:///y.db"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MYSQL_HOST": "db"}, "MYSQL_HOST: database: names no database"),
        ({"MYSQL_DATABASE": "x", "MYSQL_PORT": "many"}, "database: the port of the database"),
        ({"MYSQL_DATABASE": "x", "MYSQL_PORT": "65536"}, "database: the port of the database"),
    ],
)
def test_variables_that_make_no_database_are_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    """A database that lacks its name or has no port is a mistake in the settings."""
    without(shop, "database")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (problem,) = problems_of(shop)
    assert words in problem


def test_a_variable_can_be_a_file(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """NAME_FILE gives NAME's value without its line end, for what settings refer to as well."""
    (shop.folder / "password").write_bytes(f"{CANARY} \r\n".encode())
    (shop.folder / "user").write_bytes(b"\xef\xbb\xbfanna\n")
    monkeypatch.setenv("MYSQL_PASSWORD_FILE", str(shop.folder / "password"))
    add(shop, "AWS_SECRET_ACCESS_KEY_FILE=password\nDB_USER_FILE=user\n", ".env")
    setting(shop, "database", "mysql://${DB_USER}@db/x")
    assert url_of(shop) == f"mysql://anna:{CANARY}%20@db/x"
    environment = load_project(shop.folder).environment
    assert environment["AWS_SECRET_ACCESS_KEY"] == f"{CANARY} "
    assert {"AWS_SECRET_ACCESS_KEY", "MYSQL_PASSWORD"} <= set(environment)


def test_the_key_can_be_a_file(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """RETAILMART_KEY_FILE opens the store."""
    remember(shop, monkeypatch, DB=CANARY)
    monkeypatch.delenv("RETAILMART_KEY")
    (shop.folder / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("RETAILMART_KEY_FILE", "key")
    setting(shop, "database", "mysql://u:${secret:DB}@db/x")
    assert url_of(shop) == f"mysql://u:{CANARY}@db/x"


def test_a_file_that_can_be_read_once_is_read_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe, as a shell's <(…) is one, gives its password to as many URLs as need it."""
    read, write = os.pipe()
    os.write(write, CANARY.encode())
    os.close(write)
    monkeypatch.setenv("MYSQL_PASSWORD_FILE", f"/dev/fd/{read}")
    setting(shop, "database", "mysql://u@db/x")
    setting(shop, "sources", "{web: mysql://u@db/y}")
    try:
        project = load_project(shop.folder)
        assert project.database_url() == f"mysql://u:{CANARY}@db/x"
        assert project.source_url("web") == f"mysql://u:{CANARY}@db/y"
    finally:
        os.close(read)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (b"x" * 70_000, "is too big"),
    ],
)
def test_a_file_that_holds_no_value_is_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    """The variable is named, the path is not: somebody may have put the password itself there."""
    if content is not None:
        (shop.folder / CANARY).write_bytes(content)
    monkeypatch.setenv("MYSQL_PASSWORD_FILE", CANARY)
    setting(shop, "database", "mysql://u@db/x")
    project = load_project(shop.folder)
    for action in (project.database_url, project.check_secrets):
        with pytest.raises(SettingsError) as caught:
            action()
        assert "MYSQL_PASSWORD_FILE: the file it names " + words in str(caught.value)
        assert CANARY not in str(caught.value)


def test_the_environment_goes_before_dotenv(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file named by the environment goes before a value in .env; empty ones count as not set."""
    add(shop, "MYSQL_PASSWORD=from_dotenv\nMYSQL_USER=anna\n", ".env")
    setting(shop, "database", "mysql://db/x")
    assert url_of(shop) == "mysql://anna:from_dotenv@db/x"
    monkeypatch.setenv("MYSQL_USER", "")
    monkeypatch.setenv("MYSQL_PASSWORD_FILE", "password")
    (shop.folder / "password").write_text("from_file")
    assert url_of(shop) == "mysql://anna:from_file@db/x"
    monkeypatch.setenv("MYSQL_PASSWORD", "from_environment")
    assert url_of(shop) == "mysql://anna:from_environment@db/x"


def test_dotenv_is_taken_as_it_is_written(shop: Shop) -> None:
    """A `${` within a password there is part of it."""
    add(shop, "MYSQL_PASSWORD='a${HOME}b'\n", ".env")
    setting(shop, "database", "mysql://u@db/x")
    assert make_url(url_of(shop)).password == "a${HOME}b"


PASSWORDS_IN_A_FILE = [
    f"mysql://shop:{CANARY}@db/x",
    f"mysql://:{CANARY}@db/x",
    f"mysql+pymysql://shop:{CANARY}@db:3306/x?charset=utf8",
    f"mysql://shop:a@{CANARY}@db/x",
    f"mysql://shop:a/{CANARY}@db/x",
    f"mysql://shop:a?{CANARY}@db/x",
    f"mysql://shop:a@b?{CANARY}@db/x",
    f"mysql:/shop:{CANARY}@db/x",
    f"shop:{CANARY}@db/x",
    f"mysql://shop:{CANARY}${{HOME}}@db/x",
    f"mysql://shop@db/x?password={CANARY}",
    f"mysql://shop@db/x?a=b&passwd={CANARY}",
]


@pytest.mark.parametrize("url", PASSWORDS_IN_A_FILE)
def test_no_password_stands_in_the_file(shop: Shop, url: str) -> None:
    """A URL with a password is refused with its line and what to write, and not repeated."""
    setting(shop, "database", f"'{url}'")
    setting(shop, "sources", f"{{web: '{url}'}}")
    lines = (shop.folder / "retailmart.yml").read_text().splitlines()
    problems = [problem for problem in problems_of(shop) if "holds a password" in problem]
    places = [n for n, line in enumerate(lines, 1) if CANARY in line]
    assert len(problems) == len(places) == 2
    for place, problem in zip(places, problems, strict=True):
        assert problem.startswith(f"retailmart.yml:{place}: ")
        assert "MYSQL_PASSWORD" in problem
        assert "retailmart secrets set NAME" in problem
    assert CANARY not in "\n".join(problems_of(shop))


def test_a_password_of_postgresql_is_told_its_own_variable(shop: Shop) -> None:
    """In the file and in a flag, the advice names the URL's kind of database."""
    url = f"postgresql://mart:{CANARY}@db/retail"
    setting(shop, "database", url)
    with pytest.raises(SettingsError) as flag:
        read_pairs([f"sources.shop={url}"])
    problems = [*problems_of(shop), *flag.value.problems]
    told = [problem for problem in problems if "holds a password" in problem]
    assert len(told) == 2
    for problem in told:
        assert "write postgresql://USER@HOST/DB and give the password" in problem
        assert "as PGPASSWORD" in problem
        assert "MYSQL" not in problem


@pytest.mark.parametrize(
    "url", ["mysql://shop@db/x", "sqlite:////data/a:b@c.db", "mysql://u@db:3306/x?init=a@b"]
)
def test_what_is_no_password_is_not_taken_for_one(shop: Shop, url: str) -> None:
    """A user, a port and a path have their signs for themselves."""
    setting(shop, "database", f"'{url}'")
    assert url_of(shop) == url


@pytest.mark.parametrize(
    "text",
    [
        "x: mysql://u:{0}@db/x\n: y",
        "database: [mysql://u:{0}@db/x]",
        "database: {{url: mysql://u:{0}@db/x}}",
        "sources: mysql://u:{0}@db/x",
        "sources: [mysql://u:{0}@db/x]",
        "sources: {{mysql://u:{0}@db/x: 1}}",
        "mysql://u:{0}@db/x: database",
        "mysql://u:{0}@db/x: 1\nmysql://u:{0}@db/x: 2",
        "engine: mysql://u:{0}@db/x",
        "memory_limit: mysql://u:{0}@db/x",
        "variables: {{rate: [mysql://u:{0}@db/x]}}",
        "s3: mysql://u:{0}@db/x",
        "landing: s3://u:{0}@bucket/x",
        "landing: https://u:{0}@bucket/x",
        "s3: {{endpoint: 'https://u:{0}@store'}}",
        "s3: {{endpoint: 'https://u:{0}@store:port'}}",
    ],
)
def test_no_mistake_repeats_a_password(shop: Shop, text: str) -> None:
    """Wherever a URL has strayed to in the file, the words about it have no password."""
    (shop.folder / "retailmart.yml").write_text(text.format(CANARY) + "\n")
    assert CANARY not in "\n".join(problems_of(shop))


@pytest.mark.parametrize("url", PASSWORDS_IN_A_FILE[:-2])
@pytest.mark.parametrize("way", ["environment", ".env", "door"])
def test_outside_the_file_a_password_is_fine_and_not_shown(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, url: str, way: str
) -> None:
    """The environment, .env and Python code may hold whole URLs; settings show `***`."""
    flags: dict[str, object] = {}
    if way == "door":
        flags = {"database": url, "sources": {"web": url}}
    elif way == ".env":
        add(shop, f"RETAILMART__DATABASE='{url}'\nRETAILMART__SOURCES__WEB='{url}'\n", ".env")
    else:
        monkeypatch.setenv("RETAILMART__DATABASE", url)
        monkeypatch.setenv("RETAILMART__SOURCES", f"{{web: '{url}'}}")
    project = load_project(shop.folder, flags)
    assert CANARY not in repr(project)
    assert ":***@db" in project.settings.database
    assert project.settings.sources["web"] == project.settings.database
    if "://" in url:
        password = make_url(project.database_url()).password or ""
        assert CANARY in password
        assert project.source_url("web") == project.database_url()


@pytest.mark.parametrize("password", ["a: b", "a #b", "[a", "*a", "'a", "a%zz", "100%25"])
def test_a_url_of_the_environment_is_no_yaml(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """A password's signs mean nothing but themselves, percent-encoding apart."""
    monkeypatch.setenv("RETAILMART__DATABASE", f"mysql://u:{password}@db/x")
    assert make_url(url_of(shop)).password == password.replace("%25", "%")


@pytest.mark.parametrize(
    "pair",
    [
        *(f"database={url}" for url in PASSWORDS_IN_A_FILE),
        f"sources.web=mysql://u:{CANARY}@db/x",
        f"sources={{web: 'mysql://u:{CANARY}@db/x'}}",
        f"sources={{web: mysql://u:{CANARY}: x@db/x}}",
        f"sources=[mysql://u:{CANARY}@db/x",
        f"landing=s3://u:{CANARY}@bucket/x",
        f"lake=[mysql://u:{CANARY}@db/x",
        f"mysql://u:{CANARY}@db/x",
        f".=mysql://u:{CANARY}@db/x",
    ],
)
def test_no_password_is_taken_from_the_command_line(pair: str) -> None:
    """The list of processes shows a flag to everybody: refused, and not repeated."""
    with pytest.raises(SettingsError) as caught:
        read_pairs([pair])
    assert CANARY not in str(caught.value)


def test_flags_may_refer_to_secrets() -> None:
    """A reference on the command line gives nothing away; other signs are no password."""
    assert read_pairs(["database=mysql://u:${secret:DB}@db/x", "variables.mail=a:b@c"]) == {
        "database": "mysql://u:${secret:DB}@db/x",
        "variables": {"mail": "a:b@c"},
    }


@pytest.mark.parametrize("name", ["secret:DB", "MYSQL_PASSWORD", "AWS_SECRET_ACCESS_KEY"])
def test_places_hold_no_secrets(shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Folders are shown in reports and kept in the ledger."""
    if "secret:" not in name:
        monkeypatch.setenv(name, CANARY)
    setting(shop, "landing", f"/srv/${{{name}}}")
    (problem,) = problems_of(shop)
    assert "landing: a place is shown to people, and can hold no secret" in problem


def test_places_take_variables(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Landing, lake, archive and the S3 endpoint can differ from machine to machine."""
    monkeypatch.setenv("S3_BUCKET", "shop-files")
    add(shop, "STAGE=test\nS3_HOST=127.0.0.1:9000\n", ".env")
    setting(shop, "landing", "s3:///${STAGE}/to_process")
    setting(shop, "archive", "s3://${S3_BUCKET}/${STAGE}/done")
    setting(shop, "lake", "/srv/${STAGE}/lake")
    setting(shop, "s3", "{endpoint: 'http://${S3_HOST}', region: eu-central-1}")
    settings = settings_of(shop)
    assert settings.landing == "s3://shop-files/test/to_process"
    assert settings.archive == "s3://shop-files/test/done"
    assert settings.lake == "/srv/test/lake"
    assert settings.s3.endpoint == "http://127.0.0.1:9000"
    assert settings.s3.region == "eu-central-1"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("landing", "s3:///x", "landing: names no bucket"),
        ("landing", "s3://", "landing: names no bucket"),
        ("lake", "s3://b!/x", "lake: 'b!' is no name of a bucket"),
        ("lake", "s3://bucket//x", "lake: has an empty part"),
        ("lake", "s3://bucket/a/../x", "lake: has an empty part"),
        ("lake", "s3://bucket/a%41", "lake: what reads a bucket takes a %"),
        ("archive", "s3://bucket/x?region=y", "archive: an S3 place is s3://bucket/folder"),
        ("archive", "s3://key@bucket/x", "archive: an S3 place is s3://bucket/folder"),
        ("archive", "gs://bucket/x", "archive: is neither a folder nor a place like s3://"),
        ("s3", "{endpoint: store:9000}", "s3.endpoint: write an endpoint as in"),
        ("s3", "{endpoint: 'http://store/x'}", "s3.endpoint: write an endpoint as in"),
        ("s3", "{endpoint: 'http://u@store'}", "s3.endpoint: an endpoint holds no user"),
        ("s3", "{region: 'eu central'}", "s3.region: a region is written as in eu-central-1"),
        ("s3", "{endpiont: x}", "unknown key 'endpiont'; did you mean 'endpoint'?"),
    ],
)
def test_places_of_another_shape_are_told(shop: Shop, key: str, value: str, words: str) -> None:
    """An S3 place is checked before anything is read from it."""
    setting(shop, key, value)
    (problem,) = problems_of(shop)
    assert words in problem


@pytest.mark.parametrize(
    ("landing", "lake", "archive", "wrong"),
    [
        ("landing", "lake", "landing", ["archive"]),
        ("landing", "lake", "landing/done", ["archive"]),
        ("data/landing", "data", "archive", ["lake"]),
        ("landing", "x/../landing/lake", "archive", ["lake"]),
        (".", "lake", "archive", ["lake", "archive"]),
        ("s3://shop/in", "s3://shop/lake", "s3://shop/in", ["archive"]),
        ("s3://shop/in", "s3://shop/in/lake/", "archive", ["lake"]),
        ("s3://shop", "s3://shop/lake", "archive", ["lake"]),
        ("s3://shop/in", "s3://shop/in2", "s3://shop2/in", []),
        ("s3://shop/in", "b/in", "in", []),
        ("in", "in2", "in3", []),
    ],
)
def test_places_do_not_overlap(
    shop: Shop, landing: str, lake: str, archive: str, wrong: list[str]
) -> None:
    """What is archived into landing would land again."""
    for key, value in {"landing": landing, "lake": lake, "archive": archive}.items():
        setting(shop, key, value)
    if not wrong:
        settings_of(shop)
        return
    problems = problems_of(shop)
    assert [
        key for key in wrong if any(f": {key}: is " in problem for problem in problems)
    ] == wrong


def test_a_link_into_landing_is_an_overlap_too(shop: Shop) -> None:
    """Folders are compared by where they are, not by how they are called."""
    (shop.folder / "elsewhere").symlink_to(shop.folder / "landing")
    setting(shop, "archive", "elsewhere")
    (problem,) = problems_of(shop)
    assert "archive: is landing, lies in it or holds it" in problem


def test_every_setting_is_described(shop: Shop) -> None:
    """Editors show a sentence for each key; a project on MySQL and S3 has no other place for it."""
    schema = Settings.model_json_schema()
    fields = {**schema["properties"], **schema["$defs"]["S3Settings"]["properties"]}
    assert [name for name, field in fields.items() if not field.get("description")] == []
    assert {"endpoint", "region", "s3"} <= set(fields)


def test_a_new_project_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `init` writes, JSON Schemas included, knows nothing of the environment."""
    monkeypatch.setenv("MYSQL_PASSWORD", CANARY)
    monkeypatch.setenv("RETAILMART__DATABASE", f"mysql://u:{CANARY}@db/x")
    written = write_project(tmp_path / "shop", sample=False)
    assert not any(CANARY in path.read_text(encoding="utf-8") for path in written)
    project: Project = load_project(tmp_path / "shop")
    assert CANARY not in repr(project)


# secrets that variables and s3 refer to


@pytest.fixture
def stored(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with one secret, `A`, and the key of its store in the environment."""
    monkeypatch.setenv("RETAILMART_KEY", KEY)
    open_secrets(shop.folder).set("A", CANARY)
    return shop


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("${secret:A}", CANARY),
        ("before-${secret:A}", f"before-{CANARY}"),
        ("'${secret:A}'", CANARY),
        ("${A}", "${A}"),
        ("$secret:A", "$secret:A"),
    ],
)
def test_dotenv_refers_to_secrets(stored: Shop, value: str, means: str) -> None:
    """A variable of .env holds what is stored; any other sign in it is literal."""
    add(stored, f"MYSQL_PASSWORD={value}\n", ".env")
    setting(stored, "database", "mysql://u@db/x")
    project = load_project(stored.folder)
    project.check_secrets()
    assert make_url(project.database_url()).password == means
    assert CANARY not in repr(project) + repr(project.environment.layers)


def test_a_setting_may_use_such_a_variable(stored: Shop) -> None:
    """A URL may have a variable for its password, and that variable a secret."""
    add(stored, "PASS=${secret:A}\nRETAILMART__SOURCES__WEB=mysql://u:${secret:A}@db/x\n", ".env")
    setting(stored, "database", "mysql://u:${PASS}@db/x")
    project = load_project(stored.folder)
    assert make_url(project.database_url()).password == CANARY
    assert make_url(project.source_url("web")).password == CANARY
    assert project.settings.sources["web"] == "mysql://u:${secret:A}@db/x"


def test_the_environment_itself_refers_to_nothing(
    stored: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a `${` is a part of the password, and it goes before .env, whose secret is unused."""
    add(stored, "MYSQL_PASSWORD=${secret:B}\n", ".env")
    monkeypatch.setenv("MYSQL_PASSWORD", "${secret:A}")
    setting(stored, "database", "mysql://u@db/x")
    project = load_project(stored.folder)
    project.check_secrets()
    assert make_url(project.database_url()).password == "${secret:A}"


def test_secrets_are_read_late_and_missing_ones_named(stored: Shop) -> None:
    """Loading reads none; `check_secrets` names the variable, a near name and the command, once."""
    add(stored, "MYSQL_PASSWORD=${secret:AB}\nOTHER=${secret:C}\n", ".env")
    setting(stored, "database", "mysql://u@db/x")
    project = load_project(stored.folder)
    with pytest.raises(SettingsError) as caught:
        project.check_secrets()
    assert list(caught.value.problems) == [
        ".env: MYSQL_PASSWORD: no secret 'AB' is stored; did you mean 'A'?",
        ".env: OTHER: no secret 'C' is stored; known: A",
    ]
    assert "retailmart secrets set AB" in str(caught.value.hint)
    assert "retailmart secrets set C" in str(caught.value.hint)
    with pytest.raises(SettingsError, match=r"database: \.env: MYSQL_PASSWORD: no secret 'AB'"):
        project.database_url()


def test_a_file_may_be_named_by_a_secret(stored: Shop, tmp_path: Path) -> None:
    """MYSQL_PASSWORD_FILE is a variable like any other."""
    (tmp_path / CANARY).write_text("of a file\n")
    add(stored, f"MYSQL_PASSWORD_FILE={tmp_path}/${{secret:A}}\n", ".env")
    setting(stored, "database", "mysql://u@db/x")
    assert make_url(url_of(stored)).password == "of a file"


@pytest.mark.parametrize(
    "name", ["S3_BUCKET", "AWS_REGION", "AWS_ENDPOINT_URL", "MYSQL_HOST", "MYSQL_USER", "FOLDER"]
)
def test_what_is_shown_is_no_secret(stored: Shop, name: str) -> None:
    """Buckets, hosts and accounts appear in reports: `check` refuses a secret there."""
    add(stored, f"{name}=${{secret:A}}\n", ".env")
    setting(stored, "database", "mysql://db/x")
    setting(stored, "landing", "s3:///${FOLDER}" if name == "FOLDER" else "s3:///in")
    if name != "S3_BUCKET":
        add(stored, "S3_BUCKET=shop\n", ".env")
    if name != "FOLDER":
        add(stored, "FOLDER=b\n", ".env")
    with pytest.raises(SettingsError) as caught:
        load_project(stored.folder).check_secrets()
    assert "can hold no secret" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_the_key_of_the_store_is_not_in_it(stored: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be needed to read itself: a mistake, and no endless search."""
    monkeypatch.delenv("RETAILMART_KEY")
    add(stored, "RETAILMART_KEY=${secret:A}\n", ".env")
    with pytest.raises(SettingsError, match="the key of the store can't be a secret"):
        load_project(stored.folder).check_secrets()
    with pytest.raises(SettingsError, match="the key of the store can't be a secret"):
        open_secrets(stored.folder).get("A")


KEYS_IN_PLAIN = [
    f"{{access_key_id: AKIA, secret_access_key: {CANARY}}}",
    f"{{access_key_id: '${{secret:A}}', secret_access_key: '{CANARY}${{secret:A}}'}}",
    f"{{access_key_id: '${{secret:A}}', secret_access_key: [{CANARY}]}}",
    f"{{access_key_id: '${{secret:A}}', secret_access_key: {{key: {CANARY}}}}}",
    f"{{secret_acces_key: {CANARY}}}",
    f"[{CANARY}]",
]


@pytest.mark.parametrize("text", KEYS_IN_PLAIN)
@pytest.mark.parametrize("way", ["file", ".env", "environment", "flag"])
def test_a_plain_key_is_no_setting(
    stored: Shop, monkeypatch: pytest.MonkeyPatch, text: str, way: str
) -> None:
    """Whatever way it comes, it is refused like a plain password, and not repeated."""
    flags: dict[str, object] = {}
    if way == "file":
        setting(stored, "s3", text)
    elif way == ".env":
        add(stored, f'RETAILMART__S3="{text}"\n', ".env")
    elif way == "environment":
        monkeypatch.setenv("RETAILMART__S3", text)
    else:
        flags = read_pairs([f"s3={text}"])
    problems = "\n".join(problems_of(stored, flags))
    assert CANARY not in problems
    if "secret_access_key" in text:
        assert "holds a key; write ${secret:NAME}" in problems


@pytest.mark.parametrize("value", [CANARY, f"[{CANARY}", f"{CANARY}: x", f"'{CANARY}"])
def test_a_key_on_the_command_line_is_not_repeated(shop: Shop, value: str) -> None:
    """Not even where it is no YAML, or its setting is misspelled."""
    for name in ("s3.secret_access_key", "s3.secret_key", "s3.x.y", "S3.Access_Key_Id"):
        with pytest.raises(SettingsError) as caught:
            load_project(shop.folder, read_pairs([f"{name}={value}"]))
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{access_key_id: '${secret:A}'}", "give both `access_key_id` and `secret_access_key`"),
        ("{secret_access_key: '${secret:A}'}", "give both `access_key_id` and"),
        ("{session_token: '${secret:A}'}", "`session_token` belongs to an `access_key_id`"),
        ("{access_key_id: '${secret:A B}', secret_access_key: '${B}'}", "holds a key"),
    ],
)
def test_half_a_key_is_a_mistake(stored: Shop, text: str, said: str) -> None:
    """A key and its secret belong together, and to their token."""
    setting(stored, "s3", text)
    assert said in "\n".join(problems_of(stored))


def test_s3_refers_to_keys(stored: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and variables, from any origin of settings; what is missing has its place."""
    monkeypatch.setenv("TOKEN", "of the day")
    monkeypatch.setenv("RETAILMART__S3__SECRET_ACCESS_KEY", "${secret:B}")
    setting(stored, "s3", "{access_key_id: '${secret:A}', session_token: '${TOKEN}'}")
    project = load_project(stored.folder)
    with pytest.raises(SettingsError) as caught:
        project.check_secrets()
    (problem,) = caught.value.problems
    assert problem.startswith(
        "RETAILMART__S3__SECRET_ACCESS_KEY: s3.secret_access_key: no secret 'B' is stored"
    )
    assert "retailmart secrets set B" in str(caught.value.hint)
    open_secrets(stored.folder).set("B", "private")
    assert project.s3_keys() == {
        "access_key_id": CANARY,
        "secret_access_key": "private",
        "token": "of the day",
    }
    assert CANARY not in repr(project)
    monkeypatch.delenv("TOKEN")
    with pytest.raises(SettingsError, match=r"retailmart\.yml:.*s3\.session_token: the variable"):
        load_project(stored.folder).s3_keys()
