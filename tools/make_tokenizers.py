#!/usr/bin/env python3
"""Makes the small Unigram and WordPiece tokenizers in crates/text/tests/data, with the ids that Hugging Face's
`tokenizers` gives for the strings of tokenizer-smollm2.json.

    pip install tokenizers sentencepiece protobuf
    python3 tools/make_tokenizers.py

They are trained on these strings, not with the same result every time. The Unigram model has rules of SentencePiece
as XLM-R and T5 have them, compiled from a few lines; that with byte fallback has none. Also two Unigram models of
SentencePiece itself, with its ids.
"""

import base64
import io
import json
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(__file__).resolve().parent.parent / "crates" / "text" / "tests" / "data"
TEXTS = [row["text"] for row in json.loads((DATA / "tokenizer-smollm2.json").read_text())]
# What is replaced, and by what: code points in hexadecimal.
RULES = ["09\t20", "0A\t20", "0D\t20", "3000\t20", "A0\t20", "FB01\t66 69", "BD\t31 2F 32", "65 301\tE9", "1F642\t",
         "FF01\t21", "2026\t2E 2E 2E"]


def sentence_piece(texts, size, **settings):
    """A Unigram model of SentencePiece with the rules."""
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("\n".join(RULES) + "\n")
        rules.flush()
        settings = {"normalization_rule_tsv": rules.name} | settings
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, vocab_size=size,
            hard_vocab_limit=False, minloglevel=2, **settings)
    return model.getvalue()


def charsmap():
    """SentencePiece's compiled form of the rules."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(sentence_piece(["ab abc abcd"] * 9, 12))
    return proto.normalizer_spec.precompiled_charsmap


def write_model(name, **settings):
    lines = [line for text in TEXTS * 3 for line in text.splitlines() if line]
    model = sentence_piece(lines, 500, **settings)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    model = proto.SerializeToString()
    (DATA / f"{name}.model").write_bytes(model)
    encoder = sentencepiece.SentencePieceProcessor(model_proto=model)
    # `tokenizers` decides otherwise between divisions with the same score, such as `. ..` and `.. .`.
    scores = [(piece.piece, piece.score) for piece in proto.pieces]
    ties = Tokenizer(models.Unigram(scores, proto.trainer_spec.unk_id, settings.get("byte_fallback", False)))
    rows = []
    for text in TEXTS:
        ids = encoder.encode(text)
        blanks = encoder.normalize(text).replace(" ", "▁")
        others = ties.encode(blanks, add_special_tokens=False).ids
        score = lambda ids: sum(encoder.get_score(id) for id in ids)
        rows.append(dict(text=text, ids=others if others != ids and abs(score(others) - score(ids)) < 1e-4 else ids))
    (DATA / f"tokenizer-{name}-model.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    print(name, encoder.get_piece_size(), len(model), sum(len(row["ids"]) for row in rows))


def unigram(bytes_too):
    tokenizer = Tokenizer(models.Unigram())
    if not bytes_too:
        tokenizer.normalizer = normalizers.Precompiled(charsmap())
        words = pre_tokenizers.WhitespaceSplit()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace()])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(TEXTS * 3, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False))
    form = json.loads(tokenizer.to_str())
    vocab = form["model"]["vocab"]
    if bytes_too:
        form["model"]["byte_fallback"] = True
        # Characters that only bytes can spell.
        vocab = [[text, score] for text, score in vocab if not text.isalpha() or text.isascii() or len(text) > 1]
        vocab += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    form["model"]["vocab"] = [[text, round(score, 6)] for text, score in vocab]
    decoder = decoders.Metaspace()
    if bytes_too:
        decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    form["decoder"] = json.loads(decoder.__getstate__())
    tokenizer = Tokenizer.from_str(json.dumps(form))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def write(name, tokenizer):
    form = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (DATA / f"{name}.tokenizer.json").write_text(form + "\n")
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append(dict(text=text, ids=ids, decoded=tokenizer.decode(ids, skip_special_tokens=False)))
    (DATA / f"tokenizer-{name}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    print(name, tokenizer.get_vocab_size(), len(form), sum(len(row["ids"]) for row in rows))


if __name__ == "__main__":
    write_model("unigram")
    write_model("unigram-bytes", byte_fallback=True, remove_extra_whitespaces=False, add_dummy_prefix=False,
                normalization_rule_tsv="", normalization_rule_name="identity", character_coverage=0.98)
    write("unigram", unigram(False))
    write("unigram-bytes", unigram(True))
    write("wordpiece", word_piece())
