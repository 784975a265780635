"""An empty database on a server of the tests, and the account that may use it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self
from urllib.parse import quote

from tests.support.services.process import HOST

if TYPE_CHECKING:
    from tests.support.services.proxy import TcpProxy


@dataclass(frozen=True)
class Account:
    """A database's name and address, and an account that may use it and nothing else."""

    scheme: ClassVar[str]

    name: str
    user: str
    password: str = field(repr=False)
    host: str
    port: int

    @property
    def url(self) -> str:
        """`scheme://user:password@host:port/name`."""
        account = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"{self.scheme}://{account}@{self.host}:{self.port}/{self.name}"

    def at(self, port: int | None = None, host: str | None = None) -> Self:
        """The same database by another way, such as under the certificate's name."""
        return replace(self, port=port or self.port, host=host or self.host)

    def through(self, proxy: TcpProxy) -> Self:
        """The same database by way of a proxy."""
        return self.at(proxy.port, HOST)
