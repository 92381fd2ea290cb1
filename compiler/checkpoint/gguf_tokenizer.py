"""tokenizer.json and its companions from a GGUF file's vocabulary, merges, token types and pre-tokenizer."""

from typing import Any

from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.checkpoint.pretokenizers import PRE_TOKENIZERS, PreTokenizer, pre_tokenizer_json
from pagedc.compiler.checkpoint.tokenizer_files import check_tokenizer, dump_json
from pagedc.compiler.errors import CheckpointError, UnsupportedError

CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
# Control tokens that end a turn; files often name only one of several as their eos.
TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
)
SPACE = "▁"  # a space in a sentencepiece vocabulary


def gguf_tokenizer_files(file: GGUFFile) -> dict[str, bytes]:
    """Raises CheckpointError where the vocabulary does not fit, UnsupportedError for an unknown kind."""
    vocabulary = Vocabulary(file)
    tokenizer = dump_json(vocabulary.tokenizer_json())
    check_tokenizer(file.path, tokenizer)
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": dump_json(vocabulary.tokenizer_config()),
        "generation_config.json": dump_json(vocabulary.generation_config()),
    }
    if vocabulary.chat_template:
        files["chat_template.jinja"] = vocabulary.chat_template.encode()
    return files


class Vocabulary:
    """The `tokenizer.*` metadata of a file."""

    def __init__(self, file: GGUFFile) -> None:
        self.path = file.path
        self._metadata = file.metadata
        self.model: str = self._get("model", str, "")
        self.tokens: list[str] = self._strings("tokens")
        if not self.tokens:
            raise CheckpointError(f"{self.path}: no vocabulary (tokenizer.ggml.tokens) in it")
        self.types: list[int] = self._get("token_type", list, None) or [1] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise CheckpointError(f"{self.path}: {len(self.tokens)} tokens but {len(self.types)} token types")
        self.chat_template = self._metadata.get("tokenizer.chat_template")
        if self.chat_template is not None and not isinstance(self.chat_template, str):
            raise CheckpointError(f"{self.path}: tokenizer.chat_template is not a string")
        if self.model == "gpt2":
            self.pre = self._pre_tokenizer()
        elif self.model != "llama":
            raise UnsupportedError(
                f"{self.path}: a vocabulary of kind {self.model!r}; "
                "only gpt2 (byte-level BPE) and llama (sentencepiece) are read"
            )

    def token_id(self, role: str) -> int | None:
        """The id of "bos", "eos", "eot", "eom", "unknown" or "padding", where the file gives one."""
        value: int | None = self._get(f"{role}_token_id", int, None)
        if value is not None and not 0 <= value < len(self.tokens):
            raise CheckpointError(
                f"{self.path}: {role}_token_id is {value}, the vocabulary has {len(self.tokens)}"
            )
        return value

    @property
    def add_bos(self) -> bool:
        default = self.pre.add_bos if self.model == "gpt2" else True
        return bool(self._get("add_bos_token", bool, default)) and self.token_id("bos") is not None

    def eos_ids(self) -> list[int]:
        """What ends an answer: the file's own ids, and those that end a turn in its chat template."""
        ids = [self.token_id(role) for role in ("eos", "eot", "eom")]
        template = self.chat_template or ""
        for index, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind == CONTROL and token in TURN_ENDS and token in template:
                ids.append(index)
        return list(dict.fromkeys(index for index in ids if index is not None))

    def tokenizer_json(self) -> dict[str, Any]:
        """What tokenizers reads."""
        parts = self._byte_level() if self.model == "gpt2" else self._sentencepiece()
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                self._added(index, kind == CONTROL)
                for index, kind in enumerate(self.types)
                if kind in (CONTROL, USER_DEFINED) or index == self.token_id("unknown")
            ],
            **parts,
        }

    def tokenizer_config(self) -> dict[str, Any]:
        """What says which tokens are special, in the words of transformers."""
        roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        named = {key: self._token(role) for key, role in roles.items()}
        return {
            "add_bos_token": self.add_bos,
            **{key: token for key, token in named.items() if token is not None},
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }

    def generation_config(self) -> dict[str, Any]:
        eos = self.eos_ids()
        ids = {
            "bos_token_id": self.token_id("bos"),
            "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
            "pad_token_id": self.token_id("padding"),
        }
        return {key: value for key, value in ids.items() if value is not None}

    def _byte_level(self) -> dict[str, Any]:
        merges = [merge.split(" ") for merge in self._strings("merges")]
        if not merges:
            raise CheckpointError(f"{self.path}: a byte-level vocabulary without merges")
        return {
            "normalizer": {"type": "NFC"} if self.pre.nfc else None,
            "pre_tokenizer": pre_tokenizer_json(self.pre),
            "post_processor": self._post_processor(),
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": self._bpe(merges, ignore_merges=self.pre.ignore_merges),
        }

    def _sentencepiece(self) -> dict[str, Any]:
        prefix = bool(self._get("add_space_prefix", bool, True))
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
        decoders: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prefix:
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return {
            "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
            "pre_tokenizer": None,
            "post_processor": self._post_processor(),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": self._bpe(self._merges_of_scores(), unk=self._token("unknown"), byte_fallback=True),
        }

    def _merges_of_scores(self) -> list[list[str]]:
        """The merges a sentencepiece vocabulary implies: every cut of a token into two, best score first."""
        scores: list[float] = self._get("scores", list, [])
        if len(scores) != len(self.tokens):
            raise CheckpointError(f"{self.path}: {len(self.tokens)} tokens but {len(scores)} scores")
        ids = self._ids()
        merges = []
        for token, index in ids.items():
            if self.types[index] != 1:
                continue
            pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            known = [(left, right) for left, right in pairs if left in ids and right in ids]
            known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
            merges += [(scores[index], left, right) for left, right in known]
        merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
        return [[left, right] for _, left, right in merges]

    def _bpe(
        self,
        merges: list[list[str]],
        *,
        unk: str | None = None,
        byte_fallback: bool = False,
        ignore_merges: bool = False,
    ) -> dict[str, Any]:
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": unk,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": byte_fallback,
            "byte_fallback": byte_fallback,
            "ignore_merges": ignore_merges,
            "vocab": self._ids(),
            "merges": merges,
        }

    def _post_processor(self) -> dict[str, Any] | None:
        """Puts bos in front where the file wants it."""
        if not self.add_bos:
            return None
        bos, index = self._token("bos"), self.token_id("bos")
        first = {"SpecialToken": {"id": bos, "type_id": 0}}
        return {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
        }

    def _added(self, index: int, special: bool) -> dict[str, Any]:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return {"id": index, "content": self.tokens[index], **flags, "special": special}

    def _ids(self) -> dict[str, int]:
        """Token to id; of two equal tokens the first."""
        ids: dict[str, int] = {}
        for index, token in enumerate(self.tokens):
            ids.setdefault(token, index)
        return ids

    def _token(self, role: str) -> str | None:
        index = self.token_id(role)
        return None if index is None else self.tokens[index]

    def _pre_tokenizer(self) -> PreTokenizer:
        name = self._get("pre", str, "gpt-2")
        if name not in PRE_TOKENIZERS:
            raise UnsupportedError(
                f"{self.path}: pre-tokenizer {name!r} is not known; "
                "give the safetensors checkpoint, which carries its tokenizer"
            )
        return PRE_TOKENIZERS[name]

    def _get(self, key: str, kind: type, default: Any) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if value is not default and not isinstance(value, kind):
            raise CheckpointError(
                f"{self.path}: tokenizer.ggml.{key} is a {type(value).__name__}, not a {kind.__name__}"
            )
        return value

    def _strings(self, key: str) -> list[str]:
        values: list[str] = self._get(key, list, [])
        if values and not isinstance(values[0], str):
            raise CheckpointError(f"{self.path}: tokenizer.ggml.{key} is not a list of strings")
        return values
