#!/usr/bin/env bash
# A Cloud TPU from this machine, with one worker (tpu_pod.sh: with several):
#   bash launch/tpu_vm.sh create|push|run|follow|stop|delete --name=N --zone=Z --project=P [flags] [-- COMMAND]
# create   the TPU, unless it is there: --type=v5litepod-8 [--spot] [--queued] [--runtime=VERSION]
# push     the code of HEAD, by git archive, and install it
# run      COMMAND, detached, and follow it until it ends; its exit code is ours.
#          --until_done  create and push first, and after a preemption or a crash all of it again, until the command
#                        ends with 0, or with 2: a mistake, which another try would repeat
#          --delete      the TPU at the end, whatever the end was, Ctrl-C included, but none with another run on it and
#                        none that somebody stopped
# follow   the log of what runs (of another worker with --worker=1, or all)
# stop     what runs, for good
# delete   the TPU
# --tries=20 bounds how often a TPU is asked for and a run started again; --wait=30 seconds lie between.
# --dry_run prints every command and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
name="" zone="" project="" type="" runtime="" worker=0 tries=20 wait=30 spot="" queued="" until_done="" delete=""
team="${RAG_JAX_TEAM:-}" state="" created="" pushed="" outcome="" partly="" spared=""
me=launch/tpu_vm.sh
[ -z "$team" ] || me=launch/tpu_pod.sh

tpus() { act gcloud compute tpus "$@" --zone="$zone" --project="$project"; }

# on WORKERS COMMAND: over ssh, which notices within two minutes that the other end has vanished.
on() {
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2" --ssh-flag=-oServerAliveInterval=30 \
    --ssh-flag=-oServerAliveCountMax=4 --quiet < /dev/null
}

at_worker() { on "$1" "bash rag_jax/launch/worker.sh $2"; }

# ask WHAT FIELD: sets state to a field of the TPU or of its request; ABSENT or UNKNOWN where there is none to read.
ask() {
  local answer
  set -- tpus "$1" describe "$name" --format="value($2)"
  if [ -n "$dry_run" ]; then
    "$@"
    state="${created:+READY}"
    state="${state:-ABSENT}"
  elif answer="$("$@" 2>&1)"; then
    state="$(printf '%s\n' "$answer" | grep -xE '[A-Z_]+' | tail -n 1)" || state=UNKNOWN
  elif [[ "$answer" == *NOT_FOUND* ]]; then
    state=ABSENT
  else
    say "$answer"
    state=UNKNOWN
  fi
}

# Sets state: READY; ABSENT; WAITING, to come or to be gone; LOST, as by a preemption; UNKNOWN; or what gcloud says.
look() {
  state=ACTIVE spared=""
  [ -z "$queued" ] || ask queued-resources state.state
  case "$state" in
    ACTIVE | READY)
      ask tpu-vm state
      if [ -n "$queued" ] && [ "$state" = ABSENT ] && [ -z "$dry_run" ]; then state=LOST; fi
      ;;
  esac
  case "$state" in
    ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) state=WAITING ;;
    CREATING | STARTING | RESTARTING | REPAIRING | DELETING) state=WAITING ;;
    PREEMPTED | TERMINATED | FAILED | SUSPENDING | SUSPENDED) state=LOST ;;
    READY | ABSENT | LOST | UNKNOWN) ;;
    *) spared=yes ;;  # as one that somebody stopped, which is his to delete
  esac
}

request() {
  if [ -n "$queued" ]; then
    set -- queued-resources create "$name" --node-id="$name" --runtime-version="$runtime"
  else
    set -- tpu-vm create "$name" --version="$runtime"
  fi
  [ -z "$spot" ] || set -- "$@" --spot
  tpus "$@" --accelerator-type="$type"
}

remove() {
  if [ -n "$queued" ]; then
    tpus queued-resources delete "$name" --force --quiet
  else
    tpus tpu-vm delete "$name" --quiet
  fi
}

create() {
  local try=1
  created=""
  while look && [ "$state" != READY ]; do
    case "$state" in
      WAITING) say "$name: waits for its TPU" ;;
      ABSENT)
        if request; then
          created=yes pushed=""
          continue
        fi
        say "$name: not created, try $try of $tries"
        ;;
      LOST)
        say "$name: preempted or failed, made anew"
        remove && continue
        ;;
      UNKNOWN) ;;
      *) fail "$name: found $state, expected a TPU that is ready, or none; start or delete it yourself" ;;
    esac
    [ "$state" = WAITING ] || try=$((try + 1))
    if [ "$try" -gt "$tries" ]; then
      say "error: $name: no TPU after --tries=$tries; another zone or type may have one"
      exit 1
    fi
    sleep "$wait"
  done
}

