"""What is learned: a module over a frozen CLIP that states in four facts what of it changes; the trainer does the rest.

    IMAGE    frozen     the image features are CLIP's
             features   the learner maps frozen features: they are still encoded once and cached
             tower      the learner changes the image tower: it gets images, nothing is cached
    TEXT     fixed      the text features are those of hand prompts
             shared     learned, the same for all images: encoded once a step, once an evaluation
             per_image  they depend on the image: encoded for each image
    CLASSES  any        it may be bound to any texts, so that what base classes taught is tested on new ones
             trained    its parameters belong to the classes of the training
    FIT      none       there is nothing to learn
             closed_form  `fit` computes it
             steps      an optimiser learns it; where `fit` is defined it is called first

A learner of one's own is a subclass in a file that `dicap.trainer.register` makes a method (README.md has one, Shift).
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicap.inert import AGAIN, check_finite
from dicap.options import ConfigError, Option
from dicap.text_tower import MEMORY, TextTower, embed
from dicap.wording import check_template, readable

log = logging.getLogger(__name__)

CHOICES = {
    "image": ("frozen", "features", "tower"),
    "text": ("fixed", "shared", "per_image"),
    "classes": ("any", "trained"),
    "fit": ("none", "closed_form", "steps"),
}
IMAGES_AT_ONCE = 8 * 224 * 224  # pixels that a CPU's tower takes together: more is slower, and takes more memory


@dataclass(frozen=True)
class Facts:
    """The four facts of a learner, see the head of this file. Raises ValueError for a fact that is none."""

    image: str = "frozen"
    text: str = "fixed"
    classes: str = "any"
    fit: str = "steps"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name.upper()} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")


class Learner(nn.Module):
    """Base of learners. Its state dict holds what was learned and nothing else: CLIP is no submodule.

    Args:
        clip: a `clip.model.CLIP`, frozen.
        options: its settings, attributes in lower case.
        texts: the C texts that it is trained on, such as class names.
        template: the hand prompt around a text, with one {}.
    """

    IMAGE, TEXT, CLASSES, FIT = "frozen", "fixed", "any", "steps"
    OPTIONS: dict[str, Option] = {}
    FOLDER = "learner"  # of its checkpoints in a run's folder
    FITTED: tuple[str, ...] = ()  # buffers that `fit` makes: of any shape when they are loaded
    texts: tuple[str, ...] = ()

    def __init__(self, clip: nn.Module, options: SimpleNamespace, texts: Sequence[str], template: str):
        super().__init__()
        self._clip = (clip,)  # in a tuple, so that it is no submodule
        self.options, self.template = options, check_template(template)
        self.text_tower = TextTower(clip, getattr(options, "text_memory", MEMORY))
        self._hand_text: Tensor | None = None
        if self.facts.classes == "trained":
            self.register_buffer("trained_classes", _digest(texts))

    @property
    def clip(self) -> Any:
        """The frozen CLIP."""
        return self._clip[0]

    @classmethod
    def facts_of(cls, options: SimpleNamespace) -> Facts:
        """Its facts under some settings. Override it where a setting decides one."""
        return Facts(cls.IMAGE, cls.TEXT, cls.CLASSES, cls.FIT)

    @classmethod
    def has_fit(cls) -> bool:
        """Whether `fit` computes something, so that cached views are needed."""
        return cls.fit is not Learner.fit

    @property
    def facts(self) -> Facts:
        """Its facts under its settings."""
        return self.facts_of(self.options)

    def bind(self, texts: Sequence[str]) -> None:
        """Score against these texts from now on: class names, captions, the candidates of one item.

        Raises ConfigError: other texts than those of the training, where CLASSES is trained.
        """
        if self.facts.classes == "trained" and not torch.equal(self.trained_classes.cpu(), _digest(texts)):
            raise ConfigError(
                f"{type(self).__name__} has parameters for each of the classes that it was trained on: it cannot be bound to"
                " others; train it on them, or choose settings without parameters for each class"
            )
        if tuple(texts) != self.texts:
            self.texts, self._hand_text = tuple(texts), None
            with torch.inference_mode(False), torch.no_grad():  # training may follow, whoever bound them
                self.read_texts(self.texts)

    def read_texts(self, texts: Sequence[str]) -> None:
        """Called by `bind`: prepare what `text` needs of the texts. With CLASSES any, nothing that is saved has C in its shape."""

    def image(self, x: Tensor) -> Tensor:
        """Features f (..., e), L2-normalised, of frozen features x (..., e); with IMAGE tower of images (B, 3, H, W)."""
        return x

    def text(self, f: Tensor | None = None) -> Tensor:
        """Text features t, L2-normalised fp32: (C, e), or (B, C, e) where TEXT is per_image.

        Args:
            f: (B, e) features of the images where TEXT is per_image, else None.
        """
        return self.hand_text()

    def logits(self, f: Tensor, t: Tensor) -> Tensor:
        """Scores logit_scale.exp() <f, t>: (..., C) for f (..., e) and t (C, e), or f (B, ..., e) and t (B, C, e)."""
        scale = self.clip.logit_scale.exp().float()
        with torch.autocast(t.device.type, enabled=False):  # rounding, times 100, would err most of all here
            f, t = f.float(), t.float()
            if t.dim() == 2:
                return scale * f @ t.t()
            return scale * torch.einsum("b...e,bce->b...c", f, t)

    def penalties(self, f: Tensor, t: Tensor, batch: dict) -> dict[str, Tensor]:
        """Losses () by name beside the task's, of a batch: its features f (B, e) and text features t.

        Args:
            batch: "img" (images, or their frozen features), "target", "index", "view", "group", on the device.
        """
        return {}

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Gradients of the named losses (): of their sum. Override it where they are to be combined in another way."""
        sum(losses.values()).backward()  # type: ignore[union-attr]

    def fit(self, features: Tensor, labels: Tensor, val: tuple[Tensor, Tensor] | None = None) -> None:
        """Compute what needs no steps, from frozen features (N, V, e) and labels (N,); val: features (N', e) and labels.

        What it makes goes into buffers, or parameters to be trained on, that FITTED names. Called without gradients.
        """

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Called behind each epoch, counted from 0, before anything is saved."""

    def parameter_groups(self, lr: float) -> list[dict[str, Any]] | None:
        """Groups for the optimiser, each with its learning rate, LR_SCALE times lr; None: one group with lr itself."""
        scale = getattr(self.options, "lr_scale", 1.0)
        return None if scale == 1 else [{"params": list(self.parameters()), "lr": lr * scale}]

    @torch.inference_mode(False)
    @torch.no_grad()
    def hand_text(self) -> Tensor:
        """(C, e) frozen text features of the hand prompts of the texts that are bound, L2-normalised fp32."""
        if self._hand_text is None and not self.texts:
            raise ConfigError(f"{type(self).__name__}: no texts are bound yet; hand prompts are there after `bind`")
        if self._hand_text is None:
            prompts = embed(self.clip, [self.template.format(readable(text)) for text in self.texts])
            with torch.autocast(self.clip.logit_scale.device.type, enabled=False):  # kept, also for evaluation
                self._hand_text = F.normalize(self.text_tower(prompts)[0].float(), dim=-1)
        return self._hand_text

    def load(self, state: dict[str, Tensor], source: str) -> None:
        """Take learned state, ours or a published one; token vectors of class names in it are dropped.

        Raises ConfigError: tensors are missing, unknown or of another size, or belong to other classes; the message
            names the source, the tensor and the sizes. FloatingPointError: a tensor holds NaN or Inf.
        """
        state = {key: value for key, value in state.items() if key not in ("token_prefix", "token_suffix")}
        for name, module in self.named_modules():
            if isinstance(module, Learner):
                module._take_fitted(state, f"{name}." if name else "")
        own = self.state_dict()
        if "trained_classes" in own:
            if "trained_classes" not in state:
                log.warning("%s does not say which classes it was trained on: they are taken to be these", source)
                state["trained_classes"] = own["trained_classes"]
            if not torch.equal(state["trained_classes"].cpu(), own["trained_classes"].cpu()):
                raise ConfigError(
                    f"{source} was trained on other classes, and {type(self).__name__} has parameters for each class with these"
                    " settings: it cannot be tested on classes that it was not trained on"
                )
        wanted, given = ({key: tuple(value.shape) for key, value in some.items()} for some in (own, state))
        wrong = [key for key in sorted(wanted | given) if wanted.get(key) != given.get(key)]
        if wrong:
            sizes = [
                f"{key}: expected {wanted.get(key, 'none')}, the file has {given.get(key, 'none')}" for key in wrong
            ]
            raise ConfigError(
                f"{source} does not fit ({'; '.join(sizes)}). Method, its settings (such as N_CTX, CTX_INIT, CSC) and backbone"
                " must be those of the training"
            )
        check_finite(state, source, AGAIN)
        self.load_state_dict(state)  # in the types of this module's tensors

    def _take_fitted(self, state: dict[str, Tensor], prefix: str) -> None:
        """Make room for what `fit` made when the state was saved: here it may not have run."""
        for name in self.FITTED:
            if prefix + name in state:
                value = state[prefix + name].to(self.clip.logit_scale.device)
                setattr(self, name, nn.Parameter(value) if name in self._parameters else value)
            elif getattr(self, name) is None:
                raise ConfigError(f"{type(self).__name__}: {name}, which `fit` makes, is not in the file")

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self._take_fitted(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _digest(texts: Sequence[str]) -> Tensor:
    """SHA-256 of the texts in order, (32,) uint8: what a file says of the classes that it was trained on."""
    return torch.tensor(list(hashlib.sha256("\n".join(texts).encode()).digest()), dtype=torch.uint8)


class Pair(Learner):
    """Two learners trained together, "CoOp+FeatureMap": the first makes the text features, the second the image's.

    options: a namespace for each of `parts`, by its name.
    """

    parts: tuple[type[Learner], type[Learner]]

    def __init__(self, clip: nn.Module, options: SimpleNamespace, texts: Sequence[str], template: str):
        super().__init__(clip, options, texts, template)
        self.learners = nn.ModuleList(
            part(clip, getattr(options, part.__name__), texts, template) for part in self.parts
        )

    @classmethod
    def facts_of(cls, options: SimpleNamespace) -> Facts:
        text, image = (part.facts_of(getattr(options, part.__name__)) for part in cls.parts)
        if text.image != "frozen" or image.text != "fixed" or {text.fit, image.fit} != {"steps"}:
            raise ConfigError(
                f"{cls.__name__}: the first of two learners must leave the image features frozen and the second the text"
                f" fixed, both be learned in steps; here they are {text} and {image}"
            )
        of_text, of_image = cls.parts
        if of_text.logits is not Learner.logits or any(part.backward is not Learner.backward for part in cls.parts):
            raise ConfigError(
                f"{cls.__name__}: a learner with a backward of its own cannot be one of two, nor be the first with logits of"
                " its own: the other would not know of them"
            )
        classes = "trained" if "trained" in (text.classes, image.classes) else "any"
        return Facts(image.image, text.text, classes, "steps")

    @classmethod
    def has_fit(cls) -> bool:
        return any(part.has_fit() for part in cls.parts)

    def read_texts(self, texts: Sequence[str]) -> None:
        for learner in self.learners:
            learner.bind(texts)

    def image(self, x: Tensor) -> Tensor:
        return self.learners[1].image(x)

    def text(self, f: Tensor | None = None) -> Tensor:
        return self.learners[0].text(f)

    def logits(self, f: Tensor, t: Tensor) -> Tensor:
        return self.learners[1].logits(f, t)

    def penalties(self, f: Tensor, t: Tensor, batch: dict) -> dict[str, Tensor]:
        of_text, of_image = (learner.penalties(f, t, batch) for learner in self.learners)
        return merge_losses(of_text, of_image, type(self).__name__)

    def fit(self, features: Tensor, labels: Tensor, val: tuple[Tensor, Tensor] | None = None) -> None:
        for learner in self.learners:
            learner.fit(features, labels, val)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        for learner in self.learners:
            learner.after_epoch(epoch, epochs)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]] | None:
        groups: list[dict[str, Any]] = []
        for learner in self.learners:
            groups += learner.parameter_groups(lr) or [{"params": list(learner.parameters()), "lr": lr}]
        return groups


def merge_losses(one: dict[str, Tensor], other: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Named losses of two sources. Raises ValueError where a name stands for two losses."""
    if twice := one.keys() & other.keys():
        raise ValueError(f"{name}: two losses are called {', '.join(sorted(twice))}; rename one")
    return {**one, **other}


