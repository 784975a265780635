"""The engines' modules can be read one after the other: none needs one that needs it."""

from __future__ import annotations

from graphlib import TopologicalSorter

from tests.test_rooms import ALL, ROOT

# Opens what a project's settings name, so it knows all that know the protocol.
REGISTRY = "retailmart.engines.registry"


def test_no_imports_go_in_a_circle() -> None:
    """Not those inside functions either, nor those for types; the registry's are not counted."""
    names = {
        path: ".".join(("retailmart", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in (ROOT / "engines").rglob("*.py")
    }
    needs = {name: set[str]() for name in names.values() if name != REGISTRY}
    for found in ALL:
        if (importing := names.get(ROOT / found.file)) in needs:
            meant = {found.name, found.name.rpartition(".")[0]} & needs.keys()
            needs[importing] |= {max(meant, key=len)} if meant else set()
    assert sum(map(len, needs.values())) > len(needs)
    TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle
