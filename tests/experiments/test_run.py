"""One run: its measures, its result file, its log, and that runs in one process do not disturb one another."""

import copy
import logging
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer

from dicap import results as store
from dicap.config import build_cfg, config_path
from dicap.experiments.run import model_digest, run
from dicap.learner import Learner
from dicap.options import ConfigError
from dicap.results import Measure
from dicap.tasks.task import Task


class LinearProbe(TrainerX):
    """A trainer as a third party writes it: dassl names only, nothing of DiCap."""

    def build_model(self):
        linear = torch.nn.Linear(192, self.num_classes)
        self.model = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), linear).to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("probe", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = torch.nn.functional.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)


@pytest.fixture(scope="module", autouse=True)
def linear_probe(embedded_data):
    TRAINER_REGISTRY.register(force=True)(LinearProbe)
    yield
    TRAINER_REGISTRY._obj_map.pop("LinearProbe")


def make_cfg(folder, *opts, trainer="LinearProbe", seed=0):
    return build_cfg(
        config_path("datasets", "digits"),
        config_path("trainers/CoOp", "tiny"),
        trainer,
        seed=seed,
        output_dir=str(folder),
        opts=["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "2", *opts],
    )


@pytest.fixture(scope="module")
def probe_result(tmp_path_factory, linear_probe):
    folder = tmp_path_factory.mktemp("probe")
    return folder, run(make_cfg(folder), recipe="tiny", dataset="digits")


def test_a_third_party_trainer_leaves_a_result(probe_result):
    folder, result = probe_result
    assert store.read_result(folder) == result
    names = [result[key] for key in ("method", "dataset", "recipe", "split")]
    assert names == ["LinearProbe", "digits", "tiny", "all"]
    assert (result["seed"], result["shots"], result["n"]) == (0, 1, 1397)
    seconds = result["seconds"]
    assert min(seconds["build"], seconds["train"], seconds["test"]) > 0 and seconds["fit"] <= seconds["train"]
    assert result["peak_memory_mib"] > 50 and (result["task"], result["primary"]) == ("classification", "accuracy")
    assert result["method_record"] == {} and result["digests"]["weights"] == ""
    assert len(result["digests"]["model"]) == 64
    assert result["versions"]["engine"] == "builtin" and result["versions"]["threads"] >= 1
    assert result["config"]["OPTIM"]["MAX_EPOCH"] == 2


def test_the_log_begins_with_the_engine_and_keeps_the_familys_lines(probe_result):
    folder, result = probe_result
    lines = (folder / "log.txt").read_text().splitlines()
    assert lines[0].startswith("Engine: builtin (")
    for line in ("Finish training", "=> result", "* total: 1,397", f"* accuracy: {result['metrics']['accuracy']:.1f}%"):
        assert lines.count(line) == 1, line


def test_the_same_seed_gives_the_same_numbers_also_as_a_second_run_of_a_process(probe_result, tmp_path):
    first = probe_result[1]
    random.seed(5)
    torch.manual_seed(5)
    second = run(make_cfg(tmp_path), recipe="tiny", dataset="digits")
    for key in ("metrics", "digests"):
        assert second[key] == first[key]
    assert run(make_cfg(tmp_path / "other", seed=1))["digests"]["model"] != first["digests"]["model"]


def test_a_trained_model_is_tested_from_its_folder(probe_result, tmp_path):
    folder, trained = probe_result
    tested = run(make_cfg(tmp_path), eval_only=True, model_dir=str(folder))
    assert tested["digests"] == trained["digests"] and tested["metrics"] == trained["metrics"]
    assert tested["seconds"]["train"] == 0


def test_only_a_training_asks_whose_folder_it_is(probe_result, tmp_path, monkeypatch):
    folder, other = probe_result[0], ("OPTIM.LR", "0.5")
    with pytest.raises(
        ConfigError, match="holds a finished run .settings changed, OPTIM.LR .* -> 0.5.: choose another"
    ):
        run(make_cfg(folder, *other))
    assert run(make_cfg(folder, *other), no_train=True) is None
    monkeypatch.chdir(folder)  # a run without a folder of its own
    monkeypatch.setattr(LinearProbe, "forward_backward", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(make_cfg("", "OUTPUT_DIR", "", *other))


def test_stdout_and_log_handlers_are_as_they_were(probe_result, tmp_path):
    before, handlers = sys.stdout, list(logging.getLogger("dicap").handlers)
    run(make_cfg(tmp_path), eval_only=True, model_dir=str(probe_result[0]))
    assert sys.stdout is before and not before.closed
    assert logging.getLogger("dicap").handlers == handlers


def test_a_failing_run_leaves_its_traceback_in_the_log_and_no_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LinearProbe, "forward_backward", lambda self, batch: 1 / 0)
    before = sys.stdout
    with pytest.raises(ZeroDivisionError):
        run(make_cfg(tmp_path))
    assert sys.stdout is before and "Traceback" not in capsys.readouterr().out
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text() and not (tmp_path / "result.json").exists()


def test_a_log_on_a_full_disk_ends_the_run_with_the_name_of_its_folder(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (tmp_path / "log.txt").symlink_to("/dev/full")
    before = sys.stdout
    with pytest.raises(OSError, match="No space left on device; make room there") as caught:
        run(make_cfg(tmp_path))
    assert caught.value.filename == str(tmp_path) and sys.stdout is before


def test_nothing_tested_is_no_result(tmp_path):
    assert run(make_cfg(tmp_path / "a"), no_train=True) is None
    assert run(make_cfg(tmp_path / "b", "TEST.NO_TEST", "True")) is None
    assert not list(tmp_path.glob("*/result.json"))


def test_labels_of_another_test_set_are_refused(tmp_path, monkeypatch):
    from dassl.evaluation import Classification

    evaluate = Classification.evaluate

    def forgetful(self):
        results = evaluate(self)
        self._y_true = self._y_true[1:]
        return results

    monkeypatch.setattr(Classification, "evaluate", forgetful)
    with pytest.raises(store.ResultError, match="1396 labels or outcomes that are not those of the 1397 test items"):
        run(make_cfg(tmp_path))


class Distance(Task):
    """How far the predicted digit is from the true one."""

    name = "distance"
    measures = (Measure("error", "Error", unit="", higher_is_better=False),)

    def measure(self, outcomes):
        return {"error": sum(outcomes) / len(outcomes)}


def test_a_trainer_may_bring_its_task_and_outcomes(tmp_path, monkeypatch):
    def test(self, split=None):
        items = self.dm.dataset.test
        self.task, self.outcomes = Distance(), [abs(item.label - 4) for item in items][: self.kept]

    monkeypatch.setattr(LinearProbe, "test", test)
    monkeypatch.setattr(LinearProbe, "kept", 1397, raising=False)
    result = run(make_cfg(tmp_path / "a"))
    assert (result["task"], result["primary"], result["n"]) == ("distance", "error", 1397)
    assert result["metrics"] == {"error": pytest.approx(2.5, abs=0.1)}
    assert result["measures"]["error"]["higher_is_better"] is False
    monkeypatch.setattr(LinearProbe, "kept", 5)
    with pytest.raises(store.ResultError, match="5 labels or outcomes that are not those of the 1397 test items"):
        run(make_cfg(tmp_path / "b"))


def test_groups_of_test_items_are_measured_apart(tmp_path, monkeypatch):
    from dicap.datasets.digits import Digits

    monkeypatch.setattr(Digits, "group", lambda self, items: {item: f"digit {item[1] % 2}" for item in items})
    result = run(make_cfg(tmp_path))
    assert list(result["groups"]) == ["digit 0", "digit 1"]
    assert sum(group["n"] for group in result["groups"].values()) == 1397


def test_some_test_items_are_enough_for_a_trial(probe_result, tmp_path):
    result = run(make_cfg(tmp_path, "DATASET.TEST_LIMIT", "7"), eval_only=True)
    assert result["n"] == 7 and result["digests"]["config"] != probe_result[1]["digests"]["config"]
    assert result["digests"]["data"] != probe_result[1]["digests"]["data"]


def test_model_digest_sees_what_is_learned_and_nothing_else():
    class Trainer:
        pass

    trainer, model = Trainer(), torch.nn.BatchNorm1d(3)
    assert model_digest(trainer) == ""
    trainer._models = {"m": model}
    first = model_digest(trainer)
    model.running_mean += 1  # a buffer
    assert model_digest(trainer) == first
    other = copy.deepcopy(model)
    other.weight.data += 1e-6
    trainer._models = {"m": other}
    assert model_digest(trainer) != first
    other.requires_grad_(False)
    assert model_digest(trainer) == ""
    other.FITTED = ("running_mean",)  # a buffer that was computed from the training items
    computed = model_digest(trainer)
    other.running_mean += 1
    assert computed and model_digest(trainer) != computed


def test_model_digest_of_a_learner_is_that_of_its_state():
    class Averaged(Learner):
        """Keeps an average of its parameter in a buffer, beside tensors of the bound texts, which are not saved."""

        def __init__(self):
            torch.nn.Module.__init__(self)
            self.shift = torch.nn.Parameter(torch.zeros(2))
            self.register_buffer("average", torch.zeros(2))
            self.register_buffer("tokens", torch.zeros(2), persistent=False)

    learner = Averaged()
    trainer = SimpleNamespace(_models={"learner": learner})
    first = model_digest(trainer)
    learner.tokens += 1
    assert model_digest(trainer) == first != ""
    learner.average += 1
    second = model_digest(trainer)
    learner.shift.data += 1
    assert len({first, second, model_digest(trainer)}) == 3


def test_nothing_is_fitted_on_a_test_set(tmp_path, monkeypatch):
    """A learner that is computed in closed form has no parameter that takes a gradient, and is still fitted to images."""
    from dicap.datasets.digits import Digits
    from dicap.learner import Facts

    monkeypatch.setattr(Digits, "test_only", True)
    monkeypatch.setattr(Digits, "val_is_test", True)
    monkeypatch.delattr(LinearProbe, "forward_backward")
    monkeypatch.setattr(LinearProbe, "train", LinearProbe.test)
    assert run(make_cfg(tmp_path))["n"] == 1397  # nothing is learned
    monkeypatch.setattr(LinearProbe, "facts_of", lambda cfg: Facts(fit="closed_form"), raising=False)
    with pytest.raises(ConfigError, match="Digits is a test set of another dataset's classes"):
        run(make_cfg(tmp_path))


def test_nothing_is_trained_on_a_test_set(tmp_path, monkeypatch):
    from dicap.datasets.digits import Digits

    monkeypatch.setattr(Digits, "test_only", True)
    monkeypatch.setattr(Digits, "val_is_test", True)
    with pytest.raises(ConfigError, match="Digits is a test set of another dataset's classes.*--eval-only --model-dir"):
        run(make_cfg(tmp_path))
    assert run(make_cfg(tmp_path), eval_only=True)["n"] == 1397
