"""Known mistakes, each as a replacement of text that occurs exactly once in one file."""

from typing import NamedTuple

MODEL = "exporter/switch_export/model"
MOE = "exporter/switch_export/moe"
BODIES = "exporter/switch_export/bodies"
QUANTIZE = "exporter/switch_export/quantize.py"
TRAPS = ("tests/test_traps.py",)
BODY = ("tests/test_bodies_moe.py",)
LINEAR = ("tests/test_bodies_linear.py",)
NORMS = ("tests/test_bodies_norms.py",)
ATTENTION = ("tests/test_bodies_attention.py",)
STORED = ("tests/test_quantize.py",)
VERIFY = ("tests/test_verify.py",)
GATED = ("tests/test_gated.py",)
CLASSES = ("tests/test_parity_classes.py", "-k", "config or router or sparse")
GRAPHS = ("tests/test_parity_model.py", "-k", "[tiny] or holes or beyond or chunk")


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
             "place > self.capacity.limit", "place >= self.capacity.limit", TRAPS),
    Mutation("capacity counted over the batch", f"{MOE}/router.py",
             "chosen.cumsum(1)", "chosen.cumsum(0)", TRAPS),
    Mutation("a tie goes to the highest index", f"{MOE}/router.py",
             "lambda given: given.argmax(-1)",
             "lambda given: self.num_experts - 1 - given.flip(-1).argmax(-1)", TRAPS),
    Mutation("policy legacy never drops", f"{MOE}/router.py",
             '-1 if self.policy == "none" else', '-1 if self.policy != "hf" else', TRAPS),
    Mutation("a half router does not round its probabilities", f"{MOE}/router.py",
             "return self._round(torch.softmax(self._round(logits), -1))",
             "return torch.softmax(logits, -1)", TRAPS),
    Mutation("the router's bias is forgotten", f"{MOE}/router.py",
             "if self.bias is not None:", "if False:", CLASSES),
    Mutation("dropped gives gate * x under hf", f"{MOE}/router.py",
             '"pass" if self.policy == "legacy" else "zero"', '"pass"', CLASSES),
    Mutation("the body counts capacity over the batch", f"{BODIES}/norms.py",
             "CumSum(chosen, one_scalar)", "CumSum(chosen, zero_scalar)", NORMS),
    Mutation("the body's capacity is off by one", f"{BODIES}/norms.py",
             "over = Greater(", "over = GreaterOrEqual(", NORMS),
    Mutation("the body's router forgets its bias", f"{BODIES}/norms.py",
             'if "bias" in node.input_names()', "if False", NORMS),
    Mutation("the body's epsilon is a constant", f"{BODIES}/norms.py",
             'epsilon=node.attributes["epsilon"]', "epsilon=1e-6", NORMS),
    Mutation("dropped is multiplied by zero, not selected", f"{BODIES}/moe.py",
             "scaled = Mul(output, gate_column)\n"
             "    selected = Where(kept_column, scaled, float_zero)",
             "kept_number = Cast <to = 1> (kept_column)\n    scaled = Mul(output, gate_column)\n"
             "    selected = Mul(scaled, kept_number)", BODY),
    Mutation("dropped is not selected in the body", f"{BODIES}/moe.py",
             "selected = Where(kept_column, scaled, float_zero)", "selected = Identity(scaled)",
             BODY),
    Mutation("policy legacy forgets the gate", f"{BODIES}/moe.py",
             "selected = Mul(answered, gate_column)", "selected = Identity(answered)", BODY),
    Mutation("slots are counted from one", f"{BODIES}/moe.py",
             "own_place = Add(first_slot, slot)", "own_place = Add(first_slot, queue)", BODY),
    Mutation("the loop reads the scales of another expert", f"{BODIES}/moe.py",
             "wo_scale_one = Gather <axis = 0> (wo_scale, number)",
             "wo_scale_one = Gather <axis = 0> (wo_scale, turn)", BODY),
    Mutation("gelu is approximated", f"{BODIES}/text.py",
             '"gelu": "{y} = Gelu({x})"',
             '"gelu": \'{y} = Gelu <approximate = "tanh"> ({x})\'', BODY),
    Mutation("the body activates the other half of gated values", f"{BODIES}/text.py",
             "{x}_first, {x}_second = Split", "{x}_second, {x}_first = Split", LINEAR),
    Mutation("PyTorch activates the other half of gated values", f"{MODEL}/layers.py",
             "first, factor = hidden.chunk(2, -1)", "factor, first = hidden.chunk(2, -1)", GATED),
    Mutation("the body reads the high four bits first", f"{BODIES}/text.py",
             "({y}_low_column, {y}_high_column)", "({y}_high_column, {y}_low_column)", LINEAR),
    Mutation("the high four bits are written first", QUANTIZE,
             "flat[:, 0::2] | flat[:, 1::2] << 4", "flat[:, 1::2] | flat[:, 0::2] << 4", STORED),
    Mutation("PyTorch reads the high four bits first", QUANTIZE,
             "torch.stack((values & 15, values >> 4), -1)",
             "torch.stack((values >> 4, values & 15), -1)", STORED),
    Mutation("all tokens are quantised alike", f"{BODIES}/text.py",
             "{y}_peak = Max({y}_largest, least_peak)",
             "{y}_all = ReduceMax <keepdims = 1> ({y}_largest)\n"
             "    {y}_peak = Max({y}_all, least_peak)", LINEAR),
    Mutation("halves are rounded up", f"{BODIES}/text.py",
             "{y}_rounded = Round({y}_exact)",
             "{y}_half = Constant <value_float = 0.5> ()\n    {y}_above = Add({y}_exact, {y}_half)"
             "\n    {y}_rounded = Floor({y}_above)", LINEAR),
    Mutation("tokens are not quantised at all", f"{BODIES}/text.py",
             "{y}_rounded = Round({y}_exact)", "{y}_rounded = Identity({y}_exact)", LINEAR),
    Mutation("int8 has one scale for each input", QUANTIZE,
             "scale = blocks.abs().amax(-1, keepdim=True) / 127",
             "scale = blocks.abs().amax(-2, keepdim=True)[..., :1] / 127", STORED),
    Mutation("int4 keeps to seven steps", QUANTIZE,
             "for full in (peak.abs() / 7, peak / -8):", "for full in (peak.abs() / 7,):", STORED),
    Mutation("a short last block is forgotten", f"{BODIES}/text.py",
             "{y}_scale = Slice({y}_joined, zero, {y}_inputs, one)",
             "{y}_last = Sub({y}_padded, {y}_inputs)\n"
             "    {y}_scale = Slice({y}_joined, {y}_last, {y}_padded, one)", LINEAR),
    Mutation("fp16 overflows silently", QUANTIZE, "if largest > limit:", "if False:", STORED),
    Mutation("the wrong scale is no error of verification", "exporter/switch_export/verify.py",
             "TOLERANCE = 5e-4", "TOLERANCE = 1e2", VERIFY),
    Mutation("any route is followed", "exporter/switch_export/verify.py",
             "TIE = 1e-5", "TIE = 2.0", VERIFY),
    Mutation("step 1 gives one sparse layer", "exporter/switch_export/config.py",
             "step > 0 and (step == 1 or i % step == 1)", "step > 0 and i % step == 1", CLASSES),
    Mutation("the head is never scaled", f"{MODEL}/decoder.py",
             "config.d_model**-0.5 if config.tie_word_embeddings else 1.0", "1.0", TRAPS),
    Mutation("the head is always scaled", f"{MODEL}/decoder.py",
             "config.d_model**-0.5 if config.tie_word_embeddings else 1.0",
             "config.d_model**-0.5", TRAPS),
    Mutation("the norm subtracts the mean", f"{MODEL}/layers.py",
             "return x, x / torch.sqrt(", "return x, (x - x.mean(-1, keepdim=True)) / torch.sqrt(",
             TRAPS),
    Mutation("epsilon outside the root", f"{MODEL}/layers.py",
             "torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)",
             "(torch.sqrt(x.pow(2).mean(-1, keepdim=True)) + self.epsilon)", TRAPS),
    Mutation("masks are infinite", f"{MODEL}/attention.py",
             "torch.finfo(torch.float32).min", 'float("-inf")', TRAPS),
    Mutation("cross-attention sees padding", f"{BODIES}/attention.py",
             "scores = MatMul(queries, columns)\n"
             "    allowed_scores = Where(attended, scores, lowest)",
             "allowed_scores = MatMul(queries, columns)", ATTENTION),
    Mutation("self-attention scores are scaled", f"{BODIES}/attention.py",
             "scores = Add(products, position_bias)\n    allowed_scores = Where(allowed,",
             "halved = Div(products, two_float)\n    scores = Add(halved, position_bias)\n"
             "    allowed_scores = Where(allowed,", GRAPHS),
    Mutation("every call starts at position 0", f"{BODIES}/attention.py",
             "query = Add(steps, position)", "query = Identity(steps)", GRAPHS),
    Mutation("new tokens see later ones", f"{BODIES}/attention.py",
             "causal = LessOrEqual(key_place, query_place)",
             "later = Add(query_place, one_scalar)\n    causal = LessOrEqual(key_place, later)",
             GRAPHS),
    Mutation("one row beyond the position is read", f"{BODIES}/attention.py",
             "stored_valid = Less(stored, position)",
             "stored_valid = LessOrEqual(stored, position)", GRAPHS),
    Mutation("far keys have the bias of the middle", f"{BODIES}/attention.py",
             "clamped = Clip(relative, near, far)",
             "clamped = Mod(relative, far)", ATTENTION),
]

