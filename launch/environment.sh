# shellcheck shell=bash
# Sourced by the scripts beside it: `environment NAME WHAT` makes a virtual environment .venv-NAME in the repository's
# root with the package and the extras WHAT installed, and enters it. A second call finds it ready, or waits until it is.
# It is of PYTHON, or of python3; one that is ready stays as it is where no PYTHON is named. Deleted by hand alone: another
# job may run in it.
environment() {
  local folder=".venv-$1" what="$2" stamp
  stamp="$({ echo "$what"; cat setup.py launch/constraints.txt; } | sha256sum | cut -c1-16)"
  mkdir -p "$folder"
  (
    ! command -v flock > /dev/null || flock 9 || true  # of two jobs that begin at once
    if [ -f "$folder/.installed" ] && ! fits "$folder"; then
      echo "error: $folder: does not run here; it was moved, lacks its Python, or is of another than PYTHON;" \
        "delete it, and it is made anew" >&2
      return 2
    fi
    if [ "$(cat "$folder/.installed" 2> /dev/null)" != "$stamp" ]; then
      made "$folder" &&
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c launch/constraints.txt -e "$what" &&
        echo "$stamp" > "$folder/.installed"
    fi
  ) 9> "$folder/.lock" || return
  # shellcheck source=/dev/null
  . "$folder/bin/activate"
}

# Whether rag_jax runs on this interpreter, and it makes environments. Nothing later: ScaNN has no wheel for it.
supported() { "$1" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null; }

# Whether the environment is whole, was made where it lies now, and of the PYTHON that is named.
fits() {
  # shellcheck source=/dev/null
  supported "$1/bin/python" && "$1/bin/python" -c 'import pip' 2> /dev/null &&
    [ "$(. "$1/bin/activate" 2> /dev/null && echo "$VIRTUAL_ENV")" -ef "$1" ] &&
    [ "$("$1/bin/python" --version)" = "$("${PYTHON:-$1/bin/python}" --version 2>&1)" ]
}

# What was begun and does not fit is made anew: venv would leave its interpreter, and its paths, as they are.
made() {
  local python="${PYTHON:-python3}" found
  ! fits "$1" || return 0
  if ! supported "$python"; then
    found="$("$python" --version 2>&1)" || found="no $python"
    echo "error: found $found, expected Python 3.11 to 3.13 with venv; name one, as PYTHON=python3.12 (on Debian and" \
      "Ubuntu: sudo apt-get install python3.12 python3.12-venv)" >&2
    return 2
  fi
  find "$1" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
  "$python" -m venv "$1"
}
