"""What all tests share is in tests/support; pytest takes plugins from the root's conftest only."""

pytest_plugins = [
    "tests.support.plugin",
    "tests.support.services.fixtures",
    "tests.support.services.spark",
]
