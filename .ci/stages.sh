# The stages of .ci/run, one function each. Sourced by it; uses $root, $work, $bin and $python.
# shellcheck shell=bash disable=SC2154

times=()

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "no Python 3.11 to 3.13 with venv found; set PYTHON" >&2
  return 1
}

run_stage() {
  local start=$SECONDS
  printf '\n== %s ==\n' "$1"
  "stage_$1"
  times+=("$1" "$((SECONDS - start))")
  printf -- '-- %s: %s s\n' "$1" "$((SECONDS - start))"
}

print_times() {
  printf '\n== times ==\n'
  printf '%-12s %5s s\n' "${times[@]}" total "$SECONDS"
}

# As the README says, in a fresh environment.
stage_install() {
  "$python" -m venv "$work/first"
  "$bin/python" -m pip install --quiet -e ".[test]"
  "$bin/python" -m pip check
}

stage_style() {
  "$bin/ruff" check .
  "$bin/ruff" format --check .
}

stage_types() {
  "$bin/mypy"
}

# Two processes: a second one pays on two cores, and more would only take memory.
stage_tests() {
  "$bin/python" -m pytest -n 2
}

# The main command, but for the place of what it writes.
stage_quickstart() {
  (
    cd "$work"
    ln -s "$root/recipes" recipes
    "$bin/robustseg" train recipes/quickstart.yaml --out "$work/main/run"
    test -f saved_models/quickstart/saved_model.pb
  )
}

stage_build() {
  "$bin/python" -m build --outdir "$work/dist" "$root"
  ls -l "$work/dist"
}

# The wheel in an environment of its own, outside the repository. The packages it needs are those
# of the first environment, by a .pth file: installing TensorFlow again would take minutes and
# test nothing of ours. The package itself must come from the wheel, which is checked first.
stage_wheel() {
  local second=$work/second
  "$python" -m venv "$second"
  "$second/bin/python" -m pip install --quiet --no-deps "$work"/dist/*.whl
  "$second/bin/python" "$root/.ci/share_packages.py" "$bin/python"
  mkdir "$work/outside"
  (
    cd "$work/outside"
    "$second/bin/python" "$root/.ci/check_wheel.py" "$second"
    "$second/bin/robustseg" --version
    "$second/bin/robustseg" recipe --list
    "$second/bin/robustseg" train quickstart --out run --set training.epochs=1 \
      --set data.limit.train=16 --set data.limit.val=4 --set data.limit.test=4 \
      --set report.overlays=2
    test -f run/metrics.json
    test -f saved_models/quickstart/saved_model.pb
  )
}
