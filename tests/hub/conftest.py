"""Folders of every family, written once; without torch and transformers no test of this folder runs."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from . import families


@pytest.fixture(scope="session", params=families.ENCODERS, ids=lambda family: family.__name__)
def encoder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


@pytest.fixture(scope="session", params=families.GENERATORS, ids=lambda family: family.__name__)
def generator(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


@pytest.fixture(scope="session")
def rag_models():
    """Their RAG models, 'token' and 'sequence', of the same weights."""
    return families.rag_models()


@pytest.fixture(scope="session")
def rag_folder(rag_models, tmp_path_factory):
    """A folder with their layouts: token, sequence, bare, old."""
    folder = tmp_path_factory.mktemp("rag")
    families.write_rag(folder, rag_models)
    return folder
