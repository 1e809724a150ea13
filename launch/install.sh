# Sourced by the other scripts: makes `.venv` with the package in it, once for each pyproject.toml.
#
#   install EXTRAS     e.g. `install ""` for the package alone, `install "[test,dev]"` for the tests
install() {
  local extras=$1 python stamp
  stamp=.venv/installed-$(printf '%s%s' "$extras" "$(cat pyproject.toml)" | cksum | cut -d' ' -f1)
  [ -e "$stamp" ] && return
  for python in "${PYTHON:-python3.11}" python3 python; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    python=
  done
  [ -n "$python" ] || { echo "error: Python 3.11 or newer is needed; set PYTHON to one." >&2; exit 2; }
  echo "Installing jaxdistill$extras into .venv"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras"
  touch "$stamp"
}
