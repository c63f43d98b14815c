"""Writes a trained model as a Hugging Face folder: `python -m rag_jax.export --workdir --out [--with_index]`.

transformers' RagTokenForGeneration and RagSequenceForGeneration express these question encoders and readers:

| configuration | exported |
|---|---|
| encoder.pooling = 'cls', encoder.projection = 0 or more (DPR) | yes |
| retrieval.score_scale, learned or not | yes, folded into the encoder's last map |
| encoder.pooling = 'mean' | no |
| encoder.normalize = True | no |
| encoder.question_prefix | no |
| data.classify = 'token' | yes: it writes the word that stands for the label |
| data.classify = 'head' | no |
| index.kind = 'bm25' | without the index |
| index.kind = 'none', a closed book | no |
| retrieval.null_document | no |
"""

from absl import flags

from rag_jax import command
from rag_jax.errors import UserError
from rag_jax.workdir import Workdir

command.define_flags()
flags.DEFINE_string("out", None, "Folder to write; it must be new or empty.")
flags.DEFINE_string("index", None, "Folder of another index made by the same encoder; by default WORKDIR/index.")
flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint.")
flags.DEFINE_bool("with_index", False, "Also passages and vectors, for transformers (datasets, faiss) and for rag_jax.")
flags.DEFINE_string("push_to_hub", None, "Then upload the folder to this name, as owner/name.")


def main(_) -> None:
    """Loads the run, writes the folder, uploads it if asked to."""
    options = flags.FLAGS
    place = Workdir(options.workdir)
    if not options.out:
        raise UserError("--out: missing, expected the folder to write, as --out=hf/demo")
    settings = command.checked(options.config) if options.config else None
    from rag_jax.api import Rag
    from rag_jax.evaluation.report import whose
    from rag_jax.files import read_sealed
    from rag_jax.hub import folder, source
    from rag_jax.storage import pull

    if options.push_to_hub:
        source.check_name(options.push_to_hub, "--push_to_hub")
    out = folder.new_folder(options.out)
    rag = Rag.load(place.folder, index=options.index, checkpoint=options.checkpoint, config=settings)
    path = pull(place.folder / "metrics.json")
    evaluation = read_sealed(path) if path.is_file() else {}
    measured = evaluation.get("of", {}).get("test") == whose(rag.identity(), rag.config.data, "test")
    scores = evaluation.get("test") if measured else None
    rag.save_pretrained(out, with_index=options.with_index, scores=scores)
    print(f"{options.out}: written; README.md says how to use it")
    if evaluation and not measured:
        print(
            f"its card has no scores: {path} is of another checkpoint, index, decoding or test; evaluate this one first"
        )
    if options.push_to_hub:
        print(source.upload(out, options.push_to_hub, "--push_to_hub"))


if __name__ == "__main__":
    command.run_main(main)
