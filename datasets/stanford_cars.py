"""StanfordCars: 196 makes, models and years of cars (Krause et al. 2013)."""

from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.official import by_lists, look_up, read_mat
from dicap.data.sources import LISTS, Source
from dicap.datasets.base import FewShotDataset, Items


@DATASET_REGISTRY.register()
class StanfordCars(FewShotDataset):
    folder, images = "stanford_cars", ""
    split_file = "split_zhou_StanfordCars.json"
    published = "a655a8a4b9db10e1b79b040cec6d4e6c943e997e65029c96ac763d07164225b7"
    counts = 196, 6509, 1635, 8041
    sources = (
        Source(
            "stanford_cars.zip",
            url="https://huggingface.co/zhengli97/prompt_learning_dataset/resolve/"
            "ceb3112337fb6e1bf71534e355ca5569b63f19a6/stanford_cars.zip",
            size=1_959_002_685,
            origin="mirror",
            sha256="50812812f33534ef2906b992762f96e8a5bb57b0eedc53800e91b7ed599abf8e",
            unpack=("cars_train", "cars_test"),
            also=("devkit", "cars_test_annos_withlabels.mat"),
            note="the authors' site is gone",
        ),
        Source(split_file, drive="1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
        *(
            Source(
                f"cars_{part}.tgz",
                size=size,
                sha256=digest,
                unpack=(f"cars_{part}",),
                optional="the authors' archive, instead of stanford_cars.zip",
                note="from someone who has it",
            )
            for part, size, digest in (
                ("train", 979_269_282, "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288"),
                ("test", 977_350_468, "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243"),
            )
        ),
        Source(
            "car_devkit.tgz",
            url="https://github.com/pytorch/vision/files/11644847/car_devkit.tgz",
            size=330_960,
            origin="mirror",
            unpack=("devkit",),
            optional=LISTS,
            md5="c3b158d763b6e2245038c8ad08e45376",
            sha256="b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
        ),
        Source(
            "cars_test_annos_withlabels.mat",
            size=185_758,
            md5="b0a2b23655a3edd16d84508592a98d10",
            sha256="790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
            optional=LISTS,
            note="from someone who has it",
        ),
    )
    licence = "not stated by the copies that are left; the pictures were found on the web"
    homepage = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"

    def official(self) -> dict[str, Items]:
        """Labels from 1; in the names the year comes first."""
        names = [str(name[0]) for name in read_mat(f"{self.dataset_dir}/devkit/cars_meta.mat", "class_names")]
        called = {label: " ".join([*name.split(" ")[-1:], *name.split(" ")[:-1]]) for label, name in enumerate(names)}

        def items(images: str, file: str) -> Items:
            rows = read_mat(f"{self.dataset_dir}/{file}", "annotations")
            labels = [int(row["class"][0, 0]) - 1 for row in rows]
            return [(f"{images}/{row['fname'][0]}", y, look_up(called, y, file)) for row, y in zip(rows, labels)]

        trainval = items("cars_train", "devkit/cars_train_annos.mat")
        return by_lists(self.dataset_dir, trainval, items("cars_test", "cars_test_annos_withlabels.mat"))
