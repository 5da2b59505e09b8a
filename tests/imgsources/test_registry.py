"""The registry client against a registry that can be told to misbehave."""

import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import (
    APIError,
    DataLoss,
    InvalidParameter,
    NotFound,
    PullAccessDenied,
    TooManyRequests,
    Unauthorized,
)
from imgsources import transport as transport_module
from imgsources.answers import parse_challenges
from imgsources.oci import Platform
from imgsources.references import Reference
from imgsources.registry import RegistryClient
from imgsources.sources import TransferBroken
from imgsources.transport import Credentials, Transport
from tests.fakes.registry import RATE_LIMIT, FakeRegistry, Fault, layer_tar

BIG = bytes(range(256)) * 8192
AMD64 = Platform("linux", "amd64")


@pytest.fixture
async def session():
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.fixture
async def registry():
    async with FakeRegistry.serve() as registry:
        yield registry


@pytest.fixture
def client(session):
    return RegistryClient(session, stall_timeout_s=0.3)


@pytest.fixture
def image(registry):
    return registry.add_image("me/app", "v1", [layer_tar({"big": BIG})], compression="")


def ref(registry, rest="me/app:v1"):
    return Reference.parse(f"{registry.host}/{rest}")


async def read(client, remote, *, offset=0, into=None):
    blob = bytearray() if into is None else into
    async with client.open_blob(remote, remote.manifest.layers[0], offset=offset) as blocks:
        async for block in blocks:
            blob += block
    return bytes(blob)


@pytest.mark.parametrize("docker_types", [False, True])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
async def test_an_image_is_resolved_and_its_layers_are_read(
    client, registry, docker_types, compression
):
    tars = [layer_tar({"a": b"1"}), layer_tar({"b": b"2"})]
    image = registry.add_image(
        "x", "latest", tars, compression=compression, docker_types=docker_types
    )
    remote = await client.resolve(ref(registry, "x"), None)
    assert remote.digest == image.digest
    assert remote.config.digest == image.id
    assert tuple(layer.digest for layer in remote.manifest.layers) == image.layer_digests
    assert await read(client, remote) == image.blobs[0]
    by_digest = await client.resolve(ref(registry, f"x@{image.digest}"), None)
    assert by_digest.config == remote.config


@pytest.mark.parametrize("docker_types", [False, True])
async def test_the_platform_asked_for_is_taken_from_an_index(client, registry, docker_types):
    amd = registry.add_image("x", "", [layer_tar({"a": b"1"})])
    arm = registry.add_image("x", "", [layer_tar({"a": b"2"})], architecture="arm64")
    digest = registry.add_index(
        "x", "latest", {"linux/arm64/v8": arm, "linux/amd64": amd}, docker_types=docker_types
    )
    for platform, image in ((AMD64, amd), (Platform("linux", "arm64"), arm)):
        remote = await client.resolve(ref(registry, "x"), platform)
        assert (remote.config.digest, remote.digest) == (image.id, digest)
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x in the manifest list"):
        await client.resolve(ref(registry, "x"), Platform("linux", "s390x"))


async def test_a_lone_image_is_taken_whatever_its_platform(client, registry, image):
    remote = await client.resolve(ref(registry), Platform("linux", "arm64"))
    assert (remote.config.digest, str(remote.config.platform)) == (image.id, "linux/amd64")


async def test_an_index_without_platforms_is_decided_by_the_config(client, registry, image):
    entry = {"mediaType": image.manifest_type, "digest": image.digest, "size": 1}
    raw = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    registry.add_manifest("me/app", "i", "application/vnd.oci.image.index.v1+json", raw)
    assert (await client.resolve(ref(registry, "me/app:i"), None)).config.digest == image.id
    with pytest.raises(NotFound, match=r"its platform \(linux/amd64\) does not match"):
        await client.resolve(ref(registry, "me/app:i"), Platform("linux", "arm64"))


# Tokens and passwords ---------------------------------------------------------------------------------


