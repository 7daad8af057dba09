"""python -m dicap.world grid out.png | shifts out.png | pretrain --out FILE | evaluate [--weights FILE]"""

import argparse
import json
import logging
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dicap.world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("grid", "the world"), ("shifts", "its domain shifts")):
        picture = commands.add_parser(name, help=f"{what} at a glance, as in docs/world.md")
        picture.add_argument("out", type=Path, help="a PNG file")
    train = commands.add_parser("pretrain", help="train the tiny CLIP; goes on where an interrupted run stopped")
    train.add_argument("--out", type=Path, required=True, help="the weights, rewritten at every evaluation")
    train.add_argument("--work", type=Path, help="state and log.jsonl (default: OUT with .work at its end)")
    train.add_argument("--pairs", type=int, default=1_200_000, help="image-caption pairs to see (default %(default)s)")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--minutes", type=float, default=float("inf"), help="stop, resumably, after this time")
    check = commands.add_parser("evaluate", help="held-out zero-shot figures of a weights file")
    check.add_argument("--weights", type=Path, help="default: the shipped file")
    check.add_argument("--count", type=int, default=4000, help="pictures of each domain (default %(default)s)")
    check.add_argument("--card", action="store_true", help="also write the model card beside the weights")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.command in ("grid", "shifts"):
        from dicap.world.grid import draw, draw_shifts

        {"grid": draw, "shifts": draw_shifts}[arguments.command]().save(arguments.out)
    elif arguments.command == "pretrain":
        from dicap.world.pretrain import Recipe, pretrain

        work = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
        pretrain(arguments.out, work, Recipe(pairs=arguments.pairs, seed=arguments.seed), minutes=arguments.minutes)
    elif arguments.command == "evaluate":
        from dicap.backbones import tiny
        from dicap.world.card import write_card
        from dicap.world.evaluate import evaluate

        figures = evaluate(arguments.weights, arguments.count)
        print(json.dumps(figures, indent=2))
        if arguments.card:
            write_card(arguments.weights or tiny.PATH, figures)


if __name__ == "__main__":
    main()
