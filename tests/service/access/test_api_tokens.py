"""Tokens and limits by themselves: what the file keeps, who is let in, and how much at a time."""

from __future__ import annotations

import hmac
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from service.access import api_tokens as module
from service.access.api_tokens import TokenFile, TokenFileError, Tokens, digest, new_token, read_tokens
from service.access.quotas import Quota
from service.errors import CallerLimitError, UnauthenticatedError

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def entry(tenant: str = "acme", **fields: object) -> tuple[str, dict[str, object]]:
    """A token, and what the file says of it."""
    number, secret = new_token()
    return secret, {"id": number, "tenant": tenant, "sha256": digest(secret), **fields}


def known(*entries: dict[str, object]) -> Tokens:
    return Tokens(TokenFile.model_validate({"tokens": entries}))


def capeserve(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["token", *map(str, arguments)])


def test_a_token_is_its_tenants_and_nobody_elses() -> None:
    ours, one = entry("ours")
    theirs, other = entry("theirs")
    tokens = known(one, other)
    assert tokens.caller(ours, NOW).tenant == "ours"
    assert tokens.caller(theirs, NOW).tenant == "theirs"


def test_nothing_but_the_whole_token_is_let_in() -> None:
    right, row = entry()
    other, _ = entry()
    last = "A" if right[-1] != "A" else "B"
    guesses = ["", right[:-1], right[:-1] + last, right + "A", right.upper(), row["sha256"], f" {right}", other]
    guesses += [
        f"cape_{row['id']}_{'A' * 43}",
        f"cape_{row['id']}_",
        right.replace("cape_", ""),
        "\udcff" * 57,
        "é" * 57,
    ]
    for guess in guesses:
        with pytest.raises(UnauthenticatedError) as caught:
            known(row).caller(str(guess), NOW)
        assert right[14:] not in str(caught.value)


def test_digests_are_compared_in_constant_time_whether_or_not_the_id_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    compare_digest = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    right, row = entry()
    stranger, _ = entry()
    for guess in (f"cape_{row['id']}_{'A' * 43}", stranger, "nonsense"):
        with pytest.raises(UnauthenticatedError):
            known(row).caller(guess, NOW)
    known(row).caller(right, NOW)
    assert len(compared) == 4
    assert all(len(one) == len(other) == 64 for one, other in compared)


def test_a_token_ends_when_it_expires() -> None:
    secret, row = entry(expires=NOW.isoformat())
    assert known(row).caller(secret, NOW - timedelta(seconds=1))
    with pytest.raises(UnauthenticatedError, match="expired"):
        known(row).caller(secret, NOW)


def test_a_reload_gives_nobody_a_new_burst_but_new_limits_to_those_who_have_them() -> None:
    secret, row = entry(requests_per_second=0.001)
    before = known(row)
    before.caller(secret, NOW).quota.count_request()
    _, another = entry()
    same = before.updated(TokenFile.model_validate({"tokens": [row, another]}))
    with pytest.raises(CallerLimitError):
        same.caller(secret, NOW).quota.count_request()
    changed = before.updated(TokenFile.model_validate({"tokens": [row | {"requests_per_second": 5}]}))
    changed.caller(secret, NOW).quota.count_request()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_allows_a_burst_and_then_as_many_as_it_says() -> None:
    clock = Clock()
    limits = Quota(requests_per_second=2, burst=3, clock=clock)
    for _ in range(3):
        limits.count_request()
    for _ in range(5):
        with pytest.raises(CallerLimitError) as caught:
            limits.count_request()
        assert caught.value.retry_after == pytest.approx(0.5), "asking too early costs nothing"
    clock.now += 0.5
    limits.count_request()
    with pytest.raises(CallerLimitError):
        limits.count_request()
    clock.now += 3600
    for _ in range(3):
        limits.count_request()
    with pytest.raises(CallerLimitError):
        limits.count_request()


def test_a_call_that_ends_makes_room_for_the_next() -> None:
    limits = Quota(max_in_flight=1)
    with limits.call(), pytest.raises(CallerLimitError), limits.call():
        pytest.fail("two at a time")
    with pytest.raises(ValueError, match="fails"), limits.call():
        raise ValueError("fails")
    with limits.call():
        pass


def test_the_command_makes_lists_and_revokes_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    made = capeserve("create", "--file", path, "--tenant", "acme", "--requests-per-second", 5, "--days", 30)
    secret = made.stdout.strip()
    assert made.exit_code == 0
    assert module.TOKEN.fullmatch(secret)
    assert capeserve("create", "--file", path, "--tenant", "other", "--max-message-bytes", "8MiB").exit_code == 0
    assert secret not in path.read_text()
    assert secret[14:] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = read_tokens(path).tokens
    assert (first.tenant, first.requests_per_second, second.max_message_bytes) == ("acme", 5, 8 * 2**20)
    assert Tokens(read_tokens(path)).caller(secret, datetime.now(UTC)).tenant == "acme"
    listed = capeserve("list", "--file", path).stdout
    assert first.id in listed
    assert first.sha256 not in listed
    assert capeserve("revoke", "--file", path, first.id).exit_code == 0
    assert [token.id for token in read_tokens(path).tokens] == [second.id]
    assert capeserve("revoke", "--file", path, first.id).exit_code == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tenant", "a/b"], "--tenant"),
        (["--tenant", "A"], "--tenant"),
        (["--tenant", ""], "--tenant"),
        (["--tenant", "a\nb"], "--tenant"),
        (["--tenant", "a", "--burst", "0"], "--burst"),
        (["--tenant", "a", "--max-message-bytes", "many"], "--max-message-bytes"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    path = tmp_path / "tokens.yaml"
    result = capeserve("create", "--file", path, *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr.splitlines()[-1]
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tokens: 3",
        "tokens: [{id: 12345678}]",
        "tokens: [{id: 3f9a0c1d, tenant: a, sha256: cape_secret}]",
        "a: [",
        "tokens: []\nother: 1",
        "tokens: [" + ", ".join(f"{{id: 3f9a0c1d, tenant: a, sha256: '{digit * 64}'}}" for digit in "01") + "]",
    ],
)
def test_a_bad_file_is_named_in_a_line_that_holds_nothing_of_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(TokenFileError, match=r"tokens\.yaml") as caught:
        read_tokens(path)
    assert "\n" not in str(caught.value)
    assert "cape_secret" not in str(caught.value)


def test_a_date_that_does_not_exist_is_a_bad_file_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text("tokens:\n- {id: 00000000, tenant: acme, expires: 2027-13-01T00:00:00Z}\n")
    with pytest.raises(TokenFileError, match=r"tokens\.yaml"):
        read_tokens(path)
