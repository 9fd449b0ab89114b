"""The container's files: what they promise can be read in them, and the parts that can run here run here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from owl_stream.config import make_config
from owl_stream.server.access import Tokens, check_exposure, read_tokens
from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess

MINIMAL = {"datasets": {"train": {"shards": ["a.tar"], "tokenizer": "t.json"}}}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


def instructions(name: str, kind: str) -> list[str]:
    """The arguments of a Dockerfile's instructions of a kind, continued lines joined."""
    text = (ROOT / name).read_text().replace("\\\n", "")
    return re.findall(rf"^{kind} (.*)$", text, re.M)


@pytest.mark.parametrize("service", ["server", "trainer"])
def test_what_we_run_may_do_nothing_but_its_work(services: dict[str, Any], service: str) -> None:
    """Read-only root, no capability, no new privileges, and only /tmp to write to."""
    settings = services[service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in settings["security_opt"]
    assert settings["tmpfs"] == ["/tmp"]
    assert not {"privileged", "cap_add", "shm_size", "user", "pid", "network_mode"} & set(settings)


def test_nothing_is_published_beyond_loopback(services: dict[str, Any]) -> None:
    """Every port of every service."""
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_only_the_server_starts_unasked(services: dict[str, Any]) -> None:
    """The rest belongs to a profile, and every file that it mounts is in the repository."""
    assert [name for name, service in services.items() if "profiles" not in service] == ["server"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), volume


def variables(services: dict[str, Any], **given: str) -> dict[str, str]:
    """The server's environment, image and compose file together, as compose fills it in."""
    [line] = instructions("Dockerfile", "ENV")
    image = dict(part.split("=", 1) for part in line.split())
    filled = {
        name: re.sub(r"\$\{(\w+):-(\w*)\}", lambda m: given.get(m[1], m[2]), value)
        for name, value in services["server"]["environment"].items()
    }
    return {**image, **filled}


def test_the_image_alone_refuses_to_be_open_and_compose_allows_it(services: dict[str, Any], tmp_path: Path) -> None:
    """`docker run -p` publishes to everyone, so it needs a token; compose publishes on loopback, so it does not."""
    composed = make_config(MINIMAL, origin="test", base=tmp_path, environ=variables(services))
    assert (composed.server.host, bool(read_tokens(composed))) == ("0.0.0.0", False)
    check_exposure("0.0.0.0", "0.0.0.0", Tokens({}), composed)
    guarded = make_config(MINIMAL, origin="test", base=tmp_path, environ=variables(services, OWL_TOKEN="x" * 64))
    assert read_tokens(guarded).name_of(b"x" * 64) == "trainer"
    [line] = instructions("Dockerfile", "ENV")
    alone = make_config(
        MINIMAL, origin="test", base=tmp_path, environ=dict(part.split("=", 1) for part in line.split())
    )
    assert alone.server.host == "0.0.0.0"
    assert alone.server.access.allow_anonymous is False


def test_the_image_runs_as_nobody_special_and_holds_no_torch() -> None:
    """A user is set after everything is installed, and the server's image installs the server's extra only."""
    text = (ROOT / "Dockerfile").read_text()
    assert instructions("Dockerfile", "USER") == ["owl"]
    assert "torch" not in text.replace("no torch", "")
    assert all(
        "python:3.11-slim-bookworm" in base or base.startswith("build") for base in instructions("Dockerfile", "FROM")
    )
    assert instructions("Dockerfile", "STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_says_what_health_says(tmp_path: Path) -> None:
    """The image's own command ends with 0 on a server that is well, and with 1 on a port where none is."""
    [line] = instructions("Dockerfile", "HEALTHCHECK")
    _, code, source = json.loads(line[line.index("[") :])
    assert code == "-c"
    with ServerProcess(small_dataset(tmp_path, server={"workers": 0})) as server:
        command = [sys.executable, "-c", source]
        assert subprocess.run(command, env={"OWL_HEALTH_URL": server.url + "/health"}, check=False).returncode == 0
    gone = subprocess.run(command, env={"OWL_HEALTH_URL": server.url + "/health"}, capture_output=True, check=False)
    assert gone.returncode == 1


def test_the_command_takes_the_users_configuration_before_the_demos(tmp_path: Path) -> None:
    """With /data/owl-stream.yaml that one, else the demo's; the server itself gets the signals."""
    [line] = instructions("Dockerfile", "CMD")
    shell, flag, script = json.loads(line)
    fake = tmp_path / "owl-stream"
    fake.write_text('#!/bin/sh\necho "$@ parent=$PPID"\n')
    fake.chmod(0o755)
    for name in ("data", "srv"):
        script = script.replace(f"/{name}/", f"{tmp_path}/{name}/")
    (tmp_path / "data").mkdir()

    def chosen() -> str:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run([shell, flag, script], capture_output=True, text=True, env=environment, check=True).stdout

    assert f"serve --config {tmp_path}/srv/demo/owl-stream.yaml --index-dir /index" in chosen()
    (tmp_path / "data" / "owl-stream.yaml").touch()
    assert f"serve --config {tmp_path}/data/owl-stream.yaml" in chosen()
    assert "exec owl-stream serve" in script


def test_provisioning_finds_what_is_mounted(services: dict[str, Any]) -> None:
    """Prometheus scrapes the server's name and port, Grafana's source is Prometheus, its dashboards use that source."""
    deploy = ROOT / "deploy"
    [job] = yaml.safe_load((deploy / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["server:8000"]}]
    provisioning = deploy / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "owl-stream.yml").read_text())["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    dashboard = json.loads((deploy / "grafana" / "dashboards" / "owl-stream.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].endswith("owl-stream.json")