# The commit that is HEAD now: a later try sends the same.
archive() {
  act mkdir -p build
  act git archive --format=tar.gz --output="build/$name.tar.gz" HEAD
}

push() {
  tpus tpu-vm scp "build/$name.tar.gz" "$name:rag_jax.tar.gz" --worker=all --quiet < /dev/null &&
    on all "set -o pipefail; tar -xzOf rag_jax.tar.gz launch/worker.sh | bash -s unpack" && pushed=yes
}

# Sets outcome to what the workers say together: running, stopped, an exit code (2 before others, 0 last), none,
# unreachable; and partly, where some run and others do not.
inquire() {
  local answer codes
  partly=""
  if [ -n "$dry_run" ]; then
    at_worker all state
    outcome=0
    return
  fi
  answer="$(at_worker all state)" || { outcome=unreachable; return 0; }
  codes="$(printf '%s\n' "$answer" | sed -n 's/^exit //p' | sort -n)"
  if printf '%s\n' "$answer" | grep -qx running; then
    outcome=running
    if printf '%s\n' "$answer" | grep -qxE 'stopped|lost|none|exit .*'; then partly=yes; fi
  elif printf '%s\n' "$answer" | grep -qx stopped; then
    outcome=stopped
  elif printf '%s\n' "$answer" | grep -qxE 'lost|none' || [ -z "$codes" ]; then
    outcome=none
  elif printf '%s\n' "$codes" | grep -qx 2; then
    outcome=2
  else
    outcome="$(printf '%s\n' "$codes" | tail -n 1)"
  fi
}

# Shows the log until the run has ended on every worker, or the TPU has; sets outcome.
watch() {
  local silent=0 late=0
  while :; do
    # Worker 0 may end before the others; one that does not follow within a few minutes never will.
    if at_worker "$worker" follow; then late=$((late + 1)); fi
    inquire
    case "$outcome" in
      running)
        silent=0
        [ "$late" -le 10 ] || at_worker all stop || true
        ;;
      unreachable)
        look
        [ "$state" = READY ] || [ "$state" = UNKNOWN ] || return 0
        silent=$((silent + 1))
        [ "$silent" -le "$tries" ] || return 0
        ;;
      *) return 0 ;;
    esac
    sleep "$wait"
  done
}

# One go at the command; sets outcome.
go() {
  local status=0
  outcome=""
  if [ -n "$until_done" ]; then
    create
    [ -n "$created$pushed" ] || inquire
    [ "$outcome" = running ] || [ -n "$pushed" ] || push || status=$?
  fi
  [ "$status" -ne 0 ] || at_worker all "start $(quoted "${rest[@]}")" || status=$?
  if [ "$status" -eq 0 ]; then
    watch
  else
    inquire
    if [ "$status" -eq 2 ]; then
      # It may be that another run is going on, on a TPU that is not ours alone.
      case "$created$outcome" in running | unreachable) spared=yes ;; esac
      exit 2
    fi
    # A connection that was lost has ended nothing; but what is left of a pod's run would wait for the others.
    [ -z "$partly" ] || at_worker all stop || true
    look
    outcome=unreachable
  fi
}

run() {
  local try=1
  while :; do
    go
    case "$outcome" in
      0)
        [ -n "$dry_run" ] || say "$name: done"
        return
        ;;
      2)
        say "error: $name: the command ended with 2, a mistake in it or its files (see above); not tried again"
        exit 2
        ;;
      stopped)
        say "$name: stopped"
        exit 143
        ;;
      none | unreachable) say "$name: the run was lost; the TPU is ${state:-READY}" ;;
      *) say "$name: the command ended with $outcome" ;;
    esac
    if [ -z "$until_done" ] || [ "$try" -ge "$tries" ]; then
      say "error: $name: not done; the same command goes on where this one stopped; --until_done gives it by itself"
      case "$outcome" in none | unreachable) exit 1 ;; *) exit "$outcome" ;; esac
    fi
    say "$name: goes on, try $((try += 1)) of $tries"
    sleep "$wait"
  done
}

deletion() { echo "bash $me delete $(quoted --name="$name" --zone="$zone" --project="$project")${queued:+ --queued}"; }

