"""The schema of a configuration: every key with its default and what it means."""

from typing import Any

from ml_collections import ConfigDict

STAGES = ("denoise", "reader", "joint")


def _stage() -> dict:
    return {
        "steps": 0,  # updates; 0: there is no such stage
        "batch": 64,  # questions of an update, of all devices and processes
        "k": 5,  # passages that are read for each
        "depth": 0,  # n: of the n best passages, those that hold the answer are read first (distant supervision)
        "learning_rate": 3e-5,  # the highest: it rises over the first `warmup` steps and falls to 0 at the last
        "warmup": 100,
        "weight_decay": 0.01,  # AdamW's; biases and LayerNorms have none
        "clip": 1.0,  # the largest norm of a gradient
        "accumulation": 1,  # an update's batch is computed in so many parts, which takes less memory
        "label_smoothing": 0.0,
        "substitution": 0.0,  # share of the questions whose answer becomes a made-up name in passages and target
        "train_question_encoder": True,  # False stops the gradient through the document prior
    }


DEFAULTS = {
    "seed": 0,
    # How several devices share a step: 'pmap', each with the whole state, or 'sharded', each with a part of parameters
    # and optimizer state, for models that do not fit otherwise.
    "parallel": "pmap",
    "kind": "token",  # 'token' (RAG-Token) or 'sequence' (RAG-Sequence)
    # Where training starts; each a folder or a hub name, and sizes, prefixes and tokenizers come with it.
    "init_from": "",  # a run of this package, or a Hugging Face RAG model
    "parts": {  # or these, where there is no init_from
        "question_encoder": "",  # DPR, BERT or a sentence encoder
        "passage_encoder": "",  # of another encoder than that; needs retriever.shared = False
        "generator": "",  # BART
    },
    "data": {
        # A file or a folder: .jsonl, .tsv (DPR's too), .csv, .txt or .md, also with .gz; .parquet, .arrow, or what
        # `datasets` saved; 'demo:2016' is the embedded corpus. A closed book needs them for new tokenizers alone.
        "passages": "",
        "words": 100,  # .txt and .md become passages of so many words
        "overlap": 0,  # so many of them shared with the passage before
        "minimum": 1,  # a rest of fewer new words at a file's end joins the passage before it
        "skip_bad": False,  # True leaves malformed lines out, says which and counts them
        # Whose questions they are: 'nq', 'triviaqa', 'webquestions', 'curatedtrec', 'msmarco', 'jeopardy', 'fever3',
        # 'fever2', 'squad', 'kilt', or one's own, 'qa'. It says what the generator learns and what is measured.
        "task": "qa",
        # How a label of 'fever3' or 'fever2' is told: '', written out as any answer; 'token', by a word that is one
        # token of the generator, the likeliest of the labels' words; 'head', by a classifier on the decoder's last
        # state once it has read the claim again, of length.target tokens. Neither searches: decode.* is not asked.
        "classify": "",
        # Files in any form that data.formats.read_questions knows, as .jsonl of {question, answers}; 'demo:train';
        # 'demo:nq/train', a few of the demo's in the form of a task's files.
        "train": "",
        "valid": "",
        "test": "",
        "target_layout": "generation",  # '</s> <s> a b'; or 'huggingface_finetune', '<s> a b </s>'
        "truncation": "keep_question",  # shorten the passage; 'huggingface' cuts on the right
        # The question as the generator reads it: 'raw'; or as the encoder's tokens say it, lower-cased, which is what
        # transformers' models were trained on: 'round_trip_clean' ("who's", version 4) or 'round_trip' ("who ' s",
        # version 5). '': what init_from was trained on, or else 'raw'.
        "question_text": "",
    },
    "length": {
        "question": 32,
        "passage": 128,
        "source": 160,
        "target": 24,
    },  # tokens: Q, the encoder's passage, S, T
    "tokenizer": {  # a Hugging Face folder or hub name, or '' to train one of that size on the passages
        "encoder": "",
        "generator": "",
        "encoder_vocab": 4000,
        "generator_vocab": 2000,
    },
    "encoder": {
        "vocab_size": 0,  # rows of the token table; 0: as many as the tokenizer has tokens
        "width": 768,
        "layers": 12,
        "heads": 12,
        "ffn": 3072,
        "positions": 512,  # the longest sequence, in tokens
        "type_vocab": 2,
        "norm_eps": 1e-12,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "init_std": 0.02,
        "projection": 0,  # width of a linear layer behind the pooling; 0: none
        "pooling": "cls",  # the first token's state; or 'mean', of all tokens
        "normalize": False,  # True: embeddings of length 1
        "question_prefix": "",  # what a sentence encoder was trained to see before a question, as 'query: '
        "passage_prefix": "",
        "title": "pair",  # '[CLS] title [SEP] text [SEP]', as in DPR; 'joined': 'title text'; 'sentence': 'title. text'
        "dtype": "float32",  # of the computation, or 'bfloat16'; parameters are float32
        # What the backward pass finds of a layer: all it needs; 'dots', the results of its dense layers; 'full', its
        # input alone. It computes the rest again; each takes less memory than the one before.
        "remat": "dots",
    },
    "generator": {
        "vocab_size": 0,
        "width": 1024,
        "encoder_layers": 12,
        "decoder_layers": 12,
        "heads": 16,
        "ffn": 4096,
        "positions": 1024,
        "scale_embedding": False,  # True: embeddings times the root of the width
        "start_id": -1,  # id that the decoder starts with; -1: of `</s>`
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "init_std": 0.02,
        "position_init": "normal",  # how learned positions start; or 'sinusoidal'
        "dtype": "float32",
        "remat": "dots",
    },
    "retriever": {  # train_retriever: DPR's in-batch softmax
        "steps": 1000,
        "batch": 128,
        "learning_rate": 1e-3,
        "warmup": 100,
        "weight_decay": 0.0,
        "clip": 2.0,
        "inverse_cloze": 0.0,  # share of a batch that asks with a third to two thirds of a passage's words (ORQA)
        "hard_negatives": 0,  # passages per question: those it names, else of its positive's title, else any
        "shared": True,  # one encoder for questions and passages
    },
    "index": {
        # or 'exact', on the accelerators; 'bm25', by words; 'hybrid', ScaNN and BM25 fused by rank; or 'none', a closed
        # book: the generator alone reads the question, and nothing is found
        "kind": "scann",
        "batch": 256,  # passages that are encoded at a time
        "shard": 65536,  # vectors of a file
        "dtype": "float32",  # of the vectors; or 'bfloat16'
        "split": False,  # True: of several processes each searches a part of the passages, for the questions of all
        "recall_target": 1.0,  # kind 'exact', on a TPU: below 1, this share of the best is expected, in less time
        "scann": {  # 0 and '': chosen by the number of passages, see index.scann.parameters
            "method": "",  # or 'brute_force' or 'tree'
            "leaves": 0,
            "leaves_to_search": 0,
            "training_sample": 0,
            "block_width": 0,
            "anisotropy": 0.0,
            "reorder": 0,
            "reorder_dtype": "",  # of the vectors that candidates are scored with: the index's, or 'int8'
        },
        "bm25": {  # its scores are the logits of p(z|x): these set the prior's temperature
            "method": "lucene",  # or 'robertson', 'atire', 'bm25l', 'bm25+'
            "k1": 0.9,
            "b": 0.4,
            "tokenizer": "english",  # stems without stop words; or 'words', of any language, as they are
        },
    },
    "retrieval": {
        "k": 5,
        "score_scale": 0.0,  # score = scale * <query, document>; 0 stands for 1, as in DPR, or 20 if encoder.normalize
        "learn_score_scale": False,  # learned from there, by train_retriever and with the question encoder
        # The question is also read alone, as one more document with a logit learned as an 'embedding', a 'bias' or by a
        # 'network', see models.null_document
        "null_document": "none",
        "lag": 1,  # 1: encode the next questions before this batch's update, so that search overlaps; 0: after
    },
    "denoise": _stage(),  # the generator alone repairs passages with holes (BART's text infilling)
    "reader": _stage(),  # reader warm-up: question encoder frozen, answers substituted
    "joint": _stage(),  # question encoder and generator together: the paper's training
    "decode": {  # see decode.generate.DecodeConfig; n documents are read: retrieval.k, or the k of a call
        "mode": "",  # kind 'token': 'search' or 'sample'; 'sequence': 'thorough' or 'fast'; '': the first of them
        "beams": 1,  # 1: greedy
        "num_return_sequences": 1,  # answers to every question
        "max_length": 24,  # tokens, `<s>` and `</s>` counted
        "min_length": 0,  # tokens before `</s>`
        "length_penalty": 1.0,
        "early_stopping": "False",  # or 'True' or 'never'
        "forced_bos_id": -1,  # id of the first token; -1: none
        "forced_eos_id": -1,  # id of the token at max_length
        "bad_words": ("",),  # words and phrases never said
        "bad_words_ids": ("",),  # the same as token ids, such as "0 0"
        "no_repeat_ngram_size": 0,  # no sequence of so many tokens twice
        "temperature": 1.0,
        "top_k": 0,  # 0: all
        "top_p": 1.0,
        "seed": 0,
        "compat": "",  # 'huggingface': transformers' tokens, mistakes included
    },
    "evaluate": {
        "batch": 64,  # questions that are answered at a time
        "every": 500,  # training steps between two evaluations, each with a checkpoint
        "questions": 200,  # of data.valid, the first ones, which choose the best checkpoint
        "recall": (1, 5),  # the places among which a passage is looked for
    },
    "hot_swap": {"questions": ("", "")},  # two editions of the answers to the same questions
}


def default_config() -> ConfigDict:
    """Every key there is; a configuration starts from this and changes what it must. Letters as in docs/design.md."""
    return ConfigDict(DEFAULTS)


def score_scale(config: ConfigDict) -> float:
    """The factor on inner products: scores of normalised embeddings differ by hundredths, a flat prior without one."""
    return config.retrieval.score_scale or (20.0 if config.encoder.normalize else 1.0)


def closed_book(config: ConfigDict) -> bool:
    """Whether the generator alone reads the question: no passages, no index, no question encoder."""
    return config.index.kind == "none"


def flat(config: ConfigDict, prefix: str = "config.") -> dict[str, Any]:
    """{'config.joint.k': 5, ...}: every value by its whole name."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {f"{prefix}{key}": value}
    return values
