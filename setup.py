"""The package `dicap`: pip install .

trainers/, datasets/ and configs/ at the top are the family's places; dicap/trainers, dicap/datasets and dicap/configs
are symbolic links to them, so that only `dicap` is installed and Hugging Face's `datasets` is never shadowed.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "dicap" / "__init__.py").read_text(encoding="utf-8"), re.M)[1]
README = HERE / "README.md"

TEST = ["pytest>=8", "open_clip_torch", "ruff>=0.6", "mypy>=1.11", "types-PyYAML", "matplotlib", "setuptools>=77"]

setup(
    name="dicap",
    version=VERSION,
    description="Causality-aligned prompt learning for CLIP with diffusion counterfactuals, a plugin for Dassl.pytorch",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE", "NOTICE.md"],
    keywords="CLIP prompt-learning CoOp CoCoOp causality counterfactual diffusion few-shot",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["dicap", "dicap.*"]),
    package_data={
        "dicap": [
            "configs/**/*.yaml",
            "engine/config/*.yaml",
            "backbones/*.safetensors",
            "backbones/*.md",
            "world/*.md",
            "report/*.csv",
            "report/*.j2",
        ]
    },
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "clip-anytorch",
        "yacs",
        "pyyaml",
        "numpy",
        "pillow",
        "packaging",
        "scikit-learn",
        "scipy",
        "safetensors",
        "gdown",
        "requests",
        "tensorboard",
        "rich",
        "tqdm",
        "matplotlib",
        "jinja2",
    ],
    extras_require={"test": TEST, "open_clip": ["open_clip_torch"], "pretrain": ["matplotlib"]},
    entry_points={"console_scripts": ["dicap = dicap.cli:main"]},
)
