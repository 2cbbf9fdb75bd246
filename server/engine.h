#pragma once
// The thread that owns a model and its cache. Others hand it work and wait for its events; the
// queue in between is bounded.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "runtime/scheduler.h"
#include "server/histogram.h"

namespace tenfold {

// What comes of one request: the events of its generations, in the order they happen.
class Channel {
 public:
  explicit Channel(std::size_t generations) : open_(generations) {}

  struct Item {
    std::size_t index = 0;  // which generation
    GenerationEvent event;
  };
  // The next event, waiting so long at most for one.
  std::optional<Item> next(std::chrono::milliseconds patience);
  // Whether all generations have ended and all events were taken.
  bool done();
  // Ends the generations within a step; their last events need not be awaited.
  void cancel() noexcept { cancelled_ = true; }
  bool cancelled() const noexcept { return cancelled_; }

  void push(std::size_t index, GenerationEvent event);  // the engine's

 private:
  std::mutex mutex_;
  std::condition_variable news_;
  std::deque<Item> items_;
  std::size_t open_;
  std::atomic<bool> cancelled_ = false;
};

struct EngineOptions {
  SchedulerOptions scheduler;
  std::size_t queue = 128;  // generations that may wait
};

struct EngineStats {
  SchedulerStats scheduler;
  Histogram first_token;  // seconds from asking to the first token
  Histogram generation;   // seconds from asking to the end
};

class Engine {
 public:
  // The model, workspace and tokenizer outlive the engine and are its alone.
  Engine(const Model& model, Workspace& ws, const Tokenizer& tokenizer,
         const EngineOptions& options);
  ~Engine();  // ends what runs

  // Throw bad_request as Scheduler::check() does, before anything is queued; null where the queue
  // has no room for all of them.
  std::shared_ptr<Channel> generate(std::vector<GenerationRequest> requests);
  std::shared_ptr<Channel> embed(std::vector<std::vector<TokenId>> prompts);

  // Ends all there is with the reason.
  void end_all(FinishReason reason);
  std::size_t open() const;                            // generations that have not ended
  std::size_t room() const noexcept { return room_; }  // and that there may be at most
  EngineStats stats() const;
  std::int64_t context() const noexcept { return scheduler_.context(); }
  std::size_t longest_token() const noexcept { return scheduler_.pieces().max_depth(); }  // bytes

 private:
  struct Work {
    GenerationRequest request;
    bool embeds = false;
    GenerationClient client;
  };
  std::shared_ptr<Channel> enqueue(std::vector<Work> work);
  GenerationClient client_of(const std::shared_ptr<Channel>& channel, std::size_t index);
  void start(Work work);
  void run();

  Scheduler scheduler_;
  std::size_t room_;  // generations at most, running and waiting
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Work> incoming_;
  std::size_t open_ = 0;
  std::optional<FinishReason> end_all_;
  bool stopping_ = false;
  EngineStats stats_;
  std::thread thread_;
};

}  // namespace tenfold
