"""Keys: their form, what is stored of them, who gets in, who no longer does, and forged bearers."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from clarion.auth.keys import Authenticator, KeyService, check_tenant, mint, parse, require
from clarion.errors import ClarionError, Forbidden, InvalidInput, NotFound, Unauthenticated
from clarion.local import local_bearer, local_tenant
from clarion.model import MODULES, ApiKey, Role
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Keys
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import settle

SECRET = "the secret of this run"


class Rig:
    def __init__(self, store: Keys | None = None) -> None:
        self.store = store or open_memory().keys
        self.authenticator = Authenticator(self.store, lambda token: local_tenant(SECRET, token))
        self.ended: list[str] = []
        self.keys = KeyService(
            self.store, self.authenticator, FakeClock(), random.Random(1).randbytes, self.ended.append
        )

    async def refused(self, token: str) -> str:
        """The message that a bearer is refused with."""
        with pytest.raises(Unauthenticated) as refusal:
            await self.authenticator.authenticate(token)
        return refusal.value.message


# -- form -------------------------------------------------------------------------------------------------------------


def test_a_key_has_its_documented_form_and_only_its_hash_is_kept() -> None:
    key, record = mint("acme", "alice", Role.SUBSCRIBER, (), at=5, randomness=random.Random(2).randbytes)
    prefix, key_id, secret = key.split("_")
    assert (prefix, len(key_id), len(secret)) == ("clarion", 12, 38)
    assert (record.key_id, record.tenant, record.subject, record.created_at) == (key_id, "acme", "alice", 5)
    assert len(record.sha256) == 32
    assert secret not in repr(record)
    assert parse(key) == key_id


def test_any_one_changed_character_is_found_by_the_checksum() -> None:
    key, _ = mint("acme", "alice", Role.SUBSCRIBER, (), at=5, randomness=random.Random(3).randbytes)
    for place in range(len("clarion_"), len(key)):
        if key[place] != "_":
            other = "0" if key[place] != "0" else "1"
            assert parse(key[:place] + other + key[place + 1 :]) is None


@pytest.mark.parametrize("change", [
    lambda key: key[:-1], lambda key: key + "0", lambda key: " " + key, lambda key: key + "\n", lambda key: key.upper(),
    lambda key: key.replace("clarion", "clarion2"), lambda key: key.replace("_", "-"), lambda key: "", lambda key: "é",
    lambda key: key * 2, lambda key: key + "\x00", lambda key: "clarion__", lambda key: "x" * 100_000,
])  # fmt: skip
def test_what_is_no_key_is_none(change: Callable[[str], str]) -> None:
    key, _ = mint("acme", "alice", Role.SUBSCRIBER, (), at=5, randomness=random.Random(4).randbytes)
    assert parse(change(key)) is None


def test_keys_use_the_whole_alphabet_evenly() -> None:
    drawn = "".join(
        mint("a", "b", Role.ADMIN, (), at=1, randomness=random.Random(seed).randbytes)[0][21:53] for seed in range(500)
    )
    counts = [drawn.count(character) for character in set(drawn)]
    assert len(counts) == 62
    assert max(counts) < 1.5 * min(counts)


# -- who gets in ------------------------------------------------------------------------------------------------------


async def test_a_key_lets_its_principal_in_with_its_role() -> None:
    rig = Rig()
    key, record = await rig.keys.create("acme", "admin", subject="alice", modules=["admin", "admin"], grantable=MODULES)
    for _ in range(2):  # from the store, then from memory
        found = await rig.authenticator.authenticate(key)
        assert (found.tenant, found.subject, found.role, found.modules) == ("acme", "alice", Role.ADMIN, ("admin",))
    assert found.key_id == record.key_id


async def test_malformed_unknown_wrong_and_revoked_keys_are_refused_alike() -> None:
    rig = Rig()
    key, record = await rig.keys.create("acme", "subscriber")
    unknown, _ = mint("acme", "alice", Role.ADMIN, (), at=1, randomness=random.Random(9).randbytes)
    same_id = _with_id(record.key_id)
    revoked, gone = await rig.keys.create("acme", "subscriber")
    await rig.keys.revoke("acme", gone.key_id)
    messages = [await rig.refused(token) for token in ("", "nonsense", key[:-1] + "!", unknown, same_id, revoked)]
    assert len(set(messages)) == 1
    assert (await rig.authenticator.authenticate(key)).key_id == record.key_id
    assert await rig.refused(same_id) == messages[0]  # also once the true one is in memory


def _with_id(key_id: str) -> str:
    """A well-formed key with another's id and a secret of its own."""
    stream = iter(range(10**6))

    def randomness(count: int) -> bytes:
        if next(stream) == 0:
            alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
            return bytes(alphabet.index(character) for character in key_id)
        return b"\x05" * count

    key, _ = mint("acme", "alice", Role.ADMIN, (), at=1, randomness=randomness)
    assert parse(key) == key_id
    return key


