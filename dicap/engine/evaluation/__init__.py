"""Evaluators: they see outputs and labels batch by batch and report at the end."""

from dicap.engine.evaluation.build import EVALUATOR_REGISTRY, build_evaluator
from dicap.engine.evaluation.evaluator import Classification, EvaluatorBase

__all__ = ["EVALUATOR_REGISTRY", "Classification", "EvaluatorBase", "build_evaluator"]
