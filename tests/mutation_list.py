"""Known mistakes, each as a replacement of text that occurs exactly once in one file."""

from typing import NamedTuple

MODEL = "exporter/switch_export/model"
MOE = "exporter/switch_export/moe"
CORE = "runtime/src"
TRAPS = ("tests/test_traps.py",)
BODY = ("tests/test_moe_function.py",)
CLASSES = ("tests/test_parity_classes.py", "-k", "config or router or sparse")
GRAPHS = ("tests/test_parity_model.py", "-k", "[tiny] or holes or beyond or chunk")
SEARCH = ("tests/test_parity_generate.py",)


class Mutation(NamedTuple):
    """A mistake: what it is, where, what text becomes what, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


EXPORTER = [
    Mutation("bucket constants folded in float64", f"{MODEL}/attention.py",
             "torch.log(distance.float() / exact)\n        / math.log(max_distance / exact)\n"
             "        * (num_buckets - exact)",
             "torch.log(distance.double() / exact)\n"
             "        * ((num_buckets - exact) / math.log(max_distance / exact))", TRAPS),
    Mutation("buckets of the encoder the wrong way round", f"{MODEL}/attention.py",
             "(relative > 0).long()", "(relative < 0).long()", TRAPS),
    Mutation("buckets of the decoder look ahead", f"{MODEL}/attention.py",
             "(-relative).clamp(min=0)", "relative.clamp(min=0)", TRAPS),
    Mutation("capacity off by one", f"{MOE}/router.py",
             "place > self.capacity.tokens", "place >= self.capacity.tokens", TRAPS),
    Mutation("capacity counted over the batch", f"{MOE}/router.py",
             "chosen.cumsum(1)", "chosen.cumsum(0)", TRAPS),
    Mutation("a tie goes to the highest index", f"{MOE}/router.py",
             "probabilities.argmax(-1) ",
             "self.num_experts - 1 - probabilities.flip(-1).argmax(-1) ", TRAPS),
    Mutation("policy legacy never drops", f"{MOE}/router.py",
             'self.capacity.policy == "none"', 'self.capacity.policy != "hf"', TRAPS),
    Mutation("a half router does not round its probabilities", f"{MOE}/router.py",
             "return self._round(torch.softmax(self._round(logits), -1))",
             "return torch.softmax(logits, -1)", TRAPS),
    Mutation("the router's bias is forgotten", f"{MOE}/router.py",
             "if self.bias is not None:", "if False:", CLASSES),
    Mutation("dropped gives gate * x under hf", f"{MOE}/router.py",
             '"pass" if self.policy == "legacy" else "zero"', '"pass"', CLASSES),
    Mutation("dropped is multiplied by zero, not selected", f"{MOE}/bodies.py",
             "scaled = Mul(output, gate_column)\n    float_zero = Constant <value_float = 0.0> ()"
             "\n    y = Where(kept_column, scaled, float_zero)",
             "kept_number = Cast <to = 1> (kept_column)\n    scaled = Mul(output, gate_column)\n"
             "    y = Mul(scaled, kept_number)", BODY),
    Mutation("dropped is not selected in the body", f"{MOE}/bodies.py",
             "y = Where(kept_column, scaled, float_zero)", "y = Identity(scaled)", BODY),
    Mutation("policy legacy forgets the gate", f"{MOE}/bodies.py",
             "y = Mul(answered, gate_column)", "y = Identity(answered)", BODY),
    Mutation("slots are counted from one", f"{MOE}/bodies.py",
             "own_place = Add(first_slot, slot)", "own_place = Add(first_slot, queue)", BODY),
    Mutation("gelu is approximated", f"{MOE}/bodies.py",
             '"gelu": "{y} = Gelu({x})"',
             '"gelu": \'{y} = Gelu <approximate = "tanh"> ({x})\'', BODY),
    Mutation("step 1 gives one sparse layer", "exporter/switch_export/config.py",
             "step > 0 and (step == 1 or i % step == 1)", "step > 0 and i % step == 1", CLASSES),
    Mutation("the head is never scaled", f"{MODEL}/decoder.py",
             "config.d_model**-0.5 if config.tie_word_embeddings else 1.0", "1.0", TRAPS),
    Mutation("the head is always scaled", f"{MODEL}/decoder.py",
             "config.d_model**-0.5 if config.tie_word_embeddings else 1.0",
             "config.d_model**-0.5", TRAPS),
    Mutation("the norm subtracts the mean", f"{MODEL}/layers.py",
             "return x / torch.sqrt(", "return (x - x.mean(-1, keepdim=True)) / torch.sqrt(",
             TRAPS),
    Mutation("epsilon outside the root", f"{MODEL}/layers.py",
             "torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)",
             "(torch.sqrt(x.pow(2).mean(-1, keepdim=True)) + self.epsilon)", TRAPS),
    Mutation("masks are infinite", f"{MODEL}/attention.py",
             "torch.finfo(torch.float32).min", 'float("-inf")', TRAPS),
    Mutation("cross-attention sees padding", f"{MODEL}/decoder.py",
             "padding_bias(attention_mask),\n", "padding_bias(attention_mask) * 0,\n", GRAPHS),
    Mutation("self-attention scores are scaled", f"{MODEL}/attention.py",
             "new = matmul(q, k.transpose(-1, -2)) + biases[1]",
             "new = matmul(q, k.transpose(-1, -2)) * 0.5 + biases[1]", GRAPHS),
    Mutation("every call starts at position 0", f"{MODEL}/decoder.py",
             "query = (position + new).unsqueeze(1)", "query = (position * 0 + new).unsqueeze(1)",
             GRAPHS),
    Mutation("new tokens see later ones", f"{MODEL}/decoder.py",
             " & (key <= query)", " & (key <= query + 1)", GRAPHS),
    Mutation("one row beyond the position is read", f"{MODEL}/decoder.py",
             "stored < position", "stored <= position", GRAPHS),
]

NATIVE = [
    Mutation("too few beam candidates", f"{CORE}/beam.cc",
             "std::max<int64_t>(2, 1 + static_cast<int64_t>(context.config.eos.size())) * beams_",
             "beams_", SEARCH),
    Mutation("candidates beyond the beams finish", f"{CORE}/beam.cc",
             "continuation.ends && i < static_cast<size_t>(beams_)", "continuation.ends", SEARCH),
    Mutation("all beams start alike", f"{CORE}/beam.cc",
             "item.running[0].score = 0;",
             "for (Beam& beam : item.running) beam.score = 0;", SEARCH),
    Mutation("a finished length counts the start token", f"{CORE}/beam.cc",
             "const float penalty = context_.penalty(length);",
             "const float penalty = context_.penalty(length + 1);", SEARCH),
    Mutation("early_stopping never is False", f"{CORE}/beam.cc",
             "options.early_stopping == SWITCH_EARLY_STOPPING_NEVER && options.length_penalty > 0",
             "false", SEARCH),
    Mutation("early_stopping never ignores the penalty's sign", f"{CORE}/beam.cc",
             "options.early_stopping == SWITCH_EARLY_STOPPING_NEVER && options.length_penalty > 0",
             "options.early_stopping == SWITCH_EARLY_STOPPING_NEVER", SEARCH),
    Mutation("early_stopping True is False", f"{CORE}/generate.cc",
             "static_cast<switch_early_stopping>(options.early_stopping);",
             "options.early_stopping == SWITCH_EARLY_STOPPING_NEVER ? SWITCH_EARLY_STOPPING_NEVER\n"
             "                              : SWITCH_EARLY_STOPPING_FALSE;", SEARCH),
    Mutation("the early-stop heuristic is missing", f"{CORE}/beam.cc",
             "item.can_improve &= improves;", "(void)improves;", SEARCH),
    Mutation("min_new_tokens renormalises beams", f"{CORE}/beam.cc",
             "const LogSoftmax log_probability = log_softmax(row, vocab_);\n"
             "      context_.forbid_early_eos(row, length - 1);",
             "context_.forbid_early_eos(row, length - 1);\n"
             "      const LogSoftmax log_probability = log_softmax(row, vocab_);", SEARCH),
    Mutation("beams are not reordered", f"{CORE}/beam.cc",
             "++length) decoder_.reorder(parents_);", "++length) {\n    }", SEARCH),
    Mutation("a growing cache loses a row", f"{CORE}/cache.cc",
             "capacity_, valid);\n    }\n  }\n  return true;",
             "capacity_, valid - 1);\n    }\n  }\n  return true;", SEARCH),
    Mutation("max_length does not count the start token", f"{CORE}/generate.cc",
             "options.max_length - 1 : kDefault", "options.max_length : kDefault", SEARCH),
    Mutation("min_new_tokens is off by one", f"{CORE}/generate.cc",
             "generated >= options.min_new_tokens", "generated > options.min_new_tokens", SEARCH),
    Mutation("the mask ignores the lengths", f"{CORE}/encoder.cc",
             "i * sources.width, length, 1)", "i * sources.width, sources.width, 1)", SEARCH),
]