async def test_rotating_a_key_keeps_the_principal() -> None:
    rig = Rig()
    old, first = await rig.keys.create("acme", "subscriber", subject="alice")
    new, second = await rig.keys.create("acme", "subscriber", subject="alice")
    assert first.principal == second.principal
    await rig.keys.revoke("acme", first.key_id)
    await rig.refused(old)
    assert (await rig.authenticator.authenticate(new)).principal == first.principal


async def test_a_key_in_memory_is_refused_as_soon_as_it_is_revoked() -> None:
    rig = Rig()
    key, record = await rig.keys.create("acme", "subscriber")
    await rig.authenticator.authenticate(key)
    revoked = await rig.keys.revoke("acme", record.key_id)
    assert revoked.revoked_at is not None
    await rig.refused(key)


async def test_a_read_that_a_revocation_overtook_lets_nobody_in() -> None:
    memory = open_memory().keys

    class Slow:
        """Answers what it read before the revocation, after it."""

        def __init__(self) -> None:
            self.free = asyncio.Event()
            self.reading = asyncio.Event()

        def __getattr__(self, name: str) -> Any:
            return getattr(memory, name)

        async def find(self, key_id: str) -> ApiKey | None:
            found = await memory.find(key_id)
            self.reading.set()
            await self.free.wait()
            return found

    slow = Slow()
    rig = Rig(slow)
    key, record = await rig.keys.create("acme", "subscriber")
    entering = asyncio.create_task(rig.authenticator.authenticate(key))
    await slow.reading.wait()
    await rig.keys.revoke("acme", record.key_id)
    slow.free.set()
    with pytest.raises(Unauthenticated):
        await entering
    await rig.refused(key)


async def test_revoking_ends_the_streams_of_the_key_alone() -> None:
    rig = Rig()
    _, record = await rig.keys.create("acme", "subscriber")
    with pytest.raises(NotFound):
        await rig.keys.revoke("other", record.key_id)
    assert rig.ended == []
    await rig.keys.revoke("acme", record.key_id)
    assert rig.ended == [record.key_id]


