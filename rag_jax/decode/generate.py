"""Chooses the decoding of a model and compiles it once per shape; turns tokens into text."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core import beam
from rag_jax.core.bucket import bucket
from rag_jax.core.constraints import Rules
from rag_jax.core.marginal import mean_token_posterior
from rag_jax.decode import rag_sequence, rag_token
from rag_jax.errors import UserError
from rag_jax.models.bart import BartConfig
from rag_jax.models.rag import RagConfig

MODES = {"token": ("search", "sample"), "sequence": ("thorough", "fast")}
STOPPING = {False: 0, True: beam.WHEN_FULL, "never": beam.NEVER}
_SHORTEST = 8


@dataclass(frozen=True)
class DecodeConfig:
    """How to answer.

    kind: the marginal, 'token' or 'sequence'. mode: for a token model 'search' (one beam is greedy) or 'sample', for a
    sequence model 'thorough' or 'fast' (Lewis et al. 2020, section 2.5); '' is the first of these. beams: of the
    search, for a sequence model of every document's. num_return_sequences: N answers to each question.

    Lengths are in tokens, `<s>` and `</s>` counted, the start token not: Hugging Face's are one more. min_length: as
    many stand before `</s>`. length_penalty: answers are ranked by log-probability / length ** penalty. early_stopping:
    True ends a search with the first full set of answers, False when no beam's present score beats the worst of them,
    'never' when none can. forced ids: the first token, and the last where max_length cuts. bad_words: sequences of ids
    never said. no_repeat_ngram_size: no sequence of so many tokens twice; 0 for any. temperature, top_k (0: all),
    top_p, seed: of sampling alone. compat='huggingface': transformers 5.23 to the letter, mistakes included.
    """

    kind: str = "token"
    mode: str = ""
    beams: int = 1
    num_return_sequences: int = 1
    max_length: int = 50
    min_length: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    forced_bos_id: int | None = None
    forced_eos_id: int | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    no_repeat_ngram_size: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    compat: str | None = None


Leaf = TypeVar("Leaf")  # an array of jax, or of numpy once it is fetched


class Generated(NamedTuple, Generic[Leaf]):
    """The N best answers of each question, by falling `score_BN`; samples as they were drawn.

    token_BNT: without the start token, pads after `</s>`. log_prob_BN: log p(y|x) in nats, `</s>` counted, a leading
    `<s>` not; a lower bound under fast decoding; -inf where there is no Nth answer. score_BN: what ranked them.
    posterior_BNK: p(z|x,y), or for a token model the mean over its text tokens (where there is no text, over all up to
    and with `</s>`).
    posterior_BNKT: for a token model log p(z|x,y_1..y_t) as far as token t tells, the prior after the end; else None.
    """

    token_BNT: Leaf
    log_prob_BN: Leaf
    score_BN: Leaf
    posterior_BNK: Leaf
    posterior_BNKT: Leaf | None


class _Plan(NamedTuple):
    """What a program is compiled for; all else is an operand."""

    kind: str
    mode: str
    beams: int
    answers: int
    length: int
    compat: str | None


def generate(
    config: RagConfig,
    decode: DecodeConfig,
    params: dict,
    source_BKS: jax.Array,
    prior_BK: jax.Array,
    place_B: jax.Array | None = None,
) -> Generated[jax.Array]:
    """Decodes answers from generator inputs [B, K, S] and log p(z|x) [B, K]; compiled once per shape and plan.

    A document whose prior is -inf is not there. place_B: the questions' places in a batch of which these are a device's
    part; by default they are all. Raises UserError for settings that cannot be.
    """
    check(config, decode, prior_BK.shape[1])
    if source_BKS.shape[:2] != prior_BK.shape:
        raise UserError(
            f"documents: found sources for {list(source_BKS.shape[:2])} [questions, documents] and a prior for "
            f"{list(prior_BK.shape)}, expected as many; give every document its prior"
        )
    plan = _Plan(
        decode.kind,
        decode.mode or MODES[decode.kind][0],
        decode.beams,
        decode.num_return_sequences,
        room(config.generator, decode.max_length),
        decode.compat,
    )
    place_B = jnp.arange(len(prior_BK)) if place_B is None else place_B
    generated = _compiled(config, plan, params, source_BKS, prior_BK, place_B, operands(config, decode))
    posterior_BNKT = generated.posterior_BNKT
    if posterior_BNKT is not None:
        posterior_BNKT = posterior_BNKT[..., : decode.max_length]
    return generated._replace(token_BNT=generated.token_BNT[..., : decode.max_length], posterior_BNKT=posterior_BNKT)


def room(generator: BartConfig, max_length: int) -> int:
    """The tokens that a program has room for, where an answer may have so many: few sizes for many lengths."""
    return min(bucket(max_length, _SHORTEST), generator.positions)


@partial(jax.jit, static_argnums=(0, 1))
def _compiled(
    config: RagConfig, plan: _Plan, params, source_BKS, prior_BK, place_B, rules: Rules[jax.Array]
) -> Generated[jax.Array]:
    if plan.kind == "sequence":
        decoding = {"thorough": rag_sequence.thorough, "fast": rag_sequence.fast}[plan.mode]
        if plan.compat == "huggingface" and plan.mode == "thorough":
            decoding = rag_sequence.as_huggingface
        sizes = {"length": plan.length, "beams": plan.beams, "count": plan.answers}
        token_BNT, log_prob_BN, posterior_BNK = decoding(config, params, source_BKS, prior_BK, rules, **sizes)
        return Generated(token_BNT, log_prob_BN, log_prob_BN, jnp.exp(posterior_BNK), None)
    memory = rag_token.read(config, params, source_BKS)
    if plan.mode == "sample":
        sizes = {"length": plan.length, "draws": plan.answers}
        found = rag_token.sample(config, params, memory, prior_BK, place_B, rules, **sizes)
    else:
        found = rag_token.search(config, params, memory, prior_BK, rules, length=plan.length, beams=plan.beams)
    score_BN, (token_BNT, log_prob_BN, posterior_BNKT) = jax.tree.map(lambda x: x[:, : plan.answers], found)
    log_prob_BN = jnp.where(score_BN > -jnp.inf, log_prob_BN, -jnp.inf)
    ranked_BN = score_BN if plan.beams > 1 else log_prob_BN
    posterior_BNK = _mean_posterior(config.generator, rules.max_length, token_BNT, posterior_BNKT)
    return Generated(token_BNT, log_prob_BN, ranked_BN, posterior_BNK, posterior_BNKT)


def _mean_posterior(generator: BartConfig, max_length, token_BNT: jax.Array, posterior_BNKT: jax.Array) -> jax.Array:
    text_BNT = ~jnp.isin(token_BNT, jnp.array([generator.pad_id, generator.bos_id, generator.eos_id]))
    B, N, K, T = posterior_BNKT.shape
    ends_BNT = (token_BNT == generator.eos_id).astype(jnp.int32)
    said_BNT = (jnp.cumsum(ends_BNT, axis=2) == ends_BNT) & (jnp.arange(T) < max_length)[None, None]
    shown_BNT = jnp.where(jnp.any(text_BNT, axis=2, keepdims=True), text_BNT, said_BNT)
    mean = mean_token_posterior(posterior_BNKT.reshape(B * N, K, T), shown_BNT.reshape(B * N, T))
    return mean.reshape(B, N, K)


def operands(config: RagConfig, decode: DecodeConfig) -> Rules[np.generic | np.ndarray]:
    """The numbers of a decoding as arrays, so that programs are compiled for none of them."""
    words = [word for word in decode.bad_words if list(word) != [config.generator.eos_id]]  # an answer may always end
    longest = max(map(len, words), default=0)
    bad_word_NL = np.full((bucket(len(words)), bucket(longest)) if words else (0, 0), -1, np.int32)
    for row, word in enumerate(words):
        bad_word_NL[row, -len(word) :] = word
    return Rules(
        max_length=np.int32(decode.max_length),
        min_length=np.int32(decode.min_length),
        length_penalty=np.float32(decode.length_penalty),
        early_stopping=np.int32(STOPPING[decode.early_stopping]),
        forced_bos_id=np.int32(-1 if decode.forced_bos_id is None else decode.forced_bos_id),
        forced_eos_id=np.int32(-1 if decode.forced_eos_id is None else decode.forced_eos_id),
        no_repeat=np.int32(decode.no_repeat_ngram_size),
        bad_word_NL=bad_word_NL,
        # There the start token, `</s>` in BART, has been said: without repeated unigrams no answer could end.
        before=np.int32(config.generator.start_id if decode.compat == "huggingface" else -1),
        temperature=np.float32(decode.temperature),
        top_k=np.int32(decode.top_k),
        top_p=np.float32(decode.top_p),
        seed=np.int32(decode.seed),
    )


def check(config: RagConfig, decode: DecodeConfig, documents: int) -> None:
    """Raises UserError for the first setting that cannot be, for K documents."""
    for name, found, right, expected in _checks(config, decode, documents):
        if not right:
            raise UserError(f"decode.{name}: found {found!r}, expected {expected}")


def _checks(config: RagConfig, decode: DecodeConfig, documents: int):
    """Every setting with what was found, whether it is right, and what was expected."""
    generator, d = config.generator, decode
    yield "kind", d.kind, d.kind in MODES, "'token' or 'sequence'"
    modes = MODES[d.kind]
    yield "mode", d.mode, d.mode in ("", *modes), f"'{modes[0]}' or '{modes[1]}' for kind '{d.kind}'"
    yield "compat", d.compat, d.compat in (None, "huggingface"), "None or 'huggingface'"
    yield "early_stopping", d.early_stopping, d.early_stopping in (False, True, "never"), "False, True or 'never'"
    yield "beams", d.beams, d.beams >= 1, "1 or more"
    sampled = d.mode == "sample"
    yield "beams", d.beams, d.beams == 1 or not sampled, "1 with decode.mode 'sample'; raise num_return_sequences"
    limit = generator.positions
    message = f"1 to {limit}, the generator's positions; choose a length in that range"
    yield "max_length", d.max_length, 1 <= d.max_length <= limit, message
    yield "min_length", d.min_length, 0 <= d.min_length <= d.max_length, f"0 to decode.max_length = {d.max_length}"
    candidates = d.beams * (documents if d.kind == "sequence" else 1)
    what = f"decode.beams = {d.beams}" + (f" times {documents} documents" if d.kind == "sequence" else "")
    message = f"1 to {candidates}, the candidates of {what}; raise decode.beams"
    yield "num_return_sequences", d.num_return_sequences, d.num_return_sequences >= 1, "1 or more"
    yield "num_return_sequences", d.num_return_sequences, sampled or d.num_return_sequences <= candidates, message
    for name in ("forced_bos_id", "forced_eos_id"):
        token = getattr(d, name)
        yield (
            name,
            token,
            token is None or 0 <= token < generator.vocab_size,
            f"None or 0 to {generator.vocab_size - 1}",
        )
    right = all(word and all(0 <= token < generator.vocab_size for token in word) for word in d.bad_words)
    yield "bad_words", d.bad_words, right, f"sequences of token ids from 0 to {generator.vocab_size - 1}, none empty"
    yield "no_repeat_ngram_size", d.no_repeat_ngram_size, d.no_repeat_ngram_size >= 0, "0 or more"
    yield "temperature", d.temperature, d.temperature > 0, "more than 0; for the likeliest answer use mode 'search'"
    yield "top_k", d.top_k, d.top_k >= 0, "0 (all tokens) or more"
    yield "top_p", d.top_p, 0 < d.top_p <= 1, "more than 0, up to 1"


def texts(token_BT: jax.Array | np.ndarray, tokenizer: Any) -> list[str]:
    """Turns answers into strings on the host, without special tokens and the space that answers begin with.

    `tokenizer.decode(ids)` skips special tokens.
    """
    return [tokenizer.decode(row).removeprefix(" ") for row in np.asarray(token_BT).tolist()]