async def test_a_token_is_fetched_for_the_repository_and_used_again(session):
    async with FakeRegistry.serve(bearer=True) as registry:
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        client = RegistryClient(session)
        remote = await client.resolve(ref(registry), None)
        await read(client, remote)
        (token,) = registry.requests("/token")
        assert token.query["scope"] == "repository:me/app:pull"
        assert token.query["service"] == "registry.test"
        assert token.authorization == ""


async def test_a_token_that_ran_out_is_renewed(session):
    async with FakeRegistry.serve(bearer=True) as registry:
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        client = RegistryClient(session)
        remote = await client.resolve(ref(registry), None)
        registry.revoke_tokens()
        await read(client, remote)
        assert len(registry.requests("/token")) == 2


async def test_a_private_repository_needs_its_users_password(session):
    async with FakeRegistry.serve(
        bearer=True, users={"ann": "päss:word"}, private={"me/app"}
    ) as registry:
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        with pytest.raises(PullAccessDenied) as caught:
            await RegistryClient(session).resolve(ref(registry), None)
        assert f"pull access denied for {registry.host}/me/app, repository does" in str(
            caught.value
        )
        assert "denied: requested access to the resource is denied" in str(caught.value)
        for auth in (Credentials("ann", "päss:word"), Credentials(identity_token="refresh-ann")):
            await RegistryClient(session, auth=auth).resolve(ref(registry), None)
        with pytest.raises(Unauthorized, match="unauthorized: incorrect username or password"):
            await RegistryClient(session, auth=Credentials("ann", "no")).resolve(
                ref(registry), None
            )


async def test_name_and_password_are_sent_where_basic_is_asked_for(session):
    async with FakeRegistry.serve(basic=("ann", "pw")) as registry:
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        client = RegistryClient(session, auth=Credentials("ann", "pw"))
        await read(client, await client.resolve(ref(registry), None))
        words = f'^Head "http://{registry.host}/v2/me/app/manifests/v1": no basic auth credentials$'
        with pytest.raises(APIError, match=words):
            await RegistryClient(session).resolve(ref(registry), None)
        with pytest.raises(Unauthorized, match="unauthorized: authentication required"):
            await RegistryClient(session, auth=Credentials("ann", "x")).resolve(ref(registry), None)


async def test_who_gets_no_token_is_told_which_request_it_was_for(session):
    async with FakeRegistry.serve(bearer=True, users={"ann": "pw"}) as registry:
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        client = RegistryClient(session, auth=Credentials("ann", "no"))
        words = f'^Head "http://{registry.host}/v2/me/app/manifests/v1": unauthorized: incorrect username'
        with pytest.raises(Unauthorized, match=words):
            await client.resolve(ref(registry), None)
        query = registry.requests("/token")[-1].query
        assert [*query] == ["account", "scope", "service"]  # as Go orders them
        assert query["scope"] == "repository:me/app:pull"


async def test_a_mirror_may_have_a_path(session):
    async with FakeRegistry.serve() as registry:
        client = RegistryClient(session, mirrors=[f"http://{registry.host}/mirror/"])
        mirror = client.transport.servers("docker.io", None)[0]
        endpoint = await client.transport.connect(mirror)
        path = "v2/library/x/manifests/latest"
        async with client.transport.ask(endpoint, path, Reference.parse("x"), {}) as response:
            assert response.url.path == f"/mirror/{path}"


async def test_login_tells_good_from_bad_credentials(session):
    refused = "login attempt to http://.*/v2/ failed with status: 401 Unauthorized"
    for options, words in (
        ({"bearer": True, "users": {"ann": "pw"}}, "unauthorized: incorrect username or password"),
        ({"basic": ("ann", "pw")}, refused),
    ):
        async with FakeRegistry.serve(**options) as registry:
            client = RegistryClient(session)
            login = await client.login(Credentials("ann", "pw"), f"http://{registry.host}/v2/")
            assert login.status == "Login Succeeded"
            with pytest.raises(APIError, match=words):
                await client.login(Credentials("ann", "nope"), registry.host)


