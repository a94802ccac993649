# frozen_string_literal: true

require_relative "../sidelock"

module Sidelock
  # What Redlock::Client of the gem redlock looks like, times in milliseconds; `Sidelock::Redlock.new` stands in its place. A hold
  # ends after its ttl, also here, unless it is extended. Where to find Redis is the daemon's business.
  class Redlock
    DEFAULT_RETRY_COUNT = 3
    DEFAULT_RETRY_DELAY = 200
    DEFAULT_RETRY_JITTER = 50

    # Raised by `lock!`. Programs that have the gem, too, may go on rescuing its own.
    class LockError < (defined?(::Redlock::LockError) ? ::Redlock::LockError : StandardError); end

    # Holds by resource and value: whoever has the lock info may unlock it, also by another object of this process.
    @holds, @mutex = {}, Mutex.new
    class << self
      def hold(info)
        @mutex.synchronize { @holds[info.values_at(:resource, :value)] }
      end

      def keep(info, lock)
        @mutex.synchronize { @holds[info.values_at(:resource, :value)] = lock }
      end

      def forget(info)
        @mutex.synchronize { @holds.delete(info.values_at(:resource, :value)) }
      end
    end

    # `servers` is taken, and not needed. Options: `retry_count` and `retry_delay` say for how long to wait: as long as the gem would
    # try, but the lock is had as soon as it is free. `client`: a Sidelock::Client, in the place of the one that all use.
    def initialize(_servers = [], options = {})
      count = options.fetch(:retry_count, DEFAULT_RETRY_COUNT)
      delay = options.fetch(:retry_delay, DEFAULT_RETRY_DELAY)
      jitter = options.fetch(:retry_jitter, DEFAULT_RETRY_JITTER)
      # The gem's delay may be computed for each attempt.
      @wait = count.times.sum { |attempt| (delay.respond_to?(:call) ? delay.call(attempt + 1) : delay) + jitter } / 1000.0
      @client = options.fetch(:client) { Sidelock.client }
    end

    # The lock info, `{ validity:, resource:, value:, token: }`, or false where the lock cannot be had. With a block gives the info, or
    # false, to that, unlocks afterwards, and tells whether the lock was had. `extend`: a lock info, whose hold ends after the ttl from
    # now on; where it is not held any more, the lock is taken anew, unless `extend_only_if_locked`.
    def lock(resource, ttl, options = {})
      info = options[:extend] ? extend_or_take(resource, ttl, options) : take(resource, ttl)
      return info unless block_given?
      begin
        yield info
        !!info
      ensure
        unlock(info) if info
      end
    end

    # Runs the block while the lock is held, and gives the block's value. Raises LockError where it cannot be had.
    def lock!(resource, *arguments)
      raise ArgumentError, "no block was given" unless block_given?
      lock(resource, *arguments) do |info|
        raise LockError, "the lock on #{resource} cannot be had" unless info
        return yield
      end
    end

    # Whether it could be unlocked is told to nobody, as by the gem.
    def unlock(info)
      Redlock.forget(info)&.release
    rescue Sidelock::Error
      nil
    end

    # Whether anybody holds it, on whatever host.
    def locked?(resource)
      !@client.call("inspect", name: resource)["holders"].empty?
    end

    def valid_lock?(info)
      Redlock.hold(info)&.held? || false
    end

    # For how many milliseconds the hold lasts; nil: it is not held.
    def get_remaining_ttl_for_lock(info)
      return nil unless valid_lock?(info)
      [((Redlock.hold(info).redlock_ends - Sidelock.now) * 1000).floor, 0].max
    end

    private

    def take(resource, ttl)
      started = Sidelock.now
      # Without an owner, as with Redis: who has it already waits for himself.
      lock = @client.lock(resource, wait: @wait, max_hold: ttl / 1000.0, owner: nil)
      info = { validity: ttl, resource: resource, value: "#{lock.session}-#{lock.token}", token: lock.token }
      lock.redlock_ends = started + ttl / 1000.0
      lock.on_lost = ->(_) { Redlock.forget(info) }
      Redlock.keep(info, lock)
      info.merge(validity: [((lock.redlock_ends - Sidelock.now) * 1000).floor, 0].max)
    rescue Busy, Timeout
      false
    end

    def extend_or_take(resource, ttl, options)
      info = options[:extend]
      lock = Redlock.hold(info)
      started = Sidelock.now
      raise Sidelock.error("not_held", "lock #{resource} is not held here") unless lock
      lock.extend_hold(ttl / 1000.0)
      lock.redlock_ends = started + ttl / 1000.0
      info.merge(validity: [((lock.redlock_ends - Sidelock.now) * 1000).floor, 0].max)
    rescue Lost, NotHeld
      options[:extend_only_if_locked] || options[:extend_only_if_life] ? false : take(resource, ttl)
    end
  end

  class Lock
    # When a hold with a ttl ends, by Sidelock.now.
    attr_accessor :redlock_ends

    # The daemon's name for the session that holds it.
    def session
      @connection.session
    end
  end
end
