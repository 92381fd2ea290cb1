"""Small tokenizers of each kind that models have, written as a package holds them."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS_MERGES = [
    "t h",
    "th e",
    "Ġ the",
    "a n",
    "an d",
    "Ġ and",
    "i n",
    "in g",
    "< |",
    "| >",
    "i m",
    "e n",
    "en d",
]


def byte_level() -> Tokenizer:
    """As GPT-2's, Llama 3's and SmolLM's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge.split()) for merge in CORPUS_MERGES]
    vocab = {
        token: i for i, token in enumerate(dict.fromkeys([*alphabet, *("".join(merge) for merge in merges)]))
    }
    merges = [merge for merge in merges if merge[0] in vocab and merge[1] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama 2's and Gemma's: "▁" for a space, bytes where there is no piece."""
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in [
        "▁",
        *"abcdefghijklmnopqrstuvwxyzHWT<|>_/,.!?",
        "th",
        "the",
        "▁the",
        "an",
        "and",
        "▁and",
        "\n",
    ]:
        vocab[piece] = len(vocab)
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("a", "n"), ("an", "d"), ("▁", "and")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT's: its decoder looks at neighbours."""
    words = [
        "[UNK]",
        "hello",
        "world",
        "##ly",
        "the",
        ".",
        ",",
        "!",
        "a",
        "##b",
        "é",
        "日",
        "本",
        "<",
        ">",
        "|",
        "im",
    ]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "word_piece": word_piece,
}


def write_tokenizer(directory: Path, kind: str) -> Path:
    """Write tokenizer.json into `directory` and return it."""
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    bos = tokenizer.token_to_id("<s>")
    assert bos is not None
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", bos)])
    tokenizer.enable_truncation(8)  # settings of a training that must not reach the server
    tokenizer.enable_padding(length=8)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer.to_str())
    return directory
