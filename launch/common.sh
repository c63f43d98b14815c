# shellcheck shell=bash
# Sourced by the scripts beside it: how they read flags, print commands and say what is wrong. For bash 3.2 and later.
dry_run=""

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 2
}

# The words as one line that a shell reads back, quoted only where they must be.
quoted() {
  local word line=""
  for word in "$@"; do
    case "$word" in
      "" | *[!A-Za-z0-9_@%+=:,./-]*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

# Runs a command and says so; under --dry_run prints it, and nothing else comes to standard output.
act() {
  if [ -n "$dry_run" ]; then
    quoted "$@"
  else
    say "\$ $(quoted "$@")"
    "$@"
  fi
}

# needs PROGRAM HELP: fails where the program is not installed; a dry run needs none.
needs() {
  [ -n "$dry_run" ] || command -v "$1" > /dev/null || fail "$1: not found on PATH; $2"
}

# read_flags VALUED SWITCHES WORDS...: --name=value sets the variable `name`, --switch sets switch=yes; what follows the
# flags, after -- or not, is left in the array `rest`. --dry_run is also taken at the end of the line.
read_flags() {
  local valued=" $1 " switches=" $2 dry_run " flag
  shift 2
  rest=()
  while [ $# -gt 0 ]; do
    flag="${1%%=*}"
    flag="${flag#--}"
    case "$1" in
      --)
        shift
        break
        ;;
      --*=*)
        [[ "$valued" == *" $flag "* ]] || fail "$1: not a flag; there are$(dashed "$valued$switches")"
        [ -n "${1#*=}" ] || fail "--$flag: found nothing, expected --$flag=VALUE"
        printf -v "$flag" %s "${1#*=}"
        ;;
      --*)
        [[ "$valued" != *" $flag "* ]] || fail "--$flag: found no value, expected --$flag=VALUE"
        [[ "$switches" == *" $flag "* ]] || fail "$1: not a flag; there are$(dashed "$valued$switches")"
        printf -v "$flag" yes
        ;;
      *) break ;;
    esac
    shift
  done
  while [ $# -gt 1 ]; do
    rest+=("$1")
    shift
  done
  if [ "${1:-}" = --dry_run ]; then dry_run=yes; elif [ $# -eq 1 ]; then rest+=("$1"); fi
}

dashed() {
  local flag
  # shellcheck disable=SC2086  # words of one string, on purpose
  for flag in $1; do printf ' --%s' "$flag"; done
}
