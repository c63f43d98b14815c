#!/usr/bin/env bash
# tpu_vm.sh for a pod, a TPU of several workers: the same words; workers that run a command of ours join as a team.
RAG_JAX_TEAM=--coordinator=auto exec bash "$(dirname "$0")/tpu_vm.sh" "$@"