PLUGIN = ("tests/test_plugin.py",)
NATIVE = [
    Mutation("a dropped token is multiplied, not selected", "plugins/core/moe.cc",
             "std::fill(y, y + columns, 0.0f);",
             "for (int64_t i = 0; i < columns; ++i) y[i] *= 0.0f;", PLUGIN),
    Mutation("the gate is forgotten by the kernel", "plugins/core/moe.cc",
             "y[i] *= gate;", "y[i] *= 1.0f;", PLUGIN),
    Mutation("the kernel activates the other half of gated values", "plugins/core/moe.cc",
             "float* h = own.y + own.tokens[i] * own.y_stride + first;",
             "float* h = own.y + own.tokens[i] * own.y_stride + first;\n"
             "      if (a.is_gated) std::swap_ranges(h, h + (last - first), h + d_ff);", PLUGIN),
    Mutation("int4 codes are not centred", "plugins/core/cpu/rows.h",
             "std::memset(eights, 8, sizeof eights);", "std::memset(eights, 7, sizeof eights);",
             PLUGIN),
    Mutation("a token's scale is that of 128 steps", "plugins/core/cpu/rows.h",
             "header->scale = amax / 127.0f;", "header->scale = amax / 128.0f;", PLUGIN),
    Mutation("the router keeps one token too many", "plugins/core/norm.cc",
             "> a.capacity", "> a.capacity + 1", PLUGIN),
    Mutation("beams attend to the wrong source", "plugins/core/attention.cc",
             "const float* q = a.q + b * queries * width + h * a.size;",
             "const float* q = a.q + (a.batch - 1 - b) * queries * width + h * a.size;", PLUGIN),
    Mutation("new keys are seen before their turn", "plugins/core/attention.cc",
             "context.kernels.softmax(row, query + 1);", "context.kernels.softmax(row, keys);",
             PLUGIN),
]
