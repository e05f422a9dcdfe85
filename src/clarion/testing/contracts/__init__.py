"""Contract suites: what every backend must do, one file a port.

A backend's test is one subclass:

    class TestMine(BackendContract):
        def open(self) -> AbstractAsyncContextManager[Backend]:
            ...  # a fresh, empty backend, closed on leaving

A backend that outlives its process also subclasses `DurableContract`. The tests are `async def` methods: run them with
whatever runs coroutine tests in your suite, and call `pytest.register_assert_rewrite("clarion.testing.contracts")`
before the import for readable failures.
"""

from clarion.testing.contracts.audit import AuditContract
from clarion.testing.contracts.consents import ConsentsContract
from clarion.testing.contracts.durable import DurableContract
from clarion.testing.contracts.keys import KeysContract
from clarion.testing.contracts.log import EventLogContract
from clarion.testing.contracts.subscriptions import SubscriptionsContract
from clarion.testing.contracts.topics import TopicsContract
from clarion.testing.contracts.wakeups import WakeupsContract

__all__ = [
    "AuditContract",
    "BackendContract",
    "ConsentsContract",
    "DurableContract",
    "EventLogContract",
    "KeysContract",
    "SubscriptionsContract",
    "TopicsContract",
    "WakeupsContract",
]


class BackendContract(
    EventLogContract,
    WakeupsContract,
    SubscriptionsContract,
    AuditContract,
    KeysContract,
    ConsentsContract,
    TopicsContract,
):
    """Every port of one backend."""
