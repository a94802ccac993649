#!/usr/bin/env ruby
# frozen_string_literal: true

# What Ruby has beside the conformance suite, with a daemon at SIDELOCK_SOCKET: the gem redlock's interface, Timeout, and threads
# that are killed.
require "sidelock/redlock"
require "timeout"

def check(what)
  return if what
  warn "#{caller_locations(1, 1).first}: not so"
  exit 1
end

def raises(kind)
  yield
  false
rescue kind
  true
end

def waiting(name)
  Sidelock.client.call("inspect", name: name)["waiting"].to_i
end

manager = Sidelock::Redlock.new(["redis://nowhere:1"], retry_count: 0)
other = Sidelock::Redlock.new([], retry_count: 0, client: Sidelock::Client.new)

info = manager.lock("resource", 60_000)
check info[:resource] == "resource" && info[:value].is_a?(String) && info[:token].is_a?(Integer)
check info[:validity] > 50_000 && info[:validity] <= 60_000
check other.lock("resource", 1000) == false && manager.lock("resource", 1000) == false
check other.locked?("resource") && manager.valid_lock?(info)
check manager.get_remaining_ttl_for_lock(info).between?(50_000, 60_000)
longer = manager.lock("resource", 120_000, extend: info)
check longer[:value] == info[:value] && longer[:validity] > 100_000
manager.unlock(info)
check !other.locked?("resource") && !manager.valid_lock?(info) && manager.get_remaining_ttl_for_lock(info).nil?
check manager.unlock(info).nil?
check manager.lock("resource", 1000, extend: info, extend_only_if_locked: true) == false

again = manager.lock("resource", 60_000, extend: info)
check again && again[:token] > info[:token]
manager.unlock(again)

seen = nil
check manager.lock("block", 60_000) { |one| seen = one && other.lock("block", 1000) } == true && seen == false
check !other.locked?("block")
check raises(RuntimeError) { manager.lock("block", 60_000) { raise "of the block" } } && !other.locked?("block")
check manager.lock!("block", 60_000) { other.locked?("block") } == true
held = other.lock("block", 60_000)
check manager.lock("block", 60_000) { |one| seen = one } == false && seen == false
check raises(Sidelock::Redlock::LockError) { manager.lock!("block", 1000) { check false } }
other.unlock(held)

# A hold ends after its ttl, and a wait has the lock then.
short = other.lock("ttl", 300)
patient = Sidelock::Redlock.new([], retry_count: 100, retry_delay: ->(attempt) { attempt * 1000 })
next_one = patient.lock("ttl", 60_000)
check next_one && next_one[:token] > short[:token]
# Whoever had it is told beside that.
deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 30
sleep 0.01 while other.valid_lock?(short) && Process.clock_gettime(Process::CLOCK_MONOTONIC) < deadline
check !other.valid_lock?(short)
patient.unlock(next_one)

# The client's own block.
check Sidelock.with_lock("with", wait: 5) { |lock| lock.token.positive? && other.locked?("with") } == true
check !other.locked?("with")

# A wait that Timeout ends, or whose thread is killed, is withdrawn.
taken = other.lock("slow", 600_000)
check raises(Timeout::Error) { Timeout.timeout(0.2) { Sidelock.lock("slow") } }
Thread.pass until waiting("slow").zero?
thread = Thread.new { Sidelock.lock("slow") }
Thread.pass until waiting("slow") == 1
thread.kill.join
Thread.pass until waiting("slow").zero?
other.unlock(taken)
check Sidelock.lock("slow", wait: 5).held?

# At any moment: no hold is left behind, neither of a block nor of a lock that was not given yet.
Thread.report_on_exception = false
names, hits = %w[storm-0 storm-1 storm-2], 0
finish = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 3
round = 0
while Process.clock_gettime(Process::CLOCK_MONOTONIC) < finish
  name = names[(round += 1) % 3]
  victim = Thread.new do
    # Who takes a lock without a block looks after it himself from then on.
    Thread.handle_interrupt(Object => :on_blocking) do
      if round.odd?
        Sidelock.lock(name) { Thread.pass }
      else
        lock = Sidelock.lock(name)
        lock.release
      end
    end
  end
  sleep rand / 1000
  hits += 1 if victim.alive?
  round % 5 == 0 ? victim.kill : victim.raise(RuntimeError, "stop")
  begin
    victim.join
  rescue RuntimeError => stop
    check stop.message == "stop"
  end
end
check hits > 0
deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 30
until Sidelock.client.call("list", prefix: "storm-")["locks"].empty?
  check Process.clock_gettime(Process::CLOCK_MONOTONIC) < deadline
  sleep 0.01
end
