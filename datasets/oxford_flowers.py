"""OxfordFlowers: 102 kinds of flowers (Nilsback, Zisserman 2008)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.official import by_groups, look_up, read_mat
from dicap.data.sources import LISTS, Source
from dicap.data.split import read_json
from dicap.datasets.base import FewShotDataset, Items


@DATASET_REGISTRY.register()
class OxfordFlowers(FewShotDataset):
    folder, images = "oxford_flowers", "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    published = "0de5aa789acc0ea7213557746dbe6361eed26cdf5f850b3150f80fd953feee65"
    counts = 102, 4093, 1633, 2463
    template = "a photo of a {}, a type of flower."
    sources = (
        Source(
            "102flowers.tgz",
            url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
            size=344_862_509,
            unpack=("jpg",),
            md5="52808999861908f626f3c1f4e79d11fa",
            sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
        ),
        Source(split_file, drive="1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
        Source(
            "imagelabels.mat",
            url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",
            size=502,
            optional=LISTS,
            md5="e0620be6f572b9609742df49c70aed4d",
            sha256="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
        ),
        Source("cat_to_name.json", drive="1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0", optional=LISTS),
    )
    licence = "not stated; the pictures were found on the web or taken by the authors"
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"

    def official(self) -> dict[str, Items]:
        """image_00001.jpg has the first label of imagelabels.mat; labels from 1, classes in the order that they appear in."""
        file = f"{self.dataset_dir}/cat_to_name.json"
        names, labels = read_json(file), map(int, read_mat(f"{self.dataset_dir}/imagelabels.mat", "labels"))
        groups: dict[int, Items] = {}
        for number, label in enumerate(labels, 1):
            item = f"image_{number:05d}.jpg", label - 1, look_up(names, str(label), file)
            groups.setdefault(label, []).append(item)
        return by_groups(self.dataset_dir, groups.values())
