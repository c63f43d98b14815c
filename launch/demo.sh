#!/usr/bin/env bash
# The whole main job on the embedded demo, from an empty machine to answers: 15 to 25 minutes on two CPU cores.
# Usage: bash launch/demo.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "$0")/.."
workdir="${1:-runs/demo}"
. launch/environment.sh
. launch/common.sh
SECONDS=0
environment demo ".[plot]"  # what is trained is drawn too
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" TPU_SKIP_MDS_QUERY=1

run() { echo; echo "[$((SECONDS / 60))m$((SECONDS % 60))s] \$ $(quoted "$@")"; "$@"; }

demo=(--config=demo --workdir="$workdir")
python -c 'import scann' 2> /dev/null || demo+=(--config.index.kind=exact)  # it has wheels for Linux on x86_64 alone
run python -m rag_jax.train_retriever "${demo[@]}"
run python -m rag_jax.build_index "${demo[@]}"
run python -m rag_jax.build_index "${demo[@]}" --config.data.passages=demo:2018 --index="$workdir/index_2018"
run python -m rag_jax.train "${demo[@]}"
run python -m rag_jax.evaluate --workdir="$workdir" --parts=answers,reading,hot_swap --swap_index="$workdir/index_2018"
run python -m rag_jax.answer --workdir="$workdir" --nojson "what is the capital of Peru?" "who wrote Dracula?" "Who is the President of France?"
echo; echo "done in $((SECONDS / 60))m$((SECONDS % 60))s; ask more with"
echo "  . .venv-demo/bin/activate; python -m rag_jax.answer $(quoted --workdir="$workdir") \"your question\""
