"""The promises of the contract that the fake does not keep, each with its reason: the one place for them.

Keys are names of conformance checks. A check that is listed here and passes all the same fails the suite.
"""

from collections.abc import Mapping
from typing import Final

_ONE_USER: Final = "commands run as the user of the test process"
_NO_NAMESPACES: Final = "commands are processes of the host, in its namespaces"
_NO_LIMITS: Final = "limits are recorded, not enforced: nothing would hold the command back from the host"

DIFFERENCES: Final[Mapping[str, str]] = {
    "the_user_of_a_command_can_be_chosen": _ONE_USER,
    "the_host_name_is_the_specs": _NO_NAMESPACES,
    "processes_of_others_are_not_seen": _NO_NAMESPACES,
    "the_hosts_devices_stay_the_hosts": _NO_NAMESPACES,
    "a_link_does_not_lead_to_the_host": _NO_NAMESPACES,
    "ports_of_others_are_not_reached": _NO_NAMESPACES,
    "orphans_are_reaped": "orphans go to the host's process 1, whose work it is",
    "process_1_cannot_be_killed_from_inside": "`kill -1` would reach every process of the host",
    "a_nested_box_can_hold_containers": _NO_NAMESPACES,
    "a_container_is_held_to_the_limits_of_its_box": _NO_LIMITS,
    "stores_are_in_snapshots": _NO_NAMESPACES,
    "lent_layers_can_be_read_and_not_changed": _NO_NAMESPACES,
    "a_memory_hog_hurts_itself": _NO_LIMITS,
    "a_fork_bomb_hurts_itself": _NO_LIMITS,
    "a_disk_filler_hurts_itself": _NO_LIMITS,
    "a_busy_box_is_held_to_its_cpus": _NO_LIMITS,
}
