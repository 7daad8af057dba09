"""Tasks: classification against independent formulas; a task of somebody else, from run to report, without any edit."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from dicap import discover
from dicap.cli import main
from dicap.config import build_cfg, config_path
from dicap.results import measure_of
from dicap.tasks.classification import Classification
from dicap.tasks.task import Task, evaluation

PLUGIN = str(Path(__file__).parent / "plugins" / "digit_captions.py")


def test_classification_measures_and_loses_as_the_textbook_says():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 4, generator=random)
    items = [SimpleNamespace(label=i % 3) for i in range(30)]
    task = Classification()
    label = task.target(items, None)
    torch.testing.assert_close(task.losses(logits, label).mean(), torch.nn.functional.cross_entropy(logits, label))
    many = task.losses(logits[:, None].expand(30, 2, 4), label[:, None].expand(30, 2))
    assert many.shape == (30, 2) and torch.equal(many[:, 0], task.losses(logits, label))
    outcomes = task.outcomes(logits, items, None)
    predicted = logits.argmax(1)
    values = task.measure(outcomes)
    assert values["accuracy"] == pytest.approx(100 * accuracy_score(label, predicted))
    assert values["macro_f1"] == pytest.approx(100 * f1_score(label, predicted, average="macro", labels=[0, 1, 2]))
    assert task.progress(logits, label)["acc"].item() == pytest.approx(values["accuracy"])
    groups = ["a" if i < 10 else None for i in range(30)]
    result = evaluation(task, outcomes, groups)
    assert result["n"] == 30 and result["primary"] == "accuracy" and result["groups"].keys() == {"a"}
    assert result["groups"]["a"] == {"n": 10, "metrics": task.measure(outcomes[:10])}


def test_a_task_that_leaves_something_out_says_what():
    class Silent(Task):
        name = "silent"

    for call, arguments in (("target", 2), ("losses", 2), ("outcomes", 3), ("measure", 1)):
        with pytest.raises(NotImplementedError, match=f"the task 'silent'.*define {call}"):
            getattr(Silent(), call)(*[None] * arguments)


@pytest.fixture
def task_plugin(tmp_path, monkeypatch, embedded_data):
    from dassl.data.datasets import DATASET_REGISTRY

    monkeypatch.chdir(tmp_path)
    discover.load_all()
    before = set(DATASET_REGISTRY.registered_names())
    monkeypatch.setattr(discover, "PLUGINS", {})
    yield
    for name in set(DATASET_REGISTRY.registered_names()) - before:
        del DATASET_REGISTRY._obj_map[name]


def command(*words):
    quick = ["--set", "OPTIM.MAX_EPOCH", "6", "OPTIM.LR", "0.5", "DATALOADER.TRAIN_X.BATCH_SIZE", "8"]
    return main([*words, "--plugin", PLUGIN, "--out", "out", *quick])


def test_a_task_of_ones_own_goes_from_run_to_report(task_plugin, capsys, caplog):
    methods = ["--methods", "ZeroshotCLIP", "CoOp", "FeatureMap", "--datasets", "digit_captions"]
    assert command("base2new", *methods, "--shots", "4", "--seeds", "1", "2") == 0
    printed = capsys.readouterr().out
    assert "rank" in printed.lower() and "Mean" in printed
    paths = sorted(Path("out/base2new").rglob("result.json"))
    results = [json.loads(path.read_text()) for path in paths]
    assert len(results) == 12
    for result in results:
        assert result["task"] == "choose_caption" and result["primary"] == "rank"
        assert not measure_of(result).higher_is_better and 1 <= result["metrics"]["rank"] <= 4
        assert result["groups"].keys() == {"even", "odd"}
        n = [group["n"] for group in result["groups"].values()]
        mean = sum(g["n"] * g["metrics"]["rank"] for g in result["groups"].values()) / sum(n)
        assert sum(n) == result["n"] and result["metrics"]["rank"] == pytest.approx(mean)
    learned = {r["method"]: r["metrics"]["rank"] for r in results if r["split"] == "base" and r["seed"] == 1}
    assert learned["CoOp"] != learned["ZeroshotCLIP"] != learned["FeatureMap"]
    table = json.loads(Path("out/base2new_choose_caption.json").read_text())
    row = next(row for row in table["rows"] if row["method"] == "CoOp")
    base = [r["metrics"]["rank"] for r in results if r["method"] == "CoOp" and r["split"] == "base"]
    assert row["base"]["mean"] == pytest.approx(sum(base) / 2)
    worst = [
        max(g["metrics"]["rank"] for g in r["groups"].values())
        for r in results
        if r["method"] == "CoOp" and r["split"] == "base"
    ]
    assert row["worst_group"]["mean"] == pytest.approx(sum(worst) / 2)
    page = Path("out/report.html").read_text()
    assert "Rank" in page and "accuracy" not in page.lower()
    assert command("base2new", *methods, "--shots", "4", "--seeds", "1", "2") == 0
    assert "12 finished before" in caplog.text


def test_selection_takes_the_lowest_where_lower_is_better(task_plugin, capsys):
    words = ["select", "--method", "FeatureMap", "--dataset", "digit_captions", "--shots", "4", "--seeds", "1"]
    quick = ["--set", "OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "8"]
    grid = ["--grid", "OPTIM.LR=1e-9,0.01,0.5", "--folds", "2"]
    assert main([*words, *grid, "--plugin", PLUGIN, "--out", "out", *quick]) == 0
    (path,) = Path("out/select").glob("*.json")
    tree = json.loads(path.read_text())
    means = {row["settings"]["OPTIM.LR"]: row for row in tree["rows"]}
    combined = {rate: sum(value["combined"] for value in row["values"]) / 2 for rate, row in means.items()}
    assert tree["chosen"]["OPTIM.LR"] == min(combined, key=combined.get)


def test_the_prompts_are_trained_on_the_texts_of_each_batch(task_plugin):
    discover.load_plugin(PLUGIN)
    from dassl.engine import build_trainer

    opts = ["DATASET.NUM_SHOTS", "4", "DATALOADER.TRAIN_X.BATCH_SIZE", "3", "OPTIM.MAX_EPOCH", "1"]
    cfg = build_cfg(
        PLUGIN.replace(".py", ".yaml"), config_path("trainers/CoOp", "tiny"), "CoOp", output_dir="o", seed=1, opts=opts
    )
    trainer = build_trainer(cfg)
    trainer.before_train()
    for batch in list(trainer.train_loader_x)[:3]:
        parsed = trainer.parse_batch_train(batch)
        items = [trainer.dm.dataset.train_x[i] for i in batch["index"].tolist()]
        assert list(trainer.learner.texts) == trainer.task.texts(items)
        logits, losses = trainer.loss(parsed)
        assert logits.shape == parsed["target"].shape and torch.isfinite(losses["ce"])
        own = [(row[target >= 0], target[target >= 0]) for row, target in zip(logits, parsed["target"])]
        expected = torch.stack([-row.softmax(0)[target == 1].sum().log() for row, target in own]).mean()
        torch.testing.assert_close(losses["ce"], expected)
    rank = trainer.test()
    assert rank == -trainer.task.measure(trainer.outcomes)["rank"]  # more is better, for the choice of the best epoch
    trainer.close_writer()


def test_a_task_may_score_all_items_at_once(task_plugin):
    """As retrieval does: all features first, then all texts; the same outcomes as item by item."""
    discover.load_plugin(PLUGIN)
    from dassl.engine import build_trainer

    opts = ["DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "1"]
    cfg = build_cfg(PLUGIN.replace(".py", ".yaml"), config_path("trainers/CoOp", "tiny"), "CoOp", seed=1, opts=opts)
    trainer = build_trainer(cfg)
    trainer.test()
    task, items = trainer.task, trainer.dm.dataset.test
    with torch.no_grad(), trainer.model.evaluating():
        f = torch.cat([trainer.model.image(batch["img"]) for batch in trainer.test_loader])
        texts = task.texts(items)
        trainer.model.bind(texts)
        logits = trainer.model.logits(f, trainer.model.text(f))
    assert task.outcomes(logits, items, texts) == trainer.outcomes
    trainer.close_writer()


def test_dicap_says_that_it_does_not_train_on_such_a_task(task_plugin, capsys):
    assert (
        command("base2new", "--methods", "DiCap:CoOp", "--datasets", "digit_captions", "--shots", "4", "--seeds", "1")
        == 1
    )
    assert "DiCap does not train on the task 'choose_caption'" in capsys.readouterr().err
