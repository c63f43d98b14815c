#!/usr/bin/env bash
# Installs the package with its test tools and runs the quick tests, about 10 minutes on two fast cores; with --long the
# long ones.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
environment test ".[test]"
export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1
ruff check .
mypy rag_jax
exec python -m pytest -n 2 --dist loadfile "$@"
