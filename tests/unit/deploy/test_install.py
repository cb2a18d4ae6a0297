"""Installing what is missing: what is run, in which order, and what is said where nothing can be run."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local.install import (
    CannotInstall,
    advice,
    apt_install,
    missing_extras,
    privileges,
    services_stay_off,
    system_family,
)
from deploy.local.programs import MissingPrograms, find_programs

BOOKWORM = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n'
MINT = 'ID=linuxmint\nID_LIKE="ubuntu debian"\n'
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\n'


class Recorder:
    """Notes commands instead of running them; those that contain a word of ``failing`` exit with 100."""

    def __init__(self, *failing: str) -> None:
        self.commands: list[str] = []
        self._failing = failing

    def __call__(self, command: Sequence[str]) -> int:
        line = " ".join(command)
        self.commands.append(line)
        return 100 if any(word in line for word in self._failing) else 0

    def position(self, text: str) -> int:
        return next(number for number, line in enumerate(self.commands) if text in line)


@pytest.mark.parametrize(
    ("system", "release", "family"),
    [
        ("Linux", BOOKWORM, "debian"),
        ("Linux", MINT, "debian"),
        ("Linux", ROCKY, "fedora"),
        ("Linux", "ID=nixos\n", "other"),
        ("Linux", "", "other"),
        ("Darwin", "", "darwin"),
    ],
)
def test_the_system_is_recognised(system: str, release: str, family: str) -> None:
    assert system_family(system, release) == family


@pytest.mark.parametrize(
    ("family", "command"),
    [
        ("debian", "sudo apt-get install rabbitmq-server redis-server"),
        ("fedora", "sudo dnf install rabbitmq-server redis"),
        ("darwin", "brew install rabbitmq redis"),
        ("other", "brew install rabbitmq redis"),
    ],
)
def test_one_message_says_what_to_do_on_this_system(family: str, command: str) -> None:
    message = advice(["rabbitmq-server", "redis-server"], family)
    assert command in message
    assert "RABBITMQ_URL and REDIS_URL" in message


def test_lists_are_updated_before_and_services_disabled_after_the_install() -> None:
    run = Recorder()
    apt_install(["rabbitmq-server", "redis-server"], ["sudo", "-n"], run)
    update, install = (
        run.position("update"),
        run.position("install --no-install-recommends rabbitmq-server redis-server"),
    )
    assert update < install
    assert "DEBIAN_FRONTEND=noninteractive" in run.commands[install]
    assert all(line.startswith("sudo -n ") for line in run.commands)
    assert all(number > install for number, line in enumerate(run.commands) if "disable" in line)


def test_a_failed_install_is_said_with_its_code() -> None:
    with pytest.raises(CannotInstall, match="redis-server failed with code 100"):
        apt_install(["redis-server"], [], Recorder("install"))


def test_broken_lists_do_not_stop_an_install_that_works() -> None:
    apt_install(["redis-server"], [], Recorder("update"))


def test_the_policy_that_keeps_services_off_is_removed_again(tmp_path: Path) -> None:
    run = Recorder()
    policy = tmp_path / "policy-rc.d"
    with services_stay_off([], run, policy):
        assert "exit 101" in run.commands[-1]
    assert run.commands[-1] == f"rm -f {policy}"


def test_a_policy_of_the_machine_is_left_as_it_is(tmp_path: Path) -> None:
    run = Recorder()
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    with services_stay_off([], run, policy):
        pass
    assert run.commands == []
    assert policy.exists()


def test_root_needs_no_sudo_and_others_need_one_that_asks_nothing() -> None:
    assert privileges(Recorder(), 0) == []
    assert privileges(Recorder(), 1000, lambda _: "/usr/bin/sudo") == ["sudo", "-n"]
    assert privileges(Recorder("sudo"), 1000, lambda _: "/usr/bin/sudo") is None
    assert privileges(Recorder(), 1000, lambda _: None) is None


def test_extras_are_installed_where_asked_for_and_missing() -> None:
    assert missing_extras(["prometheus"], lambda _: None) == ["prometheus"]
    assert missing_extras(["prometheus"], lambda name: f"/usr/bin/{name}") == []
    assert missing_extras([], lambda _: None) == []


def test_the_service_of_an_extra_is_not_left_running() -> None:
    run = Recorder()
    apt_install(["prometheus"], [], run)
    install = run.position("install --no-install-recommends prometheus")
    assert any("disable" in line and "prometheus" in line for line in run.commands[install + 1 :]) or not (
        shutil.which("systemctl") or shutil.which("update-rc.d")
    )


def test_missing_programs_are_all_named() -> None:
    with pytest.raises(MissingPrograms) as raised:
        find_programs(lambda _: None, folders_of_the_system=False)
    assert raised.value.missing == ("rabbitmq-server", "epmd", "redis-server")


def test_programs_in_the_path_are_found(tmp_path: Path) -> None:
    for name in ("rabbitmq-server", "epmd", "redis-server"):
        (tmp_path / name).touch()
    found = find_programs(lambda name: str(tmp_path / name), folders_of_the_system=False)
    assert found.rabbitmq_server == tmp_path / "rabbitmq-server"
