"""Readable failures from the suites, which live outside of the tests."""

import pytest

pytest.register_assert_rewrite("clarion.testing.contracts")
