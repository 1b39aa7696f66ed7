#!/bin/sh
# What is installed imports, as the user and in the folder that it will run with. Usage: prove.sh PYTHON
set -eu
"$1" -P - <<'PYTHON'
import importlib
import pkgutil
import sys

OURS = ("flows", "infra", "tasks", "model")
THEIRS = ("prefect_redis", "asyncpg", "psycopg2", "boto3", "flask_wtf", "s3fs")
for name in (*OURS, *THEIRS):
    package = importlib.import_module(name)
    assert "site-packages" in package.__file__, f"{name} comes from {package.__file__}: not what was installed"
    if name in OURS:
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)
print(f"every module imports in Python {sys.version.split()[0]}")
PYTHON
"$(dirname "$1")/tokenmill" --help >/dev/null
