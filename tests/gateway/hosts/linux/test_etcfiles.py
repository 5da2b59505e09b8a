import pytest

from dockerapi.errors import InvalidParameter
from gateway.hosts.linux import etcfiles
from gateway.hosts.linux.etcfiles import HostFiles
from gateway.zones.metadata import DockerMetadata, Runtime
from gateway.zones.spec import Nic, ZoneSpec

UUID = "11111111-2222-3333-4444-555555555555"
HOST = HostFiles(
    hosts="127.0.0.1 localhost theworkstation\n",
    resolv_conf="# local stub\nnameserver 127.0.0.53\nnameserver 10.1.1.1\nsearch a.example b.example\n"
    "options edns0\n",
)


def spec(**fields: object) -> ZoneSpec:
    return ZoneSpec(
        uuid=UUID, brand="lx", image_uuid=UUID, alias="web", **({"hostname": "web"} | fields)
    )


def metadata(runtime: Runtime | None = None, **fields: object) -> DockerMetadata:
    return DockerMetadata(id="a" * 64, runtime=runtime or Runtime(), **fields)


def words(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_hosts_lists_localhost_then_extra_hosts_then_the_zone_itself():
    nic = Nic(nic_tag="admin", ip="172.30.0.2", netmask="255.255.0.0")
    text = etcfiles.hosts(
        spec(nics=(nic,), dns_domain="example.com"),
        metadata(extra_hosts=("db:10.0.0.9", "six:2001:db8::1", "six2:[2001:db8::2]")),
        HOST,
    )
    assert words(text) == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet",
        "ff00::\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
        "10.0.0.9\tdb",
        "2001:db8::1\tsix",
        "2001:db8::2\tsix2",
        "172.30.0.2\tweb.example.com web",
    ]


def test_a_hostname_with_a_domain_in_it_has_a_short_form():
    nic = Nic(nic_tag="admin", ip="172.30.0.2", netmask="255.255.0.0")
    text = etcfiles.hosts(spec(nics=(nic,), hostname="web.example.com"), metadata(), HOST)
    assert words(text)[-1] == "172.30.0.2\tweb.example.com web"


def test_hosts_has_no_ipv6_names_where_ipv6_is_off():
    runtime = Runtime(sysctls={"net.ipv6.conf.all.disable_ipv6": "1"})
    assert words(etcfiles.hosts(spec(), metadata(runtime), HOST)) == ["127.0.0.1\tlocalhost"]


def test_on_the_hosts_network_the_hosts_own_files_are_copied():
    data = metadata(Runtime(network="host"))
    assert etcfiles.hosts(spec(), data, HOST) == HOST.hosts
    assert etcfiles.resolv_conf(spec(), data, HOST) == HOST.resolv_conf


def test_an_extra_host_without_an_address_is_refused():
    with pytest.raises(InvalidParameter, match="invalid IP address in add-host"):
        etcfiles.hosts(spec(), metadata(extra_hosts=("db:nowhere",)), HOST)


def test_resolv_conf_is_the_hosts_without_its_loopback_servers():
    assert words(etcfiles.resolv_conf(spec(), metadata(), HOST)) == [
        "nameserver 10.1.1.1",
        "search a.example b.example",
        "options edns0",
    ]


def test_public_servers_stand_in_where_the_host_has_only_loopback_ones():
    host = HostFiles(resolv_conf="nameserver 127.0.0.1\nnameserver ::1\n")
    assert words(etcfiles.resolv_conf(spec(), metadata(), host)) == [
        "nameserver 8.8.8.8",
        "nameserver 8.8.4.4",
    ]


def test_the_spec_overrides_each_part_of_resolv_conf():
    data = metadata(Runtime(dns_options=("ndots:2",)), dns_search=("c.example",))
    text = etcfiles.resolv_conf(spec(resolvers=("9.9.9.9",)), data, HOST, ["172.30.0.1"])
    assert words(text) == ["nameserver 9.9.9.9", "search c.example", "options ndots:2"]
    assert "nameserver 172.30.0.1" in etcfiles.resolv_conf(spec(), data, HOST, ["172.30.0.1"])
    no_search = etcfiles.resolv_conf(spec(), metadata(dns_search=(".",)), HOST)
    assert "search" not in " ".join(words(no_search))


def test_the_files_are_written_for_all_to_read(tmp_path):
    etcfiles.write(tmp_path, spec(), metadata(), host=HOST)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "hosts": 0o644,
        "hostname": 0o644,
        "resolv.conf": 0o644,
    }
    assert (tmp_path / "hostname").read_text() == "web\n"