async def test_a_revocation_whose_caller_left_holds_all_the_same() -> None:
    memory = open_memory().keys
    asked, free = asyncio.Event(), asyncio.Event()

    class Slow:
        """Revokes, and answers when the test lets it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(memory, name)

        async def revoke(self, tenant: str, key_id: str, at: int) -> ApiKey | None:
            revoked = await memory.revoke(tenant, key_id, at)
            asked.set()
            await free.wait()
            return revoked

    rig = Rig(Slow())
    key, record = await rig.keys.create("acme", "subscriber")
    await rig.authenticator.authenticate(key)
    revoking = asyncio.create_task(rig.keys.revoke("acme", record.key_id))
    await asked.wait()
    revoking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await revoking
    free.set()
    await settle()
    await rig.refused(key)
    assert rig.ended == [record.key_id]


async def test_a_key_grants_only_modules_that_its_maker_has() -> None:
    rig = Rig()
    with pytest.raises(Forbidden, match="admin"):
        await rig.keys.create("acme", "admin", modules=["admin"])
    assert await rig.keys.of_tenant("acme") == []
    _, weak = await rig.keys.create("acme", "admin")
    with pytest.raises(Forbidden):
        await rig.keys.create("acme", "admin", modules=["admin"], grantable=weak.modules)
    operator = await rig.authenticator.authenticate(local_bearer(SECRET, "acme"))
    _, strong = await rig.keys.create("acme", "admin", modules=["admin"], grantable=operator.modules)
    _, another = await rig.keys.create("acme", "admin", modules=["admin"], grantable=strong.modules)
    assert another.modules == ("admin",)


async def test_another_tenants_key_is_not_found() -> None:
    rig = Rig()
    _, record = await rig.keys.create("acme", "subscriber")
    for tenant, key_id in (("other", record.key_id), ("acme", "nosuchkey000"), ("acme", "local")):
        with pytest.raises(NotFound):
            await rig.keys.revoke(tenant, key_id)
    assert await rig.keys.of_tenant("other") == []
    assert [key.key_id for key in await rig.keys.of_tenant("acme")] == [record.key_id]


@pytest.mark.parametrize("arguments", [
    {"role": "owner"}, {"role": ""}, {"role": "Admin"}, {"role": "subscriber", "modules": ["admin"]},
    {"role": "admin", "modules": ["root"]}, {"role": "admin", "modules": [["admin"]]},
    {"role": "admin", "modules": [{}]},
    {"role": "admin", "subject": ""}, {"role": "admin", "subject": "a\nb"}, {"role": "admin", "subject": "x" * 257},
    {"role": "admin", "tenant": "Acme"}, {"role": "admin", "tenant": ""}, {"role": "admin", "tenant": "a/b"},
    {"role": "admin", "tenant": "a\n"}, {"role": "admin", "tenant": "-a"}, {"role": "admin", "tenant": "a" * 64},
])  # fmt: skip
async def test_a_key_that_makes_no_sense_is_not_made(arguments: dict[str, Any]) -> None:
    rig = Rig()
    with pytest.raises(InvalidInput):
        await rig.keys.create(arguments.pop("tenant", "acme"), arguments.pop("role"), **arguments)
    assert await rig.keys.of_tenant("acme") == []


def test_tenant_names() -> None:
    for name in ("a", "acme", "0-x_y", "a" * 63):
        assert check_tenant(name) == name


@pytest.mark.parametrize(("role", "wanted", "allowed"), [
    (Role.ADMIN, (), True), (Role.ADMIN, (Role.PUBLISHER,), True), (Role.PUBLISHER, (Role.PUBLISHER,), True),
    (Role.SUBSCRIBER, (Role.PUBLISHER,), False), (Role.PUBLISHER, (), False),
    (Role.SUBSCRIBER, (Role.PUBLISHER, Role.SUBSCRIBER), True),
])  # fmt: skip
def test_roles_allow_what_they_should(role: Role, wanted: tuple[Role, ...], allowed: bool) -> None:
    key = ApiKey("id", "acme", "alice", role, (), b"", 1)
    if allowed:
        require(key, *wanted)
    else:
        with pytest.raises(Forbidden):
            require(key, *wanted)


# -- the operator's bearer --------------------------------------------------------------------------------------------


async def test_the_operators_bearer_is_an_admin_of_the_tenant_that_it_names() -> None:
    found = await Rig().authenticator.authenticate(local_bearer(SECRET, "acme"))
    assert (found.tenant, found.role, found.modules) == ("acme", Role.ADMIN, ("admin",))


def _forgeries() -> dict[str, str]:
    true = local_bearer(SECRET, "acme")
    prefix, tenant, proof = true.split(".")
    return {
        "another tenant": f"{prefix}.other.{proof}",
        "another secret": local_bearer("another secret", "acme"),
        "no secret": local_bearer("", "acme"),
        "no proof": f"{prefix}.{tenant}.",
        "half a proof": true[:-1],
        "more than the proof": true + "0",
        "no tenant": f"{prefix}..{proof}",
        "only the prefix": prefix,
        "another prefix": f"clarion.{tenant}.{proof}",
        "upper case": true.upper(),
        "a line more": true + "\n",
        "in another script": true.replace("a", "а", 1),  # Cyrillic
        "latin-1": true + "\xff",
    }


@pytest.mark.parametrize("forgery", _forgeries().values(), ids=_forgeries())
async def test_a_forged_bearer_is_refused_like_any_other(forgery: str) -> None:
    rig = Rig()
    assert await rig.refused(forgery) == await rig.refused("nonsense")


@pytest.mark.parametrize("tenant", ["", "Acme", "a b", "a\n", "../x", "a" * 64])
async def test_a_true_bearer_for_what_is_no_tenant_is_refused(tenant: str) -> None:
    await Rig().refused(local_bearer(SECRET, tenant))


async def test_a_server_without_a_secret_has_no_operator() -> None:
    authenticator = Authenticator(open_memory().keys)
    with pytest.raises(ClarionError):
        await authenticator.authenticate(local_bearer("", "acme"))


def test_a_key_record_does_not_show_its_secret() -> None:
    _, record = mint("acme", "alice", Role.ADMIN, (), at=1, randomness=random.Random(5).randbytes)
    assert replace(record, subject="bob").sha256 == record.sha256
