"""What one token stands for within a text, in bytes.

Byte-level BPE writes each byte as a printable character; SentencePiece writes a space as "▁" and a byte that
it has no piece for as "<0xE2>". Both are tables, exact for every token, so a stream can be decoded token by
token. The decoders of other tokenizers look at their neighbours and have no such table.
"""

from typing import Any, Literal

DecoderKind = Literal["bytes", "sentencepiece", "other"]


def decoder_kind(decoder: dict[str, Any] | None) -> DecoderKind:
    """Which table the `decoder` of a tokenizer.json stands for."""
    if decoder is None:
        return "other"
    steps: list[dict[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    types = [step["type"] for step in steps]
    if "ByteLevel" in types and set(types) <= {"ByteLevel", "Fuse"}:
        return "bytes"
    if not set(types) <= {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}:
        return "other"
    for step in steps:
        # "▁" becomes a space; Strip takes off the space that begins a whole text, which a continued one
        # keeps.
        if step["type"] == "Replace" and (step["pattern"], step["content"]) != ({"String": "▁"}, " "):
            return "other"
        if step["type"] == "Metaspace" and step["replacement"] != "▁":
            return "other"
        if step["type"] == "Strip" and (step["content"], step["stop"]) != (" ", 0):
            return "other"
    return "sentencepiece" if {"Replace", "Metaspace"} & set(types) else "other"


def byte_level_token(token: str) -> bytes:
    """Of a byte-level vocabulary; a token with characters outside the byte alphabet is its own text."""
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:
        return token.encode()


def sentencepiece_token(token: str) -> bytes:
    """Of a SentencePiece vocabulary."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes of Latin-1 stand for themselves, the others for U+0100 and up, in order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
