#!/usr/bin/env bash
# Does the work of scripts/METHOD/PROTOCOL.sh: reads arguments and environment, hands both to `dicap PROTOCOL`, which
# checks them before any work. Called as: run.sh METHOD PROTOCOL [ARGUMENT ...]
set -euo pipefail

METHOD="$1" PROTOCOL="$2"
shift 2
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-$(command -v python || command -v python3 || echo python)}"

usage_base2new() {
    cat <<END
Usage: [KNOB=VALUE ...] bash scripts/$METHOD/base2new.sh [DATASET [SEED ...]] [--dry-run] [--verbose]

base2new: train on the first half of the classes and test on it, test the same prompt on the other half; 16 shots,
seeds 1 2 3; ends with a table in the terminal and in OUT. Finished runs are skipped, interrupted ones go on.

Without DATA (no download): the embedded datasets causal_shapes and digits on the embedded tiny CLIP.
    scripts/dicap/base2new.sh compares ZeroshotCLIP, CoOp, CoCoOp and DiCap; the other methods' scripts run their own.
With DATA (the real benchmark): this method, ViT-B/16, the published recipe. DATASET: a file in configs/datasets, or all.

    bash scripts/dicap/base2new.sh
    bash scripts/coop/base2new.sh digits 1 2
    DATA=/path/to/datasets bash scripts/dicap/base2new.sh caltech101
    DATA=/path/to/datasets SHOTS=4 OUT=output4 bash scripts/cocoop/base2new.sh all 1

Knobs (environment):
    DATA      folder that holds the datasets' folders
    OUT       output folder               (default: output, in the folder you are in)
    SEEDS     seeds                       (default: "1 2 3"; SEED arguments win)
    SHOTS     training images a class     (default: 16)
    CFG       recipe, a file in configs/trainers/METHOD (default: tiny without DATA, else the published base-to-new one)
    BACKBONE  CLIP instead of the recipe's: tiny, RN50, ViT-B/32, ViT-B/16, a file ...
    METHODS   methods to compare          (default: as above)
    ENGINE    auto, dassl or builtin      (default: auto)
    PYTHON    interpreter                 (default: python of the active environment)
END
}

# arguments are those of `dicap ablations` or `dicap select`; knobs add to them
usage_cells() {
    local first="[NAME]"
    [ "$PROTOCOL" = ablations ] || first="[DATASET]"
    cat <<END
Usage: [KNOB=VALUE ...] bash scripts/$METHOD/$PROTOCOL.sh $first [ARGUMENT ...]

Knobs (environment): SEEDS ("1 2 3" or 101-120), SHOTS, CFG, BACKBONE, DATA, OUT, ENGINE and JOBS stand for the options
    --seeds, --shots, --config, --backbone, --data, --out, --engine and --jobs; PYTHON is the interpreter.
The arguments are those of \`dicap $PROTOCOL\`:

END
    exec "$PYTHON" "$ROOT/train.py" "$PROTOCOL" --help
}

usage() {
    if [ "$PROTOCOL" = base2new ]; then usage_base2new; else usage_cells; fi
}

# DATASET and SEED ... of base2new, and its short options
read_base2new() {
    local positional=() argument
    for argument in "$@"; do
        case "$argument" in
            --dry-run | --verbose | --debug) OPTIONS+=("$argument") ;;
            -*) echo "unknown option $argument; see bash scripts/$METHOD/$PROTOCOL.sh --help" >&2; exit 2 ;;
            *) positional+=("$argument") ;;
        esac
    done
    if [ "${#positional[@]}" -gt 0 ]; then
        OPTIONS+=(--datasets "${positional[0]}")
        [ "${#positional[@]}" -eq 1 ] || SEEDS="${positional[*]:1}"
    fi
    # the main job: without DATA, DiCap's script compares it with the others
    if [ -n "${METHODS:-}" ] || [ -n "${DATA:-}" ] || [ "$METHOD" != dicap ]; then
        # shellcheck disable=SC2206
        OPTIONS+=(--methods ${METHODS:-$METHOD})
    fi
}

command -v "$PYTHON" > /dev/null || { echo "no '$PYTHON' here; activate an environment, or set PYTHON=" >&2; exit 2; }
OPTIONS=()
SEED='^[0-9]+$'
for argument in "$@"; do
    case "$argument" in -h | --help) usage; exit 0 ;; esac
done
case "$PROTOCOL" in
    base2new) read_base2new "$@" ;;
    ablations) OPTIONS+=("$@") SEED='^[0-9]+(-[0-9]+)?$' ;;
    select)
        case "${1:--}" in -*) ;; *) OPTIONS+=(--dataset "$1"); shift ;; esac
        OPTIONS+=("$@" --method "$METHOD") SEED='^[0-9]+(-[0-9]+)?$'
        ;;
    *) echo "unknown protocol '$PROTOCOL'; there are: base2new, ablations, select" >&2; exit 2 ;;
esac
for seed in ${SEEDS:-}; do
    [[ "$seed" =~ $SEED ]] || { echo "seed '$seed': expected whole numbers from 0, such as 1 2 3" >&2; exit 2; }
done
[[ "${SHOTS:-16}" =~ ^[1-9][0-9]*$ ]] || { echo "SHOTS='$SHOTS': expected a whole number from 1" >&2; exit 2; }

# shellcheck disable=SC2206
[ -z "${SEEDS:-}" ] || OPTIONS+=(--seeds ${SEEDS})
[ -z "${SHOTS:-}" ] || OPTIONS+=(--shots "$SHOTS")
[ -z "${CFG:-}" ] || OPTIONS+=(--config "$CFG")
[ -z "${BACKBONE:-}" ] || OPTIONS+=(--backbone "$BACKBONE")
[ -z "${DATA:-}" ] || OPTIONS+=(--data "$DATA")
[ -z "${OUT:-}" ] || OPTIONS+=(--out "$OUT")
[ -z "${ENGINE:-}" ] || OPTIONS+=(--engine "$ENGINE")
[ -z "${JOBS:-}" ] || [ "$PROTOCOL" = base2new ] || OPTIONS+=(--jobs "$JOBS")

exec "$PYTHON" "$ROOT/train.py" "$PROTOCOL" ${OPTIONS[@]+"${OPTIONS[@]}"}
