"""The table of errors: complete, and without anything that gives a secret away."""

import inspect

import pytest

from clarion import errors
from clarion.errors import ERRORS, ClarionError, CloseReason, InvalidInput, codes, describe

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClarionError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_row_of_its_own_and_a_message_from_its_docstring(kind: type[ClarionError]) -> None:
    assert kind in ERRORS
    assert kind().message == (kind.__doc__ or "").strip() != ""


def test_codes_are_told_apart_and_statuses_are_errors() -> None:
    names = [row.code for row in ERRORS.values()]
    assert len(set(names)) == len(names)
    assert all(400 <= row.http < 600 for row in ERRORS.values())


def test_an_error_of_ones_own_takes_the_row_of_the_nearest_base() -> None:
    class Odd(InvalidInput):
        """Odd."""

    assert codes(Odd()).http == 422
    assert codes(Odd()).code == "invalid_input"


def test_a_description_holds_what_is_known() -> None:
    assert describe(InvalidInput("no", field="a", rule="b", details={"max": 3})) == {
        "code": "invalid_input", "message": "no", "field": "a", "rule": "b", "max": 3,
    }  # fmt: skip
    assert set(describe(ClarionError())) == {"code", "message"}


def test_only_a_client_whose_access_or_subscription_ended_should_stay_away() -> None:
    assert [reason for reason in CloseReason if not reason.reconnect] == [CloseReason.REVOKED, CloseReason.TERMINATED]
    assert len({reason.label for reason in CloseReason}) == len(CloseReason)
