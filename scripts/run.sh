#!/usr/bin/env bash
# Does the work of scripts/METHOD/PROTOCOL.sh: reads arguments and environment, hands both to `dicap PROTOCOL`, which
# checks them before any work. Called as: run.sh METHOD PROTOCOL [ARGUMENT ...]
set -euo pipefail

METHOD="$1" PROTOCOL="$2"
shift 2
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-$(command -v python || command -v python3 || echo python)}"

# what differs between the protocols: what is done, the embedded default, what DATASET and `all` are, shots
about_base2new() {
    WHAT="train on the first half of the classes and test on it, test the same prompt on the other half; 16 shots, seeds
1 2 3"
    EMBEDDED="the embedded datasets causal_shapes and digits" ALL="the eleven of the papers" SHOTS_DEFAULT=16 EXAMPLE=caltech101
}
about_few_shot() {
    WHAT="train on all classes with 1, 2, 4, 8 and 16 shots, test on them; seeds 1 2 3"
    EMBEDDED="the embedded datasets causal_shapes and digits" ALL="the eleven of the papers" SHOTS_DEFAULT='"1 2 4 8 16"'
    EXAMPLE=caltech101
}
about_cross_dataset() {
    WHAT="train on all classes of a source dataset (16 shots, seeds 1 2 3), test that prompt on other datasets"
    EMBEDDED="trains on the embedded causal_shapes, tests on digits" ALL="the other ten; the source is imagenet" SHOTS_DEFAULT=16
    EXAMPLE=eurosat
}
about_domain_generalization() {
    WHAT="the training of cross_dataset, tested on shifts of the source dataset"
    EMBEDDED="trains on the embedded causal_shapes, tests on its new scenes, new colours and noise"
    ALL="imagenetv2, imagenet_sketch, imagenet_a and imagenet_r; the source is imagenet" SHOTS_DEFAULT=16 EXAMPLE=imagenetv2
}

usage_protocol() {
    "about_$PROTOCOL"
    cat <<END
Usage: [KNOB=VALUE ...] bash scripts/$METHOD/$PROTOCOL.sh [DATASET [SEED ...]] [--dry-run [--measure]] [--verbose] [OPTION ...]

$PROTOCOL: $WHAT. Ends with a table in the terminal
and in OUT. Finished runs are skipped, interrupted ones go on, failed ones are listed at the end and stop no other.

Without DATA (no download): $EMBEDDED; the embedded tiny CLIP.
    scripts/dicap/$PROTOCOL.sh compares ZeroshotCLIP, CoOp, CoCoOp and DiCap; the other methods' scripts run their own.
With DATA (the real benchmark): this method, ViT-B/16, the published recipe.
DATASET: a file in configs/datasets, the path of your own images, or all: $ALL.
OPTION: any other of \`dicap $PROTOCOL --help\`, behind the rest.

    bash scripts/dicap/$PROTOCOL.sh
    DATA=/path/to/datasets bash scripts/dicap/$PROTOCOL.sh $EXAMPLE 1 2
    DATA=/path/to/datasets SHOTS=4 OUT=output4 bash scripts/cocoop/$PROTOCOL.sh all --dry-run

Knobs (environment):
    DATA      folder that holds the datasets' folders
    OUT       output folder               (default: output, in the folder you are in)
    SEEDS     seeds                       (default: "1 2 3"; SEED arguments win)
    SHOTS     training images a class     (default: $SHOTS_DEFAULT; several make a comparison each)
    CFG       recipe, a file in configs/trainers/METHOD (default: tiny without DATA, else the published one)
    BACKBONE  CLIP instead of the recipe's: tiny, RN50, ViT-B/32, ViT-B/16, a file ...
    METHODS   methods to compare          (default: as above)
    MISSING   skip or refuse datasets that are not in DATA (default: skip those of all, refuse those that are named)
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
    case "$PROTOCOL" in ablations | select) usage_cells ;; *) usage_protocol ;; esac
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
case "$PROTOCOL" in ablations | select) [ -z "${JOBS:-}" ] || OPTIONS+=(--jobs "$JOBS") ;; esac

exec "$PYTHON" "$ROOT/train.py" "$PROTOCOL" ${OPTIONS[@]+"${OPTIONS[@]}"} ${REST[@]+"${REST[@]}"}
