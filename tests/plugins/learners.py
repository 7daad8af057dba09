"""Learners as somebody else would write them, one of each kind: tests/test_learners.py loads this file as a plugin."""

import torch
import torch.nn.functional as F
from torch import nn

from dicap.learner import Facts, Learner
from dicap.options import Option
from dicap.trainer import register


def width(clip):
    return clip.text_projection.shape[1]


@register
class Shift(Learner):
    """Image features moved by one vector; the texts are hand prompts."""

    IMAGE = "features"

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.shift = nn.Parameter(torch.zeros(width(clip)))

    def image(self, x):
        return F.normalize(x + self.shift, dim=-1)


@register
class TextShift(Learner):
    """Text features moved by one vector for all classes, and pulled back by a penalty."""

    TEXT = "shared"
    OPTIONS = {"PULL": Option(1.0, "weight of the penalty", least=0)}

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.shift = nn.Parameter(torch.zeros(width(clip)))

    def text(self, f=None):
        return F.normalize(self.hand_text() + self.shift, dim=-1)

    def penalties(self, f, t, batch):
        return {"pull": self.options.pull * (1 - (t * self.hand_text()).sum(-1)).mean()}


@register
class ImageShift(Learner):
    """Text features that depend on the image, and are no prompts."""

    TEXT = "per_image"

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.weight = nn.Parameter(0.1 * torch.randn(width(clip), width(clip)))

    def text(self, f=None):
        return F.normalize(self.hand_text() + (f @ self.weight)[:, None], dim=-1)  # (B, C, e)


@register
class PixelPrompt(Learner):
    """A picture that is added to every image: the image tower's input, and with it all that it makes of it, changes."""

    IMAGE = "tower"
    TEXT = "shared"

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        size = clip.visual.input_resolution
        self.pixels = nn.Parameter(torch.zeros(3, size, size))
        self.scale = nn.Parameter(torch.ones(width(clip)))  # of the texts, together with the tower

    def image(self, x):
        return F.normalize(self.clip.encode_image(x + self.pixels).float(), dim=-1)

    def text(self, f=None):
        return F.normalize(self.hand_text() * self.scale, dim=-1)


@register
class ClassWeights(Learner):
    """A linear classifier begun at the texts: it has a row for each class of the training."""

    CLASSES = "trained"

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.weight = nn.Parameter(torch.zeros(len(texts), width(clip)))

    def logits(self, f, t):
        return super().logits(f, t) + f @ self.weight.T


@register
class Whitening(Learner):
    """Image features through the inverse covariance of the training's: computed, not trained."""

    IMAGE, FIT = "features", "closed_form"
    FITTED = ("precision",)

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.register_buffer("precision", None)

    def fit(self, features, labels, val=None):
        x = features.flatten(0, 1)
        covariance = torch.cov(x.T) + 0.1 * torch.eye(x.shape[1], device=x.device)
        self.precision = torch.linalg.inv(covariance) / torch.linalg.inv(covariance).norm()

    def image(self, x):
        return F.normalize(x + x @ self.precision, dim=-1)


@register
class Cache(Learner):
    """Keys and labels of the training images beside the texts; the keys are trained on, what they say is of its classes."""

    CLASSES = "trained"
    FITTED = ("keys", "values")

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.register_buffer("keys", None)
        self.register_buffer("values", None)
        self.sharpness = nn.Parameter(torch.ones(()))

    def fit(self, features, labels, val=None):
        self.keys, self.values = features.mean(1), F.one_hot(labels, len(self.texts)).float()

    def logits(self, f, t):
        if self.keys is None:  # neither fitted nor loaded: zero-shot CLIP
            return super().logits(f, t)
        return super().logits(f, t) + (self.sharpness * (f @ self.keys.T - 1)).exp() @ self.values


@register
class Averaged(Learner):
    """A vector whose average over the epochs, kept in a buffer, is what the last epoch leaves."""

    IMAGE = "features"

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.shift = nn.Parameter(torch.zeros(width(clip)))
        self.register_buffer("total", torch.zeros(width(clip)))

    def image(self, x):
        return F.normalize(x + self.shift, dim=-1)

    @torch.no_grad()
    def after_epoch(self, epoch, epochs):
        self.total += self.shift
        if epoch + 1 == epochs:
            self.shift.copy_(self.total / epochs)


@register
class Projected(Learner):
    """Gradients of the task without what speaks against its penalty (as ProGrad does)."""

    IMAGE = "features"

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.shift = nn.Parameter(torch.zeros(width(clip)))

    def image(self, x):
        return F.normalize(x + self.shift, dim=-1)

    def penalties(self, f, t, batch):
        return {"general": (self.shift - 0.1).square().sum()}

    def backward(self, losses):
        general = losses.pop("general")
        (direction,) = torch.autograd.grad(general, self.shift, retain_graph=True)
        (gradient,) = torch.autograd.grad(sum(losses.values()), self.shift)
        along = (gradient @ direction).clamp_max(0) / direction.square().sum().clamp_min(1e-12)
        self.shift.grad = gradient - along * direction


@register
class Bare(Learner):
    """Nothing to learn; which template it uses is a setting."""

    FIT = "none"
    OPTIONS = {"WORDS": Option("a drawing of a {}.", "the template")}

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, options.words)


@register
class Switch(Learner):
    """A setting decides a fact."""

    OPTIONS = {"SIDE": Option("image", "what is moved", ("image", "text"))}

    @classmethod
    def facts_of(cls, options):
        return Facts(image="features") if options.side == "image" else Facts(text="shared")

    def __init__(self, clip, options, texts, template):
        super().__init__(clip, options, texts, template)
        self.shift = nn.Parameter(torch.zeros(width(clip)))

    def image(self, x):
        return F.normalize(x + self.shift, dim=-1) if self.options.side == "image" else x

    def text(self, f=None):
        return self.hand_text() if self.options.side == "image" else F.normalize(self.hand_text() + self.shift, dim=-1)
