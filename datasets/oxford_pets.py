"""OxfordPets: 37 breeds of cats and dogs (Parkhi et al. 2012)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.official import by_lists, from_one, read_rows
from dicap.data.sources import LISTS, Source
from dicap.datasets.base import FewShotDataset, Items


@DATASET_REGISTRY.register()
class OxfordPets(FewShotDataset):
    folder, images = "oxford_pets", "images"
    split_file = "split_zhou_OxfordPets.json"
    published = "74df30c3129744d6138e49b559c5abff61390a2b4ddbb3dbf8f17c362994334a"
    counts = 37, 2944, 736, 3669
    template = "a photo of a {}, a type of pet."
    sources = (
        Source(
            "images.tar.gz",
            url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
            size=791_918_971,
            unpack=("images",),
            md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
            sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
        ),
        Source(split_file, drive="1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
        Source(
            "annotations.tar.gz",
            url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
            size=19_173_078,
            unpack=("annotations",),
            md5="95a8c909bbe2e81eed6a22bccdf3f68f",
            sha256="52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
            optional=LISTS,
        ),
    )
    licence = "CC BY-SA 4.0; the pictures belong to their owners"
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/pets"

    def official(self) -> dict[str, Items]:
        """Labels stand in the lists, from 1; names are the files' own, in lower case."""

        def items(part: str) -> Items:
            file = f"{self.dataset_dir}/annotations/{part}.txt"
            rows = read_rows(file, 4)
            return [(f"{name}.jpg", from_one(label, file), name.rpartition("_")[0].lower()) for name, label, *_ in rows]

        return by_lists(f"{self.dataset_dir}/annotations", items("trainval"), items("test"))
