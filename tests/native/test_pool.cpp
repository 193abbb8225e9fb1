// The team of threads: every thread runs, barriers hold, idle teams sleep, many teams live side by side.
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "check.hpp"
#include "threads/pool.hpp"

using namespace martlet;

TEST(phases_see_what_was_written_before_the_barrier) {
  for (int size : {1, 2, 3, 5}) {
    Team team(size);
    std::vector<int> written(size_t(size) * 16);  // plain numbers: ThreadSanitizer sees a barrier that is none
    for (int round = 1; round <= 20; ++round) {
      std::atomic<int> wrong{0};
      team.run([&](int thread) {
        for (int phase = 0; phase < 5; ++phase) {
          written[size_t(thread) * 16] = round * 10 + phase;
          team.meet(thread);
          for (int other = 0; other < size; ++other)
            if (written[size_t(other) * 16] != round * 10 + phase) ++wrong;
          team.meet(thread);
        }
      });
      CHECK(wrong == 0);
    }
  }
}

TEST(what_is_done_alone_is_done_once_after_all_came_and_before_any_goes_on) {
  for (int size : {1, 2, 3}) {
    Team team(size);
    int before = 0, alone = 0, wrong = 0;
    std::vector<int> came(size_t(size) * 16);
    team.run([&](int thread) {
      for (int phase = 1; phase <= 50; ++phase) {
        came[size_t(thread) * 16] = phase;
        team.meet(thread, [&] {
          for (int other = 0; other < size; ++other) wrong += came[size_t(other) * 16] != phase;
          ++alone;
        });
        if (thread == 0) before += alone == phase;
        team.meet(thread);
      }
    });
    CHECK(alone == 50 && before == 50 && wrong == 0);
  }
}

TEST(teams_of_several_callers_do_not_disturb_each_other) {
  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c)
    callers.emplace_back([&] {
      for (int life = 0; life < 3; ++life) {
        Team team(2);
        for (int round = 0; round < 10; ++round) team.run([&](int) { ++total; });
      }
    });
  for (auto& caller : callers) caller.join();
  CHECK(total == 3 * 3 * 10 * 2);
}

TEST(an_idle_team_takes_no_processor_time) {
  Team team(3);
  team.run([](int) {});
  usleep(20000);  // past the spinning
  timespec before, after;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  usleep(100000);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  double used = double(after.tv_sec - before.tv_sec) + 1e-9 * double(after.tv_nsec - before.tv_nsec);
  CHECK(used < 0.05);
}

#if !defined(__SANITIZE_THREAD__)  // ThreadSanitizer does not follow threads made after a fork
TEST(a_forked_process_makes_its_own_threads) {
  if (std::getenv("MARTLET_EMULATED")) return;  // qemu's user mode has no threads after a fork
  Team team(2);
  team.run([](int) {});
  pid_t child = fork();
  if (child == 0) {
    std::atomic<int> ran{0};
    team.run([&](int) { ++ran; });
    _exit(ran == 2 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  std::atomic<int> ran{0};
  team.run([&](int) { ++ran; });
  CHECK(ran == 2);
}
#endif

TEST(a_thread_stays_away_while_it_keeps_the_others_waiting) {
  Attendance both(2);
  double time = 0;
  auto job = [&](double waited) {
    int threads = both.next(time);
    time += 0.01;
    both.ended(time, 0.01, threads == 1 ? 0 : 0.01 * waited);
    return threads;
  };
  for (int i = 0; i < 100; ++i) CHECK(job(i % 5 ? 0.1 : 0.6) == 2);  // now and then is no reason
  while (job(0.6) == 2) CHECK(time < 1.1);
  int away = 1, tried = 0;
  for (; time < 10; job(0.6) == 2 ? ++tried : ++away) {
  }
  CHECK(tried > 3 && away > 10 * tried);  // trials grow rare
  while (job(0) == 1) CHECK(time < 12);
  for (int i = 0; i < 100; ++i) CHECK(job(0) == 2);
}

TEST(one_thread_is_never_too_many) {
  Attendance alone(1);
  for (int i = 0; i < 20; ++i) {
    CHECK(alone.next(i) == 1);
    alone.ended(i + 0.5, 0.5, 0.5);
  }
}

TEST(a_job_is_shared_by_its_threads_at_most_and_one_at_least) {
  Team team(3);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> ran{0}, callers{0};
    team.share([&](int thread) {
      ++ran;
      callers += thread == 0;
      team.meet(thread);
    });
    CHECK(callers == 1 && ran >= 1 && ran <= 3);
  }
}

TEST(processors_are_counted) { CHECK(available_processors() >= 1); }