async def test_login_gives_the_identity_token_that_pulls_later(session):
    async with FakeRegistry.serve(bearer=True, users={"ann": "pw"}, private={"me/app"}) as registry:
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        login = await RegistryClient(session).login(Credentials("ann", "pw"), registry.host)
        auth = Credentials(identity_token=login.identity_token)
        await RegistryClient(session, auth=auth).resolve(ref(registry), None)
        post = registry.requests("/token")[-1]
        assert (post.method, post.authorization) == ("POST", "")


async def test_login_with_a_registry_that_wants_nothing_succeeds(client, registry):
    assert (await client.login(Credentials("a", "b"), registry.host)).identity_token == ""


# Redirects --------------------------------------------------------------------------------------------


async def test_a_redirect_to_storage_does_not_take_the_password_along(session):
    async with FakeRegistry.serve(basic=("ann", "pw"), redirects=True) as registry:
        image = registry.add_image("me/app", "v1", [layer_tar({"a": BIG})])
        client = RegistryClient(session, auth=Credentials("ann", "pw"))
        remote = await client.resolve(ref(registry), None)
        assert await read(client, remote, offset=10) == image.blobs[0][10:]
        at_storage = [request for request in registry.log if request.on_storage]
        assert at_storage
        assert all(request.authorization == "" for request in at_storage)
        assert at_storage[-1].range == "bytes=10-"


async def test_redirects_without_end_are_given_up(client, registry, image):
    location = f"http://{registry.host}/v2/me/app/manifests/v1"
    registry.faults.append(Fault("/manifests/", times=99, status=307, location=location))
    with pytest.raises(APIError, match="stopped after 10 redirects"):
        await client.resolve(ref(registry), None)


# Blobs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignores_range", [False, True])
async def test_a_blob_is_read_from_an_offset(client, registry, image, ignores_range):
    remote = await client.resolve(ref(registry), None)
    whole = image.blobs[0]
    for offset in (0, 1, 65536, len(whole) - 1, len(whole)):
        registry.faults[:] = [Fault("/blobs/", ignores_range=ignores_range)]
        assert await read(client, remote, offset=offset) == whole[offset:]


async def test_a_broken_connection_can_be_resumed_where_it_broke(client, registry, image):
    remote = await client.resolve(ref(registry), None)
    registry.faults.append(Fault("/blobs/", break_after=700_000))
    got = bytearray()
    with pytest.raises(TransferBroken, match="unexpected EOF"):
        await read(client, remote, into=got)
    assert 0 < len(got) <= 700_000
    got += await read(client, remote, offset=len(got))
    assert got == image.blobs[0]


async def test_a_blob_that_stalls_is_given_up_after_the_timeout(client, registry, image):
    remote = await client.resolve(ref(registry), None)
    registry.faults.append(Fault("/blobs/", stall_after=1000))
    with pytest.raises(TransferBroken, match="i/o timeout"):
        await read(client, remote)
    assert registry.stalled.is_set()


async def test_a_registry_in_trouble_is_a_broken_transfer(client, registry, image):
    remote = await client.resolve(ref(registry), None)
    registry.faults.append(Fault("/blobs/", status=503))
    with pytest.raises(TransferBroken, match="unexpected HTTP status: 503 Service Unavailable"):
        await read(client, remote)


async def test_a_lost_blob_is_not_found(client, registry, image):
    remote = await client.resolve(ref(registry), None)
    registry.remove_blob(image.layer_digests[0])
    with pytest.raises(NotFound, match="unknown blob"):
        await read(client, remote)


# Verification -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "fault", "words"),
    [
        ("me/app:v1", Fault("/manifests/", digest="sha256:" + "0" * 64), "manifest verification"),
        ("me/app@{digest}", Fault("/manifests/", flip=True), "manifest verification failed"),
        ("me/app:v1", Fault("/blobs/", flip=True), "image config verification failed for digest"),
        ("me/app:v1", Fault("/blobs/", truncate_after=3), "image config verification failed"),
    ],
)
async def test_documents_that_are_not_what_they_claim_are_refused(
    client, registry, image, rest, fault, words
):
    registry.faults.append(fault)
    with pytest.raises(DataLoss, match=words):
        await client.resolve(ref(registry, rest.format(digest=image.digest)), None)


