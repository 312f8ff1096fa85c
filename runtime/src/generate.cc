#include "generate.h"

#include <algorithm>

#include "batches.h"
#include "error.h"
#include "memory.h"

namespace switch_runtime {
namespace {

class Call {
 public:
  Call(Backend& backend, const Config& config, const TokenLists& lists,
       const SearchOptions& options)
      : backend_(backend), config_(config), lists_(lists), options_(options) {}

  Generated run() {
    std::vector<RowCost> costs;
    for (int64_t i = 0; i < lists_.batch; ++i) {
      const Lengths lengths = lengths_of(i);
      const double target = double(options_.rows_per_source()) * double(lengths.limit);
      const auto most = static_cast<int64_t>(std::min(target, 1e15));
      costs.push_back({lists_.rows[i].count, most, lengths.prefix});
    }
    const auto batches = plan_batches(costs, options_.max_batch_tokens);
    for (const auto& batch : batches) check_demand(batch);
    result_.sequences.resize(static_cast<size_t>(lists_.batch * options_.num_return_sequences));
    for (const auto& batch : batches) run_batch(batch);
    return std::move(result_);
  }

 private:
  Lengths lengths_of(int64_t source) const {
    const auto prefix = static_cast<int64_t>(options_.prefix_of(source).size());
    return {prefix, options_.length_limit(prefix)};
  }

  void check_demand(const std::vector<int64_t>& batch) const {
    const Lengths lengths = lengths_of(batch[0]);
    int64_t width = 0;
    for (int64_t i : batch) width = std::max(width, lists_.rows[i].count);
    // Rows may overflow int64 only for demands that no machine meets.
    const double rows = double(batch.size()) * double(options_.rows_per_source());
    const std::string what = "decoding a batch of " + std::to_string(batch.size()) + " with " +
                             std::to_string(options_.rows_per_source()) +
                             " beams (or sequences) and up to " +
                             std::to_string(lengths.most_new()) + " new tokens";
    const double step = decoder_demand(config_, {1, 1, lengths.limit, width});
    const double first = decoder_demand(config_, {1, lengths.prefix, 0, width});
    // A cache that grows is there twice for a moment.
    check_memory(what, 2 * rows * step + double(batch.size()) * first,
                 "Lower max_new_tokens or num_beams, shorten decoder_input_ids, or lower "
                 "max_batch_tokens.");
  }

  void run_batch(const std::vector<int64_t>& batch) {
    options_.listener.check_cancelled();
    const Sources sources = make_sources(config_, lists_, batch);
    const Lengths lengths = lengths_of(batch[0]);
    DecoderPlan plan = {{}, lengths.prefix, options_.rows_per_source(), lengths.limit};
    std::vector<Item> items;
    for (int64_t i : batch) {
      const switch_ids& ids = lists_.rows[i];
      items.push_back({i, {ids.ids, ids.ids + ids.count}, options_.prefix_of(i)});
      const auto& prefix = items.back().prefix;
      plan.prefixes.insert(plan.prefixes.end(), prefix.begin(), prefix.end());
    }
    Decoder decoder(backend_, config_, sources, std::move(plan));
    SearchContext context(config_, options_, std::move(items), lengths);
    context.on_finished = [this](int64_t source, std::vector<Sequence> sequences) {
      std::move(sequences.begin(), sequences.end(),
                result_.sequences.begin() + source * options_.num_return_sequences);
      options_.listener.progress(++done_, lists_.batch);
    };
    options_.num_beams == 1 ? sample(decoder, context) : beam_search(decoder, context);
    result_.steps += decoder.steps();
  }

  Backend& backend_;
  const Config& config_;
  const TokenLists& lists_;
  const SearchOptions& options_;
  Generated result_;
  int64_t done_ = 0;
};

}  // namespace

Generated generate(Backend& backend, const Config& config, const TokenLists& lists,
                   const SearchOptions& options) {
  if (config.task != Task::kSeq2Seq) {
    throw Error(SWITCH_INVALID_ARGUMENT, config.directory + " was exported with --task " +
                                             name_of(config.task) +
                                             ", generate needs --task seq2seq");
  }
  if (!config.unknown_generation.empty()) {
    throw Error(SWITCH_INVALID_ARGUMENT,
                list_problems(config.directory + "/switch.json has generation defaults that this "
                                                 "version does not know; remove them there",
                              config.unknown_generation));
  }
  options.listener.check_cancelled();
  check_lists(config, "source", lists);
  return Call(backend, config, lists, options).run();
}

}  // namespace switch_runtime
