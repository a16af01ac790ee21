#!/bin/sh
# What the image runs: `studio` (the default), or any command of the project.
#   docker run --publish 127.0.0.1:7860:7860 fportrait
#   docker run --volume "$PWD/data:/opt/fportrait/data" fportrait kedro run
# LOGINS names a file with a 'name:password' per line; without one a password is made and printed.
set -eu
cd "$(dirname "$0")/.."
[ "${1:-studio}" = studio ] || exec "$@"
[ $# -eq 0 ] || shift
if [ -z "${LOGINS:-}" ]; then
    LOGINS=$(mktemp)
    password=$(python3 -c 'import secrets; print(secrets.token_urlsafe(12))')
    echo "studio:$password" > "$LOGINS"
    echo "Log in as 'studio' with the password '$password'." >&2
fi
# Inside a container the loopback is the container's own; --publish decides who reaches the port.
exec fportrait web --host 0.0.0.0 --logins "$LOGINS" "$@"
