"""TLS: who can connect, what happens when certificates are replaced, and which ones are refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cape.client import Client, ConnectionOptions, UnavailableError
from cli.main import main
from service.access.api_tokens import TokenFile, digest, new_token, write_tokens
from service.access.certificate_dates import earliest_expiry
from service.access.certificates import CertificateError, Certificates
from service.server import StartError, running_server
from service.settings import SettingsError, load_settings
from tests.service.live_server import LiveServer, settings_for
from tests.service.test_server import free_port

SECONDS = 20.0


class Authority:
    """A certificate authority, and the PEM files that it fills."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._authority = trustme.CA()
        self._folder = folder
        self.root = folder / "root.pem"
        self._authority.cert_pem.write_to_path(self.root)

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        issued = self._authority.issue_cert(name)
        certificate, key = (self._folder / f"{name}.{kind}.pem" for kind in ("certificate", "key"))
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def strangers(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "strangers")


def options(**files: Path | str | None) -> ConnectionOptions:
    return ConnectionOptions(attempts=1, timeout=SECONDS, **files)


def connects(server: LiveServer, given: ConnectionOptions, patience: float = SECONDS) -> bool:
    """Whether a new connection lets a call through; a refused handshake is tried again by gRPC until time is up."""
    with Client(f"localhost:{server.server.port}", given) as client:
        try:
            client.wait_ready(timeout=patience)
        except UnavailableError:
            return False
        return bool(client.models())


def test_with_tls_nothing_is_said_in_the_clear(tiny_repository: Path, ours: Authority, strangers: Authority) -> None:
    certificate, key = ours.issue("localhost")
    with LiveServer(settings_for(tiny_repository, tls_certificate=certificate, tls_key=key)) as server:
        assert connects(server, options(root_certificates=ours.root))
        for wrong in (options(), options(tls=True), options(root_certificates=strangers.root)):
            assert not connects(server, wrong, patience=1)


def test_with_mutual_tls_strangers_are_kept_out(tiny_repository: Path, ours: Authority, strangers: Authority) -> None:
    certificate, key = ours.issue("localhost")
    settings = settings_for(tiny_repository, tls_certificate=certificate, tls_key=key, tls_client_authority=ours.root)
    own, forged = (authority.issue("client") for authority in (ours, strangers))
    with LiveServer(settings) as server:
        pair = {"client_certificate": own[0], "client_key": own[1]}
        assert connects(server, options(root_certificates=ours.root, **pair))
        assert not connects(server, options(root_certificates=ours.root), patience=1)
        pair = {"client_certificate": forged[0], "client_key": forged[1]}
        assert not connects(server, options(root_certificates=ours.root, **pair), patience=1)


