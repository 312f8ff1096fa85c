// Text to token ids and back with SentencePiece, as T5's tokenizer does for ordinary text.
#ifndef EMBED_CPP_TEXT_H_
#define EMBED_CPP_TEXT_H_

#include <sentencepiece_processor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// Differs from the Python package, which gives the ids of transformers' T5 tokenizer, in two
// corners: SentencePiece adds scores in float32 where that one adds in float64, so that a word of
// one repeated character ("......") may be cut at other places; and a special token is found only
// where it is written exactly, not where normalisation makes one (full-width letters).
class Text {
 public:
  // `description` is what Model::describe returned. Throws std::runtime_error where the directory
  // has no tokenizer.
  explicit Text(const std::string& description);

  // Ids of `text`, ended by </s>; special tokens in it are themselves.
  std::vector<int64_t> encode(const std::string& text) const;

  // Text of `ids`; special tokens and ids without a piece give nothing.
  std::string decode(const std::vector<int64_t>& ids) const;

 private:
  void encode_plain(const std::string& text, std::vector<int64_t>& ids) const;

  sentencepiece::SentencePieceProcessor pieces_;
  std::vector<std::pair<std::string, int64_t>> special_;  // the longest text first
  int64_t eos_;
};

#endif  // EMBED_CPP_TEXT_H_
