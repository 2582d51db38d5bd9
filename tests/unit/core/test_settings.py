from __future__ import annotations

from pathlib import Path

import pytest

from corral.core import errors, settings
from corral.core.settings import Durability, RuntimeName, Settings


def test_defaults_hold_when_nothing_is_set() -> None:
    assert settings.load({}) == Settings()
    assert (Settings().host, Settings().port) == ("127.0.0.1", 8700)


def test_a_flag_wins_over_the_environment() -> None:
    found = settings.load({"CORRAL_LISTEN": "0.0.0.0:1", "CORRAL_DATA": "/a"}, listen="[::1]:2", data=None)
    assert (found.host, found.port, found.data) == ("::1", 2, Path("/a"))


def test_every_kind_of_setting_is_read_from_the_environment() -> None:
    found = settings.load(
        {
            "CORRAL_RUNTIME": "fake",
            "CORRAL_HOST_SERVICES": "80, 443",
            "CORRAL_DURABILITY": "crash",
            "CORRAL_RESYNC_S": "0.5",
            "CORRAL_STORE_READERS": "3",
            "CORRAL_GUEST": "/opt/guest",
            "CORRAL_API_KEY": "ak_given",
        }
    )
    assert found.runtime is RuntimeName.FAKE
    assert found.host_services == (80, 443)
    assert found.durability is Durability.CRASH
    assert (found.resync_s, found.store_readers, found.guest) == (0.5, 3, Path("/opt/guest"))
    assert found.api_key == "ak_given"


def test_a_variable_that_is_empty_counts_as_not_set() -> None:
    assert settings.load({"CORRAL_API_KEY": "", "CORRAL_DATA": ""}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CORRAL_LISTEN", "8700", "is not HOST:PORT"),
        ("CORRAL_LISTEN", "x:99999", "is not HOST:PORT"),
        ("CORRAL_RUNTIME", "docker", "is none of oci, fake"),
        ("CORRAL_HOST_SERVICES", "80,x", "host_services"),
        ("CORRAL_HOST_SERVICES", "70000", "is not a list of TCP ports"),
        ("CORRAL_RESYNC_S", "-1", "is not more than 0"),
        ("CORRAL_STORE_READERS", "many", "store_readers"),
    ],
)
def test_a_bad_value_names_its_setting(variable: str, value: str, said: str) -> None:
    with pytest.raises(errors.Invalid, match="cannot read setting") as caught:
        settings.load({variable: value})
    assert said in caught.value.message


def test_the_key_is_not_in_the_text_of_the_settings() -> None:
    assert "ak_secret" not in repr(settings.load({"CORRAL_API_KEY": "ak_secret"}))


def test_every_setting_has_its_variable_flag_and_sentence() -> None:
    about = {one.name: one for one in settings.catalogue()}
    assert about["data"].variable == "CORRAL_DATA"
    assert about["oci_runtime"].flag == "--oci-runtime"
    assert all(one.sentence.endswith(".") for one in about.values())