def test_a_renewed_certificate_is_used_without_a_restart_and_a_bad_one_is_not(
    tiny_repository: Path, ours: Authority, strangers: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def install(authority: Authority) -> None:
        for source, target in zip(authority.issue("localhost"), (certificate, key), strict=True):
            shutil.copy(source, f"{target}.new")
            Path(f"{target}.new").replace(target)

    install(ours)
    with LiveServer(settings_for(tiny_repository, tls_certificate=certificate, tls_key=key)) as server:
        with Client(f"localhost:{server.server.port}", options(root_certificates=ours.root)) as open_before:
            assert open_before.models()
            install(strangers)
            assert connects(server, options(root_certificates=strangers.root))
            assert not connects(server, options(root_certificates=ours.root), patience=1)
            assert open_before.models(), "connections that are open stay so"
        shutil.copy(ours.issue("localhost")[0], certificate)  # which is not the key's
        assert connects(server, options(root_certificates=strangers.root)), "the last good pair stays in use"
        assert "the new certificates are refused" in caplog.text
        install(ours)
        assert connects(server, options(root_certificates=ours.root))


def test_a_replaced_client_authority_shuts_out_those_of_the_old_one(
    tiny_repository: Path, ours: Authority, strangers: Authority, tmp_path: Path
) -> None:
    certificate, key = ours.issue("localhost")
    trusted = tmp_path / "clients.pem"
    shutil.copy(ours.root, trusted)
    old, new = (authority.issue("client") for authority in (ours, strangers))
    settings = settings_for(tiny_repository, tls_certificate=certificate, tls_key=key, tls_client_authority=trusted)
    with LiveServer(settings) as server:

        def let_in(pair: tuple[Path, Path], patience: float) -> bool:
            files = {"client_certificate": pair[0], "client_key": pair[1]}
            return connects(server, options(root_certificates=ours.root, **files), patience)

        assert let_in(old, SECONDS)
        shutil.copy(strangers.root, trusted)
        assert let_in(new, SECONDS)
        assert not let_in(old, 1)


def test_probes_reach_health_without_tls_on_a_port_that_offers_nothing_else(
    tiny_repository: Path, ours: Authority
) -> None:
    certificate, key = ours.issue("localhost")
    files = {"tls_certificate": certificate, "tls_key": key, "tls_client_authority": ours.root}
    port = free_port()
    with (
        LiveServer(settings_for(tiny_repository, health_port=port, **files)),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for method in ("/cape.v1.ModelService/ListModels", "/grpc.reflection.v1alpha.ServerReflection/Info"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"", timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_command_line_connects_with_a_certificate_and_a_token(
    tiny_repository: Path, ours: Authority, tmp_path: Path
) -> None:
    certificate, key = ours.issue("localhost")
    own = ours.issue("client")
    number, token = new_token()
    entry = {"id": number, "tenant": "acme", "sha256": digest(token)}
    write_tokens(tmp_path / "tokens.yaml", TokenFile.model_validate({"tokens": [entry]}))
    files = {"tls_certificate": certificate, "tls_key": key, "tls_client_authority": ours.root}
    with LiveServer(settings_for(tiny_repository, tokens=tmp_path / "tokens.yaml", **files)) as server:
        arguments = ["support", "list", "--json", "--target", f"localhost:{server.server.port}"]
        arguments += ["--root-certificates", str(ours.root)]
        arguments += ["--client-certificate", str(own[0]), "--client-key", str(own[1])]
        listed = CliRunner().invoke(main, arguments, env={"CAPESERVE_TOKEN": token})
        assert listed.exit_code == 0, listed.output
        refused = CliRunner().invoke(main, arguments)
        assert refused.exit_code == 1
        assert "a token is needed" in refused.stderr
        assert token not in listed.output + refused.output


def missing(authority: Authority) -> tuple[Path, Path]:
    certificate, key = authority.issue("localhost")
    return certificate, key.with_name("nowhere.pem")


def not_a_pair(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("localhost")[0], authority.issue("other")[1]


def swapped(authority: Authority) -> tuple[Path, Path]:
    certificate, key = authority.issue("localhost")
    return key, certificate


@pytest.mark.parametrize("spoil", [missing, not_a_pair, swapped])
async def test_files_that_are_no_certificate_and_key_keep_the_server_from_starting(
    tiny_repository: Path, ours: Authority, spoil: Callable[[Authority], tuple[Path, Path]]
) -> None:
    certificate, key = spoil(ours)
    with pytest.raises(StartError, match=r"TLS: .*pem"):
        async with running_server(settings_for(tiny_repository, tls_certificate=certificate, tls_key=key)):
            pass


def test_an_authority_that_is_none_is_refused(ours: Authority, tmp_path: Path) -> None:
    certificate, key = ours.issue("localhost")
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(CertificateError, match=r"empty\.pem"):
        Certificates(certificate, key, tmp_path / "empty.pem")


@pytest.mark.parametrize(
    "flags", [{"tls_certificate": "a.pem"}, {"tls_key": "a.pem"}, {"tls_client_authority": "a.pem"}]
)
def test_half_of_what_tls_needs_is_refused(flags: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="tls_certificate"):
        load_settings(flags={"repository": "/models"} | flags)


def test_tokens_without_tls_on_a_network_are_warned_of(
    tiny_repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tokens(tmp_path / "tokens.yaml", TokenFile(tokens=()))
    with LiveServer(settings_for(tiny_repository, tokens=tmp_path / "tokens.yaml")):
        assert "can use them" not in caplog.text
    with LiveServer(settings_for(tiny_repository, tokens=tmp_path / "tokens.yaml", host="0.0.0.0")):
        assert "can use them" in caplog.text


def test_metrics_say_when_the_first_certificate_expires(tiny_repository: Path, ours: Authority, tmp_path: Path) -> None:
    soon, late = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2051, 1, 2, tzinfo=UTC)
    for date in (soon, late):
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", not_after=date)
        certificate, key = (tmp_path / f"{date.year}.{kind}.pem" for kind in ("certificate", "key"))
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        # Dates from 2050 on have another form (RFC 5280, section 4.1.2.5).
        assert earliest_expiry([certificate]) == date.timestamp()
    settings = settings_for(
        tiny_repository, tls_certificate=tmp_path / "2049.certificate.pem", tls_key=tmp_path / "2049.key.pem"
    )
    with LiveServer(settings) as server:
        assert server.metric("capeserve_certificate_expiry_timestamp_seconds") == soon.timestamp()
    assert math.isnan(earliest_expiry([tmp_path / "missing"]))
