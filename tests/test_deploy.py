"""The files of deploy/ and the composition: they parse, and what they name exists. There is no Docker engine here: that
the containers run is not tested, but their commands are ours and are."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Command
from typer.main import get_command

import celeryconfig
from cli.main import app
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
COMPOSITION = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSITION["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image", "").startswith("paymaster:")}


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_every_queue_has_a_worker_and_there_is_one_beat() -> None:
    commands = {name: service["command"] for name, service in OURS.items()}
    consumed = [queue for name, words in commands.items() if "worker" in words
                for queue in words[words.index("-Q") + 1].split(",")]  # fmt: skip
    assert sorted(consumed) == sorted(queue.name for queue in celeryconfig.task_queues)
    assert sum("beat" in words for words in commands.values()) == 1


def test_maintenance_shares_its_worker_with_no_jobs() -> None:
    """They would take all its threads, and the sweeper would wait until a call has ended."""
    workers = [service["command"] for service in OURS.values() if "worker" in service["command"]]
    queues = [words[words.index("-Q") + 1].split(",") for words in workers]
    assert ["maintenance"] in queues
    by_hand = re.findall(r"celery -A worker.app worker -Q (\S+)", (ROOT / "README.md").read_text())
    assert "maintenance" in by_hand and sorted(",".join(by_hand).split(",")) == sorted(
        queue.name for queue in celeryconfig.task_queues
    )


def test_workers_get_more_time_to_stop_than_the_longest_call_takes() -> None:
    for name, service in OURS.items():
        if name.startswith("worker-"):
            given = seconds(service["stop_grace_period"])
            shutdown = int(re.findall(r"\d+", service["environment"]["WORKER_SHUTDOWN_S"])[-1])
            assert given > shutdown > WorkerSettings.model_fields["llm_call_deadline_s"].default


def test_images_are_pinned_and_secrets_are_files() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name
        assert set(service.get("secrets", [])) <= set(COMPOSITION["secrets"])
        for variable, value in service.get("environment", {}).items():
            secret = variable.endswith(("PASSWORD", "_KEY", "_AUTH", "TOKEN"))
            assert not secret, (name, variable, value)
    assert not any("ports" in SERVICES[name] for name in ("redis", "postgres"))
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert all(secret["file"].startswith("deploy/secrets/") for secret in COMPOSITION["secrets"].values())
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_command_of_ours_exists_with_its_options() -> None:
    known: Any = get_command(app)
    for name, service in OURS.items():
        words = service["command"]
        if words[0] != "paymaster":
            continue
        command: Command = known.commands[words[1]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= options, name


def test_files_that_are_mounted_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSITION["volumes"]
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/paymaster.yml").read_text())["providers"][
        0
    ]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in SERVICES["grafana"]["volumes"])


def test_prometheus_scrapes_services_that_exist_and_grafana_asks_it() -> None:
    scrape = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    targets = {target.split(":")[0] for job in scrape for config in job.get("static_configs", [])
               for target in config["targets"]}  # fmt: skip
    names = {name for job in scrape for config in job.get("dns_sd_configs", []) for name in config["names"]}
    assert targets | names == {"api", *(name for name in OURS if name.startswith("worker-"))}
    assert targets | names <= set(SERVICES)
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    uid = source["datasources"][0]["uid"]
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/paymaster.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"} == {uid}


def test_the_secrets_are_made_once_and_are_those_that_are_wanted(tmp_path: Path) -> None:
    shutil.copy(ROOT / "deploy/secrets.sh", tmp_path)

    def make() -> dict[str, str]:
        subprocess.run(["sh", str(tmp_path / "secrets.sh")], check=True, env={**os.environ, "OPENAI_API_KEY": "sk-1"})
        return {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}

    made = make()
    assert set(made) == set(COMPOSITION["secrets"])
    assert make() == made
    assert made["openai_api_key"] == "sk-1" and len(made["redis_password"]) == 48
    assert made["api_tokens"].split(":")[2].strip() == hashlib.sha256(made["metrics_token"].encode()).hexdigest()
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_entrypoint_turns_files_into_variables(tmp_path: Path, shell: str) -> None:
    text = (ROOT / "deploy/entrypoint.sh").read_text().replace("/run/secrets/", f"{tmp_path}/")
    script = tmp_path / "entrypoint"
    script.write_text(text)
    for name, value in {"redis": "r&\\1w$x", "postgres": "p w", "flower": "f", "key": "sk-1", "empty": ""}.items():
        (tmp_path / name).write_text(value)
    told = subprocess.run(
        [shell, str(script), "env"],
        env={
            "PATH": os.environ["PATH"],
            "REDIS_URL": "redis://default:{REDIS_PASSWORD}@redis:6379/0",
            "DATABASE_URL": "postgresql://paymaster:{POSTGRES_PASSWORD}@postgres/paymaster",
            "REDIS_PASSWORD_FILE": f"{tmp_path}/redis",
            "POSTGRES_PASSWORD_FILE": f"{tmp_path}/postgres",
            "FLOWER_PASSWORD_FILE": f"{tmp_path}/flower",
            "OPENAI_API_KEY_FILE": f"{tmp_path}/key",
            "ANTHROPIC_API_KEY_FILE": f"{tmp_path}/empty",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)
    assert found["REDIS_URL"] == "redis://default:r&\\1w$x@redis:6379/0"
    assert found["DATABASE_URL"] == "postgresql://paymaster:p w@postgres/paymaster"
    assert found["FLOWER_BASIC_AUTH"] == "paymaster:f"
    assert found["OPENAI_API_KEY"] == "sk-1"
    assert "ANTHROPIC_API_KEY" not in found
    assert not any(name.endswith(("_FILE", "_PASSWORD")) for name in found)