# At the end of `run`: what costs money is deleted, or named.
leave() {
  local status=$?
  trap '' INT TERM
  if [ -n "$delete" ] && [ -z "$spared" ]; then
    if ! remove; then
      look
      [ "$state" = ABSENT ] || say "error: $name: NOT deleted, and costs money; delete it with: $(deletion)"
    fi
  elif [ -z "$dry_run" ] && [ "$state" != ABSENT ]; then
    say "$name: stays, and costs money; delete it with: $(deletion)"
  fi
  exit "$status"
}

check() {
  local flag
  for flag in name zone project; do
    [ -n "${!flag}" ] || fail "--$flag: missing, expected all of --name=rag --zone=us-west4-a --project=my-project"
  done
  [[ "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail "--name: found '$name', expected small letters, digits and -, as rag-1"
  [[ "$tries" =~ ^[1-9][0-9]*$ ]] || fail "--tries: found '$tries', expected a number from 1"
  [[ "$wait" =~ ^[0-9]+$ ]] || fail "--wait: found '$wait', expected seconds"
  needs gcloud "install it from https://cloud.google.com/sdk/docs/install, then: gcloud auth login"
}

check_type() {
  [ -n "$type" ] || fail "--type: missing, expected an accelerator type, as --type=v5litepod-8 or v6e-8"
  [[ "$type" =~ ^[a-z0-9]+-[1-9][0-9]*$ ]] || fail "--type: found '$type', expected a TPU and its size, as v6e-8"
  [ -n "$team" ] || [ "${type##*-}" -le 8 ] || fail "--type: a $type has several workers; use launch/tpu_pod.sh"
  case "$type" in  # https://cloud.google.com/tpu/docs/runtimes
    v6e-*) runtime="${runtime:-v2-alpha-tpuv6e}" ;;
    v5p-*) runtime="${runtime:-v2-alpha-tpuv5}" ;;
    v5litepod-*) runtime="${runtime:-v2-alpha-tpuv5-lite}" ;;
    v[234]-*) runtime="${runtime:-tpu-ubuntu2204-base}" ;;
    *) [ -n "$runtime" ] || fail "--runtime: missing, expected the software version for a $type" ;;
  esac
}

check_code() {
  [ -z "$dry_run" ] || return 0
  git rev-parse --quiet --verify HEAD > /dev/null || fail "found no commit in $PWD; what is committed is pushed"
  [ -z "$(git status --porcelain)" ] || say "note: what is not committed is not pushed"
}

# On a pod the processes of one of our commands find each other by themselves.
join() {
  [ "${#rest[@]}" -gt 0 ] || fail "run: found no command, expected -- and one, as -- python -m rag_jax.train --config=nq"
  if [ -n "$team" ] && [[ "${rest[*]}" == *rag_jax.* && "${rest[*]}" != *--coordinator* ]]; then rest+=("$team"); fi
  if [ -n "$spot" ] && [[ "${rest[*]}" == *--workdir=* && "${rest[*]}" != *--workdir=gs://* ]]; then
    say "note: --workdir lies on the TPU's own disk, which a preemption takes away; one in gs:// outlives it"
  fi
}

verb="${1:-}"
[ $# -eq 0 ] || shift
case "$verb" in
  create | push | run | follow | stop | delete) ;;
  help | --help | -h)
    sed -n '2,/^set /s/^# \{0,1\}//p' launch/tpu_vm.sh
    exit 0
    ;;
  *) fail "found '$verb', expected create, push, run, follow, stop, delete or help" ;;
esac
read_flags "name zone project type runtime worker tries wait" "spot queued until_done delete" "$@"
[ "$verb" = run ] || [ "${#rest[@]}" -eq 0 ] || fail "$verb: found '${rest[*]}', expected flags alone"
[ "$verb" = run ] || [ -z "$until_done$delete" ] || fail "--until_done, --delete: of run alone"
check
trap 'exit 130' INT
trap 'exit 143' TERM
case "$verb" in
  create)
    check_type
    create
    ;;
  push)
    check_code
    archive
    push
    ;;
  run)
    join
    if [ -n "$until_done" ]; then
      check_type
      check_code
      archive
    fi
    trap leave EXIT
    run
    ;;
  follow)
    watch
    case "$outcome" in none | unreachable) exit 1 ;; stopped) exit 143 ;; *) exit "$outcome" ;; esac
    ;;
  stop) at_worker all "stop for_good" ;;
  delete) remove ;;
esac
