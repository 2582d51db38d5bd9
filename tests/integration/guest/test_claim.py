"""Claiming: names, users, files in /etc."""

from __future__ import annotations

import pytest

from corral.runtime.contract import BoxUnresponsive, User
from tests.integration.guest.box import Box


async def test_a_claim_writes_the_files_that_name_the_box(box: Box) -> None:
    assert not (await box.client.hello()).claimed
    await box.sh("ln -s /run/elsewhere /etc/resolv.conf; echo a very long line of hosts > /etc/hosts")
    await box.client.claim(hostname="box-1", hosts="127.0.0.1 localhost box-1\n", resolv_conf="nameserver 10.0.0.1\n")
    assert (await box.client.hello()).claimed
    done = await box.sh("cat /etc/hostname /etc/hosts /etc/resolv.conf; test -L /etc/resolv.conf || echo file")
    assert done.stdout.decode().splitlines() == [
        "box-1",
        "127.0.0.1 localhost box-1",
        "nameserver 10.0.0.1",
        "file",
    ]


async def test_a_missing_user_is_made_with_a_home_and_becomes_the_default(box: Box) -> None:
    await box.sh("printf 'odd:x:77:77::/:/bin/sh' >> /etc/passwd")
    await box.client.claim(user=User(name="agent", uid=5000, gid=5001, home="/home/deep/agent"))
    done = await box.sh("id -un; id -u; id -gn; id -g; pwd; stat -c '%U:%G %a' . ..; tail -2 /etc/passwd")
    assert done.stdout.decode().splitlines() == [
        "agent",
        "5000",
        "agent",
        "5001",
        "/home/deep/agent",
        "agent:agent 755",
        "root:root 755",
        "odd:x:77:77::/:/bin/sh",
        "agent:*:5000:5001::/home/deep/agent:/bin/bash",
    ]


async def test_a_user_that_is_made_becomes_root_where_the_image_has_sudo(box: Box) -> None:
    await box.sh("mkdir -p /etc/sudoers.d")
    await box.client.claim(user=User(name="agent", uid=5000, gid=5000, home="/home/agent"))
    assert (await box.sh("stat -c '%U %a' /etc/sudoers.d/corral-agent", user="root")).stdout == b"root 440\n"
    assert (await box.sh("cat /etc/sudoers.d/corral-agent", user="root")).stdout == b"agent ALL=(ALL) NOPASSWD:ALL\n"


async def test_no_user_becomes_root_by_a_link_or_without_sudo(box: Box) -> None:
    await box.sh("mkdir -p /etc/sudoers.d; touch /etc/other; ln -s /etc/other /etc/sudoers.d/corral-agent")
    await box.client.claim(user=User(name="agent", uid=5000, gid=5000, home="/home/agent"))
    assert (await box.sh("stat -c '%F %s' /etc/other", user="root")).stdout == b"regular empty file 0\n"
    await box.sh("rm -r /etc/sudoers.d; ln -s /etc /etc/sudoers.d", user="root")
    await box.client.claim(user=User(name="other", uid=5001, gid=5001, home="/home/other"))
    assert (await box.sh("ls /etc | grep corral", user="root")).stdout == b""


async def test_login_shells_have_the_path_that_was_given(box: Box) -> None:
    path = "/opt/it's here:/usr/bin:/bin"
    await box.sh(
        "mkdir -p /etc/profile.d; "
        "echo 'PATH=/nowhere:/bin; for i in /etc/profile.d/*.sh; do . $i; done' > /etc/profile"
    )
    await box.client.claim(env={"PATH": path})
    assert (await box.run("/bin/bash", "-l", "-c", 'echo "$PATH"')).stdout.decode() == f"{path}\n"


async def test_a_profile_that_keeps_the_path_is_left_alone(box: Box) -> None:
    await box.sh("""mkdir -p /etc/profile.d; echo ': "${PATH:=/bin}"' > /etc/profile""")
    await box.client.claim(env={"PATH": "/usr/bin:/bin"})
    assert (await box.sh("ls /etc/profile.d | grep corral")).stdout == b""


async def test_claiming_again_changes_what_is_given_and_doubles_nothing(box: Box) -> None:
    await box.client.claim(env={"A": "1"}, user=User(), hostname="first")
    before = (await box.sh("cat /etc/passwd /etc/group", user="root")).stdout
    await box.client.claim(env={"B": "2"})
    await box.client.claim(user=User())
    done = await box.sh('echo "$A-$B"; id -un; cat /etc/hostname')
    assert done.stdout == b"-2\nuser\nfirst\n"
    assert (await box.sh("cat /etc/passwd /etc/group", user="root")).stdout == before


async def test_the_claimed_user_works_in_a_box_that_has_lost_its_files(box: Box) -> None:
    await box.client.claim(user=User(name="agent", uid=5000, gid=5000, home="/home/agent"))
    await box.sh("rm -rf /etc/passwd /etc/group /home/agent", user="root")
    done = await box.sh("id -u; echo $HOME; pwd")
    assert done.stdout == b"5000\n/home/agent\n/\n"


async def test_a_fifo_in_place_of_passwd_hangs_nothing(box: Box) -> None:
    await box.sh("rm /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group")
    assert (await box.sh("id -u")).stdout == b"0\n"


@pytest.mark.parametrize("name", ["a b", "", "x" * 65, "ü"])
async def test_a_name_that_is_none_is_refused_and_nothing_changes(box: Box, name: str) -> None:
    before = (await box.sh("cat /etc/hostname")).stdout
    with pytest.raises(BoxUnresponsive, match="not a host name"):
        await box.client.claim(hostname=name, env={"A": "1"})
    done = await box.sh("cat /etc/hostname; echo $A")
    assert done.stdout == before + b"\n"


async def test_a_box_is_claimed_on_whatever_tree_it_was_left_with(box: Box) -> None:
    await box.sh("rm -rf /etc/hostname /etc/passwd /home; mkfifo /etc/passwd; ln -s /none /home; mkdir /etc/hostname")
    with pytest.raises(BoxUnresponsive, match="cannot write a file"):
        await box.client.claim(hostname="box-1", user=User())
    with pytest.raises(BoxUnresponsive, match="cannot make the user"):
        await box.client.claim(user=User())
    await box.client.claim(hostname="box-1", user=User(), env={"A": "1"}, used=True)
    done = await box.sh("id -u; echo $A; pwd")
    assert done.stdout == b"1000\n1\n/\n"
