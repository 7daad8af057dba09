#!/usr/bin/env bash
# The path is the argument: scripts/METHOD/PROTOCOL.sh. Usage: bash scripts/METHOD/PROTOCOL.sh --help
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec bash "$HERE/../run.sh" "$(basename "$HERE")" "$(basename "${BASH_SOURCE[0]}" .sh)" "$@"
