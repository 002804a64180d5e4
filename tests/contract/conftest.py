"""The same application as in the tests of the service."""

from tests.service.conftest import anyio_backend, client, service, settings

__all__ = ["anyio_backend", "client", "service", "settings"]
