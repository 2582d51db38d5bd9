"""`corral devbox`: the table of its verbs."""

from __future__ import annotations

from corral_sdk.cli import groups

HELP = """Make, use and end devboxes. A devbox is named by its id or by its name.

\b
Examples:
  corral devbox create --name first --size MEDIUM
  corral devbox exec first -- python3 -c 'print(6 * 7)'
  corral devbox cp notes.txt first:notes.txt
  corral devbox shutdown first
"""

VERBS = {
    "create": "corral_sdk.cli.devbox_create:create",
    "list": "corral_sdk.cli.devbox_show:list_",
    "show": "corral_sdk.cli.devbox_show:show",
    "exec": "corral_sdk.cli.devbox_exec:exec_",
    "shell": "corral_sdk.cli.devbox_shell:shell",
    "ssh": "corral_sdk.cli.devbox_ssh:ssh",
    "ssh-config": "corral_sdk.cli.devbox_ssh:ssh_config",
    "cp": "corral_sdk.cli.devbox_cp:cp",
    "suspend": "corral_sdk.cli.devbox_suspend:suspend",
    "resume": "corral_sdk.cli.devbox_suspend:resume",
    "fork": "corral_sdk.cli.devbox_fork:fork",
    "restore": "corral_sdk.cli.snapshot_remote:restore",
    "tree": "corral_sdk.cli.devbox_fork:tree",
    "logs": "corral_sdk.cli.devbox_logs:logs",
    "executions": "corral_sdk.cli.devbox_logs:executions",
    "shutdown": "corral_sdk.cli.devbox_shutdown:shutdown",
}

app = groups.make("devbox", HELP, VERBS)
