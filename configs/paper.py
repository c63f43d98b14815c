"""What the configurations of the paper's tasks have in common (Lewis et al. 2020, arXiv 2005.11401); they load this.

--config=paper alone answers nobody's question: take nq, triviaqa, webquestions, curatedtrec, msmarco, jeopardy, fever3
or fever2. After a colon, with commas between: token or sequence (RAG-Token, RAG-Sequence); frozen (the question encoder
is not trained) or bm25 (passages are found by words), the ablations of table 6, or closedbook (no passages: BART alone,
a baseline of table 2; train and evaluate are all its commands); runlocal (small, from scratch, of the demo's facts in
the form of the task's files: two CPU cores, five minutes, no downloads), as nq:sequence,runlocal.

The paper's: DPR's encoders and BART-large; Wikipedia of December 2018 in 21 million passages of 100 words; the question
encoder and the generator are trained, the passage encoder is not; 5 or 10 passages in training; on questions 15 (token)
or 50 (sequence) in the test, the answer decoded greedily.
Hugging Face's (finetune_rag.sh of transformers' examples, RagConfig): the learning rate, 8 x 8 questions a step, AdamW
with its weight decay, warm-up and clipping, label smoothing, dropout; 128 tokens of a question, 300 of an input, 25 of
an answer; 5 passages of the paper's 5 or 10; which DPR it is, that of Natural Questions: the paper says only that it
had learned from that and TriviaQA.
Ours: the number of steps (the script has 100 epochs and stops early; here too the best checkpoint is kept, by the
task's first measure on 500 validation questions); bfloat16, where both have mixed precision in float16; ScaNN, where
both have FAISS.

DPR's script fetches Wikipedia's passages and its four tasks; started in the folder that these commands are started in,
it leaves each file where these configurations look for it, below downloads:
python DPR/dpr/data/download_data.py --resource=data.wikipedia_split.psgs_w100 brings the 21,015,324 passages.
The index of one task serves all of them: pass it on by ln -s ../nq/index runs/OTHER/index.
"""

from rag_jax.config import default_config

TEST_K = {"token": 15, "sequence": 50}


def get_config(kind: str = "sequence"):
    """kind: 'token' or 'sequence'."""
    config = default_config()
    config.kind = kind
    config.parts.update(
        question_encoder="facebook/dpr-question_encoder-single-nq-base",
        passage_encoder="facebook/dpr-ctx_encoder-single-nq-base",
        generator="facebook/bart-large",
    )
    config.retriever.shared = False
    config.data.passages = "downloads/data/wikipedia_split/psgs_w100.tsv"
    config.length.update(question=128, passage=256, source=300, target=25)  # of passages 256, DPR's
    config.encoder.dtype = config.generator.dtype = config.index.dtype = "bfloat16"
    # Ours, so that it fits eight chips of 16 GB (python -m rag_jax.plan): layers computed again, few answers at a time.
    config.encoder.remat = config.generator.remat = "full"
    config.generator.attention_dropout = 0.1
    config.retrieval.k = TEST_K[kind]
    config.joint.update(
        steps=12_000, batch=64, k=5, learning_rate=3e-5, warmup=500, weight_decay=0.001, clip=0.1, label_smoothing=0.1
    )
    config.decode.max_length = 25
    config.evaluate.update(batch=8, every=1000, questions=500, recall=(1, 5, 10, 20))
    return config
