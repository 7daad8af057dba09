"""Result files that nothing can be made of: how each is written, and the reason that is given for it."""

import json
import os

from dicap import results as store


def text(content):
    """A file of this content, which may be made of a good result's."""
    return lambda path, result: path.write_bytes(content(json.dumps(result)) if callable(content) else content)


def fields(**changes):
    """A result with other values, as JSON has them; {"a": {"b": 1}} changes b alone."""

    def write(path, result):
        for key, value in changes.items():
            old = result.get(key)
            result[key] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        path.write_text(json.dumps(result))

    return write


def nested(depth):
    tree = {}
    for _ in range(depth):
        tree = {"a": tree}
    return tree


BAD = {
    "empty": (text(b""), "not complete JSON"),
    "cut": (text(lambda whole: whole[:100].encode()), "not complete JSON"),
    "no text": (text(b"\xff\xfe{"), "not complete JSON"),
    "brackets": (text(b"[" * 100_000), "not complete JSON .*recursion"),
    "digits": (text(lambda whole: whole.replace("60.0", "9" * 5000).encode()), "not complete JSON"),
    "list": (text(b"[]"), "schema is 'list'"),
    "null": (text(b"null"), "schema is 'NoneType'"),
    "schema": (fields(schema=[]), r"schema is \[\]"),
    "deep": (fields(config=nested(40)), "field 'config.*nested deeper than 32"),
    "larger": (lambda path, result: path.write_bytes(b" " * (store.BYTES + 1)), f"larger than {store.BYTES} bytes"),
    "pipe": (lambda path, result: os.mkfifo(path), "not a plain file"),
    "device": (lambda path, result: path.symlink_to("/dev/zero"), "not a plain file"),
    "folder": (lambda path, result: path.mkdir(), "no such result file"),
    "dead link": (lambda path, result: path.symlink_to("nowhere"), "no such result file"),
    "link to itself": (lambda path, result: path.symlink_to(path.name), "symbolic links"),
    "figure null": (fields(metrics={"accuracy": None}), "'metrics.accuracy' is None; expected a figure in per cent"),
    "figure nan": (fields(metrics={"accuracy": float("nan")}), "'metrics.accuracy' is nan"),
    "figure inf": (text(lambda whole: whole.replace("60.0", "1e999").encode()), "'metrics.accuracy' is inf"),
    "figure text": (fields(metrics={"accuracy": "60"}), "'metrics.accuracy' is '60'"),
    "figure of a group": (fields(groups={"a": {"n": 1, "metrics": {"accuracy": 1}}}), "groups.a.metrics.macro_f1"),
    "huge figure": (fields(seconds={"test": 10**400}), "'seconds.test' is 1000.*expected a finite number"),
    "huge diagnostic": (fields(method_record={"x": {"y": 1e300}}), "'method_record.x.y' is 1e\\+300"),
    "nan in settings": (fields(config={"OPTIM": {"LR": [float("nan")]}}), "'config.OPTIM.LR.0' is nan"),
    "seconds": (fields(seconds={"train": "5"}), "'seconds.train' is '5'; expected a finite number"),
    "digest": (fields(digests={"data": ["d"]}), "'digests.data' is .*expected text"),
    "size of a group": (fields(groups={"a": {"n": "1", "metrics": {"accuracy": 1, "macro_f1": 1}}}), "groups.a.n"),
    "direction": (fields(measures={"accuracy": {"label": "A", "unit": "%", "higher_is_better": 1}}), "expected bool"),
    "source": (fields(trained_on=["a"]), "'trained_on'"),
    "parameters": (fields(trainable_parameters={}), "'trainable_parameters'"),
    "resumed": (fields(resumed_from_epoch="0"), "'resumed_from_epoch'"),
    "seed": (fields(seed=True), "'seed' is True; expected int"),
    "name": (fields(dataset="x" * 100_000), "'dataset' is 'xxx.*text of at most 255 characters"),
}