async def test_a_manifest_without_end_is_cut_off(client, registry):
    registry.add_manifest("x", "latest", "text/plain", b"[" * (5 << 20))
    with pytest.raises(DataLoss, match="manifest is larger than"):
        await client.resolve(ref(registry, "x"), None)


async def test_schema_one_is_refused_with_dockerds_advice(client, registry):
    registry.add_manifest(
        "x",
        "latest",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        b'{"schemaVersion": 1}',
    )
    with pytest.raises(InvalidParameter, match="schema 1 support has been removed"):
        await client.resolve(ref(registry, "x"), None)


# Errors -----------------------------------------------------------------------------------------------


async def test_a_missing_tag_is_not_found_in_dockerds_words(client, registry, image):
    with pytest.raises(NotFound) as caught:
        await client.resolve(ref(registry, "me/app:nope"), None)
    assert caught.value.message == (
        f"manifest for {registry.host}/me/app:nope not found: manifest unknown: manifest unknown"
    )


def stated(code: str, message: str) -> dict[str, object]:
    """A registry's own error."""
    return {"errors": [{"code": code, "message": message, "detail": {"of": "the matter"}}]}


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (429, RATE_LIMIT, TooManyRequests, "^toomanyrequests: You have reached your unauth"),
        (429, b"slow", TooManyRequests, "^toomanyrequests: slow$"),
        (500, b"<html>", APIError, "^received unexpected HTTP status: 500 Internal Server Error$"),
        (503, stated("UNKNOWN", "x"), APIError, "^received unexpected HTTP status: 503 Service"),
        (401, b"who?", Unauthorized, "^unauthorized: who.$"),
        (401, {}, Unauthorized, "^unauthorized: authentication required$"),
        (401, stated("UNAUTHORIZED", "no"), Unauthorized, "^unauthorized: no$"),
        (403, stated("DENIED", "no"), PullAccessDenied, "^pull access denied .*: denied: no$"),
        (403, b"", PullAccessDenied, "^pull access denied .*: denied: $"),
        (403, stated("BLOCKED", "not in your country"), APIError, "^unknown: not in your country$"),
        (400, stated("TAG_INVALID", "zz"), InvalidParameter, "^tag invalid: zz$"),
        (404, b"", APIError, "^unknown: $"),
        (404, {"details": "moved"}, APIError, "^unknown: moved$"),
        (
            404,
            stated("NAME_UNKNOWN", "gone"),
            NotFound,
            "^repository .*/app not found: name unknown: gone$",
        ),
        (
            404,
            stated("MANIFEST_UNKNOWN", ""),
            NotFound,
            "^manifest for .*:v1 not found: manifest unknown: manifest",
        ),
        (404, {"errors": [{"code": None}]}, APIError, "^unknown: $"),
        (
            404,
            {"errors": {"x": 1}},
            APIError,
            r'^error parsing HTTP 404 response body: no error details found in HTTP response body: "{\\"errors',
        ),
    ],
)
async def test_what_a_registry_refuses_has_dockerds_kind_and_words(
    client, registry, image, status, body, kind, words
):
    registry.faults.append(Fault("/manifests/", status=status, body=body, times=2))
    with pytest.raises(APIError, match=words) as caught:
        await client.resolve(ref(registry), None)
    assert type(caught.value) is kind


async def test_a_manifest_is_asked_for_twice(client, registry, image):
    registry.faults.append(Fault("/manifests/", status=502, times=1))
    await client.resolve(ref(registry), None)


async def test_a_config_is_asked_for_again(client, registry, image):
    registry.faults.append(Fault(image.id, status=500, times=2))
    await client.resolve(ref(registry), None)
    registry.faults.append(Fault(image.id, status=404, times=9))
    with pytest.raises(
        APIError,
        match="error pulling image configuration: download failed after attempts=1: unknown blob",
    ):
        await client.resolve(ref(registry), None)


