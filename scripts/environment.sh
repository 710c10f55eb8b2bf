# Sourced by the other scripts: makes .venv with the package and its tools unless it is there and current, and
# sets PYTHON to its interpreter. MMALIGN_PYTHON chooses the Python that makes it.
if [ ! -x .venv/bin/python ]; then
    "${MMALIGN_PYTHON:-python3}" -m venv .venv
fi
PYTHON=$PWD/.venv/bin/python
if ! cmp -s pyproject.toml .venv/installed.toml; then
    echo "installing mmalign and its dependencies into .venv"
    "$PYTHON" -m pip install --quiet --upgrade pip
    "$PYTHON" -m pip install --quiet --editable ".[dev]"
    cp pyproject.toml .venv/installed.toml
fi
