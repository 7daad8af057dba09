"""The images that a run reads."""
import os

from dicap.data.split import PARTS, DatasetError, Items


def check_images(split: dict[str, Items], folder: str) -> None:
    """Raises DatasetError naming the first missing images and their classes."""
    missing = [item for part in PARTS for item in split[part] if not os.path.isfile(os.path.join(folder, item[0]))]
    if missing:
        names = "; ".join(f"{path} (class {name})" for path, _, name in missing[:5])
        more = " ..." if len(missing) > 5 else ""
        raise DatasetError(
            f"{len(missing)} images are missing in {folder}: {names}{more}; restore them (CausalShapes and Digits are"
            " written again when their folder is deleted)"
        )
