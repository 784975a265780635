"""The doctor's checks of those who are told of runs: nobody is told, no address is shown."""

from __future__ import annotations

import sys

import pytest

from retailmart.check_results import Level
from retailmart.operations.doctor.monitoring import examine_monitoring
from tests.support.services.listener import closed_port, listening
from tests.support.shop import Shop


def test_files_servers_and_packages_are_checked(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be written and reached is ok; what can't has its fix."""
    monkeypatch.setenv("MAIL", "mailtos://user:canary@host.example")
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{closed_port()}/canary")
    with listening() as listener:
        with (shop.folder / "retailmart.yml").open("a") as file:
            file.write(
                "log: {file: logs/run.log}\nmetrics: {file: retailmart.yml/run.prom}\n"
                f"ping: {{url: '{listener.url}/canary'}}\nalerts:\n"
                "  targets: ['${MAIL}', '${HOOK}']\n  expected: {sale: {hours: 30}}\n"
            )
        found = list(examine_monitoring(shop.open().project))
        assert listener.heard == []
    assert [(one.check, one.level) for one in found] == [
        ("log: file", Level.OK),
        ("metrics: file", Level.PROBLEM),
        ("ping: server", Level.OK),
        ("alerts: target", Level.OK),
        ("alerts: target", Level.WARNING),
        ("alerts: expected", Level.PROBLEM),
    ]
    assert "canary" not in repr(found)
    assert not (shop.folder / "logs").exists()


def test_missing_packages_are_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an extra brings is asked for before the first night."""
    monkeypatch.setenv("MAIL", "mailtos://user:word@host.example")
    for name in ("apprise", "openlineage"):
        monkeypatch.setitem(sys.modules, name, None)
    with (shop.folder / "retailmart.yml").open("a") as file:
        file.write("lineage: {file: l.ndjson}\nalerts: {targets: ['${MAIL}']}\n")
    found = [one for one in examine_monitoring(shop.open().project) if one.level is not Level.OK]
    assert [one.fix.partition("pip")[2] for one in found if one.fix] == [
        " install '.[lineage]'",
        " install '.[alerts]'",
    ]
