"""How a command text becomes an argument vector, and how a named shell keeps its directory and environment.

Owns the bash program that restores and saves the state of a named shell, in a file in the box. Pure: starts nothing.
"""

from __future__ import annotations

import hashlib
from typing import Final

# What a named shell's command is wrapped in. $1 is the state file, $2 the command.
#
# - The state is saved by an EXIT trap, so `exit`, `set -e` and a syntax error keep it. `trap` is wrapped because a
#   command that sets its own EXIT trap would replace ours; its handler then runs after the state is saved. In a
#   subshell the wrapper steps aside: traps of subshells are their own.
# - Saving first undoes options that would break it (-e, -u, -x, -C, -f, posix); the shell ends there anyway.
# - The file is written beside and renamed, so that a kill in between leaves the old state.
# - `command -p` finds mv and mkdir when the command has broken PATH.
# - The environment is restored to exactly what it was: what the login files export anew goes first.
# - A variable that cannot be set again (readonly) is left as the login files made it.
_PROGRAM: Final = r"""
__corral_state=$1 __corral_command=$2 __corral_exit='' __corral_level=$BASH_SUBSHELL
set --
__corral_save() {
  { local __corral_code=$? __corral_options=$-; builtin set +x; } 2>/dev/null
  builtin trap - EXIT
  if [ "$BASH_SUBSHELL" -eq "$__corral_level" ]; then
    {
      local __corral_directory=$PWD
      builtin set +euxCf +o posix
      builtin unset -f trap
      {
        builtin declare -px
        builtin printf 'builtin cd -- %q\n' "$__corral_directory"
      } >| "$__corral_state.$$" && command -p mv -f -- "$__corral_state.$$" "$__corral_state"
    } 2>/dev/null
    case $__corral_options in *e*) builtin set -e ;; esac
  fi
  if [ -n "$__corral_exit" ]; then
    (builtin exit "$__corral_code")
    builtin eval "$__corral_exit"
  fi
  builtin exit "$__corral_code"
}
trap() {
  if [ "$BASH_SUBSHELL" -ne "$__corral_level" ] || [ $# -lt 2 ] || [ "$1" = -p ] || [ "$1" = -l ]; then
    builtin trap "$@"
    return
  fi
  [ "$1" = -- ] && builtin shift
  local __corral_handler=$1 __corral_signal
  builtin shift
  for __corral_signal; do
    case $__corral_signal in
      EXIT | exit | 0)
        if [ "$__corral_handler" = - ]; then __corral_exit=''; else __corral_exit=$__corral_handler; fi ;;
      *) builtin trap -- "$__corral_handler" "$__corral_signal" || return ;;
    esac
  done
}
if [ -r "$__corral_state" ]; then
  for __corral_name in $(builtin compgen -e); do builtin unset -v "$__corral_name" 2>/dev/null; done
  builtin unset -v __corral_name
  . "$__corral_state" 2>/dev/null
else
  command -p mkdir -p -m 1777 -- "${__corral_state%/*}"
fi
builtin trap __corral_save EXIT
builtin eval "$__corral_command"
"""

#: Not in the home: a directory that appears there would surprise `git status` and file counts of an agent.
_FOLDER: Final = "/tmp/.corral-shells"  # noqa: S108 - a path in the box; its user owns the state anyway


def argv(command: str, shell_name: str | None, user: str | None) -> tuple[str, ...]:
    """The argument vector that runs `command` in a fresh login shell, with the state of `shell_name` if given."""
    if shell_name is None:
        return ("bash", "-l", "-c", command)
    return ("bash", "-l", "-c", _PROGRAM, "bash", state_file(shell_name, user), command)


def state_file(shell_name: str, user: str | None) -> str:
    """Where in the box the state of a named shell is kept. Two users do not share one: the file holds secrets."""
    digest = hashlib.sha256(f"{user or ''}\0{shell_name}".encode()).hexdigest()[:32]
    return f"{_FOLDER}/{digest}"
