#!/usr/bin/env bash
# Does the work of scripts/METHOD/PROTOCOL.sh: reads arguments and environment, hands both to `dicap PROTOCOL`, which
# checks them before any work. Called as: run.sh METHOD PROTOCOL [ARGUMENT ...]
set -euo pipefail

METHOD="$1" PROTOCOL="$2"
shift 2
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-$(command -v python || command -v python3 || echo python)}"

usage() {
    local arguments="[DATASET [SEED ...]] [--dry-run [--measure]] [--verbose]"
    case "$PROTOCOL" in ablations) arguments="[NAME]" ;; select) arguments="[DATASET]" ;; esac
    cat <<END
Usage: [KNOB=VALUE ...] bash scripts/$METHOD/$PROTOCOL.sh $arguments [OPTION ...]

    bash scripts/$METHOD/$PROTOCOL.sh
END
    case "$PROTOCOL" in
        ablations | select) ;;
        *) cat <<END ;;
    DATA=/path/to/datasets bash scripts/$METHOD/$PROTOCOL.sh all 1 2
    DATA=/path/to/datasets SHOTS=4 OUT=output4 JOBS=2 bash scripts/$METHOD/$PROTOCOL.sh all --dry-run

Without DATA (no download): the embedded datasets and tiny CLIP. scripts/dicap/$PROTOCOL.sh then compares ZeroshotCLIP, CoOp,
CoCoOp and DiCap; any other script, and any with DATA, runs its own method. DATASET: a file in configs/datasets, the path of
your own images, or all. Ends with a table in the terminal and in OUT.
END
    esac
    cat <<END

Knobs (environment):
    DATA      folder that holds the datasets' folders
    OUT       output folder               (default: output, in the folder you are in)
    SEEDS     seeds, such as "1 2 3"      (SEED arguments win)
    SHOTS     training images a class
    CFG       recipe, a file in configs/trainers/METHOD (default: tiny without DATA, else the published one)
    BACKBONE  CLIP instead of the recipe's: tiny, RN50, ViT-B/32, ViT-B/16, a file ...
    JOBS      runs at a time
    METHODS   methods to compare          (of protocols)
    MISSING   skip or refuse datasets that are not in DATA (of protocols)
    ENGINE    auto, dassl or builtin      (default: auto)
    PYTHON    interpreter                 (default: python of the active environment)

OPTION, behind the rest:

END
    exec "$PYTHON" "$ROOT/train.py" "$PROTOCOL" --help
}

# DATASET and SEED ... of a protocol, short options anywhere; from another option on, all goes to `dicap PROTOCOL`
read_protocol() {
    local positional=()
    while [ "$#" -gt 0 ]; do
        case "$1" in
            --dry-run | --measure | --verbose | --debug) OPTIONS+=("$1") ;;
            -*) REST=("$@"); break ;;
            *) positional+=("$1") ;;
        esac
        shift
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
    [ -z "${MISSING:-}" ] || OPTIONS+=(--missing "$MISSING")
}

command -v "$PYTHON" > /dev/null || { echo "no '$PYTHON' here; activate an environment, or set PYTHON=" >&2; exit 2; }
OPTIONS=() REST=()
SEED='^[0-9]+$' COUNT='^[1-9][0-9]*$'
for argument in "$@"; do
    case "$argument" in -h | --help) usage; exit 0 ;; esac
done
case "$PROTOCOL" in
    base2new | few_shot | cross_dataset | domain_generalization)
        read_protocol "$@"
        COUNT='^ *[1-9][0-9]*( +[1-9][0-9]*)* *$'
        ;;
    ablations) OPTIONS+=("$@") SEED='^[0-9]+(-[0-9]+)?$' ;;
    select)
        case "${1:--}" in -*) ;; *) OPTIONS+=(--dataset "$1"); shift ;; esac
        OPTIONS+=("$@" --method "$METHOD") SEED='^[0-9]+(-[0-9]+)?$'
        ;;
    *)
        echo "unknown protocol '$PROTOCOL'; there are: base2new, few_shot, cross_dataset, domain_generalization, ablations," \
            "select" >&2
        exit 2
        ;;
esac
for seed in ${SEEDS:-}; do
    [[ "$seed" =~ $SEED ]] || { echo "seed '$seed': expected whole numbers from 0, such as 1 2 3 (several datasets: --datasets A B)" >&2; exit 2; }
done
[[ "${SHOTS:-16}" =~ $COUNT ]] || { echo "SHOTS='$SHOTS': expected a whole number from 1" >&2; exit 2; }

# shellcheck disable=SC2206
[ -z "${SEEDS:-}" ] || OPTIONS+=(--seeds ${SEEDS})
# shellcheck disable=SC2206
[ -z "${SHOTS:-}" ] || OPTIONS+=(--shots ${SHOTS})
[ -z "${CFG:-}" ] || OPTIONS+=(--config "$CFG")
[ -z "${BACKBONE:-}" ] || OPTIONS+=(--backbone "$BACKBONE")
[ -z "${DATA:-}" ] || OPTIONS+=(--data "$DATA")
[ -z "${OUT:-}" ] || OPTIONS+=(--out "$OUT")
[ -z "${ENGINE:-}" ] || OPTIONS+=(--engine "$ENGINE")
[ -z "${JOBS:-}" ] || OPTIONS+=(--jobs "$JOBS")

exec "$PYTHON" "$ROOT/train.py" "$PROTOCOL" ${OPTIONS[@]+"${OPTIONS[@]}"} ${REST[@]+"${REST[@]}"}
