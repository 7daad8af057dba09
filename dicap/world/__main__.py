"""python -m dicap.world pretrain --out FILE | evaluate [--weights FILE]"""

import argparse
import json
import logging
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dicap.world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("pretrain", help="train the tiny CLIP; resumes an interrupted run")
    train.add_argument("--out", type=Path, required=True, help="the weights file, rewritten at every evaluation")
    train.add_argument("--work", type=Path, help="folder of state and log.jsonl (default: OUT with .work at its end)")
    train.add_argument("--pairs", type=int, default=1_200_000, help="image-caption pairs to see (default %(default)s)")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--minutes", type=float, default=float("inf"), help="stop, resumably, after this time")
    check = commands.add_parser("evaluate", help="zero-shot accuracies of a weights file on held-out pictures")
    check.add_argument("--weights", type=Path, help="default: the shipped file")
    check.add_argument("--count", type=int, default=4000, help="pictures of each domain (default %(default)s)")
    check.add_argument("--card", action="store_true", help="also write the model card beside the weights")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.command == "pretrain":
        from dicap.world.pretrain import Recipe, pretrain

        work = args.work or args.out.with_name(args.out.name + ".work")
        pretrain(args.out, work, Recipe(pairs=args.pairs, seed=args.seed), minutes=args.minutes)
    else:
        from dicap.world.evaluate import evaluate, write_card

        accuracies = evaluate(args.weights, args.count)
        print(json.dumps(accuracies, indent=2))
        if args.card:
            write_card(args.weights, accuracies)


if __name__ == "__main__":
    main()