class LearnedCLIP(nn.Module):
    """A frozen CLIP and its learner: what trains, tests and scores. Features are L2-normalised and fp32.

    Raises ConfigError: the learner does not do what its facts say.
    """

    def __init__(self, clip: nn.Module, learner: Learner):
        super().__init__()
        self.clip, self.learner, self.facts = clip, learner, learner.facts
        self.classnames = learner.texts
        self._kept: tuple[Any, Tensor | None] = ((), None)  # texts and their features, in an evaluation
        self._evaluating = False
        check_learner(learner)

    def encode_image(self, image: Tensor) -> Tensor:
        """Frozen features (B, e) of images (B, 3, H, W)."""
        at_once = max(1, IMAGES_AT_ONCE // image[0, 0].numel()) if image.device.type == "cpu" else len(image)
        with torch.no_grad():
            f = torch.cat([self.clip.encode_image(part) for part in image.split(at_once)])
            return F.normalize(f.float(), dim=-1)

    def image(self, x: Tensor) -> Tensor:
        """Features (B, e) as the learner has them, of images (B, 3, H, W) or frozen features (B, e).

        Raises ValueError: frozen features for a learner that changes the image tower.
        """
        if self.facts.image != "tower":
            return self.learner.image(self.encode_image(x) if x.dim() == 4 else x)
        if x.dim() != 4:
            raise ValueError(f"{type(self.learner).__name__} changes the image tower: it needs images, not features")
        return self.learner.image(x)

    def text(self, f: Tensor) -> Tensor:
        """Text features (C, e) or (B, C, e) for image features f (B, e).

        Raises ValueError: their shape is not what the learner's TEXT says.
        """
        texts, t = self._kept
        if t is None or texts is not self.learner.texts:
            t = text_of(self.learner, f)
            if self._evaluating and self.facts.text != "per_image":
                self._kept = self.learner.texts, t
        return t

    def bind(self, texts: Sequence[str] | None) -> None:
        """Bind the learner to texts; None: to the class names."""
        texts = self.classnames if texts is None else texts
        if tuple(texts) != self.learner.texts:
            self.learner.bind(texts)

    def score(self, image: Tensor, texts: Sequence[str] | None = None) -> Tensor:
        """Logits (B, C) of images or frozen features against texts; None: the class names."""
        self.bind(texts)
        return self(image)

    def logits(self, f: Tensor, t: Tensor) -> Tensor:
        """The learner's. Raises FloatingPointError in an evaluation where an item would be class 0 for want of numbers."""
        logits = self.learner.logits(f, t)
        if self._evaluating:
            lengths = torch.cat([f.norm(dim=-1).flatten(), t.norm(dim=-1).flatten()])
            if not (lengths.isfinite().all() & (lengths > 0).all() & logits.amax(-1).isfinite().all()):
                raise FloatingPointError(
                    f"{type(self.learner).__name__} gives features or logits that are NaN, Inf or all zero: what it has learned"
                    " is too large, or damaged; lower OPTIM.LR, or use PREC fp32"
                )
        return logits

    def parts(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image features (B, e), text features (C, e) or (B, C, e), logits (B, C)."""
        f = self.image(image)
        t = self.text(f)
        return f, t, self.logits(f, t)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.parts(image)[2]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Nothing is learned meanwhile: text features that no image decides are encoded once for all batches."""
        self._evaluating, self._kept = True, ((), None)
        try:
            yield
        finally:
            self._evaluating, self._kept = False, ((), None)


def check_learner(learner: Learner, fitted: bool = False) -> None:
    """Raises ConfigError where a learner does not do what its facts say.

    Args:
        fitted: whether `fit` was called, where there is one: what it makes can be checked only then.
    """
    cls, facts = type(learner), learner.facts
    trainable = any(p.requires_grad for p in learner.parameters())
    overridden = {name: getattr(cls, name) is not getattr(Learner, name) for name in ("image", "text", "fit")}
    constant = cls.facts_of.__func__ is Learner.facts_of.__func__  # type: ignore[attr-defined]  # else a setting decides
    contradictions = [
        (constant and overridden["image"] != (facts.image != "frozen"), f"IMAGE is {facts.image}", "image"),
        (constant and overridden["text"] != (facts.text != "fixed"), f"TEXT is {facts.text}", "text"),
        (facts.fit == "closed_form" and not learner.has_fit(), "FIT is closed_form", "fit"),
        (facts.fit == "none" and learner.has_fit(), "FIT is none", "fit"),
    ]
    for wrong, fact, method in contradictions:
        if wrong:
            state = "defines" if overridden[method] else "does not define"
            raise ConfigError(f"{cls.__name__}: {fact}, but it {state} the method {method}; correct one of the two")
    if learner.has_fit() and not fitted:
        return
    if trainable != (facts.fit == "steps"):
        state = "has" if trainable else "has no"
        raise ConfigError(f"{cls.__name__}: FIT is {facts.fit}, but it {state} parameters that take a gradient")
    texts, training = learner.texts, learner.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        learner.eval()
        try:
            _try_out(learner, facts)
        finally:
            learner.train(training)
            learner.bind(texts)


def _try_out(learner: Learner, facts: Facts) -> None:
    """Score random inputs, with CLASSES any against texts of no training, and compare with the facts."""
    name, generator = type(learner).__name__, torch.Generator().manual_seed(0)
    if facts.classes == "any":
        learner.bind(("one text", "another one", "a third"))
    results = []
    for _ in range(2):
        f = learner.image(random_input(learner, generator))
        t = text_of(learner, f)
        results.append((f, t, learner.logits(f, t)))
    (f, t, logits), (_, other, _) = results
    if logits.shape != (2, len(learner.texts)):
        raise ConfigError(
            f"{name}: CLASSES is {facts.classes}, but {len(learner.texts)} texts give logits {tuple(logits.shape)}; it may have"
            " parameters for each class: then CLASSES is trained"
        )
    if facts.text != "per_image" and not torch.equal(t, other):
        raise ConfigError(
            f"{name}: TEXT is {facts.text}, but its text features change with the images: then TEXT is per_image"
        )
    for kind, value in (("image", f), ("text", t)):
        if value.dtype != torch.float32 or not (value.norm(dim=-1) - 1).abs().max() <= 1e-2:  # nor is NaN
            raise ConfigError(
                f"{name}: its {kind} features are not of unit length and fp32; end with F.normalize(x.float(), dim=-1)"
            )


def random_input(learner: Learner, generator: torch.Generator) -> Tensor:
    """What `image` takes: features (2, e) of unit length; with IMAGE tower images (2, 3, H, W)."""
    size, tower = learner.clip.visual.input_resolution, learner.facts.image == "tower"
    shape = (2, 3, size, size) if tower else (2, learner.clip.text_projection.shape[1])
    x = torch.randn(shape, generator=generator).to(learner.clip.logit_scale.device)
    return x if tower else F.normalize(x, dim=-1)


def text_of(learner: Learner, f: Tensor) -> Tensor:
    """Text features (C, e) or (B, C, e) for image features f (B, e). Raises ValueError for another shape than TEXT says."""
    of_image = learner.facts.text == "per_image"
    t = learner.text(f if of_image else None)
    expected = (*((len(f),) if of_image else ()), len(learner.texts))
    if t.shape[:-1] != expected:
        raise ValueError(
            f"{type(learner).__name__}: TEXT is {learner.facts.text}, so text features of shape {(*expected, f.shape[-1])} were"
            f" expected; they are {tuple(t.shape)}"
        )
    return t


def plain_state(learner: Learner) -> dict[str, Any]:
    """Numbers and tensors, also in lists and dictionaries, that a learner holds as plain attributes: no file keeps them.

    By name; a tensor as its shape and sum.
    """

    def mark(value: Any) -> Any:
        if isinstance(value, Tensor):
            return [*value.shape, value.double().sum().item()]
        if isinstance(value, (dict, list, tuple)):
            marks = map(mark, value.values() if isinstance(value, dict) else value)
            return [one for one in marks if one is not None] or None
        return value if isinstance(value, (int, float)) else None

    own, modules = {*vars(nn.Module()), "_hand_text"}, learner.named_modules()
    values = {f"{m}.{key}".lstrip("."): x for m, module in modules for key, x in vars(module).items() if key not in own}
    return {name: marked for name, value in values.items() if (marked := mark(value)) is not None}


# -- the learners that there are -------------------------------------------------------------------------------------------

LEARNERS: dict[str, type[Learner]] = {}  # by name; `dicap.trainer.register` adds to it


def learner_class(name: str) -> type[Learner]:
    """The class of a learner's name, such as "CoOp" or "CoOp+FeatureMap".

    Looked up among dicap's own learners and those of plug-ins, never in Dassl's registry, where a name may be a fork's.

    Raises ConfigError: unknown; the message lists those there are.
    """
    names = name.split("+")
    unknown = [part for part in names if part not in LEARNERS]
    if unknown or len(names) > 2:
        raise ConfigError(
            f"unknown learner {name!r}; there are: {', '.join(LEARNERS)}, and two of them as CoOp+FeatureMap"
        )
    if len(names) == 1:
        return LEARNERS[name]
    return type(name, (Pair,), {"parts": tuple(LEARNERS[part] for part in names)})


def build_learner(name: str, clip: nn.Module, options: SimpleNamespace, texts: Sequence[str], template: str) -> Learner:
    """A learner on the device of its CLIP, bound to the texts that it is trained on."""
    learner = learner_class(name)(clip, options, texts, template).to(clip.logit_scale.device)  # type: ignore[arg-type]
    learner.bind(texts)
    return learner
