#include "server/engine.h"

#include <utility>

namespace tenfold {

std::optional<Channel::Item> Channel::next(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  news_.wait_for(lock, patience, [&] { return !items_.empty() || open_ == 0; });
  if (items_.empty()) return std::nullopt;
  Item item = std::move(items_.front());
  items_.pop_front();
  return item;
}

bool Channel::done() {
  const std::scoped_lock lock(mutex_);
  return open_ == 0 && items_.empty();
}

void Channel::push(std::size_t index, GenerationEvent event) {
  const std::scoped_lock lock(mutex_);
  if (event.finish || event.error) --open_;
  items_.push_back({index, std::move(event)});
  news_.notify_one();
}

Engine::Engine(const Model& model, Workspace& ws, const Tokenizer& tokenizer,
               const EngineOptions& options)
    : scheduler_(model, ws, tokenizer, options.scheduler),
      room_(options.queue + static_cast<std::size_t>(options.scheduler.parallel)),
      thread_([this] { run(); }) {}

Engine::~Engine() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    work_.notify_one();
  }
  thread_.join();
}

std::shared_ptr<Channel> Engine::generate(std::vector<GenerationRequest> requests) {
  std::vector<Work> work;
  for (GenerationRequest& request : requests) {
    scheduler_.check(request);
    work.push_back({std::move(request), false, {}});
  }
  return enqueue(std::move(work));
}

std::shared_ptr<Channel> Engine::embed(std::vector<std::vector<TokenId>> prompts) {
  std::vector<Work> work;
  for (std::vector<TokenId>& prompt : prompts) {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    scheduler_.check(request);
    work.push_back({std::move(request), true, {}});
  }
  return enqueue(std::move(work));
}

std::shared_ptr<Channel> Engine::enqueue(std::vector<Work> work) {
  auto channel = std::make_shared<Channel>(work.size());
  const std::scoped_lock lock(mutex_);
  if (stopping_ || open_ + work.size() > room_) return nullptr;
  open_ += work.size();
  for (std::size_t i = 0; i < work.size(); ++i) {
    work[i].client = client_of(channel, i);
    incoming_.push_back(std::move(work[i]));
  }
  work_.notify_one();
  return channel;
}

// Its functions run on the engine's thread, within a step.
GenerationClient Engine::client_of(const std::shared_ptr<Channel>& channel, std::size_t index) {
  using Clock = std::chrono::steady_clock;
  GenerationClient client;
  client.is_cancelled = [channel] { return channel->cancelled(); };
  client.on_event = [this, channel, index, asked = Clock::now(),
                     spoken = false](GenerationEvent event) mutable {
    const double seconds = std::chrono::duration<double>(Clock::now() - asked).count();
    const bool ends = event.finish || event.error;
    {
      const std::scoped_lock lock(mutex_);
      if (!spoken && event.usage.generated_tokens > 0) {
        stats_.first_token.add(seconds);
        spoken = true;
      }
      if (ends) {
        stats_.generation.add(seconds);
        --open_;
      }
    }
    channel->push(index, std::move(event));
  };
  return client;
}

// A grammar beyond its limits shows only here; whatever goes wrong is the request's end, not the
// server's.
void Engine::start(Work work) {
  const GenerationClient client = work.client;
  try {
    if (work.embeds) {
      scheduler_.embed(std::move(work.request.prompt), std::move(work.client));
    } else {
      scheduler_.submit(std::move(work.request), std::move(work.client));
    }
  } catch (const std::exception& error) {
    GenerationEvent event;
    event.error = failure_of(error);
    client.on_event(std::move(event));
  }
}

void Engine::run() {
  bool busy = false;
  while (true) {
    std::deque<Work> taken;
    std::optional<FinishReason> end;
    {
      std::unique_lock lock(mutex_);
      if (!busy) work_.wait(lock, [&] { return stopping_ || end_all_ || !incoming_.empty(); });
      taken.swap(incoming_);
      end = std::exchange(end_all_, std::nullopt);
      if (stopping_) end = FinishReason::cancelled;
    }
    for (Work& work : taken) start(std::move(work));
    try {
      if (end) scheduler_.end_all(*end);
      busy = scheduler_.step();
    } catch (const std::exception& error) {
      scheduler_.fail_all(failure_of(error));
    }
    const std::scoped_lock lock(mutex_);
    stats_.scheduler = scheduler_.stats();
    if (stopping_ && incoming_.empty()) return;
  }
}

void Engine::end_all(FinishReason reason) {
  const std::scoped_lock lock(mutex_);
  end_all_ = reason;
  work_.notify_one();
}

std::size_t Engine::open() const {
  const std::scoped_lock lock(mutex_);
  return open_;
}

EngineStats Engine::stats() const {
  const std::scoped_lock lock(mutex_);
  EngineStats stats = stats_;
  stats.scheduler.waiting += static_cast<std::int64_t>(incoming_.size());
  return stats;
}

}  // namespace tenfold
