# shellcheck shell=bash
# Sourced by the scripts beside it: `environment NAME WHAT` makes a virtual environment .venv-NAME in the repository's
# root with the package and the extras WHAT installed, and enters it. A second call finds it ready, or waits until it is.
environment() {
  local folder=".venv-$1" what="$2" stamp
  stamp="$(cat setup.py launch/constraints.txt | sha256sum | cut -c1-16)"
  mkdir -p "$folder"
  (
    ! command -v flock > /dev/null || flock 9 || true  # of two jobs that begin at once
    if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$stamp" ]; then
      "${PYTHON:-python3}" -m venv "$folder"
      "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c launch/constraints.txt -e "$what"
      echo "$stamp" > "$folder/.installed"
    fi
  ) 9> "$folder/.lock"
  # shellcheck source=/dev/null
  . "$folder/bin/activate"
}