async def test_a_registry_that_is_not_there_is_described_as_go_does(session):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(APIError) as caught:
            await RegistryClient(session).resolve(Reference.parse(f"127.0.0.1:{port}/x"), None)
    assert caught.value.message == (
        f'Get "http://127.0.0.1:{port}/v2/": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )
    assert caught.value.status == 500
    with pytest.raises(APIError, match=r'^Get "https://x\.invalid/v2/": dial tcp: lookup x\.inv'):
        await RegistryClient(session).resolve(Reference.parse("x.invalid/y"), None)


async def test_a_server_that_never_answers_is_given_up(session):
    client = RegistryClient(session, connect_timeout_s=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(APIError, match="timeout"):
            await client.resolve(Reference.parse(f"127.0.0.1:{port}/x"), None)


async def test_http_is_for_insecure_registries_only(session, registry, image, monkeypatch):
    monkeypatch.setattr(
        Transport, "is_insecure", lambda self, authority: authority in self._insecure
    )
    with pytest.raises(APIError, match=r"server gave HTTP response to HTTPS client|EOF|tls:"):
        await RegistryClient(session).resolve(ref(registry), None)
    await RegistryClient(session, insecure=[registry.host]).resolve(ref(registry), None)


@pytest.fixture
def self_signed(tmp_path):
    """A server's TLS context with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file = tmp_path / "registry.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(*encodings, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


async def test_https_is_verified_but_for_insecure_registries(self_signed, monkeypatch, tmp_path):
    # TLS connections close in several steps: the client's must be gone before the server is.
    async with (
        FakeRegistry.serve(tls=self_signed) as registry,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        remote = await RegistryClient(session).resolve(ref(registry), None)
        assert remote.config.digest
        monkeypatch.setattr(Transport, "is_insecure", lambda self, authority: False)
        with pytest.raises(APIError, match="tls: failed to verify certificate: x509: self"):
            await RegistryClient(session).resolve(ref(registry), None)
        folder = tmp_path / "certs.d" / registry.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes((tmp_path / "registry.pem").read_bytes())
        client = RegistryClient(session, certificates=folder.parent)
        assert await client.resolve(ref(registry), None) == remote
        (folder / "mine.cert").write_bytes(b"no certificate")
        (folder / "mine.key").write_bytes(b"no key")
        with pytest.raises(APIError, match="cannot use the certificates in"):
            await RegistryClient(session, certificates=folder.parent).resolve(ref(registry), None)


async def test_a_registry_that_asks_who_we_are_is_shown_our_certificate(
    self_signed, monkeypatch, tmp_path
):
    pem = tmp_path / "registry.pem"  # has the key, too
    self_signed.load_verify_locations(pem)
    self_signed.verify_mode = ssl.CERT_REQUIRED
    monkeypatch.setattr(Transport, "is_insecure", lambda self, authority: False)
    async with (
        FakeRegistry.serve(tls=self_signed) as registry,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        registry.add_image("me/app", "v1", [layer_tar({"a": b"1"})])
        folder = tmp_path / "certs.d" / registry.host
        folder.mkdir(parents=True)

        async def resolve() -> None:
            await RegistryClient(session, certificates=folder.parent).resolve(ref(registry), None)

        (folder / "ca.crt").write_bytes(pem.read_bytes())
        with pytest.raises(APIError):
            await resolve()
        (folder / "client.cert").write_bytes(pem.read_bytes())
        with pytest.raises(
            InvalidParameter, match=r"missing key client\.key for client certificate"
        ):
            await resolve()
        (folder / "client.key").write_bytes(pem.read_bytes())
        await resolve()
        (folder / "client.cert").unlink()
        with pytest.raises(InvalidParameter, match=r"missing client certificate client\.cert for"):
            await resolve()


async def test_an_insecure_network_that_is_none_is_refused(session):
    with pytest.raises(InvalidParameter, match="invalid insecure registry"):
        RegistryClient(session, insecure=["10.0.0.0/99"])


@pytest.mark.parametrize(
    ("authority", "is_insecure"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.9.9.9:5000", True),
        ("[::1]:5000", True),
        ("10.1.2.3", True),
        ("10.2.2.3", False),
        ("reg.lan:5000", True),
        ("reg.lan:5001", False),
        ("any.lan:5001", True),
        ("docker.io", False),
    ],
)
async def test_insecure_registries_are_named_or_lie_in_a_network(session, authority, is_insecure):
    client = RegistryClient(session, insecure=["10.1.0.0/16", "reg.lan:5000", "any.lan"])
    assert client.transport.is_insecure(authority) is is_insecure


# Mirrors ----------------------------------------------------------------------------------------------


@pytest.fixture
async def hub(monkeypatch):
    async with FakeRegistry.serve() as hub:
        monkeypatch.setattr(transport_module, "HUB", f"http://{hub.host}")
        yield hub


async def test_a_mirror_is_asked_first_for_the_hubs_images_and_without_the_password(
    session, registry, hub
):
    image = registry.add_image("library/x", "latest", [layer_tar({"a": b"1"})])
    client = RegistryClient(
        session, mirrors=[f"http://{registry.host}"], auth=Credentials("ann", "pw")
    )
    remote = await client.resolve(Reference.parse("x"), None)
    assert await read(client, remote) == image.blobs[0]
    assert hub.log == []
    assert all(request.authorization == "" for request in registry.log)


@pytest.mark.parametrize("fault", [None, Fault("/v2/", times=99, status=500)])
async def test_the_hub_is_asked_when_the_mirror_cannot(session, registry, hub, fault):
    registry.faults += [fault] if fault else []
    image = hub.add_image("library/x", "latest", [layer_tar({"a": b"1"})])
    client = RegistryClient(session, mirrors=[f"http://{registry.host}"])
    remote = await client.resolve(Reference.parse("x"), None)
    assert await read(client, remote) == image.blobs[0]
    assert registry.log
    assert not registry.requests("/blobs/")


async def test_a_blob_that_the_mirror_lost_comes_from_the_hub(session, registry, hub):
    tars = [layer_tar({"a": b"1"})]
    image = hub.add_image("library/x", "latest", tars)
    registry.add_image("library/x", "latest", tars)
    client = RegistryClient(session, mirrors=[f"http://{registry.host}"])
    remote = await client.resolve(Reference.parse("x"), None)
    registry.remove_blob(image.layer_digests[0])
    assert await read(client, remote) == image.blobs[0]


# Tags and challenges ----------------------------------------------------------------------------------


async def test_all_tags_are_listed_over_several_pages(session):
    async with FakeRegistry.serve(page_size=2) as registry:
        for tag in "abcde":
            registry.add_image("me/app", tag, [])
        tags = await RegistryClient(session).list_tags(ref(registry, "me/app"))
        assert tags == ("a", "b", "c", "d", "e")
        with pytest.raises(NotFound, match=r"repository .* not found: name unknown"):
            await RegistryClient(session).list_tags(ref(registry, "nope"))


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        (
            'Bearer realm="https://a/t",service="s, b",scope="repository:x:pull,push"',
            "bearer",
            {"realm": "https://a/t", "service": "s, b", "scope": "repository:x:pull,push"},
        ),
        ('basic realm="a \\"b\\""', "basic", {"realm": 'a "b"'}),
        ("Bearer realm=https://a/t , error=x", "bearer", {"realm": "https://a/t", "error": "x"}),
    ],
)
def test_challenges_are_read(header, scheme, parameters):
    (challenge,) = parse_challenges([header])
    assert (challenge.scheme, dict(challenge.parameters)) == (scheme, parameters)


def test_several_challenges_in_one_header_are_told_apart():
    found = parse_challenges(['Basic realm="a", Bearer realm="b",service="c"'])
    assert [challenge.scheme for challenge in found] == ["basic", "bearer"]
    assert found[1].parameters == {"realm": "b", "service": "c"}


@given(st.text(max_size=60))
def test_no_challenge_is_too_odd_to_read(header):
    parse_challenges([header])


def test_credentials_do_not_show_in_logs():
    assert "secret" not in repr(Credentials("ann", "secret", "secret"))
