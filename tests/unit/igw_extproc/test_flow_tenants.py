"""Whose request it is: tenants are told apart, and their keys are kept nowhere."""

from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.flowcontrol.tenants import ANONYMOUS, tenant

SALT = bytes(range(32))


def test_the_fairness_id_comes_before_the_credentials() -> None:
    assert tenant("team-a", "Bearer one", SALT) == tenant("team-a", "Bearer two", SALT)


def test_without_an_id_the_credentials_tell_tenants_apart() -> None:
    one, two = tenant(None, "Bearer one", SALT), tenant("", "Bearer two", SALT)
    assert one != two
    assert one == tenant(None, "Bearer one", SALT)


def test_the_same_key_is_the_same_tenant_with_its_scheme_and_without() -> None:
    """OpenAI's clients send `Authorization: Bearer KEY`, others `x-api-key: KEY`."""
    assert tenant(None, "Bearer one", SALT) == tenant(None, "bearer one", SALT) == tenant(None, "one", SALT)
    assert tenant(None, "Bearer ", SALT) == ANONYMOUS


def test_who_says_nothing_is_anonymous() -> None:
    assert tenant(None, None, SALT) == tenant("", "", SALT) == ANONYMOUS


def test_a_key_cannot_be_read_from_the_name_nor_compared_with_a_guess_by_another_process() -> None:
    assert "sk-secret" not in tenant(None, "Bearer sk-secret", SALT)
    assert tenant(None, "Bearer sk-secret", SALT) != tenant(None, "Bearer sk-secret", SALT[::-1])


def test_naming_anothers_digest_does_not_make_one_that_other() -> None:
    victim = tenant(None, "Bearer sk-secret", SALT)
    assert tenant(victim, None, SALT) != victim


@given(st.text(max_size=500), st.text(max_size=500))
def test_names_are_short_and_distinct_whatever_clients_send(one: str, other: str) -> None:
    names = tenant(one, None, SALT), tenant(other, None, SALT)
    assert (names[0] == names[1]) == (one == other)
    assert max(map(len, names)) <= 131


def test_bytes_that_are_no_text_are_no_error() -> None:
    assert tenant(None, b"Bearer \xff".decode("utf-8", "surrogateescape"), SALT).startswith("key:")
