"""A key hands on no more than it has."""

from pathlib import Path

from interaction.serving import calling, operator

SUMMARY = "/v1/admin/mcp/outbound/summary"
STRONG = {"role": "admin", "modules": ["admin"]}


async def test_an_admin_key_without_a_module_cannot_make_itself_one_with_it(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee:
        async with callee.http(await callee.key("admin", subject="weak")) as weak:
            assert (await weak.get(SUMMARY)).status_code == 403
            answer = await weak.post("/v1/keys", json={**STRONG, "subject": "weak"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
            assert (await weak.post("/v1/keys", json={"role": "admin"})).status_code == 201
        async with callee.http(operator()) as local:
            made = await local.post("/v1/keys", json=STRONG)
        async with callee.http(made.json()["key"]) as strong:
            assert (await strong.get(SUMMARY)).status_code == 200
            assert (await strong.post("/v1/keys", json=STRONG)).status_code == 201
