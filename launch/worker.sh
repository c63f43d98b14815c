#!/usr/bin/env bash
# What the TPU scripts do on each worker, a Linux VM: unpack | install | start COMMAND... | follow | state | stop
# A run is detached: it outlives the connection that started it. Its log, pid and exit code lie in ~/rag_jax_run.
set -euo pipefail
code="$HOME/rag_jax" run="$HOME/rag_jax_run"

fail() {
  echo "error: $(hostname): $*" >&2
  exit 2
}

alive() { [ ! -f "$run/exit_code" ] && [ -f "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2> /dev/null; }

# Replaces the files of the last push by those of this one; environments, runs and data stay.
unpack() {
  ! alive || fail "a run is going on, so its code stays; follow it, or stop it and push again"
  mkdir -p "$code"
  cd "$code"
  [ ! -f .pushed ] || sed '/\/$/d' .pushed | xargs -d '\n' rm -f --
  tar -tzf "$HOME/rag_jax.tar.gz" > .pushed.new
  mv .pushed.new .pushed
  tar -xzf "$HOME/rag_jax.tar.gz"
  exec bash launch/worker.sh install
}

# Prints an interpreter that rag_jax runs on; the images for v2 to v6e (Ubuntu 22.04) bring 3.10, and there uv fetches one.
interpreter() {
  local python found
  for python in python3.13 python3.12 python3.11 python3; do
    if supported "$python"; then
      command -v "$python"
      return
    fi
  done
  found="$(python3 --version 2>&1)" || found="no Python"
  echo "$(hostname): found $found, expected 3.11 to 3.13 with venv; fetching 3.12 with uv" >&2
  { PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv &&
    python3 -m uv python install --quiet 3.12 && python3 -m uv python find --managed-python 3.12; } ||
    fail "uv could not fetch Python 3.12; install it (sudo apt-get install python3.11 python3.11-venv) and push again"
}

install() {
  cd "$(dirname "$0")/.."
  . launch/environment.sh
  PYTHON="$(interpreter)"
  export PYTHON
  environment tpu ".[tpu,gcs,bm25]"
}

start() {
  [ $# -gt 0 ] || fail "start: found no command"
  if alive; then
    [ "$(cat "$run/command")" = "$*" ] || fail "another run is going on ($(cat "$run/command")); follow it, or stop it"
    return
  fi
  [ -f "$code/.venv-tpu/bin/activate" ] || fail "nothing is installed here; push first"
  cd "$code"
  # shellcheck source=/dev/null
  . .venv-tpu/bin/activate
  mkdir -p "$run"
  rm -f "$run/exit_code" "$run/stopped"
  [ ! -f "$run/log" ] || mv -f "$run/log" "$run/log.previous"
  echo "$*" > "$run/command"
  # The trap keeps the shell until the command has ended on the TERM that stop sends to both.
  # shellcheck disable=SC2016  # the inner shell's own words
  PYTHONUNBUFFERED=1 nohup setsid bash -c 'trap : TERM; run="$1"; shift; "$@"; echo "$?" > "$run/exit_code.new"
    mv "$run/exit_code.new" "$run/exit_code"' rag_jax "$run" "$@" > "$run/log" 2>&1 < /dev/null &
  echo "$!" > "$run/pid"
}

# The end of the log, and what is added to it until the run ends.
follow() {
  [ -f "$run/pid" ] || fail "nothing was run here"
  while alive; do sleep 1; done &
  tail -n 100 -s 0.2 -f --pid="$!" "$run/log"
}

# running; stopped, on purpose; exit N; lost, where the machine went down under the run; or none.
state() {
  if alive; then
    echo running
  elif [ -f "$run/stopped" ]; then
    echo stopped
  elif [ -f "$run/exit_code" ]; then
    echo "exit $(cat "$run/exit_code")"
  elif [ -f "$run/pid" ]; then
    echo lost
  else
    echo none
  fi
}

# Ends the run: a minute to end by itself, then by force. for_good: whoever watches it is not to start it again.
stop() {
  local second
  alive || return 0
  [ "${1:-}" != for_good ] || touch "$run/stopped"
  kill -TERM -- "-$(cat "$run/pid")"
  for second in {1..60}; do
    alive || return 0
    sleep 1
  done
  echo "$(hostname): not ended after $second seconds: killed" >&2
  kill -KILL -- "-$(cat "$run/pid")"
  echo 137 > "$run/exit_code"
}

case "${1:-}" in
  unpack | install | start | follow | state | stop) "$@" ;;
  *) fail "found '${1:-}', expected unpack, install, start, follow, state or stop" ;;
esac
