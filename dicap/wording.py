"""Class names in words: what stands in a prompt, and in which template."""

from dicap.options import ConfigError


def readable(name: str) -> str:
    """A class name as it stands in a prompt: `_` is a space."""
    return name.replace("_", " ")


def hand_template(dataset: object) -> str:
    """The dataset's own template, else CLIP's."""
    return getattr(dataset, "template", "") or "a photo of a {}."


def check_template(template: str) -> str:
    """The template. Raises ConfigError where the class name has no place in it, or several."""
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ConfigError(f"template {template!r} needs exactly one {{}} where the class name goes")
    return template
